# SPDX-License-Identifier: Apache-2.0
"""Kernels of x86 instructions that this machine lacks: the C++ tests of kernels and operators, instructions emulated."""
import os
import platform

from checkout import BUILD
from rows import X86
from suites import Session

LABEL = "emulated_x86"


def _why_not() -> str:
    if platform.machine() not in ("x86_64", "AMD64"):
        return "this machine is no x86"
    if not (BUILD / "release" / "tests" / "emulation" / "gemm_test_emulated").exists():
        return "the emulation was not built (it needs libsimde-dev and g++)"
    return ""


def run(session: Session, isas: list[str]) -> None:
    """Every ISA above AVX2 that the machine's `isas` lack; QGMM_EMULATE_ALL=1: those it has too."""
    everything = os.environ.get("QGMM_EMULATE_ALL") == "1"
    lacking = [isa for isa in X86[1:] if everything or isa not in isas]
    why_not = _why_not()
    if not why_not and "avx2" not in isas:
        why_not = "emulated instructions need AVX2"
    for isa in lacking:
        if why_not:
            session.rows.why_not[isa] = why_not
        else:
            session.ctest(f"C++ tests, {isa} emulated", "release", label=LABEL, emulated=X86[1:], QGMM_MAX_ISA=isa,
                          QGMM_TEST_EMULATED=isa, QGMM_TEST_SMALL="1")
    if why_not and lacking:
        session.notes.append(f"{', '.join(lacking)} emulated: {why_not}")
