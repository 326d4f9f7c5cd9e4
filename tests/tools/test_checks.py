# SPDX-License-Identifier: Apache-2.0
"""Each check of ./run lint finds what it is there to find, and passes what is right."""
import shutil
import subprocess

import check_includes
import check_isa_objects
import check_rules
import check_situations
import check_sizes
import pytest
import tree


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty tree that the checks take for ours; returns a function that puts a file into it."""
    monkeypatch.setattr(tree, "ROOT", tmp_path)

    def put(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return put


def includes(name):
    return check_includes.complaints_of(name, {name: []})


@pytest.mark.parametrize(("name", "include", "right"), [
    ("src/check.cc", '"problem.h"', True),
    ("src/check.cc", "<vector>", True),
    ("src/check.cc", '"cpu/kernel.h"', False),
    ("src/check.cc", "<immintrin.h>", False),
    ("src/reference.cc", '"cpu/kernel.h"', False),
    ("src/cpu/run.cc", '"reference.h"', False),
    ("src/cpu/run.cc", "<omp.h>", False),
    ("src/cpu/team_openmp.cc", "<omp.h>", True),
    ("src/cpu/isa/avx2.cc", "<immintrin.h>", True),
    ("src/cpu/isa/avx2.cc", '"problem.h"', True),
    ("src/cpu/isa/avx2.cc", '"reference.h"', False),
    ("src/ops.cc", '"cpu/backend.h"', True),
    ("src/ops.cc", '"cpu/kernel.h"', False),
    ("include/qgmm/ops.h", '"problem.h"', False),
    ("torch/ops.cpp", "<torch/csrc/stable/library.h>", True),
    ("torch/ops.cpp", '"problem.h"', False),
    ("torch/ops.cpp", "<Python.h>", False),
    ("torch/ops.cpp", "<ATen/ATen.h>", False),
    ("examples/demo.cc", '"problem.h"', False),
    ("elsewhere/file.cc", "<vector>", False),
])
def test_includes(checkout, name, include, right):
    for header in ("problem.h", "reference.h", "cpu/kernel.h", "cpu/backend.h"):
        checkout(f"src/{header}", "")
    checkout(name, f"#include {include}\n")
    assert (includes(name) == []) == right


def test_circles():
    graph = {"a.h": ["b.h"], "b.h": ["c.h"], "c.h": ["a.h"], "d.h": ["a.h"]}
    assert check_includes.circles(graph) == ["circle: a.h -> b.h -> c.h -> a.h"]
    assert check_includes.circles({"a.h": ["b.h"], "b.h": [""]}) == []


def test_cpp_functions():
    text = """
