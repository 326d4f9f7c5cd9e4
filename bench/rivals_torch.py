# SPDX-License-Identifier: Apache-2.0
"""Rivals that torch brings along; oneDNN among them."""
import functools
import re

import judge
import torch

FUSED = {"A": "gemm+dequant+swiglu+quant", "B": "gemm+dequant", "down": "gemm+dequant", "quant": "quant"}
BARE = "gemm"  # integer sums
SCALED = "gemm+weight scale"


def finish(operator, t, x_scale):
    """The rest of the operator in torch operations, from t = sum * weight_scale in fp32."""
    c = t * x_scale[:, None]
    if operator == "down":
        return c.bfloat16()
    gate, up = c.chunk(2, 1)
    return quantise(torch.nn.functional.silu(gate) * up)


def quantise(s):
    scale = s.abs().amax(1, keepdim=True) / 127
    return (s / scale).round_().clamp_(-127, 127).to(torch.int8), scale


def unsigned(x):
    return x.view(torch.uint8) ^ 128


class IntMm:
    """torch._int_mm: an expert at a time, then dequantisation, SwiGLU and requantisation as torch operations."""

    def __init__(self, stack, data):
        self.stack, self.data = stack, data
        self.name, self.kernel, self.fused = f"torch {VERSION}: _int_mm + ops", "_int_mm", FUSED[stack.operator]

    def run(self, tokens):
        return [finish(self.stack.operator,
                       torch._int_mm(tokens.x[begin:end], self.data.weight[expert]).float() * self.data.scale[expert],
                       tokens.x_scale[begin:end]) for expert, begin, end in tokens.groups()]

    def verdict(self, tokens, results):
        return judge.equals_sums(tokens, self.data, lambda e, x: torch._int_mm(x, self.data.weight[e]))


class OneDnn:
    """oneDNN in torch: its prepacked linear, an expert at a time: u8 tokens (zero point 128: the form it is fast in)
    times s8 weights to fp32, weight scale included. Bare, or with the rest of the operator as torch operations."""

    def __init__(self, stack, data, bare=True):
        self.stack, self.data, self.bare = stack, data, bare
        self.name = f"oneDNN {onednn_version()} in torch" + ("" if bare else " + ops")
        self.kernel = "onednn.qlinear_pointwise"
        self.fused = SCALED if bare else FUSED[stack.operator]
        if not hasattr(data, "prepacked"):  # shared by the bare and the complete form
            data.prepacked = [torch.ops.onednn.qlinear_prepack(w.t().contiguous(), None) for w in data.weight]
        self.ones = torch.ones(stack.n)
        self.zeros = torch.zeros(stack.n, dtype=torch.int64)

    def linear(self, x, expert, scale):
        return torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 128, self.data.prepacked[expert], scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], "")

    def prepare(self, tokens):
        tokens.x_unsigned = unsigned(tokens.x)  # a caller would quantise to u8 at once

    def run(self, tokens):
        results = []
        for expert, begin, end in tokens.groups():
            t = self.linear(tokens.x_unsigned[begin:end], expert, self.data.scale[expert])
            results.append(t if self.bare else finish(self.stack.operator, t, tokens.x_scale[begin:end]))
        return results

    def verdict(self, tokens, results):
        return judge.equals_sums(tokens, self.data, lambda e, x: self.linear(unsigned(x), e, self.ones))


class OneDnnOps(OneDnn):
    """oneDNN in torch, with the rest of the operator: see OneDnn."""

    def __init__(self, stack, data):
        super().__init__(stack, data, bare=False)


class Int8Pack:
    """torch._weight_int8pack_mm: an expert at a time: bf16 tokens, int8 weights [n, k], scales in bf16."""

    def __init__(self, stack, data):
        self.data, self.kernel, self.fused = data, "_weight_int8pack_mm", FUSED["B"]
        self.name = f"torch {VERSION}: _weight_int8pack_mm"
        self.weights = [w.t().contiguous() for w in data.weight]
        self.scales = data.scale.bfloat16()  # exact: powers of two

    def run(self, tokens):
        return [torch._weight_int8pack_mm(tokens.x[begin:end], self.weights[expert], self.scales[expert])
                for expert, begin, end in tokens.groups()]

    def verdict(self, tokens, results):
        return judge.within_bound(tokens, self.data, torch.cat(results))


class Bf16Matmul:
    """torch's bf16 matmul: an expert at a time, on weights widened to bf16 (twice the bytes), then the scale."""

    def __init__(self, stack, data):
        self.data, self.kernel, self.fused = data, "bf16 matmul", FUSED["B"]
        self.name = f"torch {VERSION}: bf16 matmul"
        if not hasattr(data, "bf16"):  # [e, n, k], as a Linear layer keeps them; shared with GroupedMm
            data.bf16 = torch.stack([w.t().bfloat16() for w in data.weight])
        self.scales = data.scale.bfloat16()

    def run(self, tokens):
        return [(tokens.x[begin:end] @ self.data.bf16[expert].t()) * self.scales[expert]
                for expert, begin, end in tokens.groups()]

    def verdict(self, tokens, results):
        return judge.within_bound(tokens, self.data, torch.cat(results))


class GroupedMm(Bf16Matmul):
    """torch._grouped_mm: bf16 tokens and weights widened to bf16 (twice the bytes); the scale per expert's rows."""

    def __init__(self, stack, data):
        super().__init__(stack, data)
        self.name, self.kernel = f"torch {VERSION}: _grouped_mm bf16", "_grouped_mm"

    def prepare(self, tokens):
        tokens.ends_int32 = tokens.ends.int()

    def run(self, tokens):
        y = torch._grouped_mm(tokens.x, self.data.bf16.transpose(1, 2), offs=tokens.ends_int32)
        for expert, begin, end in tokens.groups():
            y[begin:end] *= self.scales[expert]
        return [y]


class QuantOps:
    """torch operations: row maximum, division, rounding."""

    def __init__(self, stack, data):
        self.name, self.kernel, self.fused = f"torch {VERSION}: ops", "abs, amax, div, round", FUSED["quant"]

    def run(self, tokens):
        return quantise(tokens.next_input().float())

    def verdict(self, tokens, results):
        return judge.equals_quantised(tokens.x[tokens.turn], *results)


VERSION = torch.__version__.split("+")[0]


@functools.cache
def onednn_version():
    """Of the oneDNN inside torch, from its own description."""
    match = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    return match.group(1) if match else ""


def rivals(stack, thorough):
    if stack.operator == "quant":
        return [QuantOps]
    if stack.operator == "B":
        return [Int8Pack, GroupedMm, *([Bf16Matmul] if thorough else [])]
    return [IntMm, OneDnn, OneDnnOps] if stack.weights == "int8" else []  # none of torch's: int8 x int4 with slices
