# SPDX-License-Identifier: Apache-2.0
"""The main job from PyTorch: both operators, the down projection and a quantised MoE layer on real shapes.

Every case is timed and judged. Rows (all of a small case, 64 and some tail rows of a large one) are recomputed by the
scalar reference from the plain weights, and every byte of every column is compared; operator B is also held against
float64, within the bound of docs/operators.md, section 8.2. Exit status 1 if any answer is wrong.

    python examples/demo.py [--quick]        --quick: the small cases only
"""
import argparse
import math
import sys
import time

import torch

import qgmm

ran = []  # last_run() of every operation since the list was cleared


def op(function, *args, **kwargs):
    """Calls an operation and keeps the report of what ran."""
    result = function(*args, **kwargs)
    ran.append(qgmm.last_run())
    return result


# ---- inputs -------------------------------------------------------------------------------------------------------


def random_int8(*shape):
    """Uniform over all 256 values, eight at a time: a gigabyte of experts in a second or two."""
    words = torch.empty(-(-math.prod(shape) // 8), dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int8)[: math.prod(shape)].view(shape)


def random_int4(e, k, n):
    """Two's complement int4, eight to an int32 along n: every bit pattern is valid."""
    return random_int8(e, k, n // 2).view(torch.int32)


def scales(*shape, k):
    return (torch.rand(shape) + 0.5) / (64 * k)


class Batch:
    """Tokens sorted by expert: what belongs to a row, how many rows each expert has, and a tail in no group."""

    def __init__(self, counts, tail, **per_row):
        self.counts = torch.as_tensor(counts, dtype=torch.int64)
        self.grouped = int(self.counts.sum())
        self.rows = self.grouped + tail
        for name, tensor in per_row.items():
            setattr(self, name, tensor)
        self.names = list(per_row)

    def group_list(self):
        return self.counts.cumsum(0)

    def pick(self, limit):
        """Row indices to judge, ascending: all, or `limit` spread over the groups and up to 8 of the tail."""
        if limit >= self.rows:
            return torch.arange(self.rows)
        inside = torch.linspace(0, self.grouped - 1, min(limit, self.grouped)).round().long()
        tail = torch.arange(max(self.grouped, self.rows - 8), self.rows)
        return torch.cat([inside, tail])

    def select(self, index):
        """The batch of these rows only, for the same experts."""
        ends = torch.searchsorted(index, self.group_list())
        counts = torch.diff(ends, prepend=torch.zeros(1, dtype=torch.int64))
        rows = {name: getattr(self, name)[index] for name in self.names}
        return Batch(counts, len(index) - int(counts.sum()), **rows)


def int8_batch(counts, tail, k):
    rows = sum(counts) + tail
    return Batch(counts, tail, x=random_int8(rows, k), x_scale=torch.rand(rows) * 0.09 + 0.01)


def float_batch(counts, tail, k, dtype):
    return Batch(counts, tail, x=torch.randn(sum(counts) + tail, k).to(dtype))


# ---- judging ------------------------------------------------------------------------------------------------------


def as_bytes(tensor):
    return tensor.contiguous().view(torch.uint8)


def bound_share(batch, weight, y, scale, offset=None, bias=None):
    """The largest share of the allowed error that an element of operator B takes up (act_type 0)."""
    worst, start, u = 0.0, 0, 2.0**-24
    bits = {torch.float16: 10, torch.bfloat16: 7}[y.dtype]
    smallest = {torch.float16: -14, torch.bfloat16: -126}[y.dtype]
    for expert, count in enumerate(batch.counts.tolist()):
        if count == 0:
            continue
        x, w = batch.x[start : start + count].double(), weight[expert].double()
        s = scale[expert].double()
        d = offset[expert].double() if offset is not None else torch.zeros_like(s)
        b = bias[expert].double() if bias is not None else torch.zeros_like(s)
        right = (x @ w + d * x.sum(1, keepdim=True)) * s + b
        k = x.shape[1]
        size = x.abs() @ w.abs() + d.abs() * x.abs().sum(1, keepdim=True)
        error = (min(k, 8 * math.sqrt(k)) + 8) * u * s.abs() * size + 2 * u * b.abs()
        if y.dtype == torch.bfloat16:  # fixed point
            error += 2.0**-15 * x.abs().amax(1, keepdim=True) * s.abs() * w.abs().sum(0)
        exponent = (torch.frexp(right.abs() + error).exponent - 1).clamp(min=smallest)
        allowed = error + torch.ldexp(torch.ones_like(right), exponent - bits) / 2
        share = ((y[start : start + count].double() - right).abs() / allowed).max().item()
        worst = share if not share <= worst else worst
        start += count
    return worst


def judge(call, batch, weight, results, limit, bound=None):
    """(right, words): the reference's rows against ours, byte by byte; operator B also against float64."""
    index = batch.pick(limit)
    some = batch.select(index)
    with qgmm.reference():
        expected = call(some, weight)
    rows = f"rows: {len(index)}" + (" (all)" if len(index) == batch.rows else "")
    equal = all(torch.equal(as_bytes(ours[index]), as_bytes(right)) for ours, right in zip(results, expected))
    if bound is None:
        return equal, f"bits equal, {rows}" if equal else f"WRONG bits, {rows}"
    grouped = results[0][index][: some.grouped]
    share = bound_share(some, weight, grouped, **bound)
    tail_is_zero = not results[0][batch.grouped :].any()
    if not (share <= 1 and tail_is_zero):
        return False, f"WRONG: {share:.3g} of the bound, tail rows {'zero' if tail_is_zero else 'not zero'}"
    return True, f"{'bits equal, ' if equal else ''}within the bound, {rows}"


# ---- the table ----------------------------------------------------------------------------------------------------

ROW = "{:<32} {:<17} {:>5}  {:<7} {:<36} {:>7} {:>9} {:>8} {:>7}  {}"


class Table:
    def __init__(self):
        self.cases = self.wrong = 0
        print(ROW.format("case", "experts x k x n", "rows", "weights", "kernels", "threads", "ms", "GMAC/s", "GB/s",
                         "verdict"), flush=True)

    def add(self, title, sizes, call, batch, weight, packed=None, limit=64, bound=None, bits=8, macs=None):
        """Times call(batch, packed or weight) and judges what it returned."""
        used = weight if packed is None else packed
        best, spent, runs = math.inf, 0.0, 0
        while runs < 2 or (runs < 20 and spent < 0.5):
            ran.clear()
            start = time.perf_counter()
            results = call(batch, used)
            seconds = time.perf_counter() - start
            best, spent, runs = min(best, seconds), spent + seconds, runs + 1
        reports = list(ran)
        right, words = judge(call, batch, weight, results, limit, bound)
        kernels = dict.fromkeys(kernel for report in reports for kernel in report["kernels"])
        e, k, n = sizes
        macs = macs or k * n
        active = int((batch.counts > 0).sum())
        print(ROW.format(title, f"{e} x {k} x {n}", batch.rows, "plain" if packed is None else "packed",
                         "+".join(kernels), max(report["workers"] for report in reports), f"{best * 1e3:.2f}",
                         f"{batch.grouped * macs / best / 1e9:.1f}", f"{active * macs * bits / 8 / best / 1e9:.1f}",
                         words), flush=True)
        self.cases += 1
        self.wrong += not right
        return results


def swiglu_quant(weight_scale, **options):
    def call(batch, weight):
        return op(qgmm.grouped_matmul_swiglu_quant, batch.x, weight, weight_scale, batch.x_scale, batch.group_list(),
                  **options)
    return call


def weight_quant(scale, **options):
    def call(batch, weight):
        return (op(qgmm.weight_quant_grouped_matmul, batch.x, weight, scale, group_list=batch.group_list(), **options),)
    return call


def down(weight_scale, **options):
    def call(batch, weight):
        return (op(qgmm.grouped_matmul, batch.x, weight, weight_scale, batch.group_list(), x_scale=batch.x_scale,
                   **options),)
    return call


# ---- cases --------------------------------------------------------------------------------------------------------

WHOLE = 1 << 30


def small_cases(table):
    """Every option once, every row judged."""
    e, k, n = 5, 77, 62
    batch, w = int8_batch([7, 0, 1, 12, 3], 4, k), random_int8(e, k, n)
    options = dict(bias=torch.randint(-9999, 9999, (e, n), dtype=torch.int32), smooth_scale=torch.rand(e, n // 2),
                   swiglu_limit=7.0)
    scale = scales(e, n, k=k)
    call = swiglu_quant(scale, **options)
    table.add("A int8, bias, smooth, limit", (e, k, n), call, batch, w, qgmm.pack_weight(w, swiglu=True), WHOLE)
    lists = swiglu_quant(list(scale), **options)
    table.add("A int8, lists of experts", (e, k, n), lists, batch, list(w), limit=WHOLE)
    transposed = w.transpose(1, 2).contiguous().transpose(1, 2)
    table.add("A int8, transposed views", (e, k, n), call, batch, transposed, limit=WHOLE)
    e, k, n = 3, 96, 48
    batch, w = int8_batch([0, 9, 5], 2, k), random_int4(e, k, n)
    call = swiglu_quant(scales(e, n, k=k), weight_assist_matrix=torch.randn(e, n))
    table.add("A int4 per channel, assist", (e, k, n), call, batch, w, qgmm.pack_weight(w, swiglu=True), WHOLE, bits=4)
    call = swiglu_quant(scales(e, 3, n, k=k), dequant_mode=1, quant_dtype=torch.float8_e4m3fn)
    table.add("A int4 groups of 32, to fp8", (e, k, n), call, batch, w, qgmm.pack_weight(w, swiglu=True), WHOLE, bits=4)
    e, k, n = 8, 256, 128
    for dtype in (torch.float16, torch.bfloat16):
        batch, w = float_batch([1, 2, 3, 4, 5, 6, 7, 4], 0, k, dtype), random_int8(e, k, n)
        terms = dict(offset=torch.randn(e, n).to(dtype), bias=torch.randn(e, n))
        scale = scales(e, n, k=k).to(dtype)
        name = str(dtype).removeprefix("torch.")
        table.add(f"B {name}, document's shape", (e, k, n), weight_quant(scale, **terms), batch, w,
                  qgmm.pack_weight(w), WHOLE, bound=dict(scale=scale, **terms))
    e, k, n = 4, 96, 70
    batch, w = int8_batch([6, 1, 0, 13], 2, k), random_int8(e, k, n)
    call = down(scales(e, n, k=k), bias=torch.randn(e, n), out_dtype=torch.float32)
    table.add("down int8 to fp32, bias", (e, k, n), call, batch, w, qgmm.pack_weight(w), WHOLE)


def document_cases(table):
    """Operator A on its document's shape: 512 rows, 2 experts of 7168 x 4096; the last 8 rows are in no group."""
    e, k, n = 2, 7168, 4096
    batch = int8_batch([256, 248], 8, k)
    w = random_int8(e, k, n)
    call = swiglu_quant(scales(e, n, k=k))
    table.add("A int8, document's shape", (e, k, n), call, batch, w, qgmm.pack_weight(w, swiglu=True))
    table.add("A int8, packed in every call", (e, k, n), call, batch, w)
    w = random_int4(e, k, n)
    packed = qgmm.pack_weight(w, swiglu=True)
    table.add("A int4 per channel", (e, k, n), swiglu_quant(scales(e, n, k=k)), batch, w, packed, bits=4)
    call = swiglu_quant(scales(e, k // 128, n, k=k), dequant_mode=1)
    table.add("A int4 groups of 128", (e, k, n), call, batch, w, packed, bits=4)


def model_cases(table):
    """128 experts of 2048 x 1536, as many rows as decoding and a short prompt give each of them."""
    e, k, n = 128, 2048, 1536
    w = random_int8(e, k, n)
    packed = qgmm.pack_weight(w, swiglu=True)
    call = swiglu_quant(scales(e, n, k=k))
    table.add("A int8, 1 row per expert", (e, k, n), call, int8_batch([1] * e, 1, k), w, packed)
    table.add("A int8, 16 rows per expert", (e, k, n), call, int8_batch([16] * e, 5, k), w, packed)
    packed = qgmm.pack_weight(w)
    scale = scales(e, n, k=k)
    for rows, tail, title in ((1, 1, "B bfloat16, 1 row per expert"), (16, 5, "B bfloat16, 16 rows per expert")):
        table.add(title, (e, k, n), weight_quant(scale), float_batch([rows] * e, tail, k, torch.bfloat16), w, packed,
                  bound=dict(scale=scale))
    del w, packed
    w = random_int4(e, k, n)
    packed = qgmm.pack_weight(w, swiglu=True)
    call = swiglu_quant(scales(e, k // 128, n, k=k), dequant_mode=1)
    table.add("A int4 g128, 1 row per expert", (e, k, n), call, int8_batch([1] * e, 1, k), w, packed, bits=4)
    table.add("A int4 g128, 16 rows per expert", (e, k, n), call, int8_batch([16] * e, 5, k), w, packed, bits=4)


class MoeWeights:
    """The two stacks of a layer: gate and up in one, then down."""

    def __init__(self, up, down):
        self.up, self.down = up, down


def moe_layer(table, tokens=64, e=128, top_k=8, hidden=2048, inner=768):
    """bf16 tokens -> route -> dynamic_quant -> A -> grouped_matmul -> combine; int8 between the two products."""
    weights = MoeWeights(random_int8(e, hidden, 2 * inner), random_int8(e, inner, hidden))
    packed = MoeWeights(qgmm.pack_weight(weights.up, swiglu=True), qgmm.pack_weight(weights.down))
    up_scale, down_scale = scales(e, 2 * inner, k=40), scales(e, hidden, k=40)
    x = torch.randn(tokens, hidden).bfloat16()
    probability, expert = torch.randn(tokens, e).softmax(1).topk(top_k)
    order = expert.flatten().argsort(stable=True)
    routed = Batch(expert.flatten().bincount(minlength=e), 0, x=x[order // top_k])

    def layer(batch, w):
        x8, x_scale = op(qgmm.dynamic_quant, batch.x)
        groups = batch.group_list()
        h8, h_scale = op(qgmm.grouped_matmul_swiglu_quant, x8, w.up, up_scale, x_scale, groups)
        return (op(qgmm.grouped_matmul, h8, w.down, down_scale, groups, x_scale=h_scale, out_dtype=torch.bfloat16),)

    (y,) = table.add(f"MoE layer, {tokens} tokens, top {top_k}", (e, hidden, 2 * inner), layer, routed, weights, packed,
                     macs=3 * hidden * inner)
    rows = torch.empty_like(y).index_copy_(0, order, y).view(tokens, top_k, hidden)
    ours = (rows[:4].float() * probability[:4, :, None]).sum(1)
    right = torch.zeros_like(ours)
    for token in range(4):
        for p, i in zip(probability[token], expert[token].tolist()):
            gate, up = (x[token].float() @ (weights.up[i].float() * up_scale[i])).chunk(2)
            right[token] += p * ((torch.nn.functional.silu(gate) * up) @ (weights.down[i].float() * down_scale[i]))
    error = ((ours - right).norm() / right.norm()).item()
    good = error < 0.06  # int8 tokens, twice; about 0.02 is usual, a wrong expert or scale gives 1 and more
    print(f"  the layer against fp32 torch on dequantised weights, 4 tokens: relative error {error:.4f}"
          f"{'' if good else '  WRONG'}", flush=True)
    table.wrong += not good


def main():
    parser = argparse.ArgumentParser(description="Both operators on real shapes: kernels, times, verdicts.")
    parser.add_argument("--quick", action="store_true", help="the small cases only")
    quick = parser.parse_args().quick
    torch.manual_seed(20)
    machine = qgmm.machine()
    print(f"qgmm {qgmm.__version__}, torch {torch.__version__}, isa {machine.get('isa')}, "
          f"{torch.get_num_threads()} torch threads", flush=True)
    start = time.perf_counter()
    table = Table()
    small_cases(table)
    if not quick:
        document_cases(table)
        model_cases(table)
        moe_layer(table)
    seconds = time.perf_counter() - start
    if table.wrong:
        print(f"{table.wrong} of {table.cases} cases are WRONG")
    else:
        print(f"all {table.cases} cases are right ({seconds:.0f} s); times are best times, GB/s are bytes of weights")
    print("next: ./run python -m qgmm doctor, then a script of yours: ./run python script.py (README.md, first steps)")
    return 1 if table.wrong else 0


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
