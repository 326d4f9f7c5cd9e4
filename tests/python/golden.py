# SPDX-License-Identifier: Apache-2.0
"""The operators in NumPy, written from the contract's formulas and from nothing else.

Every function takes the arguments of the operator it judges (torch tensors, lists, options) and an arithmetic:
`Real` is float64 and stands for the formula itself, `Written` is fp32 with one rounding for each written operation and
stands for the promised bits. Integer sums come from float64 products, exact below 2^53.
"""

import math

import numpy as np
import torch

import golden_fixed
import ieee
from golden_formats import unpack_int4


class Real:
    """The formula: float64, exact functions."""

    f = staticmethod(lambda v: np.asarray(v).astype(np.float64))
    mul, add, sub, div = np.multiply, np.add, np.subtract, np.divide
    fma = staticmethod(lambda a, b, c: a * b + c)
    silu = staticmethod(lambda v: v / (1 + np.exp(-v)))
    activations = {
        0: lambda z: z,
        1: lambda z: np.where(z < 0, 0, z),
        2: lambda z: 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
        4: lambda z: z / (1 + np.exp(-1.702 * z)),
        5: lambda z: z / (1 + np.exp(-z)),
    }


class Written:
    """The promise: fp32, the written order."""

    f = staticmethod(ieee.f32)
    mul, add, sub, div = ieee.mul, ieee.add, ieee.sub, ieee.div
    fma = staticmethod(ieee.fma)
    silu = staticmethod(ieee.silu)
    activations = {0: lambda z: z, 1: ieee.relu, 2: ieee.gelu_tanh, 4: ieee.fast_gelu, 5: ieee.silu}


def decode(tensor):
    """A float tensor of any dtype as float32 (exact); int64 scales carry float32 bits in their low word."""
    if tensor.dtype in (torch.int64, torch.uint64):
        return tensor.contiguous().numpy().view(np.uint64).astype(np.uint32).view(np.float32)
    return tensor.detach().to(torch.float32).contiguous().numpy()


class Weight:
    """Expert weights of any plain form; expert(e) is int8 [k, n]."""

    def __init__(self, weight):
        tensors = list(weight) if isinstance(weight, (list, tuple)) else [weight]
        self.stack = tensors[0] if tensors[0].dim() == 3 else None
        self.tensors = tensors
        self.int4 = tensors[0].dtype == torch.int32
        self.e = self.stack.shape[0] if self.stack is not None else len(tensors)
        self.k = tensors[0].shape[-2]
        self.n = tensors[0].shape[-1] * (8 if self.int4 else 1)

    def expert(self, index):
        matrix = (self.stack[index] if self.stack is not None else self.tensors[index]).contiguous().numpy()
        return unpack_int4(matrix) if self.int4 else matrix


def stacked(argument, dims):
    """A per-expert argument: one tensor, a list of one, or a list of e, each without its first axis."""
    if isinstance(argument, (list, tuple)):
        if len(argument) == 1 and argument[0].dim() >= dims:
            return decode(argument[0])
        return np.stack([decode(t) for t in argument])
    return decode(argument)


def row_ranges(group_list, kind, m, experts):
    """(expert, begin, end) for every entry of the list, by the loop of the contract."""
    if group_list is None:
        return [(0, 0, m)]
    values = [int(v) for v in (group_list.tolist() if torch.is_tensor(group_list) else group_list)]
    assert 1 <= len(values) <= experts
    start, ranges = 0, []
    for expert, value in enumerate(values):
        end = start + min(max(value, 0), m - start) if kind == 1 else min(max(value, start), m)
        ranges.append((expert, start, end))
        start = end
    return ranges


def wrap32(values):
    return np.asarray(values, dtype=np.int64).astype(np.uint32).view(np.int32)


def exact_sums(x, w):
    """Integer x [m, k] times integer w [k, n], exactly: every partial sum is below 2^53."""
    return (x.astype(np.float64) @ w.astype(np.float64)).astype(np.int64)


