# SPDX-License-Identifier: Apache-2.0
"""Times the operators beside their rivals, and says which answers are right.

    python bench/ops_bench.py [--all | --smoke] [--operators A,B,down] [--process best,avx2] [--json FILE]

Two processes: "best" lets every library use the best instructions of the machine; "avx2" caps all of them at AVX2
(ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY, MKL_ENABLE_INSTRUCTIONS, QGMM_MAX_ISA). Inside a process qgmm, the rivals
and the machine's own roofs take turns; a figure is the median, with the best behind it. A rival whose answer differs
(sampled rows, all columns) is printed as wrong and no ratio is formed. "cold": the weights are more than four times the
last-level cache, so they come from memory. Roof shares: of linear reads, or of register-only multiply-adds, whichever
binds.
"""
import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import roof
from machine import cpu_name, has_flag

CAPS = {"best": {}, "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2",
                             "MKL_ENABLE_INSTRUCTIONS": "AVX2", "QGMM_MAX_ISA": "avx2"}}
ROW = "  {:<31} {:<20} {:>8} {:>8} {:>7}  {:<13} {:>8}  {}"


def commit():
    """The checkout's commit, or "unknown"."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processes(asked):
    """The caps to run, in order; those that would repeat another or cannot run are left out, with a word."""
    wanted = asked.split(",") if asked else list(CAPS)
    if "avx2" in wanted and not has_flag("avx2"):
        print("process avx2: left out, this machine has no AVX2")
        wanted.remove("avx2")
    if wanted == list(CAPS) and not (has_flag("avx512f") or has_flag("avx_vnni")):
        print("process best: left out, AVX2 is the best this machine has")
        wanted.remove("best")
    return wanted


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
        print(ROW.format("implementation", "kernel", "GMAC/s", "best", "GB/s", "roof share", "qgmm is", "verdict"),
              flush=True)

    def prepare(self, event):
        print(f"-- {event['title']}: packing {event['experts']} experts of {event['k']} x {event['n']}", flush=True)

    def case(self, event):
        minutes, seconds = divmod(int(time.perf_counter() - self.started), 60)
        print(f"[{event['number']}/{event['of']}, {minutes}:{seconds:02d}] {event['name']} per expert", flush=True)

    def measured(self, m):
        self.file.write(json.dumps(m) + "\n")
        self.file.flush()
        ours = m["implementation"].startswith("qgmm ")
        if ours:
            self.ours = m
        if not m["repeats"]:
            print(ROW.format(m["implementation"], "", "-", "-", "-", "", "", f"failed: {m['exact']}"), flush=True)
            self.failed.append(m)
            return
        ratio = ""
        if not ours and m["exact"] is True and self.ours["repeats"] and self.ours["exact"] is True:
            value = self.ours["gmac_per_s"] / m["gmac_per_s"]
            self.ratios.setdefault((m["process"], m["implementation"]), []).append(value)
            ratio = f"{value:.2f} x"
        if m["exact"] is not True:
            self.wrong.append(m)
        verdict = "exact" if m["exact"] is True else "WRONG"
        few = "" if m["repeats"] >= 7 else f", repeats: {m['repeats']}"
        words = f"{verdict}{', cold' if m['cold'] else ''}{few}"
        kernel = m["kernel"] or ("(bare product)" if m["fused"] == "gemm+weight scale" else "")
        print(ROW.format(m["implementation"], kernel,
                         f"{m['gmac_per_s']:.1f}", f"{m['best_gmac_per_s']:.1f}", f"{m['gbyte_per_s']:.1f}",
                         f"{m['roof_share']:.2f} {m['roof']}", ratio, words), flush=True)

    def summary(self):
        """Prints the ratios; returns the number of our own answers that were wrong or failed."""
        print("qgmm against exact rivals, by process (median, lowest, highest ratio):")
        for (process, name), values in sorted(self.ratios.items()):
            print(f"  {process:<5} {name:<31} {statistics.median(values):6.2f} {min(values):6.2f} {max(values):6.2f}"
                  f"   in {len(values)} cases")
        for m in self.wrong:
            print(f"  WRONG: {m['process']:<5} {m['implementation']}, {m['case']}")
        return sum(m["implementation"].startswith("qgmm ") for m in self.wrong + self.failed)


def run_worker(cap, options, printer):
    """One measuring process; its lines go to the printer."""
    which = "all" if options.all else "smoke" if options.smoke else "default"
    worker = str(Path(__file__).with_name("worker.py"))
    command = [sys.executable, worker, which, cap, options.operators, str(options.repeats)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | CAPS[cap]) as process:
        for line in process.stdout:
            printer.take(json.loads(line))
    return process.returncode


def main():
    parser = argparse.ArgumentParser(description="Times the operators beside their rivals and judges every answer.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--all", action="store_true", help="every operator, shape, distribution and number of rows")
    size.add_argument("--smoke", action="store_true", help="small shapes: does the benchmark itself work?")
    parser.add_argument("--operators", default="A,B,down", help="which of A, B, down")
    parser.add_argument("--process", help="best, avx2 or best,avx2 (default)")
    parser.add_argument("--repeats", type=int, default=9, help="calls per measurement")
    parser.add_argument("--json", metavar="FILE", help="also write one JSON object per measurement and line")
    options = parser.parse_args()
    print(f"machine: {cpu_name()}, {os.cpu_count()} CPUs; commit {commit()}")
    print(f"command: {shlex.join(sys.argv)}", flush=True)
    folder = roof.build()
    failures = 0
    try:
        with open(options.json or os.devnull, "w", encoding="utf-8") as file:
            printer = Printer(file)
            for cap in processes(options.process):
                print(f"== process {cap}" + "".join(f" {name}={value}" for name, value in CAPS[cap].items()), flush=True)
                failures += run_worker(cap, options, printer) != 0
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    failures += printer.summary()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
