"""Asking the admin API of a gateway that runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from typing import Any

from tests.e2e.test_reload import Reloadable
from tests.support.client import connect
from tests.support.peer import DEADLINE

JSON = "application/json"
YAML = "application/yaml"
TOML = "application/toml"
TIMEOUT = 6 * DEADLINE  # seconds for a change on a busy machine
AS_YAML = """
version: 1
workers: 2
admin: {address: "127.0.0.1:0"}
status: {address: "127.0.0.1:0"}
access_logs: []
listeners: {main: {address: "127.0.0.1:0"}}
routes: [{name: said, respond: {body: %s}}]
"""
AS_TOML = """
version = 1
workers = 2
access_logs = []
[admin]
address = "127.0.0.1:0"
[status]
address = "127.0.0.1:0"
[listeners.main]
address = "127.0.0.1:0"
[[routes]]
name = "said"
respond.body = "%s"
"""


class Told:
    """An answer of the admin API."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.fields = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Calling(http.client.HTTPConnection):
    """To any address that a ready line names; over TLS if there is a context for it."""

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__("localhost" if address.startswith("unix:") else address, timeout=TIMEOUT)
        self._address, self._tls = address, tls

    def connect(self) -> None:
        self.sock = connect(self._address, TIMEOUT)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname="127.0.0.1")


def tell(
    address: str,
    request: str,
    body: str | bytes | None = None,
    kind: str = "",
    token: str = "",
    tls: ssl.SSLContext | None = None,
) -> Told:
    """One request, such as `GET /status`, on a connection of its own."""
    method, path = request.split()
    fields = {"Content-Type": kind} if kind else {}
    fields |= {"Authorization": f"Bearer {token}"} if token else {}
    with contextlib.closing(Calling(address, tls)) as connection:
        connection.request(method, path, body, fields)
        return Told(connection.getresponse())


def admin(gateway: Reloadable, request: str, body: str | bytes | None = None, kind: str = "", **more: Any) -> Told:
    """With the token that was made, unless another is shown; "" = none."""
    return tell(str(gateway.ready["admin"]), request, body, kind, **{"token": gateway.token, **more})


def post(gateway: Reloadable, config: dict[str, Any] | str, kind: str = JSON, query: str = "") -> Told:
    text = config if isinstance(config, str) else json.dumps(config)
    return admin(gateway, f"POST /config{query}", text, kind)


def read(gateway: Reloadable, path: str) -> Any:
    told = admin(gateway, f"GET {path}")
    assert told.status == 200, told.body
    return told.json


def read_generation(gateway: Reloadable, **more: Any) -> int:
    return int(admin(gateway, "GET /status", **more).json["generation"])


def status_of(gateway: Reloadable) -> int:
    """0: nobody answers."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return admin(gateway, "GET /status").status
    return 0


def is_served(gateway: Reloadable) -> bool:
    return status_of(gateway) == 200
