"""Messages of event streams: written by us and by botocore's parser read alike; what is malformed is refused."""

from __future__ import annotations

import struct
from binascii import crc32

import pytest
from botocore.eventstream import EventStreamBuffer

from fastgw.aws.event_stream import MOST_MESSAGE, EventStreamParser, InvalidEventStream
from tests.support.aws import STREAM_END, stream_message, stream_piece
from tests.support.table import for_each

STREAM = stream_piece(b"hello ") + stream_piece(b"") + stream_piece(b"x" * 5000) + STREAM_END


@pytest.mark.parametrize("step", [1, 7, 4096, len(STREAM)])
def test_messages_are_those_that_botocore_reads(step: int) -> None:
    parser, theirs, ours = EventStreamParser(), EventStreamBuffer(), []
    for begin in range(0, len(STREAM), step):
        ours += parser.feed(STREAM[begin : begin + step])
        theirs.add_data(STREAM[begin : begin + step])
    expected = [(each.headers, each.payload) for each in theirs]
    assert [(each.headers, each.payload) for each in ours] == expected
    assert ours[0].headers == {":message-type": "event", ":event-type": "PayloadChunk"}
    assert parser.is_between


def with_prelude(length: int, of_headers: int, rest: bytes) -> bytes:
    prelude = struct.pack(">II", length, of_headers)
    message = prelude + struct.pack(">I", crc32(prelude)) + rest
    return message + struct.pack(">I", crc32(message))


@for_each(
    "data",
    [
        STREAM[:8] + b"\0\0\0\0" + STREAM[12:],
        stream_piece(b"abc")[:-1] + b"\0",
        with_prelude(MOST_MESSAGE + 1, 0, b""),
        with_prelude(15, 0, b""),
        with_prelude(16, 4, b""),
        with_prelude(18, 2, b"\x01a"),
        with_prelude(21, 5, b"\x01a\x07\xff\xff"),
        with_prelude(19, 3, b"\x01a\x0a"),
        with_prelude(22, 6, b"\x01a\x07\x00\x01\xff"),
        with_prelude(17, 1, b"\xff"),
        with_prelude(20_016, 20_000, b""),
    ],
)
def test_what_is_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidEventStream):
        list(EventStreamParser().feed(data))


def test_an_unfinished_message_is_noticed() -> None:
    parser = EventStreamParser()
    assert not list(parser.feed(stream_message(b"a" * 10)[:-1]))
    assert not parser.is_between
