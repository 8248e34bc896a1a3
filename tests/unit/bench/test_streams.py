"""The origin of long bodies: what it sends and sums up is exact, however the bytes come in."""

import asyncio
import zlib

import pytest

from bench.origin import BODY
from bench.origin.streams import PATTERN, Answering, summed_up


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def write(self, payload: bytes) -> None:
        self.written += payload


def answered(request: bytes, size: int) -> bytes:
    """What is written when the request comes in pieces of `size` bytes."""

    async def run() -> bytes:
        transport, protocol = Transport(), Answering()
        protocol.connection_made(transport)
        for place in range(0, len(request), size):
            protocol.data_received(request[place : place + size])
        if protocol._sending:
            await protocol._sending
        return bytes(transport.written)

    return asyncio.run(run())


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_bodies_are_summed_up_and_the_request_is_named(size):
    request = b"POST /svc1/v1/orders/7 HTTP/1.1\r\nX-Request-Id: one\r\nContent-Length: 2000\r\n\r\n" + PATTERN[:2000]
    answer = answered(request * 2, size)
    expected = summed_up(2000, zlib.crc32(PATTERN[:2000])).encode()
    assert answer.count(expected) == 2
    assert answer.count(b"X-Request-Id: one\r\n") == 2


def test_a_body_of_nothing_is_answered_at_once():
    assert body_of(answered(b"POST /svc1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 99)) == b'{"bytes":0,"crc32":0}'


@pytest.mark.parametrize(("length", "place"), [(0, 0), (10, 0), (1 << 20, 65_536), ((5 << 20) + 3, 0)])
def test_streams_are_cut_from_the_pattern(length, place):
    body = body_of(answered(b"GET /svc7/stream/%d?from=%d HTTP/1.1\r\n\r\n" % (length, place), 999))
    expected = PATTERN[place : place + length]
    while len(expected) < length:
        expected += PATTERN[: length - len(expected)]
    assert body == expected


def test_other_paths_are_answered_as_by_the_other_origin():
    assert body_of(answered(b"GET /svc7/v1/items/7 HTTP/1.1\r\n\r\n", 999)) == BODY.encode()
