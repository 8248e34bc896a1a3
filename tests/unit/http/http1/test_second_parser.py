"""Neither parser is decoration: each is asked alone, and what then passes is shown.

Ours alone is `read_request` and `read_response`; llhttp alone is told about a body what a careless reader believes.
"""

from contextlib import suppress
from itertools import product

import pytest
from httptools import HttpRequestParser, HttpResponseParser

from fastgw.http.http1.body import BodyReader, ChunkedReader
from fastgw.http.http1.parser import parse_answer, parse_request, read_request, read_response, take_answer
from fastgw.http.http1.second_parser import SecondParser
from fastgw.http.malformed import Malformed
from tests.support.table import for_each


def believed_body(raw: bytes) -> bool:
    """Whether a body follows for the careless: fields by lines, stripped, the last one counts."""
    lines = raw.split(b"\r\n")[1:]
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if fields.get(b"transfer-encoding", b"").endswith(b"chunked"):
        return True
    length = fields.get(b"content-length", b"0")
    return (length.isdigit() and int(length) > 0) or (raw.startswith(b"HTTP/") and b"content-length" not in fields)


def ours_alone(raw: bytes) -> bool:
    try:
        if raw.startswith(b"HTTP/"):
            read_response(raw, b"GET", 100)
        else:
            read_request(raw, 100)
    except Malformed:
        return False
    return True


def is_read_by_llhttp(kind: type[HttpRequestParser] | type[HttpResponseParser], raw: bytes, follows: bool) -> bool:
    try:
        SecondParser(kind).head(raw, follows)
    except Malformed:
        return False
    return True


def llhttp_alone(raw: bytes) -> bool:
    kind = HttpResponseParser if raw.startswith(b"HTTP/") else HttpRequestParser
    return is_read_by_llhttp(kind, raw, believed_body(raw))


def both(raw: bytes) -> bool:
    try:
        if raw.startswith(b"HTTP/"):
            parse_answer(raw, len(raw), b"GET")
        else:
            parse_request(raw)
    except Malformed:
        return False
    return True


