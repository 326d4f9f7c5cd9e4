# SPDX-License-Identifier: Apache-2.0
"""docs/porting.md: its code runs, and its table of what is covered is what the stand-ins have."""
import pathlib
import re

import pytest

from qgmm.compat.npu import library, modules

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "porting.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"block{BLOCKS.index(block)}")
def test_block(block):
    assert "assert " in block, "a block that claims nothing cannot fail"
    exec(compile(block, "docs/porting.md", "exec"), {"__name__": "porting"})


def test_there_are_blocks():
    assert len(BLOCKS) == PAGE.count("```python") >= 5


def covered():
    """Rows of the section "What is covered": the first column's name, and the names in the second."""
    section = PAGE.partition("## What is covered\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \| (.*) \|$", section, re.MULTILINE)
    return {where.strip("`"): set(re.findall(r"`(\w+)`", names)) for where, names in rows}


def test_what_is_covered_is_what_is_there():
    contents = {name: {n for n in attributes if not n.startswith("__")} for name, attributes in
                modules.contents().items()}
    rows = covered()
    for name in ("torch_npu", "torch.npu", modules.WEIGHT_QUANT):
        assert rows[name] == contents[name], name
    assert contents["torchair"] <= rows["torchair"]
    for namespace, schemas in library.SCHEMAS.items():
        names = {schema.partition("(")[0] for schema in schemas}
        assert rows[f"torch.ops.{namespace}"] - {"qgmm", "group_list_type"} == names
