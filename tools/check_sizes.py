# SPDX-License-Identifier: Apache-2.0
"""Files under 400 lines and functions under 60, in C++, Python and shell. Tables (*.inc) and documents may be long."""
import ast
import re
import sys

import tree

FILE_LINES, FUNCTION_LINES = 400, 60
SCOPE = re.compile(r"\s*(typedef\s+|inline\s+|static\s+|constexpr\s+)*(namespace|class|struct|union|enum)\b")


def without_comments(text: str) -> str:
    """Comments, strings and preprocessor lines blanked, line breaks kept."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'|'
                         r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", re.S | re.M)
    return pattern.sub(lambda match: "\n" * match[0].count("\n"), text)


def without_template(header: str) -> str:
    """What follows `template <...>`, whose parameters say class too."""
    rest = header.strip()
    while rest.startswith("template"):
        depth = 0
        for index, character in enumerate(rest):
            depth += (character == "<") - (character == ">")
            if character == ">" and depth == 0:
                rest = rest[index + 1:].lstrip()
                break
        else:
            return rest
    return rest


def cpp_functions(text: str):
    """(first line, name, lines) of every function body that is not inside another one."""
    depth_of_body, stack, header = None, [], ""
    header_line = line = 1
    for character in without_comments(text):
        line += character == "\n"
        if character == "{":
            is_scope = depth_of_body is None and (SCOPE.match(without_template(header)) or "(" not in header)
            if depth_of_body is None and not is_scope:
                depth_of_body, start, name = len(stack), header_line, header
            stack.append(character)
            header = ""
        elif character == "}":
            if stack:
                stack.pop()
            if depth_of_body == len(stack):
                match = re.search(r"([\w:~]+|operator[^\s(]+)\s*\(", name)
                yield start, match[1] if match else name.strip(), line - start + 1
                depth_of_body = None
            header = ""
        elif character == ";":
            header = ""
        else:
            if not header.strip():
                header, header_line = "", line
            header += character


def python_functions(text: str):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            words = ast.get_docstring(node, clean=False)  # the documentation of a public function may be long
            yield node.lineno, node.name, node.end_lineno - node.lineno + 1 - len((words or "").splitlines())


def main() -> int:
    complaints = []
    for name in tree.files(*tree.CPP, ".py", ".sh", ".cmake", "run"):
        text = tree.text(name)
        lines = text.count("\n")
        if lines >= FILE_LINES and not name.endswith(".inc"):
            complaints.append(f"{name}: {lines} lines; a file has fewer than {FILE_LINES}")
        functions = python_functions if name.endswith(".py") else cpp_functions if name.endswith(tree.CPP) else None
        for line, function, length in functions(text) if functions else ():
            if length >= FUNCTION_LINES:
                complaints.append(f"{name}:{line}: {function} has {length} lines; a function has fewer than {FUNCTION_LINES}")
    return tree.report("sizes", complaints)


if __name__ == "__main__":
    sys.exit(main())
