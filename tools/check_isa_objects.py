# SPDX-License-Identifier: Apache-2.0
"""An ISA object exports its rows of kernels.inc and its stages, nothing else. A function that leaves it, above all an
inline one that the linker may pick for the whole program, would carry this ISA's instructions into the baseline."""
import re
import subprocess
import sys
from pathlib import Path

import tree

ISA = "src/cpu/isa"
ROW = re.compile(r"^QGMM_(?:KERNEL|STAGES)\((\w+), (\w+)\)", re.M)


def exported(path: Path) -> list[tuple[str, str]]:
    """(kind, name) of what the object offers to others. Kinds W, V, u: weak or unique, merged by the linker."""
    command = ["nm", "--demangle", "--defined-only", "--extern-only", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(kind, name) for _, kind, name in (line.split(" ", 2) for line in lines if line)]


def rows_of(isa: str) -> set[str]:
    """kernels.inc: avx2 -> {"qgmm::cpu::kAvx2Wide", ...}"""
    return {f"qgmm::cpu::{row}" for enum, row in ROW.findall(tree.text("src/cpu/kernels.inc")) if enum.lower() == f"k{isa}"}


def of_arm(source: str) -> bool:
    return Path(source).stem.startswith("neon")


def complaints_of(source: str, build: Path) -> list[str]:
    isa = Path(source).stem
    objects = sorted(build.rglob(f"isa/{isa}.cc.o"))
    if not objects and tree.left_out(build, isa):
        print(f"{isa}: not checked: the compiler of {build} does not know its instructions")
        return []
    if not objects:
        return [f"{source}: not built in {build}"]
    rows, found = rows_of(isa), []
    for path in objects:
        names = exported(path)
        found += [f"{isa}: exports {name} ({kind}), which is no row of kernels.inc"
                  for kind, name in names if name not in rows or kind not in "RDB"]
        found += [f"{isa}: does not export its row {row}" for row in sorted(rows - {name for _, name in names})]
    return found


def main() -> int:
    native = Path(sys.argv[1]) if len(sys.argv) > 1 else tree.ROOT / "build" / "release"
    arm = Path(sys.argv[2]) if len(sys.argv) > 2 else tree.ROOT / "build" / "aarch64"
    sources = [name for name in tree.files(".cc") if name.startswith(ISA)]
    if not arm.exists():
        sources = [name for name in sources if not of_arm(name)]
        print(f"ISA objects: not run for Arm: there is no {arm} (./run test builds it where it can)")
    return tree.report("ISA objects", [complaint for source in sources
                                       for complaint in complaints_of(source, arm if of_arm(source) else native)])


if __name__ == "__main__":
    sys.exit(main())
