"""WebSocket frames (RFC 6455): a strict reader of one direction, which returns the checked bytes, and a writer.

The reader is the reference of the compiled one, `_frames`; `frame_reader` selects the one in use.

Rule 1: payload is forwarded as it arrives, without a copy; headers and control frames are buffered until they are
complete. Rule 2: no part of an invalid frame is forwarded, except payload forwarded before the error was detected.
"""

import zlib
from codecs import getincrementaldecoder
from os import urandom
from typing import Final, NamedTuple, final

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_CODE, NO_CLOSE, INVALID_TEXT = 1000, 1001, 1002, 1005, 1006, 1007
POLICY, TOO_BIG, UPSTREAM_LOST = 1008, 1009, 1011
INTERNAL_ERROR, TRY_AGAIN_LATER = 1011, 1013
_DATA: Final = frozenset((CONTINUATION, TEXT, BINARY))
_CONTROL: Final = frozenset((CLOSE, PING, PONG))
_CODES: Final = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015)))
"""Close codes below 3000 that a peer may send (RFC 6455 section 7.4, and the IANA registry)."""
PIECE: Final = 65536
"""Number of bytes that are inflated at a time."""
INFLATED_PER_CALL: Final = 262_144
"""Inflated bytes after which a call of `FrameReader.feed` returns: less than a millisecond's worth. A received byte can
stand for a thousand.
"""
INFLATE_COST: Final = 1024
"""Inflated bytes that cost as much as a call of zlib does by itself."""
DEFLATE_TAIL: Final = b"\x00\x00\xff\xff"
"""End of each compressed message, which is not sent (RFC 7692 section 7.2.1)."""
_decoder: Final = getincrementaldecoder("utf-8")


class Violation(NamedTuple):
    """Violation for which a connection is closed: close code, and the reason for both sides."""

    code: int
    reason: str


class Deflate(NamedTuple):
    """Negotiated parameters for one direction of permessage-deflate (RFC 7692)."""

    window_bits: int = 15
    keeps_context: bool = True


