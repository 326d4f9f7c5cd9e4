# SPDX-License-Identifier: Apache-2.0
"""What a schema cannot carry, and so has to be refused in Python: types, lists, and spellings of options.

Every other rule is C++'s. These come first in the order of checks (types and lists, then options), with the same
sentences. No text is built before a check has failed: formatting a size while torch.compile traces would fix it.
"""

from __future__ import annotations

import numbers
from typing import NoReturn

import torch

from .packed import PackedWeight

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

_RULES = {
    "dequant_mode": "0 (per channel) or 1 (per group of k)",
    "group_list_type": "0 (cumsum) or 1 (counts)",
    "act_type": "0 (none), 1 (relu), 2 (gelu_tanh), 4 (fast_gelu) or 5 (silu)",
}


def refuse(name: str, sentence: str) -> NoReturn:
    """Raises the one error type: ``[name that was called] argument must be RULE; got WHAT``."""
    raise ValueError(f"[{name}] {sentence}")


def kind(value) -> str:
    """What came where a tensor or a list was wanted."""
    if value is None:
        return "None"
    if isinstance(value, PackedWeight):
        return "a PackedWeight"
    if isinstance(value, (list, tuple)):
        return "a list"
    return type(value).__name__


def spell(value) -> str:
    """What came where an option was wanted."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if value is None or isinstance(value, numbers.Number):
        return str(value)
    return kind(value)


def tensor(name: str, argument: str, value) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        refuse(name, f"{argument} must be a tensor; got {kind(value)}")
    return value


def optional_tensor(name: str, argument: str, value) -> torch.Tensor | None:
    return None if value is None else tensor(name, argument, value)


def tensors(name: str, argument: str, value) -> list[torch.Tensor]:
    """A tensor, or a list of tensors, as a list."""
    if isinstance(value, torch.Tensor):
        return [value]
    if not isinstance(value, (list, tuple)):
        refuse(name, f"{argument} must be a tensor; got {kind(value)}")
    for index, element in enumerate(value):
        if not isinstance(element, torch.Tensor):
            refuse(name, f"{argument}[{index}] must be a tensor; got {kind(element)}")
    return list(value)


def optional_tensors(name: str, argument: str, value) -> list[torch.Tensor] | None:
    return None if value is None else tensors(name, argument, value)


def is_only_expert(weight) -> bool:
    """A list of e = 1 tensors [k, n]. C++ cannot tell a list of one from a tensor, and a bare [k, n] is refused."""
    return (
        isinstance(weight, (list, tuple))
        and len(weight) == 1
        and isinstance(weight[0], torch.Tensor)
        and weight[0].dim() == 2
    )


def with_expert_axis(value):
    """What stands beside the weight of an only expert: if it is a list of one as well, its tensor gets that axis."""
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], torch.Tensor):
        return [value[0].unsqueeze(0)]
    return value


def weights(name: str, value) -> tuple[list[torch.Tensor], list[int] | None]:
    """Weights of any form: the tensors for the schema, and the integers of a PackedWeight."""
    if isinstance(value, PackedWeight):
        return [value.data], value.integers
    return tensors(name, "weight", value), None


def one_weight(name: str, value) -> tuple[torch.Tensor, list[int] | None]:
    """Weights of the operator that takes no list."""
    if isinstance(value, PackedWeight):
        return value.data, value.integers
    if isinstance(value, (list, tuple)):
        refuse(name, "weight must be one tensor; got a list")
    return tensor(name, "weight", value), None


def group_list(name: str, value, device: torch.device) -> torch.Tensor:
    """A tensor as it is; a list of ints as an int64 tensor on x's device."""
    if not isinstance(value, (list, tuple)):
        return tensor(name, "group_list", value)
    for index, element in enumerate(value):
        if not isinstance(element, (int, torch.SymInt, numbers.Integral)):
            refuse(name, f"group_list must be int64 or int32; got {kind(element)} at index {index}")
        if not _INT64_MIN <= element <= _INT64_MAX:
            refuse(name, f"group_list must be int64 or int32; got {element} at index {index}")
    return torch.tensor(value, dtype=torch.int64, device=device)


def optional_group_list(name: str, value, device: torch.device) -> torch.Tensor | None:
    return None if value is None else group_list(name, value, device)


def integer(name: str, argument: str, value) -> int:
    """An option whose values C++ checks; here only that the schema can carry it."""
    if not isinstance(value, (int, torch.SymInt, numbers.Integral)) or not _INT64_MIN <= value <= _INT64_MAX:
        refuse(name, f"{argument} must be {_RULES[argument]}; got {spell(value)}")
    return value


def limit(name: str, value) -> float:
    """swiglu_limit; C++ refuses negative values and NaN. An int beyond double is as far off as infinity."""
    if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat, numbers.Real)):
        refuse(name, f"swiglu_limit must be at least 0; got {spell(value)}")
    if isinstance(value, int) and not -(2**1000) < value < 2**1000:
        return float("inf") if value > 0 else float("-inf")
    return value


def tuning_config(name: str, value) -> list[int] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        refuse(name, f"tuning_config must be a list of ints or None; got {kind(value)}")
    for index, element in enumerate(value):
        if not isinstance(element, (int, torch.SymInt, numbers.Integral)):
            refuse(name, f"tuning_config must be a list of ints or None; got {kind(element)} at index {index}")
    return [min(max(element, _INT64_MIN), _INT64_MAX) for element in value]


# Numbers: the vendor's document (0, 2, 3), its later default (1) and torch's own (1, 23, 24).
_QUANT_DTYPES = {
    None: torch.int8,
    0: torch.int8,
    1: torch.int8,
    torch.int8: torch.int8,
    2: torch.float8_e5m2,
    23: torch.float8_e5m2,
    torch.float8_e5m2: torch.float8_e5m2,
    3: torch.float8_e4m3fn,
    24: torch.float8_e4m3fn,
    torch.float8_e4m3fn: torch.float8_e4m3fn,
}


def quant_dtype(name: str, value) -> torch.dtype:
    dtype = None
    if value is None or isinstance(value, (int, torch.dtype)):
        dtype = _QUANT_DTYPES.get(value)
    if dtype is None:
        refuse(name, f"quant_dtype must be int8, float8_e4m3fn or float8_e5m2; got {spell(value)}")
    return dtype


OUT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.int32)


def out_dtype(name: str, value) -> torch.dtype:
    if not isinstance(value, torch.dtype) or value not in OUT_DTYPES:
        refuse(name, f"out_dtype must be float16, bfloat16, float32 or int32; got {spell(value)}")
    return value


# torch's number of each dtype; 16 is quint4x2, which means int4 here.
_DST_TYPES = {
    None: 1,
    1: 1,
    torch.int8: 1,
    16: 16,
    torch.quint4x2: 16,
    23: 23,
    torch.float8_e5m2: 23,
    24: 24,
    torch.float8_e4m3fn: 24,
}


def dst_type(name: str, value) -> int:
    number = None
    if value is None or isinstance(value, (int, torch.dtype)):
        number = _DST_TYPES.get(value)
    if number is None:
        refuse(name, f"dst_type must be int8, quint4x2, float8_e4m3fn or float8_e5m2; got {spell(value)}")
    return number


_PRECISIONS = {"default": 0, "strict": 1, "fast": 2}


def precision_number(value) -> int | None:
    """The schema's number of a precision; None for anything else."""
    return _PRECISIONS.get(value) if isinstance(value, str) else None


def precision(name: str, value) -> int:
    number = precision_number(value)
    if number is None:
        refuse(name, f'precision must be "default", "strict" or "fast"; got {spell(value)}')
    return number
