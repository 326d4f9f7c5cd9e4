# SPDX-License-Identifier: Apache-2.0
"""One process of ops_bench: measures every case and writes one JSON object per line to standard output.

    python worker.py LIST PROCESS OPERATORS REPEATS SECONDS EXTRAS [ONLY]

qgmm, its rivals and the roofs take turns (A B C A B C ...), so that a neighbour on the machine slows all of them.
SECONDS: for the whole list, set-up included; 0: no limit. The quick list leaves rivals out when they are over, others
repeat less. EXTRAS: names of further measurements, after the cases: packing, calls. ONLY: cases with this text in their
names."""
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
from schedule import FLOOR, Rates, Schedule

import qgmm
from cases import LISTS

EXTRAS_SECONDS = 50  # that packing and calls take on two shared Zen 3 cores; 30 on Zen 4 ones

# Seconds that threads of a rival's own may spin on after a call, in the way of whoever comes next: kt-kernel's took half
# of a 5 ms call.
SPIN = 0.1


class Candidate:
    """One implementation and what its calls took."""

    def __init__(self, implementation, tokens, left_out=""):
        self.implementation, self.times, self.error, self.exact, self.wanted = implementation, [], left_out, None, 0
        self.roofs = []  # of ours: (linear reads, multiply loop) beside each call
        self.kernel, self.ours, self.first = implementation.kernel, implementation.name.startswith("qgmm "), 0.0
        if left_out:
            return
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
        if not self.error:
            self.wanted = max(min(fewest, repeats), min(repeats, int(seconds / self.first)))

    def once(self, tokens):
        start = time.perf_counter()
        self.implementation.run(tokens)
        self.times.append(time.perf_counter() - start)
        if getattr(self.implementation, "spins", False):
            time.sleep(SPIN)


def take_turns(candidates, tokens, roof, cold, repeats):
    """Fills the times, and the roofs of ours. Neighbours take memory and multipliers away within a second, so where caches are
    cold anyhow roofs are measured right before and after each call of ours; else after the turn."""
    for turn in range(min(repeats, max([one.wanted for one in candidates] + [FLOOR]))):
        first = turn % len(candidates)  # whoever comes after the roofs finds the caches empty: each in turn
        called = [one for one in candidates[first:] + candidates[:first] if turn < one.wanted]
        for one in called:
            before = roof.read() if cold and one.ours else None
            one.once(tokens)
            if before is not None:
                one.roofs.append(((before + roof.read()) / 2, roof.multiply(one.kind) if one.kind else 0.0))
        if not cold or not candidates[0].roofs:
            read = roof.read()
            for one in candidates:
                if one.ours and (one in called or not one.roofs):
                    one.roofs.append((read, roof.multiply(one.kind) if one.kind else 0.0))


def first_calls(case, found, tokens, rates):
    """A Candidate of every implementation, ours first."""
    candidates = []
    for implementation in found:
        ours = candidates[0].first if candidates else float("inf")
        one = Candidate(implementation, tokens, rates.why_left_out(implementation.name, case, ours))
        if not one.error:
            rates.add(implementation.name, case, one.first)
        candidates.append(one)
    return candidates


