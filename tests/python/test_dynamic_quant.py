# SPDX-License-Identifier: Apache-2.0
"""dynamic_quant: dtypes, ranks, smoothing, and QuantizeRow on given rows."""

import numpy as np
import pytest
import torch

import agree
import cases
import ieee
import qgmm

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
IDS = ["fp16", "bf16", "fp32"]
KINDS = [None, 1, torch.int8, torch.quint4x2, 16, 23, 24, torch.float8_e5m2, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("dst_type", KINDS, ids=str)
def test_kinds(rng, dtype, dst_type):
    agree.check_dynamic(cases.uniform(rng, 9, 136, low=-7, high=7, dtype=dtype), dst_type=dst_type)


@pytest.mark.parametrize(
    "shape", [(1, 1), (0, 8), (3, 1), (2, 3, 17), (2, 1, 3, 40), (1, 2, 1, 2, 1, 2, 1, 9), (5, 10240), (1009, 7)]
)
def test_shapes(rng, shape):
    y, scale = agree.check_dynamic(cases.uniform(rng, *shape))
    assert y.shape == shape and scale.shape == shape[:-1]


def test_strided_input(rng):
    wide = cases.uniform(rng, 4, 6, 40)
    agree.check_dynamic(wide[:, ::2, 1::3])
    agree.check_dynamic(wide.permute(2, 0, 1))
    agree.check_dynamic(wide[:1].expand(3, 6, 40))


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("smooth_dtype", ["same", "fp32"])
def test_smooth_scales(rng, dtype, smooth_dtype):
    smooth = cases.uniform(rng, 40, low=-2, high=2, dtype=dtype if smooth_dtype == "same" else torch.float32)
    agree.check_dynamic(cases.uniform(rng, 3, 5, 40, dtype=dtype), smooth_scales=smooth)


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("ends", [[4, 4, 9, 12], [0, 12, 12, 12], [12]])
def test_group_index(rng, index_dtype, ends):
    smooth = cases.uniform(rng, len(ends), 24, low=-2, high=2)
    agree.check_dynamic(
        cases.uniform(rng, 12, 24), smooth_scales=smooth, group_index=torch.tensor(ends, dtype=index_dtype)
    )


def test_zero_row():
    y, scale = agree.check_dynamic(torch.tensor([[0.0, -0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert agree.bits(scale).tolist() == [0, ieee.bits32(1 / np.float32(127))] and (y[0] == 0).all()


def test_scale_underflow():
    rows = np.array([[63, 5], [64, 5], [190, -190]], np.float32) * np.float32(2.0**-149)
    y, scale = agree.check_dynamic(torch.from_numpy(rows), tolerance=False)
    assert agree.bits(scale).tolist() == [0, 1, 1] and y.tolist() == [[0, 0], [64, 5], [127, -127]]


def test_subnormal_scale_clamps_in_every_kind():
    rows = torch.from_numpy(np.arange(1, 2000, dtype=np.float32).reshape(1, -1).T.repeat(8, 1) * np.float32(2.0**-149))
    for kind in (torch.int8, torch.quint4x2, torch.float8_e4m3fn, torch.float8_e5m2):
        agree.check_dynamic(rows, dst_type=kind, tolerance=False)


def test_halfway_to_even():
    y, scale = agree.check_dynamic(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -125.5]]))
    assert scale.item() == 1 and y[0].tolist() == [127, 0, 2, 2, 0, -2, 126, -126]


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_nan_row_inf_row_and_both(rng, dtype):
    x = cases.uniform(rng, 5, 33, dtype=dtype)
    x[1, 7], x[2, 0], x[3, 1], x[3, 30] = float("nan"), float("-inf"), float("nan"), float("inf")
    for kind in (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2):
        y, scale = agree.check_dynamic(x, dst_type=kind, tolerance=False)
        assert agree.bits(scale)[1:4].tolist() == [0x7FC00000, 0x7F800000, 0x7FC00000]
        assert (agree.bits(y)[1:4] == 0).all() and scale[[0, 4]].isfinite().all()


@pytest.mark.parametrize("dtype, kind", [(torch.float8_e4m3fn, "e4m3"), (torch.float8_e5m2, "e5m2")])
def test_fp8_ties_saturation_subnormals_signed_zero(dtype, kind):
    table = ieee.FP8[kind]
    middles = (table[:-1] + table[1:]) / 2
    row = torch.from_numpy(
        np.concatenate([[table[-1], 0.0, -0.0], table, -table, middles, -middles]).astype(np.float32)
    )
    y, scale = agree.check_dynamic(row[None], dst_type=dtype)
    assert scale.item() == 1
    codes, size = agree.bits(y)[0], len(table)
    assert codes[1:3].tolist() == [0, 0x80]
    assert codes[3 : 3 + size].tolist() == list(range(size))
    assert (codes[3 + 2 * size :] % 2 == 0).all()


def test_int4_packs_the_low_nibble_first():
    y, scale = agree.check_dynamic(torch.tensor([[7.0, 1.0, -1.0, 2.0, -7.0, 0.0, 3.0, -3.0]]), dst_type=torch.quint4x2)
    assert y.dtype == torch.int32 and y.shape == (1, 1) and scale.item() == 1
    assert agree.bits(y)[0, 0] == 0xD3092F17


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads(rng, threads):
    torch.set_num_threads(threads)
    agree.check_dynamic(cases.uniform(rng, 67, 129, dtype=torch.bfloat16))


def test_a_row_alone_and_in_a_batch(rng):
    x = cases.uniform(rng, 20, 70, dtype=torch.float16)
    y, scale = qgmm.dynamic_quant(x)
    for i in (0, 7, 19):
        one = qgmm.dynamic_quant(x[i : i + 1])
        agree.assert_same_bits(one, (y[i : i + 1], scale[i : i + 1]), f"row {i}")


def test_quantised_tokens_feed_operator_a(rng):
    tokens = cases.uniform(rng, 5, 24, dtype=torch.bfloat16)
    x, x_scale = qgmm.dynamic_quant(tokens)
    _, weight, scale, _, group_list = cases.swiglu(rng)
    agree.check_swiglu(x, weight, scale, x_scale, group_list)
