# SPDX-License-Identifier: Apache-2.0
"""A step of the set-up: one printed line with its time, a log, and a stamp that says what it was made from."""
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from checkout import LOGS, ROOT, STATE, Failure, child_environment

TAIL_LINES = 40


@contextmanager
def step(title: str):
    """Prints the title, then the time; without a terminal too, so that a log shows what takes long."""
    print(f"  {title} ... ", end="", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"stopped after {time.monotonic() - start:.1f} s", flush=True)
        raise
    print(f"{time.monotonic() - start:.1f} s", flush=True)


def run(command: list, log: str, *, cwd: Path = ROOT, env: dict | None = None) -> None:
    """Runs a command unattended, its output in .qgmm/logs/<log>.log; on failure the end of it is shown."""
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{log}.log"
    command = [str(word) for word in command]
    with open(path, "w") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        status = wait(subprocess.Popen(command, cwd=cwd, env=env or child_environment(), stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=subprocess.STDOUT))
    if status != 0:
        tail = "\n".join(path.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        raise Failure(f"{command[0]} failed ({status}); the end of {path.relative_to(ROOT)}:\n{tail}")


def show(command: list, *, cwd: Path = ROOT, env: dict | None = None) -> int:
    """Runs a command whose output the user is to see."""
    sys.stdout.flush()
    return wait(subprocess.Popen([str(word) for word in command], cwd=cwd, env=env or child_environment(),
                                 stdin=subprocess.DEVNULL))


def wait(process: subprocess.Popen) -> int:
    try:
        return process.wait()
    except BaseException:  # interrupted: the child goes first
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise


def output_of(command: list, *, env: dict | None = None) -> str | None:
    """Standard output of a command that answers at once; None where it is missing or fails."""
    try:
        result = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=env,
                                stdin=subprocess.DEVNULL, check=False)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def digest(paths: list[Path]) -> str:
    """One hash over the contents of files, and of all files below folders."""
    total = hashlib.sha256()
    for top in paths:
        files = sorted(p for p in top.rglob("*") if p.is_file()) if top.is_dir() else [top]
        for file in files:
            if "__pycache__" not in file.parts and file.exists():
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                total.update(f"{file.relative_to(ROOT)} {content}\n".encode())
    return total.hexdigest()


def _stamp(name: str) -> Path:
    return STATE / "stamps" / f"{name}.json"


def made_from(name: str) -> dict | None:
    """What the step `name` was last finished with; None if it never was, or was begun again since."""
    try:
        return json.loads(_stamp(name).read_text())
    except (OSError, ValueError):
        return None


def begin(name: str) -> None:
    _stamp(name).unlink(missing_ok=True)


def finish(name: str, inputs: dict) -> None:
    """Recorded at once or not at all: an interrupted step has no stamp and is done again."""
    path = _stamp(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(inputs, indent=1))
    os.replace(fresh, path)
