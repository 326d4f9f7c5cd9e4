# SPDX-License-Identifier: Apache-2.0
"""What each command does, as a list of steps."""
import os
import time

import arm
import checkout
import emulation
import environment
import lint
import sanitizers
import toolchain
from build import build, jobs
from checkout import ROOT, VENV_PYTHON, Failure, child_environment, set_up_lock
from steps import output_of, show
from suites import Session

ISA_PYTHON = ("test_operator_a.py", "test_operator_b.py", "test_grouped_matmul.py", "test_dynamic_quant.py")


def _set_up(*, tests: bool = False, bench: bool = False, presets: tuple[tuple[str, tuple[str, ...]], ...] = ()):
    """Packages, environment, Python package, C++ builds; quick when all of it is there."""
    start = time.monotonic()
    print("set-up", flush=True)
    with set_up_lock():
        toolchain.install_missing(environment.base_python(), tests=tests, bench=bench)
        compiler = toolchain.compiler()
        environment.ensure()
        environment.ensure_package(compiler, jobs())
        for preset, targets in presets:
            build(preset, compiler, targets=targets)
    print(f"set-up done in {time.monotonic() - start:.1f} s\n", flush=True)
    return compiler


def _isas() -> list[str]:
    """The machine's, weakest first."""
    isas = output_of([VENV_PYTHON, "-c", "import qgmm; print(*qgmm.machine()['isas'])"])
    if isas is None:
        raise Failure("the qgmm of .qgmm/venv does not import; ./run python -c 'import qgmm' says why")
    return isas.split()


def _no_arguments(name: str, words: list[str]) -> None:
    if words:
        raise Failure(f"./run {name} takes no arguments; got {' '.join(words)}")


def demo(words: list[str]) -> int:
    _no_arguments("demo", words)
    preset = "release" if toolchain.gtest_found() else "demo"  # after ./run test nothing is built twice
    _set_up(presets=((preset, ("qgmm_demo",)),))
    status = show([checkout.BUILD / preset / "examples" / "qgmm_demo"])
    print(flush=True)
    status = show([VENV_PYTHON, ROOT / "examples" / "demo.py"]) or status
    if status == 0:
        print("\nAll answers are right. Next: ./run python -m qgmm doctor, ./run bench, or README.md for your own code.",
              flush=True)
    else:
        print("\nqgmm: a demo failed or an answer is wrong (above). Next: ./run test shows which part.", flush=True)
    return 1 if status else 0


def test(words: list[str]) -> int:
    """./run test, or ./run test PYTEST-ARGUMENTS for those Python tests alone."""
    _set_up(tests=True, presets=(("release", ()),))
    session = Session()
    if words:
        session.pytest("Python tests", words)
        return session.close()
    other_machine = arm.Arm()
    session.show_rows = True
    session.ctest("C++ tests", "release", without=emulation.LABEL)
    lesser = _isas()[:-1]  # every test runs with the best, the operators' own with these too
    for isa in lesser:
        session.ctest(f"C++ tests, QGMM_MAX_ISA={isa}", "release", label="isa", QGMM_MAX_ISA=isa, QGMM_TEST_SMALL="1")
    session.pytest("Python tests", [ROOT / "tests" / "python"])
    for isa in lesser:
        session.pytest(f"Python tests, QGMM_MAX_ISA={isa}", [ROOT / "tests" / "python" / name for name in ISA_PYTHON],
                       QGMM_MAX_ISA=isa, QGMM_TEST_SMALL="1")
    emulation.run(session, _isas())
    other_machine.run(session)
    session.pytest("installed package", [ROOT / "tests" / "package"])
    session.pytest("./run and its checks", [ROOT / "tests" / "tools"])
    if not os.environ.get("QGMM_VENDOR_DOCS"):
        session.notes.append("the vendor documents' own code blocks: QGMM_VENDOR_DOCS is not set")
    return session.close()


def bench(words: list[str]) -> int:
    """./run bench: operations and peers from Python; gemm: the rows of the kernel table alone; plot: drawings of a --json
    file; table: Markdown of one."""
    folder = ROOT / "bench"
    if words[:1] == ["gemm"]:
        _set_up(bench=True, presets=(("bench", ("gemm_bench",)),))
        return show([checkout.BUILD / "bench" / "bench" / "gemm_bench", *words[1:]])
    compiler = _set_up()
    if words[:1] == ["plot"] or any(word.startswith("--plot") for word in words):
        environment.ensure_optional("plots", folder / "plot_requirements.txt")
    if words[:1] in (["plot"], ["table"]):
        script = {"plot": "plot.py", "table": "markdown.py"}[words[0]]
        return show([VENV_PYTHON, folder / script, *words[1:]])
    environment.ensure_optional("rivals", folder / "requirements.txt")
    environment.ensure_optional("rivals apart", folder / "kt_requirements.txt", apart=checkout.STATE / "kt_kernel")
    return show([VENV_PYTHON, folder / "ops_bench.py", *words], env=child_environment(CXX=compiler.command))


def run_lint(words: list[str]) -> int:
    _no_arguments("lint", words)
    _set_up(tests=True, presets=(("release", ()),))
    environment.ensure_ruff()
    return lint.run_all()


def sanitize(words: list[str]) -> int:
    _no_arguments("sanitize", words)
    _set_up(tests=True)
    return sanitizers.run_all()


def python(words: list[str]) -> int:
    with set_up_lock():
        toolchain.install_missing(environment.base_python(), tests=False)
        environment.ensure()
        environment.ensure_package(toolchain.compiler(), jobs())
    os.execve(VENV_PYTHON, [str(VENV_PYTHON), *words], child_environment())


def clean(words: list[str]) -> int:
    _no_arguments("clean", words)
    checkout.clean()
    return 0


TABLE = {"demo": demo, "test": test, "bench": bench, "lint": run_lint, "sanitize": sanitize, "python": python,
         "clean": clean}
