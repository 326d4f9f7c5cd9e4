# SPDX-License-Identifier: Apache-2.0
"""Inner loops of the ISA objects keep their sums in registers: a loop that holds multiply instructions and no other loop may
neither store a vector nor load one from the stack, but for sums in memory that get what eight multiplies or more made in
registers; and the largest tile of an object uses at least half of the registers
as sums, by one multiply each. Loops of AMX tiles may not touch the stack at all, unless they call something.
usage: check_spills.py BUILD ARM-BUILD [COMPILER]: with COMPILER the files of BUILD are compiled by it, with the flags of
BUILD; Arm's objects are taken as they are."""
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tree

ISA = "src/cpu/isa/"
PRODUCTS_PER_STORE = 8  # int4 of AVX2: partials of four lines are added to sums in memory
SKIPPED = {"scalar"}  # the compiler's own vectors
# What an assembler must know, of files that not every compiler can make.
NEEDS = {"avxvnniint8": 'asm("vpdpbssd %ymm0, %ymm1, %ymm2");'}
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
LINE = re.compile(r"^\s*([0-9a-f]+):\s+(?:data16 |rex\.W |notrack |\{vex\} )*(\S+)\s*(.*)$")
TARGET = re.compile(r"(?:^|\s)([0-9a-f]+) <")


@dataclass(frozen=True)
class Machine:
    """How its disassembly reads. Where `integers` are in a function, `floats` are no products but folds."""
    objdump: str
    functions: re.Pattern  # names of those that are looked at
    integers: re.Pattern
    floats: re.Pattern
    branch: re.Pattern
    end: re.Pattern  # what follows is not run next
    frame: re.Pattern  # "name operands" of what makes a frame pointer
    comment: str

    def spills(self, name: str, operands: str, framed: bool) -> bool:
        """A vector operand on the stack. The frame pointer is any register without a frame."""
        return bool(re.search(r"%[xyz]mm\d+", operands)) and _on_x86_stack(operands, framed)

    def stores(self, name: str, operands: str) -> bool:
        """Of a vector, anywhere."""
        vector = re.search(r"%[xyz]mm\d+", operands) and name.startswith(("vmov", "mov", "vextract"))
        return bool(vector) and operands.rstrip().endswith(")")

    def registers(self, body: list[tuple[str, str]]) -> int:
        return 32 if any("%zmm" in operands for _, operands in body) else 16

    def least(self, body: list[tuple[str, str]]) -> int:
        """Multiplies of an object's largest loop."""
        return self.registers(body) // 2


class Tiles(Machine):
    def spills(self, name: str, operands: str, framed: bool) -> bool:
        return _on_x86_stack(operands, framed) and not name.startswith(("lea", "tile"))

    def stores(self, name: str, operands: str) -> bool:
        return False

    def least(self, body: list[tuple[str, str]]) -> int:
        return 4  # sums of two tiles of x and a pair of panels


class Arm(Machine):
    def spills(self, name: str, operands: str, framed: bool) -> bool:
        """Of q, d, s and v registers; loads from elsewhere bring x and weights."""
        on_stack = re.search(r"\[sp\b" + (r"|\[x29\b" if framed else ""), operands)
        return bool(on_stack and self._moves("(ld|st)", name, operands))

    def stores(self, name: str, operands: str) -> bool:
        return self._moves("st", name, operands)

    def _moves(self, direction: str, name: str, operands: str) -> bool:
        vector = re.match(r"\{?\s*[qdsv]\d+\b", operands) and "[" in operands
        return bool(vector and re.match(direction + "[rpu1-4]", name))

    def registers(self, body: list[tuple[str, str]]) -> int:
        return 32


def _on_x86_stack(operands: str, framed: bool) -> bool:
    return bool(re.search(r"\(%r[sb]p[,)]", operands)) and (framed or "(%rbp" not in operands)


_X86 = {"objdump": "objdump", "branch": re.compile(r"j"), "end": re.compile(r"(jmp|ret)$"),
        "frame": re.compile(r"mov %rsp,%rbp$"), "comment": "#"}
NEVER = re.compile(r"(?!)")
X86 = Machine(functions=re.compile("Gemm"), integers=re.compile(r"v?(pdpbusd|pdpbssd|pdpwssd|pmaddwd|pmaddubsw)$"),
              floats=re.compile(r"vfn?madd\w*ps$"), **_X86)
AMX = Tiles(functions=re.compile(""), integers=re.compile(r"tdpb[us]{2}d$"), floats=NEVER, **_X86)
ARM = Arm(objdump="aarch64-linux-gnu-objdump", functions=re.compile("Gemm"),
          integers=re.compile(r"(sdot|smmla|smull2?|smlal2?)$"), floats=re.compile(r"fmla$"),
          branch=re.compile(r"(b(\.\w+)?|cbn?z|tbn?z)$"), end=re.compile(r"(b|br|ret)$"),
          frame=re.compile(r"(mov x29, sp|add x29, sp, .*)$"), comment="//")


def machine_of(isa: str) -> Machine:
    return ARM if isa.startswith("neon") else AMX if isa == "amx" else X86


