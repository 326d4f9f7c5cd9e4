# SPDX-License-Identifier: Apache-2.0
"""FRACTAL_NZ in both directions, element by element, and the int4 packing of section 6."""

import numpy as np
import pytest
import torch

import golden_formats
import qgmm

SHAPES = [(1, 1, 8), (2, 16, 32), (1, 17, 40), (3, 45, 72), (1, 64, 128)]
WIDE = [torch.float16, torch.bfloat16, torch.float32, torch.int32]


def integers(rng, shape, low, high):
    return rng.integers(low, high, shape).astype(np.int8)


@pytest.mark.parametrize("transposed", [False, True], ids=["nz_int8", "nz_transposed"])
@pytest.mark.parametrize("e, k, n", [*SHAPES, (2, 5, 33)])
def test_nz_int8_nz_padded(rng, e, k, n, transposed):
    plain = integers(rng, (e, k, n), -128, 128)
    storage = torch.from_numpy(golden_formats.to_nz(plain, 32, transposed))
    assert torch.equal(qgmm.from_fractal_nz(storage, k, n, torch.int8, transposed=transposed), torch.from_numpy(plain))
    back = qgmm.to_fractal_nz(torch.from_numpy(plain), torch.int8, transposed=transposed)
    assert back.shape == storage.shape and torch.equal(back, storage)


@pytest.mark.parametrize("transposed", [False, True], ids=["nz_int4", "nz_int4_transposed"])
@pytest.mark.parametrize("e, k, n", SHAPES)
@pytest.mark.parametrize("words", [False, True], ids=["bytes", "int32"])
def test_nz_int4(rng, e, k, n, transposed, words):
    plain = integers(rng, (e, k, n), -8, 8)
    storage = torch.from_numpy(golden_formats.nibbles_to_bytes(golden_formats.to_nz(plain, 64, transposed)))
    packed = torch.from_numpy(golden_formats.pack_int4(plain))
    given = storage.view(torch.int32) if words else storage
    got = qgmm.from_fractal_nz(given, k, n, "int4", transposed=transposed)
    assert got.dtype == torch.int32 and torch.equal(got, packed)
    back = qgmm.to_fractal_nz(packed, "int4", transposed=transposed)
    assert torch.equal(back.contiguous().view(torch.uint8).reshape(-1), storage.view(torch.uint8).reshape(-1))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_nz_of_wider_elements(rng, dtype, transposed):
    plain = np.arange(2 * 19 * 35).reshape(2, 19, 35).astype(np.int32)
    storage = torch.from_numpy(golden_formats.to_nz(plain, 16, transposed)).to(dtype)
    got = qgmm.from_fractal_nz(storage, 19, 35, dtype, transposed=transposed)
    assert torch.equal(got, torch.from_numpy(plain).to(dtype))
    assert torch.equal(qgmm.to_fractal_nz(got, dtype, transposed=transposed).reshape(-1), storage.reshape(-1))


@pytest.mark.parametrize("c0", [8, 16, 32, 64])
def test_nz_with_another_block_width(rng, c0):
    plain = integers(rng, (2, 20, 70), -128, 128)
    storage = torch.from_numpy(golden_formats.to_nz(plain, c0))
    assert torch.equal(qgmm.from_fractal_nz(storage, 20, 70, torch.int8, c0=c0), torch.from_numpy(plain))


def test_nz_of_one_expert_and_of_a_list(rng):
    plain = integers(rng, (2, 20, 70), -128, 128)
    storage = torch.from_numpy(golden_formats.to_nz(plain, 32))
    results = qgmm.from_fractal_nz([storage[0], storage[1]], 20, 70, torch.int8)
    assert torch.equal(torch.stack(list(results)).reshape(2, 20, 70), torch.from_numpy(plain))


def test_packed_int4_cast_as_int8_has_the_memory_of_the_int4_line(rng):
    plain = integers(rng, (1, 16, 64), -8, 8)
    as_bytes = golden_formats.nibbles_to_bytes(plain)  # [1, 16, 32] int8
    storage = torch.from_numpy(golden_formats.to_nz(as_bytes, 32))
    got = qgmm.from_fractal_nz(storage, 16, 64, "int4")
    assert torch.equal(got, torch.from_numpy(golden_formats.pack_int4(plain)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: qgmm.from_fractal_nz(torch.zeros(1, 1, 1, 16, 32, dtype=torch.int8), 16, 33, torch.int8),
        lambda: qgmm.from_fractal_nz(torch.zeros(1, 1, 1, 16, 32, dtype=torch.int8), 0, 32, torch.int8),
        lambda: qgmm.from_fractal_nz(torch.zeros(1, 1, 1, 16, 32, dtype=torch.int8), 16, -1, torch.int8),
        lambda: qgmm.from_fractal_nz(torch.zeros(1, 1, 1, 16, 32, dtype=torch.int8), 16, 12, "int4"),
        lambda: qgmm.from_fractal_nz(torch.zeros(1, 1, 1, 16, 32, dtype=torch.int8), 16, 32, torch.int8, c0=-4),
        lambda: qgmm.from_fractal_nz(torch.zeros(1, 1, 1, 16, 32, dtype=torch.int8), 16, 32, "int5"),
        lambda: qgmm.from_fractal_nz(torch.zeros(1, 1, 1, 16, 32, dtype=torch.int8), 16, 32, torch.float16),
        lambda: qgmm.from_fractal_nz(None, 16, 32, torch.int8),
        lambda: qgmm.from_fractal_nz(torch.zeros(1, 1, 1, 16, 32, dtype=torch.int8), 2**62, 2**62, torch.int8),
        lambda: qgmm.to_fractal_nz(torch.zeros(3, dtype=torch.int8), torch.int8),
        lambda: qgmm.to_fractal_nz(torch.zeros(1, 4, 8), torch.int8),
        lambda: qgmm.to_fractal_nz(None, torch.int8),
    ],
    ids=[
        "too short",
        "k zero",
        "n negative",
        "int4 width",
        "c0",
        "dtype name",
        "dtype of data",
        "None",
        "overflow",
        "rank",
        "dtype",
        "None to",
    ],
)
def test_fractal_nz_refusals(call):
    with pytest.raises((ValueError, TypeError), match="must"):
        call()


def test_format_cast_keeps_the_logical_tensor():
    t = torch.arange(24, dtype=torch.int8).reshape(1, 4, 6)
    for code in (29, 2):
        assert torch.equal(qgmm.npu_format_cast(t, code), t)
