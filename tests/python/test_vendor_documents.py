# SPDX-License-Identifier: Apache-2.0
"""The Python blocks of the vendor's documents, executed as they stand, eager and as a graph, and judged.

QGMM_VENDOR_DOCS names the folder that holds the documents; they are not part of this repository. The same sequences of
calls in our own words are in test_vendor_calls.py and always run.
"""
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
import torch

import qgmm.compat.npu
import vendor_judge

DOCUMENTS = {"npu_grouped_matmul_swiglu_quant_v2": 2, "npu_weight_quant_gmm": 2}  # and how many blocks each has
FENCED = re.compile(r"^([ \t]*)```python[ \t]*\n(.*?)^\1```[ \t]*$", re.MULTILINE | re.DOTALL)
SEEDS = (20, 26)
FOLDER = os.environ.get("QGMM_VENDOR_DOCS")


def blocks():
    if not FOLDER:
        reason = "QGMM_VENDOR_DOCS is unset, which names the folder of the vendor's documents"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="documents")]
    return [pytest.param((name, index), id=f"{name}-{index}") for name, count in DOCUMENTS.items()
            for index in range(count)]


def text_of(block):
    name, index = block
    found = FENCED.findall(pathlib.Path(FOLDER, f"{name}.md").read_text(encoding="utf-8"))
    assert len(found) == DOCUMENTS[name], f"{name}.md holds {len(found)} Python blocks, {DOCUMENTS[name]} are known"
    return textwrap.dedent(found[index][1])


def execute(text, name, folder, monkeypatch):
    """What the module holds after the text has run in it, with seeds from outside."""
    torch.manual_seed(SEEDS[0])
    np.random.seed(SEEDS[1])
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    module = types.ModuleType(name)
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(text, str(path), "exec"), vars(module))
    return vars(module)


def compiled(function):
    return torch.compile(function, backend="aot_eager", fullgraph=True)


@pytest.mark.filterwarnings("ignore:.*group_list:UserWarning")  # one document's counts sum to 33 for 32 rows
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("block", blocks())
def test_block(block, mode, tmp_path, monkeypatch):
    text = text_of(block)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    stance = "force_eager" if mode == "eager" else "default"
    with qgmm.compat.npu.install(), torch.compiler.set_stance(stance):
        import mindspeed.ops.weight_quant_gmm
        import torch_npu
        if "torch.compile(" in text:
            held = execute(text, f"block_{mode}", tmp_path, monkeypatch)
            args = (held["x"], [held["weight"]], [held["weightScale"]], held["xScale"], held["groupList"])
            calls = [("npu_grouped_matmul_swiglu_quant_v2", args, {"quant_dtype": held["quant_dtype"]}, held["y"])]
        else:
            around = compiled if mode == "graph" else lambda function: function
            with vendor_judge.recorded(torch_npu, mindspeed.ops.weight_quant_gmm, around=around) as calls:
                held = execute(text, f"block_{mode}", tmp_path, monkeypatch)
    assert [name for name, *_ in calls if name != "npu_format_cast"], "the block called no operator"
    for name, args, kwargs, result in calls:
        vendor_judge.judge(name, args, kwargs, result)
    last = calls[-1][3]
    outputs = last if isinstance(last, tuple) else (last,)
    in_hand = [id(v) for value in held.values() for v in (value if isinstance(value, tuple) else (value,))]
    assert all(id(output) in in_hand for output in outputs), "what was judged is not what the block ended with"
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs >= 1 if mode == "graph" else graphs == 0
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("block", blocks())
def test_block_as_a_script(block, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(text_of(block), encoding="utf-8")
    came = subprocess.run([sys.executable, "-m", "qgmm.compat.npu", str(script)], capture_output=True, text=True,
                          cwd=tmp_path, timeout=300)
    assert came.returncode == 0, came.stderr
