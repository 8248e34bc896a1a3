"""HTTP/2 client that sends what a test says, and records responses."""

from __future__ import annotations

import contextlib
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import hpack

from tests.support.client import connect
from tests.support.http2 import frames
from tests.support.http2.frames import BEGINNING, SETTINGS_ACK, Flag, Setting, Type
from tests.support.peer import DEADLINE, Peer, Unexpected

Fields = list[tuple[bytes, bytes]]


@dataclass
class Answer:
    """Response on a stream so far."""

    heads: list[Fields] = field(default_factory=list)
    """Interim heads, the response head, and trailers."""
    parts: list[bytes] = field(default_factory=list)
    length: int = 0
    """Length of the body."""
    ended: bool = False
    reset: int | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def statuses(self) -> list[int]:
        return [int(value) for head in self.heads for name, value in head if name == b":status"]

    @property
    def status(self) -> int:
        """Status of the final response."""
        return self.statuses[-1]

    @property
    def head(self) -> Fields:
        return next(head for head in self.heads if int(dict(head)[b":status"]) >= 200)

    @property
    def trailers(self) -> Fields:
        return [] if b":status" in dict(self.heads[-1]) else self.heads[-1]

    def get(self, name: bytes) -> bytes | None:
        return dict(self.head).get(name)

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class Http2Client(Peer):
    """A connection; `begin` sends the preface. Frames are read strictly: an invalid frame fails the test.

    Its windows have the maximum size, so that nothing waits for them, except with `windows` small.
    """

    def __init__(self, address: str, deadline: float = DEADLINE, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(connect(address, deadline), deadline)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="a.test")
        self.answers: dict[int, Answer] = {}
        self.settings: dict[int, int] = {}
        self.pongs: list[bytes] = []
        self.goaways: list[tuple[int, int, bytes]] = []
        """Last stream, code and text of each GOAWAY."""
        self.window_updates: dict[int, int] = {}
        self.settings_acks = 0
        self.refused_bytes = b""
        """Bytes in place of a frame, from a listener that answers in HTTP/1.1."""
        self._decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self._block: tuple[int, int, bytes] | None = None

    def begin(self, *entries: tuple[int, int]) -> Http2Client:
        """Send preface and SETTINGS, and open the connection window completely."""
        wide = () if any(key == Setting.INITIAL_WINDOW_SIZE for key, _ in entries) else ((4, frames.MAX_WINDOW),)
        self.send(frames.PREFACE + frames.settings(*entries, *wide) + frames.window_update(frames.MAX_WINDOW - 65_535))
        return self

    def begin_plainly(self) -> Http2Client:
        """Send preface and empty SETTINGS, with default windows, as all cases begin."""
        self.send(BEGINNING)
        return self

    def answer(self, stream: int) -> Answer:
        return self.answers.setdefault(stream, Answer())

    def send_body(self, stream: int, left: int, end: bool = True) -> None:
        """Send a body of x within the windows; fails if they stay closed."""
        while left:
            part = min(frames.MAX_FRAME, left)
            left -= part
            self.send_piece(stream, b"x" * part, end and not left)

    def send_piece(self, stream: int, piece: bytes, end: bool = False) -> None:
        """Send a piece of a body within the windows."""
        self.wait(lambda: self.settings, "SETTINGS")
        while piece:
            self.wait(lambda: self.window(stream) > 0, f"a window for stream {stream}")
            part = min(frames.MAX_FRAME, len(piece), self.window(stream))
            self.send_data(stream, piece[:part], end and part == len(piece))
            piece = piece[part:]

    def send_data(self, stream: int, payload: bytes, end: bool = False) -> None:
        self.send(frames.data(payload, stream, end))
        for each in (0, stream):
            self.window_updates[each] = self.window_updates.get(each, 0) - len(payload)

    def window(self, stream: int) -> int:
        """Return the bytes that may be sent on a stream; data sent by `send_data` is subtracted."""
        own = self.settings.get(Setting.INITIAL_WINDOW_SIZE, 65_535) + self.window_updates.get(stream, 0)
        return min(own, 65_535 + self.window_updates.get(0, 0))

    # --- reading ---

    @property
    def over(self) -> bool:
        return self.ended and not self._frame_is_there

    @property
    def _frame_is_there(self) -> bool:
        unread = self.received[self._at : self._at + 9]
        return len(unread) == 9 and len(self.received) - self._at >= 9 + int.from_bytes(unread[:3], "big")

    def read_frame(self, until: float | None = None) -> bool:
        """Read the next frame. False: the connection has ended."""
        until = time.monotonic() + self.deadline if until is None else until
        while not self._frame_is_there:
            if self.received[self._at :].startswith(b"HTTP/1.1 "):
                self.read_to_end()
                self.refused_bytes = self.received
                return False
            if not self._fill(until, "a frame"):
                if self.unread and not self.was_reset:
                    raise Unexpected(f"the stream ended within a frame: {self.unread!r}")
                return False
        head = self._take(9)
        payload = self._take(int.from_bytes(head[:3], "big"))
        self._take_frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload)
        if self._at > 1 << 20:
            self.received, self._at = self.received[self._at :], 0
        return True

    def wait(self, fact: Callable[[], object], wanted: str) -> None:
        """Read frames until `fact` is true. Fails if the connection ends before."""
        until = time.monotonic() + self.deadline
        while not fact():
            if not self.read_frame(until):
                raise Unexpected(f"the connection ended before {wanted}: {self.told}")

    def wait_for(self, stream: int) -> Answer:
        """Return the complete response on a stream. Fails if it is reset."""
        answer = self.answer(stream)
        self.wait(lambda: answer.over, f"the end of stream {stream}")
        if answer.reset is not None:
            raise Unexpected(f"stream {stream} was reset: {self.told}")
        return answer

    def wait_for_end(self, stream: int) -> None:
        """Read until the stream has ended or was reset, or the connection has ended."""
        answer = self.answer(stream)
        until = time.monotonic() + self.deadline
        while not answer.over and self.read_frame(until):
            pass

    def read_all(self) -> None:
        """Read until the connection has ended, within the deadline."""
        until = time.monotonic() + self.deadline
        while self.read_frame(until):
            pass

    def synchronize(self, mark: bytes = b"in order") -> None:
        """Send a PING and read until its acknowledgement."""
        self.send(frames.ping(mark))
        self.wait(lambda: mark in self.pongs, "the answer to a PING")

    @property
    def told(self) -> str:
        """Return a summary of what was received."""
        answers = {
            stream: (a.statuses, a.length, "ended" if a.ended else "open" if a.reset is None else f"reset {a.reset}")
            for stream, a in self.answers.items()
        }
        return f"answers {answers}, GOAWAY {self.goaways}, ended {self.ended}, {self.refused_bytes!r}"

    def _take_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and kind != Type.CONTINUATION:
            raise Unexpected(f"frame of type {kind} within a header block")
        if len(payload) > frames.MAX_FRAME:
            raise Unexpected(f"a frame of {len(payload)} bytes")
        if kind == Type.DATA:
            answer = self._open(stream)
            if not answer.heads:
                raise Unexpected(f"DATA before HEADERS on stream {stream}")
            answer.parts.append(payload if not flags & Flag.PADDED else payload[1 : len(payload) - payload[0]])
            answer.length += len(answer.parts[-1])
            answer.ended = bool(flags & Flag.END_STREAM)
        elif kind == Type.HEADERS:
            if flags & (Flag.PADDED | Flag.PRIORITY):
                raise Unexpected(f"HEADERS with flags {flags}")
            self._take_block(stream, flags, flags, payload)
        elif kind == Type.CONTINUATION:
            if self._block is None or self._block[0] != stream:
                raise Unexpected(f"CONTINUATION on stream {stream}")
            self._take_block(stream, self._block[1], flags, self._block[2] + payload)
        elif kind == Type.RST_STREAM:
            (self.answer(stream).reset,) = struct.unpack("!I", payload)
        elif kind == Type.SETTINGS:
            self._take_settings(flags, payload)
        elif kind == Type.PING:
            if flags & Flag.ACK:
                self.pongs.append(payload)
            else:
                self._reply(frames.ping(payload, Flag.ACK))
        elif kind == Type.GOAWAY:
            last, code = struct.unpack("!II", payload[:8])
            self.goaways.append((last, code, payload[8:]))
        elif kind == Type.WINDOW_UPDATE:
            self.window_updates[stream] = self.window_updates.get(stream, 0) + int.from_bytes(payload, "big")
        else:
            raise Unexpected(f"a frame of type {kind}")

    def _open(self, stream: int) -> Answer:
        answer = self.answer(stream)
        if answer.over:
            raise Unexpected(f"a frame behind the end of stream {stream}: {self.told}")
        return answer

    def _take_block(self, stream: int, first: int, flags: int, payload: bytes) -> None:
        if not flags & Flag.END_HEADERS:
            self._block = (stream, first, payload)
            return
        self._block = None
        answer = self._open(stream)
        answer.heads.append([(bytes(n), bytes(v)) for n, v in self._decoder.decode(payload, raw=True)])
        answer.ended = bool(first & Flag.END_STREAM)

    def _take_settings(self, flags: int, payload: bytes) -> None:
        if flags & Flag.ACK:
            self.settings_acks += 1
            return
        for at in range(0, len(payload), 6):
            key, value = struct.unpack_from("!HI", payload, at)
            self.settings[key] = value
        self._reply(SETTINGS_ACK)

    def _reply(self, sent: bytes) -> None:
        with contextlib.suppress(OSError):
            self.send(sent)
