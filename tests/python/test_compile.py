# SPDX-License-Identifier: Apache-2.0
"""torch.compile of the operators without a graph break or a needless recompile, and opcheck of all ops."""

import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import agree
import cases
import qgmm


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def counted(function, **options):
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(function, backend=counter, fullgraph=True, **options), counter


def swiglu(x, weight, scale, x_scale, group_list):
    return qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list, swiglu_limit=7.0)


def weight_quant(x, weight, scale, group_list):
    return qgmm.weight_quant_grouped_matmul(x, weight, scale, group_list=group_list, act_type=5)


def grouped(x, weight, scale, x_scale, group_list):
    return qgmm.grouped_matmul(x, weight, scale, group_list, x_scale=x_scale)


def arguments(rng, function, m=6, e=3):
    if function is weight_quant:
        args, options = cases.weight_quant(rng, e=e, m=m, k=24, n=16)
        return [*args, options["group_list"]]
    return list(cases.swiglu(rng, e=e, m=m, k=24, n=16))


FUNCTIONS = pytest.mark.parametrize("function", [swiglu, weight_quant, grouped], ids=lambda f: f.__name__)


@FUNCTIONS
def test_changed_group_list_values_do_not_recompile(rng, function):
    compiled, counter = counted(function)
    args = arguments(rng, function)
    for ends in ([1, 2, 6], [0, 0, 6], [6, 6, 6], [0, 0, 0], [2, 3, 4]):
        args[-1] = torch.tensor(ends)
        agree.assert_same_bits(compiled(*args), function(*args), f"compiled with {ends}")
    assert counter.frame_count == 1


@FUNCTIONS
def test_dynamic_m(rng, function):
    compiled, counter = counted(function, dynamic=True)
    for m in (6, 9, 31, 2):
        args = arguments(rng, function, m=m)
        agree.assert_same_bits(compiled(*args), function(*args), f"compiled with m {m}")
    assert counter.frame_count == 1


@FUNCTIONS
def test_changed_m_recompiles_once(rng, function):
    compiled, counter = counted(function)
    for m in (6, 9, 31, 7):
        args = arguments(rng, function, m=m)
        agree.assert_same_bits(compiled(*args), function(*args), f"compiled with m {m}")
    assert counter.frame_count <= 2


@FUNCTIONS
def test_packed_weight_as_argument(rng, function):
    compiled, counter = counted(function)
    args = arguments(rng, function)
    want = function(*args)
    args[1] = qgmm.pack_weight(args[1], swiglu=function is swiglu)
    for _ in range(2):
        agree.assert_same_bits(compiled(*args), want, "compiled with a PackedWeight")
    assert counter.frame_count == 1


def test_packed_weight_as_attribute_of_a_module(rng):
    args = arguments(rng, swiglu)

    class Experts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = qgmm.pack_weight(args[1], swiglu=True)
            self.scale = torch.nn.Parameter(args[2])

        def forward(self, x, x_scale, group_list):
            return qgmm.grouped_matmul_swiglu_quant(x, self.weight, self.scale, x_scale, group_list)

    module = Experts()
    compiled, counter = counted(module)
    want = module(args[0], args[3], args[4])
    agree.assert_same_bits(compiled(args[0], args[3], args[4]), want, "compiled module")
    agree.assert_same_bits(
        compiled(args[0], args[3], torch.tensor([6, 6, 6])),
        module(args[0], args[3], torch.tensor([6, 6, 6])),
        "compiled module with another list",
    )
    assert counter.frame_count == 1


def test_lists_and_transposed_views(rng):
    args = arguments(rng, swiglu)
    want = swiglu(*args)
    compiled, counter = counted(swiglu)
    turned = args[1].transpose(-1, -2).contiguous().transpose(-1, -2)
    agree.assert_same_bits(compiled(args[0], turned, *args[2:]), want, "transposed view")
    agree.assert_same_bits(compiled(args[0], list(args[1]), list(args[2]), *args[3:]), want, "list of experts")
    agree.assert_same_bits(compiled(args[0], [args[1]], [args[2]], *args[3:]), want, "list of one")
    assert counter.frame_count == 3


