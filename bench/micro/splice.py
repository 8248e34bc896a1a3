"""Judged heads made into what goes out: hop-by-hop fields cut out, ours added."""

from collections.abc import Iterator

from bench.micro.heads import REQUESTS, RESPONSES
from bench.micro.timing import Room
from fastgw.forwarded import FAMILY, Peer, fields_for_upstream
from fastgw.wire import render
from fastgw.wire.framing import RequestHead, judge_request, judge_response

FRAMING = b"Via: 1.1 fastgw\r\nContent-Length: 1000\r\n"
FORWARDED = Peer("192.0.2.1", 40_000, 443, trusted=False).set_lines(b"api.example.com") + b"Via: 1.1 fastgw\r\n"
PAYLOAD = bytes(1000)


def rooms() -> Iterator[Room]:
    requests = [judge_request(raw) for raw in REQUESTS]
    responses = [judge_response(raw, b"GET") for raw in RESPONSES]
    proxy = Peer("192.0.2.1", 40_000, 443, trusted=True)

    def behind_a_proxy(head: RequestHead) -> bytes:
        drop, added = fields_for_upstream(None, proxy, head, "192.0.2.1")
        return render.request(head, b"/v1/items", b"origin:9001", drop, added)

    yield Room(
        "request head for the upstream",
        lambda head: render.request(head, b"/v1/items", b"origin:9001", FAMILY, FORWARDED),
        requests,
    )
    yield Room("  the same behind a trusted proxy", behind_a_proxy, requests)
    yield Room(
        "response for the client", lambda head: render.response(head, 200, frozenset(), FRAMING, PAYLOAD), responses
    )
