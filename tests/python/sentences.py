# SPDX-License-Identifier: Apache-2.0
"""The contract's tables of bad inputs as data: which call, what is wrong with its arguments, and the sentence.

The arguments are expanded from single elements, so that the contract's own numbers (e 8, k 7168, n 4096, m 32) cost
nothing: a refusal must come before anything is read.
"""

import torch

import qgmm

I8, I32, I64, F16, BF16, F32 = torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32


def full(dtype, *shape):
    return torch.zeros((1,) * len(shape), dtype=dtype).expand(shape)


def ends(*values):
    return torch.tensor(values, dtype=I64)


EVEN = ends(4, 8, 12, 16, 20, 24, 28, 32)


def a(**changes):
    """Operator A with the contract's numbers and the given changes."""
    given = dict(
        x=full(I8, 32, 7168),
        weight=full(I8, 8, 7168, 4096),
        weight_scale=full(F32, 8, 4096),
        x_scale=full(F32, 32),
        group_list=EVEN,
    )
    given.update(changes)
    order = [given.pop(name) for name in ("x", "weight", "weight_scale", "x_scale", "group_list")]
    return qgmm.grouped_matmul_swiglu_quant(*order, **given)


def g(**changes):
    given = dict(x=full(I8, 32, 7168), weight=full(I8, 8, 7168, 4096), weight_scale=full(F32, 8, 4096), group_list=EVEN)
    given.update(changes)
    order = [given.pop(name) for name in ("x", "weight", "weight_scale", "group_list")]
    return qgmm.grouped_matmul(*order, **given)


def b(**changes):
    given = dict(x=full(F16, 32, 256), weight=full(I8, 8, 256, 128), scale=full(F16, 8, 128), group_list=EVEN)
    given.update(changes)
    return qgmm.weight_quant_grouped_matmul(given.pop("x"), given.pop("weight"), given.pop("scale"), **given)


def d(**changes):
    given = dict(x=full(BF16, 32, 7168))
    given.update(changes)
    return qgmm.dynamic_quant(given.pop("x"), **given)


