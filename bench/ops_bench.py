# SPDX-License-Identifier: Apache-2.0
"""Times the operators beside their rivals, and says which answers are right.

    ./run bench [--quick | --smoke] [--only TEXT] [--operators A,B,down,quant] [--process best,avx2]
                [--minutes N] [--json FILE] [--plot FOLDER]

A process is named after the instructions that all libraries in it are capped at (ONEDNN_MAX_CPU_ISA,
ATEN_CPU_CAPABILITY, MKL_ENABLE_INSTRUCTIONS, QGMM_MAX_ISA); "best" caps nothing. Without --process: what QGMM_MAX_ISA
says, else best, and avx2 behind it in the full list. Inside a process qgmm, the rivals and the machine's own roofs take
turns; a figure is the median, with the best behind it. A rival whose answer differs (sampled rows, all columns) is
printed as wrong and no ratio is formed. "cold": one call reads more weights than 600 MB and than the last-level cache holds,
so they come from memory. Roof shares: of linear reads, or of register-only multiply-adds, whichever binds.
"""
import argparse
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import plot
import roof
from machine import cpu_name, has_flag

from cases import LISTS

QUICK_MINUTES = 5.4  # of the worker; compiling the roofs and starting up come on top
FULL_MINUTES = 36  # of all processes together


def caps(onednn, aten, mkl, qgmm):
    return {"ONEDNN_MAX_CPU_ISA": onednn, "DNNL_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten,
            "MKL_ENABLE_INSTRUCTIONS": mkl, "QGMM_MAX_ISA": qgmm}


CAPS = {"best": {}, "avx2": caps("AVX2", "avx2", "AVX2", "avx2"),
        "avxvnni": caps("AVX2_VNNI", "avx2", "AVX2", "avxvnni"),
        "avxvnniint8": caps("AVX2_VNNI_2", "avx2", "AVX2", "avxvnniint8"),
        "avx512": caps("AVX512_CORE", "avx512", "AVX512", "avx512"),
        "avx512vnni": caps("AVX512_CORE_VNNI", "avx512", "AVX512", "avx512vnni"),
        "amx": {"QGMM_MAX_ISA": "amx"}}
ROW = "  {:<34} {:<24} {:>8} {:>8} {:>7}  {:<13} {:>8}  {}"


