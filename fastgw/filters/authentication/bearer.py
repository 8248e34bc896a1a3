"""Bearer tokens (RFC 6750): where a request carries one, and how it is told that it has to."""

import re
from collections.abc import Sequence
from typing import Final

from fastgw.filters.api import Exchange

LONGEST: Final = 16384
"""Bytes of a token."""
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr](?: +(.*))?", re.DOTALL).fullmatch
_IS_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]++=*").fullmatch


class Unclear(Exception):
    """The request has a bearer token that cannot be read in one way, or more than one. The text says nothing of it."""


def bearer_token(exchange: Exchange) -> bytes | None:
    """The token of `Authorization: Bearer …` (RFC 6750 section 2.1); None: the request shows none. Raises `Unclear`."""
    return token_in(exchange.head.values(b"authorization"))


def token_in(values: Sequence[bytes]) -> bytes | None:
    """The token in the values of all `Authorization` fields. Raises `Unclear`.

    Two of them are none that anybody has to choose from: who reads the other one would be fooled.
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
    """`Authorization` with this token as it is usually spelled: what is remembered by the value of the field is
    remembered by this one, so that a client that spells it in many ways takes no more room than another."""
    return b"Bearer " + token


def challenge(realm: str, error: str = "", description: str = "", scope: str = "") -> tuple[bytes, bytes]:
    """The field that a refusal carries (RFC 6750 section 3). No text may have a quote, backslash or control in it."""
    parameters = (("realm", realm), ("scope", scope), ("error", error), ("error_description", description))
    said = ", ".join(f'{name}="{value}"' for name, value in parameters if value)
    return b"WWW-Authenticate", f"Bearer {said}".rstrip().encode("latin-1", "replace")