class Refused(Exception):
    """An invalid frame. Raised and caught within a reader."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.violation = Violation(code, reason)


@final
class FrameReader:
    """Reader of the frames of one direction. `masked`: whether they are sent by a client.

    `message_bytes`: maximum payload of a message over its frames, after decompression; None: unlimited.
    """

    __slots__ = (
        "_checked",
        "_compressed",
        "_deflate",
        "_held",
        "_inflated",
        "_inflater",
        "_key",
        "_key_at",
        "_left",
        "_limit",
        "_masked",
        "_message",
        "_opcode",
        "_resume_at",
        "_size",
        "_text",
        "_wire",
        "allowance",
        "binaries",
        "close",
        "frames",
        "notes",
        "own_pong",
        "pings",
        "pongs",
        "texts",
        "unfinished",
        "violation",
    )

    def __init__(self, masked: bool, message_bytes: int | None = None, deflate: Deflate | None = None) -> None:
        self._masked, self._limit, self._deflate = masked, message_bytes, deflate
        self._held = b""  # an incomplete header or control frame, or data for the next call if this one is unfinished
        self._resume_at = (
            0  # payload in `_held` that is checked already, after a header; 0: there is no header before it
        )
        self._left = 0  # remaining bytes of the current data frame
        self._key = b""
        self._key_at = 0
        self._opcode = 0  # opcode of the current message; 0: none
        self._message = False  # the current frame is its last one
        self._size = 0  # size of the message so far
        self._wire = 0  # size of its payload as it was sent
        self._compressed = False
        self._checked = False  # whether its payload is checked
        self._text = _decoder()
        self._inflater = None if deflate is None else zlib.decompressobj(-deflate.window_bits)
        self._inflated = 0  # bytes inflated in this call of `feed`, with the cost of zlib's calls
        self.texts = 0
        """Number of text messages that have begun, without one of which no byte is forwarded."""
        self.binaries = 0
        self.pings = 0
        self.pongs = 0
        """Number of pongs, without responses to the gateway's pings."""
        self.frames = 0
        """Number of complete frames, without responses to the gateway's pings."""
        self.notes: list[tuple[int, int]] = []
        """Opcode of each message and control frame that is forwarded, and its payload as it was sent, in bytes: of the
        last call of `feed`. The compiled reader has none."""
        self.allowance: int | None = None
        """Messages and pings that may still begin. None: unlimited."""
        self.own_pong: bytes | None = None
        """Payload of the gateway's ping, whose response is not forwarded. None: it was answered."""
        self.close: int | None = None
        """Code of the received close frame, `NO_CODE` if it has none. Later data is dropped."""
        self.unfinished = False
        """Whether `feed` has returned before the end of its data, which it keeps. The next call continues."""
        self.violation: Violation | None = None
        """Violation after which nothing is read."""

    @property
    def messages(self) -> int:
        """Number of messages that have begun."""
        return self.texts + self.binaries

    @property
    def at_boundary(self) -> bool:
        """Whether the forwarded bytes end with a complete frame."""
        return not self._left or self._resume_at > 0

    def limit_messages(self, message_bytes: int | None) -> None:
        """Set the maximum payload of a message from the next frame header on; None: unlimited. Only for readers without
        `deflate`.
        """
        self._limit = message_bytes

    def rest(self, chunk: bytes) -> bytes:
        """Like `feed`, but only for data that belongs to the current data frame. Data behind it is kept for `feed`."""
        if not self._left or self._resume_at:
            self.unfinished = False
            return b""
        if self._held:
            chunk, self._held = self._held + chunk, b""
        chunk, behind = chunk[: self._left], chunk[self._left :]
        passed = self.feed(chunk)
        if self.violation is None:
            self._held += behind
        return passed

    def feed(self, chunk: bytes) -> bytes:
        """Parse received bytes; return those that may be forwarded. Sets `close`, `violation` or `unfinished`."""
        self.notes.clear()
        self.unfinished, self._inflated = False, 0
        if self.violation is not None or self.close is not None:
            return b""
        if self._held:
            chunk, self._held = self._held + chunk, b""
        at, start, size = self._resume_at, 0, len(chunk)
        cut: list[bytes] = []  # bytes before frames that are not forwarded
        begin = 0 if at else -1  # start of the frame at `at` in this chunk
        self._resume_at = 0
        if at:
            self._count_message(chunk[0], 1)
        try:
            while at < size and self.close is None:
                if self._inflated >= INFLATED_PER_CALL:
                    self.unfinished = True
                    if self._left and begin >= 0:  # the frame is not forwarded before it is checked
                        self._count_message(chunk[begin], -1)
                        self._resume_at, at = at - begin, begin
                    break
                if self._left:
                    end = min(at + self._left, size)
                    if self._checked:
                        end = at + self._check(chunk[at:end], self._message and end - at == self._left)
                    self._left -= end - at
                    at = end
                    if not self._left:
                        self._end_frame()
                    continue
                begin = at
                payload_at = self._header_end(chunk, at, size)
                if not payload_at:
                    break
                opcode = chunk[at] & 15
                if opcode in _DATA:
                    at = payload_at
                    if not self._left:
                        if self._checked:
                            self._check(b"", self._message)
                        self._end_frame()
                    continue
                end = payload_at + (chunk[at + 1] & 127)
                if end > size:
                    break
                if self._take_control(opcode, self._unmasked(chunk, payload_at, end)):
                    at = end
                else:
                    cut.append(chunk[start:at])
                    at = start = end
            else:
                return chunk[start:at] if not cut else b"".join((*cut, chunk[start:at]))
            self._held = chunk[at:]
        except Refused as refused:
            self.violation = refused.violation
            if begin >= 0:  # the frame began in this chunk: no part of it is forwarded
                if at > begin:  # its header was accepted, and it is a data frame
                    self._count_message(chunk[begin], -1)
                self._left, at = 0, begin
        passed = chunk[start:at]
        return b"".join((*cut, passed)) if cut else passed

    def _header_end(self, chunk: bytes, at: int, size: int) -> int:
        """Check the header of a frame; return the start of its payload. 0: the header is incomplete."""
        if size - at < 2:
            self._check_first(chunk[at])
            return 0
        first, second = chunk[at], chunk[at + 1]
        self._check_first(first)
        if bool(second & 128) is not self._masked:
            raise Refused(PROTOCOL_ERROR, "frame without a mask" if self._masked else "frame with a mask")
        length, opcode, end = second & 127, first & 15, at + 2
        if opcode in _CONTROL:
            if length > 125 or not first & 128:
                raise Refused(PROTOCOL_ERROR, "control frame too long or in fragments")
        elif length > 125:
            count = 2 if length == 126 else 8
            if size < end + count:
                return 0
            length = int.from_bytes(chunk[end : end + count], "big")
            end += count
            if length >> 63:
                raise Refused(PROTOCOL_ERROR, "length of a frame above 63 bits")
            if length < (126 if count == 2 else 65536):
                raise Refused(PROTOCOL_ERROR, "length of a frame not in its shortest form")
        if opcode in _DATA:
            self._check_size(first, opcode, length)
        if self._masked:
            if size < end + 4:
                return 0
            end += 4
        if opcode in _DATA:
            self._begin_frame(first, opcode, length, chunk[end - 4 : end] if self._masked else b"")
        return end

    def _check_first(self, first: int) -> None:
        opcode = first & 15
        if opcode not in _DATA and opcode not in _CONTROL:
            raise Refused(PROTOCOL_ERROR, "unknown opcode")
        reserved = first & 0x70
        if reserved and not (reserved == 0x40 and self._deflate is not None and opcode in (TEXT, BINARY)):
            raise Refused(PROTOCOL_ERROR, "reserved bit set")
        if opcode == CONTINUATION and not self._opcode:
            raise Refused(PROTOCOL_ERROR, "continuation without a message")
        if opcode in (TEXT, BINARY) and self._opcode:
            raise Refused(PROTOCOL_ERROR, "message within a message")

    def _check_size(self, first: int, opcode: int, length: int) -> None:
        if self._limit is None:
            return
        if self._compressed if opcode == CONTINUATION else first & 0x40:
            most = self._limit + self._limit // 256 + 64  # maximum size of incompressible data
            if length > most:
                raise Refused(TOO_BIG, "message too big")
        elif length + (self._size if opcode == CONTINUATION else 0) > self._limit:
            raise Refused(TOO_BIG, "message too big")

    def _begin_frame(self, first: int, opcode: int, length: int, key: bytes) -> None:
        if opcode != CONTINUATION:
            self._spend()
            self._count_message(first, 1)
            self._opcode, self._size, self._wire = opcode, 0, 0
            self._compressed = bool(first & 0x40)
            self._checked = self._compressed or opcode == TEXT
        self._message = bool(first & 128)
        self._left, self._key, self._key_at = length, key, 0
        self._wire += length
        if not self._compressed:
            self._size += length

    def _count_message(self, first: int, number: int) -> None:
        """Count the message that begins with a data frame, if it is no continuation. `first`: its first byte."""
        if first & 15 == TEXT:
            self.texts += number
        elif first & 15 == BINARY:
            self.binaries += number

    def _end_frame(self) -> None:
        self.frames += 1
        if self._message:
            self.notes.append((self._opcode, self._wire))
            self._opcode, self._message = 0, False

    def _spend(self) -> None:
        if self.allowance is not None:
            self.allowance -= 1
            if self.allowance < 0:
                raise Refused(POLICY, "too many messages")

    def _take_control(self, opcode: int, payload: bytes) -> bool:
        """Handle a control frame. False: it is not forwarded."""
        if opcode == PONG:
            if payload == self.own_pong:
                self.own_pong = None
                return False
            self.pongs += 1
        elif opcode == PING:
            self._spend()
            self.pings += 1
        else:
            self.close = close_code(payload)
        self.notes.append((opcode, len(payload)))
        self.frames += 1
        return True

    def _unmasked(self, chunk: bytes, at: int, end: int) -> bytes:
        return unmask(chunk[at:end], chunk[at - 4 : at], 0) if self._masked else chunk[at:end]

    def _check(self, part: bytes, last: bool) -> int:
        """Check payload of text or compressed messages; return how much of it was checked: less if enough was inflated.
        `last`: the message ends with it.
        """
        size = len(part)
        at = self._key_at
        if self._masked:
            part = unmask(part, self._key, at)
        if self._compressed:
            size -= self._inflate(part, last)
        self._key_at = (at + size) & 3
        if size < len(part):
            return size
        if not self._compressed and self._opcode == TEXT:
            self._check_text(part)
        if last:
            if self._opcode == TEXT:
                self._check_text(b"", final=True)
            if self._compressed and self._deflate is not None and not self._deflate.keeps_context:
                self._inflater = zlib.decompressobj(-self._deflate.window_bits)
        return size

    def _check_text(self, text: bytes, final: bool = False) -> None:
        try:
            self._text.decode(text, final)
        except UnicodeDecodeError:
            raise Refused(INVALID_TEXT, "text is not UTF-8") from None
        if final:
            self._text.reset()

    def _inflate(self, part: bytes, last: bool) -> int:
        """Inflate payload; return how many bytes of it are left, because enough was inflated."""
        assert self._deflate is not None
        own = len(DEFLATE_TAIL) if last else 0  # bytes at the end that were not sent
        if last:
            part += DEFLATE_TAIL
        while part:
            if self._inflated >= INFLATED_PER_CALL and len(part) > own:
                return len(part) - own
            assert self._inflater is not None
            room = PIECE if self._limit is None else min(PIECE, self._limit - self._size + 1)
            try:
                made = self._inflater.decompress(part, room)
            except zlib.error:
                raise Refused(INVALID_TEXT, "compressed message is malformed") from None
            self._size += len(made)
            self._inflated += len(made) + INFLATE_COST
            if self._limit is not None and self._size > self._limit:
                raise Refused(TOO_BIG, "message too big")
            if self._opcode == TEXT:
                self._check_text(made)
            part = self._inflater.unconsumed_tail
            if self._inflater.eof:  # a final block, after which another stream may begin
                part = self._inflater.unused_data
                self._inflater = zlib.decompressobj(-self._deflate.window_bits)
                if part == DEFLATE_TAIL:
                    break
        return 0


