"""Claims of a verified token: validity in time, audience, and paths to claims (RFC 7519 section 4)."""

import json
from collections.abc import Mapping
from math import inf, isfinite
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from fastgw.jose.strict import TokenRefused

Claims: TypeAlias = Mapping[str, Any]
ClaimPath: TypeAlias = tuple[str, ...]
"""Names that lead to a claim, from the outermost object inwards."""

ANY: Final = "*"
"""Marker among the audiences: any audience is accepted."""
_LATEST_DATE: Final = 253_402_300_799.0  # 9999-12-31
_DATES: Final = ("exp", "nbf", "iat")
_TEXTS: Final = ("iss", "sub", "jti")


class Expected(NamedTuple):
    """Expectations of a policy for the claims."""

    issuer: str | None = None
    audiences: frozenset[str] = frozenset()
    """Accepted audiences; empty: only tokens without an audience are accepted."""
    required: tuple[ClaimPath, ...] = (("exp",),)
    leeway: float = 0.0
    """Maximum clock difference in seconds."""


def check_claims(claims: Claims, expected: Expected, now: float) -> float:
    """Check the claims, and return their expiry in epoch seconds; `inf` without one. Raises `TokenRefused`.

    `now`: epoch seconds.
    """
    for name in _TEXTS:
        if name in claims and not isinstance(claims[name], str):
            raise TokenRefused(f"the claim `{name}` is not a string")
    for path in expected.required:
        if find_claim(claims, path) is None:
            raise TokenRefused(f"the claim `{'.'.join(path)}` is missing")
    _check_issuer(claims, expected)
    _check_audience(claims, expected)
    return _check_dates(claims, expected.leeway, now)


def _check_issuer(claims: Claims, expected: Expected) -> None:
    if expected.issuer is None:
        return
    if "iss" not in claims:
        raise TokenRefused("the claim `iss` is missing")
    if claims["iss"] != expected.issuer:  # compared exactly, by code points (RFC 7519 section 4.1.1)
        raise TokenRefused("the token has the wrong issuer")


def _check_audience(claims: Claims, expected: Expected) -> None:
    """Check the audience (RFC 7519 section 4.1.3): a token for other audiences must be rejected."""
    if "aud" not in claims:
        if expected.audiences and ANY not in expected.audiences:
            raise TokenRefused("the claim `aud` is missing")
        return
    said = claims["aud"]
    audiences = [said] if isinstance(said, str) else said
    if not isinstance(audiences, list) or not all(isinstance(each, str) for each in audiences):
        raise TokenRefused("the claim `aud` is neither a string nor a list of strings")
    if ANY not in expected.audiences and expected.audiences.isdisjoint(audiences):
        raise TokenRefused("the token has the wrong audience")


def _check_dates(claims: Claims, leeway: float, now: float) -> float:
    dates = {name: _date(claims, name) for name in _DATES if name in claims}
    good_until = dates.get("exp", inf) + leeway
    if now >= good_until:
        raise TokenRefused("the token has expired")
    if now < dates.get("nbf", now) - leeway:
        raise TokenRefused("the token is not valid yet")
    if now < dates.get("iat", now) - leeway:
        raise TokenRefused("the token was issued in the future")
    return good_until


def _date(claims: Claims, name: str) -> float:
    """Parse a NumericDate (RFC 7519 section 2).

    Dates beyond the calendar become its last date: servers use such an `exp` for "never".
    """
    value = claims[name]
    if type(value) not in (int, float) or not isfinite(value):
        raise TokenRefused(f"the claim `{name}` is not a number")
    return max(-_LATEST_DATE, min(float(value), _LATEST_DATE))


def claim_path(text: str) -> ClaimPath:
    """Parse the path of a claim: `sub`, `realm_access.roles`, `https://example.com/roles`, `/a.b/c`.

    Dots separate the names, but a URL is one name. In a path that begins with a slash, slashes separate them (RFC 6901:
    `~1` is a slash, `~0` a tilde). Raises `ValueError`.
    """
    if text.startswith("/"):
        path = tuple(part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/"))
    elif "://" in text:
        path = (text,)
    else:
        path = tuple(text.split("."))
    if not all(path):
        raise ValueError(f'"{text}" is not a valid claim path')
    return path


def find_claim(claims: Claims, path: ClaimPath) -> Any:
    """Return the value of a claim; None if it is missing or null."""
    found: Any = claims
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def scopes_of(claims: Claims) -> frozenset[str]:
    """Return the scopes of a token: `scope`, a string separated by spaces (RFC 8693 section 4.2), or `scp`, such a
    string or a list.
    """
    scopes: set[str] = set()
    for name in ("scope", "scp"):
        said = claims.get(name)
        if isinstance(said, str):
            scopes.update(said.split(" "))
        elif isinstance(said, list):
            scopes.update(each for each in said if isinstance(each, str))
    scopes.discard("")
    return frozenset(scopes)


def claim_json(value: Any, *, sort_keys: bool = False) -> bytes:
    """Return claims, or the value of one, as JSON; a value that is none is written as a text. An integer has all its
    digits. Raises `ValueError` for a text that is not valid Unicode.
    """
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS if sort_keys else 0)
    except TypeError:  # an integer of more than 64 bits, which JSON allows
        text = json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str, sort_keys=sort_keys
        )
        return text.encode()
