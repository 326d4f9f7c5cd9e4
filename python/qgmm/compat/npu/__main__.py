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
    """The part of a traceback that begins in the script; None where no frame of it is one of the script's."""
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    return trace


def hide_frames_above(script):
    """Tracebacks begin where those of `python script.py` do; a script that does not compile has none, as there."""
    show = sys.excepthook

    def excepthook(kind, error, trace):
        error = error.with_traceback(cut_above(script, trace))  # what is printed is what the error itself holds
        show(kind, error, error.__traceback__)

    sys.excepthook = excepthook


def become(script, arguments):
    """Gives the script what it would see of itself: `__main__`, `sys.argv`, `sys.path[0]`. Returns its module."""
    main = types.ModuleType("__main__")
    main.__file__ = os.path.join(os.getcwd(), script)
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", main.__file__)
    main.__builtins__ = builtins
    if hasattr(sys.modules["__main__"], "__cached__"):  # Python is about to drop it
        main.__cached__ = None
    sys.modules["__main__"] = main
    sys.argv[:] = [script, *arguments]
    if not getattr(sys.flags, "safe_path", False):  # with -P or -I there is no entry for the script, and none for us
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    return main


def run(script, arguments):
    """Runs the script; what it raises, SystemExit included, passes."""
    try:
        with open(script, "rb") as file:
            source = file.read()
    except OSError as error:
        print(f"qgmm.compat.npu: can't open file {script!r}: [Errno {error.errno}] {error.strerror}", file=sys.stderr)
        sys.exit(2)
    main = become(script, arguments)
    try:
        install()
    except RuntimeError as error:
        sys.exit(str(error))
    hide_frames_above(main.__file__)
    exec(compile(source, main.__file__, "exec", dont_inherit=True), vars(main))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    run(sys.argv[1], sys.argv[2:])
