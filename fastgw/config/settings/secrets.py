"""Secrets: their source in the configuration, and their value on request."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from msgspec import Struct

from fastgw.config.base.problems import shown_file
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.sources import environment_variables
from fastgw.config.sources.environment_variables import VariableError, decoded, text_of
from fastgw.config.sources.files import read_file
from fastgw.config.sources.followed_files import is_followed
from fastgw.config.sources.virtual_files import known_content
from fastgw.redis.address import check_redis

LONGEST: Final = environment_variables.LONGEST
"""Maximum size of a secret, in bytes."""
MASK: Final = "***"
"""Placeholder that is shown for a secret."""
SECRET_NAMES: Final = re.compile(
    r"auth|cookie|token|secret|passw|credential|session|signature|api-?key|(?:access|private|subscription)-key|[-_]key$",
    re.IGNORECASE,
)
"""Matches names of headers and parameters whose values are not shown. False positives are harmless, false negatives are
not.
"""


@dataclass(frozen=True)
class Elsewhere:
    """Marks a secret that must come from a file or variable: a string in its place has another meaning."""


@dataclass(frozen=True)
class Checked:
    """Marks a secret with a format. `check` raises `ValueError`, which shows nothing of the secret."""

    check: Callable[[str], None]
    expected: str


class SecretError(Exception):
    """A secret that is unavailable or invalid. The text names the variable or file, and shows nothing of its
    contents.
    """


class Secret(Struct, frozen=True):
    """A text that is never shown: from an environment variable, a file (also one that is followed in Vault), or the
    configuration itself.

    One of the fields is set, the others are "".
    """

    env: str = ""
    file: str = ""
    """An absolute path."""
    text: str = ""

    def value(self) -> str:
        """Return the current secret, at least one character; for a file, without the trailing newline that editors add.

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
"""URL of the Redis in which nodes share state."""


def secret_in(file: str, content: bytes) -> str:
    """Return the secret in a file's contents. Raises `SecretError`."""
    return _checked(shown_file(file), content.removesuffix(b"\n").removesuffix(b"\r"))


def _checked(where: str, raw: bytes) -> str:
    try:
        return decoded(where, raw)
    except VariableError as error:
        raise SecretError(str(error)) from error


def _contents(file: str) -> bytes:
    if is_followed(file):
        content = known_content(file)
        if content is None:
            raise SecretError(f"{shown_file(file)} is not known yet")
        return content
    try:
        return read_file(file, LONGEST + 2)  # and a trailing newline
    except OSError as error:
        raise SecretError(f"{file} cannot be read: {error.strerror or error}") from error
    except SyntaxProblem as flaw:
        raise SecretError(f"{file} is {flaw.wrong}") from flaw
