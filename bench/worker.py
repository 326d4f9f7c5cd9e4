# SPDX-License-Identifier: Apache-2.0
"""One process of ops_bench: measures every case and writes one JSON object per line to standard output.

    python worker.py LIST PROCESS OPERATORS REPEATS SECONDS [EXTRAS]

qgmm, its rivals and the roofs take turns (A B C A B C ...), so that a neighbour on the machine slows all of them.
SECONDS: for the whole list, set-up included; cases share what is left, and slow implementations repeat less. 0: no limit.
EXTRAS: names of further measurements, after the cases: packing, calls."""
import gc
import statistics
import sys
import time

import calls
import implementations
import packing
import torch
from data import Data, Tokens
from machine import last_level_cache
from record import measured, say, take_standard_output
from roof import Roof, instruction

import qgmm
from cases import LISTS

CASE_SECONDS = 5.0  # of timed calls, all implementations together
FEWEST = 3  # timed calls of ours


# Seconds that threads of a rival's own may spin on after a call, in the way of whoever comes next: kt-kernel's took half
# of a 5 ms call.
SPIN = 0.1


class Candidate:
    """One implementation and what its calls took."""

    def __init__(self, implementation, tokens):
        self.implementation, self.times, self.error, self.exact, self.wanted = implementation, [], None, None, 0
        self.kernel, self.ours = implementation.kernel, implementation.name.startswith("qgmm ")
        try:
            if hasattr(implementation, "prepare"):
                implementation.prepare(tokens)
            start = time.perf_counter()
            results = implementation.run(tokens)
            self.first = time.perf_counter() - start
            self.exact = implementation.verdict(tokens, results)
            self.kernel = implementation.kernel  # ours is known now
        except Exception as error:  # a rival that refuses a shape is a result, not the end of the run
            self.error = f"{type(error).__name__}: {error}"[:200]

    def plan(self, seconds, repeats, fewest):
        """A rival whose first call was too long for its share is not called again: that call is its figure."""
        if self.error is None:
            self.wanted = max(fewest, min(repeats, int(seconds / self.first)))
            if self.wanted == 0:
                self.times.append(self.first)

    def once(self, tokens):
        start = time.perf_counter()
        self.implementation.run(tokens)
        self.times.append(time.perf_counter() - start)
        if getattr(self.implementation, "spins", False):
            time.sleep(SPIN)


def take_turns(candidates, tokens, roof, kinds, repeats):
    """Fills the times; returns the median of linear reads, and those of multiply loops by kind, measured between them."""
    reads, multiplies = [], {kind: [] for kind in kinds}
    for turn in range(min(repeats, max([one.wanted for one in candidates] + [FEWEST]))):
        first = turn % len(candidates)  # whoever comes after the roofs finds the caches empty: each in turn
        for one in candidates[first:] + candidates[:first]:
            if turn < one.wanted:
                one.once(tokens)
        reads.append(roof.read())
        for kind, rates in multiplies.items():
            rates.append(roof.multiply(kind) if kind else 0.0)
    return statistics.median(reads), {kind: statistics.median(rates) for kind, rates in multiplies.items()}


def measure(case, found, roof, repeats, process, seconds):
    """Says the objects of one case, ours first. Rivals are held against the roof of our first."""
    tokens = Tokens(case)
    candidates = [Candidate(implementation, tokens) for implementation in found]
    for one in candidates:
        one.kind = "" if case.stack.operator == "quant" else instruction(one.kernel if one.ours else candidates[0].kernel)
        one.plan(seconds / len(candidates), repeats, FEWEST if one.ours else 0)
    read, multiplies = take_turns(candidates, tokens, roof, {one.kind for one in candidates}, repeats)
    s = case.stack
    for one in candidates:
        multiply, factor = multiplies[one.kind], getattr(one.implementation, "mac_factor", 1)
        macs, moved = case.macs * factor, case.moved_bytes * factor
        memory = moved / read  # the least a call can take, in nanoseconds
        compute = macs / multiply if multiply > 0 else 0.0
        bound, name = (memory, "memory") if memory > compute else (compute, "compute")
        times = {}
        if one.times:
            median, best = statistics.median(one.times) * 1e9, min(one.times) * 1e9
            times = dict(gmac_per_s=macs / median, best_gmac_per_s=macs / best, seconds=median / 1e9,
                         gbyte_per_s=moved / median, roof_share=bound / median)
        measured(
            operator=s.operator, case=case.name, process=process, model=s.model, experts=s.experts, active=case.active,
            k=s.k, n=s.n, rows_per_expert=case.rows, groups=case.groups, distribution=s.distribution, weights=s.weights,
            slice=s.slice or s.k, offset=s.offset, cold=case.cold, implementation=one.implementation.name,
            kernel=one.kernel, fused=one.implementation.fused, roof=name, repeats=len(one.times),
            exact=one.exact if one.error is None else one.error, roof_read_gbyte_per_s=read,
            roof_multiply_gmac_per_s=multiply, roof_instruction=one.kind, **times)


class Clock:
    """What is left of the time for the whole list."""

    def __init__(self, limit):
        self.limit, self.started = limit, time.perf_counter()

    def over(self):
        return bool(self.limit) and time.perf_counter() - self.started > self.limit

    def share(self, cases_left):
        """Seconds of timed calls for the next case. Half of a case's time is first calls, verdicts and set-up."""
        if not self.limit:
            return CASE_SECONDS
        left = self.limit - (time.perf_counter() - self.started)
        return min(CASE_SECONDS, max(0.0, left / cases_left / 2))


def main():
    which, process, operators, repeats, limit = *sys.argv[1:3], sys.argv[3].split(","), int(sys.argv[4]), float(sys.argv[5])
    extras = sys.argv[6].split(",") if len(sys.argv) > 6 else []
    take_standard_output()
    clock = Clock(limit)
    torch.manual_seed(4)
    threads = torch.get_num_threads()
    roof = Roof(threads, last_level_cache())
    say(event="start", qgmm=qgmm.__version__, torch=torch.__version__, isa=qgmm.machine()["isa"], threads=threads,
        torch_isa=torch.backends.cpu.get_cpu_capability(), read=roof.trials, streams=roof.streams)
    cases = [case for case in LISTS[which]() if case.stack.operator in operators]
    stack, found, told = None, None, set()
    for number, case in enumerate(cases, 1):
        if case.stack != stack:
            found = None  # the weights of the stack before: gone before the next are made
            gc.collect()
            stack = case.stack
            say(event="prepare", title=stack.title, model=stack.model, experts=stack.experts, shape=stack.shape)
            found, notes = implementations.implementations(stack, Data(stack), process != "best", which != "quick",
                                                           clock.over())
            for note in [note for note in notes if note not in told]:
                told.add(note)
                say(event="note", text=note)
        say(event="case", text=f"[{number}/{len(cases)}] {case.name} per expert" + (", cold" if case.cold else ""))
        measure(case, implementations.own(found) if clock.over() else found, roof, repeats, process,
                clock.share(len(cases) - number + 1))
    found = None
    gc.collect()
    for extra, module in (("calls", calls), ("packing", packing)):
        if extra in extras and clock.over():
            say(event="note", text=f"{extra}: left out: the time is over")
        elif extra in extras:
            module.measure(roof, process, which == "smoke")


if __name__ == "__main__":
    with torch.no_grad():
        main()
