"""TLS on memory that all connections share: whatever comes when, each gets its own bytes, in order, and all of them."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastgw.eventloop import body_reads, openssl_records, tls_transport
from fastgw.eventloop.body_reads import BODY_BYTES_PER_TURN
from fastgw.eventloop.socket_poller import ENDED, READABLE, WRITABLE, SocketPoller
from fastgw.eventloop.socket_transport import StreamProtocol
from fastgw.eventloop.tls_transport import CLOSED, OPEN, text_of
from fastgw.upstream.connections.tls_client import TlsBroken, TlsClientTransport
from fastgw.upstream.targets.tls import Resuming
from tests.support.certificates import Certificates, server_tls, trusting
from tests.support.memory import MemoryLoop

CONNECTIONS = 12
BYTES = 200_000
PATTERN = random.Random(1).randbytes(BYTES)


class Server:
    """A target: OpenSSL on memory of its own, and its end of the connection. `far`: its socket."""

    def __init__(self, tls: ssl.SSLContext, far: socket.socket) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tls.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._far = far
        self.shaken = False
        self.on_its_way = b""  # to the gateway
        self.received = b""
        self.ended = False  # within TLS
        self.fin = False

    def read(self) -> None:
        """Do what can be done with what has come."""
        with suppress(BlockingIOError):
            while not self.fin:
                sealed = self._far.recv(1 << 20)
                self.fin = not sealed
                self._incoming.write(sealed)
        with suppress(ssl.SSLError):  # for it has to wait, or was told of an alert
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            while not self.ended:
                with suppress(ssl.SSLZeroReturnError):
                    chunk = self.tls.read(65_536)
                    self.received += chunk
                    if chunk:
                        continue
                self.ended = True
        self.on_its_way += self._outgoing.read()

    def deliver(self, most: int) -> None:
        """Some of what is on its way arrives, as far as the gateway's socket takes it."""
        with suppress(BlockingIOError):
            self.on_its_way = self.on_its_way[self._far.send(self.on_its_way[:most]) :]

    def leave(self) -> None:
        """Close, once all has arrived."""
        self.deliver(len(self.on_its_way))
        assert not self.on_its_way
        self._far.close()

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        self.on_its_way += self._outgoing.read()

    def end(self) -> None:
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.on_its_way += self._outgoing.read()


class Client(StreamProtocol):
    """What stands above. It reads into buffers of any size, and pauses when it likes."""

    def __init__(self, worker_loop: MemoryLoop, dice: random.Random) -> None:
        self.worker_loop, self.dice = worker_loop, dice
        self.received = b""
        self.ended = False
        self.paused = False
        self.lost: Exception | bool | None = False
        self.rest = b""  # read when it was lost
        self.transport: Any
        self._choose_buffer()

    def _choose_buffer(self) -> None:
        self.buffer = memoryview(bytearray(self.dice.choice((1, 100, 2_048, 32_768, 65_536))))

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.assert_nothing_is_shared()

    def assert_nothing_is_shared(self) -> None:
        memory = self.worker_loop.tls_memory
        assert (memory.incoming.pending, memory.outgoing.pending) == (0, 0)

    def buffer_updated(self, nbytes: int) -> None:
        self.assert_nothing_is_shared()
        assert not self.paused
        self.received += self.buffer[:nbytes]
        self._choose_buffer()
        if self.dice.random() < 0.2:
            self.pause()

    def pause(self) -> None:
        self.paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def eof_received(self) -> bool:
        self.assert_nothing_is_shared()
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.assert_nothing_is_shared()
        self.lost = exc
        with suppress(OSError):
            while count := self.transport.read_rest(self.buffer):
                self.rest += self.buffer[:count]
                self.assert_nothing_is_shared()


class Surroundings(MemoryLoop):
    """A loop whose sockets are polled by the test."""

    def __init__(self) -> None:
        super().__init__()
        loop: Any = SimpleNamespace(
            add_reader=lambda fd, call: None, remove_reader=lambda fd: None, call_soon=self.turns.call_soon
        )
        self.sockets = SocketPoller(loop)
        self.ends = ExitStack()  # of the targets


@contextmanager
def surroundings() -> Iterator[Surroundings]:
    worker_loop = Surroundings()
    with closing(worker_loop.sockets), worker_loop.ends:
        yield worker_loop


