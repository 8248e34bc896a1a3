"""Secrets: where the configuration says that one is, and its value when it is asked for."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from msgspec import Struct

from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.sources import environment_variables
from fastgw.config.sources.environment_variables import VariableError, decoded, text_of
from fastgw.config.sources.files import read_file
from fastgw.redis.address import check_redis

LONGEST: Final = environment_variables.LONGEST
"""The most bytes of a secret."""
MASK: Final = "***"
"""Placeholder that is shown for a secret."""
SECRET_NAMES: Final = re.compile(
    r"auth|cookie|token|secret|passw|credential|session|signature|api-?key|(?:access|private|subscription)-key|[-_]key$",
    re.IGNORECASE,
)
"""Found in the name of a field or parameter, its value is not shown. One too many is harmless, one too few is not."""


@dataclass(frozen=True)
class Elsewhere:
    """Marks a secret that does not stand in the configuration itself: a text there is something else."""


@dataclass(frozen=True)
class Checked:
    """Marks a secret that has to be more than text. `check` raises `ValueError`, which shows nothing of it."""

    check: Callable[[str], None]
    expected: str


class SecretError(Exception):
    """A secret that cannot be had. The text names the variable or file, and nothing of what is in it."""


class Secret(Struct, frozen=True):
    """A text that nobody is shown: in a variable of the environment, in a file, or in the configuration itself.

    One of the fields is set, the others are "".
    """

    env: str = ""
    file: str = ""
    """An absolute path."""
    text: str = ""

    def value(self) -> str:
        """The secret as it is now, at least one character; a file's without the line end that editors add.

        Raises `SecretError`.
        """
        if self.file:
            return secret_in(self.file, _contents(self.file))
        if not self.env:
            return _checked("the secret", self.text.encode("utf-8", "surrogatepass"))
        try:
            return text_of(self.env)
        except VariableError as error:
            raise SecretError(str(error)) from error

    def __repr__(self) -> str:
        return MASK

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


RedisUrl = Annotated[Secret, Checked(check_redis, "expected a Redis URL")]
"""Redis in which nodes share state."""


def secret_in(file: str, content: bytes) -> str:
    """The secret that the contents of a file are. Raises `SecretError`."""
    return _checked(file, content.removesuffix(b"\n").removesuffix(b"\r"))


def _checked(where: str, raw: bytes) -> str:
    try:
        return decoded(where, raw)
    except VariableError as error:
        raise SecretError(str(error)) from error


def _contents(file: str) -> bytes:
    try:
        return read_file(file, LONGEST + 2)  # and the end of a line
    except OSError as error:
        raise SecretError(f"{file} cannot be read: {error.strerror or error}") from error
    except SyntaxProblem as flaw:
        raise SecretError(f"{file} is {flaw.wrong}") from flaw
