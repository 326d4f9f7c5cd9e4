# SPDX-License-Identifier: Apache-2.0
"""How an answer is judged: bit for bit against the reference and the written order, by tolerance against float64."""

import os

import numpy as np
import torch

import golden
import golden_fixed
import golden_formats
import ieee
import qgmm

WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor):
    """The bytes of a tensor as unsigned integers of its element's width, in NumPy."""
    pattern = tensor.detach().contiguous().view(WIDTH[tensor.element_size()]).numpy()
    return pattern.view(np.dtype(f"u{tensor.element_size()}"))


def tensors_of(result):
    return result if isinstance(result, tuple) else (result,)


def assert_same_bits(one, other, what):
    for place, (a, b) in enumerate(zip(tensors_of(one), tensors_of(other), strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape, (
            f"{what}, result {place}: {a.dtype} {tuple(a.shape)} against {b.dtype} {tuple(b.shape)}"
        )
        assert_equal_patterns(bits(a), bits(b), f"{what}, result {place}")


def assert_equal_patterns(got, want, what):
    assert got.shape == want.shape, f"{what}: shape {got.shape} against {want.shape}"
    if not np.array_equal(got, want):
        where = np.argwhere(got != want)
        first = tuple(int(i) for i in where[0])
        raise AssertionError(
            f"{what}: {len(where)} of {got.size} differ; first at {first}: {got[first]:#x} against {want[first]:#x}"
        )


def reference(op, *args, **options):
    with qgmm.reference():
        return op(*args, **options)


def both(op, *args, **options):
    """The kernels' answer, after it was found equal to the reference's."""
    got = op(*args, **options)
    assert_same_bits(got, reference(op, *args, **options), f"{op.__name__} against its reference")
    return got


def quantised(args, weight):
    return (args[0], args[1] if weight is None else weight, *args[2:])


def check_swiglu(*args, weight=None, tolerance=True, **options):
    """Operator A three ways. `weight`: the plain form of a packed weight. `tolerance`: False for NaN and Inf."""
    y, y_scale = both(qgmm.grouped_matmul_swiglu_quant, *args, **options)
    plain = quantised(args, weight)
    codes, scale = golden.grouped_matmul_swiglu_quant(*plain, arithmetic=golden.Written, **options)
    assert_equal_patterns(bits(y), codes.view(np.uint8), "y against the written order")
    assert_equal_patterns(bits(y_scale), scale.view(np.uint32), "y_scale against the written order")
    if tolerance:
        real = golden.grouped_matmul_swiglu_quant(*plain, arithmetic=golden.Real, **options)
        within_8_1(y, y_scale, *real)
    return y, y_scale


def ordered(codes, dtype):
    """Codes as integers whose order is the order of the values."""
    if dtype == torch.int8:
        return codes.astype(np.int32)
    magnitude = (codes & 0x7F).astype(np.int32)
    return np.where(codes & 0x80, -magnitude, magnitude)


def within_8_1(y, y_scale, codes, scale):
    """Section 8.1: at most one step apart, 99.99 % identical, the scale to 2e-6 (2e-5 below 128 columns)."""
    if y.numel() == 0:
        return
    got = bits(y).view(np.int8) if y.dtype == torch.int8 else bits(y)
    step = np.abs(ordered(got, y.dtype) - ordered(codes, y.dtype))
    assert step.max() <= 1, f"an element is {step.max()} steps from float64"
    allowed = max(1, int(step.size * 1e-4))
    assert (step != 0).sum() <= allowed, f"{(step != 0).sum()} of {step.size} differ from float64"
    relative = 2e-6 if y.shape[-1] >= 128 else 2e-5
    error = np.abs(y_scale.numpy().astype(np.float64) - scale)
    smallest = 2.0**-149  # a subnormal scale is only as fine as that
    worst = (error / np.maximum(np.abs(scale), smallest)).max()
    assert (error <= relative * np.abs(scale) + smallest).all(), f"scale off by {worst:.3g} relative"


def check_grouped(*args, weight=None, tolerance=True, out_dtype=torch.bfloat16, **options):
    """grouped_matmul three ways; the float64 judgement allows the roundings of t, x_scale, bias, act and the output."""
    y = both(qgmm.grouped_matmul, *args, out_dtype=out_dtype, **options)
    plain = quantised(args, weight)
    written = golden.grouped_matmul(*plain, out_dtype=out_dtype, arithmetic=golden.Written, **options)
    want = golden.narrow_bits(written, out_dtype)
    assert_equal_patterns(bits(y), want, "y against the written order")
    if tolerance and out_dtype != torch.int32:
        real = golden.grouped_matmul(*plain, out_dtype=out_dtype, arithmetic=golden.Real, **options)
        scale = plain[2][0] if isinstance(plain[2], (list, tuple)) else plain[2]
        slices = scale.shape[-2] if options.get("dequant_mode") == 1 else 1
        size = np.abs(real).max(axis=1, keepdims=True, initial=0) + 1e-30  # cancellation is relative to the row
        error = (8 + 4 * slices) * 2.0**-24 * size
        close = np.abs(y.to(torch.float64).numpy() - real) <= error + golden.ulp(np.abs(real) + error, out_dtype) / 2
        assert close.all(), f"{(~close).sum()} of {close.size} are outside the float64 tolerance"
    return y


def check_weight_quant(*args, weight=None, written=None, bound=True, **options):
    """Operator B: kernels == reference, the written order if k is short (fixed point: always), 8.2."""
    y = both(qgmm.weight_quant_grouped_matmul, *args, **options)
    plain = quantised(args, weight)
    fixed = golden_fixed.taken(plain[0].dtype, options.get("precision", "default"))
    if written if written is not None else fixed or plain[0].shape[1] <= 300:
        values = golden.weight_quant_written(*plain, **options)
        assert_equal_patterns(bits(y), golden.narrow_bits(values, y.dtype), "y against the written order")
    if bound:
        within_8_2(y, *golden.weight_quant_bounded(*plain, **options))
    return y


def within_8_2(y, y64, error):
    got, largest = y.to(torch.float64).numpy(), golden.FORMATS[y.dtype][2]
    room = error + golden.ulp(np.abs(y64) + error, y.dtype) / 2
    with np.errstate(invalid="ignore"):
        close = np.abs(got - y64) <= room
    overflow = np.isinf(got) & (np.sign(got) == np.sign(y64)) & (np.abs(y64) + room > largest)
    good = close | overflow
    assert good.all(), (
        f"{(~good).sum()} of {good.size} outside the bound; worst "
        f"{np.nanmax(np.where(good, 0, np.abs(got - y64) / room)):.3g} of it"
    )


def check_dynamic(x, tolerance=True, **options):
    """dynamic_quant three ways; int4 codes are compared as packed words."""
    y, scale = both(qgmm.dynamic_quant, x, **options)
    codes, want = golden.dynamic_quant(x, arithmetic=golden.Written, **options)
    packed = options.get("dst_type") in (torch.quint4x2, 16)
    pattern = golden_formats.pack_int4(codes).view(np.uint32) if packed else codes.view(np.uint8)
    assert_equal_patterns(bits(y), pattern, "y against the written order")
    assert_equal_patterns(bits(scale), want.view(np.uint32), "scale against the written order")
    if tolerance and not packed:
        h = x.shape[-1]
        real, real_scale = golden.dynamic_quant(x, arithmetic=golden.Real, **options)
        within_8_1(y.reshape(-1, h), scale.reshape(-1), real.reshape(-1, h), real_scale.reshape(-1))
    return y, scale


def same(one, other):
    """True where every bit of the results agrees (NaN included)."""
    return all(
        a.dtype == b.dtype and np.array_equal(bits(a), bits(b))
        for a, b in zip(tensors_of(one), tensors_of(other), strict=True)
    )


def float_of(pattern):
    return float(ieee.from_bits(pattern))


def use_threads(count):
    """torch's pool and qgmm's workers: a small call would take fewer unless it is asked for a number."""
    torch.set_num_threads(count)
    os.environ["QGMM_NUM_THREADS"] = str(count)
