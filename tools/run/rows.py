# SPDX-License-Identifier: Apache-2.0
"""The table at the end of ./run test: each row of kernels.inc, and whether tests ran it natively, emulated, or not at all."""
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from checkout import ROOT

TABLE = ROOT / "src" / "cpu" / "kernels.inc"
ROW = re.compile(r"^QGMM_KERNEL\(k(\w+), k(\w+)\)", re.M)
X86 = ("avx2", "avxvnni", "avxvnniint8", "avx512", "avx512vnni", "amx")


def known(table: str) -> dict[str, str]:
    """Row -> ISA, in the table's order: (kAvx2, kAvx2WideUnpacked) is the row avx2_wide_unpacked of avx2."""
    rows = {}
    for isa, row in ROW.findall(table):
        words = re.sub(r"(?<!^)([A-Z])", r"_\1", row.removeprefix(isa))
        rows[f"{isa}_{words}".lower()] = isa.lower()
    return rows


@dataclass
class RowsRan:
    """What test reports say: how many passed tests, and failed ones, multiplied something by a row."""
    passed: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))  # how -> row -> tests
    failed: Counter = field(default_factory=Counter)
    why_not: dict[str, str] = field(default_factory=dict)  # ISA -> why no suite tried it

    def count(self, test, *, failed: bool, emulated: tuple[str, ...] = ()) -> None:
        """`test`: a testcase of GoogleTest, whose properties rows_ran.h writes; `emulated`: all ISAs that the binary emulates,
        of which a run tries one and may fall back to others."""
        for entry in test.iter("property"):
            if not entry.get("name", "").startswith("rows_"):
                continue
            for row in entry.get("value", "").split(","):
                if failed:
                    self.failed[row] += 1
                else:
                    isa = row.split("_")[0]
                    self.passed["emulated" if isa in emulated else entry.get("name").removeprefix("rows_")][row] += 1

    def lines(self) -> list[str]:
        rows = known(TABLE.read_text())
        width = max(len(row) for row in rows)
        lines = [f"{'kernel row':<{width}}  native  emulated"]
        for row, isa in rows.items():
            native, emulated = self.passed["native"][row], self.passed["emulated"][row]
            why = "" if native or emulated else f"   not run: {self.why_not.get(isa, 'no test multiplied by it')}"
            bad = f"   {self.failed[row]} FAILED" if self.failed[row] else ""
            lines.append(f"{row:<{width}}  {native or '-':>6}  {emulated or '-':>8}{why}{bad}")
        return lines
