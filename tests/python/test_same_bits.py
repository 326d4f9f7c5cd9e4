# SPDX-License-Identifier: Apache-2.0
"""The same bits from any number of threads, any ISA, any company of rows, packed or plain, first time or second."""

import json

import pytest
import torch

import agree
import battery
import cases
import qgmm
import subprocesses

ISAS = qgmm.machine()["isas"]


@pytest.fixture(scope="module")
def here():
    return battery.run()


@pytest.fixture(scope="module")
def with_reference():
    with qgmm.reference():
        return battery.run()


def differing(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if one[name] != other[name]]


def test_kernels_equal_the_reference(here, with_reference):
    assert differing(here["digests"], with_reference["digests"]) == []
    assert all(run["kernels"] == ["reference"] for run in with_reference["runs"].values())
    assert not any(run["kernels"] == ["reference"] for run in here["runs"].values())


def test_run_twice(here):
    assert differing(battery.run()["digests"], here["digests"]) == []


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads(here, threads):
    agree.use_threads(threads)
    assert differing(battery.run()["digests"], here["digests"]) == []


def kernels_of(runs):
    return {kernel for run in runs.values() for kernel in run["kernels"]}


@pytest.mark.parametrize("isa", ISAS)
def test_isa(here, isa):
    """Every ISA gives the same bits, and every kernel of the one that was asked for really ran."""
    other = json.loads(subprocesses.python(subprocesses.HERE / "battery.py", QGMM_MAX_ISA=isa).stdout)
    assert differing(other["digests"], here["digests"]) == []
    assert {run["isa"] for run in other["runs"].values()} == {isa}
    products = {kernel for kernel in kernels_of(other["runs"]) if kernel != "quantize"}
    table = {kernel for kernel in qgmm.machine()["kernels"] if kernel.startswith(f"{isa}_")}
    assert table and table <= products
    assert isa != "scalar" or all(kernel.startswith("scalar") for kernel in products)


def test_every_thread_count_of_a_second_process(here):
    done = subprocesses.python(subprocesses.HERE / "battery.py", QGMM_NUM_THREADS=5)
    assert differing(json.loads(done.stdout)["digests"], here["digests"]) == []


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [[0], [3], [40], [0, 1], [10, 11, 12, 13, 14], list(range(41))])
def test_a_row_alone_and_in_a_batch(rng, bits, rows):
    x, weight, scale, x_scale, _ = cases.swiglu(rng, e=1, m=41, k=100, n=64, bits=bits)
    y, y_scale = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, [41])
    got = qgmm.grouped_matmul_swiglu_quant(x[rows], weight, scale, x_scale[rows], [len(rows)])
    agree.assert_same_bits(got, (y[rows], y_scale[rows]), f"rows {rows}")
    down = qgmm.grouped_matmul(x, weight, scale, [41], x_scale=x_scale)
    agree.assert_same_bits(
        qgmm.grouped_matmul(x[rows], weight, scale, [len(rows)], x_scale=x_scale[rows]), down[rows], "rows"
    )
    if bits == 8:
        tokens = cases.uniform(rng, 41, 100, dtype=torch.bfloat16)
        all_rows = qgmm.weight_quant_grouped_matmul(tokens, weight, scale)
        agree.assert_same_bits(
            qgmm.weight_quant_grouped_matmul(tokens[rows], weight, scale), all_rows[rows], "rows of B"
        )


def test_company_of_other_experts(rng):
    x, weight, scale, x_scale, _ = cases.swiglu(rng, e=6, m=30, k=50, n=32)
    y, y_scale = qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, [0, 9, 9, 30, 30, 30])
    got = qgmm.grouped_matmul_swiglu_quant(x[:9], weight[1:2], scale[1:2], x_scale[:9], [9])
    agree.assert_same_bits(got, (y[:9], y_scale[:9]), "expert 1 alone")


@pytest.mark.parametrize("m", [1, 2, 8, 200])
def test_packed_and_plain(rng, m):
    x, weight, *rest = cases.swiglu(rng, e=3, m=m, k=150, n=96)
    want = qgmm.grouped_matmul_swiglu_quant(x, weight, *rest)
    agree.assert_same_bits(
        qgmm.grouped_matmul_swiglu_quant(x, qgmm.pack_weight(weight, swiglu=True), *rest), want, "packed"
    )


@pytest.mark.parametrize("m, n", [(300, 64), (40, 1200), (7, 3000), (520, 1040)])
@pytest.mark.parametrize("threads", [1, 7])
def test_splits_and_tiles(rng, m, n, threads):
    """Shapes whose blocks are whole for one worker and split for seven."""
    agree.use_threads(threads)
    x, weight, scale, x_scale, _ = cases.swiglu(rng, e=2, m=m, k=16, n=n)
    for group_list in ([m // 3, m], [m, m], [0, m - 1]):
        agree.check_swiglu(x, weight, scale, x_scale, torch.tensor(group_list))


def test_calls_from_several_python_threads(rng):
    from concurrent.futures import ThreadPoolExecutor

    args = cases.swiglu(rng, e=3, m=60, k=120, n=96)
    want = qgmm.grouped_matmul_swiglu_quant(*args)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: qgmm.grouped_matmul_swiglu_quant(*args), range(24)):
            agree.assert_same_bits(got, want, "from another thread")
