"""What goes through TLS to a target: bodies, tunnels, the ends of both, and what only looks like an end."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import socket
import ssl
import subprocess
import termios
import tty
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.certificates import Certificates, client_tls, server_tls
from tests.support.client import Client
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway
from tests.support.origin import OK, Origin, OriginConnection
from tests.support.peer import DEADLINE
from tests.support.secured import Cut, InMemory, in_memory

GET = b"GET /%s HTTP/1.1\r\nHost: a.test\r\n\r\n"
POST = b"POST /%s HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n"
ASKING = (
    b"GET /socket HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# The older words, and those of OpenSSL 3.5.
BROKEN_RECORD = ("TLS: decryption failed or bad record mac", "TLS: record layer failure")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
LONG = bytes(range(256)) * 20_000  # 5 MB


@contextlib.contextmanager
def background(work: Callable[[], object]) -> Iterator[None]:
    """Do it beside the block, and see that it is done."""
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(work)
        yield
        doing.result(DEADLINE)


class Place:
    """A gateway with a plain listener and one that speaks TLS, before a target that speaks TLS."""

    def __init__(self, directory: Path, version: str, stack: contextlib.ExitStack) -> None:
        authority = Certificates(directory)
        certificate, key = authority.issue("a.test")
        highest = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
        self.tls = server_tls((certificate, key), highest=highest)
        self.client_tls = client_tls(authority)
        self.client_tls.maximum_version = highest
        self.origin = stack.enter_context(Origin())
        upstream = {
            "targets": [{"url": self.origin.url.replace("http:", "https:")}],
            "tls": {"ca": authority.ca, "server_name": "a.test"},
            "retries": {"max": 0},
            "timeouts": {"tunnel_idle": "60s"},
        }
        shown = {"certificates": [{"certificate": certificate, "key": key}]}
        config = {
            "workers": 1,
            "listeners": {
                "main": {"address": "127.0.0.1:0"},
                "tls": {"address": "127.0.0.1:0", "tls": shown},
            },
            "limits": {"body_bytes": "8MB"},
            "upstreams": {"u": upstream, "short": {**upstream, "pool": {"idle_timeout": "200ms"}}},
            "routes": [
                {"name": "short", "paths": ["/short"], "upstream": "short"},
                {"name": "all", "upstream": "u"},
            ],
        }
        self.gateway = stack.enter_context(Gateway(config, directory))

    def client(self, listener: str = "main") -> Client:
        if listener == "main":
            return self.gateway.connect()
        return in_memory(self.gateway.address(listener), self.client_tls)

    @contextlib.contextmanager
    def accept(self) -> Iterator[OriginConnection]:
        """The next connection of the gateway, its handshake done. Closed at the end without a word."""
        with self.origin.accept() as connection:
            connection.sock = cast(Any, InMemory(connection.sock, self.tls, None))
            yield connection

    def assert_record(self, path: str, fault: str, why: str) -> None:
        record = self.gateway.wait_for_record(path=path)
        assert (record["fault"], record.get("fault_detail")) == (fault, why)


@pytest.fixture(scope="module", params=["1.2", "1.3"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(tmp_path_factory.mktemp("upstream"), request.param, stack)


@pytest.fixture(params=["main", "tls"])
def tunnel(place: Place, request: pytest.FixtureRequest) -> Iterator[tuple[Client, OriginConnection]]:
    with place.client(request.param) as client:
        client.send(ASKING)
        with place.accept() as origin:
            origin.read_request()
            origin.send(SWITCHED)
            assert client.read_response().status == 101
            yield client, origin


# --- requests and responses ---


def test_bodies_go_both_ways_whole(place: Place) -> None:
    with place.client() as client, background(lambda: client.send(POST % (b"both", len(LONG)) + LONG)):
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LONG) + LONG
        with place.accept() as origin, background(lambda: origin.answer(answer)):
            assert client.read_response().body == LONG
        assert origin.received.endswith(LONG)


@pytest.mark.parametrize("size", [1, 100, 16_384, 16_385, 40_000, 1_000_000])
def test_answers_of_any_size_are_kept_apart(place: Place, size: int) -> None:
    """However they lie in records: head and body in one or in two, several records in one read, a record in many."""
    with place.client() as client:
        client.send(GET % b"first")
        with place.accept() as origin:
            for record in (1, 7, 1_000, 16_384):
                origin.read_request()
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + LONG[:size]
                some = answer if size < 50_000 or record > 1_000 else b""
                origin.send(answer[: 40 * record])
                for at in range(40 * record, len(some), max(record, len(some) // 50)):
                    origin.send(answer[at : at + max(record, len(some) // 50)])
                if not some:
                    origin.send(answer[40 * record :])
                assert client.read_response().body == LONG[:size]
                client.send(GET % b"next")


def test_the_end_of_a_body_without_a_length_is_an_end(place: Place) -> None:
    """RFC 8446 section 6.1: `close_notify` says that all has come. The gateway says so, too."""
    with place.client() as client, place.client() as other:
        client.send(GET % b"end")
        with place.accept() as origin:
            origin.read_request()
            origin.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            origin.shutdown_write()
            assert client.read_response().body == b"all of it"
            assert origin.read_to_end() == b""  # raises `Cut` where the gateway just closes
        assert place.gateway.wait_for_record(path="/end")["fault"] is None
        assert other


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_body_without_a_length_that_was_cut_off_does_not_look_whole(place: Place, how: str) -> None:
    """RFC 9112 section 9.8: anybody on the way can end a TCP connection; without `close_notify` it is incomplete."""
    path = f"/cut-{how}-{id(place)}"
    with place.client() as client:
        client.send(GET % path[1:].encode())
        with place.accept() as origin:
            origin.read_request()
            origin.send(b"HTTP/1.1 200 OK\r\n\r\nonly a part")
            client.read_response_head()
            client.read_until(b"only a part")
            getattr(origin, how)()
            assert b"0\r\n\r\n" not in client.read_to_end()
    why = {"close": "TLS: the connection was closed without close_notify", "reset": "ECONNRESET"}[how]
    place.assert_record(path, "upstream_incomplete", why)


def test_a_target_that_closes_without_a_word_in_place_of_an_answer_is_told_of(place: Place) -> None:
    path = f"/mute-{id(place)}"
    with place.client() as client:
        client.send(GET % path[1:].encode())
        with place.accept() as origin:
            origin.read_request()
        assert_fault(client.read_response(), "connection_lost")
    place.assert_record(path, "connection_lost", "TLS: the connection was closed without close_notify")


def test_a_connection_that_is_idle_too_long_ends_within_tls(place: Place) -> None:
    with place.client() as client:
        client.send(GET % b"short")
        with place.accept() as origin:
            origin.answer(OK)
            assert client.read_response().body == b"ok"
            assert origin.read_to_end() == b""


@pytest.mark.parametrize("behind", ["an answer", "the end"])
def test_what_comes_behind_an_answer_is_nobodys(place: Place, behind: str) -> None:
    """In the same read as the answer: the connection is not used again, and the next request meets a new one."""
    with place.client() as client:
        client.send(GET % b"more")
        with place.accept() as origin:
            origin.read_request()
            if behind == "an answer":
                origin.send(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
            else:
                cast(InMemory, origin.sock).tls.write(OK)  # goes out with the end
                origin.shutdown_write()
            assert client.read_response().body == b"ok"
            client.send(GET % b"another")
            with place.accept() as another:
                another.answer(OK.replace(b"ok", b"ko"))
                assert client.read_response().body == b"ko"


@pytest.mark.parametrize("how", ["within TLS", "close", "reset"])
def test_an_early_answer_comes_while_the_request_is_still_sent(place: Place, how: str) -> None:
    """RFC 9112 section 9.6: a target answers and closes amid the body; what it has said reaches the client."""
    with place.client() as client:
        client.send(POST % (b"early", 7_000_000) + LONG[:100_000])
        with place.accept() as origin:
            origin.read_request_head()
            origin.read_exactly(100_000)
            origin.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\nConnection: close\r\n\r\nnever")
            origin.shutdown_write() if how == "within TLS" else getattr(origin, how)()
            with background(lambda: client.send_gently(LONG)):
                response = client.read_response()
    if how == "reset":  # it takes with it what was not read yet
        assert response.status in (403, 502)
    else:
        assert (response.status, response.body) == (403, b"never")


@pytest.mark.parametrize("listener", ["main", "tls"])
def test_a_client_that_leaves_takes_its_request_with_it(place: Place, listener: str) -> None:
    with place.client(listener) as client:
        client.send(GET % b"left")
        with place.accept() as origin:
            origin.read_request()
            client.close()
            with contextlib.suppress(Cut):  # it was not done, so it does not say that it was
                assert origin.read_to_end() == b""


# --- tunnels ---


def test_a_tunnel_carries_any_bytes(tunnel: tuple[Client, OriginConnection]) -> None:
    client, origin = tunnel
    for size in (1, 16_384, 16_385, 300_000):
        client.send(LONG[:size])
        assert origin.read_exactly(size) == LONG[:size]
        origin.send(LONG[:size])
        assert client.read_exactly(size) == LONG[:size]


@pytest.mark.parametrize("size", [0, 100_000, len(LONG)])
def test_a_client_may_end_its_direction_first(tunnel: tuple[Client, OriginConnection], size: int) -> None:
    client, origin = tunnel
    client.send(b"last words")
    client.shutdown_write()
    assert origin.read_to_end() == b"last words"
    with background(lambda: (origin.send(LONG[:size]), origin.shutdown_write())):
        assert client.read_to_end() == LONG[:size]


@pytest.mark.parametrize("size", [0, 100_000, len(LONG)])
def test_a_service_may_end_its_direction_first(tunnel: tuple[Client, OriginConnection], size: int) -> None:
    client, origin = tunnel
    origin.send(b"last words")
    origin.shutdown_write()
    assert client.read_to_end() == b"last words"
    with background(lambda: (client.send(LONG[:size]), client.shutdown_write())):
        assert origin.read_to_end() == LONG[:size]


def test_what_a_service_sent_before_it_ended_arrives(tunnel: tuple[Client, OriginConnection]) -> None:
    client, origin = tunnel
    with background(lambda: (origin.send(LONG), origin.shutdown_write(), origin.read_to_end())):
        assert client.read_to_end() == LONG
        client.shutdown_write()


def test_a_tunnel_whose_service_closes_without_a_word_ends(tunnel: tuple[Client, OriginConnection]) -> None:
    """What has come is delivered; nothing goes the other way any more."""
    client, origin = tunnel
    origin.send(LONG[:300_000])
    origin.close()
    assert client.read_to_end() == LONG[:300_000]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("listener", ["main", "tls"])
def test_a_client_that_leaves_behind_what_it_sent_ahead_is_noticed(place: Place, listener: str, how: str) -> None:
    with place.client(listener) as client:
        client.send(ASKING)
        with place.accept() as origin:
            origin.read_request()
            client.send(LONG[:300_000])
            getattr(client, how)()
            with contextlib.suppress(Cut):
                assert origin.read_to_end() == b""


# --- targets that do something else ---


class OpenSsl:
    """`openssl s_server`, whose terminal takes commands, one in each line."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        authority = Certificates(directory)
        certificate, key = authority.issue("a.test")
        self.ca = authority.ca
        command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", certificate, "-key", key, *arguments]
        self.terminal, theirs = pty.openpty()
        tty.setraw(theirs)
        modes = termios.tcgetattr(theirs)
        modes[3] |= termios.ICANON  # so that each read gives it one line
        termios.tcsetattr(theirs, termios.TCSANOW, modes)
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        os.close(theirs)
        self.port = int(re.findall(rb"ACCEPT 127.0.0.1:(\d+)", self.read_until(b"ACCEPT 127.0.0.1:"))[0])

    def __enter__(self) -> OpenSsl:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def read_until(self, mark: bytes) -> bytes:
        """Its output up to the end of the line that has `mark`, or to its end."""
        assert self.process.stdout is not None
        line, text = b"-", b""
        while line and mark not in line:
            line = self.process.stdout.readline()
            text += line
        return text

    def type(self, line: bytes) -> None:
        os.write(self.terminal, line)


