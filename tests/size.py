"""`make size`: lines of code by package: none that is blank, a comment, or of a docstring."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON, CYTHON, C = (".py", ".pyi"), (".pyx", ".pxd"), (".h", ".c")
HOT = (
    "http",
    "exchange",
    "pipeline",
    "downstream",
    "upstream",
    "observe",
    "routing",
    "eventloop",
    "cache",
    "composition",
)
"""Packages of the data path. What is compiled in `filters` belongs to it as well."""
_DOCSTRING = re.compile(r'^[ \t]*[rR]?"""(?:[^\\]|\\.)*?"""[ \t]*(?:#.*)?$', re.MULTILINE | re.DOTALL)
_C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def code_lines(path: Path) -> int:
    """Return the number of lines of code in a file of Python, Cython or C."""
    text = path.read_text()
    if path.suffix in PYTHON:
        return _lines(text, _docstring_lines(text))
    if path.suffix in CYTHON:
        return _lines(_DOCSTRING.sub("", text), frozenset())
    return _lines(_C_COMMENT.sub("", text), frozenset(), comment="\0")


def _lines(text: str, left_out: frozenset[int], comment: str = "#") -> int:
    lines = enumerate(map(str.strip, text.splitlines()), 1)
    return sum(bool(line) and not line.startswith(comment) and number not in left_out for number, line in lines)


def _docstring_lines(text: str) -> frozenset[int]:
    """Return the lines of strings that are statements: docstrings of modules, classes, functions and attributes."""
    strings = (
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )
    return frozenset(line for each in strings for line in range(each.lineno, (each.end_lineno or each.lineno) + 1))


def _files(folder: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.suffix in PYTHON + CYTHON + C and path.exists()]


def main() -> None:
    by_part, data_path = Counter[str](), 0
    for path in _files("fastgw"):
        part, lines = path.relative_to(ROOT / "fastgw").parts[0], code_lines(path)
        by_part[part if "." not in part else "modules at the top"] += lines
        data_path += lines * (part in HOT or (part == "filters" and path.suffix in CYTHON + C))
    for part, lines in by_part.most_common():
        print(f"{part:24}{lines:10,}")
    print(f"{'fastgw':24}{by_part.total():10,}\n{'  of it, the data path':24}{data_path:10,}")
    for name in ("tests", "bench", "docs"):
        print(f"{name:24}{sum(map(code_lines, _files(name))):10,}")


if __name__ == "__main__":
    main()
