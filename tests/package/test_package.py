# SPDX-License-Identifier: Apache-2.0
"""What a C++ user gets: find_package and pkg-config, static and shared; and every example of the documents compiles."""
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT, run

HERE = Path(__file__).resolve().parent
CONSUMER = HERE / "consumer.cc"
COMPILER = shlex.split(os.environ.get("CXX") or "g++")


def blocks(path):
    """C++ programs shown in a page (fenced, with an #include) or in the comments of a header (fenced behind ///)."""
    text = path.read_text()
    if path.suffix == ".h":
        text = "\n".join(re.sub(r"^\s*///? ?", "", line) for line in text.splitlines() if line.lstrip().startswith("//"))
    return [block for block in re.findall(r"^```cpp\n(.*?)^```", text, re.S | re.M) if "#include" in block]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "include/qgmm/ops.h"]
EXAMPLES = [pytest.param(block, id=f"{page.name}-{i}") for page in PAGES if page.exists()
            for i, block in enumerate(blocks(page))]


def compile_with_pkg_config(source, binary, environment, *options):
    flags = run("pkg-config", *options, "--cflags", "--libs", "qgmm", env=environment)
    run(*COMPILER, "-std=c++20", "-Wall", "-Wextra", "-Werror", source, "-o", binary, *shlex.split(flags), env=environment)


@pytest.mark.parametrize("options", [[], ["--static"]], ids=["libs", "static_libs"])
def test_pkg_config(installed, environment, tmp_path, options):
    compile_with_pkg_config(CONSUMER, tmp_path / "consumer", environment, *options)
    run(tmp_path / "consumer", env=environment)


def test_find_package(installed, environment, tmp_path):
    run("cmake", "-S", HERE, "-B", tmp_path, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={installed}",
        f"-DCONSUMER_SOURCE={CONSUMER}")
    run("cmake", "--build", tmp_path)
    run(tmp_path / "consumer", env=environment)


def test_another_minor_version_is_not_accepted(installed, tmp_path):
    script = tmp_path / "CMakeLists.txt"
    script.write_text("cmake_minimum_required(VERSION 3.25)\nproject(p LANGUAGES NONE)\n"
                      "find_package(qgmm 0.2 CONFIG QUIET)\nif(qgmm_FOUND)\n  message(FATAL_ERROR accepted)\nendif()\n")
    run("cmake", "-S", tmp_path, "-B", tmp_path / "b", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={installed}")


def test_only_what_is_declared_is_exported(installed):
    library = installed / "lib" / "libqgmm.so"
    if not library.exists():
        symbols = run("nm", "--demangle", "--defined-only", "--extern-only", installed / "lib" / "libqgmm.a")
        assert "qgmm::GroupedMatmulSwigluQuant(" in symbols
        return
    symbols = [line.split(" ", 2)[2] for line in
               run("nm", "--demangle", "--dynamic", "--defined-only", library).splitlines()]
    ours = [name for name in symbols if name.startswith("qgmm::")]
    assert any(name.startswith("qgmm::GroupedMatmulSwigluQuant(") for name in ours)
    inner = [name for name in ours if re.match(r"qgmm::(cpu|reference|cuda)::|qgmm::Checked\(", name)]
    assert not inner, inner
    needed = run("readelf", "--dynamic", library)
    assert "[libqgmm.so.0.1]" in needed


def test_headers_compile_alone(installed, tmp_path):
    headers = sorted((installed / "include" / "qgmm").glob("*.h"))
    assert len(headers) >= 5
    for header in headers:
        source = tmp_path / f"{header.stem}.cc"
        source.write_text(f"#include <qgmm/{header.name}>\n#include <qgmm/{header.name}>\n")
        run(*COMPILER, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{installed / 'include'}", source)


def test_there_are_examples():
    names = {example.id for example in EXAMPLES}
    assert any(name.startswith("README.md") for name in names), "README.md shows no C++ program"
    assert any(name.startswith("ops.h") for name in names), "ops.h shows no C++ program"


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(installed, environment, tmp_path, example):
    """Compiled without a warning; run where it has a main."""
    source = tmp_path / "example.cc"
    source.write_text(example)
    if not re.search(r"\bint main\(", example):
        run(*COMPILER, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-c", source, "-o", tmp_path / "example.o",
            f"-I{installed / 'include'}")
        return
    compile_with_pkg_config(source, tmp_path / "example", environment)
    result = subprocess.run([tmp_path / "example"], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
