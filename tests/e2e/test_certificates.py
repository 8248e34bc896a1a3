"""Certificates that are renewed under connections that live: nobody waits, nobody is cut, nobody sees an error.

The scenario "Certificate, WebSocket and a 90 s upload live through a reload and a new listener", shortened in time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.support.certificates import Certificates, client_tls
from tests.support.forked import FASTGW, ran
from tests.support.gateway import Gateway, wait_until
from tests.support.origin import Origin, OriginConnection
from tests.support.peer import DEADLINE
from tests.support.secured import REQUEST, Secured
from tests.support.tcp import connected, is_reset, tcp_config, tcp_target

UPLOAD = 300_000
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
ASKING = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


def echo(connection: OriginConnection) -> None:
    with contextlib.suppress(OSError):
        while connection.receive():
            connection.send(connection.read_exactly(len(connection.unread)))


class Service:
    """A gateway whose certificate is in files that are written anew."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        self.folder = folder
        self.authority = Certificates(folder)
        self.certificate, self.key = (folder / "shown.pem", folder / "shown.key")
        self.tls = client_tls(self.authority)
        self.write(*self.issue())
        self.origin = origin
        self.gateway = Gateway(self.configured("main"), folder)

    def configured(self, *listeners: str) -> dict[str, Any]:
        tls = {"certificates": [{"certificate": str(self.certificate), "key": str(self.key)}]}
        return {
            "version": 1,
            "workers": 2,
            "admin": {"address": f"unix:{self.folder}/admin"},
            "listeners": {name: {"address": "127.0.0.1:0", "tls": tls} for name in listeners},
            "access_logs": [{"sink": "stdout", "format": "json"}],
            "routes": [{"name": "all", "upstream": self.origin.url}],
            "timeouts": {"drain": {"requests": "3s", "tunnels": "1s"}},
        }

    def issue(self) -> tuple[bytes, bytes]:
        certificate, key = self.authority.issue("a.test", stem=f"issued-{os.urandom(4).hex()}")
        return Path(certificate).read_bytes(), Path(key).read_bytes()

    def write(self, certificate: bytes | None = None, key: bytes | None = None) -> None:
        """As renewal tools do it: another file in the place of the one that was there."""
        for file, contents in ((self.certificate, certificate), (self.key, key)):
            if contents is not None:
                new = file.with_suffix(".new")
                new.write_bytes(contents)
                new.replace(file)

    def client(self, session: ssl.SSLSession | None = None) -> Secured:
        return Secured(self.gateway.address("main"), self.tls, session=session)

    def listens(self) -> bool:
        try:
            self.gateway.connect().close()
        except ConnectionRefusedError:
            return False
        return True

    def shown(self) -> int:
        """The serial of the certificate that a new client sees."""
        with self.client() as client:
            return client.serial

    def waits_for(self, certificate: bytes) -> None:
        """Until every worker shows it: both are met in as many handshakes, but for once in 2^16."""
        serial = x509.load_pem_x509_certificate(certificate).serial_number
        wait_until(lambda: all(self.shown() == serial for _ in range(16)), "the new certificate on all workers")

    def told(self, pattern: str) -> None:
        self.gateway.stderr.wait_for(lambda line: re.search(pattern.encode(), line) is not None, 3 * DEADLINE)

    def status(self) -> dict[str, Any]:
        asked = [FASTGW, "status", "--admin", f"unix:{self.folder}/admin", "--format", "json"]
        told = ran(asked)
        assert told.returncode == 0, told.stderr
        return dict(json.loads(told.stdout))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Origin() as origin:
        origin.answer(SWITCHED, echo, path=b"/socket")
        origin.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        origin.serve()
        made = Service(tmp_path, origin)
        with made.gateway:
            yield made


def until_told(over: threading.Event, work: Callable[[int], None], failures: list[BaseException]) -> threading.Thread:
    """Work again and again, in a thread."""

    def run() -> None:
        count = 0
        try:
            while not over.wait(0.02):
                work(count)
                count += 1
            work(-1)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.landing
