"""Revocation keys of a token: the token itself, its `jti`, or its subject and time of issue."""

from base64 import urlsafe_b64decode
from typing import Final, TypeAlias

from fastgw.jose import Claims
from fastgw.sync.revocations import mark_of

Marks: TypeAlias = tuple[tuple[bytes, float], ...]
"""Keys with the time of issue (epoch seconds); 0: unknown, which counts as before every revocation."""

REVOKED: Final = "the token was revoked"


def mark_of_token(token: bytes) -> bytes:
    """Return the key of the token itself. The signature of a signed JWT is left out, because ECDSA signatures are
    malleable.
    """
    signed, _, _ = token.rpartition(b".")
    return mark_of("token", signed if _is_signed_jwt(token) else token)


def _is_signed_jwt(token: bytes) -> bool:
    segments = token.split(b".", 3)
    if len(segments) != 3:
        return False
    try:
        header = urlsafe_b64decode(segments[0] + b"=" * (-len(segments[0]) % 4))
    except ValueError:
        return False
    return header.lstrip().startswith(b"{")


def mark_of_jti(issuer: str, jti: str) -> bytes:
    return mark_of("jti", issuer, jti)


def mark_of_subject(issuer: str, subject: str) -> bytes:
    return mark_of("subject", issuer, subject)


def marks_of(claims: Claims, token: bytes, issuer: str = "") -> Marks:
    """Return the revocation keys of a valid token. `token`: key of the token itself; `issuer`: used if the claims have
    none.
    """
    said = claims.get("iss") or issuer
    issued = claims.get("iat")
    marks = [(token, 0.0)]
    if isinstance(jti := claims.get("jti"), str):
        marks.append((mark_of_jti(said, jti), 0.0))
    if isinstance(subject := claims.get("sub"), str):
        marks.append((mark_of_subject(said, subject), float(issued) if isinstance(issued, int | float) else 0.0))
    return tuple(marks)
