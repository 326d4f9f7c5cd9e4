# SPDX-License-Identifier: Apache-2.0
"""pack_weight from every layout of the source: GB of weights per second and the share of the memory roof, the time in which
the cache lines that hold the weights are read and the packed bytes written. Results lie in memory that nobody has touched,
whose pages the system clears first: the second share counts what clearing as many bytes took right before the call. Then
again into memory that was used before; there a copy of as many bytes around the caches is measured as well, which is what
packing could reach at most. The same of from_fractal_nz. Shares are medians over calls, of the roofs beside each."""
import contextlib
import ctypes
import itertools
import mmap
import resource
import statistics
import time
from functools import partial

import torch
from data import random_int8
from record import measured, say

import qgmm

K, N = 2048, 2816
REPEATS, LARGE_REPEATS = 9, 3  # calls of 5 to 12 ms, and of a tenth of a second
USED_FAULTS = 32  # page faults of a call into used memory


def bell(count):
    small = torch.randn(1 << 20).mul_(20).round_().clamp_(-127, 127).to(torch.int8)
    return small.repeat(count // small.numel() + 1)[:count]


def int4(*shape):
    """The last axis counts bytes."""
    return random_int8(*shape).view(torch.int32)


def sources(total, large):
    """Layout, weights, arguments of pack_weight, weights' bytes per byte read, and what they are; one stack at a time."""
    e = max(2, -(-total // (K * N)))
    uniform = dict(experts=e, weights="int8", distribution="uniform")
    sigma = uniform | dict(distribution="sigma20")
    words = dict(experts=2 * e, weights="int4", distribution="uniform")
    bare, certified = {"certify": False}, {"certify": True}
    if large:
        most = -(-large // (K * N))
        yield "a large stack, int8, rows of n", random_int8(most, K, N), bare, 1, uniform | dict(experts=most)
    yield "int8, rows of n", random_int8(e, K, N), bare, 1, uniform
    yield "int8, columns of k (transposed)", random_int8(e, N, K).transpose(1, 2), bare, 1, uniform
    yield "int8, every second column", random_int8(e, K, 2 * N)[:, :, ::2], bare, 2, uniform
    yield "int8, every second row, transposed", random_int8(e, N, 2 * K).transpose(1, 2)[:, ::2], bare, 2, uniform
    yield "int8, experts innermost", random_int8(K, N, e).permute(2, 0, 1), bare, 1, uniform
    yield "int8, rows of n, certified", bell(e * K * N).view(e, K, N), certified, 1, sigma
    yield "int8, columns of k, certified", bell(e * K * N).view(e, N, K).transpose(1, 2), certified, 1, sigma
    yield "int4, rows of n", int4(2 * e, K, N // 2), {}, 1, words
    yield "int4, columns of k", int4(2 * e, N // 8, 4 * K).transpose(1, 2), {}, 1, words
    yield "int4, every second word", int4(2 * e, K, N)[:, :, ::2], {}, 2, words
    yield "int4, experts innermost", int4(K, N // 8, 8 * e).permute(2, 0, 1), {}, 1, words


def calls(total, large):
    """Layout, the call, what it took and gave back, the bytes it read and wrote, and what they are."""
    for layout, weight, arguments, read_per_byte, shape in sources(total, large):
        size = weight.numel() * weight.element_size()
        yield (f"pack_weight, {layout}", size, partial(qgmm.pack_weight, weight, swiglu=True, **arguments),
               lambda packed: packed.unpack(), weight, lambda packed: read_per_byte * size + packed.data.numel(), shape)
    for dtype, transposed in itertools.product((torch.int8, "int4"), (False, True)):
        e = max(2, -(-total // (K * N)))
        weight = random_int8(e, K, N) if dtype == torch.int8 else int4(2 * e, K, N // 2)
        storage, size = qgmm.to_fractal_nz(weight, dtype, transposed=transposed), weight.numel() * weight.element_size()
        name = "int4" if dtype == "int4" else "int8"
        yield (f"from_fractal_nz, {name}{', transposed' if transposed else ''}", size,
               partial(qgmm.from_fractal_nz, storage, K, N, dtype, transposed=transposed),
               lambda plain: plain, weight, lambda plain: 2 * size,
               dict(experts=len(weight), weights=name, distribution="uniform"))


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def touch(size):
    """A virtual machine may get memory from its host only when it first touches it, 20 times as slowly as its own system
    clears it: so that this happens before anything is timed."""
    with mmap.mmap(-1, size) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        for first in range(0, size, mmap.PAGESIZE):
            memory[first] = 1


LIBC = ctypes.CDLL(None)


def give_back():
    """What malloc keeps, to the system (glibc): else results may lie in memory that has pages."""
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(ctypes.c_size_t(0))


@contextlib.contextmanager
def used_memory():
    """malloc keeps what is freed (glibc's M_MMAP_MAX and M_TRIM_THRESHOLD): allocations get memory with pages. Yields
    False where the C library has no such switch."""
    mallopt = getattr(LIBC, "mallopt", None)
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
    for case, size, call, unpack, weight, moved, shape in calls(*((2 * K * N, 0) if small else (80_000_000, 10**9))):
        say(event="case", text=f"{case}, {size / 1e9:.2f} GB")
        touch(2 * size)

        def once(call=call, moved=moved, *, copying=False):
            """Seconds of a call, those of the roof beside it, the roof in GB/s, seconds of a copy, and the answer."""
            before, copied = roof.read(), roof.copy() if copying else 0
            seconds, answer = timed(call)
            copied, read = (copied + roof.copy()) / 2 if copying else 0, (before + roof.read()) / 2
            count = moved(answer) / 1e9
            return seconds, count / read, read, count / copied if copying else 0, answer

        def result(turns, answer, clearings=None, *, size=size, unpack=unpack, weight=weight, shape=shape, **more):
            median = statistics.median(seconds for seconds, *_ in turns)
            if clearings:
                more["share_with_clearing"] = statistics.median(
                    (least + clearing) / seconds for (seconds, least, *_), clearing in zip(turns, clearings, strict=True))
            measured(operator="pack", process=process, k=K, n=N, slice=K, cold=not small, roof="memory",
                     implementation=f"qgmm {qgmm.__version__}", fused="pack", gbyte_per_s=size / median / 1e9,
                     seconds=median, repeats=len(turns), exact=torch.equal(unpack(answer), weight),
                     roof_share=statistics.median(least / seconds for seconds, least, *_ in turns),
                     roof_read_gbyte_per_s=statistics.median(read for _, _, read, _ in turns), **more, **shape)

        repeats, kernel = LARGE_REPEATS if size >= 10**9 else REPEATS, case.split(",")[0]
        turns, clearings, answer = [], [], None
        for _ in range(repeats):
            answer = None  # the memory of the call before, which the system hands out again
            give_back()
            clearings.append(roof.clear(size))
            *turn, answer = once()
            turns.append(turn)
        result(turns, answer, clearings, case=case, kernel=kernel)
        with used_memory() as possible:
            if not possible:
                continue
            say(event="case", text=f"{case}, {size / 1e9:.2f} GB, into used memory")
            turns = []
            for _ in range(3 * repeats):  # malloc chooses: calls count that took next to no pages
                answer, before = None, faults()
                *turn, answer = once(copying=True)
                if faults() - before < USED_FAULTS:
                    turns.append(turn)
                if len(turns) == repeats:
                    break
            if turns:
                copy_share = statistics.median(copy / seconds for seconds, _, _, copy in turns)
                result(turns, answer, case=f"{case}, into used memory", kernel=kernel, copy_share=copy_share)
            answer = None