@contextlib.contextmanager
def before(directory: Path, port: int, ca: str | None, **tls: Any) -> Iterator[tuple[Gateway, Client]]:
    """A gateway whose target is there, and a client."""
    config = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "upstreams": {
            "u": {
                "targets": [{"url": f"https://127.0.0.1:{port}"}],
                "tls": {"ca": ca, "server_name": "a.test", **tls} if ca else {"verify": False},
                "retries": {"max": 0},
                "timeouts": {"connect": "2s"},
            }
        },
        "routes": [{"name": "all", "upstream": "u"}],
    }
    with Gateway(config, directory) as gateway, gateway.connect() as client:
        yield gateway, client


@pytest.mark.parametrize("asks", [b"r\n", b"R\n"])  # the second one for a certificate, too
def test_a_target_that_asks_for_renegotiation_is_told_of(tmp_path: Path, asks: bytes) -> None:
    """RFC 5746 section 4.5: it is refused within TLS, and the target decides what becomes of the connection."""
    with OpenSsl(tmp_path, "-tls1_2") as target, before(tmp_path, target.port, target.ca) as (gateway, client):
        client.send(GET % b"asks")
        target.read_until(b"X-Forwarded-Proto")
        target.type(asks)
        assert_fault(client.read_response(), "connection_lost")
        why = "TLS: the target asked for another handshake (renegotiation), which is refused"
        assert gateway.wait_for_record(path="/asks")["fault_detail"] == why


