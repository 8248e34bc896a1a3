"""Bodies of any size pass through a bounded piece of memory: a gibibyte each way, and 64 peers that stall at once.

What is measured is what the gateway's processes hold themselves: anonymous and shared memory, each process by itself.
Socket buffers are the kernel's.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import fronting
from tests.support.certificates import Certificates, server_tls
from tests.support.client import connect
from tests.support.gateway import Gateway, wait_until
from tests.support.resident import Memory

pytestmark = pytest.mark.usefixtures("new_programs")  # what was forked shares pages, which count as its own

MIB = 1 << 20
GIB = 1 << 30
GROWTH = 4 * MIB
STALLED = 64
STALL_S = 10.0
DIRECTIONS = ["download", "upload"]
DEADLINE = 60.0  # a gibibyte takes about two seconds; the machine may be busy
PATTERN = random.Random(4).randbytes(MIB)  # bodies repeat it, so that a byte lost or moved shows


def most(setting: str) -> int:
    """The bytes to which the kernel lets a socket buffer grow by itself."""
    return int(Path(f"/proc/sys/net/ipv4/{setting}").read_text().split()[2])


KERNEL_HOLDS = 2 * (most("tcp_rmem") + most("tcp_wmem"))
"""Of a body, on its two connections."""


class Flow:
    """A body of PATTERN, over and over, on its way from one thread to another."""

    def __init__(self, size: int, sink: socket.socket) -> None:
        self.size = size
        self.sent = 0
        self.received = 0
        self.sending: Future[None] = Future()
        self._sink = sink
        self._block = bytearray(MIB)

    def send(self, source: socket.socket) -> None:
        view = memoryview(PATTERN)
        while self.sent < self.size:
            at = self.sent % MIB
            self.sent += source.send(view[at : at + self.size - self.sent])

    def receive(self, until: int | None = None) -> None:
        """Read up to this many bytes of it, in whole MiB; None: to the end, which is the sender's end too."""
        view = memoryview(self._block)
        while self.received < (until or self.size):
            at = self.received % MIB
            count = self._sink.recv_into(view[at:])
            assert count, f"the body ended after {self.received} of {self.size} bytes"
            self.received += count
            if at + count == MIB:
                assert self._block == PATTERN, f"wrong bytes before {self.received}"
        if self.received == self.size:
            self.sending.result(DEADLINE)


def stands_still(flows: Sequence[Flow]) -> Callable[[], bool]:
    """A fact for `wait_until`: nothing has been sent for a tenth of a second."""
    seen: list[int] = []
    since = 0.0

    def fact() -> bool:
        nonlocal seen, since
        sent = [flow.sent for flow in flows]
        if sent != seen:
            seen, since = sent, time.monotonic()
        return time.monotonic() - since > 0.1

    return fact


def head_from(sock: socket.socket) -> bytes:
    """Read a head from the socket; what came behind it is returned."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = sock.recv(65_536)
        assert chunk, f"the stream ended in a head: {received!r}"
        received += chunk
    return received.partition(b"\r\n\r\n")[2]


def hold_little(sock: socket.socket) -> None:
    """So that a peer that stalls is soon felt at the other end."""
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, buffer, 65_536)


class Line:
    """A listening socket for the gateway to connect to, and clients of the gateway; all closed at the end."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path, workers: int, tls: bool) -> None:
        """`tls`: the gateway speaks TLS with what it connects to."""
        self._stack = stack
        self._tls: ssl.SSLContext | None = None
        self._listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        self._listening.settimeout(DEADLINE)
        hold_little(self._listening)  # and so do those that it accepts
        authority = f"127.0.0.1:{self._listening.getsockname()[1]}"
        if tls:
            certificates = Certificates(directory)
            self._tls = server_tls(certificates.issue("127.0.0.1"))
            settings = fronting(workers=workers, main="u")
            settings["upstreams"] = {
                "u": {"targets": [{"url": f"https://{authority}"}], "tls": {"ca": certificates.ca}}
            }
        else:
            settings = fronting(workers=workers, main=f"http://{authority}")
        self.gateway = stack.enter_context(Gateway(settings, directory))
        self.pool = stack.enter_context(ThreadPoolExecutor(4 * STALLED))

    def client(self) -> socket.socket:
        sock = self._stack.enter_context(connect(self.gateway.address(), DEADLINE))
        hold_little(sock)
        return sock

    def accept(self) -> socket.socket:
        sock = self._listening.accept()[0]
        sock.settimeout(DEADLINE)
        if self._tls is not None:
            sock = self._tls.wrap_socket(sock, server_side=True)
        return self._stack.enter_context(sock)

    def download(self, size: int) -> tuple[socket.socket, socket.socket]:
        """A response's beginning: the origin's end, where its body is to be sent, and the client's, behind its head."""
        client = self.client()
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        origin = self.accept()
        assert head_from(origin) == b""
        origin.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
        assert head_from(client) == b""
        return origin, client

    def upload(self, size: int) -> tuple[socket.socket, socket.socket]:
        """A request's beginning: the client's end, where its body is to be sent, and the origin's, behind its head."""
        client = self.client()
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        origin = self.accept()
        assert head_from(origin) == b""
        return client, origin

    def tunnel(self) -> tuple[socket.socket, socket.socket]:
        """The client's end and the origin's."""
        client = self.client()
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        origin = self.accept()
        assert head_from(origin) == b""
        origin.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert head_from(client) == b""
        return client, origin

    def ends(self, direction: str, size: int) -> tuple[socket.socket, socket.socket]:
        """Where so many bytes are to be sent, and where they are to come out."""
        if direction == "download":
            return self.download(size)
        if direction == "upload":
            return self.upload(size)
        client, origin = self.tunnel()
        return (client, origin) if direction == "tunnel up" else (origin, client)

    def begin(self, direction: str, size: int) -> Flow:
        """A body that is being sent, and that nobody reads yet."""
        return self.send(size, *self.ends(direction, size))

    def send(self, size: int, source: socket.socket, sink: socket.socket) -> Flow:
        flow = Flow(size, sink)
        flow.sending = self.pool.submit(flow.send, source)
        return flow

    def warm_up(self) -> None:
        """Each direction a few times, so that what is made at first use is there."""
        for _ in range(4):
            for direction in DIRECTIONS:
                self.begin(direction, 4 * MIB).receive()


