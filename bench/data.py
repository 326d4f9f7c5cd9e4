# SPDX-License-Identifier: Apache-2.0
"""The tensors of a stack and of a case: weights of three distributions, tokens, and where they lie in memory."""
import math

import torch

from cases import cold_bytes

DRAWN = 4  # experts that are drawn; the others are shifted copies, which no kernel can tell from drawn ones
POOL = {True: 1 << 26, False: 1 << 12}  # values that rows of quant repeat


def place(tensor, offset):
    """A copy whose first byte lies `offset` bytes behind a multiple of 64."""
    size = tensor.numel() * tensor.element_size()
    buffer = torch.empty(size + 64 + offset, dtype=torch.uint8)
    start = -buffer.data_ptr() % 64 + offset
    return buffer[start:start + size].view(tensor.dtype).view(tensor.shape).copy_(tensor)


def random_int8(*shape):
    """Uniform int8, eight at a time."""
    count = math.prod(shape)
    words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int8)[:count].view(shape)


def _draw(distribution, k, n):
    if distribution == "uniform":
        return random_int8(k, n)
    w = torch.randn(k, n)
    w = w.mul_(20) if distribution == "sigma20" else w.mul_(127 / w.abs().amax(0))
    return w.round_().clamp_(-127, 127).to(torch.int8)


def experts(distribution, e, k, n):
    drawn = [_draw(distribution, k, n) for _ in range(min(e, DRAWN))]
    w = torch.empty(e, k, n, dtype=torch.int8)
    for i in range(e):
        w[i] = drawn[i % DRAWN] if i < DRAWN else drawn[i % DRAWN].roll(i, 1)
    return w


class Data:
    """Weights and scales. Scales are powers of two: scaling is exact then, so that a rival that scales after its rounding
    is not called wrong for that."""

    def __init__(self, stack):
        if stack.operator == "quant":
            return
        e, k, n = stack.experts, stack.k, stack.n
        if stack.weights == "int4":
            self.weight = random_int8(e, k, n // 2).view(torch.int32)
        else:
            self.weight = experts(stack.distribution, e, k, n)
        slices = k // stack.slice if stack.slice else 1
        exponents = torch.randint(-15, -12, (e, slices, n) if slices > 1 else (e, n))
        self.scale = place(torch.ldexp(torch.ones(exponents.shape), exponents), stack.offset)
        if stack.offset:
            self.weight = place(self.weight, stack.offset)

    def integers(self, expert):
        """The expert's weights [k, n] as int8, unpacked."""
        w = self.weight[expert]
        if w.dtype == torch.int8:
            return w
        nibbles = w.view(torch.uint8)  # two to a byte, the low one first
        low, high = (nibbles & 15).to(torch.int8), (nibbles >> 4).to(torch.int8)
        both = torch.stack([low, high], -1).view(w.shape[0], -1)
        return both - (both > 7).to(torch.int8) * 16


class Tokens:
    """The rows of a case, sorted by expert."""

    def __init__(self, case):
        s = case.stack
        self.counts = torch.zeros(s.experts, dtype=torch.int64)
        self.counts[:case.active] = torch.tensor(case.counts)
        self.ends = self.counts.cumsum(0)
        m, self.turn = case.total_rows, 0
        if s.operator == "quant":
            self.x = self._inputs(m, s.k, case.cycles_inputs)
        elif s.operator == "B":
            self.x = place(torch.randn(m, s.k).bfloat16(), s.offset)
        else:
            least = -127 if s.weights == "int4" else -128
            x = torch.randn(m, s.k).mul_(32).round_().clamp_(least, 127)
            x[:, 0] = -128  # the value that sign tricks get wrong
            if s.weights == "int4":  # rivals quantise fp32 rows by blocks: a 127 in each, and nothing is rounded
                x[:, ::32] = -127
            self.x = place(x.to(torch.int8), s.offset)
        self.x_scale = place(torch.rand(m) * 0.09 + 0.01, s.offset)

    @staticmethod
    def _inputs(m, k, large):
        """Inputs [inputs, m, k] of more bytes than `cold_bytes`, of repeated values; small cases: three inputs."""
        inputs = cold_bytes() // (2 * m * k) + 1 if large else 3
        values = torch.randn(POOL[large]).bfloat16()
        x = torch.empty(inputs * m * k, dtype=torch.bfloat16)
        for start in range(0, x.numel(), values.numel()):
            part = x[start:start + values.numel()]
            part.copy_(values[:part.numel()])
        return x.view(inputs, m, k)

    def next_input(self):
        """quant: the next input of its cycle."""
        self.turn = (self.turn + 1) % len(self.x)
        return self.x[self.turn]

    def groups(self):
        """(expert, first row, end) of the experts that have rows."""
        begin = 0
        for expert, end in enumerate(self.ends.tolist()):
            if end > begin:
                yield expert, begin, end
            begin = end
