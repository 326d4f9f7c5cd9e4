# SPDX-License-Identifier: Apache-2.0
"""The files a check looks at: all that git tracks or would track, by their path from the root."""
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CPP = (".h", ".cc", ".cpp", ".inc", ".cu", ".cuh")
GENERATED_OR_BUILT = {".git", ".qgmm", "build", "dist"}


def files(*suffixes: str) -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        names = result.stdout.splitlines()
    else:  # an unpacked archive
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")]
    kept = [name for name in names if not GENERATED_OR_BUILT & set(Path(name).parts) and (ROOT / name).is_file()]
    return sorted(name for name in kept if not suffixes or name.endswith(suffixes))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def left_out(build: Path, isa: str) -> bool:
    """Whether CMake found that the compiler of `build` lacks what this ISA needs."""
    cache = build / "CMakeCache.txt"
    return cache.exists() and f"QGMM_{isa.upper()}:INTERNAL=\n" in cache.read_text(encoding="utf-8")


def report(check: str, complaints: list[str]) -> int:
    """Prints the complaints; the exit status of the check."""
    for complaint in complaints:
        print(f"{check}: {complaint}", file=sys.stderr)
    return 1 if complaints else 0
