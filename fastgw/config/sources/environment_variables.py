"""Environment variables: `{env: NAME}` in place of any plain value.

Rule: a variable's value is never shown, because it may be a secret of something else; problems name the variable. It is
read once with the configuration, so that all processes use the same value.
"""

import os
import re
from typing import Any, Final

KEY: Final = "env"
NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
LONGEST: Final = 64 * 1024
"""Maximum size of a value, in bytes."""


class VariableError(Exception):
    """A variable is missing or unusable. The text names it, and does not show its value."""


def variable_in(value: Any) -> str | None:
    """Return the name of the variable in place of a value; None = the value is literal."""
    if not isinstance(value, dict) or len(value) != 1:
        return None
    name = value.get(KEY)
    return name if isinstance(name, str) and re.fullmatch(NAME, name) is not None else None


def text_of(name: str) -> str:
    """Return the value of a variable; it must not be empty. Raises `VariableError`."""
    raw = os.environb.get(name.encode())
    where = f"the environment variable {name}"
    if raw is None:
        raise VariableError(f"{where} is not set")
    return decoded(where, raw)


def decoded(where: str, raw: bytes) -> str:
    """Decode bytes as text of at least one character, at most `LONGEST` bytes. Raises `VariableError`, which shows
    nothing.
    """
    if len(raw) > LONGEST:
        raise VariableError(f"{where} has more than {LONGEST // 1024} KiB")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise VariableError(f"{where} is not UTF-8") from None  # the cause would show the value
    if not text:
        raise VariableError(f"{where} is empty")
    return text
