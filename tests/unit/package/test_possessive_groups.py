"""Regular expressions mean the same in every Python that fastgw runs on."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
POSSESSIVE_GROUP = re.compile(r"(?<!\()\)(?:[?*+]|\{[^{}]*\})\+")


def texts(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            yield node.lineno, node.value if isinstance(node.value, str) else node.value.decode("latin-1")


def possessive_groups(source: str) -> list[int]:
    """The lines with a string that repeats a group possessively."""
    return [line for line, text in texts(source) if POSSESSIVE_GROUP.search(CLASS.sub("x", text))]


def test_no_group_is_repeated_possessively() -> None:
    """`(?:...)*+` loses its place in CPython before 3.11.5 (gh-106052), so in Debian 12's: hosts were misread there.

    `(?>(?:...)*)` means the same everywhere, and costs more: where that matters (`http.http1.common_heads`), the
    version decides. Of a single character, `[a-z]*+` is well.
    """
    found = {str(file): possessive_groups(file.read_text()) for file in (ROOT / "fastgw").rglob("*.py")}
    assert {file: lines for file, lines in found.items() if lines} == {}


@pytest.mark.parametrize("text", ["(?:ab)*+", "(a|b)?+c", "x(?:[)]y){0,9}+", "(?:a)++", "([]()]b)*+", "(?:a){0,%d}+"])
def test_such_a_group_is_found(text: str) -> None:
    assert possessive_groups(f"x = r{text!r}\ny = rb{text!r}") == [1, 2]


@pytest.mark.parametrize("text", ["[()*+]", "[a-z]*+", "(?>(?:ab)*)", "(?:ab)*", "!$&'()*+,;", "[^)]++", "a{1,3}+"])
def test_what_means_the_same_everywhere_is_let_pass(text: str) -> None:
    assert possessive_groups(f"x = {text!r}") == []
