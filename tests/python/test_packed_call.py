# SPDX-License-Identifier: Apache-2.0
"""The short way of calls with packed weights: which calls take it, and that nobody could tell but by a clock."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import agree
import cases
import qgmm
from fuzz_arguments import a_case, b_case, call, describe, g_case, spoil

CASES = [
    (qgmm.grouped_matmul_swiglu_quant, a_case),
    (qgmm.grouped_matmul, g_case),
    (qgmm.weight_quant_grouped_matmul, b_case),
]
BY_OPERATOR = pytest.mark.parametrize("op, make", CASES, ids=[op.__name__ for op, _ in CASES])


class Counted:
    """Stands for an overload and counts the calls of it that returned."""

    def __init__(self, overload):
        self.overload, self.calls = overload, 0

    def _op(self, *arguments):
        results = self.overload._op(*arguments)
        self.calls += 1
        return results


@pytest.fixture
def short_calls(monkeypatch):
    """How many calls have gone the short way."""
    counted = {}
    for name in ("_swiglu_quant", "_weight_quant", "_grouped_matmul"):
        counted[name] = Counted(getattr(qgmm.packed_call, name))
        monkeypatch.setattr(qgmm.packed_call, name, counted[name])
    return lambda: sum(one.calls for one in counted.values())


def the_long_way(monkeypatch, function):
    with monkeypatch.context() as patch:
        patch.setattr(qgmm.packed_call, "_dispatch_modes", None)
        return function()


def packed_calls(rng):
    """Every name with packed weights, and every option that goes the short way."""
    (x, weight, scale, x_scale, ends), (b, b_options) = cases.swiglu(rng), cases.weight_quant(rng)
    paired, plain, wide = qgmm.pack_weight(weight, swiglu=True), qgmm.pack_weight(weight), qgmm.pack_weight(b[1])
    counts = ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
    sliced, bias = scale[:, None, :].expand(2, 3, 16), torch.arange(32, dtype=torch.int32).view(2, 16)
    a, given = (x, paired, scale, x_scale), {"group_list": b_options["group_list"]}
    wide_counts = given["group_list"].diff(prepend=torch.zeros(1, dtype=torch.int64))
    bare = (b[0], wide, b[2])
    alone = qgmm.pack_weight(b[1][:1])
    return {
        "A": lambda: qgmm.grouped_matmul_swiglu_quant(*a, ends),
        "A, counts": lambda: qgmm.grouped_matmul_swiglu_quant(*a, counts, group_list_type=1),
        "A, slices": lambda: qgmm.grouped_matmul_swiglu_quant(x, paired, sliced, x_scale, ends, dequant_mode=1),
        "A, smooth": lambda: qgmm.grouped_matmul_swiglu_quant(*a, ends, smooth_scale=scale[:, :8]),
        "A, assist": lambda: qgmm.grouped_matmul_swiglu_quant(*a, ends, weight_assist_matrix=scale),
        "A, bias": lambda: qgmm.grouped_matmul_swiglu_quant(*a, ends, bias=bias),
        "A, limit": lambda: qgmm.grouped_matmul_swiglu_quant(*a, ends, swiglu_limit=0.5),
        "A, parameters": lambda: qgmm.grouped_matmul_swiglu_quant(
            x, paired, torch.nn.Parameter(scale, requires_grad=False), x_scale, ends),
        "v2": lambda: qgmm.npu_grouped_matmul_swiglu_quant_v2(*a, ends),
        "v2, counts": lambda: qgmm.npu_grouped_matmul_swiglu_quant_v2(*a, counts, group_list_type=1),
        "v1": lambda: qgmm.npu_grouped_matmul_swiglu_quant(x, paired, ends, scale, x_scale),
        "B": lambda: qgmm.weight_quant_grouped_matmul(*bare, **given),
        "B, counts": lambda: qgmm.weight_quant_grouped_matmul(*bare, group_list=wide_counts, group_list_type=1),
        "B, offset and bias": lambda: qgmm.weight_quant_grouped_matmul(*bare, **b_options),
        "B, act": lambda: qgmm.weight_quant_grouped_matmul(*bare, **given, act_type=5),
        "B, fast": lambda: qgmm.weight_quant_grouped_matmul(*bare, **given, precision="fast"),
        "B, one expert": lambda: qgmm.weight_quant_grouped_matmul(b[0], alone, b[2][:1]),
        "gmm": lambda: qgmm.npu_weight_quant_gmm(*bare, **given),
        "gmm_v2": lambda: qgmm.npu_weight_quant_gmm_v2(*bare, group_list=wide_counts),
        "down": lambda: qgmm.grouped_matmul(x, plain, scale, ends, x_scale=x_scale),
        "down, no scales": lambda: qgmm.grouped_matmul(x, plain, None, ends, out_dtype=torch.int32),
        "down, float": lambda: qgmm.grouped_matmul(x, plain, scale, ends, x_scale=x_scale, out_dtype=torch.float32),
        "down, all": lambda: qgmm.grouped_matmul(
            x, plain, sliced, counts, bias=scale, weight_assist_matrix=scale, dequant_mode=1, group_list_type=1, act_type=1),
    }


@pytest.mark.parametrize("name", packed_calls(np.random.default_rng(0)))
def test_calls_with_packed_weights_take_the_short_way(rng, short_calls, monkeypatch, name):
    function = packed_calls(rng)[name]
    short = function()
    assert short_calls() == 1
    agree.assert_same_bits(short, the_long_way(monkeypatch, function), name)
    assert short_calls() == 1


@BY_OPERATOR
def test_strange_arguments_get_the_same_answer_by_both_ways(rng, monkeypatch, short_calls, op, make):
    """Results bit for bit, refusals word for word."""

    def answer():
        try:
            return "", call(op, given, positional)
        except Exception as error:
            return f"{type(error).__name__}: {error}", ()

    for _ in range(400):
        given, positional = make(rng)
        given["weight"] = qgmm.pack_weight(given["weight"], swiglu=op is qgmm.grouped_matmul_swiglu_quant)
        given |= {name: None for name in ("quant_dtype", "tuning_config") if name in given}
        for _ in range(int(rng.integers(3))):
            given = spoil(rng, given)
        text = f"{op.__name__}({describe(given)})"
        short, long = answer(), the_long_way(monkeypatch, answer)
        assert short[0] == long[0], text
        if any(one.is_meta for one in agree.tensors_of(short[1])):
            continue
        agree.assert_same_bits(short[1], long[1], text)
    assert short_calls() > 80


@pytest.mark.parametrize("dtype", [torch.uint16, torch.quint8, torch.bits8, torch.complex32, torch.float8_e8m0fnu])
def test_a_type_that_the_door_has_no_name_for_is_a_sentence(rng, dtype):
    x, weight, scale, x_scale, ends = cases.swiglu(rng)
    with pytest.raises(ValueError, match=r"^\[grouped_matmul\] out_dtype must be float16, bfloat16, float32 or int32; got "):
        qgmm.grouped_matmul(x, qgmm.pack_weight(weight), scale, ends, x_scale=x_scale, out_dtype=dtype)


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.functions.append(function)
        return function(*args, **(kwargs or {}))


def test_whoever_watches_meets_the_overload_default(rng, short_calls):
    calls = packed_calls(rng)
    with Seen() as seen:
        for name in ("A", "B", "down", "v2", "gmm"):
            calls[name]()
    known = [str(function) for function in seen.functions if str(function).startswith("qgmm.")]
    assert len(known) == 5 and all(name.endswith(".default") for name in known)
    assert short_calls() == 0


class Subclass(torch.Tensor):
    pass


def test_subclasses_and_gradients_go_the_long_way(rng, short_calls):
    (x, weight, scale), options = cases.weight_quant(rng)
    packed = qgmm.pack_weight(weight)
    wanted = qgmm.weight_quant_grouped_matmul(x, packed, scale, **options)
    assert short_calls() == 1
    got = qgmm.weight_quant_grouped_matmul(x.as_subclass(Subclass), packed, scale, **options)
    agree.assert_same_bits(got.as_subclass(torch.Tensor), wanted, "a subclass")
    options["offset"].requires_grad_()
    assert qgmm.weight_quant_grouped_matmul(x, packed, scale, **options).requires_grad
    assert short_calls() == 1
    with torch.no_grad():
        assert not qgmm.weight_quant_grouped_matmul(x, packed, scale, **options).requires_grad
    assert short_calls() == 2


def test_autocast_goes_the_long_way(rng, short_calls):
    (x, weight, scale), options = cases.weight_quant(rng, dtype=torch.float32)
    packed = qgmm.pack_weight(weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert qgmm.weight_quant_grouped_matmul(x, packed, scale, **options).dtype is torch.bfloat16
    assert short_calls() == 0


def test_a_device_context_and_inference_mode_change_nothing(rng, short_calls):
    for name, function in packed_calls(rng).items():
        wanted = function()
        with torch.inference_mode():
            agree.assert_same_bits(function(), wanted, name)
        with torch.device("cpu"):
            agree.assert_same_bits(function(), wanted, name)


def test_the_profiler_names_the_operator(rng, short_calls):
    function = packed_calls(rng)["A"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    assert short_calls() == 1
    assert "qgmm::grouped_matmul_swiglu_quant" in {event.key for event in profile.key_averages()}


def test_bytes_that_are_another_weight_now(rng):
    """Who writes another weight's bytes into `data` gets what those bytes hold, or a refusal."""
    x, weight, scale, x_scale, ends = cases.swiglu(rng, k=128, n=64)
    packed, paired = qgmm.pack_weight(weight), qgmm.pack_weight(weight, swiglu=True)
    packed.data.copy_(paired.data)
    with pytest.raises(ValueError, match=r"^\[grouped_matmul\] weight must have layout 2 \(its header\); got 1$"):
        qgmm.grouped_matmul(x, packed, scale, ends, x_scale=x_scale)
    wide = cases.int8(rng, 1, 128, 128)
    packed.data.copy_(qgmm.pack_weight(wide).data)
    with pytest.raises(ValueError, match=r"^\[grouped_matmul\] .* must "):
        qgmm.grouped_matmul(x, packed, scale, ends, x_scale=x_scale)
    wanted = qgmm.grouped_matmul(x, wide, scale.view(1, 128), ends[-1:], x_scale=x_scale)
    got = qgmm.grouped_matmul(x, packed, scale.view(1, 128), ends[-1:], x_scale=x_scale)
    agree.assert_same_bits(got, wanted, "one expert of twice the width")
