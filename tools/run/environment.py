# SPDX-License-Identifier: Apache-2.0
"""The Python environment .qgmm/venv: the caller's torch where it is new enough, else our own; and qgmm, built by pip."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import toolchain
from build import drop_stale
from checkout import BUILD, ROOT, STATE, VENV, VENV_PYTHON, Failure, child_environment
from steps import begin, digest, finish, made_from, output_of, run, step

CONSTRAINTS = ROOT / "tools" / "constraints.txt"
REQUIREMENTS = ROOT / "tools" / "requirements.txt"
OLDEST_TORCH = (2, 10)
PACKAGE_SOURCES = ("include", "src", "torch", "python", "cmake", "CMakeLists.txt", "pyproject.toml", "backend.py")

# Asked of a Python from the root folder, where the checkout's own torch/ cannot be taken for the package.
_FIND_TORCH = """
import importlib.metadata, importlib.util, json, os, site, sys
spec = importlib.util.find_spec("torch")
if spec and spec.origin:
    home = os.path.dirname(os.path.dirname(spec.origin))
    rest = [p for p in sys.path if p.endswith(("site-packages", "dist-packages")) and os.path.isdir(p) and p != home]
    print(json.dumps({"version": importlib.metadata.version("torch"), "folders": [home, *rest]}))
"""


def base_python() -> str:
    """The interpreter behind the caller's Python: environments are made from it, also when the caller is in one."""
    return getattr(sys, "_base_executable", None) or sys.executable


def _torch_of(python: str) -> dict | None:
    """Version and folders of the torch this Python sees; None if it sees none that is new enough."""
    result = subprocess.run([python, "-c", _FIND_TORCH], cwd="/", capture_output=True, text=True, check=False,
                            stdin=subprocess.DEVNULL)
    if result.returncode != 0 or not result.stdout.strip():
        return None
    found = json.loads(result.stdout)
    numbers = tuple(int(part) for part in found["version"].split(".")[:2])
    return found if numbers >= OLDEST_TORCH else None


def _imports(python: str) -> bool:
    return subprocess.run([python, "-c", "import torch; torch.zeros(1)"], cwd="/", capture_output=True, check=False,
                          stdin=subprocess.DEVNULL).returncode == 0


def _linked_torch() -> dict | None:
    """The caller's torch, or the one linked before if the caller of today has none."""
    found = _torch_of(sys.executable)
    old = (made_from("environment") or {}).get("torch")
    if found is None and old and Path(old["folders"][0], "torch", "version.py").exists():
        return old
    return found


def pinned() -> Path:
    """The constraints of every pip line: our torch, or the caller's own, which pip must leave alone."""
    linked = (made_from("environment") or {}).get("torch")
    return STATE / "constraints.txt" if linked else CONSTRAINTS


def pip(*arguments: str | Path, log: str, constraints: Path, env: dict | None = None) -> None:
    run([VENV_PYTHON, "-m", "pip", "install", "--constraint", constraints, *arguments], log, env=env)


def ensure() -> None:
    linked = _linked_torch()
    inputs = {"root": str(ROOT), "base": os.path.realpath(base_python()), "python": list(sys.version_info[:3]),
              "requirements": digest([REQUIREMENTS, CONSTRAINTS]), "torch": linked}
    if made_from("environment") == inputs and VENV_PYTHON.exists():
        return
    if linked and not _imports(sys.executable):
        print(f"  torch {linked['version']} of {sys.executable} does not import; one of our own is used", flush=True)
        linked = inputs["torch"] = None
        if made_from("environment") == inputs and VENV_PYTHON.exists():
            return
    _make(linked)
    finish("environment", inputs)


