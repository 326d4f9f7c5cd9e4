# SPDX-License-Identifier: Apache-2.0
"""Who may include what. Downwards only, no circles; a file that has no row here may include nothing of ours."""
import re
import sys
from pathlib import Path

import tree

STD = r"[a-z_]+|c[a-z]+|sys/mman\.h|sched\.h|unistd\.h|errno\.h"
INTRINSICS = r"immintrin\.h|arm_neon\.h"

# room: (pattern of its files, rooms and single files it may include, outside headers in angle brackets)
ROOMS = {
    "public": (r"include/qgmm/.*", {"public"}, r"[a-z_]+"),
    "reference": (r"src/reference.*|src/moe/.*", {"public", "core", "reference"}, r"[a-z_]+"),
    "ops": (r"src/ops\.cc", {"public", "core", "reference", "src/cpu/backend.h", "src/cuda/backend.h"}, r"[a-z_]+"),
    "isa": (r"src/cpu/isa/.*|src/cpu/.*-inl\.h",
            {"isa", "src/problem.h", "src/numeric.h", "src/packed_format.h", "src/cpu/kernel.h", "src/cpu/kernels.inc",
             "src/cpu/prefetch.h", "include/qgmm/types.h"}, rf"[a-z_]+|{INTRINSICS}"),
    "cpu": (r"src/cpu/.*", {"public", "core", "cpu", "src/cpu/isa/tables.h"}, r"[a-z_]+|sched\.h|unistd\.h|sys/mman\.h"),
    "cuda": (r"src/cuda/.*", {"public", "core", "cuda"}, r"[a-z_]+|cuda.*"),
    "core": (r"src/[^/]*", {"public", "core"}, r"[a-z_]+"),
    "torch": (r"torch/.*", {"public", "torch"}, r"[a-z_]+|torch/.*"),
    "formats": (r"formats/.*", {"public", "formats"}, r"[a-z_]+"),
    "examples": (r"examples/.*", {"public", "examples"}, r"[a-z_]+"),
    "bench": (r"bench/.*", {"public", "core", "reference", "cpu", "isa", "cuda", "bench"}, rf"{STD}|benchmark/.*"),
    "package": (r"tests/package/.*", {"public"}, r"[a-z_]+|qgmm/.*"),
    "probe": (r"tests/python/.*", {"public", "torch"}, r"[a-z_]+|torch/.*"),
    "emulation": (r"tests/emulation/.*", {"public", "core", "reference", "cpu", "isa", "tests", "emulation"},
                  rf"{STD}|gtest/.*|simde/.*|{INTRINSICS}"),
    "tests": (r"tests/.*", {"public", "core", "reference", "cpu", "isa", "cuda", "tests", "emulation"},
              rf"{STD}|gtest/.*|{INTRINSICS}|xmmintrin\.h"),
}
# Single files with one outside header more than their room.
EXCEPTIONS = {"src/cpu/dispatch.cc": r"cpuid\.h|sys/auxv\.h|sys/syscall\.h|unistd\.h", "src/cpu/team_openmp.cc": r"omp\.h",
              "src/context.cc": r"sys/mman\.h", "bench/roof.cc": r"cpuid\.h|sys/syscall\.h",
              "src/float_mode.h": r"xmmintrin\.h|cfenv"}
NEVER = r"Python\.h|pybind11/.*|ATen/.*|c10/.*"


def room_of(name: str) -> str | None:
    return next((room for room, (pattern, _, _) in ROOMS.items() if re.fullmatch(pattern, name)), None)


def resolve(name: str, include: str) -> str | None:
    """The file of the tree that an include in quotes means."""
    for folder in (Path(name).parent, Path("include"), Path("src"), Path("tests"), Path("torch")):
        if (tree.ROOT / folder / include).is_file():
            return (folder / include).as_posix()
    return None


def complaints_of(name: str, graph: dict[str, list[str]]) -> list[str]:
    room = room_of(name)
    if room is None:
        return [f"{name}: no room for it in tools/check_includes.py"]
    _, inside, outside = ROOMS[room]
    found = []
    for line, text in enumerate(tree.text(name).splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', text)
        if not match:
            continue
        include = match[2]
        target = resolve(name, include) if match[1] == '"' else None
        graph[name].append(target or "")
        allowed = (target in inside or room_of(target) in inside if target else
                   match[1] == "<" and re.fullmatch(outside, include) or re.fullmatch(EXCEPTIONS.get(name, "-"), include))
        if not allowed or re.fullmatch(NEVER, include):
            found.append(f"{name}:{line}: {room} must not include {include}")
    return found


def circles(graph: dict[str, list[str]]) -> list[str]:
    done, found = set(), []

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append("circle: " + " -> ".join([*path[path.index(name):], name]))
        elif name not in done:
            for target in graph.get(name, []):
                walk(target, [*path, name])
            done.add(name)

    for name in graph:
        walk(name, [])
    return found


def main() -> int:
    names = tree.files(*tree.CPP)
    graph = {name: [] for name in names}
    complaints = [complaint for name in names for complaint in complaints_of(name, graph)]
    return tree.report("includes", complaints + circles(graph))


if __name__ == "__main__":
    sys.exit(main())
