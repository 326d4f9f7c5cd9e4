# SPDX-License-Identifier: Apache-2.0
"""Rules that one line of text can break: licence lines, who may refuse an argument, flags and words we do not use."""
import re
import sys

import tree

CODE = (*tree.CPP, ".py", ".sh", ".cmake", "CMakeLists.txt", "run")
LICENCE = "SPDX-License-Identifier: Apache-2.0"
SELF = "tools/check_rules.py"

# what, pattern, which files, files that may
LINES = (
    ("InvalidArgument is thrown in src/check*.cc only", r"throw\s+InvalidArgument|\bRefuse\w*::operator",
     r"(src|torch|include)/.*", r"src/check\w*\.cc"),
    ("fast-math changes the bits that operator A promises", r"f{1}fast-math|use_fast_math|-Ofast|fp-contract=(fast|on)",
     r"(?!docs/|README|tests/).*", r""),
    ("leftover", r"\b(TODO|FIXME|XXX|HACK)\b", r".*\.(h|cc|cpp|inc|py|sh|cmake)", r""),
    ("printing and aborting is not the library's business", r"\b(printf|fprintf|puts|abort|exit)\s*\(|std::(cout|cerr)\b",
     r"(src|torch|include)/.*\.(h|cc|cpp)", r"src/verbose\.cc"),
    ("names no machine of ours", r"(/work/|/tmp/\w|/home/\w+/|/opt/wheels)", r".*", r"docs/porting\.md"),
    ("ordinary words: no utils, common, helpers", r"#\s*include\s+\"[^\"]*(utils|common|helpers)\b", r".*", r"src/verbose\.cc"),
    ("a tab", r"\t", r".*\.(h|cc|cpp|inc|py|cmake|txt|md)", r""),
    ("trailing blanks", r"[ \t]+$", r".*\.(h|cc|cpp|inc|py|cmake|txt)", r""),
)
WIDTH = 120


def licence(name: str, text: str) -> list[str]:
    first = "\n".join(text.splitlines()[:3])
    return [] if LICENCE in first else [f"{name}: the first lines must hold {LICENCE}"]


def complaints_of(name: str) -> list[str]:
    text = tree.text(name)
    found = licence(name, text) if name.endswith(CODE) else []
    rules = [(words, re.compile(pattern)) for words, pattern, where, except_in in LINES
             if re.fullmatch(where, name) and not re.fullmatch(except_in, name)]
    for number, line in enumerate(text.splitlines(), 1):
        found += [f"{name}:{number}: {words}: {line.strip()[:80]}" for words, pattern in rules if pattern.search(line)]
        if len(line) > WIDTH + 10 and name.endswith((*tree.CPP, ".py")):
            found.append(f"{name}:{number}: {len(line)} columns; a line has about {WIDTH}")
    return found


def main() -> int:
    binary = (".png", ".jpg", ".pdf", ".safetensors")
    names = [name for name in tree.files() if not name.endswith(binary) and name not in (SELF, "LICENSE")]
    return tree.report("rules", [complaint for name in names for complaint in complaints_of(name)])


if __name__ == "__main__":
    sys.exit(main())
