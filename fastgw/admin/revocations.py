"""Revocations over the admin API: parsed into records, and into the event that is logged."""

import time
from typing import Any, Final

from msgspec import Struct

from fastgw.filters.authentication.revocation_keys import mark_of_jti, mark_of_subject, mark_of_token
from fastgw.jose import TokenRefused
from fastgw.jose.strict import members, unencoded
from fastgw.sync.revocations import LATEST_DATE, RevocationEvent, event_of, record_of

KEPT_S: Final = 30 * 86400.0
"""Seconds for which a revocation is kept if neither it nor its token has an expiry."""
LEEWAY_S: Final = 3600.0
"""Seconds after its `exp` during which a token may still be accepted."""


class Revocation(Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens to revoke. `issuer` and `jti`: one token; `issuer` and `subject`: all tokens of a subject issued so far;
    `token`: this token. A login session counts as issued when it began.
    """

    issuer: str | None = None
    """Issuer as in the token; "" = the token has none."""
    jti: str | None = None
    subject: str | None = None
    token: str | None = None
    """A JWT or an opaque token. It is neither verified nor stored. The `jti` of a JWT with `iss` is revoked too."""
    expires: float | None = None
    """Date until which it is kept, epoch seconds, such as the token's `exp`. null = as long as the token is valid; 30
    days if it has no `exp`.
    """


def read(wanted: Revocation) -> tuple[bytes, RevocationEvent]:
    """Return the records and the event. Raises `ValueError`."""
    now = time.time()
    if wanted.expires is not None and not now < wanted.expires < 2 * LATEST_DATE:
        raise ValueError("`expires` is not a future time in epoch seconds")
    expires = now + KEPT_S if wanted.expires is None else wanted.expires
    issuer = wanted.issuer
    match wanted:
        case Revocation(token=str(token), issuer=None, jti=None, subject=None) if token:
            return _of_token(token, wanted.expires, now)
        case Revocation(token=None, issuer=str(issuer), jti=str(jti), subject=None) if jti:
            return record_of(mark_of_jti(issuer, jti), expires), event_of("jti", expires, issuer=issuer, jti=jti)
        case Revocation(token=None, issuer=str(issuer), jti=None, subject=str(subject)) if subject:
            record = record_of(mark_of_subject(issuer, subject), expires, before_date=now)
            return record, event_of("subject", expires, issuer=issuer, subject=subject)
        case _:
            raise ValueError("expected `issuer` and `jti`, `issuer` and `subject`, or `token`")


def _of_token(token: str, wanted: float | None, now: float) -> tuple[bytes, RevocationEvent]:
    raw = token.encode("utf-8", "surrogatepass")
    claims = _claims(raw)
    exp = claims.get("exp")
    expires = now + KEPT_S if wanted is None else wanted
    if wanted is None and claims:
        expires = max(float(exp), now) + LEEWAY_S if isinstance(exp, int | float) else LATEST_DATE
    records = record_of(mark_of_token(raw), expires)
    issuer, subject, jti = (said if isinstance(said := claims.get(name), str) else "" for name in ("iss", "sub", "jti"))
    if issuer and jti:
        records += record_of(mark_of_jti(issuer, jti), expires)
    return records, event_of("token", expires, issuer=issuer, subject=subject, jti=jti)


def _claims(token: bytes) -> dict[str, Any]:
    """Return the claims of a JWT, unverified; {} if it is not a JWT."""
    segments = token.split(b".")
    try:
        return members(unencoded(segments[1], "the payload"), "the payload") if len(segments) == 3 else {}
    except TokenRefused:
        return {}
