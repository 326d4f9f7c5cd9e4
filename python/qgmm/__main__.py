# SPDX-License-Identifier: Apache-2.0
"""python -m qgmm: commands for people."""

import sys

_COMMANDS = """\
usage: python -m qgmm COMMAND

  doctor    what this machine has, what qgmm chose and why, and a self-test of every operator

python -m qgmm.compat.npu SCRIPT ARGS    runs a script written for the NPU, unedited"""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where a self-test failed, 2 for an unknown command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_COMMANDS)
        return 0
    if arguments == ["doctor"]:
        from .doctor import main as doctor

        return doctor()
    print(f"python -m qgmm: no command {' '.join(arguments)}\n\n{_COMMANDS}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