class Connection:
    """A connection of the gateway's, and the target at its other end."""

    def __init__(self, worker_loop: Surroundings, resuming: Resuming, tls: ssl.SSLContext, dice: random.Random) -> None:
        self.worker_loop, self.dice = worker_loop, dice
        near, far = socket.socketpair()
        worker_loop.ends.enter_context(far)
        for end in (near, far):
            end.setblocking(False)
        self.server = Server(tls, far)
        self.client = Client(worker_loop, dice)
        done: Any = asyncio.Future(loop=cast(Any, worker_loop.turns))
        self.transport = TlsClientTransport(
            cast(Any, worker_loop), near.detach(), resuming, "a.test", lambda _: self.client
        )
        self.transport.begin_tls(done)
        self.server.read()
        self.done = done

    def deliver(self, most: int | None = None) -> None:
        """Some of what is on its way arrives, and the target reads what came back."""
        if self.server.on_its_way:
            self.server.deliver(most or self.dice.choice((1, 5, 600, 16_406, 32_768)))
            self.transport.ready(READABLE)
            self.client.assert_nothing_is_shared()
        self.exchange()

    def exchange(self) -> None:
        """The target reads all that is sent."""
        self.server.read()
        while self.transport.get_write_buffer_size():
            self.transport.ready(WRITABLE)
            self.server.read()

    def turn(self) -> None:
        """Run one callback of the loop, if one is due."""
        if soon := self.worker_loop.turns.soon:
            soon.pop(0)()

    def settle(self) -> None:
        self.worker_loop.turns.settle()
        self.exchange()

    def shake(self) -> None:
        while self.transport.stage < OPEN:
            self.deliver()
        assert self.done.result() is self.client


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("transport"))


