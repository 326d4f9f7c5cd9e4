# SPDX-License-Identifier: Apache-2.0
"""The C++ compiler, CMake and Ninja: what the machine has where that will do, else Debian's g++ and pip's CMake."""
import glob
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import debian
from checkout import Failure, child_environment
from steps import output_of

OLDEST = {"g++": 12, "clang": 14}
RULE = "qgmm needs g++ >= 12 or clang >= 14 (CXX=... names one)"
CMAKE, NINJA = (3, 25), (1, 10)


@dataclass(frozen=True)
class Compiler:
    command: str
    kind: str  # "g++" or "clang"
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    @property
    def good(self) -> bool:
        return self.major >= OLDEST[self.kind]

    def __str__(self) -> str:
        return f"{self.kind} {self.version}"


def look_at(command: str) -> Compiler | None:
    macros = output_of([*command.split(), "-x", "c++", "-dM", "-E", "/dev/null"])
    if macros is None:
        return None
    values = dict(line.split(" ", 2)[1:] for line in macros.splitlines() if len(line.split(" ", 2)) == 3)
    if "__clang__" in values:
        return Compiler(command, "clang", f"{values['__clang_major__']}.{values['__clang_minor__']}")
    if "__GNUC__" in values:
        return Compiler(command, "g++", f"{values['__GNUC__']}.{values['__GNUC_MINOR__']}")
    return None


def find_compiler() -> Compiler | None:
    """CXX if it is set; else g++, else newer ones beside it, else clang."""
    if asked := os.environ.get("CXX"):
        found = look_at(asked)
        if found is None:
            raise Failure(f"CXX={asked} does not run as a C++ compiler; {RULE}")
        if not found.good:
            raise Failure(f"CXX={asked} is {found}; {RULE}")
        return found
    newest_first = [*(f"g++-{v}" for v in range(20, 11, -1)), "clang++", *(f"clang++-{v}" for v in range(24, 13, -1))]
    for command in ["g++", *newest_first]:
        if shutil.which(command) and (found := look_at(command)) and found.good:
            return found
    return None


def compiler() -> Compiler:
    """After the Debian packages had their chance."""
    found = find_compiler()
    if found:
        return found
    old = look_at("g++")
    raise Failure(f"g++ is {old}; {RULE}" if old else f"there is no C++ compiler; {RULE}")


def gtest_found() -> bool:
    """As find_package will: below the usual prefixes, or where the caller says."""
    places = ("/usr/lib*/cmake/GTest", "/usr/lib/*/cmake/GTest", "/usr/local/lib*/cmake/GTest")
    return any(glob.glob(place) for place in places) or any(map(os.environ.get, ("GTest_ROOT", "CMAKE_PREFIX_PATH")))


def simde_found() -> bool:
    """Of Debian's libsimde-dev, which emulates AVX-512 for tests."""
    return any(Path(place, "simde/x86/avx512.h").exists() for place in ("/usr/include", "/usr/local/include"))


def _python_header_found(python: str) -> bool:
    include = output_of([python, "-c", "import sysconfig; print(sysconfig.get_path('include'))"])
    return bool(include) and Path(include, "Python.h").exists()


def _is_debian_python(python: str) -> bool:
    return debian.present() and os.path.realpath(python).startswith("/usr/bin/python3")


def install_missing(python: str, *, tests: bool, bench: bool = False) -> None:
    """One apt-get for all that is missing. `python` is the interpreter that the environment is made from.

    All that `./run test` needs is installed with the first command where we may; where we may not, a command complains
    only of what it needs itself.
    """
    name = os.path.basename(os.path.realpath(python))
    own = _is_debian_python(python)
    missing = []  # package, what is missing in words, needed by this command
    if find_compiler() is None and debian.present():
        missing.append(("g++", f"no C++ compiler will do ({RULE})", True))
    if output_of([python, "-c", "import ensurepip, venv"]) is None:
        if not own:
            raise Failure(f"{python} has no ensurepip or venv module, so no environment can be made with it; "
                          "QGMM_PYTHON=... names another Python")
        missing.append(("python3-venv", f"{name} has no venv module", True))
    if own and not _python_header_found(python):
        missing.append(("python3-dev", "Python.h is missing (torch.compile needs it)", tests))
    if debian.present() and not gtest_found():
        missing.append(("libgtest-dev", "GoogleTest is missing", tests))
    if debian.present() and shutil.which("pkg-config") is None:
        missing.append(("pkg-config", "pkg-config is missing", tests))
    if debian.present() and not simde_found():
        missing.append(("libsimde-dev", "SIMDe is missing", False))
    if bench and debian.present() and not Path("/usr/include/benchmark/benchmark.h").exists():
        missing.append(("libbenchmark-dev", "Google Benchmark is missing", True))
    if not missing:
        return
    if debian.allowed():
        debian.install([package for package, _, _ in missing])
        return
    must = [(package, words) for package, words, needed in missing if needed]
    if must:
        raise Failure("; ".join(words for _, words in must) + debian.remedy([package for package, _ in must]))


def version_of(command: str) -> tuple[int, ...]:
    """(3, 25) from what `command --version` prints; () where it is missing."""
    text = output_of([command, "--version"], env=child_environment())
    match = re.search(r"(\d+)\.(\d+)", text or "")
    return tuple(int(part) for part in match.groups()) if match else ()


def build_tools_from_pip() -> list[str]:
    """Requirements for what is missing or too old on PATH."""
    wanted = []
    if version_of("cmake") < CMAKE:
        wanted.append("cmake>=3.25,<5")
    if version_of("ninja") < NINJA:
        wanted.append("ninja>=1.10")
    return wanted