def commit():
    """The checkout's commit, or "unknown"."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processes(asked, quick):
    """The caps to run, in order; those that would repeat another or cannot run are left out, with a word."""
    if asked:
        return asked.split(",")
    if os.environ.get("QGMM_MAX_ISA"):
        return [os.environ["QGMM_MAX_ISA"]]
    if quick or not has_flag("avx2"):
        return ["best"]
    if not (has_flag("avx512f") or has_flag("avx_vnni")):
        print("process best: left out, AVX2 is the best this machine has")
        return ["avx2"]
    return ["best", "avx2"]


class Printer:
    """Prints events of a worker as they come, and keeps the ratios."""

    def __init__(self, file):
        self.file, self.ratios, self.wrong, self.failed = file, {}, [], []
        self.ours = None
        self.started = time.perf_counter()

    def take(self, event):
        getattr(self, event.pop("event"))(event)

    def start(self, event):
        reads = ", ".join(f"{float(rate):.1f} ({n})" for n, rate in event["read"].items())
        print(f"qgmm {event['qgmm']} ({event['isa']}), torch {event['torch']} ({event['torch_isa']}), "
              f"{event['threads']} threads; linear reads in GB/s (streams): {reads}")
        print(ROW.format("implementation", "kernel or function", "GMAC/s", "best", "GB/s", "roof share", "qgmm is", "verdict"),
              flush=True)

    def prepare(self, event):
        print(f"-- {event['title']} ({event['model']}): preparing {event['experts']} experts of {event['shape']}", flush=True)

    def note(self, event):
        print(f"   {event['text']}", flush=True)

    def case(self, event):
        minutes, seconds = divmod(int(time.perf_counter() - self.started), 60)
        print(f"{minutes}:{seconds:02d} {event['text']}", flush=True)

    def measured(self, m):
        self.file.write(json.dumps(m) + "\n")
        self.file.flush()
        ours = m["implementation"].startswith("qgmm ")
        if ours:
            same = self.ours is not None and self.ours["case"] == m["case"]
            self.ours = min((self.ours, m), key=lambda one: one["seconds"] or 1e9) if same else m
        if m["exact"] is False:
            self.wrong.append(m)
        elif m["exact"] is not True and ours:
            self.failed.append(m)
        if m["operator"] == "call":  # its note has said everything
            return
        if not m["repeats"]:
            failure = m["exact"] if m["exact"].startswith("left out") else f"failed: {m['exact']}"
            print(ROW.format(m["implementation"], "", "-", "-", "-", "", "", failure), flush=True)
            return
        ratio = ""
        if not ours and m["exact"] is not False and self.ours["repeats"] and self.ours["exact"] is True:
            rate = "gmac_per_s" if m["gmac_per_s"] else "gbyte_per_s"
            value = self.ours[rate] / m[rate]
            self.ratios.setdefault((m["process"], m["implementation"]), []).append(value)
            ratio = f"{value:.2f} x"
        verdict = {True: "exact", False: "WRONG"}.get(m["exact"]) or m["exact"].split(":")[0]
        few = "" if m["repeats"] >= 5 else f", repeats: {m['repeats']}"
        words = f"{verdict}{few}"
        kernel = m["kernel"] + {"gemm": " (bare)", "gemm+weight scale": " (bare)"}.get(m["fused"], "")
        rates = [f"{m[name]:.1f}" if m[name] else "" for name in ("gmac_per_s", "best_gmac_per_s")]
        print(ROW.format(m["implementation"], kernel, *rates, f"{m['gbyte_per_s']:.1f}",
                         f"{m['roof_share']:.2f} {m['roof']}", ratio, words), flush=True)

    def summary(self):
        """Prints the ratios; returns the number of our own answers that were wrong or failed."""
        print("qgmm against rivals that were not wrong, by process (median, lowest, highest ratio):")
        for (process, name), values in sorted(self.ratios.items()):
            print(f"  {process:<5} {name:<31} {statistics.median(values):6.2f} {min(values):6.2f} {max(values):6.2f}"
                  f"   in {len(values)} cases")
        for m in self.wrong:
            print(f"  WRONG: {m['process']:<5} {m['implementation']}, {m['case']}")
        return sum(m["implementation"].startswith("qgmm ") for m in self.wrong + self.failed)


def run_worker(process, options, printer, seconds):
    """One measuring process; its lines go to the printer."""
    worker = str(Path(__file__).with_name("worker.py"))
    command = [sys.executable, worker, list_name(options), process, options.operators, str(options.repeats), str(seconds),
               options.extras, options.only]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | CAPS[process]) as child:
        for line in child.stdout:
            printer.take(json.loads(line))
    if child.returncode < 0:
        print(f"process {process}: ended by {signal.Signals(-child.returncode).name}, its list is not complete; SIGKILL: most "
              f"likely for want of memory, as the copies of all implementations of a case lie there together", flush=True)
    elif child.returncode:
        print(f"process {process}: ended with {child.returncode}, its list is not complete", flush=True)
    return child.returncode


def list_name(options):
    return "quick" if options.quick else "smoke" if options.smoke else "full"


def minutes(options):
    """For all processes together; 0: as many as it takes. The quick list has them for one process."""
    if options.minutes is not None:
        return options.minutes
    return QUICK_MINUTES if options.quick else 0 if options.smoke else FULL_MINUTES


def arguments():
    parser = argparse.ArgumentParser(description="Times the operators beside their rivals and judges every answer.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a fixed list for every operator; ends within six minutes")
    size.add_argument("--smoke", action="store_true", help="small shapes: does the benchmark itself work?")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose printed name contains this")
    parser.add_argument("--minutes", type=float, help=f"time for all processes: repeats adapt to it, down to 3 of rivals and "
                        f"5 of ours; {QUICK_MINUTES} of --quick, {FULL_MINUTES} of the full list; 0: no limit")
    parser.add_argument("--operators", default="A,B,down,quant", help="which of A, B, down, quant")
    parser.add_argument("--extras", help="which of packing, calls; an empty word: none; without it both, or none with --only")
    parser.add_argument("--process", help=f"which of {', '.join(CAPS)}")
    parser.add_argument("--repeats", type=int, default=9, help="most calls per measurement")
    parser.add_argument("--json", metavar="FILE", help="also write one JSON object per measurement and line")
    parser.add_argument("--plot", metavar="FOLDER", help="also draw bars and rooflines, as PNG and SVG")
    options = parser.parse_args()
    if options.extras is None:
        options.extras = "" if options.only else "packing,calls"
    return options


def main():
    options = arguments()
    caps_to_run = processes(options.process, options.quick)
    unknown = [name for name in caps_to_run if name not in CAPS]
    if unknown:
        sys.exit(f"ops_bench: no process {unknown[0]}; there are {', '.join(CAPS)}")
    chosen = [case for case in LISTS[list_name(options)]() if case.stack.operator in options.operators.split(",")]
    if not any(options.only in case.name for case in chosen):
        sys.exit(f"ops_bench: no case of the {list_name(options)} list has '{options.only}' in its name")
    print(f"machine: {cpu_name()}, {os.cpu_count()} CPUs; commit {commit()}")
    print(f"command: {shlex.join(sys.argv)}", flush=True)
    folder = roof.build()
    failures = 0
    results = Path(options.json or Path(tempfile.mkdtemp(prefix="qgmm_bench_")) / "measurements.json")
    try:
        with open(results, "w", encoding="utf-8") as file:
            printer = Printer(file)
            for cap in caps_to_run:
                print(f"== process {cap}" + "".join(f" {name}={value}" for name, value in CAPS[cap].items()), flush=True)
                failures += run_worker(cap, options, printer, 60 * minutes(options) / len(caps_to_run)) != 0
        if options.plot:
            plot.draw(plot.load(results), Path(options.plot))
    finally:
        for temporary in (folder, None if options.json else results.parent):
            if temporary:
                shutil.rmtree(temporary, ignore_errors=True)
    failures += printer.summary()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
