"""Authentication and authorization of the admin API, and protection against cross-site requests (CSRF).

A client is authenticated by the token, or by a client certificate signed by the listener's CA. On a unix socket that
only its owner can connect to, clients need no credentials unless a token is configured. Without a configured token, one
is generated at the start. Only the dashboard's page is public: it contains no data, and asks for the token.

Browsers also send requests made by other sites' pages. Each rule stops one kind of them:

- `Host` must be an address, `localhost` or the configured host, not a name that an attacker points here (DNS
  rebinding). Over TLS any name is allowed, because the browser has verified it against the certificate; also on a
  unix socket, which browsers do not use.
- `Origin`, which browsers add to every request of a page that changes something, must be the same origin or absent.
- `Sec-Fetch-Site`, if the browser sends it, must be the same origin or the user: cookies are sent to all ports of a
  host.
- A body must have a content type that forms cannot send and that scripts of other origins may send only with
  permission (CORS), which is never given.
- A client with a cookie and no token also needs the CSRF token, which only the dashboard's page knows, for every
  request that changes something (`browser_sessions`).
"""

import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fastgw.admin import browser_sessions
from fastgw.admin.browser_sessions import SessionCookie
from fastgw.admin.gateway_registry import is_private
from fastgw.admin.host_check import host_in, is_of_listener
from fastgw.admin.responses import refused
from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import Admin
from fastgw.config.settings.secrets import Secret, SecretError
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice

CERTIFIED: Final = "client_certificate"
"""Key in the request's state: whether the client has a certificate that TLS has verified."""
PEER: Final = "peer"
"""Key in the request's state: who is connected: an address and port, or the user of a unix socket."""
SUBJECT: Final = "certificate_subject"
"""Key in the request's state: subject of the certificate."""
ACTOR: Final = "actor"
"""Key in the request's state: the client, for the audit log: `token from 127.0.0.1:41234`."""
SAFE: Final = ("GET", "HEAD")
"""Methods that change nothing."""
FOR_READERS: Final = frozenset(("/session", "/explain"))
"""Paths that the read-only token may be used for with any method: they change nothing in the gateway, except that
a client ends its own session. The number of those is bounded (`browser_sessions.ENDED_BY_READERS`).
"""
RECORDINGS: Final = "/recordings/"
"""Beginning of the paths that the read-only token may be used for with no method: records have bodies, and are removed
as they are fetched.
"""
CONNECTIONS: Final = "/connections/"
"""Beginning of the paths that the token for connections may be used for."""
OWN_SITES: Final = (None, "same-origin", "none")
"""Accepted values of `Sec-Fetch-Site`: not a browser; the same origin; the user, who has typed the address."""


Record = Callable[[str, str, str, Mapping[str, str]], Awaitable[None]]
"""Type of `Node.record`."""
HasEnded = Callable[[bytes], bool]
"""Type of `Node.has_session_ended`."""


@dataclass(frozen=True)
class Access:
    """Access rules for clients."""

    address: Address
    """Address that the listener is bound to."""
    token: Secret
    """Token, read for each request because its file may change. While it cannot be read, no client can authenticate
    with it.
    """
    tls: bool = False
    made: bool = False
    """Whether the token was generated rather than configured."""
    document_bytes: int = Admin().document_bytes
    """Maximum size of a request body in bytes."""
    read_only: Secret | None = None
    """Token of clients that may only look; None: there is none."""
    connections: Secret | None = None
    """Token of clients that may only use the connections of WebSocket APIs; None: there is none."""
    run_key: bytes = field(kw_only=True, repr=False)
    """Secret of the gateway's run: sessions of another run are not valid."""

    @classmethod
    def of(cls, admin: Admin, made: str, run_key: bytes) -> "Access":
        """Return the rules of a listener. `made`: generated token, used if none is configured; `run_key`: secret of the
        gateway's run.
        """
        token = admin.token or Secret(text=made)
        tls, made_one = admin.tls is not None, admin.token is None
        others = admin.read_only_token, admin.connections_token
        return cls(admin.address, token, tls, made_one, admin.document_bytes, *others, run_key=run_key)

    @property
    def anonymous(self) -> bool:
        """Whether clients need no credentials. The socket's mode may change, so it is checked each time."""
        return self.made and is_private(self.address)

    def knows_host(self, field: str) -> bool:
        host = host_in(field)
        return host is not None and (bool(self.tls or self.address.path) or is_of_listener(host, self.address))

    def token_in(self, shown: str) -> Secret | None:
        """Return the token that the value of an `Authorization` header contains. None: it contains neither. Raises
        `SecretError`.
        """
        scheme, _, credentials = shown.partition(" ")
        if scheme.lower() != "bearer":
            return None
        given = credentials.strip(" \t").encode("latin-1")
        fitting = [
            each
            for each in (self.token, self.read_only, self.connections)
            if each is not None and hmac.compare_digest(given, each.value().encode())
        ]
        return fitting[0] if fitting else None

    def session_in(self, cookie: str, has_ended: HasEnded) -> tuple[Secret, SessionCookie] | None:
        """Return the session of a cookie (`cookie_in`), and the token that it began with. None: it has ended. Raises
        `SecretError`.
        """
        now = time.time()
        for token in (self.token,) if self.read_only is None else (self.token, self.read_only):
            session = browser_sessions.read_cookie(self.session_key(token), cookie, now)
            if session is not None:
                return None if has_ended(session.mark) else (token, session)
        return None

    def session_key(self, token: Secret) -> bytes:
        """Return the key of the sessions that begin with this token. Raises `SecretError`."""
        return browser_sessions.session_key(self.run_key, token.value())

    def cookie_in(self, cookies: str, host: str) -> str | None:
        """Return the value of the session's cookie in a `Cookie` header, valid or not. None: there is none, or there
        are several. `host`: value of the `Host` header.
        """
        return browser_sessions.cookie_in(cookies, browser_sessions.cookie_name(host, tls=self.tls))


