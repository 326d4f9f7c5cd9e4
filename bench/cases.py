# SPDX-License-Identifier: Apache-2.0
"""What ops_bench measures: expert stacks, how many rows each expert gets, and the data."""
import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Stack:
    """Weights of one kind, shared by the cases that multiply with them."""

    operator: str  # A, B or down
    experts: int
    k: int
    n: int
    distribution: str = "sigma20"  # bell-shaped, sigma 20, clipped at 127; or uniform int8; int4 is always uniform
    weights: str = "int8"
    slice: int = 0  # k elements per scale; 0: the whole k

    @property
    def bits(self):
        return 4 if self.weights == "int4" else 8

    @property
    def title(self):
        weights = f"int4 g{self.slice}" if self.slice else self.weights
        return f"{self.operator} {weights} {self.distribution}"


@dataclasses.dataclass(frozen=True)
class Case:
    stack: Stack
    active: int  # experts that get rows, the first ones; the others are empty groups
    rows: int  # per active expert

    @property
    def macs(self):
        return self.active * self.rows * self.stack.k * self.stack.n

    @property
    def weight_bytes(self):
        """Bytes of weights that a call must read, scales of slices included."""
        s = self.stack
        scales = s.n * (s.k // s.slice) * 4 if s.slice else 0
        return self.active * (s.k * s.n * s.bits // 8 + scales)

    @property
    def name(self):
        return f"{self.stack.title}, {self.rows} rows"


MODEL = dict(experts=128, k=2048, n=1536)  # 128 experts, gate and up of 768 each
DOCUMENT = dict(experts=2, k=7168, n=4096)  # the document of operator A
DOWN = dict(experts=128, k=768, n=2048)
# Few rows: all experts, so that the weights come from memory. Many rows: fewer experts, or a call would take seconds.
ACTIVE = {1: 128, 4: 128, 8: 64, 16: 32, 64: 16, 256: 8}


def _cases(stack, rows):
    return [Case(stack, min(stack.experts, ACTIVE[r]), r) for r in rows]


def default_cases():
    """Under five minutes with both processes: every operator at decode and at prefill."""
    return [
        *_cases(Stack("A", **MODEL), (1, 4, 8, 16, 64, 256)),
        *_cases(Stack("A", **MODEL, distribution="uniform"), (1, 16, 256)),
        *_cases(Stack("A", **DOCUMENT, distribution="uniform"), (256,)),
        *_cases(Stack("A", **MODEL, distribution="uniform", weights="int4", slice=128), (1, 16, 64, 256)),
        *_cases(Stack("B", **MODEL), (1, 4, 16, 64, 256)),
    ]


def all_cases():
    """Every operator, shape and number of rows."""
    every = tuple(ACTIVE)
    result = []
    for distribution in ("sigma20", "uniform"):
        for operator, shape in (("A", MODEL), ("A", DOCUMENT), ("B", MODEL), ("down", DOWN)):
            result += _cases(Stack(operator, **shape, distribution=distribution), every)
    for width in (128, 32, 0):
        result += _cases(Stack("A", **MODEL, distribution="uniform", weights="int4", slice=width), every)
    return result


def smoke_cases():
    """Seconds: shows that the benchmark itself works."""
    small = dict(experts=6, k=256, n=192)
    return [
        *_cases(Stack("A", **small), (1, 16)),
        *_cases(Stack("A", **small, distribution="uniform"), (16,)),
        *_cases(Stack("A", **small, distribution="uniform", weights="int4", slice=128), (1, 16)),
        *_cases(Stack("B", **small), (1, 16)),
        *_cases(Stack("down", **small), (4,)),
    ]


LISTS = {"default": default_cases, "all": all_cases, "smoke": smoke_cases}


def random_int8(*shape):
    """Uniform int8, eight at a time."""
    count = 1
    for size in shape:
        count *= size
    words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int8)[:count].view(shape)


def _bell(e, k, n):
    """sigma 20, rounded, clipped at 127; sixteen experts are drawn, the others are shifted copies."""
    drawn = [torch.randn(k, n).mul_(20).round_().clamp_(-127, 127).to(torch.int8) for _ in range(min(e, 16))]
    w = torch.empty(e, k, n, dtype=torch.int8)
    for i in range(e):
        w[i] = drawn[i % 16] if i < 16 else drawn[i % 16].roll(i, 1)
    return w


class Data:
    """The tensors of a stack. Scales are powers of two: scaling is exact then, so that a rival that scales after its
    rounding is not called wrong for that."""

    def __init__(self, stack):
        e, k, n = stack.experts, stack.k, stack.n
        if stack.weights == "int4":
            self.weight = random_int8(e, k, n // 2).view(torch.int32)
        else:
            self.weight = _bell(e, k, n) if stack.distribution == "sigma20" else random_int8(e, k, n)
        slices = k // stack.slice if stack.slice else 1
        exponents = torch.randint(-15, -12, (e, slices, n) if slices > 1 else (e, n))
        self.scale = torch.ldexp(torch.ones(exponents.shape), exponents)


class Tokens:
    """The rows of a case, sorted by expert."""

    def __init__(self, case):
        e, k = case.stack.experts, case.stack.k
        self.counts = torch.zeros(e, dtype=torch.int64)
        self.counts[: case.active] = case.rows
        self.ends = self.counts.cumsum(0)
        m = case.active * case.rows
        if case.stack.operator == "B":
            self.x = torch.randn(m, k).bfloat16()
        else:
            self.x = torch.randn(m, k).mul_(32).round_().clamp_(-128, 127).to(torch.int8)
            self.x[:, 0] = -128  # the value that sign tricks get wrong
        self.x_scale = torch.rand(m) * 0.09 + 0.01

    def groups(self):
        """(expert, first row, end) of the experts that have rows."""
        begin = 0
        for expert, end in enumerate(self.ends.tolist()):
            if end > begin:
                yield expert, begin, end
            begin = end
