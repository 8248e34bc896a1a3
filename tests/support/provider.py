"""A real OpenID provider: the certified `oidc-provider` of npm, as a process of the tests."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.gateway import START_DEADLINE, Lines

PROGRAM = Path(__file__).with_name("provider")
USERS: Mapping[str, Any] = {
    "ann": {"password": "of ann", "claims": {"name": "Ann", "email": "ann@users.test", "groups": ["staff"]}},
    "bob": {"password": "of bob", "claims": {"name": "Bob", "email": "bob@users.test", "groups": []}},
}
SERVICE = {
    "client_id": "service",
    "client_secret": "of-the-service",
    "grant_types": ["client_credentials"],
    "redirect_uris": [],
    "response_types": [],
}
"""A client that gets tokens for itself, and introspects those of others."""


class Provider:
    """A provider on a port of 127.0.0.1 that it keeps over restarts, with its keys, tokens and sessions.

    `lifetimes`: in seconds, by `AccessToken`, `IdToken`, `RefreshToken`, `Session`… `algorithm`: of access tokens that
    are JWTs, which are those for a resource; the others are opaque. `tls`: files with its certificate, the key, and the
    CA of its own and of clients' certificates; clients may then authenticate with one (RFC 8705).
    """

    def __init__(
        self,
        folder: Path,
        lifetimes: Mapping[str, int] | None = None,
        users: Mapping[str, Any] = USERS,
        algorithm: str = "RS256",
        tls: tuple[str, str, str] | None = None,
    ) -> None:
        self._held = socket.socket()  # bound without listening: reserves the port
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port: int = self._held.getsockname()[1]
        self.issuer = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._folder = folder
        self._settings = {
            "issuer": self.issuer,
            "port": self.port,
            "users": users,
            "lifetimes": lifetimes or {},
            "algorithm": algorithm,
            "tls": dict(zip(("cert", "key", "ca"), tls, strict=True)) if tls else None,
        }
        self._tls = ssl.create_default_context(cafile=tls[2]) if tls else None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            self.add_client(**SERVICE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._held.close()

    def start(self) -> None:
        """Start, and wait until it listens."""
        node = shutil.which("node")
        if node is None:
            pytest.fail("node is not installed: apt-get install nodejs npm")
        if not (PROGRAM / "node_modules").is_dir():
            pytest.fail(f"the provider is not installed: (cd {PROGRAM} && npm ci)")
        self._process = subprocess.Popen(
            [node, str(PROGRAM / "index.mjs"), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._told = Lines(self._process.stdout)
        self._complaints = Lines(self._process.stderr)
        self._answered = 0
        self._tell(self._settings)

    def stop(self) -> None:
        """Stop at once: connections are refused."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(START_DEADLINE)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        self._told.finish()
        self._complaints.finish()

    def _tell(self, message: Mapping[str, Any]) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()
        self._answered += 1
        wanted = self._answered
        self._told.wait_for(lambda _: len(self._told.lines) >= wanted, START_DEADLINE)
        return json.loads(self._told.lines[wanted - 1])

    # operations for tests

    def add_client(self, client_id: str, **settings: Any) -> None:
        """Add a client; one of the settings with the same name is replaced. See OpenID Connect Dynamic Client
        Registration section 2.
        """
        self._tell({"command": "client", "client": {"client_id": client_id, **settings}})

    def rotate_keys(self, keep_old: bool) -> None:
        """Sign with keys of new names. `keep_old`: the previous ones are still published, for earlier signatures."""
        self._tell({"command": "rotate", "keep_old": keep_old})

    def requests(self, path: str) -> int:
        """Return the number of requests for this path since the last start."""
        return int(self._tell({"command": "requests"}).get(path, 0))

    def post(self, path: str, client: tuple[str, str] = ("service", "of-the-service"), **form: str) -> Any:
        """Return the response of an endpoint to a client, as JSON; {} if it is empty."""
        basic = base64.b64encode(":".join(client).encode()).decode()
        request = urllib.request.Request(
            self.issuer + path,
            urllib.parse.urlencode(form).encode(),
            {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"},
        )
        with urllib.request.urlopen(request, timeout=START_DEADLINE, context=self._tls) as answer:
            text = answer.read()
        return json.loads(text) if text else {}

    def token(self, resource: str = "", scope: str = "read") -> str:
        """Return an access token of the service itself: a JWT for a resource, else an opaque one."""
        form = {"grant_type": "client_credentials", "scope": scope}
        if resource:
            form["resource"] = resource
        return str(self.post("/token", **form)["access_token"])

    def introspect(self, token: str) -> Any:
        return self.post("/token/introspection", token=token)

    def revoke(self, token: str) -> None:
        self.post("/token/revocation", token=token)
