# SPDX-License-Identifier: Apache-2.0
"""Where everything lives. All that ./run sets up is inside the checkout, in two folders that git ignores."""
import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".qgmm"  # environment, logs, stamps, caches
BUILD = ROOT / "build"
VENV = STATE / "venv"
VENV_PYTHON = VENV / "bin" / "python"
LOGS = STATE / "logs"


class Failure(Exception):
    """Something the user must know, in one sentence or a few lines; ./run prints it and exits with 1."""


def child_environment(**more: str) -> dict[str, str]:
    """The caller's environment, with the checkout's tools first on PATH and the caches inside the checkout."""
    env = dict(os.environ)
    env.pop("PYTHONHOME", None)
    env["PATH"] = f"{VENV / 'bin'}{os.pathsep}{env.get('PATH', '')}"
    env["VIRTUAL_ENV"] = str(VENV)
    env.setdefault("PIP_CACHE_DIR", str(STATE / "cache" / "pip"))
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = env["PIP_NO_INPUT"] = "1"
    env.setdefault("TORCHINDUCTOR_CACHE_DIR", str(STATE / "cache" / "inductor"))
    env.setdefault("OMP_WAIT_POLICY", "passive")  # idle workers of one process do not take the cores of the next
    env.update(more)
    return env


@contextmanager
def set_up_lock():
    """Two ./run at the same time: the second one waits until the first has set things up."""
    STATE.mkdir(exist_ok=True)
    with open(STATE / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another ./run to finish its set-up", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def clean() -> None:
    for folder in (STATE, BUILD, ROOT / "dist"):
        if folder.exists():
            print(f"removed {folder.name}/", flush=True)
            shutil.rmtree(folder)
    for pattern in ("__pycache__", ".pytest_cache", ".ruff_cache", "*.egg-info"):
        for folder in [path for path in ROOT.rglob(pattern) if ".git" not in path.parts]:
            shutil.rmtree(folder, ignore_errors=True)
