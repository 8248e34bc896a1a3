"""Who may use the admin API, and on whose behalf.

Who: anybody who reaches it on a loopback address or a unix socket when no token is configured; else whoever shows the
token or a client certificate that the listener's authority has signed. Only the dashboard's page is for everybody: it
holds nothing, and asks for the token.

On whose behalf: a browser also sends what pages of strangers ask for. Each gate below closes one way.

- `Host` must be an address, `localhost` or the configured host: a stranger's name that was made to lead here (DNS
  rebinding) is none of these. Over TLS any name may stand there, for the browser has found it in our certificate; and
  on a unix socket, for no browser comes that way.
- `Origin`, which browsers add to every request of a page that changes something, must be our own or absent.
- A body must be of a type that no form can send and for which scripts of other origins need leave; we give none.
"""

import hmac
import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fastgw.admin.answers import refused
from fastgw.config.secret import Secret, SecretError
from fastgw.config.settings import Admin
from fastgw.config.values import Address
from fastgw.runtime.notices import RareNotice

CERTIFIED: Final = "client_certificate"
"""In the state of a request: whether the client has shown a certificate, and TLS has verified it."""
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Access:
    """What is asked of a client."""

    address: Address
    """Where the listener is bound."""
    token: Secret | None = None
    """Read anew for each request: a file may change. While it cannot be read nobody is let in by it."""
    tls: bool = False

    @classmethod
    def of(cls, admin: Admin) -> "Access":
        return cls(admin.address, admin.token, admin.tls is not None)

    @property
    def anonymous(self) -> bool:
        """Whether nothing has to be shown."""
        return self.token is None and is_local(self.address)

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
        if self.token is None or scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(credentials.strip(" \t").encode("latin-1"), self.token.value().encode())


def is_local(address: Address) -> bool:
    """Whether only this machine reaches it: a unix socket, `localhost` or a loopback address."""
    return address.local


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Gate:
    """In front of the routes: lets a request in, or refuses it."""

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
            return refused(403, "The Host field must be an address, localhost or the host of the admin listener.")
        origin = fields.get("origin")
        if origin is not None and origin.lower() != f"{scope['scheme']}://{host.lower()}":
            return refused(403, "Requests of pages from other origins are not served.")
        is_page = scope["path"] == "/" and scope["method"] in ("GET", "HEAD")
        if is_page or self._access.anonymous or scope.get("state", {}).get(CERTIFIED):
            return None
        return self._unproved(fields.get("authorization"))

    def _unproved(self, shown: str | None) -> ASGIApp | None:
        challenge = 'Bearer realm="fastgw admin"'
        if shown is None:
            return refused(401, "A token is needed: Authorization: Bearer …", WWW_Authenticate=challenge)
        try:
            admitted = self._access.admits(shown)
        except SecretError as error:
            self._complain(f"admin: the token cannot be read, so nobody is let in by it: {error}")
            return refused(503, "The token to compare with cannot be read; the gateway's log says more.")
        if admitted:
            return None
        return refused(401, "That is not the token.", WWW_Authenticate=f'{challenge}, error="invalid_token"')
