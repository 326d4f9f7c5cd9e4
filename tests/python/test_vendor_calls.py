# SPDX-License-Identifier: Apache-2.0
"""The vendor's names: their signatures, the documents' call sequences in our own words, every way to write an option,
and one warning for a list past m. Refusals are in test_vendor_refusals.py."""
import inspect
import json
import subprocess
import sys
import textwrap

import pytest
import torch

import agree
import cases
import golden
import qgmm
import vendor_judge

SIGNATURES = {
    "npu_grouped_matmul_swiglu_quant_v2": (
        "x, weight, weight_scale, x_scale, group_list, *, smooth_scale=None, weight_assist_matrix=None, bias=None, "
        "dequant_mode=0, dequant_dtype=0, quant_mode=0, quant_dtype=0, group_list_type=0, tuning_config=None, "
        "x_dtype=None, weight_dtype=None, weight_scale_dtype=None, x_scale_dtype=None"),
    "npu_grouped_matmul_swiglu_quant": "x, weight, group_list, weight_scale, x_scale, *, bias=None, offset=None",
    "npu_weight_quant_gmm":
        "x, weight, antiquant_scale, *, antiquant_offset=None, bias=None, group_list=None, act_type=0",
    "npu_weight_quant_gmm_v2":
        "x, weight, antiquant_scale, *, antiquant_offset=None, bias=None, group_list=None, act_type=0",
    "npu_format_cast": "t, acl_format, customize_dtype=None",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    function = getattr(qgmm, name)
    bare = inspect.signature(function)
    bare = bare.replace(parameters=[p.replace(annotation=p.empty) for p in bare.parameters.values()],
                        return_annotation=bare.empty)
    assert str(bare) == f"({SIGNATURES[name]})"
    assert function.__name__ == name and name in qgmm.__all__ and "Example:" in function.__doc__


# --- the documents' sequences -------------------------------------------------------------------------------------

def judged(name, *args, **kwargs):
    result = getattr(qgmm, name)(*args, **kwargs)
    vendor_judge.judge(name, args, kwargs, result)
    return result


def test_document_shape_eager(rng):
    """Two experts of 7168 x 4096 behind one list entry each, cumulative ends of which the second group is empty."""
    x, weight = cases.int8(rng, 512, 7168), cases.int8(rng, 2, 7168, 4096)
    x_scale, weight_scale = cases.uniform(rng, 512, high=3), cases.uniform(rng, 2, 4096, low=-3, high=3)
    ends = torch.tensor([128, 128])
    y, y_scale = judged("npu_grouped_matmul_swiglu_quant_v2", x, [qgmm.npu_format_cast(weight, 29)], [weight_scale],
                        x_scale, ends)
    assert y.shape == (512, 2048) and not y[128:].any() and not y_scale[128:].any()


def test_graph_with_quant_dtype_2(rng):
    class Layer(torch.nn.Module):
        def forward(self, x, weight, weight_scale, x_scale, group_list, quant_dtype):
            return qgmm.npu_grouped_matmul_swiglu_quant_v2(x, weight, weight_scale, x_scale, group_list,
                                                           quant_dtype=quant_dtype)

    torch._dynamo.reset()
    layer = torch.compile(Layer(), backend="aot_eager", dynamic=False, fullgraph=True)
    x, weight, scale, x_scale, _ = cases.swiglu(rng, m=40, k=64, n=160)
    args = (x, [weight], [scale], x_scale, torch.tensor([17, 17]))
    result = layer(*args, 2)
    assert result[0].dtype == torch.float8_e5m2
    vendor_judge.judge("npu_grouped_matmul_swiglu_quant_v2", args, {"quant_dtype": 2}, result)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(("name", "group_list"), [("npu_weight_quant_gmm", [1, 3, 6, 10, 15, 21, 28, 32]),
                                                  ("npu_weight_quant_gmm_v2", [1, 2, 3, 4, 5, 6, 7, 4])])
def test_weight_quant_plain_and_transposed(rng, name, group_list, graph):
    torch._dynamo.reset()
    call = getattr(qgmm, name)
    call = torch.compile(call, backend="aot_eager", fullgraph=True) if graph else call
    x, scale, offset = (cases.uniform(rng, *shape, low=0, dtype=torch.float16)
                        for shape in ((32, 256), (8, 128), (8, 128)))
    options = {"antiquant_offset": offset, "bias": None, "group_list": torch.tensor(group_list)}
    for weight in (cases.int8(rng, 8, 256, 128), cases.int8(rng, 8, 128, 256).transpose(-1, -2)):
        args = (x, weight, scale)
        vendor_judge.judge(name, args, options, call(*args, **options))


@pytest.mark.filterwarnings("ignore:.*group_list:UserWarning")
def test_counts_that_sum_to_one_row_too_many(rng):
    args, options = cases.weight_quant(rng, e=8, m=32, k=256, n=128, bias=False)
    options = {"antiquant_offset": options["offset"], "group_list": torch.tensor([1, 3, 3, 4, 5, 6, 7, 4])}
    y = judged("npu_weight_quant_gmm_v2", *args, **options)
    options["group_list"] = torch.tensor([1, 3, 3, 4, 5, 6, 7, 3])
    agree.assert_same_bits(y, qgmm.npu_weight_quant_gmm_v2(*args, **options), "the last group clamped")


# --- V1 -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("form", ["tensor", "list", "packed"])
def test_v1_signature(rng, form):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng)
    given = {"tensor": weight, "list": list(weight), "packed": qgmm.pack_weight(weight, swiglu=True)}[form]
    given_scale = list(scale) if form == "list" else scale
    y, y_scale, offset = qgmm.npu_grouped_matmul_swiglu_quant(x, given, group_list, given_scale, x_scale)
    want = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list)
    agree.assert_same_bits((y, y_scale), want, "V1 against native")
    assert offset.shape == () and offset.dtype == torch.float32 and offset.item() == 0


