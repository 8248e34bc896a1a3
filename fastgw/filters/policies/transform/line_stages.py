"""Line formats: NDJSON and server-sent events, of which each line or event is mapped when it is complete."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from fastgw.exchange.body_stages import BodyRefused
from fastgw.exchange.held_pieces import append_piece
from fastgw.filters.api import BodyStage
from fastgw.filters.policies.transform.values import UnmappableBody

LineFunction: TypeAlias = Callable[[bytes], bytes]
"""Function from a JSON text to the one that replaces it. Raises `UnmappableBody`."""
Refuse: TypeAlias = Callable[[UnmappableBody], BodyRefused]
"""Function that returns the exception with which a stage ends the body."""
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_BYTE_ORDER_MARKS: Final = re.compile(rb"(?:\xef\xbb\xbf)+")
_DONE: Final = b"[DONE]"
"""Data of the last event of some APIs, which is no JSON."""


class _StreamStage(BodyStage):
    """Base of stages that map a stream piece by piece: pieces before one that is refused are passed."""

    def __init__(self, change: LineFunction, most: int, refuse: Refuse) -> None:
        self._change, self._most, self._refuse = change, most, refuse
        self._pieces: list[bytes] = []  # of the incomplete line, joined once
        self.held_bytes = 0

    def feed(self, payload: bytes) -> bytes:
        out: list[bytes] = []
        try:
            self._map(payload, out)
        except BodyRefused as refused:
            refused.passed = b"".join(out)
            raise
        return b"".join(out)

    def _map(self, payload: bytes, out: list[bytes]) -> None:
        """Append the output for the next bytes to `out`. Raises `BodyRefused`."""
        raise NotImplementedError


class LineStage(_StreamStage):
    """Stage that maps each line of NDJSON. Empty lines stay."""

    def _map(self, payload: bytes, out: list[bytes]) -> None:
        begin, found, rest = payload.rpartition(b"\n")
        if found:
            for line in self._taken(begin).split(b"\n"):
                out.append(self._changed(line) + b"\n")
        self._hold(rest)

    def end(self) -> bytes:
        line = self._taken(b"")
        return self._changed(line) if line else b""

    def _changed(self, line: bytes) -> bytes:
        if not line.strip(b" \t\r"):
            return line
        if len(line) > self._most:
            raise self._refuse(UnmappableBody(f"a line is longer than {self._most} bytes"))
        try:
            return self._change(line)
        except UnmappableBody as error:
            raise self._refuse(error) from error

    def _hold(self, piece: bytes) -> None:
        self.held_bytes += len(piece)
        if self.held_bytes > self._most:
            raise self._refuse(UnmappableBody(f"a line is longer than {self._most} bytes"))
        if piece:
            append_piece(self._pieces, piece)

    def _taken(self, piece: bytes) -> bytes:
        """Return what was held with the piece that completes it."""
        if self._pieces:
            piece = b"".join([*self._pieces, piece])
            self._pieces = []
        self.held_bytes = 0
        return piece


class EventStage(_StreamStage):
    """Stage that maps the data of each server-sent event. Other fields stay; an event without its end is left out, as
    clients do, and so is a byte order mark before the first one.

    The data of an event is one line then. Empty data and `[DONE]` stay. A comment belongs to no event (WHATWG HTML
    section 9.2.6): it is passed when its line is complete, also within an event, because it keeps the connection alive.
    """

    def __init__(self, change: LineFunction, most: int, refuse: Refuse) -> None:
        super().__init__(change, most, refuse)
        self._event: list[bytes] = []  # lines of the incomplete event
        self._event_bytes = 0  # in them, with their ends: counted, because comments may come between any two of them
        self._has_lines = False  # the first line is complete
        self._ended_cr = False  # the last line has ended with CR, to which a following LF belongs

    def _map(self, payload: bytes, out: list[bytes]) -> None:
        if self._ended_cr and payload:
            payload = payload.removeprefix(b"\n")
            self._ended_cr = False
        self.held_bytes += len(payload)
        if b"\n" not in payload and b"\r" not in payload:
            append_piece(self._pieces, payload)
            self._check_bound()
            return
        text = b"".join([*self._pieces, payload])
        if not self._has_lines:
            text = _BYTE_ORDER_MARKS.sub(b"", text, 1) if text.startswith(_BYTE_ORDER_MARK) else text
            self._has_lines = True
        if b"\r" in text:
            self._ended_cr = text.endswith(b"\r")
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._pieces = [rest] if rest else []
        event = self._event
        for line in lines:
            if line.startswith(b":"):
                out.append(line + b"\n")
            elif line:
                event.append(line)
                self._event_bytes += len(line) + 1
            elif event:
                out.append(self._completed(event))
                event = self._event = []
                self._event_bytes = 0
            else:
                out.append(b"\n")
        self.held_bytes = self._event_bytes + len(rest)
        self._check_bound()

    def _check_bound(self) -> None:
        if self.held_bytes > self._most:
            raise self._refuse(UnmappableBody(f"an event is longer than {self._most} bytes"))

    def _completed(self, lines: list[bytes]) -> bytes:
        data = [_value(line) for line in lines if line == b"data" or line.startswith(b"data:")]
        text = b"\n".join(data)
        if len(text) > self._most:
            raise self._refuse(UnmappableBody(f"an event is longer than {self._most} bytes"))
        if text.strip(b" \t\n") not in (b"", _DONE):
            try:
                changed = self._change(text)
            except UnmappableBody as error:
                raise self._refuse(error) from error
            # Nor a line that would be read as data if it came first: clients drop a byte order mark there.
            left_out = (b"data:", _BYTE_ORDER_MARK)
            lines = [line for line in lines if line != b"data" and not line.startswith(left_out)]
            # JSON has no line end outside of strings that would survive: whitespace between values may be one.
            lines.append(b"data: " + changed.replace(b"\n", b" ").replace(b"\r", b" "))
        return b"".join([line + b"\n" for line in lines]) + b"\n"


def _value(line: bytes) -> bytes:
    value = line[5:]
    return value[1:] if value[:1] == b" " else value
