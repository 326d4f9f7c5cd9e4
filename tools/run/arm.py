# SPDX-License-Identifier: Apache-2.0
"""64-bit Arm on another machine: Debian's cross compiler, GoogleTest from its sources, the tests under qemu-user."""
import platform
import shutil
from pathlib import Path

import debian
import toolchain
from build import build, jobs
from checkout import Failure, set_up_lock
from suites import Session

ISAS = ("neon", "neondot", "neoni8mm")
EMULATED = ("scalar", *ISAS)  # the whole machine
COMPILER = "aarch64-linux-gnu-g++"
PACKAGES = {"g++-aarch64-linux-gnu": COMPILER, "qemu-user": "qemu-aarch64",
            "googletest": "/usr/src/googletest/CMakeLists.txt"}
# Cores that lack instructions, which stop a program there; and the tests of what they lack.
LESSER = {"neoverse-n1": "-*neoni8mm*:*NeonI8mm*", "cortex-a72": "-*neoni8mm*:*NeonI8mm*:*neondot*"}


def _why_not() -> str:
    """Installs what is missing; empty, or the reason why Arm is left out."""
    if platform.machine() == "aarch64":
        return "this machine is one, so the other suites are Arm's"
    missing = [package for package, file in PACKAGES.items() if not shutil.which(file) and not Path(file).is_file()]
    if not missing:
        return ""
    if not debian.allowed():
        return f"{', '.join(missing)} must be installed{debian.remedy(missing)}"
    try:
        debian.install(missing)
    except Failure:
        return f"{', '.join(missing)} could not be installed"
    return ""


class Arm:
    """What ./run test does for 64-bit Arm: built with the set-up, run with the other suites."""

    def __init__(self):
        with set_up_lock():
            self.why_not = _why_not()
            if not self.why_not:
                build("aarch64", toolchain.look_at(COMPILER), targets=("emulated_tests",))

    def run(self, session: Session) -> None:
        if self.why_not:
            session.notes.append(f"64-bit Arm under qemu: {self.why_not}")
            session.rows.why_not.update(dict.fromkeys(ISAS, self.why_not.splitlines()[0]))
            return
        settings = {"QGMM_TEST_SMALL": "1", "QGMM_TEST_EMULATED": ",".join(ISAS),
                    "CTEST_PARALLEL_LEVEL": str(jobs())}
        session.ctest("64-bit Arm under qemu", "aarch64", label="emulated", emulated=EMULATED, QEMU_CPU="max", **settings)
        for cpu, others in LESSER.items():
            session.ctest(f"64-bit Arm under qemu, {cpu}", "aarch64", label="kernels", emulated=EMULATED, QEMU_CPU=cpu,
                          GTEST_FILTER=others, **settings)


def compile_by(clang: toolchain.Compiler, session: Session) -> None:
    """The second compiler, with warnings as errors."""
    with set_up_lock():
        if why_not := _why_not():
            session.notes.append(f"64-bit Arm compiled by clang: {why_not}")
        else:
            build("aarch64-clang", clang, targets=("qgmm_core",))
