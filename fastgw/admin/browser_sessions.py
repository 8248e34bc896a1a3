"""Sessions of the dashboard: a browser exchanges the token for a cookie, and does not store the token.

A session is its random id, the dates of its beginning and its expiry, and an HMAC of them under the token and the
secret of the gateway's run. Active ones are not stored: they end when the token changes and when the gateway restarts,
and survive reloads, upgrades and a restart of the control process. One that is ended earlier is in a list of the node,
which lives as long as that secret, until no renewal of it would be valid. The list is apart from revoked tokens: a
client that may only sign in and out must not displace them. The cookie's name contains the port, because browsers send
cookies to all ports of a host. Another server may listen on one of them, so the cookie alone changes nothing: requests
also need a second value, which the page stores for its own origin only and sends in a header (`CSRF`).
"""

import hmac
import secrets
from hashlib import blake2b
from typing import Final, Literal

from msgspec import Struct

from fastgw.sync.revocations import MOST_ENDED_SESSIONS, mark_of, record_of

LIFETIME_S: Final = 7 * 86_400.0
"""Seconds after which a session expires unless it is renewed."""
LONGEST_S: Final = 30 * 86_400.0
"""Seconds after its beginning at which a session expires, however often it was renewed."""
CSRF: Final = "X-CSRF-Token"
ENDED_BY_READERS: Final = MOST_ENDED_SESSIONS // 2
"""Number of ended sessions from which those of the read-only token cannot be ended: the others still can."""
_PREFIX: Final = "fastgw-admin"
_COOKIES_MAX: Final = 8 * 1024


class SessionRole(Struct, frozen=True):
    """Role of the client that asks: `read_only` clients may look, and change nothing."""

    role: Literal["full", "read_only"]


class Session(Struct, frozen=True):
    """Session of the dashboard: the values that the page needs to change anything. Sent together with the cookie. It
    expires after 7 days unless it is renewed, and 30 days after it began at the latest. A restart of
    the gateway ends it.
    """

    csrf: str
    """Token to send as `X-CSRF-Token` with requests that change something."""
    expires_date: float


class SessionCookie(Struct, frozen=True):
    """Content of a valid cookie."""

    id: str
    """Random identity of the session. Renewals keep it."""
    begun_date: int
    """When the client authenticated with the token. Renewals keep it."""
    expires_date: int

    @property
    def mark(self) -> bytes:
        """Mark of the session in the list of ended ones."""
        return mark_of("admin_session", self.id)

    @property
    def end(self) -> bytes:
        """Record that ends the session with all its renewals."""
        return record_of(self.mark, self.begun_date + LONGEST_S)


def session_key(run_key: bytes, token: str) -> bytes:
    """Return the key of the sessions that begin with a token. `run_key`: secret of the gateway's run."""
    return blake2b(token.encode(), digest_size=32, key=run_key, person=b"admin_session").digest()


def create_session(key: bytes, now_date: float, renewed: SessionCookie | None = None) -> tuple[str, Session]:
    """Return the cookie's value, and the session for the page. `renewed`: the session to prolong; None: a new one."""
    session_id = secrets.token_hex(16) if renewed is None else renewed.id
    begun = int(now_date) if renewed is None else renewed.begun_date
    expires = int(min(now_date + LIFETIME_S, begun + LONGEST_S))
    content = f"{session_id}.{begun}.{expires}"
    return f"{content}.{_signed(key, 'session', content)}", Session(_signed(key, "csrf", session_id), float(expires))


def read_cookie(key: bytes, value: str, now_date: float) -> SessionCookie | None:
    """Return the content of a cookie. None: it was not made with this key (`session_key`), or has expired."""
    content, _, signature = value.rpartition(".")
    parts = content.split(".")
    expected = _signed(key, "session", content)
    if len(parts) != 3 or not hmac.compare_digest(signature.encode(errors="replace"), expected.encode()):
        return None
    session = SessionCookie(parts[0], int(parts[1]), int(parts[2]))
    return session if now_date < session.expires_date else None


def may_change(key: bytes, session: SessionCookie, csrf: str) -> bool:
    """Whether the CSRF header belongs to the session."""
    expected = _signed(key, "csrf", session.id)
    return hmac.compare_digest(csrf.encode(errors="replace"), expected.encode())


def _signed(key: bytes, purpose: str, content: str) -> str:
    message = f"fastgw admin {purpose} {content}"
    return hmac.digest(key, message.encode(errors="replace"), "sha256").hex()


def cookie_name(host: str, *, tls: bool) -> str:
    """Return the name of the cookie for the `Host` header that a browser has sent."""
    port = host.rpartition(":")[2]
    return f"{_PREFIX}-{port if port.isdigit() else '443' if tls else '80'}"


def cookie_in(field: str, name: str) -> str | None:
    """Return the value of the cookie with this name. None: it is missing, or there are several."""
    if len(field) > _COOKIES_MAX:
        return None
    values = [value for each in field.split(";") for key, _, value in [each.strip().partition("=")] if key == name]
    return values[0] if len(values) == 1 else None


def set_cookie(name: str, value: str, *, tls: bool) -> str:
    """Return the `Set-Cookie` header. An empty value ends the session."""
    age = int(LIFETIME_S) if value else 0
    return f"{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{'; Secure' if tls else ''}"
