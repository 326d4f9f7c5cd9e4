# SPDX-License-Identifier: Apache-2.0
"""What will run (explain), what ran (last_run, QGMM_VERBOSE), and what the machine is."""

import json
import re

import pytest
import torch

import cases
import qgmm
import subprocesses
from qgmm import pages


def test_explain_is_data_and_runs_nothing(rng):
    args = cases.swiglu(rng, m=40, k=64, n=96)
    qgmm.dynamic_quant(torch.ones(2, 8))
    before = qgmm.last_run()
    plan = qgmm.explain(qgmm.grouped_matmul_swiglu_quant, *args, swiglu_limit=3.0)
    assert qgmm.last_run() == before
    json.dumps(plan)
    assert plan["operation"] == "grouped_matmul_swiglu_quant"
    assert plan["kernels"] and plan["workers"] >= 1 and plan["tasks"]


def test_explain_names_what_then_runs(rng):
    for op, args, options in (
        (qgmm.grouped_matmul_swiglu_quant, cases.swiglu(rng, m=20), {}),
        (qgmm.grouped_matmul_swiglu_quant, cases.swiglu(rng, m=20, bits=4), {}),
        (qgmm.weight_quant_grouped_matmul, *cases.weight_quant(rng, m=20)),
        (qgmm.grouped_matmul, *cases.grouped(rng, m=20)),
    ):
        plan = qgmm.explain(op, *args, **options)
        op(*args, **options)
        run = qgmm.last_run()
        assert run["operation"] == op.__name__ == plan["operation"]
        assert set(run["kernels"]) <= {
            kernel if isinstance(kernel, str) else kernel["name"] for kernel in plan["kernels"]
        }
        assert run["workers"] >= 1


def test_explain_refuses_what_the_call_refuses(rng):
    args = list(cases.swiglu(rng))
    args[4] = torch.tensor([99])
    with pytest.raises(ValueError, match="must end at or below"):
        qgmm.explain(qgmm.grouped_matmul_swiglu_quant, *args)


def test_explain_of_a_vendor_name(rng):
    args = cases.swiglu(rng)
    plan = qgmm.explain(qgmm.npu_grouped_matmul_swiglu_quant_v2, args[0], [args[1]], [args[2]], *args[3:])
    assert plan["kernels"]


def test_explain_of_something_else():
    with pytest.raises((ValueError, TypeError)):
        qgmm.explain(len, [])


def test_tuning_config_changes_the_plan_and_not_the_bits(rng):
    args = cases.swiglu(rng, e=2, m=600, k=64, n=96, group_list=[300, 600])
    plans = [
        qgmm.explain(qgmm.grouped_matmul_swiglu_quant, *args, tuning_config=config) for config in (None, [1], [256])
    ]
    assert any(plan != plans[0] for plan in plans[1:])


def test_last_run_of_each_operation(rng):
    qgmm.grouped_matmul_swiglu_quant(*cases.swiglu(rng))
    assert qgmm.last_run()["operation"] == "grouped_matmul_swiglu_quant"
    qgmm.dynamic_quant(torch.ones(2, 8))
    assert qgmm.last_run()["operation"] == "dynamic_quant"


def test_last_run_belongs_to_the_thread(rng):
    import threading

    qgmm.dynamic_quant(torch.ones(2, 8))
    args = cases.swiglu(rng)
    worker = threading.Thread(target=lambda: qgmm.grouped_matmul_swiglu_quant(*args))
    worker.start()
    worker.join()
    assert qgmm.last_run()["operation"] == "dynamic_quant"


def test_reference_says_so(rng):
    with qgmm.reference():
        qgmm.grouped_matmul_swiglu_quant(*cases.swiglu(rng))
        assert qgmm.last_run()["kernels"] == ["reference"]
    qgmm.grouped_matmul_swiglu_quant(*cases.swiglu(rng))
    assert qgmm.last_run()["kernels"] != ["reference"]