class Denials:
    """Limit on recorded denials: clients without credentials must not fill the audit log."""

    PER_MINUTE: Final = 30

    def __init__(self) -> None:
        self._minute_ends = 0.0
        self._recorded = self._others = 0

    def count(self, now: float) -> dict[str, str] | None:
        """Return the details of the entry; None: there is none, because there were too many in this minute."""
        if now >= self._minute_ends:
            self._minute_ends, self._recorded = now + 60.0, 0
        if self._recorded >= self.PER_MINUTE:
            self._others += 1
            return None
        self._recorded += 1
        others, self._others = self._others, 0
        return {"others_before": str(others)} if others else {}


class Gate:
    """Middleware in front of the routes: accepts or rejects each request."""

    def __init__(self, app: ASGIApp, access: Access, record: Record, has_ended: HasEnded) -> None:
        self._app = app
        self._access = access
        self._record = record
        self._has_ended = has_ended
        self._complain = RareNotice()
        self._denials = Denials()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        state = scope.setdefault("state", {})
        state[ACTOR] = f"{self._credential(scope)} from {state.get(PEER, 'an unknown address')}"
        if refusal is not None and scope["method"] not in SAFE:
            detail = self._denials.count(time.monotonic())
            if detail is not None:
                await self._record(state[ACTOR], f"{scope['method']} {scope['path']}", "denied", detail)
        await (refusal or self._app)(scope, receive, send)

    def _credential(self, scope: Scope) -> str:
        """Return what the client authenticates with, valid or not."""
        fields, state = Headers(scope=scope), scope["state"]
        if self._access.anonymous:
            return "owner of the socket"
        if state.get(CERTIFIED):
            return f"certificate {state.get(SUBJECT, '')}".rstrip()
        if "authorization" in fields:
            return "token"
        return "session" if "cookie" in fields else "nobody"

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        fields = Headers(scope=scope)
        host = fields.get("host", "")
        if not self._access.knows_host(host):
            return refused(403, "The Host header must be an address, localhost or the host of the admin listener.")
        origin = fields.get("origin")
        if origin is not None and origin.lower() != f"{scope['scheme']}://{host.lower()}":
            return refused(403, "Cross-origin requests are rejected.")
        is_page = scope["path"] == "/" and scope["method"] in SAFE
        if is_page:
            return None
        if fields.get("sec-fetch-site") not in OWN_SITES:
            return refused(403, "Cross-site requests are rejected.")
        if self._access.anonymous or scope.get("state", {}).get(CERTIFIED):
            return None
        try:
            return self._unproved(fields, scope["method"], scope["path"])
        except SecretError as error:
            self._complain(
                OperatorEvent.ADMIN_TOKEN_UNREADABLE,
                f"admin: the token cannot be read, requests with it are rejected: {error}",
            )
            return refused(503, "The admin token cannot be read; see the gateway's log.")

    def _unproved(self, fields: Headers, method: str, path: str) -> ASGIApp | None:
        """Return the rejection of a request without a certificate; None: it is authenticated. Raises `SecretError`."""
        challenge = 'Bearer realm="fastgw admin"'
        shown = fields.get("authorization")
        if shown is not None:
            given = self._access.token_in(shown)
            if given is not None:
                return self._overreach(given, method, path)
            return refused(401, "The token is wrong.", WWW_Authenticate=f'{challenge}, error="invalid_token"')
        cookie = self._access.cookie_in(fields.get("cookie", ""), fields["host"])
        if cookie is None:
            return refused(401, "A token is required: Authorization: Bearer …", WWW_Authenticate=challenge)
        found = self._access.session_in(cookie, self._has_ended)
        if found is None:
            return refused(401, "The session has ended.", WWW_Authenticate=challenge)
        begun_with, session = found
        csrf = fields.get(browser_sessions.CSRF, "")
        if method in SAFE or browser_sessions.may_change(self._access.session_key(begun_with), session, csrf):
            return self._overreach(begun_with, method, path)
        return refused(
            403,
            f"With a session cookie the header {browser_sessions.CSRF} is required, with the value from POST /session.",
        )

    def _overreach(self, token: Secret, method: str, path: str) -> ASGIApp | None:
        """Return the rejection of a request that this token does not allow; None: it does."""
        if token is self._access.token:
            return None
        if token is self._access.connections:
            is_allowed = path.startswith(CONNECTIONS)
            return None if is_allowed else refused(403, "This token is for connections of WebSocket APIs only.")
        if path.startswith(RECORDINGS):
            return refused(403, "This token may not look at the bodies of requests.")
        if method in SAFE or path in FOR_READERS:
            return None
        return refused(403, "This token may look, and change nothing.")
