# SPDX-License-Identifier: Apache-2.0
"""The operators. m tokens, k inner size, n columns, e experts, h = n / 2, G scales per column.

Sizes, dtypes, devices and values are checked in C++, before anything is written; a refusal is a ``ValueError`` with
one sentence, ``[operator] argument must be RULE; got WHAT``. Every tensor may have any strides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import arguments, packed_call
from .call import call
from .library import NATIVE, ops
from .packed import PackedWeight

TensorOrList = torch.Tensor | Sequence[torch.Tensor]
Weights = torch.Tensor | Sequence[torch.Tensor] | PackedWeight
GroupList = torch.Tensor | Sequence[int]


def grouped_matmul_swiglu_quant(
    x: torch.Tensor,
    weight: Weights,
    weight_scale: TensorOrList,
    x_scale: torch.Tensor,
    group_list: GroupList,
    *,
    smooth_scale: torch.Tensor | None = None,
    weight_assist_matrix: TensorOrList | None = None,
    bias: torch.Tensor | None = None,
    dequant_mode: int = 0,
    quant_dtype: torch.dtype | int | None = None,
    group_list_type: int = 0,
    swiglu_limit: float = 0.0,
    tuning_config: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Grouped int8 x int8 (or int4) product, dequantised, SwiGLU, quantised again per token, in one pass.

    For a row i in the group of expert e::

        a = sum over k of x[i, k] * weight[e, k, j]          exact
        c = (a + bias[e, j]) * weight_scale[e, j] * x_scale[i]
        s[j] = silu(c[j]) * c[j + h] * smooth_scale[e, j]    the left half is activated
        y_scale[i] = max |s| / 127;  y[i] = round(s / y_scale[i])

    docs/operators.md has the order of every operation; the result has the same bits on every machine and for any
    number of threads. Rows in no group become zeros.

    Args:
        x: int8 ``[m, k]``, 1 <= k <= 131071.
        weight: int8 ``[e, k, n]``; int32 ``[e, k, n / 8]`` of packed int4; a list of one such tensor or of e tensors
            ``[k, n]``; or a :class:`PackedWeight` made with ``swiglu=True``. Gate columns first, then up.
        weight_scale: float32, float16 or bfloat16 ``[e, n]`` or, by slices of k, ``[e, G, n]``; or a list like
            ``weight``. For int4 also int64 carrying float32 bits.
        x_scale: float32 ``[m]``.
        group_list: int64 or int32, 1 to e entries, or a list of ints.
        smooth_scale: float32 ``[e]`` or ``[e, h]``.
        weight_assist_matrix: float32 ``[e, n]``; the NPU's correction for int4: the product becomes
            ``(x - 8) @ weight * weight_scale + weight_assist_matrix``.
        bias: int32 ``[e, n]``, added to the integer sums; only with scales ``[e, n]``.
        dequant_mode: 0: scales ``[e, n]``; 1: ``[e, G, n]``.
        quant_dtype: of y: None, 0, 1 or ``torch.int8``; 2, 23 or ``torch.float8_e5m2``; 3, 24 or
            ``torch.float8_e4m3fn``.
        group_list_type: 0: cumulative ends; 1: counts.
        swiglu_limit: L > 0 clamps the gate to at most L and up to [-L, L]; 0: off.
        tuning_config: first entry: tokens per expert to plan for. Never changes a bit.

    Returns:
        ``y`` ``[m, h]`` of ``quant_dtype`` and ``y_scale`` float32 ``[m]``, both new and contiguous.

    Raises:
        ValueError: an argument is wrong; the sentence says which and why.
        RuntimeError: a backward reaches the call, which has none.

    Example:
        >>> import torch, qgmm
        >>> x = torch.randint(-128, 128, (5, 16), dtype=torch.int8)
        >>> weight = torch.randint(-128, 128, (2, 16, 12), dtype=torch.int8)
        >>> y, y_scale = qgmm.grouped_matmul_swiglu_quant(
        ...     x, weight, torch.rand(2, 12), torch.rand(5), [2, 5])
        >>> y.shape, y.dtype, y_scale.shape
        (torch.Size([5, 6]), torch.int8, torch.Size([5]))
    """
    if quant_dtype is None and tuning_config is None:
        others, optional = (weight_scale, x_scale, group_list), (smooth_scale, weight_assist_matrix, bias)
        numbers = (NATIVE, group_list_type, dequant_mode)
        results = packed_call.swiglu_quant(x, weight, others, numbers, optional, swiglu_limit)
        if results is not None:
            return results
    name = "grouped_matmul_swiglu_quant"
    tensors, packed = swiglu_quant_tensors(
        name, x, weight, weight_scale, x_scale, group_list, smooth_scale, weight_assist_matrix, bias
    )
    options = {
        "dequant_mode": arguments.integer(name, "dequant_mode", dequant_mode),
        "quant_dtype": arguments.quant_dtype(name, quant_dtype),
        "group_list_type": arguments.integer(name, "group_list_type", group_list_type),
        "swiglu_limit": arguments.limit(name, swiglu_limit),
        "tuning_config": arguments.tuning_config(name, tuning_config),
        "packed": packed,
    }
    return call(ops.grouped_matmul_swiglu_quant.default, tensors, options)


