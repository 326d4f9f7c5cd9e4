# SPDX-License-Identifier: Apache-2.0
"""Exactness: sampled rows, all their columns. Integer sums must be equal, operator A's bytes must be the reference's,
and operator B must stay within the bound of docs/operators.md, section 8.2. Whole feed-forward layers that quantise by
themselves are told their error."""
import math

import torch

import qgmm

EXPERTS, ROWS = 6, 4  # so many experts are sampled, and so many rows of each


NONSENSE = 0.1  # relative error of a feed-forward layer that no int8 quantisation of bell-shaped values explains


class Sample:
    """Rows of one expert, and what fp64 says of them. The weights are not kept: six of Mixtral's would be 5.6 GB."""

    def __init__(self, tokens, data, expert, begin, end):
        self.expert, self.begin, self.end = expert, begin, end
        self.rows = torch.linspace(begin, end - 1, min(ROWS, end - begin)).round().long().unique()
        self.x = tokens.x[self.rows].double()
        weight = data.integers(expert).double()
        scale = data.scale[expert].double()
        self.scale = scale if scale.dim() == 1 else None
        if self.scale is None:  # slices: scaled weights, exact in fp64 as scales are powers of two
            weight *= scale.repeat_interleave(weight.shape[0] // scale.shape[0], 0)
        self.sums = self.x @ weight
        weight.abs_()
        self.magnitudes, self.columns = self.x.abs() @ weight, weight.sum(0)  # for the bound of operator B

    @property
    def scaled(self):
        return self.sums if self.scale is None else self.sums * self.scale


def samples(tokens, data):
    """Experts and rows spread from the first to the last; made once per case, for all implementations."""
    if not hasattr(tokens, "samples"):
        groups = list(tokens.groups())
        chosen = torch.linspace(0, len(groups) - 1, min(EXPERTS, len(groups))).round().long().unique().tolist()
        tokens.samples = [Sample(tokens, data, *groups[index]) for index in chosen]
    return tokens.samples


def equals_sums(tokens, data, sums):
    """sums(expert, x of its group) are the integer sums, in int32, or in fp32 and rounded once."""
    for sample in samples(tokens, data):
        got = sums(sample.expert, tokens.x[sample.begin:sample.end])[sample.rows - sample.begin]
        if not torch.equal(got, sample.sums.to(got.dtype)):
            return False
    return True


def equals_scaled(tokens, data, t):
    """t [rows, n] fp32 holds sums times weight scales: what fp64 gives, rounded once. Scales are powers of two."""
    return all(torch.equal(t[sample.rows], sample.scaled.float()) for sample in samples(tokens, data))


def within_bound(tokens, data, y, c=1):
    """Operator B, act_type 0, no offset and bias. c = 1: fp32 accumulation in any order."""
    for sample in samples(tokens, data):
        right, scale = sample.scaled, sample.scale.abs()
        k = sample.x.shape[1]
        error = c * (min(k, 8 * math.sqrt(k)) + 8) * 2.0**-24 * scale * sample.magnitudes
        steps = 2.0**-15 * sample.x.abs().amax(1, keepdim=True)  # of fixed point; allowed to everybody
        error = error + steps * scale * sample.columns
        exponent = (torch.frexp(right.abs() + error).exponent - 1).clamp(min=-126)
        allowed = error + torch.ldexp(torch.ones_like(right), exponent - 7) / 2
        if not ((y[sample.rows].double() - right).abs() <= allowed).all():
            return False
    return True


def equals_reference(tokens, data, call, results):
    """call(x, x_scale, group ends) in reference mode gives the same bytes for the sampled rows."""
    counts = torch.zeros_like(tokens.counts)
    for sample in samples(tokens, data):
        counts[sample.expert] = len(sample.rows)
    index = torch.cat([sample.rows for sample in samples(tokens, data)])
    with qgmm.reference():
        right = call(tokens.x[index], tokens.x_scale[index], counts.cumsum(0))
    return all(torch.equal(ours[index].view(torch.uint8), expected.view(torch.uint8))
               for ours, expected in zip(results, right))


def equals_quantised(x, y, scale):
    """dynamic_quant of some rows in reference mode."""
    rows = torch.linspace(0, len(x) - 1, min(EXPERTS * ROWS, len(x))).round().long().unique()
    with qgmm.reference():
        right, right_scale = qgmm.dynamic_quant(x[rows])
    return torch.equal(y[rows], right) and torch.equal(scale[rows].flatten(), right_scale)


def layer_error(tokens, data, y, weight_scaled):
    """y [rows, k] is a whole feed-forward layer: silu(gate) * up of operator A's sums, with the weight scales or without,
    times the transposed gate weights, times anything. What distance from fp64 is left at the best such factor, relative
    to the length of y, in words; False where the answer is not that of the layer."""
    right, got = [], []
    for sample in samples(tokens, data):
        gate, up = (sample.scaled if weight_scaled else sample.sums).chunk(2, 1)
        down = data.integers(sample.expert)[:, :gate.shape[1]].double()
        right.append(torch.nn.functional.silu(gate) * up @ down.t())
        got.append(y[sample.rows].double())
    right, got = torch.cat(right), torch.cat(got)
    if not torch.isfinite(got).all() or not got.any():
        return False
    factor = (right * got).sum() / (got * got).sum()
    error = ((got * factor - right).norm() / right.norm()).item()
    return f"error {error:.1e}: relative L2 distance of the whole layer from fp64" if error < NONSENSE else False
