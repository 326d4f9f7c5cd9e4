# SPDX-License-Identifier: Apache-2.0
"""Draws what ops_bench.py --json wrote: bars against rivals, and rooflines of decode and prefill; PNG and SVG.

    ./run bench plot FILE [FOLDER]
"""
import json
import sys
from pathlib import Path

DECODE_ROWS = 8  # rows per expert up to which a call is decode
COLOURS = ("#0b6e4f", "#c1666b", "#4281a4", "#d4b483", "#7d5ba6", "#8d99ae", "#e09f3e", "#335c67")


def load(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def ours(m):
    return m["implementation"].startswith("qgmm ")


def drawable(measurements):
    return [m for m in measurements if m["repeats"] and m["seconds"] and m["operator"] in ("A", "B", "down", "quant")]


def stacks(measurements):
    """Measurements by stack, in their order: title and the cases of one drawing."""
    found = {}
    for m in measurements:
        width = "per channel" if m["slice"] == m["k"] else f"g{m['slice']}"
        weights = {"int8": m["distribution"], "int4": f"int4 {width}", "none": "bf16 rows"}[m["weights"]]
        shape = f"{m['k']} x {m['n']}" if m["n"] else f"{m['k']}"
        active = "" if m["groups"] == "uniform" else ", zipf groups"
        offset = f", tensors at +{m['offset']}" if m["offset"] else ""
        title = f"{m['operator']}, {weights}, {shape}{active}{offset}"
        found.setdefault(title, []).append(m)
    return found


def rate(m):
    return m["gbyte_per_s"] if m["operator"] == "quant" else m["gmac_per_s"]


def bars(axes, title, measurements, colours):
    rows = sorted({m["rows_per_expert"] for m in measurements})
    names = list(dict.fromkeys(m["implementation"] for m in measurements))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        for m in measurements:
            if m["implementation"] != name:
                continue
            wrong = m["exact"] is not True
            axes.bar(rows.index(m["rows_per_expert"]) + (i - len(names) / 2 + 0.5) * width, rate(m), width,
                     color=colours[name], alpha=0.35 if wrong else 1, hatch="///" if wrong else None)
    axes.set_xticks(range(len(rows)), [str(r) for r in rows])
    axes.set_title(title, fontsize=9)
    axes.set_ylabel("GB/s" if measurements[0]["operator"] == "quant" else "GMAC/s", fontsize=8)
    axes.tick_params(labelsize=8)


def draw_bars(plt, measurements, process):
    from matplotlib.patches import Patch
    found = stacks(measurements)
    names = list(dict.fromkeys(m["implementation"] for m in measurements))
    names.sort(key=lambda name: not name.startswith("qgmm "))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    lines = -(-len(found) // 3)
    figure, axes = plt.subplots(lines, 3, figsize=(13, 2.8 * lines + 1), squeeze=False)
    for place in axes.flat[len(found):]:
        place.set_visible(False)
    for place, (title, part) in zip(axes.flat, found.items()):
        bars(place, title, part, colours)
    keys = [Patch(color=colours[name], label=name) for name in names]
    keys.append(Patch(facecolor="#cccccc", hatch="///", label="answer differs from the reference"))
    figure.legend(handles=keys, loc="lower center", ncols=3, fontsize=8)
    first = measurements[0]
    figure.suptitle(f"{first['machine']}, {first['threads']} threads, process {process}; by rows per expert", fontsize=10)
    figure.tight_layout(rect=(0, 0.12 if lines == 1 else 0.28 / lines, 1, 1))
    return figure


def draw_rooflines(plt, measurements, process):
    """MAC per byte of weights against GMAC/s; roofs are medians of those measured beside the cases."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 5))
    marks = {"A": "o", "B": "s", "down": "^"}
    multiplied = [m for m in measurements if m["operator"] in marks]
    for place, words, part in ((axes[0], "decode", [m for m in multiplied if m["rows_per_expert"] <= DECODE_ROWS]),
                               (axes[1], "prefill", [m for m in multiplied if m["rows_per_expert"] > DECODE_ROWS])):
        place.set_title(f"{words}: {'up to' if words == 'decode' else 'more than'} {DECODE_ROWS} rows per expert", fontsize=10)
        place.set_xscale("log")
        place.set_yscale("log")
        place.set_xlabel("MAC per byte of weights")
        place.set_ylabel("GMAC/s")
        if not part:
            continue
        intensity = {id(m): m["gmac_per_s"] / m["gbyte_per_s"] for m in part}
        low, high = min(intensity.values()) / 1.5, max(intensity.values()) * 1.5
        roofs = {}
        for m in part:
            roofs.setdefault(m["roof_instruction"], []).append(m)
        for kind, group in roofs.items():
            read = sorted(m["roof_read_gbyte_per_s"] for m in group)[len(group) // 2]
            multiply = sorted(m["roof_multiply_gmac_per_s"] for m in group)[len(group) // 2]
            xs = [low * (high / low) ** (i / 200) for i in range(201)]
            ys = [min(read * x, multiply) if multiply > 0 else read * x for x in xs]
            place.plot(xs, ys, linewidth=1, label=f"roof: {read:.0f} GB/s, {kind} {multiply:.0f} GMAC/s")
        for group, colour, words in (([m for m in part if not ours(m) and m["exact"] is True], "#bbbbbb", "exact rivals"),
                                     ([m for m in part if ours(m)], COLOURS[0], "qgmm")):
            for operator, mark in marks.items():
                points = [m for m in group if m["operator"] == operator]
                if points:
                    place.scatter([intensity[id(m)] for m in points], [m["gmac_per_s"] for m in points], marker=mark,
                                  color=colour, s=28, label=f"{words}, {operator}", zorder=3)
        place.legend(fontsize=7)
    figure.suptitle(f"{measurements[0]['machine']}, {measurements[0]['threads']} threads, process {process}", fontsize=10)
    figure.tight_layout()
    return figure


def draw(measurements, folder):
    """bars_<process> and roofline_<process>, each as .png and .svg."""
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        print(f"no plots: {error}")
        return
    matplotlib.rcParams["svg.hashsalt"] = "qgmm"  # the same bytes for the same figures
    folder.mkdir(parents=True, exist_ok=True)
    measurements = drawable(measurements)
    for process in dict.fromkeys(m["process"] for m in measurements):
        part = [m for m in measurements if m["process"] == process]
        for name, make in (("bars", draw_bars), ("roofline", draw_rooflines)):
            figure = make(plt, part, process)
            for ending in ("png", "svg"):
                path = folder / f"{name}_{process}.{ending}"
                figure.savefig(path, dpi=90, metadata={"Date": None} if ending == "svg" else None)
                print(f"wrote {path}")
            plt.close(figure)


if __name__ == "__main__":
    draw(load(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "."))
