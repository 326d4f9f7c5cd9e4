# SPDX-License-Identifier: Apache-2.0
"""Loads _torch.so and names what it registered: `ops`, the one alias through which Python reaches the operators."""

import ctypes
import os
import sys
import threading
import warnings
from pathlib import Path

import torch

from . import __path__ as _package_path

# The numbers of `enum class Spelling` in include/qgmm/ops.h: whose names a call uses in its sentences.
NATIVE, VENDOR_SWIGLU_QUANT_V1, VENDOR_SWIGLU_QUANT_V2, VENDOR_WEIGHT_QUANT_GMM, VENDOR_WEIGHT_QUANT_GMM_V2 = range(5)
_VENDOR_NAMES = (
    "",
    "npu_grouped_matmul_swiglu_quant",
    "npu_grouped_matmul_swiglu_quant_v2",
    "npu_weight_quant_gmm",
    "npu_weight_quant_gmm_v2",
)


def called_name(native: str, spelling: int) -> str:
    """The name that a sentence begins with."""
    return _VENDOR_NAMES[spelling] or native


def _find() -> Path:
    # QGMM_TORCH_LIBRARY: another build of the same library (a sanitized one, one from a build folder).
    chosen = os.environ.get("QGMM_TORCH_LIBRARY")
    if chosen:
        return Path(chosen)
    # An editable install keeps the library in site-packages and the .py files in the tree; __path__ names both.
    for folder in _package_path:
        candidate = Path(folder) / "_torch.so"
        if candidate.exists():
            return candidate
    raise ImportError(f"qgmm: _torch.so is not in {list(_package_path)}; reinstall with pip install .")


def _load(path: Path) -> ctypes.CDLL:
    try:
        torch.ops.load_library(str(path))
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"qgmm: {path} does not load with torch {torch.__version__} ({error}); reinstall with pip install ."
        ) from error


LIBRARY_PATH = _find()
_library = _load(LIBRARY_PATH)
_library.qgmm_version.restype = ctypes.c_char_p
_library.qgmm_torch_namespace.restype = ctypes.c_char_p

VERSION = _library.qgmm_version().decode()
NAMESPACE = _library.qgmm_torch_namespace().decode()
ops = getattr(torch.ops, NAMESPACE)

# Called names that have warned: once per process each.
_warned: set[str] = set()
_warned_lock = threading.Lock()


def _caller_depth() -> int:
    """The stacklevel, seen from _warn_once, of the first frame that is neither ours nor torch's."""
    here, level = os.path.dirname(__file__), 1
    torch_folder = os.path.dirname(torch.__file__)
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith((here, torch_folder)):
        frame = frame.f_back
        level += 1
    return level


def _warn_once(text: bytes) -> int:
    """Called from C++ with `[name] sentence`. 1: a filter turned the warning into an error, which C++ then raises."""
    sentence = text.decode()
    name = sentence[: sentence.find("]") + 1]
    with _warned_lock:
        if name in _warned:
            return 0
        _warned.add(name)
    try:
        warnings.warn(sentence, UserWarning, stacklevel=_caller_depth())
    except UserWarning:
        return 1
    return 0


# Kept alive for as long as the library may call it.
_warning_callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)(_warn_once)
_library.qgmm_set_warning_callback(_warning_callback)
