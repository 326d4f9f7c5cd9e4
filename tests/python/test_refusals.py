# SPDX-License-Identifier: Apache-2.0
"""One test per sentence of the contract: the called name, the argument, the rule in numbers, what came."""

import re

import numpy as np
import pytest
import torch

import cases
import qgmm
from sentences import (
    COMPANIONS,
    EVEN,
    F16,
    F32,
    GROUPED,
    I8,
    NAMES,
    OPERATOR_A,
    OPERATOR_B,
    RULES,
    A,
    B,
    G,
    a,
    b,
    d,
    ends,
    full,
    g,
    int4,
    packed,
)


def label(row):
    return re.sub(r"[^a-z0-9]+", "_", f"{NAMES[row[0]]} {row[2]}".lower()).strip("_")[:90]


def refused(call, changes, sentence, whole=True):
    with pytest.raises(ValueError) as caught:
        call(**changes)
    text = str(caught.value)
    expected = f"[{NAMES[call]}] {sentence}"
    assert text == expected if whole else text.startswith(expected[:-1]) or sentence in text, text
    assert text.startswith(f"[{NAMES[call]}] ") and "\n" not in text


ROWS = GROUPED + OPERATOR_A + OPERATOR_B + COMPANIONS


@pytest.mark.parametrize("row", ROWS, ids=[f"{i:03d}_{label(row)}" for i, row in enumerate(ROWS)])
def test_sentence(row):
    refused(*row, whole=row[2] != "x must be int8")


@pytest.mark.parametrize("row", RULES.values(), ids=RULES)
def test_rule(row):
    refused(*row, whole=False)


def message(call, *args, **options):
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    return str(caught.value)


def test_packed_kind():
    args = cases.swiglu(np.random.default_rng(0), e=1, k=8, n=16)
    assert (
        message(qgmm.grouped_matmul_swiglu_quant, args[0], packed(False), *args[2:])
        == f"[{A}] weight must be packed with swiglu=True; got a PackedWeight with swiglu=False"
    )
    assert (
        message(qgmm.grouped_matmul, args[0], packed(True), args[2], args[4])
        == f"[{G}] weight must be packed with swiglu=False; got a PackedWeight with swiglu=True"
    )
    assert (
        message(qgmm.weight_quant_grouped_matmul, args[0].half(), packed(True), args[2], group_list=args[4])
        == f"[{B}] weight must be packed with swiglu=False; got a PackedWeight with swiglu=True"
    )


def test_packed_in_a_list():
    args = cases.swiglu(np.random.default_rng(0), e=1, k=8, n=16)
    assert (
        message(qgmm.grouped_matmul_swiglu_quant, args[0], [packed(True)], *args[2:])
        == f"[{A}] weight[0] must be a tensor; got a PackedWeight"
    )


def test_packed_int4_in_operator_b():
    text = message(
        qgmm.weight_quant_grouped_matmul, full(F16, 4, 8), packed(False, bits=4), full(F16, 1, 16), group_list=ends(4)
    )
    assert text == f"[{B}] weight must be int8 [e, k, n] or a PackedWeight; got a PackedWeight of int4"


def test_packed_with_another_k():
    args = cases.swiglu(np.random.default_rng(0), e=1, k=9, n=16)
    text = message(qgmm.grouped_matmul_swiglu_quant, args[0], packed(True), *args[2:])
    assert text == f"[{A}] weight must be [e, 9, n] (k of x); got [1, 8, 16]"


def test_int4_width_where_n_is_known():
    """n is 8 per word of the weight, so only scales can have another width."""
    text = message(a, weight=int4(), weight_scale=full(F32, 8, 4092))
    assert text.startswith(f"[{A}] ") and "must" in text


def test_pack_weight_names_itself():
    assert message(qgmm.pack_weight, full(F32, 8, 16, 16)).startswith("[pack_weight] weight must be int8 [e, k, n]")
    assert message(qgmm.pack_weight, full(I8, 1, 16, 15), swiglu=True) == "[pack_weight] n must be even; got 15"
    assert message(qgmm.pack_weight, []).startswith("[pack_weight] weight must be one [e, k, n] tensor")
    assert message(qgmm.pack_weight, full(I8, 16, 16)) == "[pack_weight] weight must have 3 dimensions; got [16, 16]"


def test_meta_and_other_devices_are_named():
    meta = torch.empty(8, 4096, device="meta")
    assert message(a, weight_scale=meta) == f"[{A}] weight_scale must be on cpu like x; got meta"


@pytest.mark.parametrize("call", [a, b, g])
def test_order_of_checks(call):
    """Types, options, dtypes, ranks, shapes, list values: the first failure is the one that is told."""
    wrong = [
        ("types", dict(x=None)),
        ("options", dict(group_list_type=7)),
        ("dtypes", dict(group_list=EVEN.to(F32))),
        ("ranks", dict(x=full(F16 if call is b else I8, 1, 2, 3))),
        ("shapes", dict(weight=full(I8, 8, 3, 128))),
    ]
    starts = [
        "x must be a tensor",
        "group_list_type must",
        "group_list must be int64",
        "x must be [m, k]",
        "weight must be [e,",
    ]
    if call is not b:
        wrong[4] = ("shapes", dict(weight=full(I8, 8, 3, 4096)))
    for first in range(len(wrong)):
        changes = {}
        for _, change in reversed(wrong[first:]):
            changes.update(change)
        assert message(call, **changes).startswith(f"[{NAMES[call]}] {starts[first]}"), wrong[first][0]


def test_a_bad_list_value_comes_last():
    assert "x_scale" in message(a, group_list=ends(-1), x_scale=full(F32, 31))


@pytest.mark.parametrize("value", [1, "x", 2.5, {}, object, True, np.zeros((32, 7168), np.int8), [[1]]], ids=str)
def test_anything_else_than_a_tensor_is_a_sentence(value):
    for call, name in (
        (a, "x"),
        (a, "x_scale"),
        (a, "weight_scale"),
        (a, "smooth_scale"),
        (a, "bias"),
        (b, "x"),
        (b, "scale"),
        (b, "offset"),
        (b, "bias"),
        (g, "x"),
        (g, "x_scale"),
        (g, "bias"),
        (d, "x"),
        (d, "smooth_scales"),
    ):
        with pytest.raises((ValueError, TypeError), match=name):
            call(**{name: value})


def test_keyword_only_arguments_stay_keyword_only(rng):
    args = cases.swiglu(rng)
    with pytest.raises(TypeError):
        qgmm.grouped_matmul_swiglu_quant(*args, None)


def test_backward_of_operator_a_is_refused(rng):
    x, weight, scale, *rest = cases.swiglu(rng)
    _, y_scale = qgmm.grouped_matmul_swiglu_quant(x, weight, scale.requires_grad_(), *rest)
    with pytest.raises(RuntimeError, match="grouped_matmul_swiglu_quant has no backward: its output is quantised"):
        y_scale.sum().backward()


def test_backward_of_grouped_matmul_is_refused(rng):
    args, options = cases.grouped(rng)
    y = qgmm.grouped_matmul(*args[:2], args[2].requires_grad_(), args[3], **options)
    with pytest.raises(RuntimeError, match="grouped_matmul has no backward: its input is quantised"):
        y.sum().backward()


def test_ten_thousand_refusals_leave_nothing_behind():
    import resource

    for _ in range(200):
        message(a, x=None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5000):
        message(a, weight_scale=full(F32, 8, 2048))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8192