@pytest.mark.parametrize("slices", [0, 1, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_v1_int4_bias_is_the_assist_matrix(rng, slices, packed):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, bits=4, slices=slices)
    assist = cases.uniform(rng, 2, 16)
    given = qgmm.pack_weight(weight, swiglu=True) if packed else weight
    y, y_scale, _ = qgmm.npu_grouped_matmul_swiglu_quant(x, given, group_list, scale, x_scale, bias=assist, offset=None)
    want = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list, weight_assist_matrix=assist,
                                            dequant_mode=1 if slices else 0)
    agree.assert_same_bits((y, y_scale), want, "V1 against native")
    without = qgmm.npu_grouped_matmul_swiglu_quant(x, given, group_list, scale, x_scale)
    assert not agree.same((y, y_scale), without[:2])


def test_v1_compiles(rng):
    torch._dynamo.reset()
    x, weight, scale, x_scale, group_list = cases.swiglu(rng)
    call = torch.compile(qgmm.npu_grouped_matmul_swiglu_quant, backend="aot_eager", fullgraph=True)
    args = (x, weight, group_list, scale, x_scale)
    agree.assert_same_bits(call(*args), qgmm.npu_grouped_matmul_swiglu_quant(*args), "V1 in a graph")


@pytest.mark.parametrize("name", ["npu_grouped_matmul_swiglu_quant_v2", "npu_weight_quant_gmm"])
def test_packed_weights_in_a_graph(rng, name):
    torch._dynamo.reset()
    if name == "npu_weight_quant_gmm":
        (x, weight, *rest), options = cases.weight_quant(rng, offset=False, bias=False)
    else:
        x, weight, *rest = cases.swiglu(rng)
        options = {}
    packed_weight = qgmm.pack_weight(weight, swiglu=name != "npu_weight_quant_gmm")
    call = getattr(qgmm, name)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    agree.assert_same_bits(compiled(x, packed_weight, *rest, **options), call(x, weight, *rest, **options), name)


@pytest.mark.parametrize("name", ["npu_grouped_matmul_swiglu_quant_v2", "npu_grouped_matmul_swiglu_quant",
                                  "npu_weight_quant_gmm", "npu_weight_quant_gmm_v2"])
def test_explain(rng, name):
    if name.startswith("npu_weight"):
        args, options = cases.weight_quant(rng, group_list=[2, 3])
        plan = qgmm.explain(getattr(qgmm, name), *args, group_list=options["group_list"])
    else:
        x, weight, scale, x_scale, group_list = cases.swiglu(rng)
        first = name.endswith("_v2")
        plan = qgmm.explain(getattr(qgmm, name), x, weight,
                            *((scale, x_scale, group_list) if first else (group_list, scale, x_scale)))
    assert plan["operation"] == name and plan["kernels"]


# --- spellings ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("dtype", "spellings"), [
    (torch.int8, [0, 1, None, torch.int8]),
    (torch.float8_e5m2, [2, 23, torch.float8_e5m2]),
    (torch.float8_e4m3fn, [3, 24, torch.float8_e4m3fn]),
], ids=["int8", "e5m2", "e4m3"])
def test_quant_dtype_spellings(rng, dtype, spellings):
    args = cases.swiglu(rng)
    want = qgmm.grouped_matmul_swiglu_quant(*args, quant_dtype=dtype)
    assert want[0].dtype == dtype
    for quant_dtype in spellings:
        got = judged("npu_grouped_matmul_swiglu_quant_v2", *args, quant_dtype=quant_dtype)
        agree.assert_same_bits(got, want, f"quant_dtype={quant_dtype}")


