# SPDX-License-Identifier: Apache-2.0
"""Turns the measurements that ops_bench.py --json wrote into the Markdown table of README.md.

    python bench/markdown.py FILE [--process best|avx2]
"""
import argparse
import json


def columns(measurements):
    """Rivals in the order of their first appearance."""
    names = dict.fromkeys(m["implementation"] for m in measurements)
    return [name for name in names if not name.startswith("qgmm ")]


def cell(ours, rival):
    """How many times faster qgmm is, or why there is no ratio."""
    if rival is None:
        return ""
    if rival["exact"] is not True:
        return "wrong" if rival["exact"] is False else "fails"
    return f"{ours['gmac_per_s'] / rival['gmac_per_s']:.2f} x"


def table(measurements):
    rivals = columns(measurements)
    head = ["experts x k x n, rows each", "GMAC/s", "GB/s", "share of roof", *(f"against {name}" for name in rivals)]
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    cases = {}
    for m in measurements:
        key = tuple(m[name] for name in ("weights", "slice", "distribution", "experts", "k", "n", "rows_per_expert"))
        cases.setdefault(key, {})[m["implementation"]] = m
    for found in cases.values():
        ours = next((m for name, m in found.items() if name.startswith("qgmm ")), None)
        if ours is None or ours["exact"] is not True or not ours["repeats"]:
            continue
        weights = f"int4 g{ours['slice']}" if ours["weights"] == "int4" else f"int8 {ours['distribution']}"
        sizes = f"{ours['active']} x {ours['k']} x {ours['n']}, {ours['rows_per_expert']}"
        title = f"{ours['operator']} {weights}, {sizes}{', cold' if ours['cold'] else ''}"
        row = [title, f"{ours['gmac_per_s']:.0f}", f"{ours['gbyte_per_s']:.1f}",
               f"{ours['roof_share']:.2f} ({ours['roof']})", *(cell(ours, found.get(name)) for name in rivals)]
        yield "| " + " | ".join(row) + " |"


def main():
    parser = argparse.ArgumentParser(description="Markdown table of ops_bench measurements.")
    parser.add_argument("file")
    parser.add_argument("--process", default="avx2", help="best or avx2")
    options = parser.parse_args()
    with open(options.file, encoding="utf-8") as file:
        measurements = [json.loads(line) for line in file]
    measurements = [m for m in measurements if m["process"] == options.process]
    for operator in dict.fromkeys(m["operator"] for m in measurements):
        print(*table([m for m in measurements if m["operator"] == operator]), "", sep="\n")
    if measurements:
        m = measurements[0]
        print(f"{m['machine']}, {m['threads']} threads, every library capped at AVX2." if options.process == "avx2"
              else f"{m['machine']}, {m['threads']} threads, every library at its best instructions.")


if __name__ == "__main__":
    main()