def test_everything_lives_through_renewals_reloads_and_a_worker_that_dies(service: Service) -> None:
    over, failures = threading.Event(), list[BaseException]()
    answers: list[int] = []
    socket, upload = service.client(), service.client()
    session = upload.session()
    socket.send(REQUEST[:-2].replace(b"%s", b"socket") + ASKING + b"\r\n")
    assert socket.read_response_head().status == 101
    upload.send(b"PUT /upload HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n")

    def tick(count: int) -> None:
        message = b"tick %d." % count
        socket.send(message)
        assert socket.read_exactly(len(message)) == message

    def send(count: int) -> None:
        upload.send(b"5\r\nhello\r\n" if count >= 0 else b"0\r\n\r\n")
        if count < 0:
            answers.append(upload.read_response().status)

    def shake(count: int) -> None:
        with service.client() as client:
            assert client.ask().body == b"ok"

    threads = [until_told(over, work, failures) for work in (tick, send, shake)]
    try:
        # Renewed, the key first: clients see the old pair until both are there.
        before = service.shown()
        certificate, key = service.issue()
        service.write(key=key)
        service.told("shown.key: the private key does not match the certificate: the previous contents stay active")
        assert service.shown() == before
        (told,) = service.status()["certificates"]
        assert "does not match" in told["problem"]
        service.write(certificate=certificate)
        service.waits_for(certificate)
        (told,) = service.status()["certificates"]
        assert (told["listener"], told["names"], told["problem"]) == ("main", ["a.test"], "")

        # A listener more.
        file = service.folder / "gateway.json"
        file.write_text(json.dumps({**service.configured("main", "more"), "status": None}))
        service.gateway.signal(signal.SIGHUP)
        service.told("reloaded: generation 3 on 2/2 workers, 1 listener added, 0 workers restarted")

        # A worker that neither tunnel nor upload is on may die; who is born later shows the new certificate.
        service.waits_for(certificate)
    finally:
        over.set()
        for thread in threads:
            thread.join(DEADLINE)
    assert not failures
    assert answers == [200]
    socket.close()
    upload.close()

    victim = service.gateway.worker_pids[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len({*service.gateway.worker_pids} - {victim}) == 2, "another worker", 3 * DEADLINE)
    service.waits_for(certificate)
    for _ in range(12):
        with service.client(session) as client:
            assert client.sock.session_reused, "a ticket is good at every worker, after reloads, at those born later"
            assert client.ask().body == b"ok"


def test_a_session_outlives_an_upgrade(service: Service) -> None:
    with service.client() as client:
        session = client.session()
    service.gateway.signal(signal.SIGUSR2)
    service.told("all 2 workers are new")
    for _ in range(8):
        with service.client(session) as client:
            assert client.sock.session_reused
            assert client.ask().body == b"ok"


@pytest.mark.landing
def test_a_certificate_that_is_broken_or_away_leaves_the_one_that_was_there(service: Service) -> None:
    before = service.shown()
    good = service.certificate.read_bytes()
    service.write(certificate=good[:200])
    service.told("shown.pem: it contains no valid certificate: the previous contents stay active")
    assert service.shown() == before
    service.certificate.unlink()
    service.told("shown.pem: cannot be read: No such file or directory: the previous contents stay active")
    assert service.shown() == before
    (told,) = service.status()["certificates"]
    assert "No such file" in told["problem"]
    certificate, key = service.issue()
    service.write(certificate, key)
    service.waits_for(certificate)


@pytest.mark.landing
def test_a_drain_ends_requests_over_tls_and_handshakes_that_do_not_come(service: Service) -> None:
    with service.client() as client, service.gateway.connect() as silent:
        client.send(b"POST /late HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n")
        silent.send(b"\x16\x03\x01")
        service.origin.wait_for_requests(0)
        service.gateway.signal(signal.SIGTERM)
        service.told("asked by SIGTERM")
        wait_until(lambda: not service.listens(), "the workers to drain")
        client.send(b"hello")
        response = client.read_response()
        assert (response.status, response.get(b"Connection")) == (200, b"close")
        client.assert_ended()
        silent.assert_ended()
    service.told("drained 1 requests")


def test_what_the_program_says_of_tickets() -> None:
    told = subprocess.run([FASTGW, "version"], capture_output=True, text=True, check=True, timeout=3 * DEADLINE)
    assert re.search("^tickets: *keys shared by all workers, rotated daily$", told.stdout, re.MULTILINE)
    assert sys.implementation.name == "cpython"