@pytest.mark.parametrize("option", [
    {"dequant_dtype": 0}, {"dequant_dtype": 6}, {"dequant_dtype": torch.float32}, {"dequant_dtype": None},
    {"quant_mode": 0}, {"tuning_config": [64]}, {"tuning_config": None}, {"tuning_config": []},
    {"x_dtype": None, "weight_dtype": None, "weight_scale_dtype": None, "x_scale_dtype": None},
], ids=str)
def test_options_with_one_meaning(rng, option):
    args = cases.swiglu(rng)
    agree.assert_same_bits(qgmm.npu_grouped_matmul_swiglu_quant_v2(*args, **option),
                           qgmm.grouped_matmul_swiglu_quant(*args), f"{option}")


@pytest.mark.parametrize("form", ["tensor", "list of one", "list of experts", "packed", "from NZ"])
def test_weight_forms(rng, form):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng)
    given = {"tensor": weight, "list of one": [weight], "list of experts": list(weight),
             "packed": qgmm.npu_format_cast(qgmm.pack_weight(weight, swiglu=True), 29),
             "from NZ": [qgmm.from_fractal_nz(qgmm.to_fractal_nz(weight), 24, 16, torch.int8)]}[form]
    given_scale = list(scale) if form == "list of experts" else [scale]
    agree.assert_same_bits(
        qgmm.npu_grouped_matmul_swiglu_quant_v2(x, given, given_scale, x_scale, group_list),
        qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, group_list), form)


def test_everything_v2_can_say_at_once(rng):
    x, weight, scale, x_scale, _ = cases.swiglu(rng, bits=4, slices=4, e=3, m=9, k=32, n=24)
    options = {"smooth_scale": cases.uniform(rng, 3, 12), "weight_assist_matrix": [cases.uniform(rng, 3, 24)],
               "dequant_mode": 1, "group_list_type": 1}
    args = (x, [weight], [scale], x_scale, torch.tensor([4, 0, 3], dtype=torch.int32))
    got = judged("npu_grouped_matmul_swiglu_quant_v2", *args, **options, quant_dtype=1, tuning_config=[3])
    agree.assert_same_bits(got, qgmm.grouped_matmul_swiglu_quant(*args, **options), "vendor against native")
    carried = torch.from_numpy(scale.numpy().view("u4").astype("i8") | (1 << 46))
    got = qgmm.npu_grouped_matmul_swiglu_quant_v2(x, [weight], [carried], x_scale, args[4], **options)
    agree.assert_same_bits(got, qgmm.grouped_matmul_swiglu_quant(*args, **options), "scales carried by int64")


def test_bias_of_v2_is_added_to_the_sums(rng):
    args = cases.swiglu(rng)
    bias = torch.from_numpy(rng.integers(-20000, 20000, (2, 16)).astype("i4"))
    got = judged("npu_grouped_matmul_swiglu_quant_v2", *args, bias=bias)
    assert not agree.same(got, qgmm.npu_grouped_matmul_swiglu_quant_v2(*args))


@pytest.mark.parametrize("act_type", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("name", "kind"), [("npu_weight_quant_gmm", 0), ("npu_weight_quant_gmm_v2", 1)])
def test_weight_quant_is_the_native_operator(rng, name, kind, dtype, act_type):
    args, options = cases.weight_quant(rng, dtype=dtype, group_list=[2, 3])
    want = qgmm.weight_quant_grouped_matmul(*args, **options, group_list_type=kind, act_type=act_type)
    got = judged(name, *args, antiquant_offset=options["offset"], bias=options["bias"],
                 group_list=options["group_list"], act_type=act_type)
    agree.assert_same_bits(got, want, name)


def test_weight_quant_without_list_or_offset(rng):
    args, _ = cases.weight_quant(rng, e=1)
    for name in ("npu_weight_quant_gmm", "npu_weight_quant_gmm_v2"):
        got = getattr(qgmm, name)(*args)
        agree.assert_same_bits(got, qgmm.weight_quant_grouped_matmul(*args), name)
        agree.assert_same_bits(getattr(qgmm, name)(args[0], qgmm.pack_weight(args[1]), args[2]), got, name)


def test_format_cast_returns_the_tensor():
    t = torch.arange(24, dtype=torch.int8).view(2, 3, 4).transpose(1, 2)
    for acl_format in (2, 29):
        assert qgmm.npu_format_cast(t, acl_format) is t
        assert qgmm.npu_format_cast(t, acl_format, customize_dtype=torch.float16) is t
    t[0, 0, 0] = 77
    assert qgmm.npu_format_cast(t, 29)[0, 0, 0] == 77


