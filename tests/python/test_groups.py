# SPDX-License-Identifier: Apache-2.0
"""group_list in every shape, for the three grouped operators: where rows go, what is zero, what is refused."""

import numpy as np
import pytest
import torch

import agree
import cases
import golden
import qgmm

M, E = 11, 4

SITUATIONS = {  # counts; experts E, rows M
    "empty_first": [0, 4, 3, 4],
    "empty_middle": [3, 0, 0, 8],
    "empty_last": [5, 5, 1, 0],
    "all_empty": [0, 0, 0, 0],
    "all_rows_in_one": [0, 0, 11, 0],
    "one_row_each": [1, 1, 1, 1],
    "shorter_than_experts": [6, 5],
    "length_one": [11],
    "length_one_with_a_tail": [4],
    "tail_rows_zero": [2, 1, 0, 3],
    "every_row_used": [2, 3, 4, 2],
}


def swiglu(rng, group_list, kind, m=M, e=E):
    x, weight, scale, x_scale, _ = cases.swiglu(rng, e=e, m=m, k=20, n=12)
    return lambda g: agree.check_swiglu(x, weight, scale, x_scale, g, group_list_type=kind)


def grouped(rng, group_list, kind, m=M, e=E):
    (x, weight, scale, _), options = cases.grouped(rng, e=e, m=m, k=20, n=12)
    return lambda g: agree.check_grouped(x, weight, scale, g, group_list_type=kind, **options)


def weight_quant(rng, group_list, kind, m=M, e=E):
    args, options = cases.weight_quant(rng, e=e, m=m, k=20, n=12)
    options.pop("group_list")
    return lambda g: agree.check_weight_quant(*args, group_list=g, group_list_type=kind, **options)


OPERATORS = pytest.mark.parametrize("operator", [swiglu, grouped, weight_quant], ids=lambda f: f.__name__)
KINDS = pytest.mark.parametrize("kind", [0, 1], ids=["cumsum", "counts"])


def spelled(counts, kind):
    return torch.tensor(counts if kind == 1 else np.cumsum(counts).tolist())


@OPERATORS
@KINDS
@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
def test_situation(rng, operator, kind, situation):
    counts = SITUATIONS[situation]
    group_list = spelled(counts, kind)
    results = agree.tensors_of(operator(rng, group_list, kind)(group_list))
    for result in results:
        assert (agree.bits(result)[sum(counts) :] == 0).all(), "rows in no group must be zeros"
        if sum(counts):
            assert (agree.bits(result)[: sum(counts)] != 0).any()


@OPERATORS
def test_counts_equal_cumsum(rng, operator):
    state = rng.bit_generator.state
    counts = operator(rng, None, 1)(torch.tensor([3, 0, 5, 2]))
    rng.bit_generator.state = state
    agree.assert_same_bits(operator(rng, None, 0)(torch.tensor([3, 3, 8, 10])), counts, "cumsum against counts")


@OPERATORS
@KINDS
def test_more_groups_than_rows(rng, operator, kind):
    group_list = spelled([0, 1, 0, 0, 1, 0, 0, 0, 1], kind)
    operator(rng, group_list, kind, m=3, e=9)(group_list)


@OPERATORS
@KINDS
def test_no_rows_at_all(rng, operator, kind):
    group_list = spelled([0, 0, 0, 0], kind)
    for result in agree.tensors_of(operator(rng, group_list, kind, m=0)(group_list)):
        assert result.shape[0] == 0


@OPERATORS
@KINDS
def test_int32_list_strided_list_python_list(rng, operator, kind):
    group_list = spelled([2, 3, 0, 4], kind)
    call = operator(rng, group_list, kind)
    want = call(group_list)
    int32_list = group_list.to(torch.int32)
    strided_list = torch.stack([group_list, group_list - 99], 1)[:, 0]
    strided_int32_list = torch.stack([int32_list, int32_list - 99], 1)[:, 0]
    assert strided_list.stride() == (2,)
    for spelling in (int32_list, strided_list, strided_int32_list, group_list.tolist(), tuple(group_list.tolist())):
        agree.assert_same_bits(call(spelling), want, f"{spelling}")


@OPERATORS
def test_expanded_list(rng, operator):
    call = operator(rng, None, 0)
    agree.assert_same_bits(call(torch.tensor([7]).expand(4)), call(torch.tensor([7, 7, 7, 7])), "stride 0")


