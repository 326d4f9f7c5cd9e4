# SPDX-License-Identifier: Apache-2.0
"""The storage formats of section 6 in NumPy, by padding and reshaping: packed int4 and FRACTAL_NZ."""

import numpy as np


def unpack_int4(words):
    """int32 [.., n/8] -> int8 [.., n], two's complement nibbles, low one first."""
    words = np.ascontiguousarray(words).view(np.uint32)
    nibbles = (words[..., None] >> (4 * np.arange(8, dtype=np.uint32))) & 15
    signed = ((nibbles.astype(np.int16) ^ 8) - 8).astype(np.int8)
    return signed.reshape(*words.shape[:-1], words.shape[-1] * 8)


def pack_int4(values):
    """int8 [.., n] in [-8, 7] -> int32 [.., n/8]."""
    shape = np.shape(values)
    values = np.asarray(values, dtype=np.int64).reshape(*shape[:-1], shape[-1] // 8, 8)
    words = ((values & 15) << (4 * np.arange(8))).sum(-1)
    return words.astype(np.uint32).view(np.int32)


def to_nz(plain, c0, transposed=False):
    """[e, k, n] elements -> [e, ceil(n/c0), ceil(k/16), 16, c0]; transposed [e, ceil(k/c0), ceil(n/16), 16, c0]."""
    matrix = np.swapaxes(plain, 1, 2) if transposed else plain
    e, rows, columns = matrix.shape
    padded = np.zeros((e, -(-rows // 16) * 16, -(-columns // c0) * c0), matrix.dtype)
    padded[:, :rows, :columns] = matrix
    blocks = padded.reshape(e, padded.shape[1] // 16, 16, padded.shape[2] // c0, c0)
    return np.ascontiguousarray(blocks.transpose(0, 3, 1, 2, 4))


def nibbles_to_bytes(values):
    """int8 [.., 2c] in [-8, 7] -> int8 [.., c], even element in the low nibble."""
    values = np.asarray(values).astype(np.uint8)
    return ((values[..., 0::2] & 15) | (values[..., 1::2] << 4)).astype(np.uint8).view(np.int8)