# --- a list past m ------------------------------------------------------------------------------------------------

WARNING_SCRIPT = """
import json, sys, warnings
import torch, qgmm
sys.path.insert(0, sys.argv[1])
import cases, numpy
warnings.simplefilter("always")
rng = numpy.random.default_rng(1)
x, weight, scale, x_scale, _ = cases.swiglu(rng, m=6)
b = cases.weight_quant(rng, m=6)[0]
ends, counts = torch.tensor([3, 9]), torch.tensor([3, 9])
calls = [lambda: qgmm.npu_grouped_matmul_swiglu_quant_v2(x, weight, scale, x_scale, ends),
         lambda: qgmm.npu_grouped_matmul_swiglu_quant_v2(x, weight, scale, x_scale, counts, group_list_type=1),
         lambda: qgmm.npu_grouped_matmul_swiglu_quant(x, weight, ends, scale, x_scale),
         lambda: qgmm.npu_weight_quant_gmm(*b, group_list=ends),
         lambda: qgmm.npu_weight_quant_gmm_v2(*b, group_list=counts)]
seen = []
with warnings.catch_warnings(record=True) as caught:
    for call in calls + calls:
        before = len(caught)
        call()
        seen.append(len(caught) - before)
print(json.dumps({"seen": seen, "warnings": [[str(w.message), w.category.__name__, w.filename] for w in caught]}))
"""


def test_npu_name_clamps_and_warns_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(WARNING_SCRIPT))
    came = subprocess.run([sys.executable, str(script), cases.__file__.rpartition("/")[0]], capture_output=True,
                          text=True, timeout=120)
    assert came.returncode == 0, came.stderr
    report = json.loads(came.stdout)
    assert report["seen"] == [1, 0, 1, 1, 1] + [0] * 5
    names = ["npu_grouped_matmul_swiglu_quant_v2", "npu_grouped_matmul_swiglu_quant", "npu_weight_quant_gmm",
             "npu_weight_quant_gmm_v2"]
    rules = ["(cumsum) must end at or below 6 (m); got 9"] * 3 + ["(counts) must sum to at most 6 (m); got 12"]
    for name, rule, (text, category, filename) in zip(names, rules, report["warnings"], strict=True):
        assert text.startswith(f"[{name}] group_list {rule}; "), text
        assert (category, filename) == ("UserWarning", str(script))


@pytest.mark.filterwarnings("ignore:.*group_list:UserWarning")
@pytest.mark.parametrize(("past", "clamped"), [([3, 9], [3, 6]), ([9, 9], [6, 6]), ([2**63 - 1] * 2, [6, 6])])
def test_what_is_clamped(rng, past, clamped):
    x, weight, scale, x_scale, _ = cases.swiglu(rng, m=6)
    got = qgmm.npu_grouped_matmul_swiglu_quant_v2(x, weight, scale, x_scale, torch.tensor(past))
    want = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, clamped)
    agree.assert_same_bits(got, want, f"{past}")


# --- gradients, and the judge itself -------------------------------------------------------------------------------

def test_backward_of_a_vendor_name_is_refused(rng):
    args, options = cases.weight_quant(rng, dtype=torch.float32)
    args[0].requires_grad_()
    y = qgmm.npu_weight_quant_gmm(*args, group_list=options["group_list"])
    with pytest.raises(RuntimeError, match="weight_quant_grouped_matmul has no backward yet"):
        y.sum().backward()


def test_judge_tells_a_wrong_answer(rng):
    """The judge of these tests must not be the kind that always agrees."""
    args = cases.swiglu(rng)
    y, y_scale = qgmm.npu_grouped_matmul_swiglu_quant_v2(*args)
    rows = golden.row_ranges(args[4], 0, 5, 2)
    row = next(begin for _, begin, end in rows if end > begin)
    wrong = y.clone()
    wrong[row, 3] = wrong[row, 3] + (2 if wrong[row, 3] < 100 else -2)
    with pytest.raises(AssertionError):
        vendor_judge.judge("npu_grouped_matmul_swiglu_quant_v2", args, {}, (wrong, y_scale))
    b, options = cases.weight_quant(rng)
    y = qgmm.npu_weight_quant_gmm(*b, group_list=options["group_list"]).clone()
    y[0, 0] = y[0, 0] * 1.01 + 0.01
    with pytest.raises(AssertionError):
        vendor_judge.judge("npu_weight_quant_gmm", b, {"group_list": options["group_list"]}, y)
