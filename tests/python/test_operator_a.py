# SPDX-License-Identifier: Apache-2.0
"""Operator A: shapes, integer extremes and scales, against reference, written order and float64."""

import numpy as np
import pytest
import torch

import agree
import cases
import golden
import qgmm

SMALL_M = [0, 1, 3, 4, 5, 7, 8, 9, 63, 64, 65]
SMALL_K = [1, 3, 4, 15, 16, 17, 31, 32, 33, 63, 64, 65]
SMALL_N = [2, 6, 30, 34, 62, 66, 1056]


@pytest.mark.parametrize("m", SMALL_M)
def test_rows(rng, m):
    agree.check_swiglu(*cases.swiglu(rng, m=m, k=40, n=48))


@pytest.mark.parametrize("k", SMALL_K)
@pytest.mark.parametrize("bits", [8, 4])
def test_inner_sizes(rng, k, bits):
    agree.check_swiglu(*cases.swiglu(rng, m=6, k=k, n=32, bits=bits))


@pytest.mark.parametrize("n", SMALL_N)
def test_widths(rng, n):
    agree.check_swiglu(*cases.swiglu(rng, m=6, k=33, n=n))


@pytest.mark.parametrize("n", [8, 24, 40, 48, 72, 1056])
def test_widths_of_int4(rng, n):
    agree.check_swiglu(*cases.swiglu(rng, m=6, k=33, n=n, bits=4))


@pytest.mark.parametrize("e", [1, 3, 256])
def test_experts(rng, e):
    agree.check_swiglu(*cases.swiglu(rng, e=e, m=40, k=20, n=12))


@pytest.mark.parametrize("bits", [8, 4])
def test_all_tails_together(rng, bits):
    agree.check_swiglu(*cases.swiglu(rng, e=3, m=67, k=131, n=72 if bits == 4 else 70, bits=bits))