def test_reference_ends_after_an_error(rng):
    with pytest.raises(ZeroDivisionError), qgmm.reference():
        raise ZeroDivisionError
    qgmm.grouped_matmul_swiglu_quant(*cases.swiglu(rng))
    assert qgmm.last_run()["kernels"] != ["reference"]


CALL = """
import torch, qgmm, json
x, w = torch.ones(9, 8, dtype=torch.int8), torch.ones(1, 8, 16, dtype=torch.int8)  # 9 rows: AMX, too
qgmm.grouped_matmul_swiglu_quant(x, w, torch.ones(1, 16), torch.ones(9), [9])
print(json.dumps(qgmm.last_run()))
"""


def test_verbose_prints_one_line_per_call():
    done = subprocesses.python("-c", CALL, QGMM_VERBOSE=1)
    lines = [line for line in done.stderr.splitlines() if "grouped_matmul_swiglu_quant" in line]
    assert len(lines) == 1
    assert all(kernel in lines[0] for kernel in json.loads(done.stdout.splitlines()[-1])["kernels"])
    silent = subprocesses.python("-c", CALL, QGMM_VERBOSE=None)
    assert "grouped_matmul_swiglu_quant" not in silent.stderr


def test_print_plan():
    done = subprocesses.python("-c", CALL, QGMM_PRINT_PLAN=1)
    assert (
        "grouped_matmul_swiglu_quant" in done.stderr + done.stdout.split("{")[0]
        and "tasks" in done.stderr + done.stdout
    )


ISAS = qgmm.machine()["isas"]


@pytest.mark.parametrize("isa", ISAS)
def test_forced_isa_really_ran(isa):
    run = json.loads(subprocesses.python("-c", CALL, QGMM_MAX_ISA=isa).stdout.splitlines()[-1])
    assert run["isa"] == isa and all(isa in kernel.lower() for kernel in run["kernels"])


def test_machine_is_data():
    json.dumps(qgmm.machine())
    assert qgmm.machine()["version"] == qgmm.__version__


SMAPS = """\
{0:x}-{1:x} rw-p 00000000 00:00 0
Size:              40960 kB
Rss:                 100 kB
AnonHugePages:         0 kB
{1:x}-{2:x} rw-p 00000000 00:00 0
Rss:                4096 kB
Pss:                4096 kB
AnonHugePages:      2048 kB
{2:x}-{3:x} rw-p 00000000 00:00 0
Rss:               12288 kB
AnonHugePages:     10240 kB
{3:x}-{4:x} r--p 00000000 08:01 77   /lib/of/somebody.so
Rss:                 512 kB
AnonHugePages:       512 kB
"""


def test_huge_share_counts_the_mappings_of_a_tensor(tmp_path):
    tensor, file = torch.zeros(1 << 12, dtype=torch.uint8), tmp_path / "smaps"
    start = tensor.data_ptr()
    for marks, share in (((start - 9, start, start + 99, start + 4096, start + 9999), 12288 / 16384),
                         ((start - 9, start - 1, start + 4096, start + 4097, start + 9999), 0.5),
                         ((start - 9, start - 4, start - 3, start + 4096, start + 9999), 10240 / 12288),
                         ((start + 4096, start + 5000, start + 6000, start + 7000, start + 8000), None)):
        file.write_text(SMAPS.format(*marks))
        assert pages.huge_share(tensor, str(file)) == share
    file.write_text("")
    assert pages.huge_share(tensor, str(file)) is None
    assert pages.huge_share(tensor, str(tmp_path / "missing")) is None


def test_huge_share_of_memory_here():
    share = pages.huge_share(torch.ones(1 << 23))
    assert share is None or 0 <= share <= 1


def test_doctor_runs_and_self_tests():
    done = subprocesses.python("-m", "qgmm", "doctor")
    assert re.search(r"^2 MiB pages +(\d+% of a packed weight|unknown)", done.stdout, re.MULTILINE), done.stdout
    for word in ("qgmm", "torch", "isa", "threads", "grouped_matmul_swiglu_quant", "weight_quant_grouped_matmul"):
        assert word in done.stdout.lower(), word
