"""Variables of the environment: `{env: NAME}` stands for what the variable holds, in any setting with a plain value.

Rule: what a variable holds is told nowhere, for it may have been meant for somebody else: problems name the variable.
A setting has it from the reading on, so that all processes mean the same.
"""

import os
import re
from typing import Any, Final

KEY: Final = "env"
NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
LONGEST: Final = 64 * 1024
"""The most bytes that one may hold."""


class VariableError(Exception):
    """A variable that cannot be had. The text names it, and nothing of what it holds."""


def variable_in(value: Any) -> str | None:
    """The variable that stands for a value; None where the value stands there itself."""
    if not isinstance(value, dict) or len(value) != 1:
        return None
    name = value.get(KEY)
    return name if isinstance(name, str) and re.fullmatch(NAME, name) is not None else None


def text_of(name: str) -> str:
    """Return the value of a variable, at least one character. Raises `VariableError`."""
    raw = os.environb.get(name.encode())
    where = f"the environment variable {name}"
    if raw is None:
        raise VariableError(f"{where} is not set")
    return decoded(where, raw)


def decoded(where: str, raw: bytes) -> str:
    """Bytes as text of at least one character, `LONGEST` bytes at most. Raises `VariableError`, which shows nothing."""
    if len(raw) > LONGEST:
        raise VariableError(f"{where} has more than {LONGEST // 1024} KiB")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise VariableError(f"{where} is not UTF-8") from None  # the cause would show what is in it
    if not text:
        raise VariableError(f"{where} is empty")
    return text
