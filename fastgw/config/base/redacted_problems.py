"""Problems of files that a remote user may have named: they give position and expected form, never the file's contents.

Otherwise a user who can make the gateway read a file, such as `/proc/self/environ`, would learn its contents from
errors. The main file and its includes are quoted when they are given on the command line; a document sent to the API is
quoted if it includes no files.
"""

import re
from functools import cache
from typing import Final

from msgspec.structs import fields

from fastgw.config.base.problems import Path
from fastgw.config.base.settings_base import Settings

HIDDEN: Final = "…"
"""Placeholder for an unknown key."""
NOT_EXPECTED: Final = "not a valid value"
UNKNOWN_KEY: Final = "unknown key"
UNKNOWN_KEYWORD: Final = "unknown keyword, which JSON Schema ignores"
# Texts about a value that do not show it.
_SAFE: Final = re.compile(
    rf"(?:missing|{UNKNOWN_KEY}|{UNKNOWN_KEYWORD}|not UTF-8|nested too deep|the file is empty|an empty list"
    r"|not a valid secret"
    r"|an? (?:object|list)|duplicate key; first defined on line [0-9]+|more than one YAML document; expected one per "
    r"file"
    r"|longer than [0-9]+ (?:MiB|bytes)[a-z ]*|cannot be read: [A-Za-z -]+|already defined at [^\"\s]+"
    r"|[a-z ]{1,40} is already used at [^\"\s]+|not printable ASCII)$"
)
_NOT_VALID: Final = re.compile(r"not valid (?:YAML|JSON|TOML)\b")


def wrong(text: str) -> str:
    if _SAFE.match(text):
        return text
    found = _NOT_VALID.match(text)
    return found[0] if found else NOT_EXPECTED


def expected(text: str, of: str) -> str:
    """Return the expected form, or "" if it quotes names that may come from the file: only the names of settings may be
    listed. `of`: the error.
    """
    return text if '"' not in text or of in (UNKNOWN_KEY, UNKNOWN_KEYWORD) else ""


def path(found: Path) -> Path:
    """Return the path with `HIDDEN` for keys that are not names of settings."""
    return tuple(step if isinstance(step, int) or step in _names() else HIDDEN for step in found)


@cache
def _names() -> frozenset[str]:
    """Return the names of all settings."""
    names: set[str] = set()
    waiting: list[type] = [Settings]
    while waiting:
        each = waiting.pop()
        waiting += each.__subclasses__()
        names.update(field.encode_name for field in fields(each))
    return frozenset(names)
