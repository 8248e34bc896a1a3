"""Frames of WebSockets that are nearly right, read as a whole, in pieces, and by wsproto."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from fastgw.http.websocket.frame_reader import FrameReader
from fastgw.http.websocket.frames import Deflate, unmask
from tests.fuzz.comparison import Difference

FIRST = (0x81, 0x82, 0x01, 0x02, 0x89, 0x8A)
NEXT = (0x00, 0x80, 0x80, 0x89, 0x8A)
"""What may come while a message is open."""
STRANGE = (*FIRST, *NEXT, 0x88, 0x83, 0x09, 0x08, 0x8B, 0xC1, 0x41, 0xC2, 0xC0, 0xA1, 0x91, 0xC9, 0x0A)
TEXTS = (
    *(b"", b"a", b"plain text of some length", "süß".encode(), "\u20ac".encode() * 9, "\U0001f600".encode() * 5),
    *(b"\xed\x9f\xbf", b"\xed\xa0\x80", b"\xed\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf4\x8f\xbf\xbf"),
    *(b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xf5", b"\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xff"),
)
OWN_PONG = b"8 bytes!"
COUNTS = ("pings", "pongs", "frames", "close", "own_pong", "unfinished")


def write(random: Random) -> bytes:
    """The first byte says how the reader is made: see `_made`."""
    how = random.getrandbits(8)
    sent = bytes((how,))
    context = zlib.compressobj(wbits=-15)
    is_open = False
    for _ in range(random.randint(1, 8)):
        first = random.choice(STRANGE if random.random() < 0.05 else NEXT if is_open else FIRST)
        if how & 8 == 0 and first & 15 in (1, 2) and random.random() < 0.6:
            first |= 0x40
        if not first & 8:
            is_open = first < 0x80
        sent += _frame(random, first, masked=bool(how & 1) ^ (random.random() < 0.01), context=context)
    return sent


def _frame(random: Random, first: int, masked: bool, context: Any) -> bytes:
    payload = _payload(random, first)
    if first & 0x40 and random.random() < 0.8:
        maker = context if random.random() < 0.7 else zlib.compressobj(wbits=-15)
        payload = (maker.compress(payload) + maker.flush(zlib.Z_SYNC_FLUSH))[:-4]
    size = len(payload)
    form = 0 if size < 126 else 2 if size < 65536 else 8
    if random.random() < 0.02:
        form = random.choice((0, 2, 8))
        size = random.choice((0, 125, 126, 65535, 65536, 1 << 62, 1 << 63))
    short = min(size, 125) if not form else 126 if form == 2 else 127
    head = bytes((first, short | 128 * masked)) + ((size % (1 << 8 * form)).to_bytes(form, "big") if form else b"")
    if not masked:
        return head + payload
    key = random.choice((b"\0\0\0\0", random.randbytes(4)))
    return head + key + unmask(payload, key, 0)


def _payload(random: Random, first: int) -> bytes:
    if first & 15 == 8:
        code = random.choice((999, 1000, 1001, 1004, 1005, 1011, 1014, 1015, 2999, 3000, 4999, 5000))
        return random.choice((b"", b"x", code.to_bytes(2, "big") + random.choice(TEXTS)))
    if first & 15 > 8:
        return random.choice((b"", OWN_PONG, b"ping", b"p" * random.choice((125, 126))))
    die = random.random()
    if die < 0.2:
        return b"".join(random.choices(TEXTS, k=random.randint(0, 4)))
    if die < 0.6:
        return b"".join(random.choices(TEXTS[:6], k=random.randint(0, 4)))
    return b"x" * random.choice((0, 1, 7, 8, 9, 63, 125, 126, 127, 300, 2000)) + random.choice(TEXTS[:6])


def _made(how: int) -> FrameReader:
    reader = FrameReader(
        bool(how & 1),
        (None, 40, 300, 3000)[how >> 1 & 3],
        None if how & 8 else Deflate(keeps_context=not how & 16),
    )
    if how & 32:
        reader.allowance = how >> 6
    if how & 64:
        reader.own_pong = OWN_PONG
    return reader


def told(reader: FrameReader, is_compressed: bool) -> list[str]:
    """What a reader has found, but for the messages of which a part may have passed before a fault was seen. Of several
    faults of a compressed message another one may be seen first.
    """
    code = None if reader.violation is None else reader.violation.code if not is_compressed else 0
    return [repr(code), *(repr(getattr(reader, name)) for name in COUNTS)]


def _fed(reader: FrameReader, pieces: Iterable[bytes]) -> bytes:
    passed = b""
    for piece in pieces:
        passed += reader.feed(piece)
        while reader.unfinished:
            passed += reader.feed(b"")
    return passed


def _pieces(random: Random, sent: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(sent):
        size = random.choice((1, 2, 3, random.randint(1, 40), len(sent)))
        yield sent[at : at + size]
        at += size


def judge(content: bytes, seed: int) -> bool:
    """Whether nothing was wrong with them. Raises `Difference`: they mean something else in pieces, or wsproto does not
    take what passes.
    """
    how, sent = (content[0], content[1:]) if content else (0, b"")
    whole, parts = _made(how), _made(how)
    passed, also = _fed(whole, [sent]), _fed(parts, _pieces(Random(seed), sent))
    is_compressed = not how & 8
    if told(whole, is_compressed) != told(parts, is_compressed) or not also.startswith(passed):
        raise Difference(f"whole {passed!r} {told(whole, False)}, in pieces {also!r} {told(parts, False)}")
    if whole.violation is not None:
        return False
    if passed != also or (not how & 64 and not sent.startswith(passed)):
        raise Difference(f"{sent!r}: passed {passed!r}, in pieces {also!r}")
    if not is_compressed and whole.close is None:
        second = FrameProtocol(client=not how & 1, extensions=[])
        second.receive_bytes(passed)
        try:
            ended = [each.opcode for each in second.received_frames() if each.frame_finished]
        except ParseFailed as error:
            raise Difference(f"{passed!r}: wsproto: {error}") from error
        if len(ended) != whole.frames or ended.count(Opcode.PING) != whole.pings:
            raise Difference(f"{passed!r}: wsproto has seen {ended}, the reader {told(whole, False)}")
    return True
