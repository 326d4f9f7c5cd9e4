# SPDX-License-Identifier: Apache-2.0
"""Exactness: sampled rows, all their columns. Integer sums must be equal, operator A's bytes must be the reference's,
and operator B must stay within the bound of docs/operators.md, section 8.2."""
import math

import torch

import qgmm

EXPERTS, ROWS = 8, 8  # so many experts are sampled, and so many rows of each


def samples(tokens):
    """(expert, first row, end, row indices): experts and rows spread from the first to the last."""
    groups = list(tokens.groups())
    chosen = torch.linspace(0, len(groups) - 1, min(EXPERTS, len(groups))).round().long().unique().tolist()
    for index in chosen:
        expert, begin, end = groups[index]
        rows = torch.linspace(begin, end - 1, min(ROWS, end - begin)).round().long().unique()
        yield expert, begin, end, rows


def sums_are_exact(tokens, weight, sums):
    """sums(expert, x of its group) are the integer sums, in int32, or in fp32 and rounded once."""
    for expert, begin, end, rows in samples(tokens):
        right = tokens.x[rows].double() @ weight[expert].double()
        got = sums(expert, tokens.x[begin:end])[rows - begin]
        if not torch.equal(got, right.to(got.dtype)):
            return False
    return True


def within_bound(tokens, weight, scale, y, c=1):
    """Operator B, act_type 0, no offset and bias. c = 1: fp32 accumulation in any order."""
    for expert, _, _, rows in samples(tokens):
        x, w, s = tokens.x[rows].double(), weight[expert].double(), scale[expert].double()
        right = (x @ w) * s
        k = x.shape[1]
        error = c * (min(k, 8 * math.sqrt(k)) + 8) * 2.0**-24 * s.abs() * (x.abs() @ w.abs())
        exponent = (torch.frexp(right.abs() + error).exponent - 1).clamp(min=-126)
        allowed = error + torch.ldexp(torch.ones_like(right), exponent - 7) / 2
        if not ((y[rows].double() - right).abs() <= allowed).all():
            return False
    return True


def equals_reference(tokens, call, results):
    """call(x, x_scale, group ends) in reference mode gives the same bytes for the sampled rows."""
    counts = torch.zeros_like(tokens.counts)
    picked = []
    for expert, _, _, rows in samples(tokens):
        counts[expert] = len(rows)
        picked.append(rows)
    index = torch.cat(picked)
    with qgmm.reference():
        right = call(tokens.x[index], tokens.x_scale[index], counts.cumsum(0))
    return all(torch.equal(ours[index].view(torch.uint8), expected.view(torch.uint8))
               for ours, expected in zip(results, right))