def test_a_target_that_asks_for_a_certificate_behind_the_handshake_is_told_of(tmp_path: Path) -> None:
    """RFC 8446 section 4.6.2: only who offers `post_handshake_auth` may be asked."""
    with OpenSsl(tmp_path, "-tls1_3") as target, before(tmp_path, target.port, target.ca) as (gateway, client):
        client.send(GET % b"asked")
        target.read_until(b"X-Forwarded-Proto")
        target.type(b"c\n")
        target.read_until(b"SSL_verify_client_post_handshake")
        target.type(b"q\n")
        assert_fault(client.read_response(), "connection_lost")
        assert gateway.wait_for_record(path="/asked")["fault"] == "connection_lost"


def test_a_target_that_sends_records_without_data_is_cut_off(tmp_path: Path) -> None:
    """Each key update costs as much as a hundred bytes of data, and asks for an answer."""
    with OpenSsl(tmp_path, "-tls1_3") as target, before(tmp_path, target.port, target.ca) as (gateway, client):
        client.send(GET % b"flood")
        target.read_until(b"X-Forwarded-Proto")
        for _ in range(200):
            target.type(b"K\n")
        assert_fault(client.read_response(), "connection_lost")
        why = "TLS: records without data came without end"
        assert gateway.wait_for_record(path="/flood")["fault_detail"] == why


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x03\x00", b"\x16\x03\x03\x40\x00" + b"\x02" * 100])
def test_a_target_that_closes_amid_the_handshake_is_a_fault_of_tls(tmp_path: Path, sent: bytes) -> None:
    with Origin() as origin, before(tmp_path, origin.port, None) as (gateway, client):
        client.send(GET % b"amid")
        with origin.accept() as connection:
            connection.read_exactly(5)
            connection.send(sent)
        assert_fault(client.read_response(), "tls_failed")
        assert b"TLS handshake: the target has closed the connection" in gateway.stderr.wait_for(
            lambda line: b"tls_failed" in line
        )