@pytest.fixture(scope="module")
def issued(authority: Certificates) -> tuple[str, str]:
    return authority.issue("a.test")


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("share", [BODY_BYTES_PER_TURN, 3_000])
def test_connections_that_share_memory_keep_their_bytes(
    authority: Certificates,
    issued: tuple[str, str],
    highest: int,
    share: int,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Handshakes, data, pauses and ends of both directions of a dozen connections, in any order.

    `share`: what one may cost before it rests; of so little after each record.
    """
    for module in (body_reads, tls_transport):
        monkeypatch.setattr(module, "BODY_BYTES_PER_TURN", share)
    play(authority, issued, highest, seed)


@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_they_keep_them_also_where_openssl_is_called_by_the_module_ssl_alone(
    authority: Certificates, issued: tuple[str, str], highest: int
) -> None:
    """As with a Python whose objects of OpenSSL the compiled module does not know."""
    assert openssl_records.calls_openssl()
    openssl_records.go_through_ssl()
    try:
        play(authority, issued, highest, 11)
    finally:
        openssl_records.call_openssl()
        assert openssl_records.calls_openssl()


def play(authority: Certificates, issued: tuple[str, str], highest: int, seed: int) -> None:
    with surroundings() as worker_loop:
        _play(worker_loop, authority, issued, highest, seed)


def _play(worker_loop: Surroundings, authority: Certificates, issued: tuple[str, str], highest: int, seed: int) -> None:
    dice = random.Random(seed)
    tls, resuming = server_tls(issued, highest=highest), Resuming(trusting(authority))
    connections = [Connection(worker_loop, resuming, tls, dice) for _ in range(CONNECTIONS)]
    sent = {each: [0, 0] for each in connections}  # by the client's side, by the server's
    left = set(connections)
    while left:
        each = dice.choice(tuple(left))
        client, server, transport = each.client, each.server, each.transport
        act = dice.randrange(5)
        if act == 0 or transport.stage < OPEN:
            each.deliver()
        elif act == 1:
            client.resume()
            each.settle()
        elif act in (2, 3):
            side = act - 2
            at = sent[each][side]
            if at < BYTES:
                size = dice.choice((1, 1_000, 16_384, 16_385, 100_000))
                (transport.write if side == 0 else server.send)(PATTERN[at : at + size])
                each.exchange()
                sent[each][side] = min(BYTES, at + size)
                if at + size >= BYTES:
                    transport.write_eof() if side == 0 else server.end()
                    each.exchange()
        elif client.ended and server.ended and server.fin:
            left.discard(each)
        client.assert_nothing_is_shared()
    for each in connections:
        assert each.client.received == PATTERN
        assert each.server.received == PATTERN
        assert not each.transport.has_unread()
        assert each.client.lost is False


@pytest.fixture
def connection(authority: Certificates, issued: tuple[str, str]) -> Iterator[Connection]:
    with surroundings() as worker_loop:
        connection = Connection(worker_loop, Resuming(trusting(authority)), server_tls(issued), random.Random(0))
        connection.shake()
        connection.deliver(100_000)
        yield connection


def in_records(connection: Connection, count: int, size: int) -> bytes:
    """Have the server send so many records, each with `size` bytes."""
    for number in range(count):
        connection.server.send(PATTERN[number * size : (number + 1) * size])
    return PATTERN[: count * size]


def test_records_of_a_byte_are_read_in_shares(connection: Connection) -> None:
    """Each costs about as much as one of 16 KiB; between two shares others have their turn."""
    connection.client.dice = random.Random(7)
    sent = in_records(connection, 6_000, 1)
    rests, most, before = 0, 0, 0
    while len(connection.client.received) < len(sent):
        while not (connection.client.paused or connection.transport.resting) and connection.server.on_its_way:
            connection.deliver(32_768)
        if connection.transport.resting:
            rests += 1
            if rests > 1:  # of what OpenSSL may hold nobody knows at first whether it is data
                most = max(most, len(connection.client.received) - before)
            before = len(connection.client.received)
        connection.client.resume()
        connection.turn()
    assert connection.client.received == sent
    assert rests > 10
    assert most < 600


def test_large_records_are_read_without_a_rest(connection: Connection) -> None:
    """Wherever they are cut: a part of a record is not framing."""
    connection.client.pause = lambda: None  # type: ignore[method-assign]
    sent = in_records(connection, 12, 16_000)
    while connection.server.on_its_way:
        connection.deliver(10_000)
        assert not connection.transport.resting
    assert connection.client.received == sent


def test_an_end_that_tls_does_not_know_of_is_no_end(connection: Connection) -> None:
    connection.server.leave()
    connection.transport.ready(ENDED)
    assert isinstance(connection.client.lost, TlsBroken)
    assert not connection.client.ended
    assert connection.transport.stage is CLOSED
    assert connection.transport.fd == -1


def test_what_came_before_a_broken_record_is_handed_on(connection: Connection) -> None:
    connection.server.send(b"good")
    connection.server.on_its_way += b"\x17\x03\x03\x00\x20" + b"x" * 32
    connection.client.dice = random.Random(3)
    while connection.client.lost is False:
        connection.deliver(100_000)
        connection.client.resume()
        connection.settle()
    assert connection.client.received == b"good"
    assert isinstance(connection.client.lost, ssl.SSLError)
    assert connection.transport.lost_by in ("decryption failed or bad record mac", "record layer failure")  # by OpenSSL


def test_what_was_paused_is_read_of_a_connection_that_is_lost(connection: Connection) -> None:
    """It was received, whatever became of the socket since: a failed write tells."""
    client, server, transport = connection.client, connection.server, connection.transport
    server.send(PATTERN[:60_000])
    client.dice = random.Random(0)
    while not client.paused:
        connection.deliver(32_768)
    server.leave()
    transport.write(b"x")
    connection.worker_loop.turns.settle()
    assert isinstance(client.lost, BrokenPipeError)
    assert client.received + client.rest == PATTERN[:60_000]
    assert transport.fd == -1


def test_nothing_is_left_of_a_handshake_that_fails(tmp_path: Path, issued: tuple[str, str]) -> None:
    stranger = Certificates(tmp_path)
    with surroundings() as worker_loop:
        connection = Connection(worker_loop, Resuming(trusting(stranger)), server_tls(issued), random.Random(0))
        while not connection.done.done():
            connection.deliver()
        assert isinstance(connection.done.result(), ssl.SSLCertVerificationError)
        assert (worker_loop.tls_memory.incoming.pending, worker_loop.tls_memory.outgoing.pending) == (0, 0)
        assert connection.server.fin


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ("[SSL] tlsv1 alert no application protocol (_ssl.c:1006)", "tlsv1 alert no application protocol"),
        ("tlsv1 alert no application protocol (_ssl.c:1006)", "tlsv1 alert no application protocol"),
        ("[SSL] bad (very) length (_ssl.c:1)", "bad (very) length"),
        ("", "SSLError"),
    ],
)
def test_an_error_without_a_name_has_its_text(told: str, text: str) -> None:
    """CPython knows the names of the OpenSSL that it was built with; newer ones have only a text."""
    error = ssl.SSLError(1, told)
    error.reason = None  # type: ignore[assignment]  # as the module ssl does
    assert text_of(error) == text
