# SPDX-License-Identifier: Apache-2.0
"""Judges what a vendor name returned, from the arguments it was called with, by the float64 formula (golden.py)."""
import contextlib
import inspect

import torch

import agree
import golden
import qgmm

NAMES = ("npu_grouped_matmul_swiglu_quant_v2", "npu_grouped_matmul_swiglu_quant", "npu_weight_quant_gmm",
         "npu_weight_quant_gmm_v2", "npu_format_cast")


def named(name, args, kwargs):
    """The arguments of a call by their names, defaults included."""
    bound = inspect.signature(getattr(qgmm, name)).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def judge(name, args, kwargs, result):
    given = named(name, args, kwargs)
    if name == "npu_format_cast":
        assert torch.equal(result, given["t"]) and result.shape == given["t"].shape
    elif name.startswith("npu_grouped_matmul_swiglu_quant"):
        judge_swiglu(given, *result[:2])
    else:
        judge_weight_quant(given, 1 if name.endswith("_v2") else 0, result)


def judge_swiglu(given, y, y_scale):
    inputs = [given[key] for key in ("x", "weight", "weight_scale", "x_scale", "group_list")]
    options = {key: given[key] for key in ("smooth_scale", "weight_assist_matrix", "bias", "group_list_type",
                                           "quant_dtype") if key in given}
    codes, scale = golden.grouped_matmul_swiglu_quant(*inputs, **options, arithmetic=golden.Real)
    assert y.shape == codes.shape and y_scale.dtype == torch.float32
    agree.within_8_1(y, y_scale, codes, scale)
    assert y_scale.any(), "all zeros: nothing was judged"


def judge_weight_quant(given, group_list_type, y):
    options = {"offset": given["antiquant_offset"], "bias": given["bias"], "group_list": given["group_list"],
               "group_list_type": group_list_type, "act_type": given["act_type"]}
    y64, error = golden.weight_quant_bounded(given["x"], given["weight"], given["antiquant_scale"], **options)
    assert y.shape == y64.shape and y.dtype == given["x"].dtype
    agree.within_8_2(y, y64, error)
    assert y.any(), "all zeros: nothing was judged"


@contextlib.contextmanager
def recorded(*modules, around=lambda function: function):
    """Calls of the vendor's names through these modules, as (name, args, kwargs, result), each made by `around` it."""
    calls = []

    def recording(name, function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            calls.append((name, args, kwargs, result))
            return result

        return call

    with contextlib.ExitStack() as undo:
        for module in modules:
            for name in NAMES:
                function = vars(module).get(name)
                if function is not None:
                    undo.callback(setattr, module, name, function)
                    setattr(module, name, recording(name, around(function)))
        yield calls
