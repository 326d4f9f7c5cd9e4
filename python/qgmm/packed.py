# SPDX-License-Identifier: Apache-2.0
"""PackedWeight: expert weights in the order of the kernels, as one tensor of bytes that knows what it is."""

from __future__ import annotations

import torch
from torch.utils import _pytree

from .library import ops

INT4_LAYOUTS = (3, 4)  # `enum class Layout` of include/qgmm/packed_weight.h: 1, 2 hold int8
_SWIGLU_LAYOUTS = (2, 4)


def certification(name: str, certify: bool | None) -> int:
    """The schemas' number: -1 for None, else 0 or 1."""
    if certify is not None and not isinstance(certify, bool):
        raise ValueError(f"[{name}] certify must be True, False or None; got {certify!r}")
    return -1 if certify is None else int(certify)


class PackedWeight:
    """Expert weights ``[e, k, n]`` reordered once by :func:`pack_weight`, for any number of calls.

    It gives the same bits as the tensor it was made from. Everything is in ``data``, a one-dimensional uint8 tensor
    that can stand in a ``state_dict`` or a safetensors file; ``PackedWeight.from_data(data)`` brings it back.
    ``torch.save``, ``torch.load`` (also with ``weights_only=True``, once qgmm is imported), ``copy`` and ``pickle``
    work on the object itself, and ``torch.compile`` takes it as an argument or as an attribute of a module. Make a new
    object for other weights: with other bytes written into ``data``, a call takes what their header says or refuses them.

    Attributes:
        data: uint8 ``[bytes]`` on the CPU.
        e, k, n: sizes of the weights as they were given; ``n`` counts int4 values, not int32 words.
        layout: which packing; a number of ``enum class Layout`` of the C++ library.
        dtype: ``"int8"`` or ``"int4"``.
        swiglu: gate and up columns are paired, for :func:`grouped_matmul_swiglu_quant`.
        device: of ``data``.

    Example:
        >>> import torch, qgmm
        >>> packed = qgmm.pack_weight(torch.ones(2, 8, 6, dtype=torch.int8))
        >>> packed
        PackedWeight(e=2, k=8, n=6, dtype='int8', swiglu=False, device='cpu')
        >>> qgmm.PackedWeight.from_data(packed.data.clone()).n
        6
    """

    def __init__(self, data: torch.Tensor) -> None:
        if not isinstance(data, torch.Tensor):
            raise ValueError(f"[PackedWeight] data must be a tensor; got {type(data).__name__}")
        self._set(data, ops.packed_header(data).tolist())

    def _set(self, data: torch.Tensor, header) -> None:
        self.data = data
        self.layout, self.e, self.k, self.n = header

    @classmethod
    def from_data(cls, data: torch.Tensor) -> PackedWeight:
        """The weight whose bytes ``data`` holds. Reads and validates the header once.

        Raises:
            ValueError: ``data`` is no contiguous row of uint8 on the CPU, or was not written by ``pack_weight``.
        """
        return cls(data)

    @property
    def dtype(self) -> str:
        return "int4" if self.layout in INT4_LAYOUTS else "int8"

    @property
    def swiglu(self) -> bool:
        return self.layout in _SWIGLU_LAYOUTS

    @property
    def device(self) -> torch.device:
        return self.data.device

    @property
    def integers(self) -> list[int]:
        """``[layout, e, k, n]``, as the operators' schemas carry them beside the bytes."""
        return [self.layout, self.e, self.k, self.n]

    def certified(self, certify: bool | None = None) -> PackedWeight:
        """The same weights with certificates (True), without (False), or as this machine's kernels want them (None).

        For weights that were packed on another kind of machine; ``pack_weight`` says what certificates are. Every form
        gives the same bits.

        Raises:
            ValueError: True for int4, which has no use for them.

        Example:
            >>> import torch, qgmm
            >>> packed = qgmm.pack_weight(torch.ones(1, 64, 32, dtype=torch.int8))
            >>> torch.equal(packed.certified(True).unpack(), packed.certified(False).unpack())
            True
        """
        return PackedWeight(ops.certify_weight(self.data, certify=certification("PackedWeight", certify)))

    def certificates(self) -> dict:
        """How many panels keep which promise, and the share of weights in residual lists (docs/packing.md).

        Example:
            >>> import torch, qgmm
            >>> weight = torch.randint(-16, 17, (2, 64, 32), dtype=torch.int8)
            >>> qgmm.pack_weight(weight, certify=True).certificates()
            {'none': 0, 'pairs': 0, 'quads': 4, 'residual_share': 0.0}
        """
        capacity = self.data[40:48].clone().view(torch.int64).item()
        panels = self.e * 2 * -(-self.n // 32)
        if capacity == 0:
            return {"none": panels, "pairs": 0, "quads": 0, "residual_share": 0.0}
        weights = -(-self.k // 64) * 64 * 16  # of a panel, in bytes; then 64 bytes of column sums each
        table = self.data[64 + panels * (weights + 64) :][: panels * 8].clone().view(torch.int32).view(panels, 2)
        none, pairs, quads = (int((table[:, 0] == level).sum()) for level in range(3))
        share = table[:, 1].sum().item() / (self.e * self.k * self.n)
        return {"none": none, "pairs": pairs, "quads": quads, "residual_share": share}

    def unpack(self) -> torch.Tensor:
        """The plain weights again: int8 ``[e, k, n]``, or int32 ``[e, k, n / 8]`` holding int4."""
        return ops.unpack_weight(self.data, self.integers)

    def __repr__(self) -> str:
        return (
            f"PackedWeight(e={self.e}, k={self.k}, n={self.n}, dtype='{self.dtype}', swiglu={self.swiglu}, "
            f"device='{self.device}')"
        )

    def __reduce__(self):
        return PackedWeight, (self.data,)


def _flatten(packed: PackedWeight):
    return [packed.data], tuple(packed.integers)


def _unflatten(children, header) -> PackedWeight:
    # Without the header's check: while tracing, the child is no tensor with bytes.
    packed = PackedWeight.__new__(PackedWeight)
    packed._set(next(iter(children)), header)
    return packed


def _flatten_with_keys(packed: PackedWeight):
    return [(_pytree.GetAttrKey("data"), packed.data)], tuple(packed.integers)


_pytree.register_pytree_node(
    PackedWeight,
    _flatten,
    _unflatten,
    flatten_with_keys_fn=_flatten_with_keys,
    serialized_type_name="qgmm.PackedWeight",
    to_dumpable_context=list,
    from_dumpable_context=tuple,
)
torch.serialization.add_safe_globals([PackedWeight])
