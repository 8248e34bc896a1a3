"""Patterns of names and paths in settings, in which `*` stands for any characters."""

import re
from typing import AnyStr


def wildcard_expression(pattern: AnyStr) -> AnyStr:
    """Return the regular expression of a pattern, for `fullmatch` with `re.DOTALL`.

    It never goes back to where a star has ended: the first place where the next part is found leaves the most for those
    that follow, and the last part stands at the end. So a long text costs its length, however many stars there are.
    """
    if isinstance(pattern, bytes):
        return wildcard_expression(pattern.decode("latin-1")).encode("latin-1")
    first, *others = pattern.split("*")
    if not others:
        return re.escape(first)
    *middle, last = others
    found = "".join(f"(?>.*?{re.escape(part)})" for part in middle if part)
    return f"{re.escape(first)}{found}.{{{len(last)},}}+(?<={re.escape(last)})"