def test_a_target_that_says_nothing_is_given_up_when_the_time_to_connect_is_over(tmp_path: Path) -> None:
    """`timeouts.connect` covers the handshake."""
    with Origin() as origin, before(tmp_path, origin.port, None) as (_, client):
        client.send(GET % b"silent")
        with origin.accept() as connection:
            connection.read_exactly(5)
            assert_fault(client.read_response(), "connect_timeout")
            connection.read_to_end()


def test_a_target_that_speaks_plain_http_is_told_as_one(tmp_path: Path) -> None:
    with Origin() as origin, before(tmp_path, origin.port, None) as (gateway, client):
        client.send(GET % b"plain")
        with origin.accept() as connection:
            connection.read_exactly(5)
            connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert_fault(client.read_response(), "tls_failed")
        assert b"the target does not speak TLS on this port" in gateway.stderr.wait_for(
            lambda line: b"tls_failed" in line
        )


def test_bytes_that_were_changed_on_their_way_are_no_answer(place: Place) -> None:
    path = f"/changed-{id(place)}"
    with place.client() as client:
        client.send(GET % path[1:].encode())
        with place.origin.accept() as connection:
            plain: socket.socket = connection.sock
            connection.sock = cast(Any, InMemory(plain, place.tls, None))
            connection.read_request()
            plain.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            assert_fault(client.read_response(), "connection_lost")
    record = place.gateway.wait_for_record(path=path)
    assert record["fault_detail"] in BROKEN_RECORD