def unmask(payload: bytes, key: bytes, at: int) -> bytes:
    """Unmask payload (RFC 6455 section 5.3), or mask it. `at`: offset in the key at its start."""
    size = len(payload)
    turned = (key[at:] + key[:at]) * (size // 4 + 1)
    return (int.from_bytes(payload, "little") ^ int.from_bytes(turned[:size], "little")).to_bytes(size, "little")


def close_code(payload: bytes) -> int:
    """Return the code of a close frame, or `NO_CODE`. Raises `Refused` for a code or reason that may not be sent."""
    if not payload:
        return NO_CODE
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _CODES or 3000 <= code < 5000):
        raise Refused(PROTOCOL_ERROR, "invalid close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise Refused(INVALID_TEXT, "reason of a close is not UTF-8") from None
    return code


def control_frame(opcode: int, payload: bytes, masked: bool) -> bytes:
    """Return a frame with at most 125 bytes of payload; `masked`: as sent by a client."""
    if not masked:
        return bytes((128 | opcode, len(payload))) + payload
    key = urandom(4)
    return bytes((128 | opcode, 128 | len(payload))) + key + unmask(payload, key, 0)


def close_frame(code: int, reason: str, masked: bool) -> bytes:
    return control_frame(CLOSE, code.to_bytes(2, "big") + reason.encode()[:123], masked)


def message_frame(opcode: int, payload: bytes) -> bytes:
    """Return a whole message of a server in one frame. `opcode`: `TEXT` or `BINARY`."""
    length = len(payload)
    if length < 126:
        return bytes((128 | opcode, length)) + payload
    if length < 65536:
        return bytes((128 | opcode, 126)) + length.to_bytes(2, "big") + payload
    return bytes((128 | opcode, 127)) + length.to_bytes(8, "big") + payload
