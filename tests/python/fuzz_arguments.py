# SPDX-License-Identifier: Apache-2.0
"""Random argument sets: legal ones of every operator, and ways to spoil them."""

import numpy as np
import torch

import cases
import qgmm

DTYPES = [
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint64,
    torch.bool,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


def pick(rng, values):
    return values[int(rng.integers(len(values)))]


def other_dtype(rng, t):
    return t.to(torch.float32).to(pick(rng, DTYPES))


def drop_axis(rng, t):
    return t[..., 0] if t.dim() and t.shape[-1] else t


def cut(rng, t):
    axis = int(rng.integers(max(t.dim(), 1)))
    return t.narrow(axis, 0, int(rng.integers(t.shape[axis] + 1))) if t.dim() else t


def grow(rng, t):
    axis = int(rng.integers(max(t.dim(), 1)))
    return torch.cat([t, t.narrow(axis, 0, 1)], axis) if t.dim() and t.shape[axis] else t


def rotate(rng, t):
    return t.permute(*np.roll(range(t.dim()), 1).tolist()) if t.dim() else t


def spread(rng, t):
    return torch.stack([t, t], -1)[..., 0]


def backwards_strides(rng, t):
    return t.transpose(-1, -2).contiguous().transpose(-1, -2) if t.dim() > 1 else t


def expand(rng, t):
    axis = int(rng.integers(max(t.dim(), 1)))
    return t.narrow(axis, 0, 1).expand(t.shape) if t.dim() and t.shape[axis] else t


def odd_offset(rng, t):
    wide = torch.empty(t.numel() + 3, dtype=t.dtype)
    view = wide[3:].view(t.shape)
    view.copy_(t)
    return view


def nan_and_inf(rng, t):
    t = t.clone(memory_format=torch.contiguous_format)
    if t.is_floating_point() and t.numel() and t.element_size() > 1:
        t.view(-1)[int(rng.integers(t.numel()))] = pick(rng, [float("nan"), float("inf"), float("-inf"), 3e38, 1e-42])
    return t


def extreme_integers(rng, t):
    t = t.clone(memory_format=torch.contiguous_format)
    if t.dtype in (torch.int8, torch.int16, torch.int32, torch.int64) and t.numel():
        t.view(-1)[int(rng.integers(t.numel()))] = pick(rng, [torch.iinfo(t.dtype).min, torch.iinfo(t.dtype).max])
    return t


HARMLESS = [spread, backwards_strides, odd_offset, nan_and_inf]
MUTATIONS = HARMLESS + [
    other_dtype,
    drop_axis,
    cut,
    grow,
    rotate,
    expand,
    extreme_integers,
    lambda rng, t: t[None],
    lambda rng, t: t.reshape(-1),
    lambda rng, t: t.to("meta"),
    lambda rng, t: t.to_sparse() if t.dtype in (torch.float16, torch.float32) and t.dim() else t,
    lambda rng, t: torch.empty(0, dtype=t.dtype),
    lambda rng, t: torch.tensor(1, dtype=t.dtype),
]


def mutated(rng, t):
    """One mutation; what is no ordinary CPU tensor any more stays as it is."""
    return pick(rng, MUTATIONS)(rng, t) if t.layout == torch.strided and t.device.type == "cpu" else t


JUNK = [
    None,
    3,
    -1,
    2.5,
    "text",
    b"bytes",
    [],
    {},
    object(),
    True,
    float("nan"),
    torch.float16,
    np.ones((2, 3), np.float32),
    [None],
    [1, "a"],
    [[1, 2], [3, 4]],
    range(3),
    2**80,
    Ellipsis,
]
OPTIONS = {
    "dequant_mode": [0, 1, 2, -1, None, 1.0, "0", 2**40, 2**70],
    "quant_dtype": [
        None,
        0,
        1,
        2,
        3,
        23,
        24,
        4,
        -1,
        torch.int8,
        torch.float8_e4m3fn,
        torch.float16,
        "int8",
        2.0,
        2**70,
    ],
    "group_list_type": [0, 1, 2, -5, None, True, 2**65],
    "swiglu_limit": [0, 0.0, 1e-50, 3, 1e300, float("inf"), float("nan"), -1, None, "x", 2**1100],
    "tuning_config": [None, [], [1], [0], [-7], [2**40], [2**70], (3, 4), 5, "ab", [1.5], [None]],
    "act_type": [0, 1, 2, 3, 4, 5, 6, -1, None, 2.0, 2**66],
    "precision": ["default", "strict", "fast", "high", None, 0, ""],
    "out_dtype": [torch.float16, torch.bfloat16, torch.float32, torch.int32, torch.int8, torch.float64, None, 5, "x"],
    "dst_type": [None, 1, 16, 23, 24, torch.int8, torch.quint4x2, torch.float8_e5m2, torch.int16, 0, "int8", 2**70],
}


def sizes(rng):
    return dict(
        e=int(rng.integers(1, 5)), m=int(rng.integers(0, 12)), k=int(rng.integers(1, 40)), n=8 * int(rng.integers(1, 6))
    )


def case_of_swiglu(rng):
    size = sizes(rng)
    divisors = [g for g in range(1, size["k"] + 1) if size["k"] % g == 0]
    slices, kind = pick(rng, [0, *divisors]), int(rng.integers(2))
    group_list = cases.groups(rng, size["m"], size["e"], kind)
    x, weight, scale, x_scale, _ = cases.swiglu(
        rng, slices=slices, bits=pick(rng, [8, 4]), group_list=group_list, **size
    )
    given = dict(
        x=x,
        weight=weight,
        weight_scale=scale,
        x_scale=x_scale,
        group_list=group_list,
        group_list_type=kind,
        dequant_mode=int(slices > 0),
    )
    if rng.integers(2):
        given["weight_assist_matrix"] = cases.uniform(rng, size["e"], size["n"])
    if slices <= 1 and rng.integers(2):
        given["bias"] = torch.from_numpy(rng.integers(-(2**31), 2**31, (size["e"], size["n"])).astype(np.int32))
    return given


def a_case(rng):
    given = case_of_swiglu(rng)
    e, h = given["weight"].shape[0], given["weight_scale"].shape[-1] // 2
    if rng.integers(2):
        given["smooth_scale"] = cases.uniform(rng, *pick(rng, [(e,), (e, h)]))
    given["quant_dtype"] = pick(rng, [None, 2, 3])
    given["swiglu_limit"] = pick(rng, [0.0, 5.0])
    given["tuning_config"] = pick(rng, [None, [3]])
    return given, ["x", "weight", "weight_scale", "x_scale", "group_list"]


def g_case(rng):
    given = case_of_swiglu(rng)
    given["act_type"], given["out_dtype"] = (
        pick(rng, [0, 1, 2, 4, 5]),
        pick(rng, [torch.float16, torch.bfloat16, torch.float32]),
    )
    return given, ["x", "weight", "weight_scale", "group_list"]


def b_case(rng):
    size = sizes(rng)
    args, options = cases.weight_quant(
        rng,
        dtype=pick(rng, [torch.float16, torch.bfloat16, torch.float32]),
        offset=bool(rng.integers(2)),
        bias=bool(rng.integers(2)),
        **size,
    )
    given = dict(
        zip(("x", "weight", "scale"), args, strict=True),
        **options,
        act_type=pick(rng, [0, 1, 2, 4, 5]),
        group_list_type=0,
        precision="default",
    )
    return given, ["x", "weight", "scale"]


def d_case(rng):
    h = 8 * int(rng.integers(1, 9))
    lead = [int(v) for v in rng.integers(0, 5, int(rng.integers(1, 4)))]
    given = dict(
        x=cases.uniform(rng, *lead, h, dtype=pick(rng, [torch.float16, torch.float32])),
        dst_type=pick(rng, [None, 16, 23, 24]),
    )
    rows = int(np.prod(lead))
    if rng.integers(2):
        g = int(rng.integers(1, 4))
        given["smooth_scales"] = cases.uniform(rng, g, h)
        given["group_index"] = torch.from_numpy(np.append(np.sort(rng.integers(0, rows + 1, g - 1)), rows))
    return given, ["x"]


def with_forms(rng, op, given):
    """Weights as lists or packed, lists as Python lists; all of it legal."""
    if op is not qgmm.dynamic_quant and rng.integers(3) == 0:
        given["group_list"] = given["group_list"].tolist()
    if op in (qgmm.grouped_matmul_swiglu_quant, qgmm.grouped_matmul):
        form = int(rng.integers(5))
        if form == 0:
            given["weight"], given["weight_scale"] = list(given["weight"]), list(given["weight_scale"])
        elif form == 1:
            given["weight"] = [given["weight"]]
        elif form == 2:
            given["weight"] = qgmm.pack_weight(given["weight"], swiglu=op is qgmm.grouped_matmul_swiglu_quant)
    return given


def spoil(rng, given):
    """One argument made strange, or replaced altogether."""
    given = dict(given)
    name = pick(rng, list(given))
    value = given[name]
    if name in OPTIONS and rng.integers(4):
        given[name] = pick(rng, OPTIONS[name])
    elif rng.integers(5) == 0:
        given[name] = pick(rng, JUNK)
    elif torch.is_tensor(value):
        given[name] = mutated(rng, value)
    elif isinstance(value, list) and any(torch.is_tensor(v) for v in value):
        index = int(rng.integers(len(value)))
        given[name] = pick(
            rng,
            [
                value[:-1],
                value + value[:1],
                [*value[:index], pick(rng, JUNK), *value[index + 1 :]],
                [
                    *value[:index],
                    mutated(rng, value[index]) if torch.is_tensor(value[index]) else None,
                    *value[index + 1 :],
                ],
            ],
        )
    elif isinstance(value, list):
        given[name] = pick(
            rng, [[*value, 1], value[:-1], [-1], [2**63], [2**80], ["1"], [1.0], [None], [10**6] * len(value)]
        )
    return given


def call(op, given, positional):
    given = dict(given)
    return op(*[given.pop(name) for name in positional], **given)


def describe(given):
    def one(value):
        if torch.is_tensor(value):
            place = value.stride() if value.layout == torch.strided else value.layout
            return f"{str(value.dtype)[6:]}{list(value.shape)}/{place}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(one(v) for v in value) + "]"
        return repr(value)[:60]

    return ", ".join(f"{name}={one(value)}" for name, value in given.items())