def swiglu_quant_tensors(name, x, weight, weight_scale, x_scale, group_list, smooth_scale, weight_assist_matrix, bias):
    """Types and lists of a call by any name: the schema's tensors in its order, and the integers of a PackedWeight."""
    x = arguments.tensor(name, "x", x)
    if arguments.is_only_expert(weight):
        weight, weight_scale, weight_assist_matrix = map(
            arguments.with_expert_axis, (weight, weight_scale, weight_assist_matrix)
        )
    weight, packed = arguments.weights(name, weight)
    tensors = (
        x,
        weight,
        arguments.tensors(name, "weight_scale", weight_scale),
        arguments.tensor(name, "x_scale", x_scale),
        arguments.group_list(name, group_list, x.device),
        arguments.optional_tensor(name, "smooth_scale", smooth_scale),
        arguments.optional_tensors(name, "weight_assist_matrix", weight_assist_matrix),
        arguments.optional_tensor(name, "bias", bias),
    )
    return tensors, packed


def weight_quant_grouped_matmul(
    x: torch.Tensor,
    weight: torch.Tensor | PackedWeight,
    scale: torch.Tensor,
    *,
    offset: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    group_list: GroupList | None = None,
    group_list_type: int = 0,
    act_type: int = 0,
    precision: str = "default",
) -> torch.Tensor:
    """Grouped product of 16-bit or fp32 tokens with int8 experts: ``act(x @ ((weight + offset) * scale) + bias)``.

    Sums are fp32, narrowed once at the end. Rows in no group become zeros. Deterministic: the same bits for any number
    of threads and any company of rows.

    Args:
        x: float16, bfloat16 or float32 ``[m, k]``.
        weight: int8 ``[e, k, n]``, transposed views included, or a :class:`PackedWeight` of int8 made with
            ``swiglu=False``.
        scale: x's dtype or float32 ``[e, n]``.
        offset: like ``scale``, added to the weights before scaling; None: no such term.
        bias: x's dtype or float32 ``[e, n]``.
        group_list: int64 or int32, 1 to e entries, or a list of ints; None where e is 1: all rows.
        group_list_type: 0: cumulative ends; 1: counts.
        act_type: 0 none, 1 relu, 2 gelu_tanh, 4 fast_gelu, 5 silu.
        precision: ``"strict"`` sums in fp32. ``"fast"`` allows fixed point for 16-bit x: int16 with a power of two
            per row and 512 k, outliers apart, about twice as fast, with a proven bound (docs/operators.md, 8.2).
            ``"default"`` does so for bfloat16, where the error is small beside the rounding of y.

    Returns:
        ``y`` ``[m, n]`` of x's dtype, new and contiguous.

    Raises:
        ValueError: an argument is wrong; the sentence says which and why. Also an activation while x requires grad.
        RuntimeError: a backward reaches the call, which has none yet.

    Example:
        >>> import torch, qgmm
        >>> x = torch.randn(3, 8, dtype=torch.bfloat16)
        >>> weight = torch.randint(-128, 128, (2, 8, 5), dtype=torch.int8)
        >>> y = qgmm.weight_quant_grouped_matmul(x, weight, torch.rand(2, 5), group_list=[1, 3])
        >>> y.shape, y.dtype
        (torch.Size([3, 5]), torch.bfloat16)
    """
    numbers = (NATIVE, group_list_type, act_type, arguments.precision_number(precision))
    y = packed_call.weight_quant(x, weight, scale, group_list, numbers, (offset, bias))
    if y is not None:
        return y
    name = "weight_quant_grouped_matmul"
    tensors, packed = weight_quant_tensors(name, x, weight, scale, offset, bias, group_list)
    options = {
        "group_list_type": arguments.integer(name, "group_list_type", group_list_type),
        "act_type": arguments.integer(name, "act_type", act_type),
        "precision": arguments.precision(name, precision),
        "packed": packed,
    }
    return call(ops.weight_quant_grouped_matmul.default, tensors, options)


def weight_quant_tensors(name, x, weight, scale, offset, bias, group_list, *, scale_name="scale", offset_name="offset"):
    """Types and lists of a call by any name: the schema's tensors in its order, and the integers of a PackedWeight."""
    x = arguments.tensor(name, "x", x)
    weight, packed = arguments.one_weight(name, weight)
    tensors = (
        x,
        weight,
        arguments.tensor(name, scale_name, scale),
        arguments.optional_tensor(name, offset_name, offset),
        arguments.optional_tensor(name, "bias", bias),
        arguments.optional_group_list(name, group_list, x.device),
    )
    return tensors, packed


