# SPDX-License-Identifier: Apache-2.0
"""The shortest way to an operator: weights that are packed, in a call that nobody traces, watches or differentiates.

The operators' overloads `packed` compute the same as their overloads `default`, but have no lists and no options by name,
which cost torch 0.5 us and more each. They are for this module: graphs, modes and gradients meet `default` only. What does
not fit here, every wrong argument too, takes the long way, which has the sentences.
One expert, one token, k 256: A 12.3 -> @A@, B @B@, down @D@ us (Zen 5, torch 2.13).
"""

from __future__ import annotations

import torch

from .call import any_requires_grad
from .library import ops
from .packed import PackedWeight

# Exact types: a subclass gets the overload that it may know.
_TENSORS = frozenset((torch.Tensor, torch.nn.Parameter))
_TENSORS_OR_NONE = _TENSORS | {type(None)}
_INTEGERS = frozenset((int,))
_OPTIONS = frozenset(range(8))  # no option has a larger number
_LIMITS = (float, int)

# torch's own name for the count of Python modes that see every operator; where a version lacks it, calls take the long way.
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", None)


def _call(operation, tensors, optional=(), options=(), more=(), last=()):
    """``operation(*tensors, *optional, *options, *more, *last)``, or None: the long way. `optional` and `more` may hold None."""
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
_ZERO = 0  # for `is`, which a tensor where an int belongs survives


def swiglu_quant(
    x, weight, weight_scale, x_scale, group_list, smooth_scale, assist, bias, dequant_mode, group_list_type, limit, spelling
):
    """(y, y_scale) of grouped_matmul_swiglu_quant with int8 results, or None."""
    if type(weight) is not PackedWeight or type(limit) not in _LIMITS:
        return None
    tensors = (x, weight.data, weight_scale, x_scale, group_list)
    if smooth_scale is assist is bias is None and dequant_mode is group_list_type is _ZERO and limit == 0:
        return _call(_swiglu_quant, tensors, options=(spelling,) if spelling else ())
    options, more = (spelling, group_list_type, dequant_mode), (smooth_scale, assist, bias)
    return _call(_swiglu_quant, tensors, options=options, more=more, last=(limit,))


def weight_quant(x, weight, scale, offset, bias, group_list, group_list_type, act_type, precision, spelling):
    """y of weight_quant_grouped_matmul, or None. `precision` is the schema's number."""
    if type(weight) is not PackedWeight or torch.is_autocast_enabled("cpu"):
        return None
    tensors, options = (x, weight.data, scale), (spelling, group_list_type, act_type, precision)
    if offset is bias is None and group_list_type is act_type is precision is _ZERO:
        return _call(_weight_quant, tensors, (group_list,), options[: spelling > 0])
    return _call(_weight_quant, tensors, (group_list,), options, (offset, bias))


def grouped_matmul(
    x, weight, weight_scale, group_list, x_scale, bias, assist, dequant_mode, group_list_type, act_type, out_dtype
):
    """y of grouped_matmul, or None."""
    if type(weight) is not PackedWeight or type(out_dtype) is not torch.dtype:
        return None
    tensors, optional = (x, weight.data, group_list), (weight_scale, x_scale)
    if bias is assist is None and dequant_mode is group_list_type is act_type is _ZERO and out_dtype is torch.bfloat16:
        return _call(_grouped_matmul, tensors, optional)
    options = (group_list_type, dequant_mode, act_type)
    return _call(_grouped_matmul, tensors, optional, options, (bias, assist), (out_dtype,))
