# SPDX-License-Identifier: Apache-2.0
"""What would run, what ran, on which machine, and reference mode."""

from __future__ import annotations

import contextlib
import json
import threading

from torch.utils._python_dispatch import TorchDispatchMode

from .library import ops

_EXPLAINED = {
    ops.grouped_matmul_swiglu_quant.default: ops.explain_grouped_matmul_swiglu_quant.default,
    ops.weight_quant_grouped_matmul.default: ops.explain_weight_quant_grouped_matmul.default,
    ops.grouped_matmul.default: ops.explain_grouped_matmul.default,
}


class _Explained(BaseException):
    """Carries the report out of the call that did not take place. Not an Exception: nobody on the way may catch it."""

    def __init__(self, report: str) -> None:
        super().__init__(report)
        self.report = report


class _Explain(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        explained = _EXPLAINED.get(function)
        if explained is None:
            return function(*args, **kwargs)
        raise _Explained(explained(*args, **kwargs))


def explain(op, *args, **kwargs) -> dict:
    """What ``op(*args, **kwargs)`` would do, without doing it: kernels, blocks, tasks, workers, packing, and why.

    Args:
        op: ``qgmm.grouped_matmul_swiglu_quant``, ``qgmm.weight_quant_grouped_matmul``, ``qgmm.grouped_matmul``, one of
            the vendor's names for them, or any function that calls one of these; the first such call is explained.
        args, kwargs: its arguments.

    Returns:
        The plan as data. ``"operation"``, ``"isa"``, ``"kernels"``, ``"workers"`` and ``"notes"`` are among its keys.

    Raises:
        ValueError: the call would refuse its arguments, or calls none of these operators.

    Example:
        >>> import torch, qgmm
        >>> x = torch.ones(3, 8, dtype=torch.int8)
        >>> weight = torch.ones(2, 8, 4, dtype=torch.int8)
        >>> plan = qgmm.explain(qgmm.grouped_matmul, x, weight, torch.ones(2, 4), [1, 3])
        >>> plan["operation"]
        'grouped_matmul'
    """
    if not callable(op):
        raise ValueError(f"[explain] op must be a function of qgmm; got {type(op).__name__}")
    try:
        with _Explain():
            op(*args, **kwargs)
    except _Explained as explained:
        return json.loads(explained.report)
    wanted = ", ".join(function._schema.name.split("::")[1] for function in _EXPLAINED)
    raise ValueError(f"[explain] op must call one of {wanted}; got {getattr(op, '__name__', type(op).__name__)}")


def last_run() -> dict:
    """What this thread's last call did: ``operation``, ``kernels``, ``isa``, ``workers``, ``tasks``.

    Example:
        >>> import torch, qgmm
        >>> _ = qgmm.dynamic_quant(torch.ones(2, 8))
        >>> qgmm.last_run()["operation"]
        'dynamic_quant'
    """
    return json.loads(ops.last_run())


def machine() -> dict:
    """The machine as qgmm sees it: version, compiler, instruction sets found and chosen, threads, caches, kernels."""
    return json.loads(ops.machine())


_reference_lock = threading.Lock()
_reference_depth = 0


@contextlib.contextmanager
def reference():
    """While active, every call in the process runs the scalar specification instead of the kernels. Slow; for checking.

    Example:
        >>> import torch, qgmm
        >>> x = torch.randn(4, 16)
        >>> fast, fast_scale = qgmm.dynamic_quant(x)
        >>> with qgmm.reference():
        ...     slow, slow_scale = qgmm.dynamic_quant(x)
        >>> torch.equal(fast, slow), torch.equal(fast_scale, slow_scale)
        (True, True)
    """
    _count_reference(1)
    try:
        yield
    finally:
        _count_reference(-1)


def _count_reference(step: int) -> None:
    global _reference_depth
    with _reference_lock:
        _reference_depth += step
        ops.set_reference(_reference_depth > 0)
