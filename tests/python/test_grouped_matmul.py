# SPDX-License-Identifier: Apache-2.0
"""grouped_matmul, the down projection: every output type, bias, activation and scale form."""

import numpy as np
import pytest
import torch

import agree
import cases
import ieee
import qgmm

OUT = [torch.float16, torch.bfloat16, torch.float32, torch.int32]
OUT_IDS = ["to_fp16", "to_bf16", "to_fp32", "to_int32"]


def run(rng, out_dtype=torch.bfloat16, sizes=None, **options):
    args, scale = cases.grouped(rng, **(sizes or {}))
    if out_dtype == torch.int32:
        args, scale = (*args[:2], None, args[3]), {}
    return agree.check_grouped(*args, out_dtype=out_dtype, **scale, **options)


@pytest.mark.parametrize("out_dtype", OUT, ids=OUT_IDS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("m", [0, 1, 5, 66])
def test_output_types(rng, out_dtype, bits, m):
    run(rng, out_dtype, dict(m=m, k=37, n=40, e=3, bits=bits))


@pytest.mark.parametrize("n", [1, 2, 7, 15, 16, 17, 31, 33, 63, 65])
def test_widths_even_and_odd(rng, n):
    run(rng, torch.float32, dict(m=6, k=20, n=n))


@pytest.mark.parametrize("k", [1, 3, 4, 5, 63, 64, 65, 127, 129])
@pytest.mark.parametrize("bits", [8, 4])
def test_inner_sizes(rng, k, bits):
    run(rng, torch.float32, dict(m=6, k=k, n=24, bits=bits))


@pytest.mark.parametrize("slices", [1, 2, 8, 56])
@pytest.mark.parametrize("bits", [8, 4])
def test_slices(rng, slices, bits):
    run(rng, torch.float32, dict(m=9, k=112, n=40, slices=slices, bits=bits), dequant_mode=1)


@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.float16, torch.bfloat16, torch.float32], ids=["int32", "fp16", "bf16", "fp32"]
)
def test_bias_dtypes(rng, dtype):
    bias = cases.uniform(rng, 2, 16, low=-3, high=3, dtype=dtype)
    if dtype == torch.int32:
        bias = torch.from_numpy(rng.integers(-9999, 9999, (2, 16), dtype=np.int32))
    run(rng, torch.float16, bias=bias)


def test_float_bias_with_slices(rng):
    run(rng, torch.float16, dict(slices=3), dequant_mode=1, bias=cases.uniform(rng, 2, 16))


@pytest.mark.parametrize("act_type", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("out_dtype", OUT[:3], ids=OUT_IDS[:3])
def test_every_act(rng, act_type, out_dtype):
    run(rng, out_dtype, dict(m=12), act_type=act_type, bias=cases.uniform(rng, 2, 16))


@pytest.mark.parametrize("slices", [0, 3])
def test_assist(rng, slices):
    run(
        rng,
        torch.float32,
        dict(bits=4, slices=slices),
        dequant_mode=int(slices > 0),
        weight_assist_matrix=cases.uniform(rng, 2, 16),
    )


def test_x_scale_none(rng):
    args, _ = cases.grouped(rng)
    agree.check_grouped(*args, out_dtype=torch.float32)


def test_int32_output_with_bias(rng):
    bias = torch.from_numpy(rng.integers(-(2**31), 2**31, (2, 16)).astype(np.int32))
    run(rng, torch.int32, bias=bias)


def test_int32_output_in_slices_of_kernels(rng):
    """Without scales there is one slice, however long k is."""
    run(rng, torch.int32, dict(m=4, k=5000, n=40))


def test_table_of_bits_thresholds_and_subnormals_through_silu(rng):
    # x = w = 1, so z is the scale: Silu's own bits are the fp32 output
    special = [
        0.5,
        1,
        -1,
        10,
        -10,
        -88,
        float.fromhex("0x1.62e42ep+6"),
        float.fromhex("-0x1.62e43p+6"),
        16.6355324,
        88.7228394,
        -88.7228394,
        -103.972084,
        1e-40,
        -1e-40,
        1e-45,
        -1e-45,
        0.0,
        -0.0,
        float("inf"),
        float("-inf"),
        float("nan"),
        3.4e38,
        -3.4e38,
    ]
    pattern = rng.integers(0, 2**32, 40000, dtype=np.uint32)
    near = rng.uniform(-110, 110, 40000).astype(np.float32)
    z = np.concatenate([np.array(special, np.float32), pattern.view(np.float32), near])
    weight = torch.ones(1, 1, len(z), dtype=torch.int8)
    y = agree.check_grouped(
        torch.ones(1, 1, dtype=torch.int8),
        weight,
        torch.from_numpy(z)[None],
        torch.tensor([1]),
        out_dtype=torch.float32,
        act_type=5,
        tolerance=False,
    )
    assert agree.bits(y)[0, :8].tolist() == [
        0x3E9F597F,
        0x3F3B26A8,
        0xBE89B2B1,
        0x411FFE24,
        0xB9EE03FC,
        0x83354DDC,
        0x42B17217,
        0x80000000,
    ]


@pytest.mark.parametrize("act_type", [2, 4])
def test_gelus_over_all_magnitudes(rng, act_type):
    z = np.concatenate(
        [
            rng.integers(0, 2**32, 20000, dtype=np.uint32).view(np.float32),
            rng.uniform(-20, 20, 20000).astype(np.float32),
        ]
    )
    agree.check_grouped(
        torch.ones(1, 1, dtype=torch.int8),
        torch.ones(1, 1, len(z), dtype=torch.int8),
        torch.from_numpy(z)[None],
        torch.tensor([1]),
        out_dtype=torch.float32,
        act_type=act_type,
        tolerance=False,
    )


def test_canonical_nan_in_every_output_type(rng):
    args, options = cases.grouped(rng, m=6, group_list=[3, 6])
    options["x_scale"][4] = agree.float_of(0xFFC12345)
    for out_dtype, nan in ((torch.float32, ieee.NAN32), (torch.float16, 0x7E00), (torch.bfloat16, 0x7FC0)):
        y = agree.check_grouped(*args, **options, out_dtype=out_dtype, tolerance=False)
        assert (agree.bits(y)[4] == nan).all() and y[3].isfinite().all()


def test_a_layer_with_int8_between_the_products(rng):
    """A, then the down projection on its result, against float64 with the same int8 in between."""
    x, gate_up, scale, x_scale, group_list = cases.swiglu(rng, e=3, m=20, k=64, n=96)
    y, y_scale = agree.check_swiglu(x, gate_up, scale, x_scale, group_list)
    down, down_scale = cases.int8(rng, 3, 48, 64), cases.scales(rng, 3, 64, size=1e-3)
    agree.check_grouped(y, down, down_scale, group_list, x_scale=y_scale, out_dtype=torch.bfloat16)
    assert qgmm.grouped_matmul(y, down, down_scale, group_list, x_scale=y_scale).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "sizes",
    [
        dict(m=1009, k=36, n=21, e=5),
        dict(m=3, k=131071, n=5, e=1),
        dict(m=5, k=40, n=10240, e=2),
        dict(m=70, k=9, n=9, e=1024),
    ],
    ids=["m1009", "k131071", "n10240", "e1024"],
)
def test_large_in_one_size(rng, sizes):
    run(rng, torch.float32, sizes)