def test_vendor_names(rng):
    args = arguments(rng, swiglu)

    def vendor(x, weight, scale, x_scale, group_list):
        return qgmm.npu_grouped_matmul_swiglu_quant_v2(x, weight, scale, x_scale, group_list, quant_dtype=2)

    compiled, counter = counted(vendor)
    agree.assert_same_bits(
        compiled(args[0], [args[1]], [args[2]], *args[3:]),
        qgmm.grouped_matmul_swiglu_quant(*args, quant_dtype=torch.float8_e5m2),
        "vendor name",
    )
    assert counter.frame_count == 1


def test_every_option_and_dynamic_quant(rng):
    smooth, assist = cases.uniform(rng, 3, 8), cases.uniform(rng, 3, 16)

    def layer(tokens, gate_up, scale, group_list):
        x, x_scale = qgmm.dynamic_quant(tokens)
        y, y_scale = qgmm.grouped_matmul_swiglu_quant(
            x,
            gate_up,
            scale,
            x_scale,
            group_list,
            smooth_scale=smooth,
            weight_assist_matrix=assist,
            group_list_type=1,
            tuning_config=[4],
        )
        return qgmm.grouped_matmul(y, gate_up[:, :8], scale, group_list, x_scale=y_scale, group_list_type=1)

    tokens = cases.uniform(rng, 6, 24, dtype=torch.bfloat16)
    args = (tokens, cases.int8(rng, 3, 24, 16), cases.scales(rng, 3, 16), torch.tensor([1, 2, 3]))
    compiled, counter = counted(layer)
    agree.assert_same_bits(compiled(*args), layer(*args), "a layer")
    assert counter.frame_count == 1


def test_a_wrong_shape_inside_a_graph_is_the_same_sentence(rng):
    compiled, _ = counted(swiglu)
    args = arguments(rng, swiglu)
    args[2] = args[2][:, :8]
    with pytest.raises(Exception, match=r"weight_scale must be \[3, 16\] \(e, n\); got \[3, 8\]"):
        compiled(*args)


def test_a_bad_list_inside_a_graph_is_the_same_sentence(rng):
    compiled, _ = counted(swiglu)
    args = arguments(rng, swiglu)
    compiled(*args)
    args[-1] = torch.tensor([3, 2, 6])
    with pytest.raises(ValueError, match=r"group_list \(cumsum\) must not decrease; got 2 after 3 at index 1"):
        compiled(*args)


def test_inductor_once(rng):
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists() or not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("inductor needs Python.h and a C++ compiler")
    args = arguments(rng, swiglu)

    def both(x, weight, scale, x_scale, group_list):
        y, y_scale = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list)
        return y, y_scale * 2.0

    compiled = torch.compile(both, fullgraph=True)
    agree.assert_same_bits(compiled(*args), both(*args), "inductor")
    args[-1] = torch.tensor([0, 3, 3])
    agree.assert_same_bits(compiled(*args), both(*args), "inductor with another list")


def test_export_keeps_the_operator(rng):
    args = arguments(rng, swiglu)

    class Module(torch.nn.Module):
        def forward(self, *args):
            return swiglu(*args)

    exported = torch.export.export(Module(), tuple(args))
    assert "qgmm.grouped_matmul_swiglu_quant" in str(exported.graph)
    agree.assert_same_bits(exported.module()(*args), swiglu(*args), "exported")


