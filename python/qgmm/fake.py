# SPDX-License-Identifier: Apache-2.0
"""Shapes and dtypes of the results, for torch.compile, torch.export and meta tensors.

Wrong arguments get whatever shape falls out: the kernel refuses them with its sentence when the call runs. Only mixed
devices never reach a kernel (a meta tensor sends the call here), so they are refused here, in the same words.
"""

import torch
from torch._subclasses import FakeTensor

from .library import NAMESPACE, VENDOR_WEIGHT_QUANT_GMM, called_name
from .packed import INT4_LAYOUTS


def _register(operation):
    return torch.library.register_fake(f"{NAMESPACE}::{operation}")


def _check_devices(name, x, **tensors):
    for argument, value in tensors.items():
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if tensor is not None and tensor.device != x.device:
                raise ValueError(f"[{name}] {argument} must be on {x.device} like x; got {tensor.device}")


def _size(tensor, rank, axis):
    return tensor.size(axis) if tensor.dim() == rank else 0


def _last_size(tensors):
    return tensors[0].size(-1) if tensors and tensors[0].dim() else 0


@_register("grouped_matmul_swiglu_quant")
def _(
    x,
    weight,
    weight_scale,
    x_scale,
    group_list,
    smooth_scale=None,
    weight_assist_matrix=None,
    bias=None,
    *,
    dequant_mode=0,
    quant_dtype=None,
    group_list_type=0,
    swiglu_limit=0.0,
    tuning_config=None,
    packed=None,
    spelling=0,
):
    _check_devices(
        called_name("grouped_matmul_swiglu_quant", spelling),
        x,
        weight=weight,
        weight_scale=weight_scale,
        x_scale=x_scale,
        group_list=group_list,
        smooth_scale=smooth_scale,
        weight_assist_matrix=weight_assist_matrix,
        bias=bias,
    )
    m = _size(x, 2, 0)
    n = packed[3] if packed else _last_size(weight_scale)
    return x.new_empty((m, n // 2), dtype=quant_dtype or torch.int8), x.new_empty((m,), dtype=torch.float32)


@_register("weight_quant_grouped_matmul")
def _(
    x,
    weight,
    scale,
    offset=None,
    bias=None,
    group_list=None,
    *,
    group_list_type=0,
    act_type=0,
    precision=0,
    packed=None,
    spelling=0,
):
    prefix = "antiquant_" if spelling >= VENDOR_WEIGHT_QUANT_GMM else ""
    tensors = {
        "weight": weight,
        prefix + "scale": scale,
        prefix + "offset": offset,
        "bias": bias,
        "group_list": group_list,
    }
    _check_devices(called_name("weight_quant_grouped_matmul", spelling), x, **tensors)
    return x.new_empty((_size(x, 2, 0), packed[3] if packed else _size(scale, 2, 1)))


@_register("grouped_matmul")
def _(
    x,
    weight,
    weight_scale,
    group_list,
    x_scale=None,
    bias=None,
    weight_assist_matrix=None,
    *,
    dequant_mode=0,
    group_list_type=0,
    act_type=0,
    out_dtype=None,
    packed=None,
    spelling=0,
):
    _check_devices(
        called_name("grouped_matmul", spelling),
        x,
        weight=weight,
        weight_scale=weight_scale,
        group_list=group_list,
        x_scale=x_scale,
        bias=bias,
        weight_assist_matrix=weight_assist_matrix,
    )
    if packed:
        n = packed[3]
    elif weight_scale:
        n = _last_size(weight_scale)
    else:
        n = _last_size(weight) * (8 if weight and weight[0].dtype == torch.int32 else 1)
    return x.new_empty((_size(x, 2, 0), n), dtype=out_dtype or torch.bfloat16)


_DST_DTYPES = {1: torch.int8, 16: torch.int32, 23: torch.float8_e5m2, 24: torch.float8_e4m3fn}


@_register("dynamic_quant")
def _(x, smooth_scales=None, group_index=None, *, dst_type=1):
    _check_devices("dynamic_quant", x, smooth_scales=smooth_scales, group_index=group_index)
    rows, h = list(x.shape[:-1]), x.size(-1) if x.dim() else 0
    y = x.new_empty([*rows, h // 8 if dst_type == 16 else h], dtype=_DST_DTYPES.get(dst_type, torch.int8))
    return y, x.new_empty(rows, dtype=torch.float32)


def _check_not_meta(name, argument, tensors):
    """Where the result depends on values: a tracer's tensors stand for some that have them, meta tensors do not."""
    if any(tensor.is_meta and not isinstance(tensor, FakeTensor) for tensor in tensors):
        raise ValueError(f"[{name}] {argument} must be on cpu; got meta")


@_register("pack_weight")
def _(weight, *, swiglu=False, certify=-1):
    _check_not_meta("pack_weight", "weight", weight)
    # How many bytes is the packing's own affair.
    return weight[0].new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.uint8)


@_register("certify_weight")
def _(data, *, certify=-1):
    _check_not_meta("PackedWeight", "data", [data])
    return data.new_empty((torch.library.get_ctx().new_dynamic_size(),))


@_register("packed_header")
def _(data):
    _check_not_meta("PackedWeight", "data", [data])
    return data.new_empty((4,), dtype=torch.int64)


@_register("unpack_weight")
def _(data, packed):
    layout, e, k, n = packed
    if layout in INT4_LAYOUTS:
        return data.new_empty((e, k, n // 8), dtype=torch.int32)
    return data.new_empty((e, k, n), dtype=torch.int8)


def _blocks(k, n, number, c0, transposed):
    """Elements of the c0 axis' blocks, as (outer blocks, inner blocks, c0)."""
    if c0 == 0:
        c0 = 64 if number == 16 else 32 if number in (0, 1, 23, 24) else 16
    outer, inner = (k, n) if transposed else (n, k)
    return (outer + c0 - 1) // c0, (inner + 15) // 16, c0


_NZ_DTYPES = {2: torch.int16, 3: torch.int32, 5: torch.float16, 6: torch.float32, 15: torch.bfloat16, 16: torch.int32}
_NZ_DTYPES |= {0: torch.uint8, 1: torch.int8, 23: torch.float8_e5m2, 24: torch.float8_e4m3fn}


@_register("from_fractal_nz")
def _(data, k, n, dtype, c0=0, transposed=False):
    outer, inner, width = _blocks(k, n, dtype, c0, transposed)
    one = outer * inner * 16 * width
    held = data.numel() * (data.element_size() * 2 if dtype == 16 else 1)
    sizes = [k, n // 8 if dtype == 16 else n]
    return data.new_empty(sizes if data.dim() == 4 else [held // one, *sizes], dtype=_NZ_DTYPES[dtype])


@_register("to_fractal_nz")
def _(weight, dtype, c0=0, transposed=False):
    k, n = weight.size(-2), weight.size(-1) * (8 if dtype == 16 else 1)
    outer, inner, width = _blocks(k, n, dtype, c0, transposed)
    sizes = [outer, inner, 16, width // 8 if dtype == 16 else width]
    return weight.new_empty([*weight.shape[:-2], *sizes])


@_register("no_backward")
def _(like, operation):
    return torch.empty_like(like)
