# SPDX-License-Identifier: Apache-2.0
"""qgmm installed into a folder of its own, static and shared, from builds that reuse nothing but the sources."""
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command, env=None, cwd=None):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, env=env, cwd=cwd)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout[-4000:]}{result.stderr[-4000:]}"
    return result.stdout


@pytest.fixture(scope="session", params=["static", "shared"])
def installed(request, tmp_path_factory):
    """The prefix of an installation; its name says which kind of library it holds."""
    build = ROOT / "build" / f"package-{request.param}"  # kept: the second run compiles nothing
    prefix = tmp_path_factory.mktemp(request.param) / "prefix with a blank"
    run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
        f"-DBUILD_SHARED_LIBS={'ON' if request.param == 'shared' else 'OFF'}", "-DCMAKE_INSTALL_LIBDIR=lib")
    run("cmake", "--build", build, "--parallel", "2", "--target", "qgmm")
    run("cmake", "--install", build, "--component", "cpp", "--prefix", prefix)
    return prefix.rename(prefix.parent / "moved")  # an installation may be moved


@pytest.fixture(scope="session")
def environment(installed):
    return {**os.environ, "LD_LIBRARY_PATH": str(installed / "lib"), "PKG_CONFIG_PATH": str(installed / "lib/pkgconfig")}