def _make(linked: dict | None) -> None:
    """From nothing: what an interrupted pip left behind is never built upon."""
    for name in ("environment", "package"):
        begin(name)
    shutil.rmtree(VENV, ignore_errors=True)
    with step(f"environment .qgmm/venv ({sys.version.split()[0]})"):
        run([base_python(), "-m", "venv", VENV], "venv")
    constraints = CONSTRAINTS
    if linked:
        with step(f"torch {linked['version']} of {linked['folders'][0]}"):
            constraints = STATE / "constraints.txt"
            constraints.write_text(f"torch=={linked['version']}\n")
            site = output_of([VENV_PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
            Path(site, "callers_torch.pth").write_text("".join(f"{folder}\n" for folder in linked["folders"]))
            if not _imports(str(VENV_PYTHON)):
                raise Failure(f"torch {linked['version']} of {linked['folders'][0]} imports in {sys.executable}, but "
                              "not in an environment linked to it; QGMM_PYTHON=... names a Python without torch")
    else:
        wanted = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
        with step(wanted.replace("==", " ")):
            pip(wanted, "numpy", log="torch", constraints=constraints)
    tools = toolchain.build_tools_from_pip()
    names = [line.split(">")[0] for line in REQUIREMENTS.read_text().splitlines() if line and line[0] != "#"]
    with step(" ".join([*names, *(tool.split(">")[0] for tool in tools)])):
        pip("-r", REQUIREMENTS, *tools, log="requirements", constraints=constraints)
    shutil.rmtree(STATE / "cache" / "pip", ignore_errors=True)  # gigabytes with a CUDA torch, and never read again


def torch_include() -> str:
    found = _torch_of(str(VENV_PYTHON))
    if not found:
        raise Failure("the environment has lost its torch; ./run clean and repeat the command")
    return str(Path(found["folders"][0], "torch", "include"))


def ensure_package(compiler: toolchain.Compiler, jobs: int) -> None:
    """qgmm itself, by pip, again only when something it is made from has changed."""
    inputs = {"sources": digest([ROOT / name for name in PACKAGE_SOURCES]), "compiler": str(compiler),
              "command": compiler.command, "environment": made_from("environment")}
    if made_from("package") == inputs:
        return
    begin("package")
    for folder in BUILD.glob("py3-none-*"):
        drop_stale(folder, compiler)
    include = torch_include()
    env = child_environment(CXX=compiler.command, QGMM_TORCH_INCLUDE=include, CMAKE_BUILD_PARALLEL_LEVEL=str(jobs))
    with step("Python package qgmm (compiled by pip)"):
        pip("--no-deps", "--no-build-isolation", "--force-reinstall",
            f"--config-settings=cmake.define.QGMM_TORCH_INCLUDE={include}", str(ROOT),
            log="package", constraints=pinned(), env=env)
    finish("package", inputs)


def ensure_ruff() -> None:
    """Only ./run lint needs it; one version, so that its opinion does not change by itself."""
    wanted = (ROOT / "tools" / "lint_requirements.txt").read_text().strip().splitlines()[-1]
    if made_from("ruff") == {"wanted": wanted, "environment": made_from("environment")}:
        return
    with step(wanted):
        pip(wanted, log="ruff", constraints=pinned())
    finish("ruff", {"wanted": wanted, "environment": made_from("environment")})


def ensure_optional(name: str, requirements: Path, apart: Path | None = None) -> None:
    """Packages that a command can do without, one by one; a package that does not install is named, and not tried again
    until the list or the environment changes. `apart`: a folder of their own, without what they depend on."""
    lines = [line for line in requirements.read_text().splitlines() if line and line[0] != "#"]
    inputs = {"wanted": lines, "environment": made_from("environment")}
    if made_from(name) == inputs:
        return
    for line in lines:
        package = line.split(">")[0]
        try:
            with step(package):
                where = ["--target", apart, "--no-deps", "--upgrade"] if apart else []
                pip(*where, line, log=package, constraints=pinned())
        except Failure:
            print(f"  {package} does not install here; it is left out (.qgmm/logs/{package}.log)", flush=True)
    finish(name, inputs)
