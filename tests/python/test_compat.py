# SPDX-License-Identifier: Apache-2.0
"""qgmm.compat.npu: what install() shows, that uninstalling leaves no trace, and what it refuses."""
import importlib
import importlib.metadata
import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
import torch.utils.flop_counter

import agree
import cases
import golden
import qgmm
from qgmm.compat import npu

MODULES = ("torch_npu", "mindspeed", "mindspeed.ops", "mindspeed.ops.weight_quant_gmm", "torchair", "torchair.configs",
           "torchair.configs.compiler_config", "torch.npu")
OPERATORS = {"npu": ("npu_grouped_matmul_swiglu_quant_v2", "npu_grouped_matmul_swiglu_quant", "npu_format_cast"),
             "mindspeed": ("npu_weight_quant_gmm",)}
MISSING = "missing"


@pytest.fixture
def installed():
    with npu.install() as installation:
        yield installation


def ours():
    """Everything install() touches, as it is now."""
    state = {name: sys.modules.get(name, MISSING) for name in MODULES}
    state |= {f"torch.{name}": vars(torch).get(name, MISSING) for name in ("npu",)}
    state |= {f"{owner.__name__}.npu": vars(owner).get("npu", MISSING) for owner in (torch.Tensor, torch.nn.Module)}
    state |= {f"{namespace}::{name}": hasattr(getattr(torch.ops, namespace), name)
              for namespace, names in OPERATORS.items() for name in names}
    state["sys.meta_path"] = list(sys.meta_path)
    return state


# --- in and out ---------------------------------------------------------------------------------------------------

def test_as_a_context_manager():
    before = ours()
    with npu.install():
        during = ours()
    assert ours() == before
    same = [name for name in before if during[name] is before[name] or during[name] == before[name]]
    assert not same, f"install() left {same} as they were"


def test_as_a_call():
    before = ours()
    installation = npu.install()
    assert importlib.import_module("torch_npu").npu is torch.npu
    installation.uninstall()
    assert ours() == before
    installation.uninstall()
    assert ours() == before


def test_again_after_uninstall():
    for _ in range(3):
        with npu.install():
            assert torch.ops.npu.npu_format_cast(torch.ones(2), 29).tolist() == [1, 1]


def test_two_installations_stand_until_the_second_goes():
    before = ours()
    outer, inner = npu.install(), npu.install()
    outer.uninstall()
    outer.uninstall()  # must not be counted for the inner one
    assert hasattr(torch.Tensor, "npu") and "torch_npu" in sys.modules
    inner.uninstall()
    assert ours() == before


def test_an_error_inside_takes_it_down():
    before = ours()
    with pytest.raises(KeyError), npu.install():
        raise KeyError
    assert ours() == before


