# SPDX-License-Identifier: Apache-2.0
"""CMake builds, one folder per preset: configured once, brought up to date by Ninja every time."""
import os
import shutil
from pathlib import Path

from checkout import BUILD, ROOT, child_environment
from steps import begin, finish, made_from, run, step
from toolchain import Compiler, simde_found

GIB_PER_JOB = 1.0  # the largest translation unit takes about 0.6 GiB with g++ 12


def jobs() -> int:
    """As many compilers at once as there are CPUs for us and memory for them."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        text = Path("/proc/meminfo").read_text()
        free = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return cpus
    return max(1, min(cpus, int(free / 2**20 / GIB_PER_JOB)))


def drop_stale(folder: Path, compiler: Compiler) -> None:
    """CMake can neither change the compiler of a build folder nor follow a checkout that was moved."""
    cache = folder / "CMakeCache.txt"
    if not cache.exists():
        return
    text = cache.read_text()
    command = shutil.which(compiler.command.split()[0]) or compiler.command
    same_compiler = f"CMAKE_CXX_COMPILER:FILEPATH={command}\n" in text or f"CMAKE_CXX_COMPILER:STRING={command}\n" in text
    if not same_compiler or f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n" not in text:
        shutil.rmtree(folder)


def build(preset: str, compiler: Compiler, *, targets: tuple[str, ...] = (), **define: str) -> Path:
    """Configures build/<preset> where needed and builds `targets` (none: all)."""
    folder = BUILD / preset
    env = child_environment()
    if "release" in preset or preset in ("demo", "bench", "aarch64"):
        define.setdefault("QGMM_WERROR", "ON" if os.environ.get("QGMM_WERROR") == "1" else "OFF")
    inputs = {"compiler": str(compiler), "command": compiler.command, "root": str(ROOT), "define": define,
              "simde": simde_found(), "presets": (ROOT / "CMakePresets.json").read_text()}
    stamp = f"configured-{preset}"
    if made_from(stamp) != inputs or not (folder / "build.ninja").exists():
        begin(stamp)
        drop_stale(folder, compiler)
        command, *flags = compiler.command.split()
        options = [f"-D{name}={value}" for name, value in define.items()]
        with step(f"configure build/{preset} ({compiler})"):
            run(["cmake", "--preset", preset, f"-DCMAKE_CXX_COMPILER={shutil.which(command)}", *options],
                f"configure-{preset}", env={**env, "CXXFLAGS": " ".join([*flags, env.get("CXXFLAGS", "")]).strip()})
        finish(stamp, inputs)
    chosen = [word for target in targets for word in ("--target", target)]
    with step(f"compile build/{preset}"):
        run(["cmake", "--build", folder, "--parallel", str(jobs()), *chosen], f"compile-{preset}", env=env)
    return folder
