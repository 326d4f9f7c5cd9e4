# SPDX-License-Identifier: Apache-2.0
"""What a small call costs beyond its arithmetic: against an empty torch operator (torch.empty_like of its input, which
allocates one tensor and does nothing), and with many experts of which few have rows. Printed as text; in the JSON as
operator "call", seconds per call in `seconds`."""
import statistics
import time

import torch
from record import measured, say

import qgmm

K, N = 256, 256
TURNS, CALLS = 40, 100


def operators(experts, rows):
    """Name and call, with `rows` experts that have one row each."""
    weight = torch.randint(-128, 128, (experts, K, N), dtype=torch.int8)
    paired, plain = qgmm.pack_weight(weight, swiglu=True), qgmm.pack_weight(weight)
    scale, x_scale = torch.full((experts, N), 2.0**-13), torch.ones(rows)
    x = torch.randint(-128, 128, (rows, K), dtype=torch.int8)
    wide = torch.randn(rows, K).bfloat16()
    counts = torch.zeros(experts, dtype=torch.int64)
    counts[::experts // rows] = 1
    ends = counts.cumsum(0)
    yield "A", lambda: qgmm.grouped_matmul_swiglu_quant(x, paired, scale, x_scale, ends)
    yield "B", lambda: qgmm.weight_quant_grouped_matmul(wide, plain, scale, group_list=ends)
    yield "down", lambda: qgmm.grouped_matmul(x, plain, scale, ends, x_scale=x_scale)
    if experts == 1:
        yield "A, vendor's name", lambda: qgmm.npu_grouped_matmul_swiglu_quant_v2(x, paired, scale, x_scale, ends)
        yield "B, vendor's name", lambda: qgmm.npu_weight_quant_gmm(wide, plain, scale, group_list=ends)
        yield "quant", lambda: qgmm.dynamic_quant(wide)
        yield "empty", lambda: torch.empty_like(x)


def medians(calls, turns):
    """Seconds per call of each, all taking turns."""
    times = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            times[name].append((time.perf_counter() - start) / CALLS)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(roof, process, small):
    turns = 3 if small else TURNS
    say(event="case", text=f"small calls: one expert, one row, k = {K}, n = {N}; an empty operator is torch.empty_like")
    single = medians(dict(operators(1, 1)), turns)
    empty = single.pop("empty")
    for name, seconds in single.items():
        _say(name, 1, 1, process, seconds, turns, f"one expert, one row: {(seconds - empty) * 1e6:.1f} us beyond an empty "
             f"torch operator ({empty * 1e6:.1f} us)")
    many, few = 1024, 8
    say(event="case", text=f"{many} experts of which {few} have a row, against {few} experts")
    both = {f"{name}, {experts}": call for experts in (many, few) for name, call in operators(experts, few)}
    found = medians(both, turns)
    for name in ("A", "B", "down"):
        seconds, least = found[f"{name}, {many}"], found[f"{name}, {few}"]
        _say(name, many, few, process, seconds, turns, f"{many} experts, {few} with a row: {seconds * 1e6:.1f} us; "
             f"{few} experts: {least * 1e6:.1f} us")


def _say(name, experts, active, process, seconds, turns, words):
    say(event="note", text=f"{name}: {words}")
    measured(operator="call", case=f"{name}, {words}", process=process, experts=experts, active=active, k=K, n=N,
             rows_per_expert=1, implementation=f"qgmm {qgmm.__version__}", fused="whole call", seconds=seconds,
             repeats=turns * CALLS, exact=True)
