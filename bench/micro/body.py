"""Parsing of bodies, by length and chunked, in reads of 32 KiB; llhttp reads chunks again."""

from collections.abc import Callable, Iterator

from bench.micro.timing import Room
from fastgw.http.http1.body import body_reader
from fastgw.http.http1.parser import parse_response
from fastgw.http.http1.serializer import LAST_CHUNK, chunk

READ = 32_768
KILOBYTE = b'{"id": 7}' * 112
LENGTH_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = chunk(bytes(4096)) * 7


def rooms() -> Iterator[Room]:
    yield Room("a new llhttp, with a short head", _begin, [CHUNKED_HEAD])
    yield Room("  1 KB by length, whole", lambda body: _begin(LENGTH_HEAD % len(body))(body), [KILOBYTE])
    yield Room("  1 KB in one chunk, whole", _begin_chunks_with, [chunk(KILOBYTE) + LAST_CHUNK])
    yield Room("32 KiB of a body with a length", _begin(LENGTH_HEAD % 10**15), [bytes(READ)])
    yield Room("28 KiB of a body in chunks of 4 KiB", _begin(CHUNKED_HEAD), [CHUNKS])
    yield Room("make a chunk of 4 KiB", chunk, [bytes(4096)])


def _begin(head: bytes) -> Callable[[bytes], bytes]:
    return body_reader(parse_response(head, b"GET")).feed


def _begin_chunks_with(body: bytes) -> bytes:
    return _begin(CHUNKED_HEAD)(body)
