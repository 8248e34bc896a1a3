"""Rule: a pattern, the parts of a request that it is searched in, and its severity."""

from enum import IntEnum, StrEnum
from typing import Final

from msgspec import Struct


class Severity(IntEnum):
    """Severity of a rule; its value is the score that a match adds, as in the OWASP Core Rule Set."""

    NOTICE = 2
    WARNING = 3
    ERROR = 4
    CRITICAL = 5


class RequestPart(StrEnum):
    """Part of a request that rules are searched in.

    `arguments`: names and values of the query and of the fields of a body. `cookies`: their names and values. `body`:
    the beginning of a body as received, but decoded like the others; for text and XML.
    """

    PATH = "path"
    ARGUMENTS = "arguments"
    COOKIES = "cookies"
    HEADERS = "headers"
    BODY = "body"


class Rule(Struct, frozen=True):
    """Rule of the WAF. `id`: four digits, or as configured. `paranoia`: lowest level at which it is used.

    `attack`: class of the attack, which is the tag `attack-…` and the label of its metric. `pattern`: RE2, in bytes;
    b"": the rule is a check of the code.
    """

    id: int
    attack: str
    severity: Severity
    paranoia: int
    targets: frozenset[RequestPart]
    pattern: bytes
    tags: tuple[str, ...] = ()

    @property
    def all_tags(self) -> tuple[str, ...]:
        return f"attack-{self.attack}", *self.tags


ARGUMENTS: Final = frozenset((RequestPart.ARGUMENTS, RequestPart.COOKIES, RequestPart.BODY))
"""Data that applications read: arguments, cookies, and bodies that are not taken apart."""
ALL: Final = frozenset(RequestPart)
PATH_AND_ARGUMENTS: Final = ARGUMENTS | {RequestPart.PATH}
HEADERS_AND_ARGUMENTS: Final = ARGUMENTS | {RequestPart.HEADERS}
HEADERS: Final = frozenset((RequestPart.HEADERS,))
PATH: Final = frozenset((RequestPart.PATH,))
NO_TARGETS: Final[frozenset[RequestPart]] = frozenset()

CRITICAL, ERROR, WARNING, NOTICE = Severity.CRITICAL, Severity.ERROR, Severity.WARNING, Severity.NOTICE

ATTACKS: Final = (
    *("scanner", "protocol", "lfi", "rfi", "rce", "php", "generic", "nosql", "ssrf", "ssti", "xxe", "ldap"),
    *("xss", "sqli", "fixation", "java", "custom", "crs"),
)
"""Classes of attacks. `custom`: rules of the configuration. `crs`: refused by the OWASP Core Rule Set."""


def alternatives(words: str) -> bytes:
    """Return the alternation of words that are separated by white space; each is an expression."""
    return b"(?:" + b"|".join(word.encode() for word in words.split()) + b")"
