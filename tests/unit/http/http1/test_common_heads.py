"""The usual shape of heads: what the shortcut reads, the long way reads as well, and finds the same in it."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.http.http1 import common_heads, serializer_reference
from fastgw.http.http1.parser_reference import (
    USUALLY_ABSENT,
    RequestHead,
    ResponseHead,
    read_any_request,
    read_any_response,
    read_usual_answer,
    read_usual_request,
)
from fastgw.http.malformed import Malformed
from tests.fuzz import messages, mutations
from tests.unit.http.http1.test_against_h11 import mostly

thorough = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
COUNT = 3_000
LEFT_OUT = [(), (b"via",), (b"x-request-id", b"host"), (b"x-a",), (b"x-real-ip",), (b"date",)]
ALSO = [frozenset(names) for names in LEFT_OUT]


def dated() -> bytes:
    return b"Date: now\r\n"


def told(head: RequestHead | ResponseHead) -> dict[str, Any]:
    """All that can be asked of it."""
    names = [name for name in dir(head) if not name.startswith("_") and not callable(getattr(head, name))]
    sent: list[Any] = [serializer_reference.end_to_end(head, also) for also in ALSO]
    asked = [head.first(name) for name in sorted(head.KNOWN | {b"cookie", b"x-a"})]
    if isinstance(head, RequestHead):
        sent += [
            serializer_reference.request(head),
            serializer_reference.request(head, b"/t", b"h", ALSO[1], b"A: b\r\n"),
        ]
    else:
        head.payload = b"abc"
        sent += [
            serializer_reference.response(head, 200),
            serializer_reference.response(head, head.status, date_line=dated),
        ]
        sent.append(serializer_reference.whole(head, dated, b"A: b\r\n"))
    return {name: getattr(head, name) for name in names} | {"sent": sent, "asked": asked}


def agree_on_request(received: bytes, most: int = 100) -> bool:
    """Whether the shortcut reads it, or refuses it as the long way does."""
    end = received.find(b"\r\n\r\n") + 4
    return agree(lambda: read_usual_request(received, most), lambda: read_any_request(received[:end], most))


def agree_on_response(received: bytes, most: int = 100, method: bytes = b"GET") -> bool:
    end = received.find(b"\r\n\r\n") + 4
    return agree(
        lambda: read_usual_answer(received, method, most), lambda: read_any_response(received[:end], method, most)
    )


def agree(
    short: Callable[[], RequestHead | ResponseHead | None], long: Callable[[], RequestHead | ResponseHead]
) -> bool:
    ours = outcome(short)
    if ours is not None:
        assert ours == outcome(long)
    return ours is not None


def outcome(look: Callable[[], RequestHead | ResponseHead | None]) -> dict[str, Any] | str | None:
    try:
        head = look()
    except Malformed as malformed:
        return f"{malformed.status} {malformed.reason}"
    return None if head is None else told(head)


SPELLINGS = st.sampled_from(sorted(RequestHead.KNOWN | ResponseHead.KNOWN))
TWINS = st.builds(
    lambda name, sign, change: change(name).replace(b"-", sign),
    SPELLINGS,
    mostly(b"-", hostile=(b"_", b".", b"*", b" ", b"")),
    st.sampled_from([bytes.title, bytes.lower, bytes.upper, lambda name: name[:-1], lambda name: name + b"s"]),
)
NAMES = st.sampled_from([b"Cookie", b"Content-Type", b"X-A", b"X-B", b"u", b"Via", b"X-Request-Id"])
VALUES = mostly(
    *(b"a", b"3", b"close", b"keep-alive", b"Keep-Alive", b"\xff", b"", b"a b", b"x-a"),
    hostile=(b"+3", b"3,3", b"upgrade", b"close, x-a", b"chunked", b"h,i", b"\x00", b"\x7f", b"a\rb"),
)
LINES = st.builds(
    lambda name, before, value, end: name + b":" + before + value + end,
    NAMES | NAMES | NAMES | TWINS,
    st.sampled_from([b" ", b"", b"\t "]),
    VALUES,
    mostly(b"\r\n", hostile=(b" \r\n", b"\n", b"\r", b"\r\n ")),
)
FIELDS = st.lists(LINES, max_size=2).map(b"".join)
CONNECTIONS = st.sampled_from(
    [b"", b"", b"Connection: close\r\n", b"connection:keep-alive\r\n", b"Connection: x-a\r\n"]
)
HOSTS = mostly(b"Host: a.test\r\n", b"host:A.test:81\r\n", hostile=(b"Host: a,b\r\n", b"Host: a \r\n", b""))
LENGTHS = mostly(
    *(b"Content-Length: 3\r\n", b"content-length:0\r\n", b"Transfer-Encoding: chunked\r\n"),
    hostile=(b"Content-Length: 3 \r\n", b"Transfer-Encoding: chunked \r\n", b"Transfer-Encoding: Chunked\r\n", b""),
)
ENDS = mostly(b"\r\n", hostile=(b"\r\n\r\n", b"\n", b"", b"\r\nabc"))
METHODS = mostly(b"GET", b"POST", b"OPTIONS", hostile=(b"TRACE", b"CONNECT", b"get", b"FROB", b"GETS"))
TARGETS = mostly(
    *(b"/", b"/a?b=c", b"/a?b?c", b"//a", b"/a/../b", b"/?", b"/a/.b"),
    hostile=(b"/..", b"/%61", b"/a|b", b"*", b"http://a.test/", b"?", b"/a#b", b"/\xff", b"/a\x00", b"a:80", b"/;.."),
)
VERSIONS = mostly(b"HTTP/1.1", hostile=(b"HTTP/1.0", b"HTTP/1.2", b"HTTP/1.1 ", b"HTTP/1.1\n"))
STATUSES = mostly(
    *(b"200 OK", b"200 ", b"404 \xff", b"599 a"),
    hostile=(b"200", b"204 No Content", b"304 a", b"101 a", b"100 a", b"600 a", b"404 a\x00", b"20 a"),
)
MOST = st.sampled_from([100, 100, 100, 9, 8, 4, 3, 2, 1, 0])


def around(*lines: st.SearchStrategy[bytes]) -> tuple[st.SearchStrategy[bytes], ...]:
    asked = FIELDS, CONNECTIONS, FIELDS
    return *(part for line in lines for part in (*asked, line)), *asked, ENDS


@thorough
@given(st.tuples(METHODS, TARGETS, VERSIONS, *around(HOSTS, st.just(b"") | LENGTHS)), MOST)
def test_a_request_is_read_the_same_both_ways(parts: tuple[bytes, ...], most: int):
    agree_on_request(b"%b %b %b\r\n" % parts[:3] + b"".join(parts[3:]), most)


@thorough
@given(st.tuples(VERSIONS, STATUSES, *around(LENGTHS)), MOST, st.sampled_from([b"GET", b"HEAD"]))
def test_a_response_is_read_the_same_both_ways(parts: tuple[bytes, ...], most: int, method: bytes):
    agree_on_response(b"%b %b\r\n" % parts[:2] + b"".join(parts[2:]), most, method)


def test_bytes_that_are_nearly_http_are_read_the_same_both_ways():
    """Many of them: what the fuzzer makes, broken and whole; enough of each kind take the short way."""
    random = Random(7)
    for make, agreed in ((messages.request, agree_on_request), (messages.response, agree_on_response)):
        pool = [make(random) for _ in range(COUNT)]
        short = 0
        for message in pool:
            head = message[: message.find(b"\r\n\r\n") + 4]
            short += agreed(head)
            agreed(message)
        assert short > COUNT / 50
        for message in pool:
            agreed(mutations.mutated(random, pool))
            agreed(mutations.mutated(random, [message[: message.find(b"\r\n\r\n") + 4]]))


def test_shapes_are_the_same_in_every_python(monkeypatch: pytest.MonkeyPatch):
    """Whichever way it has to repeat a group: what matches, and its groups, are as by the way that is always right."""
    shapes = []
    for taken in (common_heads._TAKEN, b"(?>(?:%b)%b)"):
        monkeypatch.setattr(common_heads, "_TAKEN", taken)
        shapes.append(common_heads.request_shape(9, RequestHead.KNOWN, RequestHead.PASSED_ON, USUALLY_ABSENT))
        shapes.append(common_heads.response_shape(9, ResponseHead.KNOWN, ResponseHead.PASSED_ON))
    random = Random(7)
    for make, one, other in zip((messages.request, messages.response), shapes[:2], shapes[2:], strict=True):
        pool = [make(random) for _ in range(COUNT)]
        for message in pool + [mutations.mutated(random, pool) for _ in pool]:
            found, same = one.match(message), other.match(message)
            assert (found and found.regs) == (same and same.regs)


REQUEST = b"GET /a?b HTTP/1.1\r\nHost: a.test\r\nUser-Agent: a\r\nConnection: keep-alive\r\nX-Request-Id: i\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 3\r\nKeep-Alive: a\r\nConnection: close\r\nA: b\r\n\r\n"


@pytest.mark.parametrize(("message", "agreed"), [(REQUEST, agree_on_request), (RESPONSE, agree_on_response)])
def test_each_byte_of_a_usual_head_may_be_any_other(message: bytes, agreed: Callable[[bytes], bool]):
    assert agreed(message)
    for place in range(len(message)):
        for byte in range(256):
            agreed(message[:place] + bytes([byte]) + message[place + 1 :])
            if byte in b"\x00\t\r\n :-_/?":
                agreed(message[:place] + bytes([byte]) + message[place:])
        agreed(message[:place] + message[place + 1 :])


@pytest.mark.parametrize(
    "order",
    [
        b"Host: a\r\n",
        b"Host: a\r\nConnection: close\r\nA: b\r\n",
        b"A: b\r\nConnection: Keep-Alive\r\nB: c\r\nHost: a\r\nC: d\r\n",
        b"Host: a\r\nConnection: close\r\nA: b\r\nContent-Length: 3\r\n",
        b"Host: a\r\nContent-Length: 0\r\nA: b\r\nConnection: close\r\nB: c\r\n",
    ],
)
def test_the_short_way_takes_connection_and_length_in_any_order(order: bytes):
    assert agree_on_request(b"GET / HTTP/1.1\r\n" + order + b"\r\n")


@pytest.mark.parametrize(
    "order",
    [
        b"Content-Length: 3\r\n",
        b"A: b\r\nContent-Length: 3\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n",
        b"Connection: close\r\nTransfer-Encoding: chunked\r\nA: b\r\n",
        b"Server: a\r\nKeep-Alive: timeout=5\r\nConnection: Keep-Alive\r\nDate: b\r\nContent-Length: 3\r\nA: b\r\n",
    ],
)
def test_the_short_way_takes_framing_and_connection_in_any_order(order: bytes):
    response = b"HTTP/1.1 200 OK\r\n" + order + b"\r\nabc"
    assert agree_on_response(response)
    assert not agree_on_response(response, method=b"HEAD")


@pytest.mark.parametrize("most", range(25))
def test_the_short_way_takes_no_more_fields_than_the_long_one(most: int):
    host, connection, length = b"Host: a\r\n", b"Connection: close\r\n", b"Content-Length: 0\r\n"
    kept = b"Keep-Alive: a\r\n" + connection + b"Keep-Alive: a\r\n"
    requests = (host,), (host, connection), (connection, host, length), (host, connection, length)
    requests += (host, length, connection), (connection, host, connection, length, connection)
    responses = (length,), (connection, length), (length, kept), (kept, length, kept)
    for count in range(25):
        lines = b"A: b\r\n" * count
        for named in requests:
            agree_on_request(b"GET / HTTP/1.1\r\n" + lines.join((b"", *named, b"\r\n")), most)
        for named in responses:
            agree_on_response(b"HTTP/1.1 200 OK\r\n" + lines.join((b"", *named, b"\r\n")), most)


def test_the_short_way_takes_two_dozen_fields_in_a_row():
    lines = b"A: b\r\n" * 24
    assert agree_on_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"Connection: close\r\n" + lines + b"\r\n")
    assert agree_on_response(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 0\r\n" + lines + b"\r\n")
