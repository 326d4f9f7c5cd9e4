# SPDX-License-Identifier: Apache-2.0
"""Weights on their way in: packing for the kernels, and the NPU's FRACTAL_NZ storage."""

from __future__ import annotations

import torch

from . import arguments
from .library import ops
from .packed import PackedWeight, certification

_INT4 = 16  # torch's number of quint4x2, which names int4 in the schemas


def pack_weight(
    weight: torch.Tensor | list[torch.Tensor], *, swiglu: bool = False, certify: bool | None = None
) -> PackedWeight:
    """Reorders expert weights once, so that calls need not do it again. The results keep their bits.

    Args:
        weight: int8 ``[e, k, n]`` or int32 ``[e, k, n / 8]`` of packed int4, any strides; or a list of one such tensor
            or of e tensors ``[k, n]``.
        swiglu: True for :func:`grouped_matmul_swiglu_quant`, which wants gate and up columns side by side; False for
            the other operators.
        certify: int8 only. True: a promise per panel, and lists of what it cost, for the fastest exact kernels of AVX2
            and of AVX-512 without VNNI; False: neither, best for operator B; None: as the best kernels of this machine want it.

    Returns:
        A :class:`PackedWeight`; ``weight`` may be dropped, and later changes to it have no effect.

    Raises:
        ValueError: an argument is wrong; the sentence says which and why.

    Example:
        >>> import torch, qgmm
        >>> weight = torch.randint(-128, 128, (2, 16, 12), dtype=torch.int8)
        >>> packed = qgmm.pack_weight(weight, swiglu=True)
        >>> torch.equal(packed.unpack(), weight)
        True
    """
    swiglu = _flag("pack_weight", "swiglu", swiglu)
    if arguments.is_only_expert(weight):
        weight = arguments.with_expert_axis(weight)
    tensors = arguments.tensors("pack_weight", "weight", weight)
    return PackedWeight(ops.pack_weight(tensors, swiglu=swiglu, certify=certification("pack_weight", certify)))


def _content(name: str, dtype) -> int:
    """torch's number of what the storage holds."""
    if isinstance(dtype, str) and dtype == "int4":
        return _INT4
    if isinstance(dtype, torch.dtype) and dtype in _NUMBERS:
        return _NUMBERS[dtype]
    came = arguments.spell(dtype)
    return arguments.refuse(name, f'dtype must be a torch dtype of 1, 2 or 4 bytes or "int4"; got {came}')


_NUMBERS = {
    torch.uint8: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.float16: 5,
    torch.float32: 6,
    torch.bfloat16: 15,
    torch.quint4x2: _INT4,
    torch.float8_e5m2: 23,
    torch.float8_e4m3fn: 24,
}


def _tensors(name: str, argument: str, value) -> None:
    if not value:
        arguments.refuse(name, f"{argument} must be a tensor or a list of tensors; got an empty list")
    arguments.tensors(name, argument, value)


def _size(name: str, argument: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        arguments.refuse(name, f"{argument} must be a size; got {arguments.spell(value)}")
    return value


def _flag(name: str, argument: str, value) -> bool:
    if not isinstance(value, bool):
        arguments.refuse(name, f"{argument} must be True or False; got {arguments.spell(value)}")
    return value


def from_fractal_nz(data, k: int, n: int, dtype, c0: int | None = None, transposed: bool = False):
    """A plain tensor from FRACTAL_NZ storage: blocks of 16 by c0, zero padded, the blocks of the c0 axis outermost.

    Args:
        data: storage ``[e, ceil(n / c0), ceil(k / 16), 16, c0]``, or its elements or uint8 bytes in any shape; without
            the axis of experts where it has four dimensions; or a list of such tensors. int4: bytes (int8, uint8) or
            int32 holding nibbles.
        k, n: sizes of the plain weights.
        dtype: what the storage holds: ``"int4"`` or a torch dtype of 1, 2 or 4 bytes.
        c0: elements per row of a block; None: 32 of one byte, 64 int4, 16 of wider dtypes.
        transposed: storage ``[e, ceil(k / c0), ceil(n / 16), 16, c0]``.

    Returns:
        A new tensor ``[e, k, n]`` (int4: int32 ``[e, k, n / 8]``), without e where ``data`` has no such axis; a list
        for a list.

    Raises:
        ValueError: an argument is wrong; the sentence says which and why.

    Example:
        >>> import torch, qgmm
        >>> weight = torch.randint(-128, 128, (2, 40, 50), dtype=torch.int8)
        >>> storage = qgmm.to_fractal_nz(weight)
        >>> storage.shape
        torch.Size([2, 2, 3, 16, 32])
        >>> torch.equal(qgmm.from_fractal_nz(storage, 40, 50, torch.int8), weight)
        True
    """
    name = "from_fractal_nz"
    if isinstance(data, (list, tuple)):
        _tensors(name, "data", data)
        return [from_fractal_nz(one, k, n, dtype, c0, transposed) for one in data]
    data = arguments.tensor(name, "data", data)
    content = _content(name, dtype)
    sizes = [_size(name, "k", k), _size(name, "n", n)]
    width = 0 if c0 is None else _size(name, "c0", c0)
    data = data.contiguous()
    if data.dtype == torch.uint8 and content not in (_INT4, 0) and data.numel() % dtype.itemsize == 0:
        shape = data.shape
        data = data.view(-1).view(dtype)
        if dtype.itemsize == 1:
            data = data.view(shape)  # keeps the axis of experts, or its absence
    return ops.from_fractal_nz(data, *sizes, content, width, _flag(name, "transposed", transposed))


def to_fractal_nz(weight, dtype=None, c0: int | None = None, transposed: bool = False):
    """The inverse of :func:`from_fractal_nz`: what the NPU's ``npu_format_cast(weight, 29)`` would store.

    Args:
        weight: ``[e, k, n]`` or ``[k, n]`` (int4: int32 ``[.., n / 8]``), or a list of such tensors.
        dtype: what it holds: None for the tensor's own dtype, or ``"int4"``.
        c0, transposed: as there.

    Returns:
        The storage ``[e, ceil(n / c0), ceil(k / 16), 16, c0]``, zero padded; for int4 int32 with c0 / 8 in the last
        place; without e for ``[k, n]``; a list for a list.

    Raises:
        ValueError: an argument is wrong; the sentence says which and why.

    Example:
        >>> import torch, qgmm
        >>> qgmm.to_fractal_nz(torch.zeros(3, 64, 8, dtype=torch.int32), "int4").shape
        torch.Size([3, 1, 4, 16, 8])
    """
    name = "to_fractal_nz"
    if isinstance(weight, (list, tuple)):
        _tensors(name, "weight", weight)
        return [to_fractal_nz(one, dtype, c0, transposed) for one in weight]
    weight = arguments.tensor(name, "weight", weight)
    content = _content(name, weight.dtype if dtype is None else dtype)
    width = 0 if c0 is None else _size(name, "c0", c0)
    return ops.to_fractal_nz(weight.contiguous(), content, width, _flag(name, "transposed", transposed))