def grouped_matmul(
    x: torch.Tensor,
    weight: Weights,
    weight_scale: TensorOrList | None,
    group_list: GroupList,
    *,
    x_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    weight_assist_matrix: TensorOrList | None = None,
    dequant_mode: int = 0,
    group_list_type: int = 0,
    act_type: int = 0,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """Grouped int8 x int8 (or int4) product, dequantised: the down projection of a Mixture-of-Experts layer.

    ``y[i, j] = act(a * weight_scale[e, j] * x_scale[i] + bias[e, j])`` with ``a`` the exact integer sum, narrowed once.
    The same bits on every machine and for any number of threads. Rows in no group become zeros.

    Args:
        x: int8 ``[m, k]``, 1 <= k <= 131071.
        weight, weight_scale, weight_assist_matrix, dequant_mode: as in :func:`grouped_matmul_swiglu_quant`; a
            :class:`PackedWeight` is made with ``swiglu=False``. ``weight_scale`` is None for int32 output.
        group_list: int64 or int32, 1 to e entries, or a list of ints.
        x_scale: float32 ``[m]``; None: no factor.
        bias: int32 ``[e, n]``, added to the integer sums, or float16, bfloat16, float32 ``[e, n]``, added at the end.
        group_list_type: 0: cumulative ends; 1: counts.
        act_type: 0 none, 1 relu, 2 gelu_tanh, 4 fast_gelu, 5 silu.
        out_dtype: ``torch.float16``, ``torch.bfloat16``, ``torch.float32``, or ``torch.int32`` for the integer sums.

    Returns:
        ``y`` ``[m, n]`` of ``out_dtype``, new and contiguous.

    Raises:
        ValueError: an argument is wrong; the sentence says which and why.
        RuntimeError: a backward reaches the call, which has none.

    Example:
        >>> import torch, qgmm
        >>> x = torch.ones(3, 8, dtype=torch.int8)
        >>> weight = torch.ones(2, 8, 4, dtype=torch.int8)
        >>> qgmm.grouped_matmul(x, weight, torch.full((2, 4), 0.5), [1, 2], x_scale=torch.ones(3))[:, 0]
        tensor([4., 4., 0.], dtype=torch.bfloat16)
    """
    scales, optional = (weight_scale, x_scale), (bias, weight_assist_matrix)
    numbers = (group_list_type, dequant_mode, act_type)
    y = packed_call.grouped_matmul(x, weight, group_list, scales, numbers, optional, out_dtype)
    if y is not None:
        return y
    name = "grouped_matmul"
    x = arguments.tensor(name, "x", x)
    if arguments.is_only_expert(weight):
        weight, weight_scale, weight_assist_matrix = map(
            arguments.with_expert_axis, (weight, weight_scale, weight_assist_matrix)
        )
    weight, packed = arguments.weights(name, weight)
    tensors = (
        x,
        weight,
        arguments.optional_tensors(name, "weight_scale", weight_scale),
        arguments.group_list(name, group_list, x.device),
        arguments.optional_tensor(name, "x_scale", x_scale),
        arguments.optional_tensor(name, "bias", bias),
        arguments.optional_tensors(name, "weight_assist_matrix", weight_assist_matrix),
    )
    options = {
        "dequant_mode": arguments.integer(name, "dequant_mode", dequant_mode),
        "group_list_type": arguments.integer(name, "group_list_type", group_list_type),
        "act_type": arguments.integer(name, "act_type", act_type),
        "out_dtype": arguments.out_dtype(name, out_dtype),
        "packed": packed,
    }
    return call(ops.grouped_matmul.default, tensors, options)


def dynamic_quant(
    x: torch.Tensor,
    *,
    smooth_scales: torch.Tensor | None = None,
    group_index: torch.Tensor | None = None,
    dst_type: torch.dtype | int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantises every row: ``scale = max |v| / 127`` and ``y = round(v / scale)`` of ``v = x * smooth_scales``.

    The same bits on every machine and for any number of threads.

    Args:
        x: float16, bfloat16 or float32 ``[..., h]``, two dimensions or more.
        smooth_scales: x's dtype or float32 ``[h]``, or ``[g, h]`` with ``group_index``.
        group_index: int32 or int64 ``[g]``: cumulative ends of the rows of each smooth row; the last is all rows.
        dst_type: None, 1 or ``torch.int8``; 16 or ``torch.quint4x2`` for int4 (h a multiple of 8); 23 or
            ``torch.float8_e5m2``; 24 or ``torch.float8_e4m3fn``.

    Returns:
        ``y`` of ``dst_type`` ``[..., h]`` (int4: int32 ``[..., h / 8]``) and ``scale`` float32 ``[...]``.

    Raises:
        ValueError: an argument is wrong; the sentence says which and why.
        RuntimeError: a backward reaches the call, which has none.

    Example:
        >>> import torch, qgmm
        >>> y, scale = qgmm.dynamic_quant(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> y
        tensor([[  64, -127],
                [   0,    0]], dtype=torch.int8)
        >>> scale
        tensor([0.0157, 0.0000])
    """
    name = "dynamic_quant"
    tensors = (
        arguments.tensor(name, "x", x),
        arguments.optional_tensor(name, "smooth_scales", smooth_scales),
        arguments.optional_tensor(name, "group_index", group_index),
    )
    return call(ops.dynamic_quant.default, tensors, {"dst_type": arguments.dst_type(name, dst_type)})
