"""Configurations that commands read: from files, or from standard input."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable
from typing import Final, TypeVar

from fastgw import config
from fastgw.commands.options import STDIN, Format, Syntax
from fastgw.commands.output import refuse
from fastgw.config.sources.files import LARGEST

T = TypeVar("T")
_LIKE_TOML: Final = re.compile(rb"^(\[\[?[\w.\"' -]+\]\]?[ \t]*(#.*)?\r?|[\w.-]+[ \t]*=[ \t]*\S.*)$", re.MULTILINE)
"""Matches a line that begins a table, or assigns a value to a key."""


def load_configuration(file: str, syntax: Syntax) -> config.Loaded:
    """Return a configuration; `-` = from stdin, with names in it relative to the working directory.

    Raises `ConfigError`.
    """
    from fastgw.filters import TYPES

    if file != STDIN:
        return config.load(file, TYPES)
    try:
        text = read_stdin(LARGEST + 1)
    except OSError as error:
        problem = config.Problem("<stdin>", 0, 0, "", f"cannot be read: {error.strerror or error}")
        raise config.ConfigError([problem]) from error
    try:
        return config.load_text(text, "<stdin>", TYPES, f".{syntax}")
    except config.ConfigError as error:
        if syntax is not Syntax.YAML or all(each.path for each in error.problems) or not _LIKE_TOML.search(text):
            raise
        hint = config.Problem("<stdin>", 0, 0, "", "it looks like TOML", f"expected YAML, or --syntax {Syntax.TOML}")
        raise config.ConfigError([*error.problems, hint], error.excerpts) from error


def read_stdin(size: int = -1) -> bytes:
    """Return at most `size` bytes of stdin; -1: all. Raises `OSError`, also if it was closed at the start."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer.read(size)


def read_configuration(source: Callable[[], T], answer: Format = Format.TEXT) -> T:
    try:
        return source()
    except config.ConfigError as error:
        refuse(answer, error.problems, error.excerpts)