def measure(case, found, roof, repeats, process, schedule, rates):
    """Says the objects of one case, ours first: the median of each call's share of the roofs beside it. Rivals are held against
    the median roofs of our first."""
    tokens = Tokens(case)
    candidates = first_calls(case, found, tokens, rates)
    fewest, seconds = schedule.plan(sum(one.first for one in candidates))
    for one in candidates:
        one.plan(seconds / len(candidates), repeats, FLOOR if one.ours else fewest)
        one.kind = "" if case.stack.operator == "quant" else instruction(one.kernel if one.ours else candidates[0].kernel)
    take_turns(candidates, tokens, roof, case.cold, repeats)
    clock, issue = roof.cores()
    s = case.stack
    for one in candidates:
        roofs, factor = one.roofs or candidates[0].roofs, getattr(one.implementation, "mac_factor", 1)
        macs, moved = case.macs * factor, case.moved_bytes * factor
        read, multiply = (statistics.median(kind) for kind in zip(*roofs, strict=True))

        def least(read, multiply, macs=macs, moved=moved):
            """Nanoseconds that a call takes at least, and what bounds it."""
            memory, compute = moved / read, macs / multiply if multiply > 0 else 0.0
            return (memory, "memory") if memory > compute else (compute, "compute")
        bound, name = least(read, multiply)
        times = {}
        if one.times:
            median, best = statistics.median(one.times) * 1e9, min(one.times) * 1e9
            share = bound / median
            if one.roofs:
                share = statistics.median(least(*beside)[0] / (t * 1e9) for beside, t in zip(one.roofs, one.times, strict=True))
            times = dict(gmac_per_s=macs / median, best_gmac_per_s=macs / best, seconds=median / 1e9,
                         gbyte_per_s=moved / median, roof_share=share)
        measured(
            operator=s.operator, case=case.name, process=process, model=s.model, experts=s.experts, active=case.active,
            k=s.k, n=s.n, rows_per_expert=case.rows, groups=case.groups, distribution=s.distribution, weights=s.weights,
            slice=s.slice or s.k, offset=s.offset, cold=case.cold, implementation=one.implementation.name,
            kernel=one.kernel, fused=one.implementation.fused, roof=name, repeats=len(one.times),
            exact=one.error or one.exact, roof_read_gbyte_per_s=read,
            roof_multiply_gmac_per_s=multiply, roof_instruction=one.kind, clock_ghz=clock, issue_per_cycle=issue, **times)


def main():
    which, process, operators, repeats, limit = *sys.argv[1:3], sys.argv[3].split(","), int(sys.argv[4]), float(sys.argv[5])
    extras, only = sys.argv[6].split(","), "".join(sys.argv[7:8])
    begin, latest = time.perf_counter(), limit - EXTRAS_SECONDS / 2 if limit else float("inf")  # that extras may begin
    take_standard_output()
    cases = [case for case in LISTS[which]() if case.stack.operator in operators and only in case.name]
    if limit and set(extras) & {"packing", "calls"}:
        limit = max(1.0, limit - EXTRAS_SECONDS)
    schedule = Schedule(cases, limit, hard=which == "quick")
    rates = Rates()
    torch.manual_seed(4)
    threads = torch.get_num_threads()
    roof = Roof(threads, last_level_cache())
    say(event="start", qgmm=qgmm.__version__, torch=torch.__version__, isa=qgmm.machine()["isa"], threads=threads,
        torch_isa=torch.backends.cpu.get_cpu_capability(), read=roof.trials, streams=roof.streams)
    stack, found, told = None, None, set()
    for number, case in enumerate(cases, 1):
        if case.stack != stack:
            found = None  # the weights of the stack before: gone before the next are made
            gc.collect()
            stack, start = case.stack, time.perf_counter()
            say(event="prepare", title=stack.title, model=stack.model, experts=stack.experts, shape=stack.shape)
            found, notes = implementations.implementations(stack, Data(stack), process != "best", which != "quick",
                                                           schedule.over())
            schedule.set_up(stack, time.perf_counter() - start)
            for note in [note for note in notes if note not in told]:
                told.add(note)
                say(event="note", text=note)
        say(event="case", text=f"[{number}/{len(cases)}, about {schedule.seconds_left() / 60:.1f} minutes left] {case.name} "
            "per expert" + (", cold" if case.cold else ""))
        measure(case, implementations.own(found) if schedule.over() else found, roof, repeats, process, schedule, rates)
    found = None
    gc.collect()
    for extra, module in (("calls", calls), ("packing", packing)):
        if extra in extras and time.perf_counter() - begin > latest:
            say(event="note", text=f"{extra}: left out: the time is over")
        elif extra in extras:
            module.measure(roof, process, which == "smoke")


if __name__ == "__main__":
    with torch.no_grad():
        main()
