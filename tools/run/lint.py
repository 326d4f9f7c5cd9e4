# SPDX-License-Identifier: Apache-2.0
"""./run lint: every check of tools/, each in a process of its own, and a table of them."""
import time

from checkout import BUILD, ROOT, VENV_PYTHON
from steps import show

TOOLS = ROOT / "tools"
CHECKS = {
    "sizes": [VENV_PYTHON, TOOLS / "check_sizes.py"],
    "includes": [VENV_PYTHON, TOOLS / "check_includes.py"],
    "rules": [VENV_PYTHON, TOOLS / "check_rules.py"],
    "ISA objects": [VENV_PYTHON, TOOLS / "check_isa_objects.py", BUILD / "release", BUILD / "aarch64"],
    "spills": [VENV_PYTHON, TOOLS / "check_spills.py", BUILD / "release", BUILD / "aarch64"],
    "situations": [VENV_PYTHON, TOOLS / "check_situations.py", BUILD / "release"],
    "ruff": [VENV_PYTHON, "-m", "ruff", "check", "--no-cache", "--quiet", "--config", TOOLS / "ruff.toml", ROOT],
}


def run_all() -> int:
    lines, failed = [], 0
    for name, command in CHECKS.items():
        start = time.monotonic()
        status = show(command)
        failed += status != 0
        lines.append(f"{name:<12} {time.monotonic() - start:6.1f} s  {'passed' if status == 0 else 'FAILED'}")
    print("\n" + "\n".join(lines))
    print(f"\n{len(CHECKS) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0