BAD = [
    ("decreasing", 0, [3, 2, 5, 6], r"group_list \(cumsum\) must not decrease; got 2 after 3 at index 1"),
    ("negative", 0, [-1, 2, 5, 6], "group_list must not be negative; got -1 at index 0"),
    ("negative_counts", 1, [1, 2, -7, 6], "group_list must not be negative; got -7 at index 2"),
    ("past_m", 0, [3, 4, 5, 12], r"group_list \(cumsum\) must end at or below 11 \(m\); got 12"),
    ("past_m_counts", 1, [3, 4, 5, 0], r"group_list \(counts\) must sum to at most 11 \(m\); got 12"),
    (
        "huge_counts",
        1,
        [2**63 - 1, 2**63 - 1, 2, 5],
        r"group_list \(counts\) must sum to at most 11 \(m\); got more than 9223372036854775807",
    ),
    (
        "huge_counts_without_overflow",
        1,
        [2**62, 0, 0, 0],
        rf"group_list \(counts\) must sum to at most 11 \(m\); got {2**62}",
    ),
    ("huge_cumsum", 0, [1, 2, 3, 2**63 - 1], rf"group_list \(cumsum\) must end at or below 11 \(m\); got {2**63 - 1}"),
    ("lowest_int64", 1, [0, -(2**63), 0, 0], rf"group_list must not be negative; got {-(2**63)} at index 1"),
    ("decreasing_before_a_later_negative", 0, [5, 4, -1, 99], r"must not decrease; got 4 after 5 at index 1"),
    ("decreasing_before_past_m", 0, [50, 4, 5, 99], r"must not decrease; got 4 after 50 at index 1"),
]


@OPERATORS
@pytest.mark.parametrize("kind, values, sentence", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_list(rng, operator, kind, values, sentence):
    call = operator(rng, None, kind)
    for spelling in (torch.tensor(values), values):
        with pytest.raises(ValueError, match=sentence):
            call(spelling)


@OPERATORS
def test_negative_element_is_found_before_a_later_decrease(rng, operator):
    with pytest.raises(ValueError, match="group_list must not be negative; got -1 at index 1"):
        operator(rng, None, 0)(torch.tensor([5, -1, 4, 9]))


@OPERATORS
def test_nan_in_unused_expert(rng, operator):
    if operator is weight_quant:
        args, options = cases.weight_quant(rng, e=E, m=M, k=20, n=12, group_list=[5, 5, 11, 11])
        clean = agree.check_weight_quant(*args, **options)
        for t in (args[2], options["offset"], options["bias"]):
            t[1], t[3] = float("nan"), float("inf")
        agree.assert_same_bits(agree.check_weight_quant(*args, **options), clean, "NaN in unused experts")
        return
    args = cases.swiglu(rng, e=E, m=M, k=20, n=12, group_list=[5, 5, 11, 11])
    check = agree.check_swiglu if operator is swiglu else agree.check_grouped
    if operator is grouped:
        args = (*args[:3], args[4])
    assist = cases.uniform(rng, E, 12)
    clean = check(*args, weight_assist_matrix=assist)
    for t in (args[2], assist):
        t[1], t[3] = float("nan"), float("inf")
    agree.assert_same_bits(check(*args, weight_assist_matrix=assist), clean, "NaN in unused experts")


def test_nan_x_scale_of_a_row_in_no_group(rng):
    x, weight, scale, x_scale, _ = cases.swiglu(rng, e=2, m=6)
    x_scale[4:] = float("nan")
    y, y_scale = agree.check_swiglu(x, weight, scale, x_scale, torch.tensor([1, 3]))
    assert (agree.bits(y_scale)[3:] == 0).all() and (y[3:] == 0).all()


@pytest.mark.filterwarnings("ignore:.*clamped")
def test_npu_name_clamps_and_warns_once_while_the_native_name_refuses(rng):
    args, options = cases.weight_quant(rng, e=2, m=6, offset=False, bias=False)
    too_long = torch.tensor([3, 4])
    with pytest.raises(ValueError, match=r"must sum to at most 6 \(m\); got 7"):
        qgmm.weight_quant_grouped_matmul(*args, group_list=too_long, group_list_type=1)
    y = qgmm.npu_weight_quant_gmm_v2(*args, group_list=too_long)
    agree.assert_same_bits(y, qgmm.weight_quant_grouped_matmul(*args, group_list=[3, 3], group_list_type=1), "clamped")


def test_random_lists(rng):
    x, weight, scale, x_scale, _ = cases.swiglu(rng, e=9, m=40, k=12, n=8)
    for _ in range(30):
        kind, length = int(rng.integers(2)), int(rng.integers(1, 10))
        counts = cases.counts(rng, int(rng.integers(0, 41)), length)
        group_list = spelled(counts.tolist(), kind)
        y, y_scale = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list, group_list_type=kind)
        codes, want = golden.grouped_matmul_swiglu_quant(
            x, weight, scale, x_scale, group_list, group_list_type=kind, arithmetic=golden.Written
        )
        agree.assert_equal_patterns(agree.bits(y), codes.view(np.uint8), f"{group_list}")
        agree.assert_equal_patterns(agree.bits(y_scale), want.view(np.uint32), f"{group_list}")
