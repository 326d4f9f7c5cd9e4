# SPDX-License-Identifier: Apache-2.0
"""Programs written for Ascend NPUs, run unedited on qgmm.

    from qgmm.compat import npu
    with npu.install():            # or: installed = npu.install() ... installed.uninstall()
        import torch_npu

From a shell: `python -m qgmm.compat.npu script.py args`. docs/porting.md says what is covered and what differs.
"""
import contextlib
import sys

import torch

from . import library, modules

__all__ = ["install", "Installation"]

_MISSING = object()
_standing = None  # (ExitStack that takes everything down, number of installations that want it to stand)


class Installation:
    """What install() returns: a context manager; leaving it, or uninstall(), puts back what was there before."""

    def __init__(self):
        self.installed = True

    def uninstall(self):
        """Takes the stand-ins away, unless another installation still wants them. A second call does nothing."""
        global _standing
        if not self.installed:
            return
        self.installed = False
        undo, wanted = _standing
        _standing = (undo, wanted - 1) if wanted > 1 else None
        if _standing is None:
            undo.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.uninstall()


def install(device="cpu", strict=False, force=False):
    """Makes `torch_npu`, `mindspeed.ops.weight_quant_gmm`, `torchair`, `torch.npu`, `Tensor.npu()`, `Module.npu()`,
    `torch.ops.npu.*` and `torch.ops.mindspeed.*` work through qgmm, until the returned Installation is taken down.

    Args:
        device: where `.npu()` moves things; "cpu" is the only one yet.
        strict: refuse what the NPU refuses; not there yet.
        force: stand in for a torch_npu that is really installed. Operators it has already defined stay its own.

    Raises:
        ValueError: a device or strict mode that does not exist yet.
        RuntimeError: a real torch_npu is importable and force is False.

    Example:
        >>> import torch, qgmm.compat.npu
        >>> with qgmm.compat.npu.install():
        ...     import torch_npu
        ...     weight = torch_npu.npu_format_cast(torch.ones(1, 4, 6, dtype=torch.int8).npu(), 29)
        >>> weight.device
        device(type='cpu')
    """
    global _standing
    if str(device) != "cpu":
        raise ValueError(f"[qgmm.compat.npu] device must be cpu; got {device}")
    if strict:
        raise ValueError(f"[qgmm.compat.npu] strict must be False (refusing what the NPU refuses comes later); "
                         f"got {strict}")
    if _standing is not None:
        _standing = (_standing[0], _standing[1] + 1)
        return Installation()
    origin = modules.real("torch_npu")
    if origin is not None and not force:
        raise RuntimeError(f"[qgmm.compat.npu] torch_npu must not be importable unless force is True; got {origin}")
    with contextlib.ExitStack() as undo:
        _put_modules(undo)
        _put_methods(undo, torch.device(device))
        library.define(undo)
        _standing = (undo.pop_all(), 1)
    return Installation()


def _put(undo, owner, name, value):
    """owner.name = value, until undone."""
    before = vars(owner).get(name, _MISSING)
    undo.callback(*((delattr, owner, name) if before is _MISSING else (setattr, owner, name, before)))
    setattr(owner, name, value)


def _put_modules(undo):
    contents = modules.contents()
    if modules.real("mindspeed") is not None:  # a real checkout keeps all but the one module that needs the device
        contents = {name: value for name, value in contents.items()
                    if not name.startswith("mindspeed") or name == modules.WEIGHT_QUANT}
    for name in contents:
        _put_aside(undo, name)
    finder = modules.Finder(contents)
    sys.meta_path.insert(0, finder)
    undo.callback(sys.meta_path.remove, finder)
    for name in contents:
        if name != modules.WEIGHT_QUANT or "mindspeed" in contents:
            __import__(name)
    sys.modules["torch_npu"].npu = torch.npu


def _put_aside(undo, name):
    """Forgets an imported module of that name until undone; undoing forgets ours, in sys.modules and in its parent."""
    before = sys.modules.pop(name, None)
    parent_name, _, child = name.rpartition(".")
    parent = sys.modules.get(parent_name)
    bound = _MISSING if parent is None else vars(parent).get(child, _MISSING)
    if bound is not _MISSING:
        delattr(parent, child)

    def put_back():
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
        parent = sys.modules.get(parent_name)
        if parent is not None and bound is not _MISSING:
            setattr(parent, child, bound)
        elif parent is not None and child in vars(parent):
            delattr(parent, child)

    undo.callback(put_back)


def _put_methods(undo, target):
    def tensor_npu(self, device=None, non_blocking=False, memory_format=torch.preserve_format):
        """The tensor on the device that stands in for the NPU, whichever NPU was asked for."""
        return self.to(target, non_blocking=non_blocking, memory_format=memory_format)

    def module_npu(self, device=None):
        """The module with its parameters and buffers on the device that stands in for the NPU."""
        return self.to(target)

    _put(undo, torch.Tensor, "npu", tensor_npu)
    _put(undo, torch.nn.Module, "npu", module_npu)