@contextlib.contextmanager
def line(directory: Path, workers: int, tls: bool = False) -> Iterator[Line]:
    with contextlib.ExitStack() as stack:
        line = Line(stack, directory, workers, tls)
        line.warm_up()
        yield line


@pytest.mark.parametrize(("direction", "tls"), [(each, tls) for tls in (False, True) for each in DIRECTIONS])
def test_a_gibibyte_through_a_slow_reader(tmp_path: Path, direction: str, tls: bool) -> None:
    """The reader stops four times until the sender cannot go on: not one byte is lost, and none is piled up."""
    size = GIB // 4 if tls else GIB  # the test itself has to encipher it
    with line(tmp_path, 2, tls) as between, Memory(between.gateway) as memory:
        flow = between.begin(direction, size)
        for quarter in range(1, 5):
            wait_until(stands_still([flow]), "the sender to be held back")
            assert flow.sent < flow.received + KERNEL_HOLDS + MIB
            flow.receive(quarter * size // 4)
    assert max(memory.growth.values()) < GROWTH, memory.growth


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_64_readers_stall_at_once(tmp_path: Path, direction: str) -> None:
    """For 10 s nobody reads, in one worker: it holds little for each; then all goes on and arrives whole."""
    with line(tmp_path, workers=1) as between, Memory(between.gateway) as memory:
        flows = [between.begin(direction, 16 * MIB) for _ in range(STALLED)]
        wait_until(stands_still(flows), "the senders to be held back")
        sent = [flow.sent for flow in flows]
        assert sum(sent) < STALLED * 16 * MIB
        time.sleep(STALL_S)  # the stall itself, not a wait for anything
        assert all(flow.sent < earlier + MIB for flow, earlier in zip(flows, sent, strict=True))  # the kernel's probes
        for received in [between.pool.submit(flow.receive) for flow in flows]:
            received.result(DEADLINE)
    assert max(memory.growth.values()) < GROWTH, memory.growth


@pytest.mark.parametrize("direction", [*DIRECTIONS, "tunnel down", "tunnel up"])
def test_64_readers_stall_at_once_behind_tls(tmp_path: Path, direction: str) -> None:
    """A direction to or from a target that speaks TLS holds 64 KiB at most, besides what its connection costs."""
    with line(tmp_path, 1, tls=True) as between:
        ends = [between.ends(direction, 8 * MIB) for _ in range(STALLED)]
        with Memory(between.gateway) as memory:
            flows = [between.send(8 * MIB, *each) for each in ends]
            wait_until(stands_still(flows), "the senders to be held back")
            assert sum(flow.sent for flow in flows) < STALLED * 8 * MIB
            held = max(memory.growth.values())
            for received in [between.pool.submit(flow.receive) for flow in flows]:
                received.result(DEADLINE)
    assert held < STALLED * 65_536, memory.growth