def dequantised(x, w, scale, bias, assist, arithmetic):
    """t of section 3.1 for the rows of one expert: x int8 [m, k], w int8 [k, n], scale [G, n]."""
    slices, width = scale.shape[0], w.shape[0] // scale.shape[0]
    f, fma = arithmetic.f, arithmetic.fma
    scale = f(scale)

    def fold(rows):
        total = f(np.zeros((rows.shape[0], w.shape[1])))
        for p in range(slices):
            part = slice(p * width, (p + 1) * width)
            total = fma(f(exact_sums(rows[:, part], w[part])), scale[p], total)
        return total

    if slices == 1:
        sums = exact_sums(x, w)
        sums = wrap32(sums if bias is None else sums + bias.astype(np.int64))
        t = arithmetic.mul(f(sums), scale[0])
    else:
        assert bias is None
        t = fold(x)
    if assist is None:
        return t
    eights = np.full((1, w.shape[0]), 8, np.int8)
    d = arithmetic.mul(f(exact_sums(eights, w)), scale[0]) if slices == 1 else fold(eights)
    return arithmetic.add(arithmetic.sub(t, d), f(assist))


LARGEST = {"int8": 127, "int4": 7, "e4m3": 448, "e5m2": 57344}


def quantize_rows(v, kind, arithmetic):
    """QuantizeRow on every row: (codes [m, h], scale [m]). Codes: int8 values, or the bytes of an fp8."""
    v = np.asarray(v)
    largest = LARGEST[kind]
    with np.errstate(all="ignore"):
        if arithmetic is Written:
            top = (ieee.bits32(v) & np.uint32(0x7FFFFFFF)).max(axis=1)
            peak = top.view(np.float32)
        else:
            peak = np.abs(v).max(axis=1)
        scale = arithmetic.div(peak, arithmetic.f(largest))
        quotient = arithmetic.div(v, scale[:, None])
        spoiled = ~(np.isfinite(scale) & (scale != 0))
        quotient = np.where(spoiled[:, None], 0, quotient)
        if kind in ieee.FP8:
            codes = ieee.to_fp8_code(quotient, kind)
        else:
            codes = np.clip(np.rint(quotient), -largest, largest).astype(np.int8)
    if arithmetic is Written:
        scale = ieee.canonical(scale)
    return codes, scale


QUANT = {
    0: "int8",
    1: "int8",
    None: "int8",
    torch.int8: "int8",
    2: "e5m2",
    23: "e5m2",
    torch.float8_e5m2: "e5m2",
    3: "e4m3",
    24: "e4m3",
    torch.float8_e4m3fn: "e4m3",
}


def swiglu_values(
    x,
    weight,
    weight_scale,
    x_scale,
    group_list,
    *,
    smooth_scale=None,
    weight_assist_matrix=None,
    bias=None,
    group_list_type=0,
    swiglu_limit=0.0,
    arithmetic,
    dequant_mode=0,
    quant_dtype=None,
    tuning_config=None,
):
    """s of operator A for all rows; rows in no group are 0."""
    del dequant_mode, quant_dtype, tuning_config
    w, rows, row_scale = Weight(weight), x.contiguous().numpy(), decode(x_scale)
    scale = stacked(weight_scale, 2)
    scale = scale[:, None] if scale.ndim == 2 else scale
    assist = None if weight_assist_matrix is None else stacked(weight_assist_matrix, 2)
    smooth = None if smooth_scale is None else decode(smooth_scale)
    f, h = arithmetic.f, w.n // 2
    s = f(np.zeros((rows.shape[0], h)))
    with np.errstate(all="ignore"):
        limit = np.float32(swiglu_limit)
    for expert, begin, end in row_ranges(group_list, group_list_type, rows.shape[0], w.e):
        if begin == end:
            continue
        with np.errstate(all="ignore"):
            t = dequantised(
                rows[begin:end],
                w.expert(expert),
                scale[expert],
                None if bias is None else bias[expert].contiguous().numpy(),
                None if assist is None else assist[expert],
                arithmetic,
            )
            c = arithmetic.mul(t, f(row_scale[begin:end, None]))
            gate, up = c[:, :h], c[:, h:]
            if swiglu_limit > 0 and np.isfinite(limit):
                bound = f(limit)
                gate = np.where(gate > bound, bound, gate)
                up = np.where(up > bound, bound, up)
                up = np.where(up < -bound, -bound, up)
            value = arithmetic.mul(arithmetic.silu(gate), up)
            if smooth is not None:
                value = arithmetic.mul(value, f(smooth[expert]))
        s[begin:end] = value
    return s


