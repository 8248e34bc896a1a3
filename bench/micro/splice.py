"""Judged heads made into what goes out: hop-by-hop fields cut out, ours added."""

from collections.abc import Iterator

from bench.micro.heads import REQUESTS, RESPONSES
from bench.micro.timing import Room
from fastgw.forwarded import Peer, fields_for_upstream
from fastgw.wire.framing import RequestHead, ResponseHead, judge_request, judge_response
from fastgw.wire.render import end_to_end, request_head, status_line

FRAMING = b"Via: 1.1 fastgw\r\nContent-Length: 1000\r\n"


def rooms() -> Iterator[Room]:
    requests = [judge_request(raw) for raw in REQUESTS]
    responses = [judge_response(raw, b"GET") for raw in RESPONSES]
    peer = Peer("192.0.2.1", 40_000, 443, trusted=False)
    proxy = Peer("192.0.2.1", 40_000, 443, trusted=True)

    def forwarded_by(peer: Peer, head: RequestHead) -> bytes:
        drop, added = fields_for_upstream(None, peer, head, "192.0.2.1")
        block = end_to_end(head, drop)
        return request_head(head.method, head.request_target, head.authority, block, added + b"Via: 1.1 fastgw\r\n")

    def answered(head: ResponseHead) -> bytes:
        return status_line(head.status, head.reason) + end_to_end(head) + FRAMING + b"\r\n"

    yield Room("request head for the upstream", lambda head: forwarded_by(peer, head), requests)
    yield Room("  the same behind a trusted proxy", lambda head: forwarded_by(proxy, head), requests)
    yield Room("response head for the client", answered, responses)
