# SPDX-License-Identifier: Apache-2.0
"""Operator B: dtypes, offset, bias, activations, edge values; the bound of 8.2 and the strict kernel's exact order."""

import numpy as np
import pytest
import torch

import agree
import cases
import golden
import qgmm

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
IDS = ["fp16", "bf16", "fp32"]
ACTS = [0, 1, 2, 4, 5]


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize(
    "m, k, n", [(1, 1, 1), (0, 8, 5), (3, 3, 2), (5, 17, 31), (8, 64, 34), (65, 65, 30), (9, 256, 62)]
)
def test_shapes(rng, dtype, m, k, n):
    args, options = cases.weight_quant(rng, m=m, k=k, n=n, dtype=dtype)
    agree.check_weight_quant(*args, **options)


@pytest.mark.parametrize("m", [4, 7, 8, 9, 15, 16, 17, 63, 64])
def test_row_tiles(rng, m):
    args, options = cases.weight_quant(rng, e=1, m=m, k=20, n=35)
    agree.check_weight_quant(*args, **options)


@pytest.mark.parametrize("k", [1, 3, 4, 15, 16, 31, 33, 63, 127, 128, 129, 257])
def test_inner_sizes(rng, k):
    args, options = cases.weight_quant(rng, k=k, n=33)
    agree.check_weight_quant(*args, **options)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(m=1009, k=12, n=20, e=5),
        dict(m=2, k=131072, n=6, e=1),
        dict(m=3, k=40, n=10240, e=2),
        dict(m=70, k=9, n=10, e=1024),
        dict(m=9, k=1040, n=64, e=2),
        dict(m=4, k=7168, n=34, e=2),
    ],
    ids=["m1009", "k131072", "n10240", "e1024", "k1040", "k7168"],
)
def test_large_in_one_size(rng, sizes):
    args, options = cases.weight_quant(rng, **sizes)
    agree.check_weight_quant(*args, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_strict_is_the_written_order(rng, dtype):
    args, options = cases.weight_quant(rng, m=12, k=1500, n=40, dtype=dtype)
    agree.check_weight_quant(*args, **options, written=True, precision="strict")


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("bias", [False, True])
def test_offset_none(rng, dtype, bias):
    args, options = cases.weight_quant(rng, dtype=dtype, offset=False, bias=bias)
    agree.check_weight_quant(*args, **options)


def test_offset_none_never_multiplies(rng):
    x, weight, scale = cases.weight_quant(rng, k=4)[0]
    x = x.float()
    x[1] = 3e38  # the sum of x overflows, P does not
    weight[:] = torch.tensor([1, -1, 1, -1], dtype=torch.int8)[:, None]
    options = {"group_list": torch.tensor([3, 5])}
    y = agree.check_weight_quant(x, weight, scale.float(), **options, bound=False)
    assert y.isfinite().all()
    zero = torch.zeros(2, 16)
    assert not qgmm.weight_quant_grouped_matmul(x, weight, scale.float(), offset=zero, **options)[1].isfinite().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_offset_zero_equals_none(rng, dtype):
    args, options = cases.weight_quant(rng, dtype=dtype, offset=False)
    none = agree.check_weight_quant(*args, **options)
    zero = agree.check_weight_quant(*args, **options, offset=torch.zeros(2, 16, dtype=dtype))
    agree.assert_same_bits(zero, none, "offset 0 against None")


def test_offset_cancels(rng):
    x, weight, scale = cases.weight_quant(rng, m=9, k=200, dtype=torch.bfloat16)[0]
    weight[:] = weight[:, :1]  # one weight per column, taken out again by the offset
    offset = -weight[:, 0].to(torch.float32) + 2.0**-6
    agree.check_weight_quant(x, weight, scale, offset=offset, group_list=torch.tensor([4, 9]))


@pytest.mark.parametrize("x_dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("bias_dtype", DTYPES, ids=IDS)
def test_bias_both_dtypes(rng, x_dtype, bias_dtype):
    args, options = cases.weight_quant(rng, dtype=x_dtype, bias=False)
    bias = cases.uniform(rng, 2, 16, low=-5, high=5, dtype=bias_dtype)
    if bias_dtype in (x_dtype, torch.float32):
        agree.check_weight_quant(*args, **options, bias=bias)
    else:
        with pytest.raises(ValueError, match="bias must be"):
            qgmm.weight_quant_grouped_matmul(*args, **options, bias=bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_scale_offset_bias_in_fp32(rng, dtype):
    args, options = cases.weight_quant(rng, dtype=torch.float32)
    agree.check_weight_quant(args[0].to(dtype), *args[1:], **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("act_type", ACTS)
def test_every_act(rng, dtype, act_type):
    args, options = cases.weight_quant(rng, m=9, dtype=dtype)
    agree.check_weight_quant(*args, **options, act_type=act_type)


@pytest.mark.parametrize("act_type", ACTS)
def test_every_act_with_large_and_nan_z(rng, act_type):
    # x = w = 1: z is the scale
    z = torch.tensor(
        [
            [
                1e4,
                -1e4,
                88.75,
                -88.75,
                -104.5,
                3e38,
                -3e38,
                1e-40,
                -1e-40,
                float("nan"),
                float("inf"),
                float("-inf"),
                0.0,
                -0.0,
            ]
        ]
    )
    x, weight = torch.ones(2, 1), torch.ones(1, 1, z.shape[1], dtype=torch.int8)
    y = agree.check_weight_quant(x, weight, z, group_list=torch.tensor([2]), act_type=act_type, bound=False)
    assert y[0, 9].isnan() and agree.bits(y)[0, 9] == 0x7FC00000


def test_fp16_overflow(rng):
    x = torch.tensor([[200.0], [-200.0], [100.0]], dtype=torch.float16)
    weight = torch.full((1, 1, 4), 127, dtype=torch.int8)
    scale = torch.tensor([[4.0, 2.0, -4.0, 5.0]], dtype=torch.float16)
    y = agree.check_weight_quant(x, weight, scale, group_list=torch.tensor([3]))
    assert y[0].tolist() == [float("inf"), 50816.0, float("-inf"), float("inf")]  # 50800 = 1587.5 * 32
    assert y[1, 0] == float("-inf") and y[2, 3] == 63488.0  # 63500


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_row(rng, dtype, value):
    args, options = cases.weight_quant(rng, m=6, dtype=dtype, group_list=[3, 6])
    clean = qgmm.weight_quant_grouped_matmul(*args, **options)
    args[0][2, 5] = value
    y = agree.check_weight_quant(*args, **options, bound=False)
    assert not y[2].isfinite().any()
    others = [0, 1, 3, 4, 5]
    agree.assert_same_bits(y[others], clean[others], "NeighboursUnaffected")


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("act_type", [0, 1])
def test_integer_exact(rng, dtype, act_type):
    m, k, n, e = 11, 90, 40, 3
    x = torch.from_numpy(rng.integers(-8, 9, (m, k)).astype(np.float32)).to(dtype)
    weight = cases.int8(rng, e, k, n)
    scale = torch.from_numpy(2.0 ** rng.integers(-6, 1, (e, n))).to(torch.float32)
    offset = torch.from_numpy(rng.integers(-100, 101, (e, n)).astype(np.float32))
    bias = torch.from_numpy(rng.integers(-1000, 1001, (e, n)).astype(np.float32))
    options = dict(offset=offset, bias=bias, group_list=torch.tensor([4, 4, 11]), act_type=act_type)
    assert 8 * 228 * k * 2**6 + 1000 * 2**6 < 2**24
    exact, _ = golden.weight_quant_bounded(x, weight, scale, **options)
    y = agree.check_weight_quant(x, weight, scale, **options)
    agree.assert_same_bits(y, torch.from_numpy(exact).to(torch.float32).to(dtype), "integers against float64")


@pytest.mark.parametrize("regime", ["uniform", "gaussian", "outliers", "tiny"])
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_within_bound(rng, regime, dtype):
    args, options = cases.weight_quant(rng, m=16, k=600, n=64, dtype=dtype)
    x = args[0].float()
    if regime == "gaussian":
        x = torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32))
    elif regime == "outliers":
        x[:, rng.integers(0, 600, 6)] *= 300
    elif regime == "tiny":
        x = x * 2.0**-14  # fp16 subnormals
    agree.check_weight_quant(x.to(dtype), *args[1:], **options)


def test_the_bound_would_notice_a_dropped_term(rng):
    args, options = cases.weight_quant(rng, m=8, k=512, n=32, dtype=torch.float32)
    y = qgmm.weight_quant_grouped_matmul(*args, **options)
    shorter = args[0].clone()
    shorter[:, 77] = 0
    y64, error = golden.weight_quant_bounded(shorter, *args[1:], **options)
    assert (np.abs(y.double().numpy() - y64) > error).mean() > 0.5


def test_subnormal_inputs_and_outputs(rng):
    x = cases.uniform(rng, 4, 16) * 2.0**-130
    weight, scale = cases.int8(rng, 1, 16, 24), cases.scales(rng, 1, 24)
    y = agree.check_weight_quant(x, weight, scale, group_list=[4])
    assert ((y != 0) & (y.abs() < 2.0**-126)).any()


def test_bias_does_not_reach_rows_in_no_group(rng):
    args, options = cases.weight_quant(rng, m=6, group_list=[1, 2])
    assert (agree.bits(agree.check_weight_quant(*args, **options, act_type=5))[2:] == 0).all()


def test_group_list_none(rng):
    args, options = cases.weight_quant(rng, e=1, group_list=[5])
    whole = agree.check_weight_quant(*args, **options)
    options.pop("group_list")
    agree.assert_same_bits(agree.check_weight_quant(*args, **options), whole, "None against all rows")


def test_run_twice(rng):
    args, options = cases.weight_quant(rng, m=40, k=300, n=64)
    once = qgmm.weight_quant_grouped_matmul(*args, **options)
    agree.assert_same_bits(qgmm.weight_quant_grouped_matmul(*args, **options), once, "run twice")


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_thread_counts(rng, threads):
    args, options = cases.weight_quant(rng, e=3, m=40, k=140, n=200)
    agree.use_threads(threads)
    agree.check_weight_quant(*args, **options)


def test_gradient_is_refused_or_right(rng):
    """The backward comes later; until then its sentence is the only other right answer."""
    args, options = cases.weight_quant(rng, dtype=torch.float32)
    x = args[0].requires_grad_()
    y = qgmm.weight_quant_grouped_matmul(x, *args[1:], **options)
    agree.assert_same_bits(y.detach(), qgmm.weight_quant_grouped_matmul(x.detach(), *args[1:], **options), "forward")
    with pytest.raises(RuntimeError, match="weight_quant_grouped_matmul has no backward yet"):
        y.sum().backward()


def test_gradient_with_act_is_refused(rng):
    args, options = cases.weight_quant(rng, dtype=torch.float32)
    with pytest.raises(ValueError, match="act_type must be 0 when x requires grad; got 5"):
        qgmm.weight_quant_grouped_matmul(args[0].requires_grad_(), *args[1:], **options, act_type=5)


@pytest.mark.parametrize("turned", [False, True], ids=["plain", "transposed"])
def test_shape_of_the_document(rng, turned):
    x, scale, offset = (cases.uniform(rng, *s, low=0, dtype=torch.float16) for s in ((32, 256), (8, 128), (8, 128)))
    weight = cases.int8(rng, 8, 128, 256).transpose(-1, -2) if turned else cases.int8(rng, 8, 256, 128)
    options = dict(offset=offset, group_list=torch.tensor([1, 3, 6, 10, 15, 21, 28, 32]))
    y = agree.check_weight_quant(x, weight, scale, **options)
    counts = dict(options, group_list=torch.tensor([1, 2, 3, 4, 5, 6, 7, 4]), group_list_type=1)
    agree.assert_same_bits(qgmm.weight_quant_grouped_matmul(x, weight, scale, **counts), y, "counts against cumsum")


def test_shape_of_a_model(rng):
    sizes = np.zeros(128, np.int64)
    sizes[rng.choice(128, 6, replace=False)] = [1, 1, 2, 1, 3, 9]
    args, options = cases.weight_quant(
        rng, e=128, m=17, k=2048, n=1536, dtype=torch.bfloat16, group_list=np.cumsum(sizes)
    )
    y = qgmm.weight_quant_grouped_matmul(*args, **options)
    agree.within_8_2(y, *golden.weight_quant_bounded(*args, **options))