def int4(n=4096):
    return full(I32, 8, 7168, n // 8)


def packed(swiglu, bits=8, e=1, k=8, n=16):
    weight = torch.zeros(e, k, n if bits == 8 else n // 8, dtype=I8 if bits == 8 else I32)
    return qgmm.pack_weight(weight, swiglu=swiglu)


A, B, G, D = "grouped_matmul_swiglu_quant", "weight_quant_grouped_matmul", "grouped_matmul", "dynamic_quant"
NAMES = {a: A, b: B, g: G, d: D}

GROUPED = [  # section 1.7: all operators with groups
    (a, dict(x=full(I8, 2, 16, 7168)), "x must be [m, k]; got [2, 16, 7168]"),
    (b, dict(x=full(F16, 2, 16, 256)), "x must be [m, k]; got [2, 16, 256]"),
    (g, dict(x=full(I8, 7168)), "x must be [m, k]; got [7168]"),
    (a, dict(x=full(I8, 32, 0), weight=full(I8, 8, 0, 4096)), "k must be at least 1; got 0"),
    (g, dict(x=full(I8, 32, 0), weight=full(I8, 8, 0, 4096)), "k must be at least 1; got 0"),
    (b, dict(x=full(F16, 32, 0), weight=full(I8, 8, 0, 128)), "k must be at least 1; got 0"),
    (
        a,
        dict(x=full(I8, 32, 131072), weight=full(I8, 8, 131072, 4096)),
        "k must be at most 131071 (int32 sums); got 131072",
    ),
    (
        g,
        dict(x=full(I8, 32, 131072), weight=full(I32, 8, 131072, 512)),
        "k must be at most 131071 (int32 sums); got 131072",
    ),
    (
        a,
        dict(weight=full(F16, 8, 7168, 4096)),
        "weight must be int8 [e, k, n], int32 [e, k, n/8] (packed int4) or a PackedWeight; got float16",
    ),
    (
        g,
        dict(weight=full(torch.uint8, 8, 7168, 4096)),
        "weight must be int8 [e, k, n], int32 [e, k, n/8] (packed int4) or a PackedWeight; got uint8",
    ),
    (a, dict(weight=full(I8, 7168, 4096)), "weight must have 3 dimensions; got [7168, 4096]"),
    (b, dict(weight=full(I8, 256, 128)), "weight must have 3 dimensions; got [256, 128]"),
    (a, dict(weight=full(I8, 8, 4096, 4096)), "weight must be [e, 7168, n] (k of x); got [8, 4096, 4096]"),
    (b, dict(weight=full(I8, 8, 128, 128)), "weight must be [e, 256, n] (k of x); got [8, 128, 128]"),
    (a, dict(weight=[]), "weight must be one [e, k, n] tensor or e [k, n] tensors; got an empty list"),
    (g, dict(weight=[]), "weight must be one [e, k, n] tensor or e [k, n] tensors; got an empty list"),
    (
        a,
        dict(
            weight=[full(I8, 7168, 4096)] * 3 + [full(I8, 7168, 2048)] + [full(I8, 7168, 4096)] * 4,
            weight_scale=[full(F32, 4096)] * 8,
        ),
        "weight[3] must be [7168, 4096] like weight[0]; got [7168, 2048]",
    ),
    (
        a,
        dict(weight=[full(I8, 8, 7168, 4096)] * 2, weight_scale=[full(F32, 4096)] * 2),
        "weight must be one [e, k, n] tensor or e [k, n] tensors; got 2 tensors of 3 dimensions",
    ),
    (a, dict(x_scale=None), "x_scale must be a tensor; got None"),
    (a, dict(x=None), "x must be a tensor; got None"),
    (a, dict(weight=None), "weight must be a tensor; got None"),
    (a, dict(weight_scale=None), "weight_scale must be a tensor; got None"),
    (a, dict(group_list=None), "group_list must be a tensor; got None"),
    (b, dict(x=None), "x must be a tensor; got None"),
    (g, dict(group_list=None), "group_list must be a tensor; got None"),
    (a, dict(weight=full(I8, 8, 7168, 0), weight_scale=full(F32, 8, 0)), "n must be at least 1; got 0"),
    (b, dict(weight=full(I8, 8, 256, 0), scale=full(F16, 8, 0)), "n must be at least 1; got 0"),
    (a, dict(weight=full(I8, 0, 7168, 4096), weight_scale=full(F32, 0, 4096)), "e must be at least 1; got 0"),
    (b, dict(weight=full(I8, 0, 256, 128), scale=full(F16, 0, 128)), "e must be at least 1; got 0"),
    (
        a,
        dict(weight=full(I8, 1025, 7168, 4096), weight_scale=full(F32, 1025, 4096)),
        "e must be at most 1024; got 1025",
    ),
    (b, dict(weight=full(I8, 1025, 256, 128), scale=full(F16, 1025, 128)), "e must be at most 1024; got 1025"),
    (a, dict(group_list=EVEN.to(F32)), "group_list must be int64 or int32; got float32"),
    (b, dict(group_list=EVEN.to(torch.int16)), "group_list must be int64 or int32; got int16"),
    (g, dict(group_list=EVEN.to(torch.bool)), "group_list must be int64 or int32; got bool"),
    (a, dict(group_list=full(I64, 8, 2)), "group_list must have one dimension; got [8, 2]"),
    (b, dict(group_list=full(I64, 8, 2)), "group_list must have one dimension; got [8, 2]"),
    (a, dict(group_list=torch.tensor(32)), "group_list must have one dimension; got []"),
    (a, dict(group_list=ends(*range(9))), "group_list must have 1 to 8 (e) entries; got 9"),
    (b, dict(group_list=ends(*range(9))), "group_list must have 1 to 8 (e) entries; got 9"),
    (g, dict(group_list=ends(*range(9))), "group_list must have 1 to 8 (e) entries; got 9"),
    (a, dict(group_list=ends()), "group_list must have 1 to 8 (e) entries; got 0"),
    (a, dict(group_list=ends(1, 2, -3, 4)), "group_list must not be negative; got -3 at index 2"),
    (a, dict(group_list=ends(1, 2, 3, 15, 10)), "group_list (cumsum) must not decrease; got 10 after 15 at index 4"),
    (a, dict(group_list=ends(30, 3), group_list_type=1), "group_list (counts) must sum to at most 32 (m); got 33"),
    (a, dict(group_list=ends(30, 33)), "group_list (cumsum) must end at or below 32 (m); got 33"),
    (a, dict(group_list_type=2), "group_list_type must be 0 (cumsum) or 1 (counts); got 2"),
    (b, dict(group_list_type=-1), "group_list_type must be 0 (cumsum) or 1 (counts); got -1"),
    (g, dict(group_list_type=2), "group_list_type must be 0 (cumsum) or 1 (counts); got 2"),
]

OPERATOR_A = [  # section 3.3
    (a, dict(x=full(F16, 32, 7168)), "x must be int8 [m, k]; got float16 [32, 7168]"),
    (a, dict(weight=full(I8, 8, 7168, 4095), weight_scale=full(F32, 8, 4095)), "n must be even; got 4095"),
    (
        a,
        dict(weight_scale=full(I32, 8, 4096)),
        "weight_scale must be float32, float16, bfloat16, or int64 carrying float32 bits (int4 weights only); got int32",
    ),
    (
        a,
        dict(weight_scale=full(I64, 8, 4096)),
        "weight_scale must be float32, float16 or bfloat16 for int8 weights; got int64",
    ),
    (a, dict(weight_scale=full(F32, 8, 2048)), "weight_scale must be [8, 4096] (e, n); got [8, 2048]"),
    (a, dict(weight_scale=full(F32, 4096)), "weight_scale must be [8, 4096] (e, n); got [4096]"),
    (
        a,
        dict(weight=[full(I8, 7168, 4096)] * 8, weight_scale=[full(F32, 4096)]),
        "weight_scale must be a list of 8 tensors like weight; got 1",
    ),
    (
        a,
        dict(weight=full(I32, 8, 7168, 4096)),
        "weight must be int32 [8, 7168, 512] (n / 8 of weight_scale); got [8, 7168, 4096]",
    ),
    (
        a,
        dict(weight=int4(), weight_scale=full(F32, 8, 56, 4096)),
        "dequant_mode must be 1 for weight_scale [8, 56, 4096]; got 0",
    ),
    (a, dict(dequant_mode=1), "weight_scale must be [e, G, n] for dequant_mode 1; got [8, 4096]"),
    (
        a,
        dict(weight_scale=full(F32, 8, 60, 4096), dequant_mode=1),
        "k must be a multiple of G; got k 7168 with 60 scales per column",
    ),
    (a, dict(x_scale=full(F32, 32, 1)), "x_scale must be float32 [32] (m); got float32 [32, 1]"),
    (a, dict(x_scale=full(F16, 32)), "x_scale must be float32 [32] (m); got float16 [32]"),
    (a, dict(x_scale=full(F32, 31)), "x_scale must be float32 [32] (m); got float32 [31]"),
    (
        a,
        dict(smooth_scale=full(F32, 2048)),
        "smooth_scale must be float32 [8] (e) or [8, 2048] (e, n/2); got float32 [2048]",
    ),
    (a, dict(smooth_scale=full(F16, 8)), "smooth_scale must be float32 [8] (e) or [8, 2048] (e, n/2); got float16 [8]"),
    (
        a,
        dict(weight_assist_matrix=full(F32, 8, 2048)),
        "weight_assist_matrix must be float32 [8, 4096] (e, n); got float32 [8, 2048]",
    ),
    (
        a,
        dict(weight_assist_matrix=full(F16, 8, 4096)),
        "weight_assist_matrix must be float32 [8, 4096] (e, n); got float16 [8, 4096]",
    ),
    (a, dict(bias=full(F32, 8, 4096)), "bias must be int32 [8, 4096] (e, n); got float32 [8, 4096]"),
    (a, dict(bias=full(I32, 4096)), "bias must be int32 [8, 4096] (e, n); got int32 [4096]"),
    (
        a,
        dict(bias=full(I32, 8, 4096), weight_scale=full(F32, 8, 56, 4096), dequant_mode=1),
        "bias must be None for weight_scale [8, 56, 4096]; got int32 [8, 4096]",
    ),
    (a, dict(dequant_mode=2), "dequant_mode must be 0 (per channel) or 1 (per group of k); got 2"),
    (a, dict(quant_dtype=torch.uint8), "quant_dtype must be int8, float8_e4m3fn or float8_e5m2; got uint8"),
    (a, dict(swiglu_limit=-1), "swiglu_limit must be at least 0; got -1"),
    (a, dict(swiglu_limit=float("nan")), "swiglu_limit must be at least 0; got nan"),
    (a, dict(tuning_config=2.5), "tuning_config must be a list of ints or None; got float"),
]

OPERATOR_B = [  # section 4.3
    (b, dict(x=full(I8, 32, 256)), "x must be float16, bfloat16 or float32; got int8"),
    (b, dict(weight=full(I32, 8, 256, 16)), "weight must be int8 [e, k, n] or a PackedWeight; got int32"),
    (b, dict(weight=[full(I8, 8, 256, 128)]), "weight must be one tensor; got a list"),
    (b, dict(scale=full(BF16, 8, 128)), "scale must be float16 (like x) or float32; got bfloat16"),
    (b, dict(x=full(F32, 32, 256), scale=full(F16, 8, 128)), "scale must be float32; got float16"),
    (b, dict(scale=full(F16, 8, 4, 128)), "scale must be [8, 128] (e, n); got [8, 4, 128]"),
    (b, dict(scale=None), "scale must be a tensor; got None"),
    (b, dict(offset=full(BF16, 8, 128)), "offset must be float16 (like x) or float32; got bfloat16"),
    (b, dict(offset=full(F16, 8, 4, 128)), "offset must be [8, 128] (e, n); got [8, 4, 128]"),
    (b, dict(bias=full(BF16, 8, 128)), "bias must be float16 (like x) or float32; got bfloat16"),
    (b, dict(bias=full(F32, 128)), "bias must be [8, 128] (e, n); got [128]"),
    (b, dict(group_list=None), "group_list must be given when e is 8; got None"),
    (b, dict(act_type=3), "act_type must be 0 (none), 1 (relu), 2 (gelu_tanh), 4 (fast_gelu) or 5 (silu); got 3"),
    (b, dict(precision="high"), 'precision must be "default", "strict" or "fast"; got "high"'),
]

COMPANIONS = [  # section 5.10
    (d, dict(x=full(BF16, 128)), "x must have at least 2 dimensions; got [128]"),
    (d, dict(x=full(I8, 4, 128)), "x must be float16, bfloat16 or float32; got int8"),
    (d, dict(x=full(BF16, 4, 12), dst_type=torch.quint4x2), "h must be a multiple of 8 for int4; got 12"),
    (d, dict(smooth_scales=full(BF16, 8)), "smooth_scales must be [7168] (h); got [8]"),
    (d, dict(smooth_scales=full(BF16, 2, 7168), group_index=ends(10, 30)), "group_index must end at 32 (rows); got 30"),
    (d, dict(dst_type=torch.int16), "dst_type must be int8, quint4x2, float8_e4m3fn or float8_e5m2; got int16"),
    (g, dict(x=full(BF16, 32, 7168)), "x must be int8"),
    (g, dict(act_type=3), "act_type must be 0 (none), 1 (relu), 2 (gelu_tanh), 4 (fast_gelu) or 5 (silu); got 3"),
    (g, dict(x_scale=full(F32, 31)), "x_scale must be float32 [32] (m); got float32 [31]"),
    (g, dict(dequant_mode=1), "weight_scale must be [e, G, n] for dequant_mode 1; got [8, 4096]"),
    (g, dict(dequant_mode=2), "dequant_mode must be 0 (per channel) or 1 (per group of k); got 2"),
]

RULES = {  # the sentence up to "; got", where the contract leaves the end open
    "int32 output with weight_scale": (g, dict(out_dtype=I32), "weight_scale must be None"),
    "int32 output with x_scale": (
        g,
        dict(out_dtype=I32, weight_scale=None, x_scale=full(F32, 32)),
        "x_scale must be None",
    ),
    "int32 output with act": (g, dict(out_dtype=I32, weight_scale=None, act_type=1), "act_type must be 0"),
    "out_dtype": (g, dict(out_dtype=torch.float64), "out_dtype must be"),
    "bias shape of grouped": (g, dict(bias=full(F16, 4096)), "bias must be"),
    "int bias with slices": (
        g,
        dict(bias=full(I32, 8, 4096), weight_scale=full(F32, 8, 56, 4096), dequant_mode=1),
        "bias must be None for weight_scale [8, 56, 4096]; got int32 [8, 4096]",
    ),
    "weight_scale missing": (g, dict(weight_scale=None), "weight_scale must be a tensor; got None"),
    "smooth dtype of dynamic_quant": (d, dict(smooth_scales=full(F16, 7168)), "smooth_scales must be"),
    "group_index without smooth": (d, dict(group_index=ends(32)), "must"),
    "group_index decreasing": (
        d,
        dict(smooth_scales=full(F32, 3, 7168), group_index=ends(9, 3, 32)),
        "group_index (cumsum) must not decrease; got 3 after 9 at index 1",
    ),
    "group_index dtype": (
        d,
        dict(smooth_scales=full(F32, 1, 7168), group_index=torch.tensor([32.0])),
        "group_index must be int",
    ),
    "group_index length": (d, dict(smooth_scales=full(F32, 3, 7168), group_index=ends(9, 32)), "must be"),
}
