# SPDX-License-Identifier: Apache-2.0
"""Operator A's options: limit, smoothing, assist matrix, bias, the hint, and the output type's spellings."""

import numpy as np
import pytest
import torch

import agree
import cases
import qgmm


@pytest.mark.parametrize("limit", [0.0, float("inf"), 1e300], ids=["zero", "inf", "huge"])
def test_limit_off(rng, limit):
    args = cases.swiglu(rng, size=0.1)
    plain = qgmm.grouped_matmul_swiglu_quant(*args)
    agree.assert_same_bits(agree.check_swiglu(*args, swiglu_limit=limit), plain, "limit off")


@pytest.mark.parametrize("limit", [1e-50, 1e-40, 1e-3], ids=["below_fp32", "subnormal", "small"])
def test_limit_tiny(rng, limit):
    agree.check_swiglu(*cases.swiglu(rng, m=9), swiglu_limit=limit, tolerance=limit > 1e-39)


def test_limit_ten(rng):
    args = cases.swiglu(rng, size=0.05)
    y = agree.check_swiglu(*args, swiglu_limit=10.0)
    assert not agree.same(y, qgmm.grouped_matmul_swiglu_quant(*args))


def test_limit_with_nan(rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, group_list=[2, 5])
    scale[0, 3] = float("nan")
    scale[1, 12] = float("-inf")
    y, y_scale = agree.check_swiglu(x, weight, scale, x_scale, group_list, swiglu_limit=7.0, tolerance=False)
    assert y_scale[:2].isnan().all() and (y[:2] == 0).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_smooth_per_expert(rng, bits):
    agree.check_swiglu(*cases.swiglu(rng, e=3, bits=bits), smooth_scale=cases.uniform(rng, 3, low=-2, high=2))


@pytest.mark.parametrize("bits", [8, 4])
def test_smooth_per_column(rng, bits):
    agree.check_swiglu(*cases.swiglu(rng, e=3, n=48, bits=bits), smooth_scale=cases.uniform(rng, 3, 24))


@pytest.mark.parametrize("slices", [0, 2, 7])
def test_assist_true_near_none(rng, slices):
    x, weight, scale, *rest = cases.swiglu(rng, m=16, k=448, n=288, bits=4, slices=slices)
    repeated = scale[:, None] if slices == 0 else scale
    wide = repeated.to(torch.float64).repeat_interleave(448 // repeated.shape[1], dim=1)
    assist = (8 * (torch.from_numpy(cases.as_values(weight)).double() * wide).sum(1)).float()
    mode = int(slices > 0)
    y, y_scale = agree.check_swiglu(x, weight, scale, *rest, weight_assist_matrix=assist, dequant_mode=mode)
    none, none_scale = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, *rest, dequant_mode=mode)
    assert (y.int() - none.int()).abs().max() <= 1
    assert ((y_scale - none_scale).abs() <= 1e-5 * none_scale).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_assist_random(rng, bits):
    args = cases.swiglu(rng, m=16, n=32, bits=bits)
    assist = cases.uniform(rng, 2, 32, low=-4, high=4)
    agree.check_swiglu(*args, weight_assist_matrix=assist)
    agree.check_swiglu(*args, weight_assist_matrix=[assist[0], assist[1]])
    agree.check_swiglu(*args, weight_assist_matrix=[assist])


@pytest.mark.parametrize("bits", [8, 4])
def test_assist_per_slice(rng, bits):
    args = cases.swiglu(rng, m=16, k=96, n=32, bits=bits, slices=3)
    agree.check_swiglu(*args, weight_assist_matrix=cases.uniform(rng, 2, 32), dequant_mode=1)


def test_assist_with_many_rows(rng):
    args = cases.swiglu(rng, e=1, m=520, k=20, n=32, group_list=[517], bits=4)
    agree.check_swiglu(*args, weight_assist_matrix=cases.uniform(rng, 1, 32))


@pytest.mark.parametrize("bits", [8, 4])
def test_bias_zero_equals_none(rng, bits):
    args = cases.swiglu(rng, bits=bits)
    plain = qgmm.grouped_matmul_swiglu_quant(*args)
    zero = torch.zeros(2, 16, dtype=torch.int32)
    agree.assert_same_bits(agree.check_swiglu(*args, bias=zero), plain, "bias 0 against None")
    bias = torch.from_numpy(rng.integers(-30000, 30000, (2, 16), dtype=np.int32))
    assert not agree.same(agree.check_swiglu(*args, bias=bias), plain)


@pytest.mark.parametrize("config", [[1], [64], [4096], [16, 2, 3], [], [0], [-7], [2**63 - 1], [-(2**63)]])
def test_tuning_config_ignored(rng, config):
    args = cases.swiglu(rng, m=70, k=72, n=96)
    agree.assert_same_bits(
        agree.check_swiglu(*args, tuning_config=config),
        qgmm.grouped_matmul_swiglu_quant(*args),
        f"tuning_config {config}",
    )


@pytest.mark.parametrize(
    "spellings, dtype",
    [
        ((None, 0, 1, torch.int8), torch.int8),
        ((2, 23, torch.float8_e5m2), torch.float8_e5m2),
        ((3, 24, torch.float8_e4m3fn), torch.float8_e4m3fn),
    ],
    ids=["int8", "e5m2", "e4m3"],
)
def test_quant_dtype_spellings(rng, spellings, dtype):
    args = cases.swiglu(rng, m=9, n=80)
    results = [agree.check_swiglu(*args, quant_dtype=spelling) for spelling in spellings]
    assert all(y.dtype == dtype for y, _ in results)
    for result in results[1:]:
        agree.assert_same_bits(result, results[0], "spellings of quant_dtype")


def test_every_option_at_once(rng):
    options = dict(
        smooth_scale=cases.uniform(rng, 3, 24),
        weight_assist_matrix=cases.uniform(rng, 3, 48),
        bias=torch.from_numpy(rng.integers(-5000, 5000, (3, 48), dtype=np.int32)),
        swiglu_limit=2.5,
        quant_dtype=3,
        group_list_type=1,
        tuning_config=[4],
    )
    args = cases.swiglu(rng, e=4, m=21, k=50, n=48)[:4]
    x, weight, scale, x_scale = args
    agree.check_swiglu(x, weight[:3], scale[:3], x_scale, torch.tensor([9, 0, 7]), **options)


def test_results_are_new_and_contiguous(rng):
    args = cases.swiglu(rng)
    one, other = qgmm.grouped_matmul_swiglu_quant(*args), qgmm.grouped_matmul_swiglu_quant(*args)
    assert one[0].data_ptr() != other[0].data_ptr()
    assert one[0].is_contiguous() and one[0].shape == (5, 8) and one[1].shape == (5,) and one[1].dtype == torch.float32
