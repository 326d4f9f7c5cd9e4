# SPDX-License-Identifier: Apache-2.0
"""The commands of ./run; each sets up what it needs first."""
import os
import signal
import sys

import commands
from checkout import Failure

USAGE = """usage: ./run COMMAND

  demo          set everything up and run the main job: both operators on real shapes, judged by the reference
  test          set everything up and run all tests, C++ and Python; what did not run is listed with its reason
  bench [ARGS]  time the operations and the peers found on this machine (./run bench --help);
                ./run bench --quick: six minutes; ./run bench gemm: every row of the kernel table alone;
                ./run bench table FILE, plot FILE FOLDER: tables and drawings of what --json FILE wrote
  lint          sizes, include rules, ISA objects, the list of situations, Python style
  sanitize      the tests under the address, undefined behaviour and thread sanitizers (needs clang)
  python ARGS   run Python in the environment that was set up: ./run python script.py
  clean         remove everything that was set up or built

Everything is kept inside this folder, in .qgmm/ and build/. Settings: CXX (compiler), QGMM_PYTHON (interpreter),
QGMM_NO_SYSTEM_PACKAGES=1 (never call apt-get), QGMM_VENDOR_DOCS (folder of the vendor's documents, for ./run test)."""


def main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    command = commands.TABLE.get(words[0])
    if command is None:
        print(f"qgmm: there is no command {words[0]!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    return command(words[1:])


def _interrupt(number, frame):
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        status = main(sys.argv[1:])
    except Failure as failure:
        print(f"qgmm: {failure}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("\nqgmm: interrupted; the same command goes on from here", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)
