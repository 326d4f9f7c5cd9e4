# SPDX-License-Identifier: Apache-2.0
"""./run itself: sentences, stamps, interruption, and which torch and compiler it takes."""
import os
import signal
import subprocess
import sys

import build
import checkout
import debian
import environment
import pytest
import steps
import suites
import toolchain

from conftest import ROOT


def run(*words, **more):
    return subprocess.run([ROOT / "run", *words], capture_output=True, text=True, check=False,
                          env={**os.environ, **more})


@pytest.fixture
def state(tmp_path, monkeypatch):
    for module in (checkout, steps, environment):
        monkeypatch.setattr(module, "STATE", tmp_path / ".qgmm", raising=False)
    for module in (checkout, steps, build):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(steps, "LOGS", tmp_path / ".qgmm" / "logs")
    return tmp_path


def test_alone_it_lists_the_commands():
    result = run()
    assert result.returncode == 0
    for command in ("demo", "test", "bench", "lint", "python", "clean"):
        assert f"\n  {command} " in result.stdout


def test_an_unknown_command_is_refused():
    result = run("dmeo")
    assert result.returncode == 2
    assert "there is no command 'dmeo'" in result.stderr


def test_works_from_another_folder_and_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to(ROOT / "run")
    assert subprocess.run([tmp_path / "link"], cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_a_python_that_is_not_there_is_a_sentence():
    result = run(QGMM_PYTHON="python-of-nobody")
    assert result.returncode == 1
    assert "there is no python-of-nobody" in result.stderr


def test_an_old_python_is_a_sentence(tmp_path):
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\n[ \"$1\" = -V ] && echo Python 3.8.10 && exit 0\nexit 1\n")
    old.chmod(0o755)
    assert "Python 3.8.10; it must be 3.10 or newer" in run(QGMM_PYTHON=str(old)).stderr


def fake_compiler(folder, name, macros):
    path = folder / name
    path.write_text("#!/bin/sh\n" + "".join(f"echo '#define {k} {v}'\n" for k, v in macros.items()))
    path.chmod(0o755)
    return str(path)


GCC = {"__GNUC__": 11, "__GNUC_MINOR__": 4}
CLANG = {"__GNUC__": 4, "__GNUC_MINOR__": 2, "__clang__": 1, "__clang_major__": 13, "__clang_minor__": 0}


@pytest.mark.parametrize(("macros", "words"), [(GCC, "is g++ 11.4; "), (CLANG, "is clang 13.0; "), ({}, "does not run as")])
def test_a_compiler_that_will_not_do_is_a_sentence(tmp_path, monkeypatch, macros, words):
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "cxx", macros))
    with pytest.raises(checkout.Failure, match="g\\+\\+ >= 12 or clang >= 14") as failure:
        toolchain.find_compiler()
    assert words in str(failure.value)


def test_cxx_is_honoured_and_a_newer_gcc_is_found(tmp_path, monkeypatch):
    fake_compiler(tmp_path, "g++", GCC)
    newer = fake_compiler(tmp_path, "g++-14", {"__GNUC__": 14, "__GNUC_MINOR__": 2})
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.delenv("CXX", raising=False)
    assert toolchain.find_compiler() == toolchain.Compiler("g++-14", "g++", "14.2")
    monkeypatch.setenv("CXX", newer)
    assert toolchain.find_compiler().command == newer


def test_packages_that_may_not_be_installed_are_one_line_to_type(monkeypatch):
    monkeypatch.setenv("QGMM_NO_SYSTEM_PACKAGES", "1")
    monkeypatch.setattr(debian, "present", lambda: True)
    monkeypatch.setattr(toolchain, "find_compiler", lambda: None)
    monkeypatch.setattr(toolchain, "gtest_found", lambda: False)
    with pytest.raises(checkout.Failure) as failure:
        toolchain.install_missing(sys.executable, tests=False)
    assert str(failure.value).splitlines()[-1].endswith("apt-get install -y g++")  # the demo needs no GoogleTest


def test_stamps_forget_what_was_begun_again(state):
    assert steps.made_from("torch") is None
    steps.finish("torch", {"version": 1})
    assert steps.made_from("torch") == {"version": 1}
    steps.begin("torch")
    assert steps.made_from("torch") is None


