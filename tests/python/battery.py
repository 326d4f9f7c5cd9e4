# SPDX-License-Identifier: Apache-2.0
"""A fixed set of calls and a digest of every result's bits, to compare processes: ISAs, environments, builds.

`python battery.py` prints one JSON object: digests by name, and what `last_run` said after each call.
"""

import hashlib
import itertools
import json
import sys

import numpy as np
import torch

import cases
import qgmm


def calls():
    """(name, operator, positional arguments, options); the same in every process."""
    rng = np.random.default_rng(20261124)
    for bits in (8, 4):
        for slices in (0, 3):
            for m, k, n in ((1, 33, 48), (230, 96, 80), (9, 300, 272)):
                mode = int(slices > 0)
                args = cases.swiglu(rng, e=3, m=m, k=k, n=n, slices=slices, bits=bits)
                options = dict(
                    dequant_mode=mode,
                    smooth_scale=cases.uniform(rng, 3, n // 2),
                    swiglu_limit=4.0,
                    weight_assist_matrix=cases.uniform(rng, 3, n),
                )
                shape = f"int{bits} slices {slices} {m}x{k}x{n}"
                yield f"A {shape}", qgmm.grouped_matmul_swiglu_quant, args, dict(dequant_mode=mode)
                yield f"A {shape} options", qgmm.grouped_matmul_swiglu_quant, args, options
                packed = qgmm.pack_weight(args[1], swiglu=True)
                yield f"A {shape} packed", qgmm.grouped_matmul_swiglu_quant, (args[0], packed, *args[2:]), options
                for act_type in (0, 2, 5):
                    yield (
                        f"G {shape} act {act_type}",
                        qgmm.grouped_matmul,
                        (*args[:3], args[4]),
                        dict(x_scale=args[3], dequant_mode=mode, act_type=act_type, out_dtype=torch.float32),
                    )
    for divisor, m in itertools.product((2, 8), (90, 2)):  # below 64 and 16: what the certificates kPairs and kQuads promise
        args = list(cases.swiglu(rng, e=2, m=m, k=136, n=80))
        args[1] = torch.div(args[1], divisor, rounding_mode="trunc")
        yield f"A certified {divisor} {m} rows", qgmm.grouped_matmul_swiglu_quant, args, {}
        packed = qgmm.pack_weight(args[1], swiglu=True, certify=True)
        yield f"A certified {divisor} {m} rows packed", qgmm.grouped_matmul_swiglu_quant, (args[0], packed, *args[2:]), {}
    for kind in (2, 3):
        args = cases.swiglu(rng, e=2, m=11, k=65, n=66)
        yield f"A fp8 {kind}", qgmm.grouped_matmul_swiglu_quant, args, dict(quant_dtype=kind)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for m, k, n in ((1, 129, 40), (230, 64, 33), (9, 1000, 130)):
            args, options = cases.weight_quant(rng, e=3, m=m, k=k, n=n, dtype=dtype)
            for act_type in (0, 4):
                yield (
                    f"B {dtype} {m}x{k}x{n} act {act_type}",
                    qgmm.weight_quant_grouped_matmul,
                    args,
                    dict(options, act_type=act_type),
                )
            packed = qgmm.pack_weight(args[1])
            yield f"B {dtype} {m}x{k}x{n} packed", qgmm.weight_quant_grouped_matmul, (args[0], packed, args[2]), options
        x = cases.uniform(rng, 33, 72, dtype=dtype)
        for dst_type in (None, 16, 23, 24):
            yield f"D {dtype} {dst_type}", qgmm.dynamic_quant, (x,), dict(dst_type=dst_type)


def pattern(result):
    parts = result if isinstance(result, tuple) else (result,)
    return b"".join(t.contiguous().view(torch.uint8).numpy().tobytes() for t in parts)


def run():
    digests, runs = {}, {}
    for name, op, args, options in calls():
        result = op(*args, **options)
        digests[name] = hashlib.sha256(pattern(result)).hexdigest()[:16]
        runs[name] = qgmm.last_run()
    return {"digests": digests, "runs": runs}


if __name__ == "__main__":
    json.dump(run(), sys.stdout)
