"""Responses in contexts: which one a client of OpenSSL gets with its certificate."""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fastgw.net.ocsp_stapling import Staple, staple
from tests.support.ocsp import OcspAuthority, Stapled, ask_stapled

NAMES = ("first.test", "second.test")
VERSIONS = ("-tls1_2", "-tls1_3")


class Server:
    """A server of two names: the first has certificates of two kinds, the second's context is chosen by SNI."""

    def __init__(self, folder: Path) -> None:
        self.authority = authority = OcspAuthority(folder)
        self.files = {
            "ec": authority.issue(NAMES[0]),
            "rsa": authority.issue(NAMES[0], rsa=True),
            "second": authority.issue(NAMES[1]),
        }
        self.contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in NAMES]
        for kind in ("ec", "rsa"):
            self.contexts[0].load_cert_chain(*self.files[kind])
        self.contexts[1].load_cert_chain(*self.files["second"])
        self.responses = {
            sha256(self.leaf(kind).public_bytes(Encoding.DER)).digest(): Staple(
                authority.answer(Path(self.files[kind][0]).read_bytes()), time.time() + 3600
            )
            for kind in self.files
        }
        for context in self.contexts:
            context.num_tickets = 1
            staple(context, self.responses)
        self.contexts[0].sni_callback = self.choose
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def leaf(self, kind: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(Path(self.files[kind][0]).read_bytes())

    def choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name == NAMES[1]:
            connection.context = self.contexts[1]

    def serve(self) -> None:
        while True:
            accepted, _ = self.socket.accept()
            with accepted:
                if accepted.getpeername()[1] == self.ends_at:
                    return
                with contextlib.suppress(OSError):
                    tls = self.contexts[0].wrap_socket(accepted, server_side=True)
                    tls.sendall(b"x")  # and with it the tickets
                    tls.shutdown(socket.SHUT_WR)
                    tls.recv(1)
                    tls.close()

    ends_at = 0

    def stop(self) -> None:
        last = socket.socket()
        last.bind(("127.0.0.1", 0))
        self.ends_at = last.getsockname()[1]
        last.connect(self.socket.getsockname())
        self.thread.join(10)
        last.close()
        self.socket.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("stapling"))
    yield made
    made.stop()


def good(serial: int, *, is_resumed: bool = False) -> Stapled:
    return Stapled("good", serial, serial, is_resumed)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_certificate_comes_with_its_own_response(server: Server, version: str) -> None:
    """That of the type of key that the client can verify, and that of the context that SNI has chosen."""
    kinds = {"ec": "ECDSA+SHA256", "rsa": "RSA-PSS+SHA256:RSA+SHA256"}
    for kind, algorithms in kinds.items():
        found = ask_stapled(server.address, NAMES[0], version, "-sigalgs", algorithms)
        assert found == good(server.leaf(kind).serial_number)
    assert ask_stapled(server.address, NAMES[1], version) == good(server.leaf("second").serial_number)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_response_is_replaced_removed_and_not_sent_after_its_end(server: Server, version: str) -> None:
    context, serial = server.contexts[1], server.leaf("second").serial_number
    try:
        for responses in (
            {},
            {digest: each._replace(until=time.time() - 1) for digest, each in server.responses.items()},
        ):
            staple(context, responses)
            assert ask_stapled(server.address, NAMES[1], version) == Stapled("", 0, serial, False)
    finally:
        staple(context, server.responses)
    assert ask_stapled(server.address, NAMES[1], version) == good(serial)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_resumed_session_shows_no_certificate_and_no_response(server: Server, version: str, tmp_path: Path) -> None:
    session = str(tmp_path / "session")
    first = ask_stapled(server.address, NAMES[0], version, "-ign_eof", "-sess_out", session)  # until it has the ticket
    assert first.status == "good"
    found = ask_stapled(server.address, NAMES[0], version, "-sess_in", session)
    assert (found.status, found.is_resumed) == ("", True)


def test_clients_that_do_not_ask_get_none(server: Server) -> None:
    client = ssl.create_default_context(cafile=server.authority.ca)
    with socket.create_connection(server.socket.getsockname()) as plain:
        tls = client.wrap_socket(plain, server_hostname=NAMES[1])
        assert tls.recv(1) == b"x"
        tls.close()


def test_responses_are_freed_with_the_context_of_openssl_and_not_before(server: Server) -> None:
    """A connection keeps the context of OpenSSL that it has begun with, while Python has freed its own."""
    big = {digest: Staple(b"\0" * 1_000_000, each.until) for digest, each in server.responses.items()}

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def turn() -> None:
        first, chosen = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
        for context in (first, chosen):
            context.load_cert_chain(*server.files["ec"])
            staple(context, big)
            staple(context, big)  # the former ones are freed
        connection = first.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
        connection.context = chosen
        del first, chosen, context
        with contextlib.suppress(ssl.SSLWantReadError):
            connection.do_handshake()

    turn()
    before = resident()
    for _ in range(100):
        turn()
    gc.collect()
    assert resident() - before < 50_000_000  # 400 MB would be left


def test_what_is_no_context_is_refused() -> None:
    with pytest.raises(TypeError):
        staple(object(), {})  # type: ignore[arg-type]
