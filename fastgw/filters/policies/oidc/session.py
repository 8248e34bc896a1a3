"""State of a browser in encrypted cookies: a login attempt, and then the session."""

import json
import os
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final, TypeVar

import msgspec
import orjson

from fastgw.filters.policies.oidc.cookie_encryption import Seal
from fastgw.jose.strict import unencoded

T = TypeVar("T")

EARLY: Final = 0.2
"""Share of the lifetime of an access token that is left when it is refreshed."""
LATEST_EARLY: Final = 60.0
"""Maximum seconds before its expiry at which it is refreshed."""


class LoginAttempt(msgspec.Struct, array_like=True, frozen=True):
    """A login attempt: a callback is valid only with it (RFC 6749 section 10.12)."""

    state: str
    nonce: str
    verifier: str
    """Code verifier of PKCE (RFC 7636)."""
    return_to: bytes
    redirect_uri: str
    begun_date: float

    @classmethod
    def new_attempt(cls, return_to: bytes, redirect_uri: str) -> "LoginAttempt":
        return cls(_random(), _random(), _random(), return_to, redirect_uri, time.time())

    def __repr__(self) -> str:
        return f"<LoginAttempt of {self.begun_date:.0f}>"

    @property
    def challenge(self) -> str:
        """S256 of the verifier (RFC 7636 section 4.2)."""
        return urlsafe_b64encode(sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()


class LoginSession(msgspec.Struct, array_like=True, frozen=True):
    """Session of a browser that has logged in."""

    id_token: bytes
    """ID token as signed by the provider, verified at the login."""
    begun_date: float
    used_date: float
    """Date when the cookie was written."""
    access_token: str = ""
    refresh_token: str = ""
    got_date: float = 0.0
    """Date when the access token was issued."""
    ends_date: float = 0.0
    """Date when the access token expires; 0: unknown."""
    sid: str = ""
    """Session id at the provider; "": none (OpenID Connect Front-Channel Logout section 3)."""

    def __repr__(self) -> str:
        return f"<LoginSession of {self.begun_date:.0f}{', to be refreshed' if self.refresh_token else ''}>"

    @property
    def claims(self) -> dict[str, Any]:
        """Claims of the ID token."""
        # orjson reads an integer of more than 64 bits as a float, unlike what verified the token.
        claims: dict[str, Any] = json.loads(unencoded(self.id_token.split(b".")[1], "a verified token"))
        return claims

    @property
    def due_date(self) -> float:
        """Return the date of the refresh; 0: never."""
        if not self.ends_date or not self.refresh_token:
            return 0.0
        return self.ends_date - min((self.ends_date - self.got_date) * EARLY, LATEST_EARLY)


class SessionTicket(msgspec.Struct, array_like=True, frozen=True):
    """Cookie of a session that is stored in Redis (`stored_sessions`)."""

    key: bytes
    """Key that the stored session is found by and encrypted with."""
    used_date: float
    """Date when the cookie was written."""

    def __repr__(self) -> str:
        return f"<SessionTicket of {self.used_date:.0f}>"


def meaning_of(
    issuer: str,
    client_id: str,
    cookie: str | None,
    scopes: Iterable[str],
    parameters: Mapping[str, str],
    algorithms: Iterable[str],
) -> bytes:
    """Return the meaning of a policy's sessions: sessions are valid only for policies with the same meaning.

    It consists of the request to the provider, the client, and the verification of the response. Settings that only
    limit a session (lifetime, idle time) or use it (headers, paths, secrets) apply to each request, and may change
    without ending sessions.
    """
    asked = sorted(set(scopes)), sorted(parameters.items())
    return orjson.dumps((issuer, client_id, cookie, asked, sorted(set(algorithms))))


class SealedSession:
    """Encrypted login attempts and sessions, as stored in cookies."""

    __slots__ = ("_attempts", "_logouts", "_sessions", "_tickets")

    def __init__(self, secrets: list[str], policy: bytes) -> None:
        self._attempts = Seal(secrets, b"attempt", policy)
        self._sessions = Seal(secrets, b"session", policy)
        self._tickets = Seal(secrets, b"ticket", policy)
        self._logouts = Seal(secrets, b"logout", policy)

    def seal_attempt(self, attempt: LoginAttempt) -> bytes:
        return self._attempts.seal(msgspec.msgpack.encode(attempt))

    def attempt(self, sealed: bytes) -> LoginAttempt | None:
        return read_struct(self._attempts.open(sealed), LoginAttempt)

    def seal_session(self, session: LoginSession) -> bytes:
        return self._sessions.seal(msgspec.msgpack.encode(session))

    def session(self, sealed: bytes) -> LoginSession | None:
        return read_struct(self._sessions.open(sealed), LoginSession)

    def seal_ticket(self, ticket: SessionTicket) -> bytes:
        return self._tickets.seal(msgspec.msgpack.encode(ticket))

    def ticket(self, sealed: bytes) -> SessionTicket | None:
        return read_struct(self._tickets.open(sealed), SessionTicket)

    def seal_logout(self, mark: bytes) -> bytes:
        """Return a proof that the user of this session has confirmed the logout. `mark`: revocation key of the
        session.
        """
        return self._logouts.seal(mark)

    def is_logout(self, sealed: bytes, mark: bytes) -> bool:
        return self._logouts.open(sealed) == mark


def read_struct(plain: bytes | None, kind: type[T]) -> T | None:
    """Return a decoded value; None: there is none, or it was encoded by another version."""
    try:
        return None if plain is None else msgspec.msgpack.decode(plain, type=kind)
    except msgspec.DecodeError:
        return None


def _random() -> str:
    return urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()
