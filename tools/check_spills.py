# SPDX-License-Identifier: Apache-2.0
"""Inner loops of the ISA objects keep their sums in registers: a loop that holds multiply instructions and no other loop may
neither store a vector nor load one from the stack, and the largest tile of an object uses at least half of the registers
as sums, by one multiply each. usage: check_spills.py BUILD [COMPILER]: with COMPILER the files are compiled by it, with
the flags of BUILD."""
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import tree

ISA = "src/cpu/isa/"
SKIPPED = {"scalar"}  # the compiler's own vectors
INTEGERS = re.compile(r"v?(pdpbusd|pdpbssd|pdpwssd|pmaddwd|pmaddubsw)$")
FLOATS = re.compile(r"vfn?madd\w*ps$")
# Vector operands on the stack in one inner loop that are known and no more than that: the compilers keep a constant in a
# register and a sum on the stack, where the constant could have come from memory.
KNOWN = {("avx2", "GemmPairs"): 2, ("avx2", "GemmQuads"): 2, ("avx2", "GemmInt4"): 10}
# What an assembler must know, of files that not every compiler can make.
NEEDS = {"avxvnniint8": 'asm("vpdpbssd %ymm0, %ymm1, %ymm2");'}
KERNEL = re.compile(r"Gemm\w+")
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
LINE = re.compile(r"^\s*([0-9a-f]+):\s+(?:data16 |rex\.W |notrack |\{vex\} )*(\S+)\s*(.*)$")
TARGET = re.compile(r"^([0-9a-f]+) <")
VECTOR = re.compile(r"%[xyz]mm\d+")
STACK = re.compile(r"\(%r[sb]p[,)]")


class Loop:
    """Instructions from the target of a backward branch to the branch."""

    def __init__(self, function: str, body: list[tuple[str, str]], framed: bool, integers: bool):
        self.function = function
        self.multiplies = sum(bool((INTEGERS if integers else FLOATS).match(name)) for name, _ in body)
        self.registers = 32 if any("%zmm" in operands for _, operands in body) else 16
        self.spills = [f"{name} {operands}" for name, operands in body if _spills(name, operands, framed)]


def _spills(name: str, operands: str, framed: bool) -> bool:
    """A vector store anywhere, or a vector operand on the stack. %rbp may be any pointer in functions without a frame."""
    if not VECTOR.search(operands) or "(" not in operands:
        return False
    stores = name.startswith(("vmov", "mov", "vextract")) and operands.rstrip().endswith(")")
    on_stack = STACK.search(operands) and (framed or "%rbp" not in operands)
    return stores or bool(on_stack)


def functions(listing: str):
    name, code = "", []
    for line in listing.splitlines():
        if match := FUNCTION.match(line):
            if code:
                yield name, code
            name, code = match[1], []
        elif match := LINE.match(line):
            code.append((int(match[1], 16), match[2], match[3].split("#")[0]))
    if code:
        yield name, code


def body_of(code: list[tuple[int, str, str]], first: int, last: int) -> frozenset[int]:
    """Addresses of the natural loop that a branch at `last` to `first` closes; empty if it has another entry."""
    before = {}  # address -> those that may go there
    for (at, name, operands), follower in zip(code, [*code[1:], None], strict=True):
        target = TARGET.match(operands)
        if name.startswith("j") and target:
            before.setdefault(int(target[1], 16), []).append(at)
        if follower and name not in ("jmp", "ret"):
            before.setdefault(follower[0], []).append(at)
    body, todo = {first}, [last]
    while todo:
        at = todo.pop()
        if at not in body:
            body.add(at)
            todo += before.get(at, [])
    return frozenset() if code[0][0] in body - {first} else frozenset(body)


def loops(listing: str):
    """Innermost ones that multiply, in the functions of kernels. Beside integer products fma only folds."""
    for name, code in functions(listing):
        if "Gemm" not in name:
            continue
        framed = any(instruction == "mov" and operands.strip() == "%rsp,%rbp" for _, instruction, operands in code)
        integers = any(INTEGERS.match(instruction) for _, instruction, _ in code)
        bodies = set()
        for at, instruction, operands in code:
            target = TARGET.match(operands)
            if instruction.startswith("j") and target and code[0][0] <= int(target[1], 16) <= at:
                bodies.add(body_of(code, int(target[1], 16), at))
        bodies.discard(frozenset())
        for body in bodies:
            if any(other < body for other in bodies):
                continue
            loop = Loop(name, [(word, operands) for at, word, operands in code if at in body], framed, integers)
            if loop.multiplies:
                yield loop


def known(isa: str, function: str) -> int:
    kernels = KERNEL.findall(function.split("(qgmm::cpu::GemmArgs")[0])
    return KNOWN.get((isa, kernels[-1]), 0) if kernels else 0


def complaints_of(name: str, path: Path) -> list[str]:
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", str(path)]
    found = list(loops(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    if not found:
        return [f"{name}: no loop that multiplies"]
    complaints = [f"{name}: {loop.function}: stack traffic in an inner loop: {loop.spills[0].strip()}"
                  f" ({len(loop.spills)} of them)" for loop in found if len(loop.spills) > known(name, loop.function)]
    largest = max(found, key=lambda loop: loop.multiplies)
    if largest.multiplies < largest.registers // 2:
        complaints.append(f"{name}: no inner loop has {largest.registers // 2} multiplies, half of the registers; "
                          f"the largest, {largest.function}, has {largest.multiplies}: was it unrolled?")
    if not complaints:
        print(f"{name}: {len(found)} inner loops, the largest with {largest.multiplies} multiplies")
    return complaints


def can_make(isa: str, build: Path, compiler: str) -> bool:
    if tree.left_out(build, isa):
        return False
    probe = [compiler, "-x", "c++", "-c", "-o", "/dev/null", "-"]
    return (not compiler or isa not in NEEDS or
            subprocess.run(probe, input=NEEDS[isa], text=True, capture_output=True, check=False).returncode == 0)


def compile_by(compiler: str, build: Path, source: str, to: Path) -> Path:
    """The object of `source`, by the command of `build` with another compiler."""
    entries = json.loads((build / "compile_commands.json").read_text())
    entry = next(entry for entry in entries if entry["file"].endswith(source) and "-DQGMM_VERSION" in entry["command"])
    words = [word for word in shlex.split(entry["command"])[1:] if not word.startswith("-W")]
    out = to / f"{Path(source).name}.o"
    words[words.index("-o") + 1] = str(out)
    subprocess.run([compiler, *words], cwd=entry["directory"], check=True)
    return out


def main() -> int:
    build, compiler = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    complaints = []
    with tempfile.TemporaryDirectory() as scratch:
        for source in (name for name in tree.files(".cc") if name.startswith(ISA) and Path(name).stem not in SKIPPED):
            if Path(source).stem.startswith(("neon", "amx")):  # Arm's are another machine's; tiles need no registers
                continue
            if not can_make(Path(source).stem, build, compiler):
                print(f"{Path(source).stem}: not checked: {compiler or 'the compiler'} does not know its instructions")
                continue
            paths = ([compile_by(compiler, build, source, Path(scratch))] if compiler else
                     sorted(build.glob(f"src/**/isa/{Path(source).name}.o")))
            if not paths:
                complaints.append(f"{source}: not built in {build}")
            for path in paths:
                complaints += complaints_of(Path(source).stem, path)
    return tree.report("spills", complaints)


if __name__ == "__main__":
    sys.exit(main())
