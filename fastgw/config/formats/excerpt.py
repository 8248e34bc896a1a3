"""Excerpt of a file at a syntax error: its line, and a mark below the column. Nothing where that may hold a secret."""

import re
from typing import Final

from fastgw.config.formats.positions import Mark

LONGEST: Final = 100
"""Most characters of the line that are shown, around the column."""
_LOOKED_AT: Final = 1000
"""Most lines before it that are looked at."""
_TELLING: Final = re.compile(
    r"auth|cookie|token|secret|passw|credential|session|signature|\bkeys?\b|[-_]keys?\b|\btext\b|\bhash|pem\b|://[^/\s]*@"
    r"|-----|[A-Za-z0-9+/=_-]{32}",
    re.IGNORECASE,
)
"""Found in a line, what stands there or below may be a secret. One too many is harmless, one too few is not."""
_TABLE: Final = re.compile(r"\s*\[")


def excerpt(text: str, mark: Mark) -> str:
    """Return the line with its number, and a `^` below its column; "" where there is nothing to show, or where it or
    what it stands in may be a secret.
    """
    line, column = mark
    lines = text.replace("\r\n", "\n").split("\n")
    if not 1 <= line <= len(lines) or not lines[line - 1].strip() or _may_be_secret(lines, line - 1):
        return ""
    begin = max(0, column - 1 - LONGEST // 2)
    shown = lines[line - 1][begin : begin + LONGEST]
    plain = "".join(sign if sign.isprintable() else " " for sign in shown)
    number = f"{line:>6} | "
    return f"{number}{plain}\n{' ' * (len(number) - 2)}| {' ' * (column - 1 - begin)}^"


def _may_be_secret(lines: list[str], at: int) -> bool:
    """Whether a secret may stand in a line: by its own words, or those of the lines before it that are indented less or
    as much, back to the head of its table.
    """
    least = _indentation(lines[at])
    if _TELLING.search(lines[at]):
        return True
    for each in reversed(lines[max(0, at - _LOOKED_AT) : at]):
        if each.strip() and (_indentation(each) <= least):
            least = _indentation(each)
            if _TELLING.search(each):
                return True
            if _TABLE.match(each):
                break
    return False


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())
