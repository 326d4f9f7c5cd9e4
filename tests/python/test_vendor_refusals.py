# SPDX-License-Identifier: Apache-2.0
"""What the vendor's names refuse: the contract's sentences, in the name and the argument names that the caller used."""
import pytest
import torch

import qgmm

M, K, N, E = 4, 16, 24, 2


def v2_arguments():
    return {"x": torch.ones(M, K, dtype=torch.int8), "weight": torch.ones(E, K, N, dtype=torch.int8),
            "weight_scale": torch.ones(E, N), "x_scale": torch.ones(M), "group_list": torch.tensor([1, 4])}


def int4(**changes):
    return {"weight": torch.ones(E, K, N // 8, dtype=torch.int32), **changes}


def b_arguments():
    return {"x": torch.ones(M, K, dtype=torch.float16), "weight": torch.ones(E, K, N, dtype=torch.int8),
            "antiquant_scale": torch.ones(E, N, dtype=torch.float16), "group_list": torch.tensor([1, 3])}


def packed(swiglu, dtype=torch.int8):
    """Made when the test runs."""
    return lambda: qgmm.pack_weight(torch.ones(E, K, N if dtype == torch.int8 else N // 8, dtype=dtype), swiglu=swiglu)


SHARED = [  # of all four grouped names
    ({"x": None}, "x must be a tensor; got None"),
    ({"weight": None}, "weight must be a tensor; got None"),
    ({"group_list": 3}, "group_list must be a tensor; got int"),
    ({"weight": torch.ones(K, N, dtype=torch.int8)}, "weight must have 3 dimensions; got [16, 24]"),
    ({"weight": torch.ones(E, K + 1, N, dtype=torch.int8)}, "weight must be [e, 16, n] (k of x); got [2, 17, 24]"),
    ({"group_list": torch.ones(2)}, "group_list must be int64 or int32; got float32"),
    ({"group_list": torch.ones(2, 1, dtype=torch.int64)}, "group_list must have one dimension; got [2, 1]"),
    ({"group_list": torch.tensor([1, 1, 1])}, "group_list must have 1 to 2 (e) entries; got 3"),
    ({"group_list": torch.tensor([1, -1])}, "group_list must not be negative; got -1 at index 1"),
]

V2 = [
    *SHARED,
    ({"x": torch.ones(2, M, K, dtype=torch.int8)}, "x must be [m, k]; got [2, 4, 16]"),
    ({"x": torch.ones(M, K, dtype=torch.float16)}, "x must be int8 [m, k]; got float16 [4, 16]"),
    ({"group_list": torch.tensor([3, 1])}, "group_list (cumsum) must not decrease; got 1 after 3 at index 1"),
    ({"weight": []}, "weight must be one [e, k, n] tensor or e [k, n] tensors; got an empty list"),
    ({"weight": lambda: [packed(True)()]}, "weight[0] must be a tensor; got a PackedWeight"),
    ({"weight": [torch.ones(E, K, N, dtype=torch.int8)] * 2, "weight_scale": [torch.ones(E, N)] * 2},
     "weight must be one [e, k, n] tensor or e [k, n] tensors; got 2 tensors of 3 dimensions"),
    ({"weight": packed(False)}, "weight must be packed with swiglu=True; got a PackedWeight with swiglu=False"),
    ({"weight": torch.ones(E, K, N)},
     "weight must be int8 [e, k, n], int32 [e, k, n/8] (packed int4) or a PackedWeight; got float32"),
    ({"weight_scale": None}, "weight_scale must be a tensor; got None"),
    ({"weight_scale": torch.ones(E, N, dtype=torch.int32)},
     "weight_scale must be float32, float16, bfloat16, or int64 carrying float32 bits (int4 weights only); got int32"),
    ({"weight_scale": torch.ones(E, N, dtype=torch.int64)},
     "weight_scale must be float32, float16 or bfloat16 for int8 weights; got int64"),
    ({"weight_scale": torch.ones(E, N - 2)}, "weight_scale must be [2, 24] (e, n); got [2, 22]"),
    ({"weight_scale": torch.ones(E, 4, N)}, "dequant_mode must be 1 for weight_scale [2, 4, 24]; got 0"),
    ({"dequant_mode": 1}, "weight_scale must be [e, G, n] for dequant_mode 1; got [2, 24]"),
    ({"weight_scale": torch.ones(E, 5, N), "dequant_mode": 1},
     "k must be a multiple of G; got k 16 with 5 scales per column"),
    (int4(weight_scale=torch.ones(E, 2 * N)),
     "weight must be int32 [2, 16, 6] (n / 8 of weight_scale); got [2, 16, 3]"),
    ({"x_scale": None}, "x_scale must be a tensor; got None"),
    ({"x_scale": torch.ones(M, 1)}, "x_scale must be float32 [4] (m); got float32 [4, 1]"),
    ({"smooth_scale": torch.ones(N)}, "smooth_scale must be float32 [2] (e) or [2, 12] (e, n/2); got float32 [24]"),
    (int4(weight_assist_matrix=torch.ones(E, 8)),
     "weight_assist_matrix must be float32 [2, 24] (e, n); got float32 [2, 8]"),
    ({"bias": torch.ones(E, N)}, "bias must be int32 [2, 24] (e, n); got float32 [2, 24]"),
    ({"weight_scale": torch.ones(E, 4, N), "dequant_mode": 1, "bias": torch.ones(E, N, dtype=torch.int32)},
     "bias must be None for weight_scale [2, 4, 24]; got int32 [2, 24]"),
    ({"dequant_mode": 2}, "dequant_mode must be 0 (per channel) or 1 (per group of k); got 2"),
    ({"dequant_dtype": 1}, "dequant_dtype must be 0 (float32); got 1"),
    ({"dequant_dtype": torch.float16}, "dequant_dtype must be 0 (float32); got float16"),
    ({"quant_mode": 2}, "quant_mode must be 0 (per token); got 2"),
    ({"quant_mode": None}, "quant_mode must be 0 (per token); got None"),
    ({"quant_dtype": torch.uint8}, "quant_dtype must be int8, float8_e4m3fn or float8_e5m2; got uint8"),
    ({"quant_dtype": 5}, "quant_dtype must be int8, float8_e4m3fn or float8_e5m2; got 5"),
    ({"group_list_type": 2}, "group_list_type must be 0 (cumsum) or 1 (counts); got 2"),
    ({"tuning_config": 0.5}, "tuning_config must be a list of ints or None; got float"),
    ({"x_dtype": 296}, "x_dtype must be None; got 296"),
    ({"weight_dtype": torch.int8}, "weight_dtype must be None; got int8"),
    ({"weight_scale_dtype": 296}, "weight_scale_dtype must be None; got 296"),
    ({"x_scale_dtype": 296}, "x_scale_dtype must be None; got 296"),
]

V1 = [
    *SHARED,
    ({"x": torch.ones(M, K, dtype=torch.float16)}, "x must be int8 [m, k]; got float16 [4, 16]"),
    ({"weight_scale": torch.ones(E, 3, N)}, "k must be a multiple of G; got k 16 with 3 scales per column"),
    ({"weight_scale": torch.ones(N)}, "weight_scale must be [2, 24] (e, n); got [24]"),
    ({"bias": torch.ones(E, N)}, "bias must be None for int8 weights; got float32 [2, 24]"),
    (int4(bias=torch.ones(E, N + 8)), "bias must be float32 [2, 24] (e, n); got float32 [2, 32]"),
    (int4(bias=torch.ones(E, N, dtype=torch.int32)), "bias must be float32 [2, 24] (e, n); got int32 [2, 24]"),
    ({"offset": torch.ones(E, N)}, "offset must be None; got float32 [2, 24]"),
    ({"offset": 0}, "offset must be None; got 0"),
]

B = [
    *SHARED,
    ({"x": torch.ones(M, K, dtype=torch.int8)}, "x must be float16, bfloat16 or float32; got int8"),
    (int4(), "weight must be int8 [e, k, n] or a PackedWeight; got int32"),
    ({"weight": [torch.ones(E, K, N, dtype=torch.int8)]}, "weight must be one tensor; got a list"),
    ({"weight": packed(True)}, "weight must be packed with swiglu=False; got a PackedWeight with swiglu=True"),
    ({"weight": packed(False, torch.int32)},
     "weight must be int8 [e, k, n] or a PackedWeight; got a PackedWeight of int4"),
    ({"antiquant_scale": None}, "antiquant_scale must be a tensor; got None"),
    ({"antiquant_scale": torch.ones(E, N, dtype=torch.bfloat16)},
     "antiquant_scale must be float16 (like x) or float32; got bfloat16"),
    ({"antiquant_scale": torch.ones(E, 4, N)}, "antiquant_scale must be [2, 24] (e, n); got [2, 4, 24]"),
    ({"antiquant_offset": [1]}, "antiquant_offset must be a tensor; got a list"),
    ({"antiquant_offset": torch.ones(E, N, dtype=torch.int8)},
     "antiquant_offset must be float16 (like x) or float32; got int8"),
    ({"antiquant_offset": torch.ones(N)}, "antiquant_offset must be [2, 24] (e, n); got [24]"),
    ({"bias": torch.ones(E, N, dtype=torch.bfloat16)}, "bias must be float16 (like x) or float32; got bfloat16"),
    ({"bias": torch.ones(N)}, "bias must be [2, 24] (e, n); got [24]"),
    ({"group_list": None}, "group_list must be given when e is 2; got None"),
    ({"act_type": 3}, "act_type must be 0 (none), 1 (relu), 2 (gelu_tanh), 4 (fast_gelu) or 5 (silu); got 3"),
    ({"x": torch.ones(M, K, requires_grad=True), "antiquant_scale": torch.ones(E, N), "act_type": 5},
     "act_type must be 0 when x requires grad; got 5"),
]

REFUSALS = [(name, arguments, changes, sentence) for name, arguments, rows in (
    ("npu_grouped_matmul_swiglu_quant_v2", v2_arguments, V2), ("npu_grouped_matmul_swiglu_quant", v2_arguments, V1),
    ("npu_weight_quant_gmm", b_arguments, B), ("npu_weight_quant_gmm_v2", b_arguments, B))
    for changes, sentence in rows]


@pytest.mark.parametrize(("name", "arguments", "changes", "sentence"), REFUSALS,
                         ids=[f"{name}: {sentence}" for name, _, _, sentence in REFUSALS])
def test_refusal(name, arguments, changes, sentence):
    getattr(qgmm, name)(**arguments())  # without the change it is a good call
    changed = {argument: value() if callable(value) else value for argument, value in changes.items()}
    with pytest.raises(ValueError) as refusal:
        getattr(qgmm, name)(**{**arguments(), **changed})
    assert str(refusal.value) == f"[{name}] {sentence}"


@pytest.mark.parametrize(("arguments", "sentence"), [
    ((None, 29), "t must be a tensor; got None"),
    (([torch.ones(1)], 29), "t must be a tensor; got a list"),
    ((torch.ones(1), 3), "acl_format must be 2 (ND) or 29 (FRACTAL_NZ); got 3"),
    ((torch.ones(1), None), "acl_format must be 2 (ND) or 29 (FRACTAL_NZ); got None"),
    ((torch.ones(1), "NZ"), 'acl_format must be 2 (ND) or 29 (FRACTAL_NZ); got "NZ"'),
], ids=str)
def test_format_cast_refusal(arguments, sentence):
    with pytest.raises(ValueError) as refusal:
        qgmm.npu_format_cast(*arguments)
    assert str(refusal.value) == f"[npu_format_cast] {sentence}"


@pytest.mark.parametrize("name", ["npu_dynamic_quant", "npu_grouped_matmul", "npu_quant_gmm", "npu_swiglu"])
def test_vendor_names_that_are_not_there_yet(name):
    with pytest.raises(AttributeError, match=rf"^{name} is not part of qgmm yet; implemented: npu_format_cast, npu_"):
        getattr(qgmm, name)


def test_other_missing_names_are_ordinary():
    with pytest.raises(AttributeError, match=r"^module 'qgmm' has no attribute 'grouped_matmull'$"):
        qgmm.grouped_matmull  # noqa: B018
