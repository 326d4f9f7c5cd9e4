# SPDX-License-Identifier: Apache-2.0
"""`python -m qgmm.compat.npu script.py args`: runs a script as `python script.py args` would, on the stand-ins."""
import builtins
import importlib.machinery
import os
import sys
import types

from . import install

USAGE = "usage: python -m qgmm.compat.npu script.py [arguments of the script]"


def cut_above(script, trace):
    """The part of a traceback that begins in the script, without the frames that brought it there."""
    step = trace
    while step is not None and step.tb_frame.f_code.co_filename != script:
        step = step.tb_next
    return step or trace


def hide_frames_above(script):
    show = sys.excepthook

    def excepthook(kind, error, trace):
        error = error.with_traceback(cut_above(script, trace))  # what is printed is what the error itself holds
        show(kind, error, error.__traceback__)

    sys.excepthook = excepthook


def run(script, arguments):
    """Becomes the script: its `__main__`, `sys.argv`, `sys.path[0]`; what it raises, SystemExit included, passes."""
    try:
        with open(script, "rb") as file:
            source = file.read()
    except OSError as error:
        print(f"qgmm.compat.npu: can't open file {script!r}: [Errno {error.errno}] {error.strerror}", file=sys.stderr)
        return 2
    main = types.ModuleType("__main__")
    main.__file__ = script
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", script)
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    sys.argv[:] = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.realpath(script))
    hide_frames_above(script)
    install()
    exec(compile(source, script, "exec"), vars(main))
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    sys.exit(run(sys.argv[1], sys.argv[2:]))
