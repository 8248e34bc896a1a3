"""Bodies taken apart: one kilobyte by its length, and 16 KiB in chunks, each with the judge that follows it."""

from collections.abc import Iterator

from httptools import HttpResponseParser

from bench.micro.timing import Room
from fastgw.wire.body import BodyReader, ChunkedReader, LengthReader
from fastgw.wire.llhttp import SecondJudge
from fastgw.wire.render import LAST_CHUNK, chunk

KILOBYTE = b'{"id": 7}' * 112
CHUNKED = chunk(bytes(4096)) * 4 + LAST_CHUNK
LENGTH_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(KILOBYTE)
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def rooms() -> Iterator[Room]:
    yield Room("a new llhttp, with a short head", _judge, [LENGTH_HEAD])
    yield Room("  1 KB by length", lambda body: _whole(LengthReader(len(body), _judge(LENGTH_HEAD)), body), [KILOBYTE])
    yield Room("  16 KiB in 4 chunks", lambda body: _whole(ChunkedReader(_judge(CHUNKED_HEAD)), body), [CHUNKED])
    yield Room("make a chunk of 4 KiB", chunk, [bytes(4096)])


def _judge(head: bytes) -> SecondJudge:
    judge = SecondJudge(HttpResponseParser)
    judge.head(head, body_follows=True)
    return judge


def _whole(reader: BodyReader, body: bytes) -> None:
    reader.feed(body)
    assert reader.done
