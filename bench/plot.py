# SPDX-License-Identifier: Apache-2.0
"""Draws what ops_bench.py --json wrote: bars against rivals, and rooflines of decode and prefill; PNG and SVG.

    ./run bench plot FILE [FOLDER]
"""
import itertools
import json
import sys
from pathlib import Path

DECODE_ROWS = 8  # rows per expert up to which a call is decode
OURS = ("#0b6e4f", "#57b894")
RIVALS = ("#c1666b", "#e8a9a0", "#4281a4", "#9cc5dd", "#d4b483", "#7d5ba6", "#c3aee0", "#5c6672", "#e09f3e", "#a3a847",
          "#b0578d", "#8a6d3b")
PANELS = 3  # in a line


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
        model = m["model"].split(",")[0]
        title = f"{m['operator']}, {weights}, {shape}{active}{offset}\n{model}"
        found.setdefault(title, []).append(m)
    return found


def rate(m):
    return m["gbyte_per_s"] if m["operator"] == "quant" else m["gmac_per_s"]


def bars(axes, title, measurements, colours):
    """A group of bars for every number of rows, on a logarithmic axis: decode and prefill are ten times apart."""
    from matplotlib.ticker import LogLocator, NullFormatter
    rows = sorted({m["rows_per_expert"] for m in measurements})
    names = [name for name in colours if any(m["implementation"] == name for m in measurements)]
    width = min(0.84 / len(names), 0.25)
    for m in measurements:
        place = rows.index(m["rows_per_expert"]) + (names.index(m["implementation"]) - len(names) / 2 + 0.5) * width
        inexact = m["exact"] is not True
        axes.bar(place, rate(m), width, color=colours[m["implementation"]],
                 hatch="////" if inexact else None, edgecolor="white", linewidth=0.3)
        if ours(m):
            axes.annotate(f"{rate(m):.3g}", (place, rate(m)), (0, 2), textcoords="offset points", ha="center", va="bottom",
                          fontsize=6, rotation=90)
    rates = [rate(m) for m in measurements]
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylim(min(rates) / 2, max(rates) * 3)
    axes.grid(axis="y", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xticks(range(len(rows)), [str(r) for r in rows])
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("rows per expert", fontsize=8)
    axes.set_ylabel(f"{'GB/s' if measurements[0]['operator'] == 'quant' else 'GMAC/s'}, logarithmic", fontsize=8)
    axes.tick_params(labelsize=8)


def palette(measurements):
    """Colours of implementations, ours first."""
    names = list(dict.fromkeys(m["implementation"] for m in measurements))
    own, rivals = [name for name in names if name.startswith("qgmm ")], [n for n in names if not n.startswith("qgmm ")]
    return {**{name: OURS[i % len(OURS)] for i, name in enumerate(own)},
            **{name: RIVALS[i % len(RIVALS)] for i, name in enumerate(rivals)}}


def draw_bars(plt, measurements, process):
    """All stacks of one operator."""
    from matplotlib.patches import Patch
    found, colours = stacks(measurements), palette(measurements)
    lines, columns = -(-len(found) // PANELS), min(PANELS, len(found))
    keys = [Patch(color=colour, label=name) for name, colour in colours.items()]
    keys.append(Patch(facecolor="#cccccc", hatch="////", edgecolor="white", label="hatched: not exact"))
    foot, head = 0.25 * -(-len(keys) // columns) + 0.2, 0.45  # inches
    height = 3.1 * lines + foot + head
    figure, axes = plt.subplots(lines, columns, figsize=(5.2 * columns, height), squeeze=False)
    for place in axes.flat[len(found):]:
        place.set_visible(False)
    for place, (title, part) in zip(axes.flat, found.items()):
        bars(place, title, part, colours)
    figure.legend(handles=keys, loc="lower center", ncols=columns, fontsize=8, frameon=False)
    figure.suptitle(headline(measurements, process), fontsize=10, y=1 - 0.12 / height, va="top")
    figure.tight_layout(rect=(0, foot / height, 1, 1 - head / height))
    return figure


def headline(measurements, process):
    """Of a drawing."""
    first = measurements[0]
    cap = "every library at its best" if process == "best" else f"every library capped at {process}"
    return f"{first['machine']}, {first['threads']} threads\n{cap}"


def medians(group, name):
    values = sorted(m[name] for m in group)
    return values[len(values) // 2]


def draw_roofs(place, part, low, high):
    """A line for every instruction that bounded a kernel; returns their highest point."""
    roofs, top = {}, 0.0
    for m in part:
        roofs.setdefault(m["roof_instruction"], []).append(m)
    xs = [low * (high / low) ** (i / 200) for i in range(201)]
    for (kind, group), style in zip(roofs.items(), itertools.cycle(("-", "--", ":", "-."))):
        read, multiply = medians(group, "roof_read_gbyte_per_s"), medians(group, "roof_multiply_gmac_per_s")
        ys = [min(read * x, multiply) if multiply > 0 else read * x for x in xs]
        place.plot(xs, ys, style, color="#444444", linewidth=1,
                   label=f"roof: {read:.0f} GB/s of linear reads" + (f"; {kind}, {multiply:.0f} GMAC/s" if kind else ""))
        top = max(top, *ys)
    return top


def draw_rooflines(plt, measurements, process):
    """MAC per byte of weights against GMAC/s; roofs are medians of those measured beside the cases."""
    figure, axes = plt.subplots(1, 2, figsize=(14, 6.6))
    marks = {"A": "o", "B": "s", "down": "^"}
    multiplied = [m for m in measurements if m["operator"] in marks]
    for place, words, part in ((axes[0], "decode: up to", [m for m in multiplied if m["rows_per_expert"] <= DECODE_ROWS]),
                               (axes[1], "prefill: more than", [m for m in multiplied if m["rows_per_expert"] > DECODE_ROWS])):
        place.set_title(f"{words} {DECODE_ROWS} rows per expert", fontsize=10)
        place.set_xlabel("intensity: MAC per byte of weights, logarithmic")
        place.set_ylabel("GMAC/s, logarithmic")
        if not part:
            continue
        place.set_xscale("log", base=2)
        place.set_yscale("log")
        place.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        place.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        intensity = {id(m): m["gmac_per_s"] / m["gbyte_per_s"] for m in part}
        top = draw_roofs(place, part, min(intensity.values()) / 1.5, max(intensity.values()) * 1.5)
        for group, colour, shift, words in (
                ([m for m in part if not ours(m) and m["exact"] is True], "#c1666b", 1.06, "exact rivals"),
                ([m for m in part if ours(m)], OURS[0], 1, "qgmm")):  # rivals stand a little to the right
            for operator, mark in marks.items():
                points = [m for m in group if m["operator"] == operator]
                if points:
                    place.scatter([intensity[id(m)] * shift for m in points], [m["gmac_per_s"] for m in points], marker=mark,
                                  color=colour, s=26, alpha=0.75, linewidth=0, label=f"{words}, {operator}", zorder=3)
        place.set_ylim(min(m["gmac_per_s"] for m in part) / 1.5, top * 1.5)
        place.grid(color="#dddddd", linewidth=0.5)
        place.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    figure.suptitle(headline(measurements, process), fontsize=10)
    figure.tight_layout()
    return figure


def draw(measurements, folder):
    """bars_<operator>_<process> and roofline_<process>, each as .png and .svg."""
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
        drawings = {f"bars_{operator}": (draw_bars, [m for m in part if m["operator"] == operator])
                    for operator in dict.fromkeys(m["operator"] for m in part)}
        for name, (make, chosen) in {**drawings, "roofline": (draw_rooflines, part)}.items():
            figure = make(plt, chosen, process)
            for ending in ("png", "svg"):
                path = folder / f"{name}_{process}.{ending}"
                figure.savefig(path, dpi=90, metadata={"Date": None} if ending == "svg" else None)
                print(f"wrote {path}")
            plt.close(figure)


if __name__ == "__main__":
    draw(load(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "."))
