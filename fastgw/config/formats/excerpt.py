"""Excerpt of a file at a syntax error: the line, and a mark below the column. Empty where the line may hold a
secret.
"""

import re
from typing import Final

from fastgw.config.formats.positions import Mark

LONGEST: Final = 100
"""Maximum number of characters shown of the line, around the column."""
_LOOKED_AT: Final = 1000
"""Maximum number of preceding lines that are searched for signs of a secret."""
_TELLING: Final = re.compile(
    r"auth|cookie|token|secret|passw|credential|session|signature|\bkeys?\b|[-_]keys?\b|\btext\b|\bhash|pem\b|://[^/\s]*@"
    r"|-----|[A-Za-z0-9+/=_-]{32}",
    re.IGNORECASE,
)
"""Matches lines at or below which a secret may stand. False positives are harmless, false negatives are not."""
_TABLE: Final = re.compile(r"\s*\[")


def excerpt(text: str, mark: Mark) -> str:
    """Return the line with its number, and a `^` below its column. "" if there is nothing to show, or if the line or an
    enclosing one may hold a secret.
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
    """Whether the line may hold a secret, based on itself and on preceding lines with the same or less indentation,
    back to the head of its table.
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
