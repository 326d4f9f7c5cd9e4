# SPDX-License-Identifier: Apache-2.0
"""Operator A, the last step: QuantizeRow on rows made for it, and one bad row among good ones."""

import numpy as np
import pytest
import torch

import agree
import cases
import ieee
import qgmm


def direct(gates, ups, **options):
    """Rows whose c are given: one expert of one column pair per element, k = 1, x = w = 1."""
    h = len(gates)
    scale = torch.tensor([*gates, *ups], dtype=torch.float32).reshape(1, 2 * h)
    x, weight = torch.ones(3, 1, dtype=torch.int8), torch.ones(1, 1, 2 * h, dtype=torch.int8)
    return agree.check_swiglu(
        x, weight, scale, torch.tensor([1.0, 0.5, 1.0]), torch.tensor([3]), tolerance=False, **options
    )


def test_zero_row():
    y, y_scale = direct([0.0, 0.0, 0.0], [1.0, -2.0, 5.0])
    assert (agree.bits(y_scale) == 0).all() and (y == 0).all()


@pytest.mark.parametrize("top, stored", [(63, 0), (64, 1)])
def test_scale_underflow(top, stored):
    # a gate of 64 makes Silu the identity there: s = 64 * up, up = top / 64 * 2^-149 by smooth
    gates, ups = [64.0, 64.0], [top * 2.0**-143, 2.0**-143]
    smooth = torch.tensor([2.0**-12])
    _, y_scale = direct(gates, ups, smooth_scale=smooth)
    assert agree.bits(y_scale)[0] == stored


def test_subnormal_scale_clamps():
    # the row's maximum is 190 * 2^-149: the scale rounds to 2^-149, the quotient 190 must become 127
    y, y_scale = direct([64.0, 64.0], [190 * 2.0**-143, -190 * 2.0**-143], smooth_scale=torch.tensor([2.0**-12]))
    assert agree.bits(y_scale)[0] == 1 and y[0].tolist() == [127, -127]


def test_halfway_to_even():
    # s = 127, 2.5, 3.5, -2.5, 0.5 through a gate where Silu is the identity: the scale is exactly 1
    ups = [v / 64 for v in (127.0, 2.5, 3.5, -2.5, 0.5)]
    y, y_scale = direct([64.0] * 5, ups)
    assert y_scale[0] == 1.0 and y[0].tolist() == [127, 2, 4, -2, 0]


@pytest.mark.parametrize("quant_dtype", [torch.int8, torch.float8_e4m3fn, torch.float8_e5m2])
def test_nan_row(rng, quant_dtype):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, m=6, group_list=[3, 6])
    clean = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list, quant_dtype=quant_dtype)
    x_scale[1] = float("nan")
    y, y_scale = agree.check_swiglu(x, weight, scale, x_scale, group_list, quant_dtype=quant_dtype, tolerance=False)
    assert agree.bits(y_scale)[1] == ieee.NAN32 and (agree.bits(y)[1] == 0).all()
    others = [0, 2, 3, 4, 5]
    agree.assert_same_bits((y[others], y_scale[others]), (clean[0][others], clean[1][others]), "NeighboursUnaffected")


@pytest.mark.parametrize("bits", [8, 4])
def test_neighbours_unaffected(rng, bits):
    """Rows of NaN, Inf and zero next to ordinary ones, in both groups."""
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, m=30, k=70, n=64, bits=bits, group_list=[14, 30])
    clean = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list)
    spoilt = [0, 5, 13, 14, 20, 29]
    for place, value in zip(spoilt, [float("nan"), float("inf"), 0.0, float("-inf"), 1e38, float("nan")], strict=True):
        x_scale[place] = value
    y, y_scale = agree.check_swiglu(x, weight, scale, x_scale, group_list, tolerance=False)
    others = [i for i in range(30) if i not in spoilt]
    agree.assert_same_bits((y[others], y_scale[others]), (clean[0][others], clean[1][others]), "neighbours")


def test_canonical_nan_from_any_nan(rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, m=6, group_list=[3, 6])
    for pattern in (0x7F800001, 0xFFC12345, 0x7FFFFFFF):
        x_scale[4] = agree.float_of(pattern)
        assert (
            agree.bits(agree.check_swiglu(x, weight, scale, x_scale, group_list, tolerance=False)[1])[4] == ieee.NAN32
        )


def test_inf_row():
    # products overflow without a NaN: up = 3e38, gate = 64
    y, y_scale = direct([64.0, 64.0], [3e38, 1.0])
    assert agree.bits(y_scale)[0] == 0x7F800000 and (y[0] == 0).all()


def test_nan_and_inf_row():
    y, y_scale = direct([64.0, float("-inf")], [3e38, 1.0])
    assert agree.bits(y_scale)[0] == ieee.NAN32 and (y[0] == 0).all()


def test_inf_x_scale_with_padded_columns(rng):
    # h = 17: padding columns would be 0 * Inf = NaN; only real columns may count
    x, weight = torch.ones(2, 1, dtype=torch.int8), torch.ones(1, 1, 34, dtype=torch.int8)
    args = (x, weight, cases.scales(rng, 1, 34), torch.tensor([float("inf"), 1.0]), torch.tensor([2]))
    y, y_scale = agree.check_swiglu(*args, tolerance=False)
    assert agree.bits(y_scale)[0] == 0x7F800000 and y_scale[1].isfinite() and (y[0] == 0).all()


@pytest.mark.parametrize("quant_dtype, kind", [(torch.float8_e4m3fn, "e4m3"), (torch.float8_e5m2, "e5m2")])
def test_fp8_ties_saturation_subnormals_signed_zero(quant_dtype, kind):
    table = ieee.FP8[kind]
    top = table[-1]
    middles = (table[:-1] + table[1:]) / 2
    values = np.concatenate([[top, -top, 0.0, -0.0, table[1], -table[1] / 2], middles, -middles])
    y, y_scale = direct([64.0] * len(values), (values / 64).tolist(), quant_dtype=quant_dtype)
    assert y_scale[0] == 1.0 and y.dtype == quant_dtype
    codes = agree.bits(y)[0]
    assert codes[2:4].tolist() == [0x00, 0x80] and codes[4] == 1 and codes[5] == 0x80
    even = codes[6 : 6 + len(middles)]
    assert (even % 2 == 0).all()