class Loop:
    """Instructions from the target of a backward branch to the branch."""

    def __init__(self, machine: Machine, function: str, body: list[tuple[str, str]], framed: bool, integers: bool):
        self.function = function
        products = machine.integers if integers else machine.floats
        self.multiplies = sum(bool(products.match(name)) for name, _ in body)
        self.least = machine.least(body)
        calls = any(name in ("call", "bl", "blr") for name, _ in body)
        rule = X86 if calls and machine is AMX else machine  # a call may want its pointers on the stack
        self.spills = [f"{name} {operands}" for name, operands in body if rule.spills(name, operands, framed)]
        stores = [f"{name} {operands}" for name, operands in body if rule.stores(name, operands)]
        if self.multiplies < PRODUCTS_PER_STORE * len(stores):
            self.spills += [store for store in stores if store not in self.spills]


def functions(listing: str, machine: Machine):
    name, code = "", []
    for line in listing.splitlines():
        if match := FUNCTION.match(line):
            if code:
                yield name, code
            name, code = match[1], []
        elif match := LINE.match(line):
            code.append((int(match[1], 16), match[2], match[3].split(machine.comment)[0].strip()))
    if code:
        yield name, code


def target_of(machine: Machine, name: str, operands: str) -> int | None:
    """Where a branch goes; None for all else."""
    found = machine.branch.match(name) and TARGET.search(operands)
    return int(found[1], 16) if found else None


def body_of(code: list[tuple[int, str, str]], first: int, last: int, machine: Machine) -> frozenset[int]:
    """Addresses of the natural loop that a branch at `last` to `first` closes; empty if it has another entry."""
    before = {}  # address -> those that may go there
    for (at, name, operands), follower in zip(code, [*code[1:], None], strict=True):
        target = target_of(machine, name, operands)
        if target is not None:
            before.setdefault(target, []).append(at)
        if follower and not machine.end.match(name):
            before.setdefault(follower[0], []).append(at)
    body, todo = {first}, [last]
    while todo:
        at = todo.pop()
        if at not in body:
            body.add(at)
            todo += before.get(at, [])
    return frozenset() if code[0][0] in body - {first} else frozenset(body)


def loops(listing: str, machine: Machine = X86):
    """Innermost ones that multiply, in the functions of kernels."""
    for name, code in functions(listing, machine):
        if not machine.functions.search(name):
            continue
        framed = any(machine.frame.match(f"{instruction} {operands}") for _, instruction, operands in code)
        integers = any(machine.integers.match(instruction) for _, instruction, _ in code)
        bodies = set()
        for at, instruction, operands in code:
            target = target_of(machine, instruction, operands)
            if target is not None and code[0][0] <= target <= at:
                bodies.add(body_of(code, target, at, machine))
        bodies.discard(frozenset())
        for body in bodies:
            if any(other < body for other in bodies):
                continue
            loop = Loop(machine, name, [(word, operands) for at, word, operands in code if at in body], framed, integers)
            if loop.multiplies:
                yield loop


def complaints_of(name: str, path: Path) -> list[str]:
    machine = machine_of(name)
    command = [machine.objdump, "-d", "-C", "--no-show-raw-insn", str(path)]
    found = list(loops(subprocess.run(command, capture_output=True, text=True, check=True).stdout, machine))
    if not found:
        return [f"{name}: no loop that multiplies"]
    complaints = [f"{name}: {loop.function}: stack traffic in an inner loop: {loop.spills[0].strip()}"
                  f" ({len(loop.spills)} of them)" for loop in found if loop.spills]
    largest = max(found, key=lambda loop: loop.multiplies)
    if largest.multiplies < largest.least:
        complaints.append(f"{name}: no inner loop has {largest.least} multiplies, half of the registers; "
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


def why_not(isa: str, build: Path, compiler: str) -> str:
    """Why the file of an ISA is not checked; empty if it is."""
    if machine_of(isa) is not ARM:
        return "" if can_make(isa, build, compiler) else f"{compiler or 'the compiler'} does not know its instructions"
    if not build.exists():
        return f"there is no {build} (./run test and ./run sanitize build Arm's objects where they can)"
    return "" if shutil.which(ARM.objdump) else f"there is no {ARM.objdump}"


def main() -> int:
    native, arm, compiler = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""
    complaints = []
    with tempfile.TemporaryDirectory() as scratch:
        for source in (name for name in tree.files(".cc") if name.startswith(ISA) and Path(name).stem not in SKIPPED):
            isa = Path(source).stem
            of_arm = machine_of(isa) is ARM
            build = arm if of_arm else native
            if reason := why_not(isa, build, compiler):
                print(f"{isa}: not checked: {reason}")
                continue
            paths = ([compile_by(compiler, build, source, Path(scratch))] if compiler and not of_arm else
                     sorted(build.glob(f"src/**/isa/{Path(source).name}.o")))
            if not paths:
                complaints.append(f"{source}: not built in {build}")
            for path in paths:
                complaints += complaints_of(isa, path)
    return tree.report("spills", complaints)


if __name__ == "__main__":
    sys.exit(main())
