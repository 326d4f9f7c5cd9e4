# SPDX-License-Identifier: Apache-2.0
"""What ops_bench measures: expert stacks of well-known models and how many rows each expert gets."""
import dataclasses
import math

from machine import last_level_cache


def cold_bytes():
    """Weights above this many bytes come from memory: 600 MB, and more than the last-level cache holds: a walk around in
    circles finds nothing of the last round there. A quarter more, not several times as much: on a machine with 480 MiB of
    it, whose two CPUs read 400 MB as slowly as 3 GB, the copies that rivals keep of four times as much took 24 GB."""
    return max(600_000_000, last_level_cache() * 5 // 4)


@dataclasses.dataclass(frozen=True)
class Stack:
    """Weights of one kind, shared by the cases that multiply with them. quant has none: k is the width of its rows."""

    operator: str  # A, B, down or quant
    model: str  # whose shape it is, and how the number of experts differs from the model's
    experts: int
    k: int
    n: int
    distribution: str = "sigma20"  # sigma20: bell, clipped; randn: quantised by each column's absmax; uniform
    weights: str = "int8"  # int8, int4 (always uniform) or none
    slice: int = 0  # k elements per scale; 0: the whole k
    offset: int = 0  # bytes by which the user's tensors miss a multiple of 64

    @property
    def weight_bytes(self):
        """Of one expert."""
        return self.k * self.n * {"int8": 8, "int4": 4, "none": 0}[self.weights] // 8

    @property
    def expert_bytes(self):
        """What a call must read of one expert: weights, and scales of slices."""
        scales = self.n * (self.k // self.slice) * 4 if self.slice else 0
        return self.weight_bytes + scales

    @property
    def title(self):
        kind = {"int8": self.distribution, "int4": f"int4 g{self.slice}" if self.slice else "int4 per channel",
                "none": "bf16 rows"}[self.weights]
        return f"{self.operator} {kind}" + (f", tensors at +{self.offset} bytes" if self.offset else "")

    @property
    def shape(self):
        return f"{self.k} x {self.n}" if self.n else str(self.k)


@dataclasses.dataclass(frozen=True)
class Case:
    stack: Stack
    active: int  # experts that get rows, the first ones; the others are empty groups
    rows: int  # per active expert, on average
    groups: str = "uniform"  # or zipf: the i-th busiest of the active experts gets a share of 1 / i

    @property
    def counts(self):
        """Rows of each active expert."""
        return [self.rows] * self.active if self.groups == "uniform" else zipf(self.active, self.active * self.rows)

    @property
    def total_rows(self):
        return self.active * self.rows

    @property
    def macs(self):
        return self.total_rows * self.stack.k * self.stack.n

    @property
    def moved_bytes(self):
        """What a call must read and keep: the weights of experts with rows; quant: bf16 rows in, int8 rows out."""
        if self.stack.operator == "quant":
            return self.total_rows * (self.stack.k * 3 + 4)
        return self.experts_with_rows * self.stack.expert_bytes

    @property
    def experts_with_rows(self):
        return sum(count > 0 for count in self.counts)

    @property
    def cold(self):
        """quant cycles through inputs of so many bytes, the others read so many bytes of weights in one call."""
        if self.stack.operator == "quant":
            return self.cycles_inputs
        return self.experts_with_rows * self.stack.weight_bytes > cold_bytes()

    @property
    def cycles_inputs(self):
        """quant: calls large enough to be worth inputs of `cold_bytes` together."""
        return self.total_rows * self.stack.k > 1 << 17

    @property
    def name(self):
        s = self.stack
        groups = "" if self.groups == "uniform" else ", zipf groups"
        return f"{s.title}, {self.active} x {s.shape}, {self.rows} rows{groups}"


def zipf(groups, rows):
    """`rows` split over so many groups by shares of 1, 1/2, 1/3 ...; the largest remainders get what rounding left; the
    busy ones lie anywhere."""
    weights = [1 / (i + 1) for i in range(groups)]
    shares = [rows * weight / sum(weights) for weight in weights]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(groups), key=lambda i: counts[i] - shares[i])
    for i in by_remainder[:rows - sum(counts)]:
        counts[i] += 1
    step = next(step for step in range(max(1, groups * 5 // 8), 2 * groups + 2) if math.gcd(step, groups) == 1)
    return [counts[i * step % groups] for i in range(groups)]


# k, n, experts of the model; n: gate and up columns. Down projections turn h = n / 2 around.
MODELS = {
    "DeepSeek-V3": (7168, 4096, 256),
    "Qwen3-30B-A3B": (2048, 1536, 128),
    "DeepSeek-V2-Lite": (2048, 2816, 64),
    "Mixtral": (4096, 28672, 8),
    "the document's sample": (7168, 4096, 2),
}
ALL_ROWS = (1, 2, 4, 8, 16, 64, 128, 256, 1024)


def cold_stack(operator, model, **kind):
    """As many experts as it takes to be cold; the model's own number where that is nearly the same."""
    k, n, own = MODELS[model]
    if operator == "down":
        k, n = n // 2, k
    one = Stack(operator, model, 1, k, n, **kind)
    needed = cold_bytes() // one.weight_bytes + 1
    if needed <= own < 1.5 * needed:
        needed = own
    note = "" if needed == own else f", {needed} of {own} experts" if needed < own else f", {needed / own:.1f} layers"
    return dataclasses.replace(one, model=model + note, experts=needed)


def small_stack(operator, model, experts, **kind):
    k, n, own = MODELS[model]
    note = "" if experts == own else f", {experts} of {own} experts"
    return Stack(operator, model + note, experts, k, n, **kind)


def quant_stack(k):
    return Stack("quant", "rows", 64, k, 0, distribution="randn", weights="none")


def _cases(stack, rows, groups="uniform", most_macs=1e15):
    """Fewer experts where all of them would make a call of seconds."""
    one = max(1, stack.k * stack.n)
    return [Case(stack, max(1, min(stack.experts, int(most_macs // (one * r)))), r, groups) for r in rows]


def quick_cases():
    """Every operator cold at 1, 16, 64 and 256 rows per expert; warm prefills of every distribution and of short slices."""
    rows = (1, 16, 64, 256)
    return [
        *_cases(cold_stack("A", "DeepSeek-V3"), (1, 8, 16, 64, 256)),
        *_cases(cold_stack("A", "DeepSeek-V3", distribution="uniform", weights="int4", slice=128), rows),
        *_cases(cold_stack("B", "DeepSeek-V2-Lite"), rows),
        *_cases(cold_stack("down", "DeepSeek-V3"), rows),
        *_cases(quant_stack(7168), rows),
        *_cases(small_stack("A", "DeepSeek-V3", 2, distribution="randn"), (256,)),
        *_cases(small_stack("A", "DeepSeek-V2-Lite", 8, distribution="uniform", weights="int4", slice=32), (256,)),
        *_cases(small_stack("A", "DeepSeek-V2-Lite", 8), (64, 256)),
        *_cases(small_stack("A", "DeepSeek-V2-Lite", 8, distribution="uniform"), (64, 256)),
    ]


# Multiply-adds of one call of the full list: a turn of all implementations is to stay below two seconds.
MOST_MACS = {"A": 1.6e10, "down": 1.6e10, "B": 8e9, "quant": 1e15}


def full_cases():
    """Every operator, model, distribution, width of slices and number of rows."""
    result = []

    def add(stack, rows=ALL_ROWS, zipf_rows=()):
        most = MOST_MACS[stack.operator]
        result.extend(_cases(stack, rows, most_macs=most))
        result.extend(_cases(stack, zipf_rows, "zipf", most_macs=4 * most))  # it takes experts to be skewed

    for model in ("DeepSeek-V3", "Qwen3-30B-A3B", "DeepSeek-V2-Lite", "Mixtral"):
        add(cold_stack("A", model), zipf_rows=(4, 64) if model == "Mixtral" else (4, 64, 256))
        add(cold_stack("down", model), (1, 4, 16, 64, 256), (16,))
    add(small_stack("A", "the document's sample", 2, distribution="uniform"), (256,))
    for distribution in ("randn", "uniform"):
        add(cold_stack("A", "DeepSeek-V2-Lite", distribution=distribution), (1, 8, 16, 64, 256))
    add(cold_stack("A", "DeepSeek-V3", distribution="randn"), (1, 64, 256))
    add(cold_stack("A", "DeepSeek-V2-Lite", offset=16), (1, 16, 256))
    add(cold_stack("A", "DeepSeek-V3", distribution="uniform", weights="int4", slice=128), zipf_rows=(16, 256))
    for width in (32, 64, 0):
        add(cold_stack("A", "DeepSeek-V2-Lite", distribution="uniform", weights="int4", slice=width), (1, 8, 16, 64, 256))
    add(cold_stack("down", "DeepSeek-V3", distribution="uniform", weights="int4", slice=128), (1, 16, 256))
    for model in ("DeepSeek-V3", "DeepSeek-V2-Lite"):
        add(cold_stack("B", model), zipf_rows=(16, 256))
    add(cold_stack("B", "DeepSeek-V2-Lite", distribution="uniform"), (1, 16, 256))
    for k in (2048, 7168):
        add(quant_stack(k))
    return result


def smoke_cases():
    """Seconds: shows that the benchmark itself works."""
    small = dict(model="small", experts=6, k=256, n=256)
    return [
        *_cases(Stack("A", **small), (1, 16)),
        *_cases(Stack("A", **small), (16,), "zipf"),
        *_cases(Stack("A", **small, distribution="uniform", offset=16), (16,)),
        *_cases(Stack("A", **small, distribution="randn"), (16,)),
        *_cases(Stack("A", **small, distribution="uniform", weights="int4", slice=128), (1, 16)),
        *_cases(Stack("A", **small, distribution="uniform", weights="int4"), (16,)),
        *_cases(Stack("B", **small), (1, 16)),
        *_cases(Stack("down", **small), (4,)),
        *_cases(Stack("quant", "small", 6, 256, 0, "randn", "none"), (4,)),
    ]


LISTS = {"full": full_cases, "quick": quick_cases, "smoke": smoke_cases}
