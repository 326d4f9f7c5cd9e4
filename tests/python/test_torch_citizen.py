# SPDX-License-Identifier: Apache-2.0
"""What torch expects of an operator beside its result: gradients, autocast, FLOPs, profiler, inference mode."""
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import agree
import cases
import qgmm
import qgmm.call


def test_scales_that_require_grad_do_not_break_the_call(rng):
    args = list(cases.swiglu(rng))
    wanted = qgmm.grouped_matmul_swiglu_quant(*args)
    args[2], args[3] = args[2].requires_grad_(), args[3].requires_grad_()
    y, y_scale = qgmm.grouped_matmul_swiglu_quant(*args)
    agree.assert_same_bits((y, y_scale), wanted, "scales that require grad")
    with pytest.raises(RuntimeError, match="^grouped_matmul_swiglu_quant has no backward: its output is quantised$"):
        y_scale.sum().backward()


def test_a_compiled_graph_with_trainable_scales_runs_forward(rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng)
    compiled = torch.compile(qgmm.grouped_matmul_swiglu_quant, fullgraph=True, backend="aot_eager")
    scales = [torch.nn.Parameter(one) for one in scale]
    y, y_scale = compiled(x, list(weight), scales, x_scale, group_list)
    wanted = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list)
    agree.assert_same_bits((y, y_scale), wanted, "compiled with trainable scales")
    with pytest.raises(RuntimeError, match="grouped_matmul_swiglu_quant has no backward: its output is quantised"):
        y_scale.sum().backward()


def test_backward_of_weight_quant_is_refused_yet(rng):
    (x, weight, scale), options = cases.weight_quant(rng)
    y = qgmm.weight_quant_grouped_matmul(x.requires_grad_(), weight, scale, **options)
    with pytest.raises(RuntimeError, match="^weight_quant_grouped_matmul has no backward yet$"):
        y.sum().backward()


def test_an_activation_is_refused_while_x_requires_grad(rng):
    (x, weight, scale), options = cases.weight_quant(rng)
    x.requires_grad_()
    rule = "act_type must be 0 when x requires grad"
    with pytest.raises(ValueError, match=rf"^\[weight_quant_grouped_matmul\] {rule}; got 5$"):
        qgmm.weight_quant_grouped_matmul(x, weight, scale, **options, act_type=5)
    with pytest.raises(ValueError, match=rf"^\[npu_weight_quant_gmm\] {rule}; got 1$"):
        qgmm.npu_weight_quant_gmm(x, weight, scale, group_list=options["group_list"], act_type=1)
    with torch.no_grad():
        qgmm.weight_quant_grouped_matmul(x, weight, scale, **options, act_type=5)


def test_dynamic_quant_and_grouped_matmul_have_no_backward(rng):
    with pytest.raises(RuntimeError, match="^dynamic_quant has no backward: its output is quantised$"):
        qgmm.dynamic_quant(torch.randn(3, 8, requires_grad=True))[1].sum().backward()
    args, options = cases.grouped(rng)
    args[2].requires_grad_()
    with pytest.raises(RuntimeError, match="^grouped_matmul has no backward: its input is quantised$"):
        qgmm.grouped_matmul(*args, **options).sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_everything_the_contexts_dtype(rng, dtype):
    (x, weight, scale), options = cases.weight_quant(rng, dtype=torch.float32)
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in options.items()}
    wanted = qgmm.weight_quant_grouped_matmul(x.to(dtype), weight, scale.to(dtype), **cast, act_type=1)
    with torch.autocast("cpu", dtype=dtype):
        got = qgmm.weight_quant_grouped_matmul(x, weight, scale, **options, act_type=1)
        agree.assert_same_bits(got, wanted, "autocast")
        args = cases.swiglu(rng)
        y, y_scale = qgmm.grouped_matmul_swiglu_quant(*args)
    agree.assert_same_bits((y, y_scale), qgmm.grouped_matmul_swiglu_quant(*args), "operator A under autocast")


def test_flop_formulas(rng):
    a, (b, b_options), (g, g_options) = cases.swiglu(rng), cases.weight_quant(rng), cases.grouped(rng)
    packed = qgmm.pack_weight(a[1], swiglu=True)
    for call in (lambda: qgmm.grouped_matmul_swiglu_quant(*a),
                 lambda: qgmm.grouped_matmul_swiglu_quant(a[0], packed, *a[2:]),
                 lambda: qgmm.weight_quant_grouped_matmul(*b, **b_options),
                 lambda: qgmm.grouped_matmul(*g, **g_options)):
        with FlopCounterMode(display=False) as counter:
            call()
        assert counter.get_total_flops() == 2 * 5 * 24 * 16


def test_the_profiler_names_the_operator(rng):
    args = cases.swiglu(rng)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        qgmm.grouped_matmul_swiglu_quant(*args)
    assert "qgmm::grouped_matmul_swiglu_quant" in {event.key for event in profile.key_averages()}


def test_every_name_goes_below_autograd_where_no_gradient_is_asked_for(rng, monkeypatch):
    """register_autograd's Python function costs more than a small call; nothing but time would tell that it ran."""
    guard, below = qgmm.call._below_autograd, []

    def counted():
        below.append(guard)
        return guard()

    monkeypatch.setattr(qgmm.call, "_below_autograd", counted)
    a, (b, b_options), (g, g_options) = cases.swiglu(rng), cases.weight_quant(rng), cases.grouped(rng)
    vendor = {"group_list": b_options["group_list"]}
    calls = (lambda: qgmm.grouped_matmul_swiglu_quant(*a),
             lambda: qgmm.npu_grouped_matmul_swiglu_quant_v2(*a),
             lambda: qgmm.npu_grouped_matmul_swiglu_quant(a[0], a[1], a[4], a[2], a[3]),
             lambda: qgmm.weight_quant_grouped_matmul(*b, **b_options),
             lambda: qgmm.npu_weight_quant_gmm(*b, **vendor),
             lambda: qgmm.npu_weight_quant_gmm_v2(*b, group_list=vendor["group_list"].diff(prepend=torch.zeros(1).long())),
             lambda: qgmm.grouped_matmul(*g, **g_options),
             lambda: qgmm.dynamic_quant(b[0]))
    for call in calls:
        call()
    assert len(below) == len(calls)
    x = b[0].clone().requires_grad_()
    assert qgmm.weight_quant_grouped_matmul(x, *b[1:], **b_options).requires_grad
    assert len(below) == len(calls), "a call that may be differentiated"


def test_inference_mode(rng):
    args = cases.swiglu(rng)
    wanted = qgmm.grouped_matmul_swiglu_quant(*args)
    with torch.inference_mode():
        agree.assert_same_bits(qgmm.grouped_matmul_swiglu_quant(*args), wanted, "inference mode")
