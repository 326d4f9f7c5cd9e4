# SPDX-License-Identifier: Apache-2.0
"""pack_weight of a stack of 1 GB, from every layout of the source: GB of weights per second, and the share of the memory
roof that reading them and writing the packed bytes takes."""
import statistics
import time

import torch
from data import random_int8
from record import measured, say

import qgmm

K, N = 2048, 2816
REPEATS = 3


def sources(total):
    """Layout, weights, and arguments of pack_weight; one stack at a time."""
    experts = max(2, -(-total // (K * N)))
    shape = dict(experts=experts, weights="int8", distribution="uniform")
    yield "int8, rows of n", random_int8(experts, K, N), {"certify": False}, shape
    yield "int8, columns of k (transposed)", random_int8(experts, N, K).transpose(1, 2), {"certify": False}, shape
    small = torch.randn(1 << 20).mul_(20).round_().clamp_(-127, 127).to(torch.int8)
    bell = small.repeat(experts * K * N // small.numel() + 1)[:experts * K * N].view(experts, K, N)
    yield "int8, rows of n, certified", bell, {"certify": True}, shape | dict(distribution="sigma20")
    nibbles = random_int8(2 * experts, K, N // 2).view(torch.int32)
    yield "int4, rows of n", nibbles, {}, dict(experts=2 * experts, weights="int4", distribution="uniform")


def once(weight, arguments):
    start = time.perf_counter()
    packed = qgmm.pack_weight(weight, swiglu=True, **arguments)
    return time.perf_counter() - start, packed


def measure(roof, process, small):
    """small: a few megabytes, to see that it works."""
    for layout, weight, arguments, shape in sources(2 * K * N if small else 1_000_000_000):
        size = weight.numel() * weight.element_size()
        say(event="case", text=f"pack_weight, {size / 1e9:.2f} GB, {layout}")
        times, reads, packed = [], [], None
        for _ in range(REPEATS):
            packed = None  # the memory of the call before
            seconds, packed = once(weight, arguments)
            times.append(seconds)
            reads.append(roof.read())
        median, read = statistics.median(times), statistics.median(reads)
        measured(operator="pack", case=f"pack_weight, {layout}", process=process, k=K, n=N, slice=K, cold=not small,
                 implementation=f"qgmm {qgmm.__version__}", kernel="pack_weight", fused="pack", roof="memory",
                 gbyte_per_s=size / median / 1e9, seconds=median, repeats=len(times),
                 exact=torch.equal(packed.unpack(), weight),
                 roof_share=2 * size / median / 1e9 / read, roof_read_gbyte_per_s=read, **shape)
