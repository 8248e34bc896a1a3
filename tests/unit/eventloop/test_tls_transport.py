"""TLS on memory that all connections share: whatever comes when, each gets its own bytes, in order, and all of them."""

from __future__ import annotations

import asyncio
import random
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from fastgw.eventloop import openssl_records, tls_transport
from fastgw.eventloop import worker_loop as worker_loop_module
from fastgw.eventloop.tls_transport import CLOSED, OPEN, text_of
from fastgw.eventloop.worker_loop import BODY_BYTES_PER_TURN
from fastgw.upstream.connections.tls_client import TlsBroken, TlsClientTransport
from fastgw.upstream.targets.tls import Resuming
from tests.support.certificates import Certificates, server_tls, trusting
from tests.support.memory import MemoryLoop

CONNECTIONS = 12
BYTES = 200_000
PATTERN = random.Random(1).randbytes(BYTES)


class Server:
    """A target: OpenSSL on memory of its own, and the plain transport of the gateway's end."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tls.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.shaken = self.closed = self.aborted = False
        self.reading = True
        self.on_its_way = b""  # to the gateway
        self.received = b""
        self.ended = False  # within TLS
        self.fin = False

    # what the gateway calls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        assert name == "socket"
        return self

    def fileno(self) -> int:
        return -1

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def write(self, sealed: bytes) -> None:
        assert not self.fin
        self._incoming.write(sealed)
        self.step()

    def write_eof(self) -> None:
        self.fin = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    # what the test does

    def step(self) -> None:
        """Do what can be done with what has come."""
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

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        self.on_its_way += self._outgoing.read()

    def end(self) -> None:
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.on_its_way += self._outgoing.read()


class Client(asyncio.BufferedProtocol):
    """What stands above. It reads into buffers of any size, and pauses when it likes."""

    def __init__(self, worker_loop: MemoryLoop, dice: random.Random) -> None:
        self.worker_loop, self.dice = worker_loop, dice
        self.received = b""
        self.ended = False
        self.paused = False
        self.lost: Exception | bool | None = False
        self.transport: TlsClientTransport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.assert_nothing_is_shared()

    def assert_nothing_is_shared(self) -> None:
        memory = self.worker_loop.tls_memory
        assert (memory.incoming.pending, memory.outgoing.pending) == (0, 0)

    def get_buffer(self, sizehint: int) -> memoryview:
        self._buffer = memoryview(bytearray(self.dice.choice((1, 100, 2_048, 32_768, 65_536))))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.assert_nothing_is_shared()
        assert not self.paused
        self.received += self._buffer[:nbytes]
        if self.dice.random() < 0.2:
            self.pause()

    def pause(self) -> None:
        self.paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        self.assert_nothing_is_shared()
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.assert_nothing_is_shared()
        self.lost = exc


class Connection:
    """A connection of the gateway's, and the target at its other end."""

    def __init__(self, worker_loop: MemoryLoop, resuming: Resuming, tls: ssl.SSLContext, dice: random.Random) -> None:
        self.worker_loop, self.dice = worker_loop, dice
        self.server = Server(tls)
        self.client = Client(worker_loop, dice)
        done: Any = asyncio.Future(loop=cast(Any, worker_loop.turns))
        self.transport = TlsClientTransport(cast(Any, worker_loop), resuming, "a.test", self.client, done)
        self.transport.connection_made(cast(Any, self.server))
        self.done = done

    def deliver(self, most: int | None = None) -> None:
        """Some of what is on its way arrives."""
        server, transport = self.server, self.transport
        if server.reading and server.on_its_way and not server.closed:
            buffer = transport.get_buffer(-1)
            size = min(len(buffer), len(server.on_its_way), most or self.dice.choice((1, 5, 600, 16_406, 32_768)))
            buffer[:size] = server.on_its_way[:size]
            server.on_its_way = server.on_its_way[size:]
            transport.buffer_updated(size)
            self.client.assert_nothing_is_shared()

    def settle(self) -> None:
        self.worker_loop.turns.settle()

    def shake(self) -> None:
        while self.transport.stage < OPEN:
            self.deliver()
        assert self.done.result() is None


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
    for module in (worker_loop_module, tls_transport):
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
    dice, worker_loop = random.Random(seed), MemoryLoop()
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
                sent[each][side] = min(BYTES, at + size)
                if at + size >= BYTES:
                    transport.write_eof() if side == 0 else server.end()
        elif client.ended and server.ended and server.fin:
            left.discard(each)
        client.assert_nothing_is_shared()
    for each in connections:
        assert each.client.received == PATTERN
        assert each.server.received == PATTERN
        assert not each.transport.has_unread()
        assert each.client.lost is False


