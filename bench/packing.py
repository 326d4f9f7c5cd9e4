# SPDX-License-Identifier: Apache-2.0
"""pack_weight from every layout of the source: GB of weights per second, the share of the memory roof, which reads the
cache lines that hold the weights and writes the packed bytes, and the share of a copy of as many bytes by all threads into
memory that, like pack_weight's, nobody has touched and that asks for 2 MiB pages: the system clears them meanwhile. Then
again into memory that was used before, without a copy to hold it against."""
import contextlib
import ctypes
import mmap
import statistics
import time

import torch
from data import random_int8
from record import measured, say

import qgmm

K, N = 2048, 2816
REPEATS = 3


def bell(count):
    small = torch.randn(1 << 20).mul_(20).round_().clamp_(-127, 127).to(torch.int8)
    return small.repeat(count // small.numel() + 1)[:count]


def sources(total, large):
    """Layout, weights, arguments of pack_weight, weights' bytes per byte read, and what they are; one stack at a time."""
    e = max(2, -(-total // (K * N)))
    uniform = dict(experts=e, weights="int8", distribution="uniform")
    sigma = uniform | dict(distribution="sigma20")
    int4 = dict(experts=2 * e, weights="int4", distribution="uniform")
    bare, certified = {"certify": False}, {"certify": True}
    if large:
        most = -(-large // (K * N))
        yield "a large stack, int8, rows of n", random_int8(most, K, N), bare, 1, uniform | dict(experts=most)
    yield "int8, rows of n", random_int8(e, K, N), bare, 1, uniform
    yield "int8, columns of k (transposed)", random_int8(e, N, K).transpose(1, 2), bare, 1, uniform
    yield "int8, every second column", random_int8(e, K, 2 * N)[:, :, ::2], bare, 2, uniform
    yield "int8, every second row, transposed", random_int8(e, N, 2 * K).transpose(1, 2)[:, ::2], bare, 2, uniform
    yield "int8, rows of n, certified", bell(e * K * N).view(e, K, N), certified, 1, sigma
    yield "int8, columns of k, certified", bell(e * K * N).view(e, N, K).transpose(1, 2), certified, 1, sigma
    yield "int4, rows of n", random_int8(2 * e, K, N // 2).view(torch.int32), {}, 1, int4
    yield "int4, columns of k", random_int8(2 * e, N // 8, 4 * K).view(torch.int32).transpose(1, 2), {}, 1, int4


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def fresh_copy(plain):
    """Seconds of a copy of bytes into memory of its own."""
    memory = mmap.mmap(-1, plain.numel())
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return timed(lambda: torch.frombuffer(memory, dtype=torch.uint8).copy_(plain))[0]


@contextlib.contextmanager
def used_memory():
    """malloc keeps what is freed (glibc's M_MMAP_MAX and M_TRIM_THRESHOLD): allocations get memory with pages. Yields
    False where the C library has no such switch."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not (mallopt(-4, 0) and mallopt(-1, (1 << 31) - 1)):
        yield False
        return
    try:
        yield True
    finally:
        mallopt(-4, 65536)
        mallopt(-1, 128 * 1024)


def measure(roof, process, small):
    """small: a few megabytes, to see that it works. Else 80 MB, more than caches hold, and one stack of 1 GB."""
    for layout, weight, arguments, read_per_byte, shape in sources(2 * K * N if small else 80_000_000, 0 if small else 10**9):
        size = weight.numel() * weight.element_size()
        say(event="case", text=f"pack_weight, {size / 1e9:.2f} GB, {layout}")
        plain = torch.empty(size, dtype=torch.uint8).fill_(1)

        def pack():
            return qgmm.pack_weight(weight, swiglu=True, **arguments)

        def result(times, reads, packed, **more):
            median, read = statistics.median(times), statistics.median(reads)
            measured(operator="pack", process=process, k=K, n=N, slice=K, cold=not small, roof="memory",
                     implementation=f"qgmm {qgmm.__version__}", kernel="pack_weight", fused="pack",
                     gbyte_per_s=size / median / 1e9, seconds=median, repeats=len(times),
                     exact=torch.equal(packed.unpack(), weight),
                     roof_share=(read_per_byte * size + packed.data.numel()) / median / 1e9 / read,
                     roof_read_gbyte_per_s=read, **more, **shape)

        times, copies, reads, packed = [], [], [], None
        for _ in range(REPEATS):
            packed = None  # the memory of the call before
            seconds, packed = timed(pack)
            times.append(seconds)
            copies.append(fresh_copy(plain))
            reads.append(roof.read())
        share = statistics.median(copies) / statistics.median(times)
        result(times, reads, packed, case=f"pack_weight, {layout}", copy_share=share)
        with used_memory() as possible:
            if not possible:
                continue
            say(event="case", text=f"pack_weight, {size / 1e9:.2f} GB, {layout}, into used memory")
            times, packed = [], pack()
            for _ in range(REPEATS):
                packed = None
                seconds, packed = timed(pack)
                times.append(seconds)
            result(times, reads, packed, case=f"pack_weight, {layout}, into used memory")
            packed = None
