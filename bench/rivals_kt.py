# SPDX-License-Identifier: Apache-2.0
"""kt-kernel, if its wheel lies in .qgmm/kt_kernel: the whole feed-forward layer of operator A, from bf16 rows to bf16 rows.
It quantises rows and weights itself and goes on to the down projection, so no answer of operator A comes out of it: its
verdict is its error, and its multiply-adds are counted. Its package asks for one older torch; the compiled module does
not, and is loaded alone."""
import importlib.util
from pathlib import Path

import judge
import torch
from machine import has_flag

FOLDER = Path(__file__).resolve().parents[1] / ".qgmm" / "kt_kernel" / "kt_kernel"
MOST_ROWS = 8192  # of one call; more rows are given in parts
_loaded = {}


def _variant(capped):
    if capped or not has_flag("avx512f"):
        return "avx2"
    if has_flag("amx_int8"):
        return "amx"
    return "avx512_vnni" if has_flag("avx512_vnni") else "avx512_base"


def load(capped):
    """The compiled module and its pool of threads; one per process."""
    if not _loaded:
        path = next(FOLDER.glob(f"_kt_kernel_ext_{_variant(capped)}.*.so"))
        spec = importlib.util.spec_from_file_location("kt_kernel_ext", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.WorkerPoolConfig()
        config.subpool_count, config.subpool_numa_map, config.subpool_thread_count = 1, [0], [torch.get_num_threads()]
        version = next(FOLDER.parent.glob("kt_kernel-*.dist-info")).name.split("-")[1].removesuffix(".dist")
        _loaded.update(module=module, pool=module.CPUInfer(config), version=version)
    return _loaded


class KtKernel:
    """kt-kernel: gate, up, SwiGLU and down projection in int8, one expert per row."""

    mac_factor = 1.5  # k n and k n / 2
    spins = True

    def __init__(self, stack, data, capped=False):
        self.data, found = data, load(capped)
        moe, self.pool = found["module"].moe, found["pool"]
        make = moe.AMXInt8_MOE  # its AVX2 variant has none: said before the weights are made
        self.name, self.kernel, self.fused = f"kt-kernel {found['version']}", "AMXInt8_MOE", "whole feed-forward layer"
        e, k, h = stack.experts, stack.k, stack.n // 2
        gate, up = (torch.stack([w[:, half].t().bfloat16() for w in data.weight])  # exact; it finds its own scales
                    for half in (slice(0, h), slice(h, None)))
        down = torch.stack([w[:, :h].bfloat16() for w in data.weight])
        config = moe.MOEConfig(e, 1, k, h)
        config.pool, config.max_len, config.layer_idx = self.pool.backend_, MOST_ROWS, 0
        config.gate_proj, config.up_proj, config.down_proj = gate.data_ptr(), up.data_ptr(), down.data_ptr()
        self.moe = make(config)
        order = torch.arange(e)
        self.pool.submit(self.moe.load_weights_task(order.data_ptr()))
        self.pool.sync()

    def prepare(self, tokens):
        m = len(tokens.x)
        tokens.kt = dict(x=tokens.x.bfloat16(), y=torch.empty(tokens.x.shape, dtype=torch.bfloat16),
                         experts=torch.repeat_interleave(torch.arange(len(tokens.counts)), tokens.counts).view(m, 1),
                         weights=torch.ones(m, 1))

    def run(self, tokens):
        kt, rows = tokens.kt, len(tokens.x)
        for first in range(0, rows, MOST_ROWS):
            count = torch.tensor([min(MOST_ROWS, rows - first)], dtype=torch.int32)
            pointers = [kt[name][first:].data_ptr() for name in ("experts", "weights", "x", "y")]
            self.pool.submit(self.moe.forward_task(count.data_ptr(), 1, *pointers, False))
            self.pool.sync()
        return kt["y"]

    def verdict(self, tokens, results):
        return judge.layer_error(tokens, self.data, results, weight_scaled=False)


def rivals(stack, capped):
    """Of sigma20 alone: its time hangs on no weights, and setting it up takes half of what all rivals take together."""
    if stack.operator != "A" or stack.weights != "int8" or not FOLDER.exists() or stack.n % 128:
        return []
    if stack.distribution != "sigma20" or stack.offset:
        return []

    def make(stack, data):
        return KtKernel(stack, data, capped)
    make.__doc__ = KtKernel.__doc__
    return [make]