def test_digest_sees_contents_and_names(state):
    (state / "a").mkdir()
    (state / "a/one").write_text("1")
    before = steps.digest([state / "a"])
    assert steps.digest([state / "a"]) == before
    (state / "a/one").write_text("2")
    changed = steps.digest([state / "a"])
    (state / "a/one").rename(state / "a/two")
    assert len({before, changed, steps.digest([state / "a"])}) == 3


def test_a_failing_step_shows_the_end_of_its_log(state):
    with pytest.raises(checkout.Failure, match=r"failed \(3\); the end of .qgmm/logs/sad.log:\n(.|\n)*the reason"):
        steps.run(["sh", "-c", "echo the reason; exit 3"], "sad")


def test_an_interrupted_step_takes_its_child_along():
    """SIGTERM to the parent: the child is gone, and no success is reported. Events, not times: the parent says when it
    waits, and the end of the pipe that parent and child share says that both have ended."""
    script = ("import signal, subprocess, sys\nsys.path.insert(0, sys.argv[1])\nimport steps\n"
              "def stop(*_): raise KeyboardInterrupt\n"
              "signal.signal(signal.SIGTERM, stop)\n"
              "class Child(subprocess.Popen):\n"
              "  def wait(self, timeout=None):\n"
              "    if timeout is None and 'told' not in vars(self):\n"
              "      self.told = print(self.pid, flush=True)\n"
              "    return super().wait(timeout)\n"
              "subprocess.Popen = Child\n"
              "steps.show(['sleep', '3600'])\nprint('finished')\n")
    process = subprocess.Popen([sys.executable, "-c", script, str(ROOT / "tools/run")], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait() != 0
    assert "finished" not in rest
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def fake_torch(folder, version):
    package = folder / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    info = folder / f"torch-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return str(folder)


@pytest.mark.parametrize(("version", "good"), [("2.10.0", True), ("2.13.0+cpu", True), ("3.0.1", True), ("2.9.1", False)])
def test_which_torch_of_the_caller_will_do(tmp_path, monkeypatch, version, good):
    monkeypatch.setenv("PYTHONPATH", fake_torch(tmp_path / "site-packages", version))
    found = environment._torch_of(sys.executable)
    assert (found is not None and found["version"] == version) == good


def test_a_folder_named_torch_is_no_torch(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = environment._torch_of(sys.executable)
    assert found is None or not found["folders"][0].startswith(str(tmp_path))


def test_a_moved_checkout_builds_anew(state):
    compiler = toolchain.Compiler("/bin/sh", "g++", "12.2")
    folder = state / "build"
    for home, kept in ((state, True), ("/elsewhere", False)):
        folder.mkdir(exist_ok=True)
        (folder / "CMakeCache.txt").write_text(f"CMAKE_CXX_COMPILER:FILEPATH=/bin/sh\nCMAKE_HOME_DIRECTORY:INTERNAL={home}\n")
        build.drop_stale(folder, compiler)
        assert folder.exists() == kept


def test_a_test_binary_that_dies_is_a_failure(state, monkeypatch, capsys):
    session = suites.Session()
    suite = suites.Suite("C++ tests", passed=3)
    session.suites.append(suite)
    assert session.close() == 0
    suite.failed = 1
    suite.not_run["no Python.h"] = 2
    assert session.close() == 1
    out = capsys.readouterr().out
    assert "not run: C++ tests: no Python.h (2 tests)" in out
    assert out.rstrip().endswith("3 passed, 1 failed, 2 skipped")


def test_rows_of_other_instruction_sets_are_one_line(state, capsys):
    session = suites.Session()
    suite = suites.Suite("C++ tests", passed=1)
    session.suites.append(suite)
    suite.not_run.update({"amx_int8 needs amx, this run has avx2": 9, "amx_int4 needs amx": 2,
                          "avx2 stages, this run has scalar": 1, "slices need more memory": 4})
    assert session.close() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not run")]
    assert lines == ["not run: C++ tests: rows and stages of other instruction sets (12 tests)",
                     "not run: C++ tests: slices need more memory (4 tests)"]


def test_nothing_run_is_no_success(capsys):
    assert suites.Session().close() == 1
