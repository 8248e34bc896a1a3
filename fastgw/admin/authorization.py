"""Authentication and authorization of the admin API, and its protection from cross-site requests.

Authenticated is a client with the token or with a client certificate that the listener's authority has signed; and on a
unix socket that the kernel opens to its owner alone, whoever reaches it, unless a token is configured. Where none is,
one is made at the start. Only the dashboard's page is for everybody: it holds nothing, and asks for the token.

Cross-site requests: a browser also sends what pages of strangers ask for. Each gate below closes one way.

- `Host` must be an address, `localhost` or the configured host: a stranger's name that was made to lead here (DNS
  rebinding) is none of these. Over TLS any name may stand there, for the browser has found it in our certificate; and
  on a unix socket, for no browser comes that way.
- `Origin`, which browsers add to every request of a page that changes something, must be our own or absent.
- `Sec-Fetch-Site`, where a browser says it, must be our own page or its user: a cookie is sent to all ports of a host.
- A body must be of a type that no form can send and for which scripts of other origins need leave; we give none.
- Who shows a cookie and no token changes nothing without what only our own page knows (`sessions`).
"""

import hmac
import ipaddress
import re
import time
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fastgw.admin import browser_sessions
from fastgw.admin.gateway_registry import is_private
from fastgw.admin.responses import refused
from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import Admin
from fastgw.config.settings.secrets import Secret, SecretError
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice

CERTIFIED: Final = "client_certificate"
"""Key in the state of a request: whether the client has shown a certificate, and TLS has verified it."""
SAFE: Final = ("GET", "HEAD")
"""Methods that change nothing here."""
OWN_SITES: Final = (None, "same-origin", "none")
"""Values of `Sec-Fetch-Site` that are allowed: it is no browser; our own page; the user, who has typed the address."""
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Access:
    """Access rules for clients."""

    address: Address
    """Address that the listener is bound to."""
    token: Secret
    """Read anew for each request: a file may change. While it cannot be read nobody is let in by it."""
    tls: bool = False
    made: bool = False
    """The token is none that was configured."""
    document_bytes: int = Admin().document_bytes
    """How long a body may be."""

    @classmethod
    def of(cls, admin: Admin, made: str) -> "Access":
        """`made`: the token where none is configured."""
        token = admin.token or Secret(text=made)
        return cls(admin.address, token, admin.tls is not None, admin.token is None, admin.document_bytes)

    @property
    def anonymous(self) -> bool:
        """Whether nothing has to be shown. The socket's mode is looked at each time: it may change."""
        return self.made and is_private(self.address)

    def knows_host(self, field: str) -> bool:
        match = _HOST.fullmatch(field.lower())
        if match is None:
            return False
        if self.tls or self.address.path:
            return True
        host = match[1].strip("[]").removesuffix(".")
        return host in ("localhost", self.address.host.removesuffix(".")) or _is_ip(host)

    def admits(self, shown: str) -> bool:
        """Whether the value of an `Authorization` field carries the token. Raises `SecretError`."""
        scheme, _, credentials = shown.partition(" ")
        if scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(credentials.strip(" \t").encode("latin-1"), self.token.value().encode())


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Gate:
    """Gate in front of the routes: lets a request in, or refuses it."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._complain = RareNotice()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._refusal(scope) or self._app)(scope, receive, send)

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
            return self._unproved(fields, scope["method"])
        except SecretError as error:
            self._complain(
                OperatorEvent.ADMIN_TOKEN_UNREADABLE,
                f"admin: the token cannot be read, requests with it are rejected: {error}",
            )
            return refused(503, "The admin token cannot be read; see the gateway's log.")

    def _unproved(self, fields: Headers, method: str) -> ASGIApp | None:
        """Raises `SecretError`."""
        challenge = 'Bearer realm="fastgw admin"'
        shown = fields.get("authorization")
        if shown is not None:
            if self._access.admits(shown):
                return None
            return refused(401, "The token is wrong.", WWW_Authenticate=f'{challenge}, error="invalid_token"')
        name = browser_sessions.cookie_name(fields["host"], tls=self._access.tls)
        cookie = browser_sessions.cookie_in(fields.get("cookie", ""), name)
        if cookie is None:
            return refused(401, "A token is required: Authorization: Bearer …", WWW_Authenticate=challenge)
        token = self._access.token.value()
        if not browser_sessions.is_good(token, cookie, time.time()):
            return refused(401, "The session has ended.", WWW_Authenticate=challenge)
        if method in SAFE or browser_sessions.may_change(token, cookie, fields.get(browser_sessions.CSRF, "")):
            return None
        return refused(
            403,
            f"With a session cookie the header {browser_sessions.CSRF} is required, with the value from POST /session.",
        )
