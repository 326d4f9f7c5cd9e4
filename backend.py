# SPDX-License-Identifier: Apache-2.0
"""scikit-build-core, plus torch as a build requirement only where no torch headers are in reach.

pip's build isolation hides site-packages from sys.path, not from sysconfig; so a torch that is installed is found, and
nobody downloads gigabytes for the sake of some headers.
"""

import os
import sysconfig

from scikit_build_core.build import *  # noqa: F403
from scikit_build_core.build import get_requires_for_build_editable as _editable
from scikit_build_core.build import get_requires_for_build_wheel as _wheel

_HEADER = os.path.join("torch", "include", "torch", "csrc", "stable", "library.h")


def _torch():
    # QGMM_TORCH_INCLUDE: the headers are named by hand (-C cmake.define.QGMM_TORCH_INCLUDE=...), none are needed here.
    if os.environ.get("QGMM_TORCH_INCLUDE"):
        return []
    found = any(os.path.exists(os.path.join(sysconfig.get_path(path), _HEADER)) for path in ("purelib", "platlib"))
    return [] if found else ["torch>=2.10"]


def get_requires_for_build_wheel(config_settings=None):
    return _wheel(config_settings) + _torch()


def get_requires_for_build_editable(config_settings=None):
    return _editable(config_settings) + _torch()
