# SPDX-License-Identifier: Apache-2.0
"""Environment variables and the caller's floating-point mode: obeyed where promised, harmless elsewhere."""

import ctypes
import json
import platform

import pytest
import torch

import agree
import battery
import cases
import qgmm
import subprocesses

CALL = """
import torch, qgmm, json
x, w = torch.ones(64, 64, dtype=torch.int8), torch.ones(1, 64, 256, dtype=torch.int8)
try:
    qgmm.grouped_matmul_swiglu_quant(x, w, torch.ones(1, 256), torch.ones(64), [64])
    print(json.dumps(qgmm.last_run()))
except ValueError as error:
    print("ValueError", error)
"""


BAD_ISAS = ["avx9", "AVX2 ", "0", "none", "avx2,scalar"]
BAD_THREADS = ["zero", "0", "-3", "1.5", "99999999999999999999", "2x"]


def test_max_isa_with_a_bad_value_gives_a_sentence():
    outputs = subprocesses.outputs_by_value("QGMM_MAX_ISA", [*BAD_ISAS, ""], CALL)
    assert '"kernels"' in outputs.pop("")  # empty counts as unset
    for value, text in outputs.items():
        sentence = f"QGMM_MAX_ISA must be what this machine has ({', '.join(qgmm.machine()['isas'])}); got {value}"
        assert text.startswith("ValueError [") and sentence in text, (value, text)


def test_num_threads_with_a_bad_value_gives_a_sentence():
    for value, text in subprocesses.outputs_by_value("QGMM_NUM_THREADS", BAD_THREADS, CALL).items():
        assert text.startswith("ValueError [") and "QGMM_NUM_THREADS must be" in text and value in text, (value, text)


def test_num_threads():
    for value, text in subprocesses.outputs_by_value("QGMM_NUM_THREADS", ["1", "2", "3"], CALL).items():
        assert 1 <= json.loads(text)["workers"] <= int(value)


def test_check_groups_environment():
    """QGMM_CHECK_GROUPS is about CUDA, where reading the list costs a sync; on the CPU a list is always checked."""
    code = CALL.replace("[64])", "[65])")
    for text in subprocesses.outputs_by_value("QGMM_CHECK_GROUPS", ["0", "1", ""], code).values():
        assert text.startswith(
            "ValueError [grouped_matmul_swiglu_quant] group_list (cumsum) must end at or below 64 (m); got 65"
        )


def test_torch_threads_are_obeyed(rng):
    args = cases.swiglu(rng, m=64, k=64, n=512)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        qgmm.grouped_matmul_swiglu_quant(*args)
        assert qgmm.last_run()["workers"] <= threads


@pytest.fixture
def denormals_flushed():
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush denormals")
    yield
    torch.set_flush_denormal(False)


def subnormal_case(rng):
    x, weight, scale, x_scale, group_list = cases.swiglu(rng, m=12, k=64, n=48)
    return x, weight, scale * 2.0**-60, x_scale * 2.0**-70, group_list


def every_operator(rng):
    subnormal, ordinary = subnormal_case(rng), cases.swiglu(rng, m=40, k=64, n=48)
    b_args, b_options = cases.weight_quant(rng, m=30, k=64, n=48)
    z = cases.uniform(rng, 1, 4000, low=-110, high=110)
    one, ones = torch.ones(3, 1, dtype=torch.int8), torch.ones(1, 1, 4000, dtype=torch.int8)
    tiny, weight = cases.uniform(rng, 5, 33) * 2.0**-135, cases.int8(rng, 1, 33, 16)
    packed, unit = qgmm.pack_weight(ordinary[1], swiglu=True), torch.ones(1, 16)
    return [
        lambda: qgmm.grouped_matmul_swiglu_quant(*subnormal),
        lambda: qgmm.grouped_matmul_swiglu_quant(*ordinary),
        lambda: qgmm.grouped_matmul_swiglu_quant(ordinary[0], packed, *ordinary[2:]),
        lambda: qgmm.grouped_matmul(one, ones, z, [3], act_type=5, out_dtype=torch.float32),
        lambda: qgmm.dynamic_quant(tiny),
        lambda: qgmm.weight_quant_grouped_matmul(*b_args, **b_options),
        lambda: qgmm.weight_quant_grouped_matmul(tiny, weight, unit),
    ]


