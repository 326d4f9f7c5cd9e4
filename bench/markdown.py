# SPDX-License-Identifier: Apache-2.0
"""Turns the measurements that ops_bench.py --json wrote into the Markdown tables of docs/figures and README.md.

    ./run bench table FILE [--process best] [--short]
"""
import argparse

from plot import load, ours

ENOUGH = 5  # calls behind a median; fewer are said

TITLES = {"A": "Operator A: grouped_matmul_swiglu_quant", "B": "Operator B: weight_quant_grouped_matmul, bf16 rows",
          "down": "Down projection: grouped_matmul", "quant": "dynamic_quant"}
HEAD = ("case", "kernel", "GMAC/s", "GB/s", "share of roof", "fastest exact rival", "of its time", "fastest exact rival "
        "that does all of it", "of its time", "rivals that were wrong")
SHORT = {"A": (1, 16, 256), "B": (1, 256), "down": (1, 256), "quant": (256,)}  # rows per expert that README.md shows
IDENTITY = ("process", "operator", "case", "experts", "k", "n", "rows_per_expert", "groups", "offset")


def cases(measurements):
    """(ours, rivals) of every case, in their order."""
    found = {}
    for m in measurements:
        if m["operator"] in TITLES:
            found.setdefault(tuple(m[name] for name in IDENTITY), []).append(m)
    for part in found.values():
        for own in part:
            if ours(own) and own["repeats"] and own["exact"] is True:
                yield own, [m for m in part if not ours(m)]


def against(own, rivals):
    """The fastest, and how many times its time ours goes into it."""
    if not rivals:
        return "", ""
    best = min(rivals, key=lambda m: m["seconds"])
    few = f" ({best['repeats']} calls)" if best["repeats"] < ENOUGH else ""
    return best["implementation"], f"{best['seconds'] / own['seconds']:.2f} x{few}"


def row(own, rivals):
    exact = [m for m in rivals if m["repeats"] and m["exact"] is True]
    complete = [m for m in exact if m["fused"] == own["fused"]]
    wrong = [m["implementation"] for m in rivals if m["exact"] is False]
    rate = f"{own['gmac_per_s']:.0f}" if own["gmac_per_s"] else ""
    cold = ", cold" if own["cold"] else ""
    return (own["case"] + cold, own["kernel"], rate, f"{own['gbyte_per_s']:.1f}",
            f"{own['roof_share']:.2f} ({own['roof']})", *against(own, exact), *against(own, complete), ", ".join(wrong))


def line(words):
    return "| " + " | ".join(words) + " |"


def table(head, rows):
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def packing(measurements):
    def share(m, name):  # files of before have none
        return f"{m[name]:.2f}" if m.get(name) else ""

    rows = [(m["case"], f"{m['gbyte_per_s']:.1f}", f"{m['roof_share']:.2f}", share(m, "share_with_clearing"),
             share(m, "copy_share")) for m in measurements if m["operator"] == "pack"]
    head = ("a stack into fresh memory, or into used memory", "GB/s of weights",
            "share of the memory roof, reading them and writing the packed bytes",
            "the same, the system's clearing of fresh pages counted",
            "share of a copy of as many bytes around the caches")
    return table(head, rows) if rows else ""


def calls(measurements):
    rows = [(m["case"],) for m in measurements if m["operator"] == "call"]
    return table(("small calls",), rows) if rows else ""


def document(measurements, short):
    """All tables of one process as text."""
    parts = []
    for operator, title in TITLES.items():
        rows = [row(own, rivals) for own, rivals in cases(measurements) if own["operator"] == operator
                and (not short or own["rows_per_expert"] in SHORT[operator])]
        if rows:
            parts.append(f"**{title}**\n\n{table(HEAD, rows)}")
    parts += [part for part in (packing(measurements), calls(measurements)) if part and not short]
    return "\n\n".join(parts)


def roofs(measurements):
    """One sentence: the roofs measured beside the cases, medians."""
    def median(values):
        return sorted(values)[len(values) // 2]
    reads = [m["roof_read_gbyte_per_s"] for m in measurements if m["roof_read_gbyte_per_s"]]
    found = {}
    for m in measurements:
        if m["roof_instruction"]:
            found.setdefault(m["roof_instruction"], []).append(m["roof_multiply_gmac_per_s"])
    words = [f"{kind} {median(values):.0f} GMAC/s" for kind, values in found.items()]
    cores = sorted((m["issue_per_cycle"], m["clock_ghz"]) for m in measurements if m.get("issue_per_cycle"))
    told = f"Roofs, medians: linear reads {median(reads):.1f} GB/s; " + ", ".join(words) + "." if reads else ""
    if cores:
        issue = [issue for issue, _ in cores]
        told += (f" Cores: {median([clock for _, clock in cores]):.1f} GHz, instructions that do nothing, per cycle: "
                 f"{issue[0]:.1f} to {issue[-1]:.1f}, median {median(issue):.1f}.")
    return told


def main():
    parser = argparse.ArgumentParser(description="Markdown tables of ops_bench measurements.")
    parser.add_argument("file")
    parser.add_argument("--process", help="one process of the file; all of them if not given")
    parser.add_argument("--short", action="store_true", help="the rows that README.md shows")
    options = parser.parse_args()
    measurements = load(options.file)
    for process in dict.fromkeys(m["process"] for m in measurements):
        if options.process not in (None, process):
            continue
        part = [m for m in measurements if m["process"] == process]
        cap = "every library at its best instructions" if process == "best" else f"every library capped at {process}"
        print(f"### {part[0]['machine']}, {part[0]['threads']} threads, {cap}\n\n{roofs(part)}\n\n"
              f"{document(part, options.short)}\n")


if __name__ == "__main__":
    main()
