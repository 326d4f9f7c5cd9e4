# SPDX-License-Identifier: Apache-2.0
"""What is measured: qgmm and its rivals. Each takes a stack once (packing, outside the time) and then runs cases.

    run(tokens)            one call, timed
    verdict(tokens, y)     True, False; y is what run returned
    fused                  what the time contains
    kernel()               what ran, if it can be told
"""
import judge
import torch

import qgmm

FUSED = {"A": "gemm+dequant+swiglu+quant", "B": "gemm+dequant", "down": "gemm+dequant"}


class Qgmm:
    def __init__(self, stack, data):
        self.stack, self.data = stack, data
        self.name, self.fused = f"qgmm {qgmm.__version__}", FUSED[stack.operator]
        self.packed = qgmm.pack_weight(data.weight, swiglu=stack.operator == "A")
        self.report = {}

    def call(self, weight, x, x_scale, ends):
        scale = self.data.scale
        mode = int(scale.dim() == 3)
        if self.stack.operator == "A":
            return qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, ends, dequant_mode=mode)
        if self.stack.operator == "B":
            return (qgmm.weight_quant_grouped_matmul(x, weight, scale, group_list=ends),)
        return (qgmm.grouped_matmul(x, weight, scale, ends, x_scale=x_scale, dequant_mode=mode),)

    def run(self, tokens):
        return self.call(self.packed, tokens.x, tokens.x_scale, tokens.ends)

    def kernel(self):
        report = qgmm.last_run()
        return "+".join(report["kernels"]), report["isa"]

    def verdict(self, tokens, results):
        if self.stack.operator == "B":
            return judge.within_bound(tokens, self.data.weight, self.data.scale, results[0])
        return judge.equals_reference(tokens, lambda *rows: self.call(self.data.weight, *rows), results)


def finish(operator, t, x_scale):
    """The rest of the operator in torch operations, from t = sum * weight_scale in fp32."""
    c = t * x_scale[:, None]
    if operator == "down":
        return c.bfloat16()
    gate, up = c.chunk(2, 1)
    s = torch.nn.functional.silu(gate) * up
    scale = s.abs().amax(1, keepdim=True) / 127
    return (s / scale).round_().clamp_(-127, 127).to(torch.int8), scale


class IntMm:
    """torch._int_mm, an expert at a time, then dequantisation, SwiGLU and requantisation as torch operations."""

    def __init__(self, stack, data):
        self.stack, self.data = stack, data
        self.name, self.fused = "torch._int_mm + ops", FUSED[stack.operator]

    def run(self, tokens):
        return [finish(self.stack.operator,
                       torch._int_mm(tokens.x[begin:end], self.data.weight[expert]).float() * self.data.scale[expert],
                       tokens.x_scale[begin:end]) for expert, begin, end in tokens.groups()]

    def verdict(self, tokens, results):
        return judge.sums_are_exact(tokens, self.data.weight, lambda e, x: torch._int_mm(x, self.data.weight[e]))


class OneDnn:
    """torch's prepacked oneDNN linear, an expert at a time: u8 tokens (zero point 128: the form it is fast in) times s8
    weights to fp32, weight scale included. Bare, or with the rest of the operator as torch operations."""

    def __init__(self, stack, data, bare):
        self.stack, self.data, self.bare = stack, data, bare
        self.name = "oneDNN prepacked (torch)" + ("" if bare else " + ops")
        self.fused = "gemm+weight scale" if bare else FUSED[stack.operator]
        if not hasattr(data, "prepacked"):  # shared by the bare and the complete form
            data.prepacked = [torch.ops.onednn.qlinear_prepack(w.t().contiguous(), None) for w in data.weight]
        self.ones = torch.ones(stack.n)
        self.zeros = torch.zeros(stack.n, dtype=torch.int64)

    def linear(self, x, expert, scale):
        return torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 128, self.data.prepacked[expert], scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], "")

    @staticmethod
    def unsigned(x):
        return x.view(torch.uint8) ^ 128

    def run(self, tokens):
        if not hasattr(tokens, "x_unsigned"):
            tokens.x_unsigned = self.unsigned(tokens.x)  # outside the time: a caller would quantise to u8 at once
        results = []
        for expert, begin, end in tokens.groups():
            t = self.linear(tokens.x_unsigned[begin:end], expert, self.data.scale[expert])
            results.append(t if self.bare else finish(self.stack.operator, t, tokens.x_scale[begin:end]))
        return results

    def verdict(self, tokens, results):
        return judge.sums_are_exact(
            tokens, self.data.weight, lambda e, x: self.linear(self.unsigned(x), e, self.ones))


class Int8Pack:
    """torch._weight_int8pack_mm, an expert at a time: bf16 tokens, int8 weights [n, k], scales in bf16."""

    def __init__(self, stack, data):
        self.data, self.name, self.fused = data, "torch._weight_int8pack_mm", FUSED["B"]
        self.weights = [w.t().contiguous() for w in data.weight]
        self.scales = data.scale.bfloat16()  # exact: powers of two

    def run(self, tokens):
        return [torch._weight_int8pack_mm(tokens.x[begin:end], self.weights[expert], self.scales[expert])
                for expert, begin, end in tokens.groups()]

    def verdict(self, tokens, results):
        return judge.within_bound(tokens, self.data.weight, self.data.scale, torch.cat(results))


class Bf16Matmul:
    """torch's bf16 matmul, an expert at a time, on weights widened to bf16 (twice the bytes), then the scale."""

    def __init__(self, stack, data):
        self.data, self.name, self.fused = data, "torch bf16 matmul", FUSED["B"]
        self.weights = [w.t().contiguous().bfloat16() for w in data.weight]  # [n, k], as a Linear layer keeps them
        self.scales = data.scale.bfloat16()

    def run(self, tokens):
        return [(tokens.x[begin:end] @ self.weights[expert].t()) * self.scales[expert]
                for expert, begin, end in tokens.groups()]

    def verdict(self, tokens, results):
        return judge.within_bound(tokens, self.data.weight, self.data.scale, torch.cat(results))


def implementations(stack, data):
    """qgmm first, then every rival that can do this stack. None of torch's computes int8 x int4 with slices."""
    found = [Qgmm(stack, data)]
    if stack.operator == "B":
        found += [Int8Pack(stack, data), Bf16Matmul(stack, data)]
    elif stack.weights == "int8":
        found += [IntMm(stack, data), OneDnn(stack, data, bare=True), OneDnn(stack, data, bare=False)]
    return found
