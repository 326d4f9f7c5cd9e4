# SPDX-License-Identifier: Apache-2.0
"""What is measured: qgmm and its rivals. Each takes a stack once (packing, outside the time) and then runs cases.

    prepare(tokens)        inputs in the form it likes, outside the time; optional
    run(tokens)            one call, timed
    verdict(tokens, y)     True, False, or why nobody can tell; y is what run returned
    mac_factor             how many times the operator's multiply-adds it does; 1 if not given
    name, kernel, fused    whose it is, what runs, and what the time contains
"""
import judge
import rivals_kt
import rivals_onnx
import rivals_torch
from rivals_torch import FUSED

import qgmm


class Qgmm:
    """qgmm: as a caller uses it who packs the weights once."""

    precision = "strict"  # of operator B

    def __init__(self, stack, data):
        self.stack, self.data = stack, data
        self.name, self.fused, self.kernel = f"qgmm {qgmm.__version__}", FUSED[stack.operator], ""
        if stack.operator == "B":
            self.name += f" precision={self.precision}"
        if stack.operator != "quant":
            if not hasattr(data, "packed"):
                certify = False if stack.operator == "B" else None  # as docs/packing.md advises
                data.packed = qgmm.pack_weight(data.weight, swiglu=stack.operator == "A", certify=certify)
            self.packed = data.packed

    def call(self, weight, x, x_scale, ends):
        scale = self.data.scale
        mode = int(scale.dim() == 3)
        if self.stack.operator == "A":
            return qgmm.grouped_matmul_swiglu_quant(x, weight, scale, x_scale, ends, dequant_mode=mode)
        if self.stack.operator == "B":
            return (qgmm.weight_quant_grouped_matmul(x, weight, scale, group_list=ends, precision=self.precision),)
        return (qgmm.grouped_matmul(x, weight, scale, ends, x_scale=x_scale, dequant_mode=mode),)

    def run(self, tokens):
        if self.stack.operator == "quant":
            return qgmm.dynamic_quant(tokens.next_input())
        return self.call(self.packed, tokens.x, tokens.x_scale, tokens.ends)

    def verdict(self, tokens, results):
        self.kernel = "+".join(qgmm.last_run()["kernels"])
        if self.stack.operator == "quant":
            return judge.equals_quantised(tokens.x[tokens.turn], *results)
        if self.stack.operator == "B":
            return judge.within_bound(tokens, self.data, results[0])
        return judge.equals_reference(tokens, self.data, lambda *rows: self.call(self.data.weight, *rows), results)


class QgmmFast(Qgmm):
    """qgmm, operator B in fixed point: 16-bit integers instead of fp32 products; judged by the same bound."""

    precision = "fast"


def own(found):
    return [one for one in found if isinstance(one, Qgmm)]


def implementations(stack, data, capped, thorough, alone=False):
    """qgmm first, then every rival that can do this stack, and sentences about those that cannot be had.

    `thorough`: slow ones too; `alone`: none. A rival that fails to set itself up is a sentence too, not the end of the run."""
    found, notes = [Qgmm(stack, data)], []
    if stack.operator == "B":
        found.append(QgmmFast(stack, data))
    if alone:
        return found, ["the time is over: rivals are left out"]
    for make in (*rivals_torch.rivals(stack, thorough), *rivals_onnx.rivals(stack, capped, thorough, notes),
                 *rivals_kt.rivals(stack, capped)):
        try:
            found.append(make(stack, data))
        except Exception as error:
            notes.append(f"{make.__doc__.split(':')[0]}: left out: {type(error).__name__}: {str(error)[:200]}")
    return found, notes
