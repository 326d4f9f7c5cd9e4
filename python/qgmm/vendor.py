# SPDX-License-Identifier: Apache-2.0
"""The operators under the names an Ascend program calls: the vendor's argument order, defaults and numbers.

Each function puts its arguments in the operator's order and says by `spelling` who asked; C++ then checks and computes
as ever, names the caller's own arguments in its sentences, and clamps a group list that ends past m, which the native
functions refuse. Here is refused only what the operators have no place for: formats and modes of newer hardware.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import arguments, library, packed_call
from .call import call
from .library import ops
from .ops import GroupList, TensorOrList, Weights, swiglu_quant_tensors, weight_quant_tensors
from .packed import PackedWeight
from .packed_call import ZERO

_DTYPES = ("x_dtype", "weight_dtype", "weight_scale_dtype", "x_scale_dtype")


def _came(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"{arguments.spell(value.dtype)} {list(value.shape)}"
    return arguments.spell(value)


def _only(name, argument, value, allowed, rule):
    """An option that has one meaning, however it is written."""
    if isinstance(value, (int, torch.dtype, type(None))) and value in allowed:
        return
    arguments.refuse(name, f"{argument} must be {rule}; got {_came(value)}")


def npu_grouped_matmul_swiglu_quant_v2(
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
    dequant_dtype: torch.dtype | int | None = 0,
    quant_mode: int = 0,
    quant_dtype: torch.dtype | int | None = 0,
    group_list_type: int = 0,
    tuning_config: Sequence[int] | None = None,
    x_dtype: None = None,
    weight_dtype: None = None,
    weight_scale_dtype: None = None,
    x_scale_dtype: None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Grouped product of int8 tokens with int8 or int4 experts, dequantised, SwiGLU, quantised again per token.

    The vendor's ``torch_npu.npu_grouped_matmul_swiglu_quant_v2``; :func:`qgmm.grouped_matmul_swiglu_quant` is the same
    operator under qgmm's own names, and its formula is in docs/operators.md.

    Args:
        x: int8 ``[m, k]``.
        weight: int8 ``[e, k, n]``, or int32 ``[e, k, n / 8]`` holding int4; a tensor, a list of one, a list of e
            tensors without the first axis, or a :class:`PackedWeight` made with ``swiglu=True``. Plain order in
            memory, any strides: no FRACTAL_NZ is needed.
        weight_scale: float32, float16 or bfloat16 ``[e, n]``, or ``[e, G, n]`` with ``dequant_mode=1``; for int4 also
            int64 carrying float32 bits. A tensor or a list like ``weight``.
        x_scale: float32 ``[m]``.
        group_list: int64 or int32, 1 to e entries. One that ends past m is clamped, with one warning per process.
        smooth_scale: float32 ``[e]`` or ``[e, n / 2]``, multiplied in before quantisation.
        weight_assist_matrix: float32 ``[e, n]``, what the NPU's int4 path adds back; None: the exact product.
        bias: int32 ``[e, n]``, added to the integer sums.
        dequant_mode: 0, scales per channel; 1, scales per group of k.
        dequant_dtype: 0, 6, ``torch.float32`` or None, which all say float32.
        quant_mode: 0, one output scale per token.
        quant_dtype: 0, 1, ``torch.int8`` or None; 2, 23 or ``torch.float8_e5m2``; 3, 24 or ``torch.float8_e4m3fn``.
        group_list_type: 0, cumulative ends; 1, counts.
        tuning_config: list of ints, a planning hint that changes no bit.
        x_dtype, weight_dtype, weight_scale_dtype, x_scale_dtype: None.

    Returns:
        ``(output, output_scale)``: int8 or float8 ``[m, n / 2]``, float32 ``[m]``. Rows in no group are zeros.

    Raises:
        ValueError: an argument is wrong; the sentence names it.

    Example:
        >>> import torch, qgmm
        >>> x, weight = torch.ones(3, 8, dtype=torch.int8), torch.ones(2, 8, 4, dtype=torch.int8)
        >>> output, output_scale = qgmm.npu_grouped_matmul_swiglu_quant_v2(
        ...     x, [weight], [torch.ones(2, 4)], torch.ones(3), torch.tensor([1, 3]))
        >>> output.tolist()
        [[127, 127], [127, 127], [127, 127]]
    """
    no_types = x_dtype is weight_dtype is weight_scale_dtype is x_scale_dtype is None
    if no_types and tuning_config is None and dequant_dtype is quant_mode is quant_dtype is ZERO:
        others, optional = (weight_scale, x_scale, group_list), (smooth_scale, weight_assist_matrix, bias)
        numbers = (library.VENDOR_SWIGLU_QUANT_V2, group_list_type, dequant_mode)
        results = packed_call.swiglu_quant(x, weight, others, numbers, optional, 0.0)
        if results is not None:
            return results
    name = "npu_grouped_matmul_swiglu_quant_v2"
    tensors, packed = swiglu_quant_tensors(
        name, x, weight, weight_scale, x_scale, group_list, smooth_scale, weight_assist_matrix, bias
    )
    mode = arguments.integer(name, "dequant_mode", dequant_mode)
    _only(name, "dequant_dtype", dequant_dtype, (None, 0, 6, torch.float32), "0 (float32)")
    _only(name, "quant_mode", quant_mode, (0,), "0 (per token)")
    dtype = arguments.quant_dtype(name, quant_dtype)
    kind = arguments.integer(name, "group_list_type", group_list_type)
    tuning = arguments.tuning_config(name, tuning_config)
    for argument, value in zip(_DTYPES, (x_dtype, weight_dtype, weight_scale_dtype, x_scale_dtype), strict=True):
        _only(name, argument, value, (None,), "None")
    options = {
        "dequant_mode": mode,
        "quant_dtype": dtype,
        "group_list_type": kind,
        "tuning_config": tuning,
        "packed": packed,
        "spelling": library.VENDOR_SWIGLU_QUANT_V2,
    }
    return call(ops.grouped_matmul_swiglu_quant.default, tensors, options)