@pytest.mark.parametrize("mode", ["kernels", "reference"])
@pytest.mark.parametrize("threads", [1, 2])
def test_caller_flush_to_zero(rng, mode, threads, denormals_flushed):
    agree.use_threads(threads)
    torch.set_flush_denormal(False)
    calls = every_operator(rng)
    want = [call() for call in calls]
    assert any(
        ((r != 0) & (r.abs() < 2.0**-126)).any()
        for results in want
        for r in agree.tensors_of(results)
        if r.dtype == torch.float32
    )
    torch.set_flush_denormal(True)
    got = [call() for call in calls] if mode == "kernels" else [agree.reference(call) for call in calls]
    still_flushing = (torch.tensor([2.0**-120]) * 2.0**-20).item() == 0
    torch.set_flush_denormal(False)
    for one, other in zip(got, want, strict=True):
        agree.assert_same_bits(one, other, "under the caller's flush-to-zero")
    assert still_flushing, "the caller's mode must be restored"


FE = {
    "x86_64": {"upward": 0x800, "downward": 0x400, "to_zero": 0xC00},
    "aarch64": {"upward": 0x400000, "downward": 0x800000, "to_zero": 0xC00000},
}.get(platform.machine(), {})


@pytest.mark.parametrize("direction", ["upward", "downward", "to_zero"])
@pytest.mark.parametrize("mode", ["kernels", "reference"])
def test_caller_rounding_mode(rng, direction, mode):
    if direction not in FE:
        pytest.skip(f"no rounding modes known for {platform.machine()}")
    agree.use_threads(2)
    libm = ctypes.CDLL("libm.so.6")
    calls = every_operator(rng)
    want = [call() for call in calls]
    assert libm.fesetround(FE[direction]) == 0
    try:
        got = [call() for call in calls] if mode == "kernels" else [agree.reference(call) for call in calls]
        kept = libm.fegetround()
    finally:
        assert libm.fesetround(0) == 0
    assert kept == FE[direction], "the caller's mode must be restored"
    for one, other in zip(got, want, strict=True):
        agree.assert_same_bits(one, other, f"with rounding {direction}")


def test_mode_is_restored_after_a_refusal(rng):
    args = list(cases.swiglu(rng))
    args[4] = torch.tensor([99])
    libm = ctypes.CDLL("libm.so.6")
    before = libm.fegetround()
    with pytest.raises(ValueError):
        qgmm.grouped_matmul_swiglu_quant(*args)
    assert libm.fegetround() == before


def test_import_loads_no_compiler():
    """What makes an import slow: the compiler stack belongs to those who compile."""
    code = """
import sys, torch
before = set(sys.modules)
import qgmm
slow = {"torch._dynamo", "torch._inductor", "scipy", "sympy", "pytest"}
print(sorted(slow & (set(sys.modules) - before)))
"""
    assert subprocesses.python("-c", code).stdout.strip() == "[]"


def test_import_leaves_the_process_alone():
    code = """
import os, torch
before = dict(os.environ), torch.get_num_threads(), torch.get_default_dtype()
import qgmm
assert (dict(os.environ), torch.get_num_threads(), torch.get_default_dtype()) == before
"""
    subprocesses.python("-c", code)


def test_battery_has_every_operator():
    assert {op.__name__ for _, op, _, _ in battery.calls()} == {
        "grouped_matmul_swiglu_quant",
        "weight_quant_grouped_matmul",
        "grouped_matmul",
        "dynamic_quant",
    }