@pytest.mark.parametrize("mode", ["required", "optional"])
def test_a_connection_does_not_outlive_the_authority_that_vouched_for_it(tmp_path: Path, mode: str) -> None:
    """The authority of clients is replaced: who was verified by the one before has to shake hands again."""
    for name in ("ours", "others"):
        (tmp_path / name).mkdir()
    ours, others = Certificates(tmp_path / "ours"), Certificates(tmp_path / "others")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(Path(ours.ca).read_bytes())
    certificate, key = ours.issue("a.test")
    asking = {"mode": mode, "ca": str(trusted)}
    tls = {"certificates": [{"certificate": certificate, "key": key}], "client_auth": asking}
    config = {
        "workers": 1,
        "admin": {"address": f"unix:{tmp_path}/admin"},
        "listeners": {"main": {"address": "127.0.0.1:0", "tls": tls}},
        "routes": [{"name": "all", "respond": {"body": "ok"}}],
    }
    alice = client_tls(ours, ours.issue("alice"))
    with Gateway(config, tmp_path) as gateway:
        with Secured(gateway.address(), alice) as client:
            assert client.ask().status == 200
            trusted.write_bytes(Path(others.ca).read_bytes())
            gateway.stderr.wait_for(lambda line: b"generation 2" in line, 3 * DEADLINE)
            refused = client.ask()
            assert (refused.status, b"connection_outdated" in refused.body) == (421, True)
            assert client.sock.recv(1) == b""
        trusted_now = client_tls(ours, others.issue("bob"))
        with Secured(gateway.address(), trusted_now) as client:
            assert [client.ask().status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("opened", ["before", "meanwhile"])
def test_a_tunnel_ends_with_what_verified_its_client(tmp_path: Path, opened: str) -> None:
    """It never asks again, so it is ended when its client is revoked; others' go on. So is one that opens only then."""
    authority = Certificates(tmp_path)
    revoked = tmp_path / "revoked-now.pem"
    revoked.write_bytes(Path(authority.revoke()).read_bytes())
    certificate, key = authority.issue("a.test")
    tls = {"certificates": [{"certificate": certificate, "key": key}]}
    asking = {**tls, "client_auth": {"ca": authority.ca, "crl": str(revoked)}}
    anywhere = {"address": "127.0.0.1:0"}
    alice = authority.issue("alice")
    may_open = threading.Event()

    def wait(connection: OriginConnection) -> None:
        assert may_open.wait(3 * DEADLINE)

    with Origin() as origin:
        origin.answer(SWITCHED, echo, path=b"/other")
        origin.answer(wait, SWITCHED, echo, path=b"/socket")
        config = {
            "workers": 1,
            "admin": {"address": f"unix:{tmp_path}/admin"},
            "listeners": {"main": {**anywhere, "tls": asking}, "open": {**anywhere, "tls": tls}},
            "routes": [{"name": "all", "upstream": origin.serve().url}],
            "access_logs": [{"sink": "stdout", "format": "json"}],
        }
        with (
            Gateway(config, tmp_path) as gateway,
            Secured(gateway.address("main"), client_tls(authority, alice)) as client,
            Secured(gateway.address("open"), client_tls(authority)) as other,
        ):
            for each, path in ((other, b"other"), (client, b"socket")):
                each.send(REQUEST[:-2].replace(b"%s", path) + ASKING + b"\r\n")
            assert other.read_response().status == 101
            if opened == "before":
                may_open.set()
                assert client.read_response().status == 101
                client.send(b"hello")
                assert client.read_exactly(5) == b"hello"
            else:
                origin.wait_for_requests(1)
            revoked.write_bytes(Path(authority.revoke(alice[0])).read_bytes())
            gateway.stderr.wait_for(lambda line: b"generation 2" in line, 3 * DEADLINE)
            may_open.set()
            gateway.stdout.wait_for(lambda line: b"connection_outdated" in line, 3 * DEADLINE)
            with contextlib.suppress(OSError):
                assert b"hello" not in client.read_to_end()
            other.send(b"goes on")
            assert other.read_exactly(7) == b"goes on"


def test_a_tcp_client_without_a_certificate_is_ended_only_once_one_is_required(tmp_path: Path) -> None:
    """Another list or authority does not concern it; it ends the connections that were verified before."""
    authority = Certificates(tmp_path)
    revoked, file = tmp_path / "revoked-now.pem", tmp_path / "gateway.yaml"
    revoked.write_bytes(Path(authority.revoke()).read_bytes())
    certificate, key = authority.issue("a.test")
    alice = authority.issue("alice")

    def write(mode: str) -> None:
        asking = {"mode": mode, "ca": str(authority.ca), "crl": str(revoked)}
        tls = {"certificates": [{"certificate": certificate, "key": key}], "client_auth": asking}
        config = tcp_config(target, {"tls": tls})
        file.write_text(json.dumps({"version": 1, "status": None, "admin": None, **config}))

    def connect(tls: ssl.SSLContext) -> ssl.SSLSocket:
        return tls.wrap_socket(connected(gateway.port()), server_hostname="a.test")

    with tcp_target() as target:
        write("optional")
        with (
            Gateway(file, tmp_path) as gateway,
            connect(client_tls(authority, alice)) as verified,
            target.accept() as of_verified,
            connect(client_tls(authority)) as other,
            target.accept() as of_other,
        ):
            verified.sendall(b"1")
            other.sendall(b"1")
            assert (of_verified.recv(1), of_other.recv(1)) == (b"1", b"1")
            revoked.write_bytes(Path(authority.revoke(alice[0])).read_bytes())
            gateway.signal(signal.SIGHUP)
            assert is_reset(of_verified)
            other.sendall(b"2")
            assert of_other.recv(1) == b"2"
            of_other.sendall(b"3")
            assert other.recv(1) == b"3"
            write("required")
            gateway.signal(signal.SIGHUP)
            assert is_reset(of_other)


class HeldHandshake:
    """A TLS handshake of a client whose last flight is held back."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._connection = connection
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._sent, server_hostname="a.test")
        while not self._is_done():
            connection.sendall(self._sent.read())
            self._received.write(connection.recv(65536))

    def _is_done(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def finish(self, data: bytes) -> None:
        self._tls.write(data)
        self._connection.sendall(self._sent.read())


def test_a_handshake_that_a_reload_overtakes_is_verified_again(tmp_path: Path) -> None:
    """A certificate that was revoked meanwhile, and none where one is required now, do not reach the service."""
    authority = Certificates(tmp_path)
    revoked, file = tmp_path / "revoked-now.pem", tmp_path / "gateway.yaml"
    revoked.write_bytes(Path(authority.revoke()).read_bytes())
    certificate, key = authority.issue("a.test")
    alice, bob = authority.issue("alice"), authority.issue("bob")

    def write(mode: str) -> None:
        asking = {"mode": mode, "ca": str(authority.ca), "crl": str(revoked)}
        tls = {"certificates": [{"certificate": certificate, "key": key}], "client_auth": asking}
        config = tcp_config(target, {"tls": tls})
        file.write_text(json.dumps({"version": 1, "status": None, "admin": None, **config}))

    with tcp_target() as target:
        write("optional")
        with Gateway(file, tmp_path) as gateway, connected(gateway.port()) as first, connected(gateway.port()) as other:
            held = HeldHandshake(first, client_tls(authority)), HeldHandshake(other, client_tls(authority, alice))
            revoked.write_bytes(Path(authority.revoke(alice[0])).read_bytes())
            write("required")
            gateway.signal(signal.SIGHUP)
            wait_until(lambda: is_refused(gateway.port(), client_tls(authority)), "that a certificate is required")
            for handshake in held:
                handshake.finish(b"x")
            for client in (first, other):
                with contextlib.suppress(ConnectionError):
                    while client.recv(65536):
                        pass
            with client_tls(authority, bob).wrap_socket(connected(gateway.port()), server_hostname="a.test") as allowed:
                allowed.sendall(b"b")
                received = set()
                while b"b" not in received:
                    with target.accept() as reached, contextlib.suppress(ConnectionError):
                        received.add(reached.recv(1))
                assert received <= {b"b", b""}


def is_refused(port: int, tls: ssl.SSLContext) -> bool:
    """Whether a handshake is refused for the lack of a certificate."""
    with tls.wrap_socket(connected(port), server_hostname="a.test") as client:
        client.settimeout(0.2)
        try:
            client.recv(1)
        except ssl.SSLError as error:
            return "certificate required" in str(error).lower().replace("_", " ")
        except TimeoutError:
            pass
    return False