def test_an_error_while_installing_takes_it_down(monkeypatch):
    before = ours()
    monkeypatch.setattr(npu.library, "define", lambda undo: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        npu.install()
    assert ours() == before


def test_what_was_there_comes_back(monkeypatch):
    stranger = types.ModuleType("torchair")
    monkeypatch.setitem(sys.modules, "torchair", stranger)
    monkeypatch.setattr(torch, "npu", stranger, raising=False)
    monkeypatch.setattr(torch.Tensor, "npu", stranger, raising=False)
    before = ours()
    with npu.install():
        assert importlib.import_module("torchair") is not stranger
        assert torch.npu is not stranger and torch.Tensor.npu is not stranger
    assert ours() == before
    assert sys.modules["torchair"] is stranger and torch.npu is stranger


def test_operators_that_exist_keep_their_owner():
    with torch.library._scoped_library("npu", "FRAGMENT") as library:
        library.define("npu_format_cast(Tensor self, int acl_format) -> Tensor")
        library.impl("npu_format_cast", lambda t, acl_format: t + 1, "CompositeExplicitAutograd")
        with npu.install():
            assert torch.ops.npu.npu_format_cast(torch.zeros(1), 29).item() == 1
            assert hasattr(torch.ops.npu, "npu_grouped_matmul_swiglu_quant_v2")
        assert torch.ops.npu.npu_format_cast(torch.zeros(1), 29).item() == 1
        assert not hasattr(torch.ops.npu, "npu_grouped_matmul_swiglu_quant_v2")


def test_a_library_may_still_define_its_own_names(installed):
    with torch.library._scoped_library("mindspeed", "DEF") as library:
        library.define("npu_something_else(Tensor x) -> Tensor")
        library.impl("npu_something_else", lambda x: x * 2, "CompositeExplicitAutograd")
        assert torch.ops.mindspeed.npu_something_else(torch.ones(1)).item() == 2


# --- what may not be hidden ---------------------------------------------------------------------------------------

def a_package(folder, name, text="real = True\n"):
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        (folder.joinpath(*parts[:depth])).mkdir(exist_ok=True)
        file = folder.joinpath(*parts[:depth], "__init__.py")
        if not file.exists():
            file.write_text(text)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder on sys.path; what was imported from it goes with the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("torch_npu", "mindspeed"):
            del sys.modules[name]


def test_a_real_torch_npu_is_not_hidden(packages):
    a_package(packages, "torch_npu")
    before = ours()
    with pytest.raises(RuntimeError) as refusal:
        npu.install()
    assert str(refusal.value) == ("[qgmm.compat.npu] torch_npu must not be importable unless force is True; "
                                  f"got {packages / 'torch_npu' / '__init__.py'}")
    assert ours() == before


def test_a_torch_npu_without_a_spec_is_real_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_npu", types.ModuleType("torch_npu"))
    with pytest.raises(RuntimeError, match=r"unless force is True; got sys\.modules$"):
        npu.install()


@pytest.mark.parametrize("imported", [False, True])
def test_force_stands_in_for_a_real_torch_npu(packages, imported):
    a_package(packages, "torch_npu")
    real = importlib.import_module("torch_npu") if imported else None
    with npu.install(force=True):
        assert not hasattr(importlib.import_module("torch_npu"), "real")
    assert sys.modules.get("torch_npu") is real
    assert importlib.import_module("torch_npu").real


@pytest.mark.parametrize("imported", [False, True])
def test_a_real_mindspeed_keeps_everything_else(packages, imported):
    a_package(packages, "mindspeed.ops")
    (packages / "mindspeed" / "ops" / "other.py").write_text("real = True\n")
    (packages / "mindspeed" / "ops" / "weight_quant_gmm.py").write_text("needs_the_device = True\n")
    real = importlib.import_module("mindspeed.ops.weight_quant_gmm") if imported else None
    with npu.install():
        import mindspeed.ops.weight_quant_gmm
        from mindspeed.ops import other, weight_quant_gmm
        assert other.real and mindspeed.real
        assert mindspeed.ops.weight_quant_gmm is weight_quant_gmm
        assert weight_quant_gmm.npu_weight_quant_gmm is qgmm.npu_weight_quant_gmm
    assert sys.modules.get("mindspeed.ops.weight_quant_gmm") is real
    from mindspeed.ops import weight_quant_gmm
    assert weight_quant_gmm.needs_the_device


@pytest.mark.parametrize(("options", "sentence"), [
    ({"strict": True}, "strict must be False (refusing what the NPU refuses comes later); got True"),
    ({"device": "cuda"}, "device must be cpu; got cuda"),
    ({"device": torch.device("cuda:1")}, "device must be cpu; got cuda:1"),
])
def test_options_that_do_not_exist_yet(options, sentence):
    before = ours()
    with pytest.raises(ValueError) as refusal:
        npu.install(**options)
    assert str(refusal.value) == "[qgmm.compat.npu] " + sentence
    assert ours() == before


# --- how libraries look for an NPU --------------------------------------------------------------------------------

@pytest.mark.parametrize("name", MODULES)
def test_find_spec(installed, name):
    spec = importlib.util.find_spec(name)
    assert spec.name == name and spec.loader is not None and spec.origin == "qgmm.compat.npu"
    module = importlib.import_module(name)
    assert module.__spec__ is spec and module.__name__ == name
    assert importlib.reload(module) is module


def test_a_module_that_is_not_there(installed):
    assert importlib.util.find_spec("torch_npu.contrib") is None
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'torch_npu\.contrib'"):
        importlib.import_module("torch_npu.contrib")
    with pytest.raises(ImportError, match="cannot import name 'npu_swiglu' from 'torch_npu'"):
        from torch_npu import npu_swiglu  # noqa: F401


def test_a_probe_for_a_usable_npu_says_no(installed):
    """The questions that transformers and accelerate ask before they move a model to a device "npu"."""
    assert importlib.util.find_spec("torch_npu") is not None
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("torch_npu")
    import torch_npu  # noqa: F401
    assert hasattr(torch, "npu")
    assert torch.npu.device_count() == 0
    assert torch.npu.is_available() is False
    with pytest.raises(RuntimeError):  # privateuse1 keeps its name: "npu" is no device
        torch.device("npu")


def test_unknown_names(installed):
    import torch_npu
    with pytest.raises(AttributeError) as refusal:
        torch_npu.npu_swiglu  # noqa: B018
    assert str(refusal.value) == ("npu_swiglu is not part of qgmm.compat.npu; implemented: npu_format_cast, "
                                  "npu_grouped_matmul_swiglu_quant, npu_grouped_matmul_swiglu_quant_v2")
    with pytest.raises(AttributeError, match=r"^memory_allocated is not part of qgmm\.compat\.npu; implemented: "):
        torch.npu.memory_allocated()
    assert not hasattr(torch_npu, "npu_swiglu")
    assert not hasattr(torch_npu, "__wrapped__")
    with pytest.raises(AttributeError):
        torch.ops.npu.npu_swiglu  # noqa: B018


# --- the pieces ---------------------------------------------------------------------------------------------------

def test_torch_npu_device_calls(installed):
    torch.npu.config.allow_internal_format = True
    assert torch.npu.config.allow_internal_format is True
    torch.npu.set_device(0)
    assert torch.npu.current_device() == 0
    torch.npu.synchronize()
    torch.npu.empty_cache()
    torch.npu.current_stream()
    torch.npu.manual_seed(7)
    first = torch.rand(3)
    torch.npu.manual_seed_all(7)
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("arguments", [(), (0,), ("npu:1",)])
def test_moving_to_the_npu_stays_here(installed, arguments):
    strided = torch.arange(6.0).view(2, 3).t()
    moved = strided.npu(*arguments)
    assert moved.device.type == "cpu" and torch.equal(moved, strided) and moved.stride() == strided.stride()
    assert torch.equal(strided.npu(*arguments, non_blocking=True), strided)
    layer = torch.nn.Linear(2, 2)
    assert layer.npu(*arguments) is layer
    assert isinstance(layer.weight.npu(), torch.Tensor)


def test_torchair_takes_any_setting(installed):
    import torchair
    from torchair.configs.compiler_config import CompilerConfig
    config = CompilerConfig()
    config.mode = "max-autotune"
    config.debug.graph_dump.type = "pbtxt"
    config.experimental_config.frozen_parameter = True
    assert (config.mode, config.debug.graph_dump.type) == ("max-autotune", "pbtxt")
    assert torchair.CompilerConfig is CompilerConfig
    assert not hasattr(config, "__deepcopy__")
    double = torch.compile(lambda x: 2 * x.npu(), backend=torchair.get_npu_backend(compiler_config=config),
                           fullgraph=True)
    assert double(torch.ones(2)).tolist() == [2, 2]


# --- the second door ----------------------------------------------------------------------------------------------

def swiglu_calls(rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng)
    int4 = cases.swiglu(rng, bits=4, slices=3)
    assist = cases.uniform(rng, 2, 16)
    fp8 = {"quant_dtype": torch.float8_e4m3fn, "group_list_type": 1, "dequant_dtype": torch.float32}
    yield ("npu", "npu_grouped_matmul_swiglu_quant_v2", (x, [weight], [scale], x_scale, group_list), {})
    yield ("npu", "npu_grouped_matmul_swiglu_quant_v2", (x, [weight], [scale], x_scale, torch.tensor([1, 3])), fp8)
    yield ("npu", "npu_grouped_matmul_swiglu_quant", (x, weight, group_list, scale, x_scale), {})
    yield ("npu", "npu_grouped_matmul_swiglu_quant", (int4[0], int4[1], int4[4], int4[2], int4[3]), {"bias": assist})


def test_dispatcher_names_give_the_same_bits(installed, rng):
    import torch_npu
    for namespace, name, args, options in swiglu_calls(rng):
        got = getattr(getattr(torch.ops, namespace), name)(*args, **options)
        agree.assert_same_bits(tuple(got), tuple(getattr(torch_npu, name)(*args, **options)), name)


@pytest.mark.parametrize("kind", [0, 1])
def test_mindspeed_dispatcher_name(installed, rng, kind):
    args, options = cases.weight_quant(rng, group_list=[2, 3] if kind else [2, 5])
    vendor_options = {"antiquant_offset": options["offset"], "bias": options["bias"],
                      "group_list": options["group_list"]}
    got = torch.ops.mindspeed.npu_weight_quant_gmm(*args, **vendor_options, group_list_type=kind)
    want = qgmm.weight_quant_grouped_matmul(*args, **options, group_list_type=kind)
    agree.assert_same_bits(got, want, "mindspeed::npu_weight_quant_gmm")


def test_mindspeed_dispatcher_refuses_in_its_own_name(installed, rng):
    args, options = cases.weight_quant(rng)
    with pytest.raises(ValueError, match=r"^\[npu_weight_quant_gmm\] group_list_type must be 0 \(cumsum\) or 1 "
                                         r"\(counts\); got 2$"):
        torch.ops.mindspeed.npu_weight_quant_gmm(*args, group_list=options["group_list"], group_list_type=2)


def test_dispatcher_names_compile(installed, rng):
    torch._dynamo.reset()
    for namespace, name, args, options in swiglu_calls(rng):
        operator = getattr(getattr(torch.ops, namespace), name)
        compiled = torch.compile(lambda *a, op=operator, o=options: op(*a, **o), backend="aot_eager", fullgraph=True)
        agree.assert_same_bits(tuple(compiled(*args)), tuple(operator(*args, **options)), name)


def test_dispatcher_names_pass_opcheck(installed, rng):
    b, options = cases.weight_quant(rng)
    calls = [*swiglu_calls(rng), ("npu", "npu_format_cast", (b[1], 29), {}),
             ("mindspeed", "npu_weight_quant_gmm", b, {"group_list": options["group_list"]})]
    for namespace, name, args, given in calls:
        torch.library.opcheck(getattr(getattr(torch.ops, namespace), name).default, args, given)


def test_exported_programs_keep_the_names(installed, rng):
    class Layer(torch.nn.Module):
        def forward(self, x, weight, scale, x_scale, group_list):
            weight = torch.ops.npu.npu_format_cast(weight, 29)
            return torch.ops.npu.npu_grouped_matmul_swiglu_quant_v2(x, [weight], [scale], x_scale, group_list)

    args = cases.swiglu(rng)
    program = torch.export.export(Layer(), args)
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch.ops.npu.npu_grouped_matmul_swiglu_quant_v2.default in called
    agree.assert_same_bits(program.module()(*args), Layer()(*args), "exported")


def test_flops_are_counted(installed, rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, m=5, k=24, n=16)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counted:
        torch.ops.npu.npu_grouped_matmul_swiglu_quant_v2(x, [weight], [scale], x_scale, group_list)
    assert counted.get_total_flops() == 2 * 5 * 24 * 16


def test_dispatcher_names_on_meta(installed, rng):
    for namespace, name, args, options in swiglu_calls(rng):
        meta = [[t.to("meta") for t in a] if isinstance(a, list) else a.to("meta") for a in args]
        meta_options = {key: o.to("meta") if torch.is_tensor(o) else o for key, o in options.items()}
        shapes = getattr(getattr(torch.ops, namespace), name)(*meta, **meta_options)
        real = getattr(getattr(torch.ops, namespace), name)(*args, **options)
        assert [(s.shape, s.dtype) for s in shapes] == [(r.shape, r.dtype) for r in real]


def test_a_backward_reaches_the_refusal(installed, rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng)
    scale.requires_grad_()
    _, y_scale = torch.ops.npu.npu_grouped_matmul_swiglu_quant_v2(x, [weight], [scale], x_scale, group_list)
    with pytest.raises(RuntimeError, match="grouped_matmul_swiglu_quant has no backward: its output is quantised"):
        y_scale.sum().backward()


def test_results_are_the_operators(installed, rng):
    """The stand-in against the contract's formula: not only against our own function."""
    import torch_npu
    x, weight, scale, x_scale, _ = cases.swiglu(rng, m=9, k=40, n=48)
    group_list = torch.tensor([4, 7])
    y, y_scale = torch_npu.npu_grouped_matmul_swiglu_quant_v2(
        x.npu(), [torch_npu.npu_format_cast(weight.npu(), 29)], [scale.npu()], x_scale.npu(), group_list.npu())
    codes, want = golden.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list, arithmetic=golden.Real)
    agree.within_8_1(y, y_scale, codes, want)
    assert not np.any(y[7:].numpy()) and not np.any(y_scale[7:].numpy())