def one(authority: Certificates, issued: tuple[str, str]) -> Connection:
    connection = Connection(MemoryLoop(), Resuming(trusting(authority)), server_tls(issued), random.Random(0))
    connection.shake()
    connection.deliver(100_000)
    return connection


def in_records(connection: Connection, count: int, size: int) -> bytes:
    """Have the server send so many records, each with `size` bytes."""
    for number in range(count):
        connection.server.send(PATTERN[number * size : (number + 1) * size])
    return PATTERN[: count * size]


def test_records_of_a_byte_are_read_in_shares(authority: Certificates, issued: tuple[str, str]) -> None:
    """Each costs about as much as one of 16 KiB; between two shares others have their turn."""
    connection = one(authority, issued)
    connection.client.dice = random.Random(7)
    sent = in_records(connection, 6_000, 1)
    rests, most, before = 0, 0, 0
    while len(connection.client.received) < len(sent):
        while connection.server.reading and connection.server.on_its_way:
            connection.deliver(32_768)
        if connection.transport.resting:
            rests += 1
            if rests > 1:  # of what OpenSSL may hold nobody knows at first whether it is data
                most = max(most, len(connection.client.received) - before)
            before = len(connection.client.received)
        connection.client.resume()
        connection.settle()
    assert connection.client.received == sent
    assert rests > 10
    assert most < 600


def test_large_records_are_read_without_a_rest(authority: Certificates, issued: tuple[str, str]) -> None:
    """Wherever they are cut: a part of a record is not framing."""
    connection = one(authority, issued)
    connection.client.pause = lambda: None  # type: ignore[method-assign]
    sent = in_records(connection, 12, 16_000)
    while connection.server.on_its_way:
        connection.deliver(10_000)
        assert not connection.transport.resting
    assert connection.client.received == sent


def test_an_end_that_tls_does_not_know_of_is_no_end(authority: Certificates, issued: tuple[str, str]) -> None:
    connection = one(authority, issued)
    assert connection.transport.eof_received() is False
    assert isinstance(connection.client.lost, TlsBroken)
    assert not connection.client.ended
    assert connection.transport.stage is CLOSED
    assert connection.server.aborted


def test_what_came_before_a_broken_record_is_handed_on(authority: Certificates, issued: tuple[str, str]) -> None:
    connection = one(authority, issued)
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


def test_what_was_paused_is_read_of_a_connection_that_is_lost(authority: Certificates, issued: tuple[str, str]) -> None:
    """It was received, whatever became of the socket since; what is still in that is given by who has it."""
    connection = one(authority, issued)
    client, server, transport = connection.client, connection.server, connection.transport
    server.send(PATTERN[:60_000])
    client.dice = random.Random(0)
    while not client.paused:
        connection.deliver(32_768)
    before = len(client.received)
    transport.connection_lost(ConnectionResetError())
    assert isinstance(client.lost, ConnectionResetError)
    buffer = memoryview(bytearray(65_536))
    sealed = b""
    while before < 60_000:
        try:
            count = transport.read_lost(sealed, buffer)
        except ssl.SSLWantReadError:
            sealed, server.on_its_way = server.on_its_way, b""
            assert sealed
        else:
            sealed = b""
            assert buffer[:count] == PATTERN[before : before + count]
            before += count
        client.assert_nothing_is_shared()


def test_nothing_is_left_of_a_handshake_that_fails(tmp_path: Path, issued: tuple[str, str]) -> None:
    stranger = Certificates(tmp_path)
    worker_loop = MemoryLoop()
    connection = Connection(worker_loop, Resuming(trusting(stranger)), server_tls(issued), random.Random(0))
    while not connection.done.done():
        connection.deliver()
    assert isinstance(connection.done.result(), ssl.SSLCertVerificationError)
    assert (worker_loop.tls_memory.incoming.pending, worker_loop.tls_memory.outgoing.pending) == (0, 0)
    assert connection.server.closed


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