@pytest.mark.parametrize(
    "sizes",
    [
        dict(m=1009, k=36, n=20, e=5),
        dict(m=3, k=131071, n=6, e=1),
        dict(m=5, k=40, n=10240, e=2),
        dict(m=70, k=9, n=10, e=1024),
        dict(m=9, k=1040, n=64, e=2),
        dict(m=4, k=7168, n=34, e=2),
    ],
    ids=["m1009", "k131071", "n10240", "e1024", "k1040", "k7168"],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_large_in_one_size(rng, sizes, bits):
    if bits == 4:
        sizes = {**sizes, "n": -(-sizes["n"] // 8) * 8}
    agree.check_swiglu(*cases.swiglu(rng, bits=bits, **sizes))


# --- integer extremes ---------------------------------------------------------------------------------------------


def constant(x_value, w_value, k, n=6, m=3):
    x = torch.full((m, k), x_value, dtype=torch.int8)
    weight = torch.full((1, k, n), w_value, dtype=torch.int8)
    return x, weight, torch.full((1, n), 2.0**-28), torch.linspace(0.5, 2, m), torch.tensor([m])


@pytest.mark.parametrize("k", [1, 64, 1000, 131071])
def test_all_minus_128(k):
    agree.check_swiglu(*constant(-128, -128, k))


@pytest.mark.parametrize("k", [1, 64, 1000, 131071])
def test_all_plus_127(k):
    agree.check_swiglu(*constant(127, 127, k))


@pytest.mark.parametrize("k", [1, 64, 1000, 131071])
def test_minus_128_times_plus_127(k):
    agree.check_swiglu(*constant(-128, 127, k))
    agree.check_swiglu(*constant(127, -128, k))


def test_uniform_full_range(rng):
    x, weight, *rest = cases.swiglu(rng, m=16, k=512, n=64)
    for value in (-128, 127):
        assert (x == value).any() and (weight == value).any()
    agree.check_swiglu(x, weight, *rest)


def test_alternating_signs():
    x, weight, *rest = constant(-128, -128, 257)
    x[:, 1::2] = 127
    weight[:, ::2] = 127
    agree.check_swiglu(x, weight, *rest)
    weight[:, :, 1::2] = torch.where(torch.arange(257)[:, None] % 2 == 0, 127, -128).to(torch.int8)
    agree.check_swiglu(x, weight, *rest)


def test_sum_above_2_to_24():
    # 1025 products of 16384 and one of 1: 16,793,601 is odd and above 2^24, so f(a) must round
    x, weight, *rest = constant(-128, -128, 1026, n=2)
    x[:, -1], weight[:, -1] = 1, 1
    y = qgmm.grouped_matmul(x, weight, None, rest[-1], out_dtype=torch.int32)
    assert (y == 1025 * 16384 + 1).all() and float(np.float32(y[0, 0].item())) != y[0, 0].item()
    agree.check_swiglu(x, weight, *rest)


def test_sum_at_int32_edge():
    x, weight, *rest = constant(-128, -128, 131071, n=2)
    y = qgmm.grouped_matmul(x, weight, None, rest[-1], out_dtype=torch.int32)
    assert (y == 2147467264).all()
    agree.check_swiglu(x, weight, *rest)
    agree.check_swiglu(x, weight, *rest, bias=torch.full((1, 2), 16383, dtype=torch.int32))  # 2^31 - 1


def test_bias_wraps():
    x, weight, *rest = constant(-128, -128, 131071, n=2)
    bias = torch.full((1, 2), 16384, dtype=torch.int32)
    y = qgmm.grouped_matmul(x, weight, None, rest[-1], bias=bias, out_dtype=torch.int32)
    assert (y == -(2**31)).all()
    agree.check_swiglu(x, weight, *rest, bias=bias)


def test_int4_all_values_both_nibbles(rng):
    nibbles = torch.arange(256, dtype=torch.int64)
    words = sum(((nibbles + 37 * i) % 256) << (8 * i) for i in range(4)).to(torch.uint32).view(torch.int32)
    weight = words.reshape(1, 32, 8).contiguous()
    x = cases.int8(rng, 5, 32)
    agree.check_swiglu(x, weight, torch.full((1, 64), 2.0**-10), torch.ones(5), torch.tensor([5]))


@pytest.mark.parametrize("k", [1, 7, 64, 1000, 131071])
def test_int4_x_minus_128(k):
    x = torch.full((2, k), -128, dtype=torch.int8)
    weight = torch.full((1, k, 1), int(np.uint32(0x87F10288).view(np.int32)), dtype=torch.int32)
    agree.check_swiglu(x, weight, torch.full((1, 8), 2.0**-20), torch.ones(2), torch.tensor([2]))


# --- scales -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("slices", [0, 2])
def test_scale_dtypes(rng, dtype, bits, slices):
    x, weight, scale, *rest = cases.swiglu(rng, bits=bits, slices=slices, size=2.0**-9)
    agree.check_swiglu(x, weight, scale.to(dtype), *rest, dequant_mode=int(slices > 0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64])
def test_int64_with_high_word_set(rng, dtype):
    x, weight, scale, *rest = cases.swiglu(rng, bits=4)
    high = torch.from_numpy(rng.integers(0, 2**31, scale.shape)) << 32
    carried = (scale.view(torch.int32).to(torch.int64) & 0xFFFFFFFF) | high | (1 << 46)
    got = agree.check_swiglu(x, weight, carried.view(dtype), *rest)
    agree.assert_same_bits(got, qgmm.grouped_matmul_swiglu_quant(x, weight, scale, *rest), "int64 against fp32 scales")


@pytest.mark.parametrize("slices", [1, 2, 56, 0])
@pytest.mark.parametrize("bits", [8, 4])
def test_slices_of_k(rng, slices, bits):
    k = 112
    agree.check_swiglu(*cases.swiglu(rng, m=7, k=k, n=40, slices=slices or k, bits=bits), dequant_mode=1)


@pytest.mark.parametrize("width", [1, 32, 256, 300])
@pytest.mark.parametrize("bits", [8, 4])
def test_slices_of_width(rng, width, bits):
    agree.check_swiglu(*cases.swiglu(rng, m=7, k=3 * width, n=40, slices=3, bits=bits), dequant_mode=1)


def test_one_slice_equals_per_channel(rng):
    x, weight, scale, *rest = cases.swiglu(rng)
    want = agree.check_swiglu(x, weight, scale, *rest)
    for mode in (0, 1):
        got = qgmm.grouped_matmul_swiglu_quant(x, weight, scale[:, None], *rest, dequant_mode=mode)
        agree.assert_same_bits(got, want, f"[e, 1, n] with dequant_mode {mode}")


@pytest.mark.parametrize("bits", [8, 4])
def test_dequant_mode_mismatch(rng, bits):
    x, weight, scale, *rest = cases.swiglu(rng, bits=bits, slices=3)
    with pytest.raises(ValueError, match=r"dequant_mode must be 1 for weight_scale \[2, 3, 16\]; got 0"):
        qgmm.grouped_matmul_swiglu_quant(x, weight, scale, *rest)
    with pytest.raises(ValueError, match=r"weight_scale must be \[e, G, n\] for dequant_mode 1; got \[2, 16\]"):
        qgmm.grouped_matmul_swiglu_quant(x, weight, scale[:, 0], *rest, dequant_mode=1)


def test_negative_scales(rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng)
    agree.check_swiglu(x, weight, -scale, -x_scale, group_list)


def test_zero_scales(rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, m=8)
    scale[0] = 0
    x_scale[-1] = 0
    y, y_scale = agree.check_swiglu(x, weight, scale, x_scale, group_list, tolerance=False)
    first = int(group_list[0])
    assert (y_scale[:first] == 0).all() and (y[:first] == 0).all() and y_scale[-1] == 0


@pytest.mark.parametrize("factor", [2.0**-120, 2.0**-140])
def test_subnormal_scales(rng, factor):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, k=200)
    agree.check_swiglu(x, weight, scale * factor, x_scale, group_list, tolerance=False)
    agree.check_swiglu(x, weight, scale, x_scale * factor, group_list, tolerance=False)


# --- Silu seen through the operator -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gate",
    [
        -200.0,
        -103.972084,
        -103.9,
        -88.7228394,
        -88.7,
        -87.3,
        -16.7,
        -1e-40,
        0.0,
        1e-40,
        16.6355324,
        88.7228394,
        103.97,
        1e30,
    ],
)
def test_thresholds_of_the_gate(gate):
    # x = 1 and w = 1: c is the scale itself, so the gate column holds any fp32
    scale = torch.tensor([[gate, 1e-3 * gate, 3.0, 64.0]], dtype=torch.float32)
    args = (torch.ones(2, 1, dtype=torch.int8), torch.ones(1, 1, 4, dtype=torch.int8), scale, torch.tensor([1.0, -1.0]))
    agree.check_swiglu(*args, torch.tensor([2]), tolerance=False)


def test_gate_far_below_gives_minus_zero_times_up():
    scale = torch.tensor([[-120.0, -90.0, 3.0, -64.0]])
    args = (torch.ones(1, 1, dtype=torch.int8), torch.ones(1, 1, 4, dtype=torch.int8), scale, torch.ones(1))
    y, y_scale = agree.check_swiglu(*args, torch.tensor([1]), tolerance=False)  # float64 holds exp(120)
    assert y_scale[0] == 0 and (y == 0).all()


def judge_large(args, **options):
    """Judged by exact integer sums alone: the scalar reference would take the time of the whole suite."""
    y, y_scale = qgmm.grouped_matmul_swiglu_quant(*args, **options)
    codes, scale = golden.grouped_matmul_swiglu_quant(*args, arithmetic=golden.Written, **options)
    agree.assert_equal_patterns(agree.bits(y), codes.view(np.uint8), "y")
    agree.assert_equal_patterns(agree.bits(y_scale), scale.view(np.uint32), "y_scale")
    agree.within_8_1(y, y_scale, *golden.grouped_matmul_swiglu_quant(*args, arithmetic=golden.Real, **options))
    return y, y_scale


def test_shape_of_the_document(rng):
    x, weight = cases.int8(rng, 512, 7168), cases.int8(rng, 2, 7168, 4096)
    scale = torch.from_numpy(rng.standard_normal((2, 4096)).astype(np.float32))
    x_scale = torch.from_numpy(rng.standard_normal(512).astype(np.float32))
    y, y_scale = judge_large((x, weight, scale, x_scale, torch.tensor([128, 128])))
    assert (y[128:] == 0).all() and (agree.bits(y_scale)[128:] == 0).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_shape_of_a_model(rng, bits):
    sizes = np.zeros(128, np.int64)
    sizes[rng.choice(128, 9, replace=False)] = [1, 1, 1, 2, 2, 3, 1, 4, 17]
    args = cases.swiglu(rng, e=128, m=33, k=2048, n=1536, bits=bits, group_list=np.cumsum(sizes))
    judge_large(args)
