# SPDX-License-Identifier: Apache-2.0
"""FLOP formulas for torch.utils.flop_counter: 2 m k n, the product only, as if every row were in a group."""

from torch.utils.flop_counter import register_flop_formula

from .library import ops


@register_flop_formula(ops.grouped_matmul_swiglu_quant)
def _(x, *arguments, out_shape=None, **options) -> int:
    return 2 * x[0] * x[1] * 2 * out_shape[0][1]


@register_flop_formula([ops.weight_quant_grouped_matmul, ops.grouped_matmul])
def _(x, *arguments, out_shape=None, **options) -> int:
    return 2 * x[0] * x[1] * out_shape[1]
