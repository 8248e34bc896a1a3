"""Followed files: virtual files whose content another service has, such as the secrets of Vault and the targets of
service discovery.

They are fetched when they are read for the first time; from then on the control process follows them, and sets their
content (`virtual_files.set_content`). Rule: they are stored with the files of a configuration (`files.Disk`), so
validation, caching and reload treat them alike: while the service is unreachable, the last content stays in use.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from fastgw.config.base.problems import DISCOVERIES, VAULT
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.sources.virtual_files import set_content

_KINDS: Final = frozenset((VAULT, *DISCOVERIES))
_SAFE: Final = "/#"


@dataclass(frozen=True)
class FollowedFile:
    """Parts of the name of a followed file."""

    kind: str
    """`vault`, or one of `DISCOVERIES`."""
    identity: str
    """Digest of the settings of the service: others are another file."""
    subject: str
    """Path and key of a secret, or name of a service."""
    options: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Name of the virtual file."""
        query = f"?{urlencode(self.options)}" if self.options else ""
        return f"{self.kind}://{self.identity}/{quote(self.subject, safe=_SAFE)}{query}"

    def option(self, name: str, otherwise: str = "") -> str:
        """Return the value of an option."""
        return next((value for key, value in self.options if key == name), otherwise)

    def values(self, name: str) -> list[str]:
        """Return all values of an option."""
        return [value for key, value in self.options if key == name]


def is_followed(name: str) -> bool:
    """Whether a file's name is that of a followed file."""
    kind, is_url, _ = name.partition("://")
    return bool(is_url) and kind in _KINDS


def is_discovered(name: str) -> bool:
    """Whether a file's name is that of targets of service discovery."""
    return is_followed(name) and not name.startswith(f"{VAULT}://")


def followed_in(name: str) -> FollowedFile:
    """Return the parts of the name of a followed file."""
    kind, _, rest = name.partition("://")
    identity, _, rest = rest.partition("/")
    subject, _, query = rest.partition("?")
    return FollowedFile(kind, identity, unquote(subject), tuple(parse_qsl(query, keep_blank_values=True)))


def use_contents(captured: Mapping[str, bytes]) -> None:
    """Set the contents of followed files for later readers in this process: those of a configuration."""
    for name, content in captured.items():
        if is_followed(name):
            set_content(name, content)


def _not_fetched(name: str) -> bytes:
    raise SyntaxProblem("is not known yet")


@dataclass(frozen=True)
class Remotes:
    """Services whose files a configuration may name. `identities`: of the configured ones, by kind. `fetch`: returns
    the content of a file, or raises `SyntaxProblem`.
    """

    identities: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    fetch: Callable[[str], bytes] = _not_fetched


NO_REMOTES: Final = Remotes()
