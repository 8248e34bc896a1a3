"""compress alone, where it takes a whole response at once, and beside others: the client gets the same bytes, and the
same is counted and logged.
"""

from __future__ import annotations

import re
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.memory import Plane

OWN = re.compile(rb"(X-Request-Id|Date): [^\r]*")
TYPES = [
    b"Content-Type: text/html; charset=utf-8\r\n",
    b"content-type: application/json\r\n",
    b"Content-Type: image/png\r\n",
    b"Content-Type: text/event-stream\r\n",
    b"Content-Type: text/html\r\nContent-Type: text/plain\r\n",
    b"Content-Type: multipart/byteranges; boundary=a\r\n",
    b"",
]
RESPONSE = [
    b'ETag: "v1"\r\n',
    b'ETag: W/"v1"\r\n',
    b'ETag: "v1"\r\nETag: "v2"\r\n',
    b"ETag: \r\n",
    b"Vary: Origin\r\n",
    b"Vary: origin , ACCEPT-encoding\r\n",
    b"Vary: *\r\n",
    b"Cache-Control: max-age=60\r\n",
    b"Cache-Control: max-age=60,NO-transform\r\n",
    b"Cache-Control: public\r\nCache-Control: no-transform\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Range: bytes */9\r\n",
    b"Accept-Ranges: bytes\r\n",
    b"Repr-Digest: sha-256=:AA==:\r\nContent-MD5: abc\r\n",
    b"X-Request-Id: theirs\r\n",
    b"Date: Mon, 06 Jul 2026 12:00:00 GMT\r\n",
    b"Connection: close\r\n",
    b"Connection: X-Hop\r\nX-Hop: 1\r\n",
]
ACCEPTED = [
    b"zstd",
    b"gzip, deflate, br, zstd",
    b"br;q=0.9, gzip;q=0.9",
    b"identity",
    b"*;q=0",
    b"identity;q=0",
    b"x" * 300,
]
REQUEST = [
    b"Cache-Control: no-transform\r\n",
    b"Cache-Control: no-cache\r\n",
    b'If-Range: "v1"\r\nRange: bytes=0-9\r\n',
    b'If-Range: W/"v1"\r\nRange: bytes=0-9\r\n',
    b"If-Range: Mon, 06 Jul 2026 12:00:00 GMT\r\nRange: bytes=0-9\r\n",
    b"Range: bytes=0-9\r\n",
    b"Connection: close\r\n",
]
STATUSES = [b"200 OK", b"206 Partial Content", b"404 Not Found", b"304 Not Modified", b"299 Fine"]
REQUESTS = st.builds(
    lambda method, accepted, fields: b"%b / HTTP/1.1\r\nHost: a\r\n%b%b\r\n" % (
        method, b"".join(b"Accept-Encoding: %b\r\n" % each for each in accepted), b"".join(fields)),
    st.sampled_from([b"GET", b"GET", b"GET", b"POST", b"HEAD"]),
    st.lists(st.sampled_from(ACCEPTED), max_size=2),
    st.lists(st.sampled_from(REQUEST), max_size=2, unique=True),
)  # fmt: skip
RESPONSES = st.builds(
    lambda status, of_type, fields, size: b"HTTP/1.1 %b\r\n%b%bContent-Length: %d\r\n\r\n%b" % (
        status, of_type, b"".join(fields), size, (b"A page of some length. " * 200)[:size]),
    st.sampled_from(STATUSES), st.sampled_from(TYPES[:2] * 3 + TYPES),
    st.lists(st.sampled_from(RESPONSE), max_size=4, unique=True), st.sampled_from([0, 1, 255, 256, 1040, 4000]),
)  # fmt: skip


WARMING = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"


def answered(request: bytes, response: bytes, **route: Any) -> tuple[Any, ...]:
    """What the upstream and the client get, what is counted, and what is logged, on connections that are open."""
    made = Plane({"routes": [{"name": "all", "upstream": "u", "filters": {"compress": {}}, **route}]})
    client = made.client()
    client.sends(WARMING[0])
    upstream = made.connects()
    upstream.sends(WARMING[1])
    made.records.clear()
    before, seen = len(upstream.received), len(client.received)
    counted: list[Any] = []
    made.observer.count_content_coding = lambda ended, *count: counted.append((ended.route.name, *count))  # type: ignore[method-assign]
    client.sends(request)
    head, end, _ = response.partition(b"\r\n\r\n")
    upstream.sends(head + end if request.startswith(b"HEAD") or b" 304 " in head else response)
    (record,) = made.records
    logged = record.status, record.response_bytes, record.fault
    sent, received = upstream.received[before:], client.received[seen:]
    return OWN.sub(b"", sent), OWN.sub(b"", received), client.ended, counted, logged


@settings(max_examples=80, deadline=None)
@given(request=REQUESTS, response=RESPONSES)
@example(
    request=b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: zstd\r\n\r\n",
    response=b"HTTP/1.1 200 OK\r\n%bContent-Length: 400\r\n\r\n%b" % (TYPES[0] + RESPONSE[0], b"a" * 400),
)
@example(
    request=b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: zstd\r\nRange: bytes=0-9,20-29\r\n\r\n",
    response=b"HTTP/1.1 206 Partial Content\r\n%bContent-Length: 400\r\n\r\n%b" % (TYPES[5], b"a" * 400),
)
def test_all_answer_alike(request: bytes, response: bytes) -> None:
    around = {"compress": {}, "ip": {"deny": ["203.0.113.1/32"]}}
    assert answered(request, response, filters=around) == answered(request, response)
