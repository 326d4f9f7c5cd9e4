# SPDX-License-Identifier: Apache-2.0
"""Debian and Ubuntu packages: installed where we are allowed to, else one line to type."""
import os
import shutil

from checkout import Failure, child_environment
from steps import output_of, run, step


def present() -> bool:
    return shutil.which("apt-get") is not None


def _prefix() -> list[str] | None:
    """What goes before apt-get; None where we may not install."""
    if not present() or os.environ.get("QGMM_NO_SYSTEM_PACKAGES"):
        return None
    if os.geteuid() == 0:
        return []
    return ["sudo", "-n"] if output_of(["sudo", "-n", "true"]) is not None else None


def allowed() -> bool:
    return _prefix() is not None


def remedy(packages: list[str]) -> str:
    """The end of a sentence that says what is missing."""
    if not present():
        return "; install it and repeat the command"
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"; type:\n  {sudo}apt-get update && {sudo}apt-get install -y {' '.join(packages)}"


def install(packages: list[str]) -> None:
    prefix = _prefix()
    if prefix is None:
        raise Failure(f"{', '.join(packages)} must be installed{remedy(packages)}")
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=a",
           "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    get = [*apt, "install", "-y", "--no-install-recommends", *packages]
    with step(f"Debian packages {' '.join(packages)}"):
        env = child_environment()
        try:
            run(get, "apt", env=env)
        except Failure:  # no package lists yet, or old ones
            run([*apt, "update"], "apt-update", env=env)
            run(get, "apt", env=env)
