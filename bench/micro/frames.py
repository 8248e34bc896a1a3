"""Frames of WebSockets read: a message of 20 bytes by itself, many in one piece, and one of 64 KiB."""

from collections.abc import Iterator

from bench.micro.timing import Room
from fastgw.http.websocket.frame_reader import FrameReader
from fastgw.http.websocket.frames import BINARY, TEXT, unmask

KEY = b"\x9c\x01\x7f\xe3"
WORDS = b"a message of 20 byte"
GREETING = "Grüße an alle - und 你好, 世界! ".encode()


def rooms() -> Iterator[Room]:
    yield Room("text of 20 bytes from a client", FrameReader(True, 65_536).feed, [_masked(TEXT, WORDS)])
    yield Room("text of 20 bytes to a client", FrameReader(False, 65_536).feed, [bytes((0x81, 20)) + WORDS])
    yield Room("64 texts of 20 bytes in one piece", FrameReader(True, 65_536).feed, [_masked(TEXT, WORDS) * 64])
    yield Room("64 KiB of ASCII from a client", FrameReader(True, 65_536).feed, [_masked(TEXT, WORDS * 3276)])
    yield Room("64 KiB of other text from a client", FrameReader(True, 65_536).feed, [_masked(TEXT, GREETING * 1724)])
    yield Room("64 KiB of binary from a client", FrameReader(True, 65_536).feed, [_masked(BINARY, bytes(65_536))])


def _masked(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    form = 0 if size < 126 else 2 if size < 65_536 else 8
    short = size if not form else 126 if form == 2 else 127
    length = size.to_bytes(form, "big") if form else b""
    return bytes((0x80 | opcode, 0x80 | short)) + length + KEY + unmask(payload, KEY, 0)
