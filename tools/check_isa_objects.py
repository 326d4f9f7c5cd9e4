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


def complaints_of(source: str, build: Path) -> list[str]:
    isa = Path(source).stem
    objects = sorted(build.rglob(f"isa/{isa}.cc.o"))
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
    build = Path(sys.argv[1]) if len(sys.argv) > 1 else tree.ROOT / "build" / "release"
    sources = [name for name in tree.files(".cc") if name.startswith(ISA)]
    return tree.report("ISA objects", [complaint for source in sources for complaint in complaints_of(source, build)])


if __name__ == "__main__":
    sys.exit(main())
