# SPDX-License-Identifier: Apache-2.0
"""docs/situations.md against the tests that exist: a situation without a test fails, and so does a test binary or a
Python file that cannot be collected."""
import re
import subprocess
import sys
from pathlib import Path

import tree

PAGE = "docs/situations.md"
ENTRY = re.compile(r"- `([^`]+)`(?:: (.+))?$")


def gtest_names(build: Path) -> list[str]:
    """binary:Suite.Name/parameters"""
    names = []
    for source in (name for name in tree.files("_test.cc") if Path(name).parent == Path("tests")):
        binary = build / "tests" / Path(source).stem
        command = [str(binary), "--gtest_list_tests"]
        suite = ""
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            word = line.split("#")[0].strip()
            if line.startswith(" "):
                names.append(f"{binary.name}:{suite}{word}")
            else:
                suite = word
    return names


def pytest_names() -> list[str]:
    """test_file.py::test_name[parameters]"""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/python"]
    result = subprocess.run(command, cwd=tree.ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"situations: pytest cannot collect tests/python\n{result.stdout[-3000:]}{result.stderr[-1000:]}")
    return [line.removeprefix("tests/python/") for line in result.stdout.splitlines() if "::" in line]


def plain(name: str) -> str:
    """EmptyFirst, empty_first and empty-first are the same name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def missing(page: str, names: list[str]) -> tuple[list[str], int]:
    """Complaints, and how many situations wait for a later part."""
    complaints, later, files, section = [], 0, [], ""
    split = [(name.split(":")[0].split(".")[0], name.split(":", 1)[1]) for name in names]
    for number, line in enumerate(page.splitlines(), 1):
        if line.startswith("## "):
            section, files = line[3:], []
        elif line.startswith("In: "):
            files = line[4:].split()
        elif section and line.startswith("- "):
            entry = ENTRY.match(line)
            if not entry:
                complaints.append(f"{PAGE}:{number}: cannot be read: {line}")
            elif entry[2] and entry[2].startswith("later, "):
                later += 1
            elif entry[2]:
                complaints += [f"{PAGE}:{number}: {section}, {entry[1]}: no test's name holds {fragment}"
                               for fragment in entry[2].split(", ") if not any(fragment in name for name in names)]
            elif not any(plain(entry[1]) in plain(test) for file, test in split if file in files):
                complaints.append(f"{PAGE}:{number}: {section}: no test of {' '.join(files)} is named {entry[1]}")
    return complaints, later


def main() -> int:
    build = Path(sys.argv[1]) if len(sys.argv) > 1 else tree.ROOT / "build" / "release"
    names = gtest_names(build) + pytest_names()
    complaints, later = missing(tree.text(PAGE), names)
    print(f"situations: {len(names)} tests collected; {later} situations belong to later parts")
    return tree.report("situations", complaints)


if __name__ == "__main__":
    sys.exit(main())
