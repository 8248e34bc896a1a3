"""Sessions of the dashboard: a browser exchanges the token for a cookie, and does not store the token.

A session is its random id, the dates of its beginning and its expiry, and an HMAC of them under the token. Active ones
are not stored: they end when the token changes, and survive a restart of the control process. One that is ended earlier
is in the node's revocation list until no renewal of it would be valid. The cookie's name contains the port, because
browsers send cookies to all ports of a host. Another server may listen on one of them, so the cookie alone changes
nothing: requests also need a second value, which the page stores for its own origin only and sends in a header
(`CSRF`).
"""

import hmac
import secrets
from typing import Final, Literal

from msgspec import Struct

from fastgw.sync.revocations import RevocationEvent, event_of, mark_of, record_of

LIFETIME_S: Final = 7 * 86_400.0
"""Seconds after which a session expires unless it is renewed."""
LONGEST_S: Final = 30 * 86_400.0
"""Seconds after its beginning at which a session expires, however often it was renewed."""
CSRF: Final = "X-CSRF-Token"
ISSUER: Final = "fastgw admin"
"""Issuer of the sessions, in the events of their revocation."""
_PREFIX: Final = "fastgw-admin"
_COOKIES_MAX: Final = 8 * 1024


class SessionRole(Struct, frozen=True):
    """Role of the client that asks: `read_only` clients may look, and change nothing."""

    role: Literal["full", "read_only"]


class Session(Struct, frozen=True):
    """Session of the dashboard: the values that the page needs to change anything. Sent together with the cookie. It
    expires after 7 days unless it is renewed, and 30 days after it began at the latest.
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
        """Mark of the session in the revocation list."""
        return mark_of("admin_session", self.id)

    def end(self) -> tuple[bytes, RevocationEvent]:
        """Return the record that revokes the session with all its renewals, and the event."""
        latest = self.begun_date + LONGEST_S
        return record_of(self.mark, latest), event_of("session", latest, issuer=ISSUER)


def create_session(token: str, now_date: float, renewed: SessionCookie | None = None) -> tuple[str, Session]:
    """Return the cookie's value, and the session for the page. `renewed`: the session to prolong; None: a new one."""
    session_id = secrets.token_hex(16) if renewed is None else renewed.id
    begun = int(now_date) if renewed is None else renewed.begun_date
    expires = int(min(now_date + LIFETIME_S, begun + LONGEST_S))
    content = f"{session_id}.{begun}.{expires}"
    return f"{content}.{_signed(token, 'session', content)}", Session(
        _signed(token, "csrf", session_id), float(expires)
    )


def read_cookie(token: str, value: str, now_date: float) -> SessionCookie | None:
    """Return the content of a cookie. None: it was not made with this token, or has expired."""
    content, _, signature = value.rpartition(".")
    parts = content.split(".")
    expected = _signed(token, "session", content)
    if len(parts) != 3 or not hmac.compare_digest(signature.encode(errors="replace"), expected.encode()):
        return None
    session = SessionCookie(parts[0], int(parts[1]), int(parts[2]))
    return session if now_date < session.expires_date else None


def may_change(token: str, session: SessionCookie, csrf: str) -> bool:
    """Whether the CSRF header belongs to the session."""
    expected = _signed(token, "csrf", session.id)
    return hmac.compare_digest(csrf.encode(errors="replace"), expected.encode())


def _signed(token: str, purpose: str, content: str) -> str:
    message = f"fastgw admin {purpose} {content}"
    return hmac.digest(token.encode(), message.encode(errors="replace"), "sha256").hex()


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
