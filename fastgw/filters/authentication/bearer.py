"""Bearer tokens (RFC 6750): how a request presents one, and the challenge for a request without one."""

import re
from collections.abc import Sequence
from typing import Final

from fastgw.filters.api import Exchange

LONGEST: Final = 16384
"""Maximum bytes of a token."""
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr](?: +(.*))?", re.DOTALL).fullmatch
_IS_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]++=*").fullmatch


class Unclear(Exception):
    """The request has an unreadable or ambiguous bearer token, or more than one. The text does not contain it."""


def bearer_token(exchange: Exchange) -> bytes | None:
    """Return the token of `Authorization: Bearer …` (RFC 6750 section 2.1); None: there is none. Raises `Unclear`."""
    return token_in(exchange.head.values(b"authorization"))


def token_in(values: Sequence[bytes]) -> bytes | None:
    """Return the token in the values of all `Authorization` headers. Raises `Unclear`.

    Two tokens are an error: the upstream could use the other one.
    """
    if not values:
        return None
    match = _BEARER(values[0])
    if len(values) > 1:
        if any(map(_BEARER, values)):
            raise Unclear("there is more than one Authorization header")
        return None
    if match is None:
        return None
    token: bytes = match[1] or b""
    if len(token) > LONGEST:
        raise Unclear("the token is too long")
    if _IS_TOKEN(token) is None:
        raise Unclear("the token has invalid characters")
    return token


def canonical(token: bytes) -> bytes:
    """Return `Authorization` with this token in canonical form. Caches by header value use this form, so a client with
    many spellings takes only one entry.
    """
    return b"Bearer " + token


def challenge(realm: str, error: str = "", description: str = "", scope: str = "") -> tuple[bytes, bytes]:
    """Return the challenge header of a rejection (RFC 6750 section 3). Texts must not contain quotes, backslashes or
    control characters.
    """
    parameters = (("realm", realm), ("scope", scope), ("error", error), ("error_description", description))
    said = ", ".join(f'{name}="{value}"' for name, value in parameters if value)
    return b"WWW-Authenticate", f"Bearer {said}".rstrip().encode("latin-1", "replace")