def test_meta_tensors_give_shapes(rng):
    x, weight, scale, x_scale, group_list = (t.to("meta") for t in cases.swiglu(rng))
    y, y_scale = qgmm.grouped_matmul_swiglu_quant(
        x, weight, scale, x_scale, group_list, quant_dtype=torch.float8_e4m3fn
    )
    assert (y.shape, y.dtype, y_scale.shape, y.device.type) == ((5, 8), torch.float8_e4m3fn, (5,), "meta")
    y = qgmm.grouped_matmul(x, weight, scale, group_list, out_dtype=torch.float16)
    assert (y.shape, y.dtype) == ((5, 16), torch.float16)
    y = qgmm.weight_quant_grouped_matmul(x.half(), weight, scale.half(), group_list=group_list)
    assert (y.shape, y.dtype) == ((5, 16), torch.float16)
    y, scale = qgmm.dynamic_quant(x.half().reshape(1, 5, 24), dst_type=torch.quint4x2)
    assert (y.shape, y.dtype, scale.shape) == ((1, 5, 3), torch.int32, (1, 5))


def opchecked():
    """name -> (op, args, kwargs) recorded from ordinary calls of the Python functions."""
    import numpy as np
    from torch.utils._python_dispatch import TorchDispatchMode

    calls = {}

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "qgmm":
                calls.setdefault(f"{func._schema.name.split('::')[1]} {len(calls)}", (func, args, kwargs or {}))
            return func(*args, **(kwargs or {}))

    rng = np.random.default_rng(5)
    a8, a4 = cases.swiglu(rng), cases.swiglu(rng, bits=4, slices=2)
    b, b_options = cases.weight_quant(rng)
    packed_a, packed_b = qgmm.pack_weight(a8[1], swiglu=True), qgmm.pack_weight(b[1])
    with Recorder():
        qgmm.grouped_matmul_swiglu_quant(*a8)
        qgmm.grouped_matmul_swiglu_quant(a8[0], packed_a, *a8[2:], quant_dtype=2, tuning_config=[3])
        qgmm.grouped_matmul_swiglu_quant(
            a4[0],
            list(a4[1]),
            list(a4[2]),
            *a4[3:],
            dequant_mode=1,
            weight_assist_matrix=cases.uniform(rng, 2, 16),
            smooth_scale=cases.uniform(rng, 2),
        )
        qgmm.weight_quant_grouped_matmul(*b, **b_options)
        qgmm.weight_quant_grouped_matmul(b[0], packed_b, b[2], **b_options, act_type=2)
        qgmm.grouped_matmul(*a8[:3], a8[4], x_scale=a8[3])
        qgmm.grouped_matmul(*a8[:2], None, a8[4], out_dtype=torch.int32)
        qgmm.dynamic_quant(b[0])
        qgmm.dynamic_quant(b[0], dst_type=16, smooth_scales=cases.uniform(rng, 24))
        qgmm.pack_weight(a8[1], swiglu=True)
        qgmm.pack_weight(list(a4[1]))
        packed_a.certified(True)
        storage = qgmm.to_fractal_nz(a8[1], torch.int8)
        qgmm.from_fractal_nz(storage, 24, 16, torch.int8)
        packed_b.unpack()
    return calls


CALLS = opchecked()


@pytest.mark.parametrize("name", CALLS, ids=lambda n: n.replace(" ", "_"))
def test_opcheck(name):
    func, args, kwargs = CALLS[name]
    torch.library.opcheck(func, args, kwargs)


def test_opcheck_covers_every_operator_with_tensors():
    registered = {
        s.name.split("::")[1]
        for s in torch._C._jit_get_all_schemas()
        if s.name.startswith("qgmm::") and any("Tensor" in str(a.type) for a in s.returns)
    }
    registered.remove("no_backward")  # never returns
    assert registered <= {name.split(" ")[0] for name in CALLS}


def test_opcheck_with_a_scale_that_requires_grad(rng):
    args = cases.swiglu(rng)
    args[2].requires_grad_()
    torch.library.opcheck(
        torch.ops.qgmm.grouped_matmul_swiglu_quant.default,
        (args[0], [args[1]], [args[2]], args[3], args[4]),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
