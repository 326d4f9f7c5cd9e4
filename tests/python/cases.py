# SPDX-License-Identifier: Apache-2.0
"""Argument sets, as small as a situation allows: tensors in the shapes an operator wants, from a seeded generator."""

import numpy as np
import torch

import golden_formats


def int8(rng, *shape):
    """All 256 values."""
    return torch.from_numpy(np.frombuffer(rng.bytes(int(np.prod(shape))), np.int8).reshape(shape).copy())


def int4(rng, e, k, n):
    """int32 [e, k, n / 8]: all 16 values in every nibble."""
    return torch.from_numpy(np.frombuffer(rng.bytes(e * k * n // 2), np.int32).reshape(e, k, n // 8).copy())


def uniform(rng, *shape, low=-1.0, high=1.0, dtype=torch.float32):
    return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32)).to(dtype)


def scales(rng, *shape, size=0.01, dtype=torch.float32):
    """Positive, over a factor of four."""
    return uniform(rng, *shape, low=0.5 * size, high=2 * size, dtype=dtype)


def counts(rng, m, e):
    """Random counts of e groups that sum to m, empty ones among them."""
    cuts = np.sort(rng.integers(0, m + 1, e - 1)) if e > 1 else np.array([], np.int64)
    return np.diff(np.concatenate([[0], cuts, [m]])).astype(np.int64)


def groups(rng, m, e, kind=0):
    sizes = counts(rng, m, e)
    return torch.from_numpy(sizes if kind == 1 else np.cumsum(sizes))


def swiglu(rng, e=2, m=5, k=24, n=16, slices=0, bits=8, group_list=None, size=None):
    """Positional arguments of operator A. slices 0: scales [e, n], else [e, slices, n]."""
    weight = int8(rng, e, k, n) if bits == 8 else int4(rng, e, k, n)
    # c of a few units, where Silu bends: |a| is about sqrt(k) * 74 * (74 or 4.6)
    size = size or 3 / (np.sqrt(k) * 74 * (74 if bits == 8 else 4.6))
    scale = scales(rng, e, n, size=size) if slices == 0 else scales(rng, e, slices, n, size=size)
    if group_list is None:
        group_list = groups(rng, m, e)
    return int8(rng, m, k), weight, scale, uniform(rng, m, low=0.5, high=1.5), torch.as_tensor(group_list)


def grouped(rng, **sizes):
    """Positional arguments and x_scale of grouped_matmul."""
    x, weight, scale, x_scale, group_list = swiglu(rng, **sizes)
    return (x, weight, scale, group_list), {"x_scale": x_scale}


def weight_quant(rng, e=2, m=5, k=24, n=16, dtype=torch.float16, offset=True, bias=True, group_list=None):
    """Positional and keyword arguments of operator B."""
    options = {"group_list": groups(rng, m, e) if group_list is None else torch.as_tensor(group_list)}
    if offset:
        options["offset"] = uniform(rng, e, n, low=-3, high=3, dtype=dtype)
    if bias:
        options["bias"] = uniform(rng, e, n, dtype=dtype)
    scale = scales(rng, e, n, size=1 / (74 * np.sqrt(k)), dtype=dtype)
    return (uniform(rng, m, k, dtype=dtype), int8(rng, e, k, n), scale), options


def as_values(weight):
    """int8 [e, k, n] of a plain weight tensor."""
    return golden_formats.unpack_int4(weight.numpy()) if weight.dtype == torch.int32 else weight.numpy()
