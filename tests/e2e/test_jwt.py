"""Tokens and the keys of a real key server: rotation while requests run, and the server away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_processes import samples
from tests.support.certificates import Certificates, server_tls
from tests.support.client import Response
from tests.support.gateway import Gateway, wait_until
from tests.support.tokens import Signer, key_set, signer

ONE, TWO, THREE, OTHER = (signer("ES256", name) for name in ("one", "two", "three", "other"))


class KeyServer:
    """Publishes what the test says, and counts how often it was asked. It can go away, and come back at its address."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked = 0
        self._tls = tls
        self.body = b""
        self.status = 200
        self._server: ThreadingHTTPServer | None = None
        self._kept = socket.socket()  # bound, so that nobody else gets the port while the server is away
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(("127.0.0.1", 0))
        self._port = self._kept.getsockname()[1]
        self.come()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}/keys"

    def come(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                self.send_response(server.status)
                self.send_header("Content-Length", str(len(server.body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(server.body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        if self._tls is not None:
            # Whoever connects and says nothing has its own thread waiting, and not the one that accepts.
            plain = self._server.socket
            self._server.socket = self._tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def go(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def close(self) -> None:
        if self._server is not None:
            self.go()
        self._kept.close()


@pytest.fixture
def issuer() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.close()


@pytest.fixture
def late() -> Iterator[KeyServer]:
    server = KeyServer()
    server.go()
    yield server
    server.close()


def configuration(**issuers: KeyServer) -> dict[str, Any]:
    jwt = {"issuer": "https://idp.example", "audiences": ["api"], "algorithms": ["ES256"]}
    return {
        "workers": 2,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "status": {"address": "127.0.0.1:0"},
        "routes": [
            {
                "name": name,
                "paths": [f"/{name}"],
                "respond": {"body": "in"},
                "filters": {"jwt": {**jwt, "jwks_uri": server.url}},
            }
            for name, server in issuers.items()
        ],
    }


def ask(gateway: Gateway, token: bytes, path: str = "/issuer") -> Response:
    with gateway.connect() as client:
        request = b"GET %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n\r\n" % (path.encode(), token)
        return client.exchange(request)


def everywhere(gateway: Gateway, token: bytes, path: str = "/issuer") -> set[int]:
    """The statuses that connections get which the kernel spreads over both workers."""
    return {ask(gateway, token, path).status for _ in range(16)}


@pytest.mark.landing
def test_keys_rotate_are_withdrawn_and_outlive_their_server(tmp_path: Path, issuer: KeyServer, late: KeyServer) -> None:
    issuer.body = key_set(ONE)
    late.body = key_set(ONE)
    with Gateway(configuration(issuer=issuer, late=late), tmp_path) as gateway:
        first = ONE.token()
        wait_until(lambda: everywhere(gateway, first) == {200}, "the first keys in both workers")
        assert issuer.asked <= 2  # once per node; once more, if a token came before the keys
        assert everywhere(gateway, OTHER.token(header={"kid": "one"})) == {401}

        # A new key, and a crowd that comes with it at once: one question for all, and nobody is refused.
        issuer.body = key_set(ONE, TWO)
        before = issuer.asked
        with ThreadPoolExecutor(24) as crowd:
            found = list(crowd.map(lambda number: ask(gateway, TWO.token({"jti": f"{number}"})).status, range(48)))
        assert set(found) == {200}
        assert issuer.asked - before <= 2

        # The old key is withdrawn: what was verified with it, and is remembered, counts no more.
        second = TWO.token()
        assert everywhere(gateway, second) == everywhere(gateway, first) == {200}
        issuer.body = key_set(TWO, THREE)
        assert ask(gateway, THREE.token()).status == 200
        wait_until(lambda: everywhere(gateway, first) == {401}, "the end of the first key")
        assert everywhere(gateway, second) == {200}

        # Nonsense, then nothing: who is known passes, also with a token that is new, also in a worker that is new.
        issuer.body = b"<html>back soon</html>"
        assert ask(gateway, OTHER.token()).status == 401
        issuer.go()
        assert everywhere(gateway, second) == everywhere(gateway, TWO.token({"jti": "new"})) == {200}
        refused = ask(gateway, OTHER.token({"jti": "new"}))
        assert refused.status == 401
        assert b'error="invalid_token"' in refused.head.raw
        pids = set(gateway.worker_pids)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(gateway.worker_pids) == 2 and not pids & set(gateway.worker_pids), "two new workers")
        assert everywhere(gateway, second) == {200}

        # Keys that were never had: it cannot be told who is good, until their server is there.
        unknown = ask(gateway, first, "/late")
        assert unknown.status == 503
        assert b"urn:fastgw:fault:auth_unavailable" in unknown.body
        late.come()
        wait_until(lambda: everywhere(gateway, first, "/late") == {200}, "the keys of the late server", 20.0)

        gateway.stop()


@pytest.mark.landing
def test_someone_elses_token_and_every_bad_shape_is_refused_by_the_running_gateway(
    tmp_path: Path, issuer: KeyServer
) -> None:
    issuer.body = key_set(ONE)
    now = int(time.time())
    good = ONE.token()
    bad = {
        "malformed": b"x.y.z",
        "oversized": ONE.token({"filling": "x" * 8192}),
        "expired": ONE.token({"exp": now - 60}),
        "not yet valid": ONE.token({"nbf": now + 600}),
        "of another issuer": ONE.token({"iss": "https://other.example"}),
        "wrong audience": ONE.token({"aud": "other"}),
        "signed by somebody else": Signer("ES256", "one").token(),
        "unsigned": good.rpartition(b".")[0] + b".",
    }
    document = configuration(issuer=issuer)
    document["access_logs"] = [{"sink": str(tmp_path / "access.log"), "format": "json"}]
    with Gateway(document, tmp_path) as gateway:
        wait_until(lambda: everywhere(gateway, good) == {200}, "the keys in both workers")
        statuses = {name: everywhere(gateway, token) for name, token in bad.items()}
        assert statuses == {name: {401} for name in bad}
        with gateway.connect() as client:
            missing = client.exchange(b"GET /issuer HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (missing.status, b'error="' in missing.head.raw) == (401, False)
            line = b"Authorization: Bearer " + good + b"\r\n"
            twice = client.exchange(b"GET /issuer HTTP/1.1\r\nHost: a\r\n" + line * 2 + b"\r\n")
            assert (twice.status, b'error="invalid_request"' in twice.head.raw) == (401, True)
        counted = samples(gateway.ready["status"])
        assert counted["fastgw_token_cache_hits_total"] >= 10
        assert counted["fastgw_token_cache_misses_total"] >= len(bad) * 16
    log = (tmp_path / "access.log").read_bytes()
    assert good.rpartition(b".")[2] not in log
    assert not [token for token in bad.values() if token in log]


def test_keys_are_fetched_by_https_from_a_server_that_is_who_it_should_be(tmp_path: Path) -> None:
    """By a CA certificate of one's own; a server that another authority vouches for is as good as away."""
    authority = Certificates(tmp_path)
    with contextlib.closing(KeyServer(server_tls(authority.issue("127.0.0.1")))) as secure:
        secure.body = key_set(ONE)
        document = configuration(trusted=secure, unknown=secure)
        document["routes"][0]["filters"]["jwt"]["tls"] = {"ca": authority.ca}
        with Gateway(document, tmp_path) as gateway:
            token = ONE.token()
            wait_until(lambda: everywhere(gateway, token, "/trusted") == {200}, "the keys in both workers")
            assert ask(gateway, token, "/unknown").status == 503
            told = gateway.stderr.wait_for(lambda line: line.startswith(b"keys of https://127.0.0.1:"))
            assert b"tls_failed" in told
            assert told.endswith(b"no token can be verified until it answers\n")
