# SPDX-License-Identifier: Apache-2.0
"""python -m qgmm doctor: versions, the machine, what was chosen and why, and every operator against the reference."""

import platform
import sys
from collections.abc import Callable

import torch

from . import library, ops, pages, weights
from .explain import last_run, machine, reference

_LABEL, _TEST = 16, 44


def _print_facts() -> None:
    facts = machine()
    _print_fact("python", f"{platform.python_version()} ({sys.executable})")
    _print_fact("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    _print_fact("qgmm", f"{facts.pop('version')} ({library.LIBRARY_PATH})")
    for key, value in facts.items():
        if not key.endswith("_why"):
            why = facts.get(f"{key}_why")
            text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
            _print_fact(key.replace("_", " "), f"{text}: {why}" if why else text)


def _print_pages() -> None:
    packed = weights.pack_weight(torch.ones(2, 4096, 4096, dtype=torch.int8), certify=False)
    share = pages.huge_share(packed.data)
    told = "unknown: /proc/self/smaps does not say" if share is None else f"{share:.0%} of a packed weight of 32 MB"
    _print_fact("2 MiB pages", told)


def _print_fact(label: str, text: str) -> None:
    print(f"{label:<{_LABEL}}{text}")


class _Inputs:
    """Small random arguments, sizes off most tiles; one group is empty, two rows are in none."""

    m, k, n, e, slices = 37, 96, 72, 3, 3

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(20260101)
        m, k, n, e = self.m, self.k, self.n, self.e
        self.x = torch.randint(-128, 128, (m, k), dtype=torch.int8, generator=random)
        self.int8 = torch.randint(-128, 128, (e, k, n), dtype=torch.int8, generator=random)
        self.int4 = torch.randint(-(2**31), 2**31, (e, k, n // 8), generator=random).to(torch.int32)
        self.scale = torch.rand(e, n, generator=random) * 1e-3
        self.sliced = torch.rand(e, self.slices, n, generator=random) * 1e-3
        self.x_scale = torch.rand(m, generator=random)
        self.float_x = torch.randn(m, k, generator=random)
        self.offset = torch.randn(e, n, generator=random)
        self.bias = torch.randn(e, n, generator=random)
        self.groups = torch.tensor([12, 12, m - 2])


class _Wrong(Exception):
    """What a self-test found."""


def _bits_equal(call: Callable[[], object]) -> list[str]:
    """The call with the kernels and with the scalar specification; the kernels that ran."""
    ours = call()
    kernels = last_run()["kernels"]
    with reference():
        wanted = call()
    for got, expected in zip(_as_tuple(ours), _as_tuple(wanted), strict=True):
        different = int((got.view(torch.uint8) != expected.view(torch.uint8)).sum())
        if different:
            raise _Wrong(f"{different} bytes differ from the reference")
    return kernels


def _as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def _within_bound(inputs: _Inputs, dtype: torch.dtype, weight) -> list[str]:
    """Operator B against float64, by the bound of docs/operators.md, section 8.2; the kernels that ran."""
    x, scale = inputs.float_x.to(dtype), inputs.scale.to(dtype)
    offset, bias = inputs.offset.to(dtype), inputs.bias.to(dtype)
    y = ops.weight_quant_grouped_matmul(x, weight, scale, offset=offset, bias=bias, group_list=inputs.groups).double()
    kernels = last_run()["kernels"]
    unit, start = 2.0**-24, 0
    for expert, end in enumerate(inputs.groups.tolist()):
        rows, w = x[start:end].double(), inputs.int8[expert].double()
        s, o, b = scale[expert].double(), offset[expert].double(), bias[expert].double()
        exact = rows @ ((w + o) * s) + b
        size = rows.abs() @ w.abs() + o.abs() * rows.abs().sum(1, keepdim=True)
        error = (min(inputs.k, 8 * inputs.k**0.5) + 8) * unit * s.abs() * size + 2 * unit * b.abs()
        if dtype == torch.bfloat16:  # fixed point
            error += 2.0**-15 * rows.abs().amax(1, keepdim=True) * s.abs() * w.abs().sum(0)
        largest = exact.abs() + error
        info = torch.finfo(dtype)
        ulp = torch.exp2(torch.floor(torch.log2(largest.clamp_min(info.tiny)))) * info.eps
        wrong = int(((y[start:end] - exact).abs() > error + ulp / 2).sum())
        if wrong:
            raise _Wrong(f"{wrong} results of expert {expert} are outside the bound")
        start = end
    if y[start:].any():
        raise _Wrong("rows in no group are not zero")
    return kernels


def _self_tests(inputs: _Inputs) -> list[tuple[str, Callable[[], list[str]]]]:
    packed8, paired8 = weights.pack_weight(inputs.int8), weights.pack_weight(inputs.int8, swiglu=True)
    packed4, paired4 = weights.pack_weight(inputs.int4), weights.pack_weight(inputs.int4, swiglu=True)

    def swiglu(weight, scale, **options):
        return lambda: _bits_equal(
            lambda: ops.grouped_matmul_swiglu_quant(
                inputs.x, weight, scale, inputs.x_scale, inputs.groups, **options
            )
        )

    def matmul(weight, scale, x_scale=inputs.x_scale, **options):
        return lambda: _bits_equal(
            lambda: ops.grouped_matmul(inputs.x, weight, scale, inputs.groups, x_scale=x_scale, **options)
        )

    def quant(**options):
        return lambda: _bits_equal(lambda: ops.dynamic_quant(inputs.float_x, **options))

    fp8 = torch.float8_e4m3fn
    tests = [
        ("grouped_matmul_swiglu_quant int8", swiglu(inputs.int8, inputs.scale)),
        ("  packed", swiglu(paired8, inputs.scale)),
        ("  packed, to float8", swiglu(paired8, inputs.scale, quant_dtype=fp8)),
        ("grouped_matmul_swiglu_quant int4", swiglu(inputs.int4, inputs.sliced, dequant_mode=1)),
        ("  packed, assist matrix", swiglu(paired4, inputs.scale, weight_assist_matrix=inputs.bias)),
        ("grouped_matmul int8 to bfloat16", matmul(packed8, inputs.scale)),
        ("grouped_matmul int8 to int32", matmul(packed8, None, None, out_dtype=torch.int32)),
        ("grouped_matmul int4 to float32", matmul(packed4, inputs.sliced, dequant_mode=1, out_dtype=torch.float32)),
        ("dynamic_quant int8", quant()),
        ("dynamic_quant int4", quant(dst_type=torch.quint4x2)),
    ]
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        name = f"weight_quant_grouped_matmul {str(dtype).removeprefix('torch.')}"
        tests.append((name, lambda dtype=dtype: _within_bound(inputs, dtype, packed8)))
    return tests


def main() -> int:
    """Prints the report; 0, or 1 where a self-test failed."""
    _print_facts()
    try:
        _print_pages()
        print("\nself-test (against the scalar reference; weight_quant against float64)")
        tests = _self_tests(_Inputs())
    except Exception as error:
        print(f"weights cannot be packed: {error}\nverdict: broken")
        return 1
    failures = 0
    for name, test in tests:
        try:
            verdict = f"ok ({', '.join(test())})"
        except Exception as error:  # a self-test reports whatever happens
            failures += 1
            verdict = f"FAILED: {error}" if isinstance(error, _Wrong) else f"FAILED: {type(error).__name__}: {error}"
        print(f"  {name:<{_TEST}}{verdict}")
    print(f"verdict: {f'{failures} of {len(tests)} self-tests failed' if failures else 'all operators are right'}")
    return 1 if failures else 0
