# SPDX-License-Identifier: Apache-2.0
"""The shortest way to an operator: weights that are packed, in a call that nobody traces, watches or differentiates.

The operators' overloads `packed` compute the same as their overloads `default`, but have no lists and no options by name,
which cost torch 0.5 us and more each. They are for this module: modes, gradients and graphs (but torch.jit.trace's) meet
`default` only. What does not fit here, every wrong argument too, takes the long way, which has the sentences.
One expert, one token, k 256, beyond an empty operator: A 11.0 -> 6.8, B 8.4 -> 5.9, down 9.7 -> 6.1 us (Zen 5, torch 2.13).
"""

from __future__ import annotations

import torch

from .arguments import OUT_DTYPES
from .call import any_requires_grad
from .library import ops
from .packed import PackedWeight

# Exact types: a subclass gets the overload that it may know.
_TENSORS = frozenset((torch.Tensor, torch.nn.Parameter))
_TENSORS_OR_NONE = _TENSORS | {type(None)}
_INTEGERS = frozenset((int,))
_OPTIONS = frozenset(range(8))  # no option has a larger number

# torch's own name for the count of Python modes that see every operator; where a version lacks it, calls take the long way.
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", None)


def _call(operation, tensors, optional=(), options=(), more=(), last=()):
    """``operation(*tensors, *optional, *options, *more, *last)``, or None: the long way.

    Args:
        tensors: none of them is None; those of `optional` and `more` may be.
        options: integers, whose values C++ checks.
        last: has been checked.
    """
    if (
        torch.compiler.is_compiling()
        or any_requires_grad is None
        or _dispatch_modes is None
        or not _TENSORS.issuperset(map(type, tensors))
        or not _TENSORS_OR_NONE.issuperset(map(type, optional))
        or (options and not (_INTEGERS.issuperset(map(type, options)) and _OPTIONS.issuperset(options)))
        or (more and not _TENSORS_OR_NONE.issuperset(map(type, more)))
        or _dispatch_modes()
        or (torch.is_grad_enabled() and any_requires_grad(*tensors, *optional, *more))
    ):
        return None
    try:
        return operation._op(*tensors, *optional, *options, *more, *last)
    except ValueError:
        return None


_swiglu_quant = ops.grouped_matmul_swiglu_quant.packed
_weight_quant = ops.weight_quant_grouped_matmul.packed
_grouped_matmul = ops.grouped_matmul.packed
ZERO = 0  # for `is`: `==` of a tensor, where an int belongs, is no truth


def swiglu_quant(x, weight, others, options, optional, swiglu_limit):
    """(y, y_scale) of grouped_matmul_swiglu_quant with int8 results, or None.

    Args:
        others: weight_scale, x_scale, group_list.
        options: spelling, group_list_type, dequant_mode.
        optional: smooth_scale, weight_assist_matrix, bias.
    """
    if type(weight) is not PackedWeight or type(swiglu_limit) is not float:
        return None
    spelling, group_list_type, dequant_mode = options
    first, second, third = optional
    tensors = (x, weight.data, *others)
    if first is second is third is None and dequant_mode is group_list_type is ZERO and swiglu_limit == 0:
        return _call(_swiglu_quant, tensors, options=options[: spelling > 0])
    return _call(_swiglu_quant, tensors, (), options, optional, (swiglu_limit,))


def weight_quant(x, weight, scale, group_list, options, optional):
    """y of weight_quant_grouped_matmul, or None.

    Args:
        options: spelling, group_list_type, act_type, and the schema's number of the precision.
        optional: offset, bias.
    """
    if type(weight) is not PackedWeight or torch.is_autocast_enabled("cpu"):
        return None
    spelling, group_list_type, act_type, precision = options
    offset, bias = optional
    tensors = (x, weight.data, scale)
    if offset is bias is None and group_list_type is act_type is precision is ZERO:
        return _call(_weight_quant, tensors, (group_list,), options[: spelling > 0])
    return _call(_weight_quant, tensors, (group_list,), options, optional)


def grouped_matmul(x, weight, group_list, scales, options, optional, out_dtype):
    """y of grouped_matmul, or None.

    Args:
        scales: weight_scale, x_scale.
        options: group_list_type, dequant_mode, act_type.
        optional: bias, weight_assist_matrix.
    """
    if type(weight) is not PackedWeight or type(out_dtype) is not torch.dtype or out_dtype not in OUT_DTYPES:
        return None
    group_list_type, dequant_mode, act_type = options
    bias, assist = optional
    tensors = (x, weight.data, group_list)
    if bias is assist is None and dequant_mode is group_list_type is act_type is ZERO and out_dtype is torch.bfloat16:
        return _call(_grouped_matmul, tensors, scales)
    return _call(_grouped_matmul, tensors, scales, options, optional, (out_dtype,))
