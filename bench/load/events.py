"""Event streams that stay open, and the contestant's memory for each."""

import socket
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.load.idle import SPARE_FILES, allow_files, settled_memory
from bench.load.load import Environment, NoAnswers
from bench.origin.events import event
from bench.peers.peer import HOST, Running, without_revision
from bench.samples import Told

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TIMEOUT = 20.0
READ_SIZE = 1 << 16
WARM_UP = 100  # streams beforehand: memory allocated for the first ones does not belong to the others


class Stream:
    """A client of an event stream, which accepts one coding. Raises `ValueError` for an unexpected response."""

    def __init__(self, port: int, coding: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        head = f"GET /svc7/v1/events HTTP/1.1\r\nHost: {HOST}\r\nAccept-Encoding: {coding}\r\n\r\n"
        self._socket.sendall(head.encode())
        self._raw = b""
        self._text = b""
        self._decoder: Any = None
        while b"\r\n\r\n" not in self._raw:
            self._receive()
        received, _, self._raw = self._raw.partition(b"\r\n\r\n")
        coded = f"Content-Encoding: {coding}".encode() in received
        if not received.startswith(b"HTTP/1.1 200 ") or coded is (coding == "identity"):
            raise ValueError(f"{received!r} for a client that accepts {coding}")
        if coded:
            self._decoder = zlib.decompressobj(31) if coding == "gzip" else zstd.ZstdDecompressor()

    def next_event(self) -> bytes:
        """Return the next event, which has been published."""
        while b"\n\n" not in self._text:
            size, end, rest = self._raw.partition(b"\r\n")
            if not end or len(rest) < (length := int(size, 16)) + 2:
                self._receive()
                continue
            chunk, self._raw = rest[:length], rest[length + 2 :]
            self._text += chunk if self._decoder is None else self._decoder.decompress(chunk)
        found, end, self._text = self._text.partition(b"\n\n")
        return found + end

    def _receive(self) -> None:
        received = self._socket.recv(READ_SIZE)
        if not received:
            raise ValueError("the stream has ended")
        self._raw += received

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Events:
    """Opens `streams`, has `events` published on all of them, and measures memory afterwards.

    Memory is anonymous, by `Pss`: memory shared by workers counts once. Kernel memory is not included. `coding_of`:
    coding that the clients of each contestant accept.
    """

    coding_of: Mapping[str, str]
    streams: int = 10_000
    events: int = 10

    @property
    def name(self) -> str:
        return f"{self.streams:,} streams"

    @property
    def cut_off(self) -> int:
        return self.streams

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told:
        allow_files(self.streams + SPARE_FILES)
        coding, begun = self.coding_of[without_revision(name)], time.monotonic()
        held: list[Stream] = []
        try:
            for _ in range(WARM_UP):
                held.append(Stream(running.port, coding))
            present = _number(held[0].next_event())
            wrong = sum(stream.next_event() != event(present) for stream in held[1:])
            before = settled_memory(running)
            held.extend(Stream(running.port, coding) for _ in range(self.streams))
            wrong += sum(stream.next_event() != event(present) for stream in held[WARM_UP:])
            for _ in range(self.events):
                present = _publish(running.port)
                wrong += sum(stream.next_event() != event(present) for stream in held)
            after = settled_memory(running)
        except (OSError, ValueError) as error:
            raise NoAnswers(f"{name} did not keep {self.streams:,} event streams: {error}") from error
        finally:
            for stream in held:
                stream.close()
        return Told(
            requests=WARM_UP + self.streams + self.events,
            seconds=time.monotonic() - begun,
            figures={"bytes_per_stream": (after - before) / self.streams},
            faults={"wrong event": wrong},
        )


def _number(text: bytes) -> int:
    return int(text.partition(b"\n")[0].removeprefix(b"id: "))


def _publish(port: int) -> int:
    """Have the next event published, and return its number."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        connection.sendall(f"GET /svc7/publish HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while more := connection.recv(READ_SIZE):
            received += more
    return int(received.partition(b"\r\n\r\n")[2])
