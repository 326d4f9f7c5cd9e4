# SPDX-License-Identifier: Apache-2.0
"""Tests under sanitizers. Clang builds everything for address and undefined behaviour, which also makes it the second
compiler with warnings as errors; g++ builds the PyTorch door, as its runtime can be preloaded into any Python."""
import shutil
from pathlib import Path

import arm
import debian
import toolchain
from build import build
from checkout import BUILD, ROOT, STATE, VENV_PYTHON, Failure, set_up_lock
from environment import torch_include
from steps import output_of
from suites import Session

ASAN = "detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1:max_allocation_size_mb=8192"
UBSAN = "print_stacktrace=1"
LEAKS = f"print_suppressions=0:suppressions={ROOT / 'tests' / 'sanitizers' / 'leaks.txt'}"
# Those that tests/CMakeLists.txt labels "threads".
THREADS = ("meanwhile_test", "numa_test", "queue_test", "run_test", "team_test")
FUZZ = ROOT / "tests" / "python" / "test_fuzz.py"


def _first(kind: str, names: list[str]) -> toolchain.Compiler | None:
    seen = (toolchain.look_at(name) for name in names if shutil.which(name))
    return next((compiler for compiler in seen if compiler and compiler.kind == kind and compiler.good), None)


def _clang() -> toolchain.Compiler:
    """A clang with its sanitizer runtime (and OpenMP, so that this team is compiled by it too)."""
    found = _first("clang", [*(f"clang++-{v}" for v in range(24, 13, -1)), "clang++"])
    if found is None:
        debian.install(["clang"])
        found = toolchain.look_at("clang++")
        if found is None or not found.good:
            raise Failure(f"the sanitizers need clang >= 14; found {found}")
    runtime = output_of([found.command, "-print-file-name=libclang_rt.asan-x86_64.a"]) or ""
    other = output_of([found.command, "--print-runtime-dir"]) or ""
    if not Path(runtime).is_absolute() and not list(Path(other).glob("libclang_rt.asan*")):
        debian.install([f"libclang-rt-{found.major}-dev"])
    if debian.allowed() and not Path(f"/usr/lib/llvm-{found.major}/lib/libomp.so").exists():
        debian.install([f"libomp-{found.major}-dev"])
    return found


def _gcc() -> toolchain.Compiler:
    """A g++, whatever CXX says: the preloaded runtime must be the compiler's own."""
    found = _first("g++", ["g++", *(f"g++-{v}" for v in range(20, 11, -1))])
    if found is None:
        raise Failure(f"the sanitized door needs g++ >= {toolchain.OLDEST['g++']}")
    return found


def _sanitized_package(gcc: toolchain.Compiler) -> Path:
    """python/qgmm beside a _torch.so with the address sanitizer, to go first on PYTHONPATH."""
    folder = build("asan-door", gcc, targets=("qgmm_torch",), QGMM_TORCH_INCLUDE=torch_include())
    stage = STATE / "sanitized"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(ROOT / "python" / "qgmm", stage / "qgmm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(folder / "torch" / "_torch.so", stage / "qgmm")
    return stage


def run_all() -> int:
    session = Session()
    with set_up_lock():
        clang = _clang()
        build("asan", clang)
        build("tsan", clang, targets=THREADS)
        gcc = _gcc()
        stage = _sanitized_package(gcc)
    arm.compile_by(clang, session)
    if (BUILD / "release" / "compile_commands.json").exists():
        tool = ROOT / "tools" / "check_spills.py"
        session.check("inner loops as clang compiles them",
                      [VENV_PYTHON, tool, BUILD / "release", BUILD / "aarch64-clang", clang.command])
    else:
        session.notes.append("inner loops as clang compiles them: ./run test has not set up build/release")
    # The thread sanitizer of older compilers fails under wide address randomisation.
    no_randomisation = ("setarch", "-R") if shutil.which("setarch") else ()
    session.ctest("C++ tests, address and undefined sanitizers", "asan", ASAN_OPTIONS=ASAN, UBSAN_OPTIONS=UBSAN,
                  LSAN_OPTIONS=LEAKS, QGMM_TEST_SMALL="1", OMP_NUM_THREADS="2")
    session.ctest("threads, thread sanitizer", "tsan", label="threads", wrapper=no_randomisation,
                  TSAN_OPTIONS="halt_on_error=1", QGMM_TEST_SMALL="1")
    preload = [output_of([gcc.command, f"-print-file-name={name}"]) for name in ("libasan.so", "libstdc++.so.6")]
    session.pytest("Python fuzz, sanitized door", [FUZZ], PYTHONPATH=str(stage), LD_PRELOAD=":".join(preload),
                   ASAN_OPTIONS=f"{ASAN}:detect_leaks=0", UBSAN_OPTIONS=UBSAN, QGMM_TEST_SMALL="1")
    return session.close()
