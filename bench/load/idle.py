"""Idle connections, and the contestant's memory for each."""

import resource
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load.load import Environment, NoAnswers
from bench.peers.peer import HOST, Running, without_revision
from bench.samples import Told
from fastgw.http.http2.session import CLOSED, DATA, HEAD, Session

SPARE_FILES = 64
SETTLE_SECONDS = 1.0  # for the contestant to accept connections from the kernel's queue
TIMEOUT = 10.0
READ_SIZE = 1 << 16
REQUEST = f"GET /svc7/v1/items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
WARM_UP = 100  # requests beforehand: memory allocated for the first requests does not belong to connections


@dataclass(frozen=True)
class Idle:
    """Opens `connections`, and measures memory before anything is sent on them, and after one request on each.

    Memory is anonymous, by `Pss`: memory shared by workers counts once. Kernel memory is not included. `only`: the
    contestants with this load. `http2`: the request is sent over HTTP/2, with prior knowledge.
    """

    only: Sequence[str]
    connections: int = 10_000
    http2: bool = False

    @property
    def name(self) -> str:
        return f"{self.connections:,} connections" + (" over HTTP/2" if self.http2 else "")

    @property
    def cut_off(self) -> int:
        return 0

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        if without_revision(name) not in self.only:
            return None
        ask = _ask_over_http2 if self.http2 else _ask
        allow_files(self.connections + SPARE_FILES)
        begun = time.monotonic()
        for _ in range(WARM_UP):
            with _opened(running.port) as connection:
                ask(connection)
        before = settled_memory(running)
        held: list[socket.socket] = []
        try:
            held.extend(_opened(running.port) for _ in range(self.connections))
            opened = settled_memory(running)
            wrong = sum(not ask(connection) for connection in held)
            asked = settled_memory(running)
            closed = _count_closed(held)
        except OSError as error:
            raise NoAnswers(f"{name} did not hold {self.connections:,} connections: {error}") from error
        finally:
            for connection in held:
                connection.close()
        return Told(
            requests=WARM_UP + self.connections,
            seconds=time.monotonic() - begun,
            figures={
                "bytes_never_sent": (opened - before) / self.connections,
                "bytes_after_request": (asked - before) / self.connections,
            },
            faults={"wrong answer": wrong, "connection closed by the contestant": closed},
        )


def _opened(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)


def _ask(connection: socket.socket) -> bool:
    """Return whether a request gets a 200 with a complete body."""
    connection.sendall(REQUEST)
    received = b""
    while True:
        received += connection.recv(READ_SIZE)
        head, end, body = received.partition(b"\r\n\r\n")
        if end:
            break
    (length,) = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < length and (more := connection.recv(READ_SIZE)):
        body += more
    return head.startswith(b"HTTP/1.1 200 ") and len(body) == length


def _ask_over_http2(connection: socket.socket) -> bool:
    """Return whether the first request of a connection gets a 200 with a body."""
    session = Session(True, False, 0.0, 100, 1 << 16, 1 << 20, 1 << 16, 200)
    session.request(REQUEST, True)
    ok, body = False, b""
    while True:
        connection.sendall(session.to_send())
        received = connection.recv(READ_SIZE)
        for kind, _, value in session.feed(received, len(received), 0.0):
            if kind == HEAD:
                ok = value.startswith(b"HTTP/1.1 200 ")
            elif kind == DATA:
                body += value
            elif kind == CLOSED:
                return ok and bool(body)
        if not received:
            return False


def _count_closed(held: Sequence[socket.socket]) -> int:
    poll = select.poll()
    for connection in held:
        poll.register(connection, select.POLLIN)
    return len(poll.poll(0))


def settled_memory(running: Running) -> int:
    """Return the contestant's memory in bytes, after a pause."""
    time.sleep(SETTLE_SECONDS)
    return running.program.memory()


def allow_files(needed: int) -> None:
    """Raise the limit of open files of this process. Raises `NoAnswers` if that is not permitted."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > most:
        raise NoAnswers(f"{needed} open files are needed and the hard limit is {most}; see `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
