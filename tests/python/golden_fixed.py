# SPDX-License-Identifier: Apache-2.0
"""Operator B in fixed point (docs/operators.md, section 8.2), in NumPy: which calls take it, its product in the written
order, and its bound. Independent of the library: nothing here reads its code."""

import numpy as np
import torch

import ieee

BLOCK = 512


def taken(dtype, precision):
    return dtype == torch.bfloat16 and precision != "strict" or dtype == torch.float16 and precision == "fast"


def mean_magnitude(part):
    """Of the finite elements of every row: sixteen lanes, then halves added."""
    m, count = part.shape
    magnitude = np.abs(np.where(np.isfinite(part), part, np.float32(0)))
    padded = np.zeros((m, -(-count // 16) * 16), np.float32)
    padded[:, :count] = magnitude
    lanes = np.zeros((m, 16), np.float32)
    for first in range(0, padded.shape[1], 16):
        lanes = ieee.add(lanes, padded[:, first : first + 16])
    for distance in (8, 4, 2, 1):
        lanes = ieee.add(lanes[:, :distance], lanes[:, distance : 2 * distance])
    return ieee.div(lanes, np.float32(count))


class Block:
    """512 k of all rows: `x` integers (0 for outliers), `scale` a power of two per row, `outliers` a mask."""

    def __init__(self, part):
        limit = ieee.mul(np.float32(32), mean_magnitude(part))
        self.outliers = ~(np.isfinite(part) & (np.abs(part) <= limit))
        kept = np.where(self.outliers, 0, part).astype(np.float64)
        largest = np.abs(kept).max(axis=1, keepdims=True)
        exponent = np.maximum(np.where(largest > 0, np.frexp(largest)[1] - 1, -112), -112)
        self.scale = np.exp2(exponent - 14.0)
        self.x = np.rint(kept / self.scale).astype(np.int64)
        self.inexact = self.x * self.scale != kept
        assert np.abs(self.x).max(initial=0) <= 32752


def blocks(rows):
    return [Block(rows[:, first : first + BLOCK]) for first in range(0, rows.shape[1], BLOCK)]


def product(part, matrix):
    """The sum of products before offset, scale and bias: fp32 [rows, n]."""
    w = matrix.astype(np.int64)
    total = np.zeros((part.shape[0], matrix.shape[1]), np.float32)
    pieces = blocks(part)
    for index, block in enumerate(pieces):
        sums = block.x @ w[index * BLOCK : (index + 1) * BLOCK]
        assert np.abs(sums).max(initial=0) < 2**31
        total = ieee.fma(ieee.f32(sums), ieee.f32(block.scale), total)
    outliers = np.concatenate([block.outliers for block in pieces], axis=1)
    for kk in np.flatnonzero(outliers.any(axis=0)):
        rows = outliers[:, kk]
        total[rows] = ieee.fma(part[rows, kk : kk + 1], matrix[kk], total[rows])
    return total


def error(part, matrix):
    """How far `product` may be from the real sum: half a step per inexact element, and fp32 roundings."""
    weights = np.abs(matrix.astype(np.float64))
    pieces = blocks(part)
    steps = sum(
        (block.inexact * block.scale / 2) @ weights[index * BLOCK : (index + 1) * BLOCK]
        for index, block in enumerate(pieces)
    )
    outliers = sum(block.outliers.sum(axis=1, keepdims=True) for block in pieces)
    roundings = (len(pieces) + outliers + 2) * 2.0**-24
    with np.errstate(invalid="ignore"):
        return steps + roundings * (np.abs(part.astype(np.float64)) @ weights)