def grouped_matmul_swiglu_quant(*args, arithmetic, quant_dtype=None, **options):
    """Operator A: (codes [m, h], y_scale [m])."""
    s = swiglu_values(*args, arithmetic=arithmetic, **options)
    if s.shape[0] == 0:
        return s.astype(np.int8), s[:, 0] if s.shape[1] else s.reshape(0)
    return quantize_rows(s, QUANT[quant_dtype], arithmetic)


def grouped_matmul(
    x,
    weight,
    weight_scale,
    group_list,
    *,
    x_scale=None,
    bias=None,
    weight_assist_matrix=None,
    dequant_mode=0,
    group_list_type=0,
    act_type=0,
    out_dtype=torch.bfloat16,
    arithmetic,
):
    """The down projection before narrowing: [m, n] in the arithmetic's type (int64 for int32 output)."""
    del dequant_mode
    w, rows = Weight(weight), x.contiguous().numpy()
    ranges = row_ranges(group_list, group_list_type, rows.shape[0], w.e)
    whole_bias = bias is not None and bias.dtype == torch.int32
    int_bias = bias.contiguous().numpy() if whole_bias else None
    if out_dtype == torch.int32:
        y = np.zeros((rows.shape[0], w.n), np.int32)
        for expert, begin, end in ranges:
            if begin < end:
                sums = exact_sums(rows[begin:end], w.expert(expert))
                y[begin:end] = wrap32(sums if int_bias is None else sums + int_bias[expert].astype(np.int64))
        return y
    f = arithmetic.f
    scale = stacked(weight_scale, 2)
    scale = scale[:, None] if scale.ndim == 2 else scale
    assist = None if weight_assist_matrix is None else stacked(weight_assist_matrix, 2)
    y = f(np.zeros((rows.shape[0], w.n)))
    for expert, begin, end in ranges:
        if begin == end:
            continue
        with np.errstate(all="ignore"):
            z = dequantised(
                rows[begin:end],
                w.expert(expert),
                scale[expert],
                None if int_bias is None else int_bias[expert],
                None if assist is None else assist[expert],
                arithmetic,
            )
            if x_scale is not None:
                z = arithmetic.mul(z, f(decode(x_scale)[begin:end, None]))
            if bias is not None and int_bias is None:
                z = arithmetic.add(z, f(decode(bias)[expert]))
            y[begin:end] = arithmetic.activations[act_type](z)
    return y


def dynamic_quant(x, *, smooth_scales=None, group_index=None, dst_type=None, arithmetic):
    """(codes [..., h] unpacked, scale [...])."""
    kind = {torch.quint4x2: "int4", 16: "int4"}.get(dst_type) or QUANT[dst_type]
    v = decode(x)
    lead, h = v.shape[:-1], v.shape[-1]
    v = arithmetic.f(v.reshape(-1, h))
    if smooth_scales is not None:
        smooth = arithmetic.f(decode(smooth_scales)).reshape(-1, h)
        ends = [v.shape[0]] if group_index is None else [int(i) for i in group_index]
        which = np.searchsorted(np.asarray(ends), np.arange(v.shape[0]), side="right")
        v = arithmetic.mul(v, smooth[which])
    if v.shape[0] == 0:
        return v.astype(np.int8).reshape(*lead, h), v[:, 0].reshape(lead)
    codes, scale = quantize_rows(v, kind, arithmetic)
    return codes.reshape(*lead, h), scale.reshape(lead)


# --- operator B ---------------------------------------------------------------------------------------------------