def post(*fields: bytes, line: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def ok(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


STOPPED_BY_LLHTTP_ALONE = [
    post(line=b"frob / HTTP/1.1"),
    post(line=b"get / HTTP/1.1"),
    post(line=b"PRI /a HTTP/1.1"),  # of the HTTP/2 preface
]
STOPPED_BY_OURS_ALONE = [
    post(line=b"GET / HTTP/2.0"),
    post(line=b"GET  / HTTP/1.1"),
    b"\r\n" + post(),
    post(line=b"GET /a#b HTTP/1.1"),
    post(line=b"GET * HTTP/1.1"),
    post(line=b"GET http://u@a/ HTTP/1.1"),
    post(line=b"GET ftp://a/ HTTP/1.1"),
    post(line=b"GET http://a:99999/ HTTP/1.1"),
    post(host=b""),
    post(host=b"Host: a\r\nHost: b\r\n"),
    post(host=b"Host: a, b\r\n"),
    post(host=b"Host: a/b\r\n"),
    post(line=b"GET http://b/ HTTP/1.1"),
    post(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"),
    post(b"Transfer-Encoding: gzip, chunked"),
    post(b"Content_Length: 3"),
    post(line=b"GET /../a HTTP/1.1"),
    post(*[b"A: b"] * 100),
    ok(b"Transfer-Encoding: gzip"),
    ok(b"Transfer-Encoding: xchunked"),
    ok(b"Transfer-Encoding: chunked, chunked"),
    ok(b"Content-Length: 3", line=b"HTTP/1.1 000 OK"),
    ok(b"Content-Length: 3", line=b"HTTP/1.1 600 OK"),
    ok(b"Content-Length: 3", line=b"HTTP/1.1 200 O\x00K"),
    ok(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"),
]
STOPPED_BY_EACH = [
    b"Content-Length: 3\r\nTransfer-Encoding: chunked",
    b"Content-Length: 4\r\nContent-Length: 3",
    b"Content-Length: +3",
    b"Content-Length: 18446744073709551619",  # beyond 64 bits
    b"A: b\nContent-Length: 3",
    b"A: b\rContent-Length: 3",
    b"A: b\r\n c",
    b"Content-Length : 3",
    b"A: \x00",
    b": a",
    b"A",
]


@for_each(
    ("raw", "by_ours", "by_llhttp"),
    [
        *((raw, True, False) for raw in STOPPED_BY_LLHTTP_ALONE),
        *((raw, False, True) for raw in STOPPED_BY_OURS_ALONE),
        *((post(field), False, False) for field in STOPPED_BY_EACH),
        *((ok(field), False, False) for field in STOPPED_BY_EACH),
    ],
)
def test_what_one_parser_would_let_pass_does_not(raw: bytes, by_ours: bool, by_llhttp: bool):
    """And what smuggling is made of is stopped by each of them, so that a defect in one lets none of it through."""
    assert (ours_alone(raw), llhttp_alone(raw), both(raw)) == (by_ours, by_llhttp, False)


USUAL_METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
ALIKE = [
    b"POST /a/b;c?d=e%20 HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 13\r\nConnection: close, x\r\nX:\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1]\r\nTE: trailers\r\nExpect: 100-continue\r\nKeep-Alive:\t5 \r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: keep-alive\r\nProxy-Connection: close\r\n\r\n",
    b'HTTP/1.1 304 \r\ncontent-length:  5\r\nETag: "x"\r\n\r\n',
]


@for_each("raw", ALIKE)
def test_llhttp_reads_usual_heads_alike_which_are_not_given_to_it(raw: bytes):
    """With any byte in the place of each, and between any two: no defect of the first parser hides there."""
    accepted = 0
    for at, byte, size in product(range(len(raw) - 4), range(256), (0, 1)):
        made = raw[:at] + bytes((byte,)) + raw[at + size :]
        with suppress(Malformed):
            if made.startswith(b"HTTP/"):
                follows, parser = read_response(made, b"GET", 100).has_body, HttpResponseParser
            else:
                follows, parser = read_request(made, 100).body_length != 0, HttpRequestParser
            accepted += 1
            if made.startswith((*(method + b" " for method in USUAL_METHODS), b"HTTP/")):
                assert is_read_by_llhttp(parser, made, follows), made
    assert accepted > 5_000


CHUNKED_WHOLE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n"


def test_llhttp_reads_chunks_alike_that_come_with_their_head():
    """With any byte in the place of each, and between any two, of the body."""
    accepted, end = 0, CHUNKED_WHOLE.index(b"\r\n\r\n") + 4
    for at, byte, size in product(range(end, len(CHUNKED_WHOLE)), range(256), (0, 1)):
        made = CHUNKED_WHOLE[:at] + bytes((byte,)) + CHUNKED_WHOLE[at + size :]
        taken = take_answer(memoryview(made + b" "), len(made), b"GET")
        if not isinstance(taken, bytes):
            accepted += 1
            second = SecondParser(HttpResponseParser)
            second.head(made[:end], True)
            second.last(made[end:])
    assert accepted > 1_000


LENGTH_3 = b"Content-Length: 3\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def told(fields: bytes, parser: type[HttpRequestParser] | type[HttpResponseParser]) -> SecondParser:
    """llhttp after a head with these fields."""
    second = SecondParser(parser)
    line = b"POST / HTTP/1.1\r\n" if parser is HttpRequestParser else b"HTTP/1.1 200 OK\r\n"
    second.head(line + fields + b"\r\n", body_follows=None)
    return second


@for_each("parser", [HttpRequestParser, HttpResponseParser])
@for_each("fields", [LENGTH_3, b"Content-Length: 0\r\n"])
@for_each("size", [1, 100])
def test_chunks_that_llhttp_ends_elsewhere_are_refused(parser, fields, size: int):
    """Their completion must fall on our last byte: here our reading of the head is made to differ from its."""
    body: BodyReader = ChunkedReader(told(fields, parser))
    wire = b"0\r\n\r\n"
    pieces = (wire[at : at + size] for at in range(0, len(wire), size))
    with pytest.raises(Malformed):
        b"".join(map(body.feed, pieces))
    assert not body.done


@for_each(
    ("body_follows", "sent"),
    [(False, LENGTH_3), (False, CHUNKED), (True, b""), (True, b"Content-Length: 0\r\n")],
)
def test_a_head_that_llhttp_sees_a_body_behind_when_we_do_not_is_refused(body_follows: bool, sent: bytes):
    """And the other way round."""
    raw = b"POST / HTTP/1.1\r\nHost: a\r\n" + sent + b"\r\n"
    with pytest.raises(Malformed, match="where the message ends"):
        SecondParser(HttpRequestParser).head(raw, body_follows)
    SecondParser(HttpRequestParser).head(raw, not body_follows)


@for_each("body_follows", [True, False, None])
@for_each(
    "raw",
    [
        b"GET / HTTP/1.1\r\nA: b\r\n",
        b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ],
)
def test_llhttp_wants_exactly_one_head(raw: bytes, body_follows: bool | None):
    """Not a part of one, nor another behind it."""
    with pytest.raises(Malformed, match="where the message ends"):
        SecondParser(HttpRequestParser).head(raw, body_follows)


BY_LLHTTP = r"^(The body is not valid HTTP/1\.1: |It is ambiguous where the message ends\.$)"
BY_OURS = rf"^(?!{BY_LLHTTP[1:]})"


@for_each(
    "wire",
    [
        b"3;" + b"a" * 65536 + b"\r\nabc\r\n0\r\n\r\n",
        b"0" * 200 + b"3\r\nabc\r\n0\r\n\r\n",
        b"0\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
        b"0\r\nContent-Encoding: a\r\n\r\n",
        b"0\r\nHost: a\r\n\r\n",
        b"0\r\nAuthorization: a\r\n\r\n",
    ],
)
def test_llhttp_alone_would_let_this_body_pass(wire: bytes):
    told(CHUNKED, HttpRequestParser).last(wire)
    with pytest.raises(Malformed, match=BY_OURS):
        ChunkedReader(told(CHUNKED, HttpRequestParser)).feed(wire)


@for_each(
    "wire",
    [
        b"g\r\nabc\r\n0\r\n\r\n",
        b"5;a\nabcde\r\n0\r\n\r\n",
        b"3\r\nabcx\r\n0\r\n\r\n",
        b"0\r\nA: b\nC: d\r\n\r\n",
        b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    ],
)
def test_each_parser_stops_this_body_by_itself(wire: bytes):
    with pytest.raises(Malformed, match=BY_LLHTTP):
        told(CHUNKED, HttpRequestParser).body(wire)
    with pytest.raises(Malformed, match=BY_OURS):  # it reads a line before llhttp does
        ChunkedReader(told(CHUNKED, HttpRequestParser)).feed(wire)
