# SPDX-License-Identifier: Apache-2.0
"""fp32 arithmetic as IEEE-754 writes it, in NumPy: fma, Exp, the activations, and narrowing to the storage types.

Independent of the library: nothing here reads its code. An fma is emulated in float64, where a product of two fp32 is
exact: TwoSum gives the rounding error of the addition, the sum is rounded to odd, and the one rounding to fp32 that
follows is then the rounding of the exact result (53 bits are more than 24 + 2).
"""

import numpy as np

NAN32 = np.uint32(0x7FC00000)


def f32(value):
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(value).astype(np.float32)


def bits32(value):
    return np.ascontiguousarray(f32(value)).view(np.uint32)


def from_bits(pattern):
    return np.asarray(pattern, dtype=np.uint32).view(np.float32)


def canonical(value):
    """Every computed NaN is stored as one pattern."""
    return np.where(np.isnan(value), from_bits(NAN32), value).astype(np.float32)


def fma(a, b, c):
    with np.errstate(all="ignore"):
        product = np.multiply(f32(a), f32(b), dtype=np.float64)
        addend = f32(c).astype(np.float64)
        total = product + addend
        virtual = total - product
        error = (product - (total - virtual)) + (addend - virtual)
        pattern = total.view(np.int64)
        inexact = np.isfinite(total) & (error != 0) & (pattern & 1 == 0)
        toward = np.where((error > 0) == (total > 0), 1, -1)
        odd = np.where(inexact, pattern + toward, pattern).view(np.float64)
        return odd.astype(np.float32)


def quiet(operation):
    def run(*operands):
        with np.errstate(all="ignore"):
            result = operation(*[np.asarray(v, dtype=np.float32) for v in operands])
        assert result.dtype == np.float32
        return result

    return run


mul, add, sub, div = quiet(np.multiply), quiet(np.add), quiet(np.subtract), quiet(np.divide)


def hexf(text):
    value = float.fromhex(text)
    assert float(np.float32(value)) == value
    return np.float32(value)


LOG2E, MAGIC = hexf("0x1.715476p+0"), hexf("0x1.8p+23")
LN2_HIGH, LN2_LOW = hexf("-0x1.62e43p-1"), hexf("0x1.05c61p-29")
HORNER = [hexf(c) for c in ("0x1.1242e2p-7", "0x1.55571ap-5", "0x1.555482p-3", "0x1p-1", "0x1p+0", "0x1p+0")]


def exp(t):
    t = np.atleast_1d(f32(t))
    with np.errstate(invalid="ignore"):
        t = np.where(t > hexf("0x1.64p+6"), hexf("0x1.64p+6"), t)
        t = np.where(t < hexf("-0x1.ap+6"), hexf("-0x1.ap+6"), t)
    shifted = fma(t, LOG2E, MAGIC)
    whole = sub(shifted, MAGIC)
    r = fma(whole, LN2_HIGH, t)
    r = fma(whole, LN2_LOW, r)
    p = fma(hexf("0x1.6adbdap-10"), r, HORNER[0])
    for coefficient in HORNER[1:]:
        p = fma(p, r, coefficient)
    i = (bits32(shifted).astype(np.int64) - 0x4B400000).astype(np.int64)
    i = np.where(np.isnan(t), 0, i)  # a NaN's integer part is never looked at: p is NaN already
    a = i >> 1
    first = ((a + 127) << 23).astype(np.uint32).view(np.float32)
    second = ((i - a + 127) << 23).astype(np.uint32).view(np.float32)
    return mul(mul(p, first), second)


def negate(v):
    return (bits32(v) ^ np.uint32(0x80000000)).view(np.float32)


def silu(v):
    return div(v, add(np.float32(1), exp(negate(v)))).reshape(np.shape(v))


def relu(v):
    with np.errstate(invalid="ignore"):
        return np.where(v < 0, np.float32(0), v).astype(np.float32)


def fast_gelu(v):
    return div(v, add(np.float32(1), exp(mul(v, hexf("-0x1.b3b646p+0"))))).reshape(np.shape(v))


def gelu_tanh(v):
    inner = fma(mul(v, v), hexf("-0x1.2444f2p-4"), hexf("-0x1.988454p+0"))
    return div(v, add(np.float32(1), exp(mul(v, inner)))).reshape(np.shape(v))


def to_bfloat16_bits(v):
    v = canonical(f32(v))
    pattern = v.view(np.uint32).astype(np.uint64)
    rounded = (pattern + 0x7FFF + ((pattern >> 16) & 1)) >> 16
    return np.where(np.isnan(v), 0x7FC0, rounded).astype(np.uint16)


def to_half_bits(v):
    with np.errstate(over="ignore"):
        half = f32(v).astype(np.float16)
    return np.where(np.isnan(half), 0x7E00, half.view(np.uint16)).astype(np.uint16)


def fp8_table(exponent_bits, mantissa_bits, bias, codes):
    """The values of the non-negative codes 0 .. codes - 1, in order."""
    code = np.arange(codes)
    exponent, mantissa = code >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
    unit = 2.0**-mantissa_bits
    normal = (1 + mantissa * unit) * 2.0 ** (exponent - bias)
    return np.where(exponent == 0, mantissa * unit * 2.0 ** (1 - bias), normal)


FP8 = {"e4m3": fp8_table(4, 3, 7, 0x7F), "e5m2": fp8_table(5, 2, 15, 0x7C)}  # finite codes only
assert FP8["e4m3"][-1] == 448 and FP8["e5m2"][-1] == 57344


def to_fp8_code(quotient, kind):
    """Nearest even of a float array without NaN; above the largest finite value that value, the sign of zero kept."""
    table = FP8[kind]
    magnitude = np.abs(np.asarray(quotient, dtype=np.float64))
    above = np.clip(np.searchsorted(table, magnitude, side="left"), 1, len(table) - 1)
    low, high = table[above - 1], table[above]
    middle = (low + high) / 2  # exact: neighbours of a three or two bit mantissa
    up = (magnitude > middle) | ((magnitude == middle) & (above % 2 == 0))
    code = np.where(up, above, above - 1)
    return (code | np.where(np.signbit(quotient), 0x80, 0)).astype(np.uint8)
