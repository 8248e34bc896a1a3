"""Serialization of parsed messages: hop-by-hop headers removed, the gateway's headers added."""

from collections.abc import Iterator

from bench.micro.framing import ROOM, in_buffers
from bench.micro.heads import ANSWERS, REQUESTS, RESPONSES
from bench.micro.timing import Room
from fastgw.filters.policies import cors
from fastgw.forwarded_headers import FAMILY, Peer, fields_for_upstream
from fastgw.http.http1 import serializer
from fastgw.http.http1.parser import parse_request, parse_response, take_answer
from fastgw.http.messages import RequestHead

FORWARDED = Peer("192.0.2.1", 40_000, 443, trusted=False).set_lines(b"api.example.com")
PAYLOAD = bytes(1000)
NONE: frozenset[bytes] = frozenset()
ALLOWED = b"Access-Control-Allow-Origin: https://app.example\r\nVary: Origin\r\n"


def rooms() -> Iterator[Room]:
    requests = [parse_request(raw) for raw in REQUESTS]
    responses = [parse_response(raw, b"GET") for raw in RESPONSES]
    answers = [take_answer(buffer, len(buffer) - ROOM, b"GET") for buffer in in_buffers(ANSWERS)]
    assert not any(isinstance(answer, bytes) for answer in answers), "an answer was not taken as a whole"
    proxy = Peer("192.0.2.1", 40_000, 443, trusted=True)

    def behind_a_proxy(head: RequestHead) -> bytes:
        drop, added = fields_for_upstream(None, proxy, head, "192.0.2.1")
        return serializer.request(head, None, None, drop, added)

    yield Room(
        "request head for the upstream",
        lambda head: serializer.request(head, None, None, FAMILY, FORWARDED),
        requests,
    )
    yield Room("  the same behind a trusted proxy", behind_a_proxy, requests)
    yield Room("  the same, and it has told who asked", behind_a_proxy, [parse_request(_told(raw)) for raw in REQUESTS])
    yield Room("answer that came whole, for the client", lambda head: serializer.whole(head, _dated, b""), answers)
    yield Room(
        "  the same after cors",
        lambda head: serializer.whole(head, _dated, b"", cors.OURS, ALLOWED),
        answers,
    )
    yield Room(
        "response for the client",
        lambda head: serializer.response(head, 200, NONE, b"", PAYLOAD, 1000, _dated),
        responses,
    )


def _told(raw: bytes) -> bytes:
    """Return the request as received from a proxy that terminates TLS."""
    fields = b"X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: api.example.com\r\n\r\n"
    return raw[:-2] + fields


def _dated() -> bytes:
    return b"Date: Mon, 06 Jul 2026 12:00:00 GMT\r\n"
