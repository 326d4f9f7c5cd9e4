# SPDX-License-Identifier: Apache-2.0
"""What a program written for the NPU imports: torch_npu, mindspeed, torchair and torch.npu, as modules over qgmm.

They are found through a finder of the import system and not merely put into `sys.modules`: so each has a valid
`__spec__` (libraries probe with `importlib.util.find_spec`, which raises where that is None), and a module inside a
package that really exists, such as a MindSpeed checkout, is bound to its parent whenever that is imported.
"""
import importlib.abc
import importlib.machinery
import importlib.util

import torch

from ... import vendor

ORIGIN = "qgmm.compat.npu"
WEIGHT_QUANT = "mindspeed.ops.weight_quant_gmm"


class NpuConfig:
    """torch.npu.config: settings of the device. They are kept, and nothing reads them."""

    def __init__(self):
        self.allow_internal_format = False


class CompilerConfig:
    """torchair's CompilerConfig: accepts and keeps any setting, however deep (`config.debug.graph_dump.type = ...`)."""

    def __getattr__(self, name):
        if name.startswith("__"):  # copy, pickle and inspect ask for methods that are not there
            raise AttributeError(name)
        setattr(self, name, CompilerConfig())
        return self.__dict__[name]


def get_npu_backend(*, compiler_config=None, custom_decompositions=None):
    """The backend for torch.compile. There is no graph compiler here: the graph is captured and run operator by
    operator, so its shapes and dtypes are checked as on the device."""
    return "aot_eager"


def contents():
    """Attributes of every module, by the module's name."""
    swiglu = {f.__name__: f for f in (vendor.npu_grouped_matmul_swiglu_quant, vendor.npu_format_cast,
                                      vendor.npu_grouped_matmul_swiglu_quant_v2)}
    weight_quant = {f.__name__: f for f in (vendor.npu_weight_quant_gmm, vendor.npu_weight_quant_gmm_v2)}
    npu = {
        "is_available": lambda: False,  # else transformers and accelerate would move their models to a device "npu"
        "device_count": lambda: 0,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "current_stream": lambda device=None: torch.cpu.current_stream(),
        "manual_seed": torch.manual_seed,
        "manual_seed_all": torch.manual_seed,
        "config": NpuConfig(),
    }
    return {
        "torch.npu": npu,
        "torch_npu": {"__version__": "0+qgmm", **swiglu},
        "mindspeed": {},
        "mindspeed.ops": {},
        WEIGHT_QUANT: weight_quant,
        "torchair": {"CompilerConfig": CompilerConfig, "get_npu_backend": get_npu_backend},
        "torchair.configs": {},
        "torchair.configs.compiler_config": {"CompilerConfig": CompilerConfig},
    }


def refuse(module, implemented):
    """A module's `__getattr__`: an unknown name is answered by the known ones."""

    def __getattr__(name):
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise AttributeError(f"{name} is not part of qgmm.compat.npu; implemented: {', '.join(sorted(implemented))}")

    return __getattr__


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and fills the modules of `contents()`."""

    def __init__(self, modules):
        self.modules = modules

    def find_spec(self, name, path=None, target=None):
        if name not in self.modules:
            return None
        package = name == "torch_npu" or any(other.startswith(name + ".") for other in self.modules)
        return importlib.machinery.ModuleSpec(name, self, origin=ORIGIN, is_package=package)

    def create_module(self, spec):
        return None  # the ordinary kind

    def exec_module(self, module):
        attributes = self.modules[module.__name__]
        children = {name.rpartition(".")[2] for name in self.modules if name.rpartition(".")[0] == module.__name__}
        module.__doc__ = f"{module.__name__} as qgmm.compat.npu shows it."
        module.__getattr__ = refuse(module.__name__, [n for n in {*attributes, *children} if not n.startswith("__")])
        vars(module).update(attributes)


def real(name):
    """Where a module of that name comes from that is not ours, or None."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a parent that fails to import; a module in sys.modules without __spec__
        return "sys.modules"
    if spec is None or spec.origin == ORIGIN:
        return None
    return spec.origin or ", ".join(spec.submodule_search_locations or ()) or "sys.modules"
