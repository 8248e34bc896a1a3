"""Sessions of the dashboard: a browser exchanges the token for a cookie, and does not store the token.

A session is its expiry and an HMAC of it under the token. Nothing is stored: it ends when the token changes, and
survives a restart of the control process. The cookie's name contains the port, because browsers send cookies to all
ports of a host. Another server may listen on one of them, so the cookie alone changes nothing: requests also need a
second value, which the page stores for its own origin only and sends in a header (`CSRF`).
"""

import hmac
from typing import Final, Literal

from msgspec import Struct

LIFETIME_S: Final = 7 * 86_400.0
CSRF: Final = "X-CSRF-Token"
_PREFIX: Final = "fastgw-admin"
_COOKIES_MAX: Final = 8 * 1024


class SessionRole(Struct, frozen=True):
    """Role of the client that asks: `read_only` clients may look, and change nothing."""

    role: Literal["full", "read_only"]


class Session(Struct, frozen=True):
    """Session of the dashboard: the values that the page needs to change anything. Sent together with the cookie."""

    csrf: str
    """Token to send as `X-CSRF-Token` with requests that change something."""
    expires_date: float


def create_session(token: str, now_date: float) -> tuple[str, Session]:
    """Return the cookie's value, and the session for the page."""
    expires = int(now_date + LIFETIME_S)
    return f"{expires}.{_signed(token, 'session', expires)}", Session(_signed(token, "csrf", expires), float(expires))


def is_good(token: str, value: str, now_date: float) -> bool:
    """Whether this cookie value was made with the token and has not expired."""
    expires, _, signature = value.partition(".")
    if not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
        return False
    expected = _signed(token, "session", int(expires))
    return hmac.compare_digest(signature.encode(errors="replace"), expected.encode()) and now_date < int(expires)


def may_change(token: str, value: str, csrf: str) -> bool:
    """Whether the CSRF header belongs to the session of this valid cookie."""
    expected = _signed(token, "csrf", int(value.partition(".")[0]))
    return hmac.compare_digest(csrf.encode(errors="replace"), expected.encode())


def _signed(token: str, purpose: str, expires: int) -> str:
    return hmac.digest(token.encode(), f"fastgw admin {purpose} {expires}".encode(), "sha256").hex()


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
