# SPDX-License-Identifier: Apache-2.0
"""Every Python block of README.md and docs/*.md runs as it stands, the blocks of a page one after another.

docs/porting.md is judged by the tests of the compatibility layer, which have the modules its blocks import.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    p for p in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if p.exists() and p.name != "porting.md"
]
BLOCK = re.compile(r"^```(?:python|py)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page):
    return BLOCK.findall(page.read_text())


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for index, block in enumerate(blocks(page)):
        exec(compile(block, f"{page.name} block {index + 1}", "exec"), names)


def test_docstrings():
    import doctest

    import qgmm

    checked = 0
    for name in qgmm.__all__:
        thing = getattr(qgmm, name)
        if not getattr(thing, "__doc__", None):
            continue
        for test in doctest.DocTestFinder(recurse=False).find(thing, name, globs={"qgmm": qgmm}):
            if test.examples:
                runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
                assert runner.run(test).failed == 0, name
                checked += 1
    assert checked >= 4
