# SPDX-License-Identifier: Apache-2.0
"""`python -m qgmm.compat.npu script.py`: a script behaves as under `python script.py`, with the stand-ins in reach."""
import runpy
import signal
import subprocess
import sys
import textwrap

import pytest

RUNNER = [sys.executable, "-m", "qgmm.compat.npu"]


def write(folder, text, name="script.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def start(command, cwd, **options):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, **options)


def assert_like_python(folder, text, *arguments, stdin=None):
    """Output, error output and exit status of both ways, from another folder; returns what came."""
    work = folder / "elsewhere"
    work.mkdir(exist_ok=True)
    write(folder, text)
    command = ["../script.py", *arguments]
    plain = start([sys.executable, *command], work, input=stdin)
    ours = start([*RUNNER, *command], work, input=stdin)
    assert (ours.stdout, ours.stderr, ours.returncode) == (plain.stdout, plain.stderr, plain.returncode)
    return ours


def test_a_script_sees_itself_as_main(tmp_path):
    write(tmp_path, "word = 'beside the script'\n", "sibling.py")
    came = assert_like_python(tmp_path, """
        import inspect, pickle, sys, warnings
        import sibling
        class Own:
            pass
        assert __name__ == "__main__" and sys.modules["__main__"].Own is Own and __spec__ is None
        print(sys.argv, __file__, sys.path[0], sibling.word, __package__, __doc__, __builtins__)
        print(type(pickle.loads(pickle.dumps(Own()))), inspect.getsource(Own), sys.stdin.read())
        warnings.warn("seen in __main__", DeprecationWarning)
        sys.exit(5)
        """, "one", "--two=2", "-h", stdin="from outside")
    assert came.returncode == 5 and "beside the script" in came.stdout and "'one', '--two=2', '-h'" in came.stdout


FAILING = """
def inner():
    return 1 / 0

try:
    inner()
except ZeroDivisionError as error:
    raise KeyError(1) from error
"""


@pytest.mark.parametrize(("text", "status"), [
    ("print('done')", 0),
    ("import sys; sys.exit('a last word')", 1),
    (FAILING, 1),
    ("x = (\n", 1),
    ("raise KeyboardInterrupt", -signal.SIGINT),
], ids=["end", "exit with words", "exception", "syntax", "interrupt"])
def test_exit_status_and_traceback(tmp_path, text, status):
    assert assert_like_python(tmp_path, text).returncode == status


def test_the_stand_ins_are_there(tmp_path):
    script = write(tmp_path, """
        import torch, torch_npu, torchair
        from mindspeed.ops import weight_quant_gmm
        torch.npu.set_device(0)
        x = torch.ones(2, 4, dtype=torch.float16).npu()
        weight = torch.full((1, 4, 3), 2, dtype=torch.int8).npu()
        scale = torch.full((1, 3), 0.5, dtype=torch.float16).npu()
        y = weight_quant_gmm.npu_weight_quant_gmm(x, weight, scale, group_list=torch.tensor([2]).npu())
        print(y.tolist(), hasattr(torch.ops.npu, "npu_grouped_matmul_swiglu_quant_v2"))
        """)
    came = start([*RUNNER, str(script)], tmp_path)
    assert (came.stdout, came.returncode) == ("[[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]] True\n", 0), came.stderr


@pytest.mark.parametrize(("arguments", "sentence"), [
    ([], "usage: python -m qgmm.compat.npu script.py [arguments of the script]\n"),
    (["--help"], "usage: python -m qgmm.compat.npu script.py [arguments of the script]\n"),
    (["absent.py"], "qgmm.compat.npu: can't open file 'absent.py': [Errno 2] No such file or directory\n"),
], ids=["nothing", "an option", "absent"])
def test_no_script_to_run(monkeypatch, capsys, arguments, sentence):
    """In this process: it ends before anything has been touched."""
    before = dict(sys.modules)
    monkeypatch.setattr(sys, "argv", ["qgmm.compat.npu", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("qgmm.compat.npu", run_name="__main__")
    assert end.value.code == 2 and capsys.readouterr().err == sentence
    assert sys.modules["__main__"] is before["__main__"] and "torch_npu" not in sys.modules


def test_a_real_torch_npu_beside_the_script(tmp_path):
    write(tmp_path, "", "torch_npu.py")
    script = write(tmp_path, "print('must not run')\n")
    came = start([*RUNNER, str(script)], tmp_path)
    assert came.returncode == 1 and came.stdout == ""
    assert came.stderr == ("[qgmm.compat.npu] torch_npu must not be importable unless force is True; got "
                           f"{tmp_path / 'torch_npu.py'}\n")