def weight_quant_bounded(
    x,
    weight,
    scale,
    *,
    offset=None,
    bias=None,
    group_list=None,
    group_list_type=0,
    act_type=0,
    precision="default",
    slack=1.0,
):
    """(y64, bound without the output's own rounding) of section 8.2, both float64 [m, n]. slack is the C there."""
    fixed = golden_fixed.taken(x.dtype, precision)
    w, rows = Weight(weight), decode(x).astype(np.float64)
    m, k = rows.shape
    y, bound = np.zeros((m, w.n)), np.zeros((m, w.n))
    u, growth = 2.0**-24, min(k, 8 * math.sqrt(k)) + 8
    for expert, begin, end in row_ranges(group_list, group_list_type, m, w.e):
        if begin == end:
            continue
        part, matrix = rows[begin:end], w.expert(expert).astype(np.float64)
        s = decode(scale)[expert].astype(np.float64)
        o = 0.0 if offset is None else decode(offset)[expert].astype(np.float64)
        b = 0.0 if bias is None else decode(bias)[expert].astype(np.float64)
        with np.errstate(all="ignore"):
            z = s * (part @ matrix + (0.0 if offset is None else o * part.sum(1, keepdims=True))) + b
            size = np.abs(part) @ np.abs(matrix)
            if offset is not None:
                size = size + np.abs(o) * np.abs(part).sum(1, keepdims=True)
            if fixed:
                error = np.abs(s) * (golden_fixed.error(part.astype(np.float32), matrix) + 4 * u * size)
            else:
                error = slack * growth * u * np.abs(s) * size
            error = error + 2 * u * np.abs(b)
            y[begin:end] = Real.activations[act_type](z)
            bound[begin:end] = error if act_type == 0 else 1.13 * error + 8 * u * np.abs(z)
    return y, bound


def weight_quant_written(
    x, weight, scale, *, offset=None, bias=None, group_list=None, group_list_type=0, act_type=0, precision="default"
):
    """What the kernels promise before narrowing. Strict: fp32 fma, k ascending, in one lane; the sum of x in double."""
    fixed = golden_fixed.taken(x.dtype, precision)
    w, rows = Weight(weight), decode(x)
    y = np.zeros((rows.shape[0], w.n), np.float32)
    for expert, begin, end in row_ranges(group_list, group_list_type, rows.shape[0], w.e):
        if begin == end:
            continue
        part, matrix = rows[begin:end], w.expert(expert).astype(np.float32)
        total = golden_fixed.product(part, matrix) if fixed else np.zeros((end - begin, w.n), np.float32)
        for kk in range(0 if fixed else w.k):
            total = ieee.fma(part[:, kk : kk + 1], matrix[kk], total)
        if offset is not None:
            with np.errstate(all="ignore"):
                row_sum = ieee.f32(np.cumsum(part.astype(np.float64), axis=1)[:, -1:])  # cumsum adds one by one
            total = ieee.fma(decode(offset)[expert], row_sum, total)
        s = decode(scale)[expert]
        z = ieee.mul(s, total) if bias is None else ieee.fma(s, total, decode(bias)[expert])
        y[begin:end] = Written.activations[act_type](z)
    return y


FORMATS = {
    torch.float16: (10, -14, 65504.0),
    torch.bfloat16: (7, -126, float.fromhex("0x1.fep+127")),
    torch.float32: (23, -126, float.fromhex("0x1.fffffep+127")),
}


def ulp(magnitude, dtype):
    """Distance of neighbours of an output type at a float64 magnitude."""
    digits, lowest, _ = FORMATS[dtype]
    with np.errstate(all="ignore"):
        exponent = np.maximum(np.frexp(np.where(np.isfinite(magnitude), magnitude, 1.0))[1] - 1, lowest)
    return np.exp2(exponent - digits)


def narrow_bits(values, dtype):
    """fp32 (or int32) results narrowed once, as unsigned integers of the output's width."""
    if dtype == torch.int32:
        return values.astype(np.int32).view(np.uint32)
    if dtype == torch.float32:
        return ieee.canonical(values).view(np.uint32)
    return ieee.to_half_bits(values) if dtype == torch.float16 else ieee.to_bfloat16_bits(values)
