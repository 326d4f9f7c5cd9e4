# SPDX-License-Identifier: Apache-2.0
"""Nothing of a plain tensor is remembered: weights changed in place, through .data or NumPy, act at once."""

import pytest
import torch

import agree
import cases
import qgmm


def through_copy(weight):
    weight.copy_(weight.flip(1).clone())


def through_index(weight):
    weight[0, 3] = 5


def through_data(weight):
    weight.data[-1] = weight.data[0].clone() + 1


def through_numpy(weight):
    weight.numpy()[:, ::2] ^= 0x55


def through_a_view_of_storage(weight):
    torch.frombuffer(weight.numpy(), dtype=torch.uint8)[7] ^= 0xFF


def through_set(weight):
    weight.data = torch.flip(weight.data, [2]).contiguous()


CHANGES = [through_copy, through_index, through_data, through_numpy, through_a_view_of_storage, through_set]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("bits", [8, 4])
def test_weights_of_operator_a(rng, change, bits):
    x, weight, *rest = cases.swiglu(rng, m=9, bits=bits, group_list=[4, 9])
    before = agree.check_swiglu(x, weight, *rest)
    for _ in range(3):
        qgmm.grouped_matmul_swiglu_quant(x, weight, *rest)  # whoever wants to remember has had the chance
    change(weight)
    after = agree.check_swiglu(x, weight, *rest)
    assert not agree.same(before, after)


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_weights_of_operator_b(rng, change):
    args, options = cases.weight_quant(rng, m=9, group_list=[4, 9])
    before = agree.check_weight_quant(*args, **options)
    change(args[1])
    assert not agree.same(agree.check_weight_quant(*args, **options), before)


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_weights_of_grouped_matmul(rng, change):
    args, options = cases.grouped(rng, m=9, group_list=[4, 9])
    before = agree.check_grouped(*args, **options)
    change(args[1])
    assert not agree.same(agree.check_grouped(*args, **options), before)


def test_every_other_argument_acts_at_once(rng):
    args = list(cases.swiglu(rng, m=9, group_list=[4, 9]))
    before = agree.check_swiglu(*args)
    for place, change in (
        (0, lambda t: t.add_(1)),
        (2, lambda t: t.mul_(-1.5)),
        (3, lambda t: t.numpy().__imul__(3)),
        (4, lambda t: t.fill_(9)),
    ):
        change(args[place])
        after = agree.check_swiglu(*args)
        assert not agree.same(before, after)
        before = after


def test_a_packed_weight_is_a_copy(rng):
    x, weight, *rest = cases.swiglu(rng, m=9)
    packed = qgmm.pack_weight(weight, swiglu=True)
    before = qgmm.grouped_matmul_swiglu_quant(x, packed, *rest)
    weight.zero_()
    agree.assert_same_bits(
        qgmm.grouped_matmul_swiglu_quant(x, packed, *rest), before, "a PackedWeight keeps its own bytes"
    )


def test_inputs_are_never_written(rng):
    args = cases.swiglu(rng, m=9)
    extra = dict(
        smooth_scale=cases.uniform(rng, 2),
        weight_assist_matrix=cases.uniform(rng, 2, 16),
        bias=torch.ones(2, 16, dtype=torch.int32),
    )
    tensors = [*args, *extra.values()]
    copies, versions = [t.clone() for t in tensors], [t._version for t in tensors]
    qgmm.grouped_matmul_swiglu_quant(*args, **extra)
    for t, copy, version in zip(tensors, copies, versions, strict=True):
        assert torch.equal(t, copy) and t._version == version