def npu_grouped_matmul_swiglu_quant(
    x: torch.Tensor,
    weight: Weights,
    group_list: GroupList,
    weight_scale: TensorOrList,
    x_scale: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    offset: None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first version of :func:`npu_grouped_matmul_swiglu_quant_v2`, with ``group_list`` in third place.

    Args:
        x, weight, x_scale: as there.
        group_list: cumulative ends.
        weight_scale: as there; its rank says whether scales are per channel or per group of k.
        bias: with int4 weights the assist matrix, float32 ``[e, n]``; with int8 weights None.
        offset: None.

    Returns:
        ``(output, output_scale, output_offset)``: int8 ``[m, n / 2]``, float32 ``[m]``, and a float32 zero without
        dimensions, since the quantisation is symmetric.

    Raises:
        ValueError: an argument is wrong; the sentence names it.

    Example:
        >>> import torch, qgmm
        >>> x, weight = torch.ones(3, 8, dtype=torch.int8), torch.ones(2, 8, 4, dtype=torch.int8)
        >>> output, output_scale, output_offset = qgmm.npu_grouped_matmul_swiglu_quant(
        ...     x, weight, torch.tensor([1, 3]), torch.ones(2, 4), torch.ones(3))
        >>> output.shape, output_offset.item()
        (torch.Size([3, 2]), 0.0)
    """
    if offset is None:
        others = (weight_scale, x_scale, group_list)
        numbers = (library.VENDOR_SWIGLU_QUANT_V1, 0, 0)
        results = packed_call.swiglu_quant(x, weight, others, numbers, (None, None, bias), 0.0)
        if results is not None:
            return *results, results[1].new_zeros(())
    name = "npu_grouped_matmul_swiglu_quant"
    tensors, packed = swiglu_quant_tensors(name, x, weight, weight_scale, x_scale, group_list, None, None, bias)
    _only(name, "offset", offset, (None,), "None")
    options = {"packed": packed, "spelling": library.VENDOR_SWIGLU_QUANT_V1}
    y, y_scale = call(ops.grouped_matmul_swiglu_quant.default, tensors, options)
    return y, y_scale, y_scale.new_zeros(())


def _weight_quant(
    spelling, x, weight, antiquant_scale, antiquant_offset, bias, group_list, group_list_type, act_type
):
    numbers = (spelling, group_list_type, act_type, 0)
    y = packed_call.weight_quant(x, weight, antiquant_scale, group_list, numbers, (antiquant_offset, bias))
    if y is not None:
        return y
    name = library.called_name("weight_quant_grouped_matmul", spelling)
    tensors, packed = weight_quant_tensors(
        name,
        x,
        weight,
        antiquant_scale,
        antiquant_offset,
        bias,
        group_list,
        scale_name="antiquant_scale",
        offset_name="antiquant_offset",
    )
    options = {
        "group_list_type": arguments.integer(name, "group_list_type", group_list_type),
        "act_type": arguments.integer(name, "act_type", act_type),
        "packed": packed,
        "spelling": spelling,
    }
    return call(ops.weight_quant_grouped_matmul.default, tensors, options)


def npu_weight_quant_gmm(
    x: torch.Tensor,
    weight: torch.Tensor | PackedWeight,
    antiquant_scale: torch.Tensor,
    *,
    antiquant_offset: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    group_list: GroupList | None = None,
    act_type: int = 0,
) -> torch.Tensor:
    """Grouped product of 16-bit tokens with int8 experts.

    ``y = act(x @ ((weight + antiquant_offset) * antiquant_scale) + bias)`` per expert, summed in fp32, narrowed once.

    The vendor's ``mindspeed.ops.weight_quant_gmm.npu_weight_quant_gmm``; :func:`qgmm.weight_quant_grouped_matmul` is
    the same operator under qgmm's own names, and its formula is in docs/operators.md.

    Args:
        x: float16, bfloat16 or float32 ``[m, k]``.
        weight: int8 ``[e, k, n]``, any strides, so ``w.transpose(-1, -2)`` too; or a :class:`PackedWeight`.
        antiquant_scale: ``[e, n]`` of x's dtype or float32.
        antiquant_offset: as antiquant_scale; None: no offset.
        bias: ``[e, n]`` of x's dtype or float32.
        group_list: cumulative ends, int64 or int32, 1 to e entries; None if e is 1. One that ends past m is clamped,
            with one warning per process.
        act_type: 0 none, 1 relu, 2 gelu_tanh, 4 fast_gelu, 5 silu.

    Returns:
        ``[m, n]`` of x's dtype. Rows in no group are zeros.

    Raises:
        ValueError: an argument is wrong; the sentence names it.

    Example:
        >>> import torch, qgmm
        >>> x, weight = torch.ones(3, 4, dtype=torch.float16), torch.ones(2, 4, 5, dtype=torch.int8)
        >>> y = qgmm.npu_weight_quant_gmm(
        ...     x, weight, torch.ones(2, 5, dtype=torch.float16), group_list=torch.tensor([1, 3]))
        >>> y.unique().item()
        4.0
    """
    spelling = library.VENDOR_WEIGHT_QUANT_GMM
    return _weight_quant(spelling, x, weight, antiquant_scale, antiquant_offset, bias, group_list, 0, act_type)


def npu_weight_quant_gmm_v2(
    x: torch.Tensor,
    weight: torch.Tensor | PackedWeight,
    antiquant_scale: torch.Tensor,
    *,
    antiquant_offset: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    group_list: GroupList | None = None,
    act_type: int = 0,
) -> torch.Tensor:
    """:func:`npu_weight_quant_gmm` with ``group_list`` as the number of rows of each expert instead of their ends.

    Example:
        >>> import torch, qgmm
        >>> x, weight = torch.ones(3, 4, dtype=torch.float16), torch.ones(2, 4, 5, dtype=torch.int8)
        >>> y = qgmm.npu_weight_quant_gmm_v2(
        ...     x, weight, torch.ones(2, 5, dtype=torch.float16), group_list=torch.tensor([1, 2]))
        >>> y.shape
        torch.Size([3, 5])
    """
    spelling = library.VENDOR_WEIGHT_QUANT_GMM_V2
    return _weight_quant(spelling, x, weight, antiquant_scale, antiquant_offset, bias, group_list, 1, act_type)


def mindspeed_weight_quant_gmm(
    x, weight, antiquant_scale, *, antiquant_offset=None, bias=None, group_list=None, group_list_type=0, act_type=0
):
    """``torch.ops.mindspeed.npu_weight_quant_gmm``: one name for both kinds of list, told apart by group_list_type."""
    spelling = library.VENDOR_WEIGHT_QUANT_GMM
    return _weight_quant(
        spelling, x, weight, antiquant_scale, antiquant_offset, bias, group_list, group_list_type, act_type
    )


def npu_format_cast(
    t: torch.Tensor | PackedWeight, acl_format: int, customize_dtype: torch.dtype | int | None = None
) -> torch.Tensor | PackedWeight:
    """The tensor itself: a storage format of the NPU does not change what the tensor means, and qgmm reads plain order.

    It packs nothing either, since a later write to a plain tensor could not be noticed: speed is asked for with
    :func:`qgmm.pack_weight`, and bytes that are in FRACTAL_NZ already come in through :func:`qgmm.from_fractal_nz`.

    Args:
        t: a tensor, or a :class:`PackedWeight`.
        acl_format: 2 (ND) or 29 (FRACTAL_NZ).
        customize_dtype: says how wide the NPU's blocks are, and so nothing here.

    Raises:
        ValueError: ``t`` is no tensor, or another format.

    Example:
        >>> import torch, qgmm
        >>> weight = torch.ones(1, 2, 3, dtype=torch.int8)
        >>> qgmm.npu_format_cast(weight, 29) is weight
        True
    """
    name = "npu_format_cast"
    if not isinstance(t, PackedWeight):
        arguments.tensor(name, "t", t)
    _only(name, "acl_format", acl_format, (2, 29), "2 (ND) or 29 (FRACTAL_NZ)")
    return t
