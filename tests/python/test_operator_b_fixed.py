# SPDX-License-Identifier: Apache-2.0
"""Operator B in fixed point: when it runs, its exact bits from NumPy, its bound, and that the bound means something."""

import numpy as np
import pytest
import torch

import agree
import cases
import golden
import golden_fixed
import qgmm

HALVES = [torch.bfloat16, torch.float16]
IDS = ["bf16", "fp16"]
PRECISIONS = ["default", "fast", "strict"]


def patterns(rng, m, k):
    """x by name: what sets elements aside, and what lies at the ends of the formats."""
    normal = rng.standard_normal((m, k)).astype(np.float32)
    spread = normal * 2.0 ** rng.integers(-9, 1, (m, k))
    one, channels, fifteen = normal.copy(), normal.copy(), normal / 4096
    one[m // 2, k // 2] = 900
    channels[:, :: max(1, k // 9)] *= 1000
    fifteen[:, : min(k, 15 * 30) : 30] = 700
    infinite, zeros, nan = normal.copy(), normal * 0, normal.copy()
    infinite[0], infinite[1, k // 3] = np.inf, -np.inf
    nan[m - 1, 0] = np.nan
    zeros[-1, k - 1] = 3
    return {
        "normal": normal,
        "spread": spread.astype(np.float32),
        "one": one,
        "channels": channels,
        "fifteen": fifteen,
        "infinite": infinite,
        "nan": nan,
        "zeros": zeros,
        "large": normal * 9000,
        "subnormal": normal * 2.0**-131,
        "small": normal * 2.0**-20,
    }


PATTERNS = list(patterns(np.random.default_rng(0), 3, 40))


def arguments(rng, x, dtype, n=36, e=2, extras=True):
    m, k = x.shape
    args, options = cases.weight_quant(rng, e=e, m=m, k=k, n=n, dtype=dtype, offset=extras, bias=extras)
    with np.errstate(over="ignore"):
        return (torch.from_numpy(x).to(dtype), *args[1:]), options


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=[*IDS, "fp32"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_which_calls_run_in_fixed_point(rng, dtype, precision):
    args, options = cases.weight_quant(rng, m=9, k=70, dtype=dtype)
    plan = qgmm.explain(qgmm.weight_quant_grouped_matmul, *args, **options, precision=precision)
    fixed = golden_fixed.taken(dtype, precision)
    assert plan["product"] == ("fixed16" if fixed else "float")
    qgmm.weight_quant_grouped_matmul(*args, **options, precision=precision)
    assert all(("_fixed" in kernel) == fixed for kernel in qgmm.last_run()["kernels"])


@pytest.mark.parametrize("dtype", HALVES, ids=IDS)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("m, k", [(3, 40), (60, 513)])
def test_patterns(rng, dtype, pattern, m, k):
    args, options = arguments(rng, patterns(rng, m, k)[pattern], dtype)
    finite = bool(args[0].isfinite().all())
    agree.check_weight_quant(*args, **options, precision="fast", bound=finite)


@pytest.mark.parametrize("dtype", HALVES, ids=IDS)
@pytest.mark.parametrize("k", [1, 15, 17, 64, 511, 512, 1024, 1030, 7168])
def test_inner_sizes(rng, dtype, k):
    for pattern in ("spread", "channels"):
        args, options = arguments(rng, patterns(rng, 4, k)[pattern], dtype)
        agree.check_weight_quant(*args, **options, precision="fast")


@pytest.mark.parametrize("act_type", [0, 1, 2, 4, 5])
def test_every_act(rng, act_type):
    args, options = arguments(rng, patterns(rng, 9, 600)["channels"], torch.bfloat16)
    agree.check_weight_quant(*args, **options, act_type=act_type, precision="fast")


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_thread_counts(rng, threads):
    args, options = arguments(rng, patterns(rng, 70, 700)["channels"], torch.bfloat16, n=200)
    agree.use_threads(threads)
    agree.check_weight_quant(*args, **options, precision="fast")


def test_packed_equals_plain(rng):
    for k in (600, 3000):
        args, options = arguments(rng, patterns(rng, 70, k)["channels"], torch.bfloat16, n=70)
        plain = qgmm.weight_quant_grouped_matmul(*args, **options, precision="fast")
        packed = qgmm.pack_weight(args[1])
        got = qgmm.weight_quant_grouped_matmul(args[0], packed, *args[2:], **options, precision="fast")
        agree.assert_same_bits(got, plain, "packed against plain")


def test_a_row_does_not_see_its_neighbours(rng):
    x = patterns(rng, 70, 600)["one"]
    args, options = arguments(rng, x, torch.bfloat16, e=1)
    clean = qgmm.weight_quant_grouped_matmul(*args, **options, precision="fast")
    for value in (float("nan"), 1e30, 0.0):
        other = args[0].clone()
        other[::2] = value
        y = qgmm.weight_quant_grouped_matmul(other, *args[1:], **options, precision="fast")
        agree.assert_same_bits(y[1::2], clean[1::2], f"neighbours of {value}")
    alone = dict(options, group_list=torch.tensor([1]))
    y = qgmm.weight_quant_grouped_matmul(args[0][35:36], *args[1:], **alone, precision="fast")
    agree.assert_same_bits(y, clean[35:36], "a row alone")


def test_integers_are_exact(rng):
    """Every x is a multiple of s, every sum below 2^24: fixed point and fp32 give the same bits."""
    x = torch.from_numpy(rng.integers(-64, 65, (40, 700)).astype(np.float32)).to(torch.bfloat16)
    args, options = cases.weight_quant(rng, m=40, k=700, n=50, dtype=torch.bfloat16)
    strict = qgmm.weight_quant_grouped_matmul(x, *args[1:], **options, precision="strict")
    fast = qgmm.weight_quant_grouped_matmul(x, *args[1:], **options, precision="fast")
    agree.assert_same_bits(fast, strict, "fast against strict")


def test_the_bound_would_notice_a_dropped_outlier(rng):
    x = patterns(rng, 8, 512)["normal"]
    x[:, 77] = 100
    args, options = arguments(rng, x, torch.bfloat16, n=64, extras=False)
    y = qgmm.weight_quant_grouped_matmul(*args, **options, precision="fast")
    agree.within_8_2(y, *golden.weight_quant_bounded(*args, **options, precision="fast"))
    dropped = args[0].clone()
    dropped[:, 77] = 0
    y64, error = golden.weight_quant_bounded(dropped, *args[1:], **options, precision="fast")
    room = error + golden.ulp(np.abs(y64) + error, torch.bfloat16) / 2
    assert (np.abs(y.double().numpy() - y64) > room).mean() > 0.9


def test_error_against_the_rounding_of_the_output(rng):
    """What allows the default: relative L2 error below 6 % of what rounding y to bfloat16 costs."""
    for pattern in ("normal", "channels", "one"):
        x = torch.from_numpy(patterns(rng, 16, 4096)[pattern]).to(torch.bfloat16).double().numpy()
        w = np.clip(np.rint(rng.standard_normal((4096, 64)) * 20), -127, 127)
        exact = x @ w
        fixed = golden_fixed.product(x.astype(np.float32), w.astype(np.float32)).astype(np.float64)
        rounded = torch.from_numpy(exact).to(torch.bfloat16).double().numpy()
        size = np.linalg.norm(exact)
        assert np.linalg.norm(fixed - exact) / size < 0.06 * np.linalg.norm(rounded - exact) / size, pattern