namespace qgmm {
// } not code {
struct S {
  int Get() const { return "}"[0]; }
  const char* text = "{";
};
#define BODY(x) { x
template <class T>
void Long(T a,
          int b) {
  if (a) {
    b = '{';
  }
}
int table[] = {1, 2};
TEST(Groups, EmptyFirst) {
}
}  // namespace qgmm
"""
    assert list(check_sizes.cpp_functions(text)) == [(5, "Get", 1), (9, "Long", 7), (17, "TEST", 2)]


def test_python_functions_do_not_count_their_documentation():
    text = 'def f():\n    """One.\n\n    Two.\n    """\n    return 1\n'
    assert list(check_sizes.python_functions(text)) == [(1, "f", 2)]


@pytest.mark.parametrize(("name", "line"), [
    ("src/groups.cc", "  throw InvalidArgument(text);"),
    ("CMakeLists.txt", "set(FLAGS -O3 -f" + "fast-math)"),
    ("src/run.cc", "// TO" + "DO later"),
    ("src/run.cc", "  std::cout << 1;"),
    ("src/run.cc", "  abort();"),
    ("docs/design.md", "see /wo" + "rk/here"),
    ("src/run.cc", "\tint x;"),
    ("src/run.cc", "int x; "),
    ("src/run.cc", "x" * 140),
])
def test_rules(checkout, name, line):
    checkout(name, f"// SPDX-License-Identifier: Apache-2.0\n{line}\n")
    assert len(check_rules.complaints_of(name)) == 1


def test_rules_pass_what_is_right(checkout):
    checkout("src/check_x.cc", "// SPDX-License-Identifier: Apache-2.0\nthrow InvalidArgument(text);\n")
    assert check_rules.complaints_of("src/check_x.cc") == []


def test_rules_want_a_licence_line(checkout):
    checkout("src/check.cc", "int x;\n")
    assert len(check_rules.complaints_of("src/check.cc")) == 1


def test_an_isa_that_the_compiler_lacks_is_left_out_and_no_other(tmp_path):
    assert not tree.left_out(tmp_path, "avxvnniint8")
    (tmp_path / "CMakeCache.txt").write_text("QGMM_AVXVNNIINT8:INTERNAL=1\n")
    assert not tree.left_out(tmp_path, "avxvnniint8")
    (tmp_path / "CMakeCache.txt").write_text("QGMM_AVXVNNIINT8:INTERNAL=\n")
    assert tree.left_out(tmp_path, "avxvnniint8")
    assert not tree.left_out(tmp_path, "avxvnni")


def test_objects_that_were_not_built_are_a_complaint_unless_they_cannot_be(tmp_path, capsys):
    source = "src/cpu/isa/avxvnniint8.cc"
    assert check_isa_objects.complaints_of(source, tmp_path) == [f"{source}: not built in {tmp_path}"]
    (tmp_path / "CMakeCache.txt").write_text("QGMM_AVXVNNIINT8:INTERNAL=\n")
    assert check_isa_objects.complaints_of(source, tmp_path) == []
    assert "avxvnniint8: not checked: " in capsys.readouterr().out


PAGE = """# Situations
- not an entry
## Groups
In: groups_test test_groups
- `EmptyFirst`
- `Huge`: test_groups.py::test_bad[huge
- `Replay`: later, with another wing
"""


@pytest.mark.parametrize(("names", "count"), [
    (["groups_test:Groups.EmptyFirst", "test_groups.py::test_bad[huge-1]"], 0),
    (["test_groups.py::test_empty_first", "test_groups.py::test_bad[huge]"], 0),
    (["other_test:Groups.EmptyFirst", "test_groups.py::test_bad[huge]"], 1),
    (["groups_test:Groups.EmptyLast", "test_groups.py::test_bad[tiny]"], 2),
    ([], 2),
])
def test_situations(names, count):
    complaints, later = check_situations.missing(PAGE, names)
    assert len(complaints) == count
    assert later == 1


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
@pytest.mark.parametrize(("code", "complaints"), [
    ("extern const int kAvx2Wide; const int kAvx2Wide = 1;", 0),
    ("extern const int kAvx2Wide; const int kAvx2Wide = 1; int Leaks() { return 2; }", 1),
    ("inline int Inline() { return 2; } extern int (*const kAvx2Wide)(); int (*const kAvx2Wide)() = Inline;", 1),
    ("static int Hidden() { return 2; } extern int (*const kAvx2Wide)(); int (*const kAvx2Wide)() = Hidden;", 0),
    ("", 1),
])
def test_isa_objects(checkout, tmp_path, code, complaints):
    checkout("src/cpu/kernels.inc", "QGMM_KERNEL(kAvx2, kAvx2Wide)  // words\nQGMM_KERNEL(kScalar, kScalarInt8)\n")
    checkout("build/isa/avx2.cc", f"namespace qgmm::cpu {{ {code} }}\n")
    source = tmp_path / "build/isa/avx2.cc"
    subprocess.run(["g++", "-O0", "-c", source, "-o", f"{source}.o"], check=True)
    found = check_isa_objects.complaints_of("src/cpu/isa/avx2.cc", tmp_path / "build")
    assert len(found) == complaints, found
