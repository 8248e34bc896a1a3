"""Claims of a verified token: its validity in time and audience, and paths to claims (RFC 7519 section 4)."""

from collections.abc import Mapping
from math import inf, isfinite
from typing import Any, Final, NamedTuple, TypeAlias

from fastgw.jose.strict import TokenRefused

Claims: TypeAlias = Mapping[str, Any]
ClaimPath: TypeAlias = tuple[str, ...]
"""The names that lead to a claim, from the outermost object inwards."""

ANY: Final = "*"
"""Marker among the audiences: any audience is accepted."""
_LATEST_DATE: Final = 253_402_300_799.0  # 9999-12-31
_DATES: Final = ("exp", "nbf", "iat")
_TEXTS: Final = ("iss", "sub", "jti")


class Expected(NamedTuple):
    """Expectations of a policy for the claims."""

    issuer: str | None = None
    audiences: frozenset[str] = frozenset()
    """Audiences, one of which must be the token's; none: the token must not be meant for anybody in particular."""
    required: tuple[ClaimPath, ...] = (("exp",),)
    leeway: float = 0.0
    """Seconds by which the clocks may differ."""


def check_claims(claims: Claims, expected: Expected, now: float) -> float:
    """Check the claims, and return until when they are valid, epoch seconds; `inf` where they do not say. Raises
    `TokenRefused`.

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
    if claims["iss"] != expected.issuer:  # compared as it is, by code points (RFC 7519 section 4.1.1)
        raise TokenRefused("the token has the wrong issuer")


def _check_audience(claims: Claims, expected: Expected) -> None:
    """RFC 7519 section 4.1.3: who does not find itself among the audiences must refuse."""
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
    """A NumericDate (RFC 7519 section 2).

    What no calendar reaches is as far away as one does: `exp` of servers that mean "never" is such a number.
    """
    value = claims[name]
    if type(value) not in (int, float) or not isfinite(value):
        raise TokenRefused(f"the claim `{name}` is not a number")
    return max(-_LATEST_DATE, min(float(value), _LATEST_DATE))


def claim_path(text: str) -> ClaimPath:
    """Parse the path of a claim, as people write it: `sub`, `realm_access.roles`, `https://example.com/roles`,
    `/a.b/c`.

    Dots lead inwards; but a URL is one name, and a path that begins with a slash is led inwards by slashes (RFC 6901:
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
    """The value that stands there; None where there is none, or null."""
    found: Any = claims
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def scopes_of(claims: Claims) -> frozenset[str]:
    """The scopes of a token: `scope`, words in a text (RFC 8693 section 4.2), or `scp`, which is that or a list."""
    scopes: set[str] = set()
    for name in ("scope", "scp"):
        said = claims.get(name)
        if isinstance(said, str):
            scopes.update(said.split(" "))
        elif isinstance(said, list):
            scopes.update(each for each in said if isinstance(each, str))
    scopes.discard("")
    return frozenset(scopes)
