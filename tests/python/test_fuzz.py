# SPDX-License-Identifier: Apache-2.0
"""Random arguments, many of them wrong: a sentence or the right result, never a crash and never another error.

Runs without torch.compile, so that it can also run with a sanitized library (QGMM_TORCH_LIBRARY) and libasan preloaded.
QGMM_FUZZ_ROUNDS asks for more rounds per operator.
"""

import os
import re

import numpy as np
import pytest
import torch

import agree
import cases
import golden
import golden_formats
import qgmm
from fuzz_arguments import HARMLESS, a_case, b_case, call, d_case, describe, g_case, pick, spoil, with_forms

ROUNDS = int(os.environ.get("QGMM_FUZZ_ROUNDS", "1000"))
SENTENCE = re.compile(r"^\[\w+\] \S.* must .*", re.DOTALL)
CASES = [
    (qgmm.grouped_matmul_swiglu_quant, a_case),
    (qgmm.grouped_matmul, g_case),
    (qgmm.weight_quant_grouped_matmul, b_case),
    (qgmm.dynamic_quant, d_case),
]
BY_OPERATOR = pytest.mark.parametrize("op, make", CASES, ids=[op.__name__ for op, _ in CASES])


@BY_OPERATOR
def test_valid_arguments(rng, op, make):
    """Legal forms and strides: always a result, and the reference's."""
    for _ in range(ROUNDS // 4):
        given, positional = make(rng)
        for name, value in given.items():
            if torch.is_tensor(value) and name not in ("weight_scale",):
                given[name] = pick(rng, HARMLESS)(rng, value)
        given = with_forms(rng, op, given)
        result = call(op, given, positional)
        agree.assert_same_bits(result, agree.reference(call, op, given, positional), f"{op.__name__} {describe(given)}")


@BY_OPERATOR
def test_valid_arguments_against_the_written_order(rng, op, make):
    for _ in range(ROUNDS // 8):
        given, positional = make(rng)
        result = call(op, given, positional)
        if op is qgmm.grouped_matmul_swiglu_quant:
            wanted = call(
                lambda *a, **o: golden.grouped_matmul_swiglu_quant(*a, arithmetic=golden.Written, **o),
                given,
                positional,
            )
            patterns = [wanted[0].view(np.uint8), wanted[1].astype(np.float32).view(np.uint32)]
        elif op is qgmm.grouped_matmul:
            wanted = call(lambda *a, **o: golden.grouped_matmul(*a, arithmetic=golden.Written, **o), given, positional)
            patterns = [golden.narrow_bits(wanted, given["out_dtype"])]
        elif op is qgmm.weight_quant_grouped_matmul:
            patterns = [golden.narrow_bits(call(golden.weight_quant_written, given, positional), given["x"].dtype)]
        else:
            codes, scale = call(
                lambda *a, **o: golden.dynamic_quant(*a, arithmetic=golden.Written, **o), given, positional
            )
            packed = given["dst_type"] == 16
            patterns = [
                golden_formats.pack_int4(codes).view(np.uint32) if packed else codes.view(np.uint8),
                scale.astype(np.float32).view(np.uint32),
            ]
        for tensor, want in zip(agree.tensors_of(result), patterns, strict=True):
            agree.assert_equal_patterns(agree.bits(tensor), want, f"{op.__name__} {describe(given)}")


def on_meta(value):
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(torch.is_tensor(v) and v.device.type == "meta" for v in values)


@BY_OPERATOR
def test_strange_arguments(rng, op, make):
    """Up to three arguments spoilt: ValueError or TypeError with one sentence, or the reference's result."""
    results, refusals = 0, 0
    for _ in range(ROUNDS):
        given, positional = make(rng)
        given = with_forms(rng, op, given)
        for _ in range(int(rng.integers(1, 4))):
            given = spoil(rng, given)
        text = f"{op.__name__}({describe(given)})"
        try:
            result = call(op, given, positional)
        except (ValueError, TypeError) as error:
            assert SENTENCE.match(str(error)), f"{text}\nraised no sentence: {error!r}"
            refusals += 1
            continue
        except Exception as error:
            raise AssertionError(f"{text}\nraised {error!r}") from error
        if any(on_meta(value) for value in given.values()):
            continue
        agree.assert_same_bits(result, agree.reference(call, op, given, positional), text)
        results += 1
    assert refusals > ROUNDS // 8 and results > ROUNDS // 50, (refusals, results)


def test_strange_weights_for_packing(rng):
    for _ in range(ROUNDS // 4):
        given = {
            "weight": pick(rng, [cases.int8, cases.int4])(
                rng, 2, int(rng.integers(1, 20)), 8 * int(rng.integers(1, 5))
            ),
            "swiglu": bool(rng.integers(2)),
        }
        plain = spoil(rng, given)
        try:
            packed = qgmm.pack_weight(plain["weight"], swiglu=plain["swiglu"])
        except (ValueError, TypeError) as error:
            assert SENTENCE.match(str(error)), repr(error)
            continue
        if torch.is_tensor(plain["weight"]) and plain["weight"].device.type == "cpu":
            assert torch.equal(packed.unpack(), plain["weight"])


def test_random_bytes_are_no_packed_weight(rng):
    """Headers damaged one byte at a time: refused, or harmless when multiplied."""
    good = qgmm.pack_weight(cases.int8(rng, 2, 9, 12), swiglu=False).data
    x, scale = cases.int8(rng, 4, 9), cases.scales(rng, 2, 12)
    for place in range(min(256, good.numel())):
        data = good.clone()
        data[place] ^= int(rng.integers(1, 256))
        try:
            packed = qgmm.PackedWeight.from_data(data)
            qgmm.grouped_matmul(x, packed, scale, [2, 4])
        except ValueError as error:
            assert SENTENCE.match(str(error)), repr(error)
    for size in (0, 1, 63, 64, 100, 4096):
        with pytest.raises(ValueError):
            qgmm.PackedWeight.from_data(torch.from_numpy(np.frombuffer(rng.bytes(size), np.uint8).copy()))


def test_bytes_changed_after_from_data(rng):
    """The header is read again by every call: bytes swapped under a PackedWeight cannot lead out of bounds."""
    packed = qgmm.pack_weight(cases.int8(rng, 2, 9, 12), swiglu=False)
    x, scale = cases.int8(rng, 4, 9), cases.scales(rng, 2, 12)
    good = packed.data.clone()
    for place in range(256):
        packed.data.copy_(good)
        packed.data[place] ^= int(rng.integers(1, 256))
        try:
            qgmm.grouped_matmul(x, packed, scale, [2, 4])
        except ValueError as error:
            assert SENTENCE.match(str(error)), repr(error)
    packed.data = good[:-5]
    with pytest.raises(ValueError):
        qgmm.grouped_matmul(x, packed, scale, [2, 4])


def test_strange_fractal_nz(rng):
    for _ in range(ROUNDS):
        k, n = int(rng.integers(-1, 70)), int(rng.integers(-1, 70))
        given = dict(
            data=cases.int8(rng, int(rng.integers(1, 3)), 2, 3, 16, 32),
            k=k,
            n=n,
            dtype=pick(rng, [torch.int8, "int4", torch.float16, torch.float32, "int5", None, 7, torch.complex64]),
            c0=pick(rng, [None, 8, 16, 32, 64, 0, -1, 2**40, 2.5]),
            transposed=bool(rng.integers(2)),
        )
        if rng.integers(3) == 0:
            given = spoil(rng, given)
        try:
            qgmm.from_fractal_nz(**given)
        except (ValueError, TypeError) as error:
            assert SENTENCE.match(str(error)), f"{describe(given)}: {error!r}"
