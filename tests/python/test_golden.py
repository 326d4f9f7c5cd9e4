# SPDX-License-Identifier: Apache-2.0
"""The judge is judged: hand-computed cases, exact fractions, and the contract's own table of bits."""

from fractions import Fraction

import numpy as np
import pytest
import torch

import golden
import golden_formats
import ieee

TABLE = [
    (0.5, 0x3FD3094C, 0x3E9F597F),
    (1.0, 0x402DF854, 0x3F3B26A8),
    (-1.0, 0x3EBC5AB2, 0xBE89B2B1),
    (10.0, 0x46AC14EF, 0x411FFE24),
    (-10.0, 0x383E6BCE, 0xB9EE03FC),
    (-88.0, 0x0041EDC4, 0x83354DDC),
    (float.fromhex("0x1.62e42ep+6"), 0x7F7FFF84, 0x42B17217),
    (float.fromhex("-0x1.62e43p+6"), 0x00200000, 0x80000000),
]


@pytest.mark.parametrize("t, exp_bits, silu_bits", TABLE)
def test_table_of_bits(t, exp_bits, silu_bits):
    value = np.array([t], np.float32)
    assert ieee.bits32(ieee.exp(value))[0] == exp_bits
    assert ieee.bits32(ieee.silu(value))[0] == silu_bits


def test_thresholds_of_exp_and_silu():
    largest = ieee.hexf("0x1.0a2b24p+4")
    assert ieee.silu(largest) == largest
    below = np.nextafter(largest, np.float32(0))
    assert ieee.silu(below) != below
    assert np.isinf(ieee.exp(ieee.hexf("0x1.62e43p+6")))[0]
    assert ieee.exp(ieee.hexf("-0x1.9fe36ap+6"))[0] == 0
    assert ieee.exp(np.nextafter(ieee.hexf("-0x1.9fe36ap+6"), np.float32(0)))[0] > 0
    special = ieee.silu(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32))
    assert np.isnan(special[0]) and special[1] == np.inf and np.isnan(special[2])
    assert ieee.bits32(special[3:]).tolist() == [0, 0x80000000]


def exactly(value):
    return Fraction(float(value))


def test_fma_against_fractions(rng):
    pattern = rng.integers(0, 2**32, (3, 4000), dtype=np.uint32)
    pattern[:, 2000:] = (pattern[:, 2000:] & 0x007FFFFF) | 0x3F800000  # near one: cancellation and halfway cases
    pattern[2, 3000:] ^= 0x80000000
    a, b, c = (row.view(np.float32) for row in pattern)
    with np.errstate(invalid="ignore"):
        keep = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    got = ieee.fma(a, b, c)
    checked = 0
    for i in np.flatnonzero(keep):
        exact = exactly(a[i]) * exactly(b[i]) + exactly(c[i])
        if not np.isfinite(got[i]):
            assert abs(exact) >= Fraction(2) ** 128 - Fraction(2) ** 103
            continue
        error = abs(exact - exactly(got[i]))
        for direction in (np.float32(-np.inf), np.float32(np.inf)):
            with np.errstate(over="ignore"):
                neighbour = np.nextafter(got[i], direction)
            if np.isfinite(neighbour):
                other = abs(exact - exactly(neighbour))
                even = ieee.bits32(got[i]) & 1 == 0
                assert error < other or (error == other and even), (a[i], b[i], c[i])
        checked += 1
    assert checked > 3000


def test_fp8_tables_against_torch():
    for kind, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        codes = torch.arange(len(ieee.FP8[kind]), dtype=torch.uint8).view(dtype)
        assert np.array_equal(codes.to(torch.float64).numpy(), ieee.FP8[kind])


def test_fp8_ties_saturation_and_signed_zero():
    codes = ieee.to_fp8_code(np.array([0.0, -0.0, 17.0, 19.0, 1e9, -1e9, 2.0**-10, 3 * 2.0**-10]), "e4m3")
    # 17 lies between 16 (0x58) and 18 (0x59), 19 between 18 and 20 (0x5A); 2^-10 lies between the codes 0 and 1,
    # 3 * 2^-10 between 1 and 2
    assert codes.tolist() == [0x00, 0x80, 0x58, 0x5A, 0x7E, 0xFE, 0x00, 0x02]


def test_narrowing_against_torch(rng):
    pattern = np.concatenate(
        [
            rng.integers(0, 2**32, 20000, dtype=np.uint32),
            np.array([0x3F808000, 0x3F818000, 0x477FEFFF, 0x477FF000, 0x7F7FFFFF], np.uint32),
        ]
    )
    value = pattern.view(np.float32)
    value = value[~np.isnan(value)].copy()
    for dtype, narrow in ((torch.bfloat16, ieee.to_bfloat16_bits), (torch.float16, ieee.to_half_bits)):
        want = torch.from_numpy(value).to(dtype).view(torch.int16).numpy().view(np.uint16)
        assert np.array_equal(narrow(value), want)
    assert ieee.to_bfloat16_bits(np.float32(np.nan)) == 0x7FC0 and ieee.to_half_bits(np.float32(np.nan)) == 0x7E00


def test_int4_by_hand():
    words = np.array([[0x7654F8A1 - 0x100000000 if 0x7654F8A1 >> 31 else 0x7654F8A1]], np.int32)
    assert golden_formats.unpack_int4(words).tolist() == [[1, -6, -8, -1, 4, 5, 6, 7]]
    assert np.array_equal(golden_formats.pack_int4(golden_formats.unpack_int4(words)), words)


