# SPDX-License-Identifier: Apache-2.0
"""One process of ops_bench: measures every case and writes one JSON object per line to standard output.

qgmm, its rivals and the roofs take turns (A B C A B C ...), so that a neighbour on the machine slows all of them."""
import json
import statistics
import sys
import time

import implementations
import torch
from machine import cpu_name, has_flag, last_level_cache
from roof import Roof

import qgmm
from cases import LISTS, Data, Tokens

BUDGET = 3.0  # seconds of calls per measurement: slow rivals are measured fewer times


def say(**fields):
    print(json.dumps(fields), flush=True)


def compute_kind(stack, capped):
    """The multiply loop that is this machine's roof for the operator, or that of AVX2 if capped."""
    wide = not capped and has_flag("avx512f")
    if stack.operator == "B":
        return "vfmadd512" if wide else "vfmadd"
    if wide and has_flag("avx512_vnni"):
        return "vpdpbusd512"
    return "vpmaddubsw" if stack.weights == "int4" else "vpmaddwd"


class Measured:
    """One implementation and what its calls took."""

    def __init__(self, implementation, tokens, repeats):
        self.implementation, self.times, self.error = implementation, [], None
        try:
            start = time.perf_counter()
            results = implementation.run(tokens)
            first = time.perf_counter() - start
            self.kernel, self.isa = getattr(implementation, "kernel", lambda: (None, None))()
            self.exact = implementation.verdict(tokens, results)
        except Exception as error:  # a rival that refuses a shape is a result, not the end of the run
            self.error, self.exact, self.kernel, self.isa = f"{type(error).__name__}: {error}"[:200], None, None, None
            self.wanted = 0
            return
        self.wanted = min(repeats, max(1, int(BUDGET / first)))

    def once(self, tokens):
        start = time.perf_counter()
        self.implementation.run(tokens)
        self.times.append(time.perf_counter() - start)


def measure(case, found, roof, repeats, capped):
    """The objects of one case, qgmm's first."""
    tokens = Tokens(case)
    measured = [Measured(implementation, tokens, repeats) for implementation in found]
    kind = compute_kind(case.stack, capped)
    reads, multiplies = [], []
    for turn in range(repeats):
        first = turn % len(measured)  # whoever comes after the roofs finds the caches empty: each in turn
        for one in measured[first:] + measured[:first]:
            if turn < one.wanted:
                one.once(tokens)
        reads.append(roof.read())
        multiplies.append(roof.multiply(kind))
    read, multiply = statistics.median(reads), statistics.median(multiplies)
    memory_bound = read * case.macs / case.weight_bytes  # GMAC/s at which the weights arrive
    bound, name = (memory_bound, "memory") if multiply <= 0 or memory_bound < multiply else (multiply, "compute")
    s = case.stack
    for one in measured:
        fields = dict(
            operator=s.operator, case=case.name, machine=cpu_name(), process="avx2" if capped else "best",
            isa=one.isa, experts=s.experts, active=case.active, k=s.k, n=s.n, rows_per_expert=case.rows,
            groups="uniform", distribution=s.distribution, weights=s.weights, slice=s.slice or s.k,
            threads=torch.get_num_threads(), cold=case.weight_bytes > 4 * last_level_cache(),
            implementation=one.implementation.name, kernel=one.kernel, fused=one.implementation.fused,
            exact=one.exact if one.error is None else one.error, repeats=len(one.times),
            roof_read_gbyte_per_s=read, roof_multiply_gmac_per_s=multiply, roof_multiply=kind)
        if one.times:
            median, best = statistics.median(one.times), min(one.times)
            rate = case.macs / median / 1e9
            fields |= dict(gmac_per_s=rate, best_gmac_per_s=case.macs / best / 1e9,
                           gbyte_per_s=case.weight_bytes / median / 1e9, roof_share=rate / bound, roof=name)
        say(event="measured", **fields)


def main():
    which, capped, operators, repeats = sys.argv[1], sys.argv[2] == "avx2", sys.argv[3].split(","), int(sys.argv[4])
    torch.manual_seed(4)
    threads = torch.get_num_threads()
    roof = Roof(threads, last_level_cache())
    say(event="start", qgmm=qgmm.__version__, torch=torch.__version__, isa=qgmm.machine()["isa"], threads=threads,
        torch_isa=torch.backends.cpu.get_cpu_capability(), read=roof.trials, streams=roof.streams)
    cases = [case for case in LISTS[which]() if case.stack.operator in operators]
    stack, found = None, None
    for number, case in enumerate(cases, 1):
        if case.stack != stack:
            found = None  # the weights of the stack before: gone before the next are made
            stack = case.stack
            say(event="prepare", title=stack.title, experts=stack.experts, k=stack.k, n=stack.n)
            found = implementations.implementations(stack, Data(stack))
        say(event="case", number=number, of=len(cases), name=case.name)
        measure(case, found, roof, repeats, capped)


if __name__ == "__main__":
    with torch.no_grad():
        main()
