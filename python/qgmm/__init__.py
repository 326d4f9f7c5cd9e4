# SPDX-License-Identifier: Apache-2.0
"""Quantized grouped matrix multiplication for Mixture-of-Experts, exact and fast, on the hardware people have."""


def _require_torch() -> None:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError("qgmm needs torch 2.10 or newer; torch is not installed (pip install torch)") from None
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < (2, 10):
        raise ImportError(f"qgmm needs torch 2.10 or newer; found torch {torch.__version__}")


_require_torch()

from . import autograd, fake, flops  # noqa: E402, F401  they register what torch has to know
from .explain import explain, last_run, machine, reference  # noqa: E402
from .library import VERSION as __version__  # noqa: E402
from .ops import (  # noqa: E402
    dynamic_quant,
    grouped_matmul,
    grouped_matmul_swiglu_quant,
    weight_quant_grouped_matmul,
)
from .packed import PackedWeight  # noqa: E402
from .vendor import (  # noqa: E402
    npu_format_cast,
    npu_grouped_matmul_swiglu_quant,
    npu_grouped_matmul_swiglu_quant_v2,
    npu_weight_quant_gmm,
    npu_weight_quant_gmm_v2,
)
from .weights import from_fractal_nz, pack_weight, to_fractal_nz  # noqa: E402

__all__ = [
    "PackedWeight",
    "__version__",
    "dynamic_quant",
    "explain",
    "from_fractal_nz",
    "grouped_matmul",
    "grouped_matmul_swiglu_quant",
    "last_run",
    "machine",
    "npu_format_cast",
    "npu_grouped_matmul_swiglu_quant",
    "npu_grouped_matmul_swiglu_quant_v2",
    "npu_weight_quant_gmm",
    "npu_weight_quant_gmm_v2",
    "pack_weight",
    "reference",
    "to_fractal_nz",
    "weight_quant_grouped_matmul",
]


def __getattr__(name: str):
    if name.startswith("npu_"):
        names = ", ".join(known for known in __all__ if known.startswith("npu_"))
        raise AttributeError(f"{name} is not part of qgmm yet; implemented: {names}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