def test_quantize_row_by_hand():
    rows = np.array(
        [[0.0, 0.0], [127.0, -63.5], [254.0, 1.0], [np.nan, 1.0], [np.inf, 1.0], [np.inf, np.nan]], np.float32
    )
    codes, scale = golden.quantize_rows(rows, "int8", golden.Written)
    assert codes.tolist() == [[0, 0], [127, -64], [127, 0], [0, 0], [0, 0], [0, 0]]  # -63.5 and 0.5: half to even
    assert ieee.bits32(scale).tolist() == [0, 0x3F800000, 0x40000000, 0x7FC00000, 0x7F800000, 0x7FC00000]


def test_subnormal_scale_by_hand():
    unit = np.float32(2.0**-149)
    rows = np.array([[63, 1], [64, -64], [190, 95], [191, -191]], np.float32) * unit
    codes, scale = golden.quantize_rows(rows, "int8", golden.Written)
    assert (scale / unit).tolist() == [0, 1, 1, 2]  # 63/127 rounds to 0; 64/127 and 190/127 to 1, 191/127 to 2
    assert codes.tolist() == [[0, 0], [64, -64], [127, 95], [96, -96]]  # 190 is clamped; 95.5 goes to the even 96


def test_operator_a_by_hand():
    # one expert, two rows; t = a * ws; c = t * x_scale; s = silu(gate) * up
    x = torch.tensor([[1, 2], [-1, 0]], dtype=torch.int8)
    weight = torch.tensor([[[1, -3], [2, 6]]], dtype=torch.int8)
    args = (x, weight, torch.tensor([[0.5, 0.25]]), torch.tensor([2.0, 1.0]), torch.tensor([2]))
    s = golden.swiglu_values(*args, arithmetic=golden.Real)
    gate, up = np.array([5.0, -0.5]), np.array([4.5, 0.75])  # a = [5, 9] and [-1, 3]
    assert np.allclose(s[:, 0], gate / (1 + np.exp(-gate)) * up, rtol=1e-15)
    codes, scale = golden.grouped_matmul_swiglu_quant(*args, arithmetic=golden.Real)
    assert codes.tolist() == [[127], [-127]] and np.allclose(scale, np.abs(s[:, 0]) / 127)


def test_assist_by_hand():
    # the formula really computes ((x - 8) . w) * ws + assist
    x, w = np.array([[3, -2]], np.int8), np.array([[1, 4], [-2, 5]], np.int8)
    scale, assist = np.array([[0.5, 2.0]], np.float32), np.array([1.0, -1.0], np.float32)
    t = golden.dequantised(x, w, scale, None, assist, golden.Real)
    assert t.tolist() == [[(-5 * 1 + -10 * -2) * 0.5 + 1, (-5 * 4 + -10 * 5) * 2.0 - 1]]
    sliced = golden.dequantised(x, w, np.array([[0.5, 2.0], [1.0, 4.0]], np.float32), None, assist, golden.Real)
    assert sliced.tolist() == [[-5 * 0.5 + 20 * 1.0 + 1, -20 * 2.0 - 50 * 4.0 - 1]]


def test_operator_b_by_hand():
    x = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float16)
    weight = torch.tensor([[[3], [-4]]], dtype=torch.int8)
    options = {"offset": torch.tensor([[2.0]]), "bias": torch.tensor([[10.0]]), "group_list": torch.tensor([1])}
    y, _ = golden.weight_quant_bounded(x, weight, torch.tensor([[0.5]]), **options)
    assert y.tolist() == [[(1 * 5 + 2 * -2) * 0.5 + 10], [0.0]]  # the second row is in no group
    written = golden.weight_quant_written(x, weight, torch.tensor([[0.5]]), **options)
    assert written.tolist() == y.tolist()


def test_row_ranges_by_hand():
    assert golden.row_ranges([2, 2, 5], 0, 5, 3) == [(0, 0, 2), (1, 2, 2), (2, 2, 5)]
    assert golden.row_ranges([2, 0, 1], 1, 5, 8) == [(0, 0, 2), (1, 2, 2), (2, 2, 3)]
    assert golden.row_ranges([3, 1, 9], 0, 5, 3) == [(0, 0, 3), (1, 3, 3), (2, 3, 5)]


def test_fractal_nz_by_hand():
    plain = np.arange(3 * 5).reshape(1, 3, 5).astype(np.int32)
    blocks = golden_formats.to_nz(plain, 4)
    assert blocks.shape == (1, 2, 1, 16, 4)
    for kk in range(3):
        for j in range(5):
            assert blocks[0, j // 4, kk // 16, kk % 16, j % 4] == plain[0, kk, j]
    assert blocks.sum() == plain.sum()
    turned = golden_formats.to_nz(plain, 2, transposed=True)
    assert turned.shape == (1, 2, 1, 16, 2)
    assert all(turned[0, kk // 2, j // 16, j % 16, kk % 2] == plain[0, kk, j] for kk in range(3) for j in range(5))


def test_allocations_are_poisoned():
    assert torch.empty(3).isnan().all() and (torch.empty(3, dtype=torch.int8) == 127).all()
    assert torch.empty(1).new_empty(3, dtype=torch.float8_e4m3fn).to(torch.float32).isnan().all()
