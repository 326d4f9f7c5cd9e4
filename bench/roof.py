# SPDX-License-Identifier: Apache-2.0
"""Measures the machine's own roofs through roof.cc, which is compiled here once per process tree."""
import ctypes
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

LIBRARY = "QGMM_BENCH_ROOF"  # environment: path of the compiled library, handed to the worker processes
STREAMS = (1, 2, 4)


def build():
    """Compiles roof.cc, unless a parent process has; returns a folder to delete, or None."""
    if os.environ.get(LIBRARY):
        return None
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if not compiler:
        sys.exit("ops_bench: no C++ compiler for the roofs (roof.cc); name one in CXX")
    folder = tempfile.mkdtemp(prefix="qgmm_roof_")
    library = os.path.join(folder, "roof.so")
    source = pathlib.Path(__file__).with_name("roof.cc")
    flags = ["-std=c++20", "-O3", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler, *flags, str(source), "-o", library], check=True)
    os.environ[LIBRARY] = library
    return folder


# The loop of roof.cc that bounds a kernel, by the first of these words in its name: table of kernels, src/cpu/kernels.inc.
# avxvnniint8 has vpdpbusd's: vpdpbssd takes as long, and not every assembler knows it.
INSTRUCTIONS = (("amx_fixed", "tdpbusd twice"), ("amx", "tdpbusd"),
                ("avx512vnni_float", "vfmadd512"), ("avx512_float", "vfmadd512"), ("float", "vfmadd"),
                ("avx512vnni_fixed", "vpdpwssd512"), ("avx512_fixed", "vpmaddwd512"),
                ("avx512vnni", "vpdpbusd512"), ("avxvnni_fixed", "vpmaddwd"), ("avxvnni", "vpdpbusd256"),
                ("avx512_quads", "quads512"), ("avx512_pairs", "pairs512"), ("avx512_int4", "vpmaddubsw512"),
                ("avx512", "vpmaddwd512"), ("quads", "quads"), ("pairs", "pairs"), ("int4", "vpmaddubsw"),
                ("avx2", "vpmaddwd"))


def instruction(kernels):
    """The multiply loop that bounds the fastest of the kernels that ran; "" where none is known."""
    return next((kind for word, kind in INSTRUCTIONS if word in kernels), "")


class Roof:
    """read() and copy() in GB/s, multiply(kind) in GMAC/s, 5 to 20 ms each, clear(bytes) in seconds, cores(); all threads."""

    def __init__(self, threads, last_level_cache):
        self.library = ctypes.CDLL(os.environ[LIBRARY])
        self.library.qgmm_roof_read.restype = ctypes.c_double
        self.library.qgmm_roof_multiply.restype = ctypes.c_double
        self.library.qgmm_roof_copy.restype = ctypes.c_double
        self.library.qgmm_roof_clear.restype = ctypes.c_double
        self.library.qgmm_roof_clock.restype = ctypes.c_double
        self.library.qgmm_roof_issue.restype = ctypes.c_double
        self.threads = threads
        self.bytes = max(256 << 20, 5 * last_level_cache // 4)
        trials = {streams: max(self._read(streams, 0.05) for _ in range(3)) for streams in STREAMS}
        self.streams = max(trials, key=trials.get)
        self.trials = trials

    def _read(self, streams, seconds):
        return self.library.qgmm_roof_read(
            ctypes.c_int(streams), ctypes.c_int(self.threads), ctypes.c_double(seconds), ctypes.c_int64(self.bytes))

    def read(self, seconds=0.02):
        return self._read(self.streams, seconds)

    def multiply(self, kind, seconds=0.01):
        return self.library.qgmm_roof_multiply(kind.encode(), ctypes.c_int(self.threads), ctypes.c_double(seconds))

    def copy(self, seconds=0.005):
        """GB/s, read plus written."""
        return self.library.qgmm_roof_copy(
            ctypes.c_int(self.threads), ctypes.c_double(seconds), ctypes.c_int64(self.bytes))

    def clear(self, count):
        """Seconds in which the system clears so many bytes of new memory, on all threads."""
        return self.library.qgmm_roof_clear(ctypes.c_int(self.threads), ctypes.c_int64(count))

    def cores(self, seconds=0.005):
        """GHz of one core, and instructions that each of the threads' cores takes in per cycle."""
        # the best of three: an interruption makes a clock too slow, and what is divided by it too great
        clock = max(self.library.qgmm_roof_clock(ctypes.c_double(seconds)) for _ in range(3))
        return clock, self.library.qgmm_roof_issue(ctypes.c_int(self.threads), ctypes.c_double(seconds)) / self.threads / clock
