"""A Vault of the tests, written from its HTTP API: AppRole, Kubernetes and token authentication, and KV version 2.

Strict: it answers only what the API knows, a token must be valid and not revoked, and a secret is read at the path of
its mount. `down`: it answers 503 as a sealed Vault does; `broken`: bytes in place of each answer, `broken_paths` of
reads of these; `forbidden`: paths that no policy allows to read, where `auth/token/lookup-self` may be one;
`outside_role`: paths that no policy of the role allows to read, for the whole life of a token that is issued meanwhile.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.threaded import Threaded

ROLE_ID, SECRET_ID = "role-4711", "secret-id-4711"
JWT = "eyJh.account.token"


class Token:
    def __init__(self, ttl: int, max_ttl: int, forbidden: frozenset[str], renewable: bool = True) -> None:
        self.ttl, self.forbidden, self.renewable = ttl, forbidden, renewable
        self.until = time.monotonic() + ttl
        self.last = time.monotonic() + max_ttl


class VaultServer(Threaded):
    """`ttl`: lifetime of the tokens of logins in seconds; `max_ttl`: the longest, with all renewals."""

    def __init__(self, tls: ssl.SSLContext | None = None, ttl: int = 3600, max_ttl: int = 36000) -> None:
        super().__init__(_Answering, tls)
        self.ttl, self.max_ttl = ttl, max_ttl
        self.secrets: dict[str, dict[str, Any] | None] = {}
        self.tokens: dict[str, Token] = {}
        self.logins: list[str] = []
        self.renewed: list[str] = []
        self.revoked: list[str] = []
        self.reads: list[str] = []
        self.refused: list[str] = []
        self.namespaces: set[str | None] = set()
        self.asked = 0
        self.down = False
        self.broken: bytes | None = None
        self.broken_paths: dict[str, bytes] = {}
        self.forbidden: set[str] = set()
        self.outside_role: set[str] = set()
        self.lock = threading.Lock()
        self.begin()

    def issue(self, name: str, ttl: int | None = None) -> Token:
        token = self.tokens[name] = Token(self.ttl if ttl is None else ttl, self.max_ttl, frozenset(self.outside_role))
        return token


class _Answering(BaseHTTPRequestHandler):
    server: VaultServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:
        vault = self.server
        with vault.lock:
            vault.asked += 1
            vault.namespaces.add(self.headers.get("X-Vault-Namespace"))
            if vault.broken is not None:
                self._send(200, vault.broken)
            elif vault.down:
                self._say(503, errors=["Vault is sealed"])
            elif self.headers.get("X-Vault-Request") != "true":
                self._say(400, errors=["missing X-Vault-Request header"])
            elif body is not None:
                self._post(body)
            else:
                self._get()

    def _post(self, body: Any) -> None:
        vault = self.server
        if self.path == "/v1/auth/approle/login":
            if body != {"role_id": ROLE_ID, "secret_id": SECRET_ID}:
                self._say(400, errors=["invalid role or secret ID"])
                return
            self._log_in("approle")
        elif self.path == "/v1/auth/kubernetes/login":
            if body != {"role": "gateway", "jwt": JWT}:
                self._say(403, errors=["permission denied"])
                return
            self._log_in("kubernetes")
        elif (token := self._token()) is None:
            self._say(403, errors=["permission denied"])
        elif self.path == "/v1/auth/token/renew-self":
            if not token.renewable:
                self._say(400, errors=["lease is not renewable"])
                return
            vault.renewed.append(self.headers["X-Vault-Token"])
            token.until = min(time.monotonic() + token.ttl, token.last)
            left = max(0, int(token.until - time.monotonic()))
            self._say(200, auth={"client_token": "", "lease_duration": left, "renewable": True})
        elif self.path == "/v1/auth/token/revoke-self":
            name = self.headers["X-Vault-Token"]
            del vault.tokens[name]
            vault.revoked.append(name)
            self._send(204, b"")
        else:
            self._say(404, errors=[])

    def _get(self) -> None:
        vault = self.server
        if (token := self._token()) is None:
            self._say(403, errors=["permission denied"])
        elif self.path.removeprefix("/v1/").replace("/data/", "/") in vault.forbidden | token.forbidden:
            vault.refused.append(self.path)
            self._say(403, errors=["permission denied"])
        elif self.path == "/v1/auth/token/lookup-self":
            self._say(200, data={"ttl": token.ttl, "renewable": token.renewable})
        elif self.path.startswith("/v1/") and "/data/" in self.path:
            mount, path = self.path.removeprefix("/v1/").split("/data/", 1)
            vault.reads.append(f"{mount}/{path}")
            values = vault.secrets.get(f"{mount}/{path}", "absent")
            if (broken := vault.broken_paths.get(f"{mount}/{path}")) is not None:
                self._send(200, broken)
            elif values == "absent":
                self._say(404, errors=[])
            elif values is None:  # deleted: its metadata is still there
                self._say(404, data={"data": None, "metadata": {"deletion_time": "2026-01-01T00:00:00Z", "version": 1}})
            else:
                self._say(200, data={"data": values, "metadata": {"deletion_time": "", "version": 1}})
        else:
            self._say(404, errors=[])

    def _log_in(self, method: str) -> None:
        vault = self.server
        name = f"hvs.{method}.{len(vault.logins)}"
        vault.logins.append(method)
        token = vault.issue(name)
        self._say(200, auth={"client_token": name, "lease_duration": token.ttl, "renewable": True})

    def _token(self) -> Token | None:
        token = self.server.tokens.get(self.headers.get("X-Vault-Token", ""))
        return token if token is not None and time.monotonic() < token.until else None

    def _say(self, status: int, **said: Any) -> None:
        self._send(status, json.dumps(said).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
