"""Neither judge is decoration: each is switched off in turn, and what then passes is shown.

Ours is switched off by putting a reader in its place that believes whatever it is told; llhttp by one that agrees to
everything. Both stand where `parse_request` and `parse_response` look for them.

That is the reference. In its compiled twin nothing can be put in another's place, so there each judge is asked alone.
"""

from contextlib import suppress

import pytest
from httptools import HttpRequestParser, HttpResponseParser

from fastgw.http.http1 import _body as bodies
from fastgw.http.http1 import _parser as scan
from fastgw.http.http1 import llhttp, parser_reference
from fastgw.http.http1.body import BodyReader, ChunkedReader, LengthReader, UntilCloseReader
from fastgw.http.http1.llhttp import LongLivedParser, SecondParser
from fastgw.http.http1.parser_reference import (
    Http1RequestHead,
    Http1ResponseHead,
    parse_answer,
    parse_request,
    parse_response,
)
from fastgw.http.malformed import Malformed
from tests.support.table import for_each


@pytest.fixture
def without_llhttp(monkeypatch: pytest.MonkeyPatch) -> None:
    def agree(*_: object, **__: object) -> None: ...

    for judge, asked in (
        (SecondParser, "head"),
        (SecondParser, "body"),
        (SecondParser, "last"),
        (SecondParser, "whole"),
    ):
        monkeypatch.setattr(judge, asked, agree)


def believed(head: Http1RequestHead | Http1ResponseHead, raw: bytes) -> dict[bytes, bytes]:
    """Read fields as the careless do: by lines, stripped, the last one counts."""
    lines = raw.split(b"\r\n")[1:]
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    head.raw = raw
    head.known = {}
    head._second_parser = None
    head.payload = None
    head.close = fields.get(b"connection", b"") == b"close"
    head.upgrade = ()
    head.chunked = fields.get(b"transfer-encoding", b"").endswith(b"chunked")
    length = fields.get(b"content-length", b"0")
    head.length = int(length) if length.strip().isdigit() and not head.chunked else 0
    return fields


def believe_request(raw: bytes, max_fields: int) -> Http1RequestHead:
    head = Http1RequestHead()
    head.method = raw.split(b" ")[0]
    believed(head, raw)
    return head


def believe_response(raw: bytes, request_method: bytes, max_fields: int, last_status: int = 599) -> Http1ResponseHead:
    head = Http1ResponseHead()
    head.status = 200
    fields = believed(head, raw)
    head.until_close = not head.chunked and b"content-length" not in fields
    head.has_body = head.chunked or head.until_close or head.length > 0
    return head


@pytest.fixture
def without_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser_reference, "read_request", believe_request)
    monkeypatch.setattr(parser_reference, "read_response", believe_response)


def post(*fields: bytes, line: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def ok(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


STOPPED_BY_LLHTTP_ALONE = {
    "unknown method": post(line=b"frob / HTTP/1.1"),
    "method in lower case": post(line=b"get / HTTP/1.1"),
    "method of RTSP": post(line=b"SETUP / HTTP/1.1"),
    "method of the HTTP/2 preface": post(line=b"PRI /a HTTP/1.1"),
}


@pytest.mark.parametrize("raw", STOPPED_BY_LLHTTP_ALONE.values(), ids=STOPPED_BY_LLHTTP_ALONE.keys())
def test_ours_alone_would_let_this_request_pass(raw: bytes, without_llhttp: None):
    parse_request(raw)


@pytest.mark.parametrize("raw", STOPPED_BY_LLHTTP_ALONE.values(), ids=STOPPED_BY_LLHTTP_ALONE.keys())
def test_llhttp_stops_this_request_with_or_without_us(raw: bytes, without_ours: None):
    with pytest.raises(Malformed):
        parse_request(raw)


STOPPED_BY_OURS_ALONE = {
    "another version": post(line=b"GET / HTTP/2.0"),
    "two spaces": post(line=b"GET  / HTTP/1.1"),
    "line end first": b"\r\n" + post(),
    "fragment": post(line=b"GET /a#b HTTP/1.1"),
    "GET *": post(line=b"GET * HTTP/1.1"),
    "userinfo": post(line=b"GET http://u@a/ HTTP/1.1"),
    "another scheme": post(line=b"GET ftp://a/ HTTP/1.1"),
    "bad port": post(line=b"GET http://a:99999/ HTTP/1.1"),
    "no Host": post(host=b""),
    "Host twice": post(host=b"Host: a\r\nHost: b\r\n"),
    "Host list": post(host=b"Host: a, b\r\n"),
    "Host with a path": post(host=b"Host: a/b\r\n"),
    "Host unlike the target": post(line=b"GET http://b/ HTTP/1.1"),
    "chunked in HTTP/1.0": post(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"),
    "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked"),
    "Content_Length": post(b"Content_Length: 3"),
    "path above the root": post(line=b"GET /../a HTTP/1.1"),
    "101 fields": post(*[b"A: b"] * 100),
}


@pytest.mark.parametrize("raw", STOPPED_BY_OURS_ALONE.values(), ids=STOPPED_BY_OURS_ALONE.keys())
def test_llhttp_alone_would_let_this_request_pass(raw: bytes, without_ours: None):
    parse_request(raw)


@pytest.mark.parametrize("raw", STOPPED_BY_OURS_ALONE.values(), ids=STOPPED_BY_OURS_ALONE.keys())
def test_we_stop_this_request_with_or_without_llhttp(raw: bytes, without_llhttp: None):
    with pytest.raises(Malformed):
        parse_request(raw)


RESPONSES_STOPPED_BY_OURS_ALONE = {
    "gzip": ok(b"Transfer-Encoding: gzip"),
    "xchunked": ok(b"Transfer-Encoding: xchunked"),
    "chunked, chunked": ok(b"Transfer-Encoding: chunked, chunked"),
    "status 000": ok(b"Content-Length: 3", line=b"HTTP/1.1 000 OK"),
    "status 600": ok(b"Content-Length: 3", line=b"HTTP/1.1 600 OK"),
    "NUL in the reason": ok(b"Content-Length: 3", line=b"HTTP/1.1 200 O\x00K"),
    "chunked in HTTP/1.0": ok(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"),
}


@pytest.mark.parametrize("raw", RESPONSES_STOPPED_BY_OURS_ALONE.values(), ids=RESPONSES_STOPPED_BY_OURS_ALONE.keys())
def test_llhttp_alone_would_let_this_response_pass(raw: bytes, without_ours: None):
    parse_response(raw, b"GET")


@pytest.mark.parametrize("raw", RESPONSES_STOPPED_BY_OURS_ALONE.values(), ids=RESPONSES_STOPPED_BY_OURS_ALONE.keys())
def test_we_stop_this_response_with_or_without_llhttp(raw: bytes, without_llhttp: None):
    with pytest.raises(Malformed):
        parse_answer(raw, len(raw), b"GET")


STOPPED_BY_BOTH = {
    "length and chunked": b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
    "length twice": b"Content-Length: 4\r\nContent-Length: 3\r\n",
    "length signed": b"Content-Length: +3\r\n",
    "length beyond 64 bits": b"Content-Length: 18446744073709551619\r\n",
    "bare LF": b"A: b\nContent-Length: 3\r\n",
    "bare CR": b"A: b\rContent-Length: 3\r\n",
    "obs-fold": b"A: b\r\n c\r\n",
    "space before the colon": b"Content-Length : 3\r\n",
    "NUL": b"A: \x00\r\n",
    "no name": b": a\r\n",
    "no colon": b"A\r\n",
}
each_way = pytest.mark.parametrize("judged", ["request", "request with its body", "response", "response with its body"])


def judge_with_body(raw: bytes, body: bytes) -> Http1RequestHead:
    """As `take_request` has a request that came with its body judged."""
    return parser_reference._parsed_again(parser_reference.read_request(raw, 100), raw + body)


def judge(side: str, fields: bytes) -> None:
    if side == "request":
        parse_request(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    elif side == "request with its body":
        judge_with_body(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n", b"abc")
    elif side == "response":
        parse_response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n", b"GET")
    else:
        head = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n"
        parse_answer(head + b"abc", len(head), b"GET")


@each_way
@pytest.mark.parametrize("fields", STOPPED_BY_BOTH.values(), ids=STOPPED_BY_BOTH.keys())
class TestWhatSmugglingIsMadeOf:
    """A defect in either judge lets none of it through."""

    def test_it_is_stopped_by_llhttp_alone(self, fields: bytes, judged: str, without_ours: None):
        with pytest.raises(Malformed):
            judge(judged, fields)

    def test_it_is_stopped_by_ours_alone(self, fields: bytes, judged: str, without_llhttp: None):
        with pytest.raises(Malformed):
            judge(judged, fields)

    def test_it_passes_without_both(self, fields: bytes, judged: str, without_ours: None, without_llhttp: None):
        judge(judged, fields)


LENGTH_3 = b"Content-Length: 3\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def told(fields: bytes, parser: type[HttpRequestParser] | type[HttpResponseParser]) -> SecondParser:
    """llhttp after a head with these fields."""
    second = SecondParser(parser)
    line = b"POST / HTTP/1.1\r\n" if parser is HttpRequestParser else b"HTTP/1.1 200 OK\r\n"
    second.head(line + fields + b"\r\n", body_follows=None)
    return second


@for_each("parser", [HttpRequestParser, HttpResponseParser])
@for_each(
    ("fields", "reader", "wire"),
    [
        (LENGTH_3, lambda judge: LengthReader(2, judge), b"ab"),
        (LENGTH_3, lambda judge: LengthReader(4, judge), b"abcd"),
        (LENGTH_3, lambda judge: LengthReader(5, judge), b"abc\r\n"),  # llhttp skips line ends between messages
        (LENGTH_3, ChunkedReader, b"0\r\n\r\n"),
        (LENGTH_3, UntilCloseReader, b"abc"),
        (CHUNKED, lambda judge: LengthReader(7, judge), b"0\r\n\r\n\r\n"),
        (CHUNKED, lambda judge: LengthReader(4, judge), b"0\r\n\r"),
        (CHUNKED, UntilCloseReader, b"0\r\n\r\n"),
        (b"Content-Length: 0\r\n", lambda judge: LengthReader(2, judge), b"\r\n"),
    ],
)
@for_each("size", [1, 100])
def test_a_body_that_llhttp_ends_elsewhere_is_refused(parser, fields, reader, wire: bytes, size: int):
    """Its completion must fall on our last byte: here our reading of the head is made to differ from its."""
    body: BodyReader = reader(told(fields, parser))
    pieces = (wire[at : at + size] for at in range(0, len(wire), size))
    with pytest.raises(Malformed):
        b"".join(map(body.feed, pieces))
    assert not body.done


@pytest.mark.parametrize(
    ("ours", "sent"),
    [(b"", LENGTH_3), (b"", CHUNKED), (LENGTH_3, b""), (CHUNKED, b""), (b"Content-Length: 0\r\n", LENGTH_3)],
)
def test_a_head_that_llhttp_sees_a_body_behind_when_we_do_not_is_refused(monkeypatch, ours: bytes, sent: bytes):
    """And the other way round."""
    line = b"POST / HTTP/1.1\r\nHost: a\r\n"

    def misread(raw: bytes, max_fields: int) -> Http1RequestHead:
        head = read(line + ours + b"\r\n", max_fields)
        head.raw, head.known = raw, {}
        return head

    read = parser_reference.read_request
    monkeypatch.setattr(parser_reference, "read_request", misread)
    with pytest.raises(Malformed, match="where the message ends"):
        parse_request(line + sent + b"\r\n")


@pytest.mark.parametrize(
    "sent", [b"", b"Content-Length: 0\r\n", b"Content-Length: 2\r\n", b"Content-Length: 4\r\n", CHUNKED]
)
def test_a_request_whose_body_llhttp_ends_elsewhere_is_refused(monkeypatch, sent: bytes):
    """Also where all of it is there: its completion must fall on our last byte."""
    line = b"POST / HTTP/1.1\r\nHost: a\r\n"

    def misread(raw: bytes, max_fields: int) -> Http1RequestHead:
        head = read(line + LENGTH_3 + b"\r\n", max_fields)
        head.raw, head.known = raw, {}
        return head

    read = parser_reference.read_request
    monkeypatch.setattr(parser_reference, "read_request", misread)
    with pytest.raises(Malformed):
        judge_with_body(line + sent + b"\r\n", b"abc")
    monkeypatch.undo()
    assert judge_with_body(line + LENGTH_3 + b"\r\n", b"abc").payload == b"abc"


@for_each(
    "before",
    [
        post(b"Content-Length: 9"),
        post(b"Transfer-Encoding: chunked"),
        post(b"Connection: close", b"Content-Length: 0"),
        post(b"Connection: upgrade", b"Upgrade: a"),
        post(b"A"),
    ],
)
@for_each("body", [b"", b"abc"])
def test_no_request_decides_how_the_next_one_is_judged(before: bytes, body: bytes):
    """Whatever a message leaves llhttp in the middle of."""
    with suppress(Malformed):
        judge_with_body(before, body)
    assert judge_with_body(post(b"Content-Length: 3"), b"abc").payload == b"abc"
    with pytest.raises(Malformed):
        judge_with_body(post(b"Content-Length: 3", line=b"frob / HTTP/1.1"), b"abc")


@pytest.mark.parametrize("sent", [b"", b"Content-Length: 2\r\n", b"Content-Length: 12\r\n", b"Content-Length: 14\r\n"])
def test_an_answer_in_chunks_that_llhttp_ends_elsewhere_is_refused(monkeypatch, sent: bytes):
    line, chunks = b"HTTP/1.1 200 OK\r\n", b"3\r\nabc\r\n0\r\n\r\n"

    def misread(raw: bytes, method: bytes, max_fields: int, last_status: int) -> Http1ResponseHead:
        head = read(line + CHUNKED + b"\r\n", method, max_fields)
        head.raw, head.known = raw, {}
        return head

    read = parser_reference.read_response
    monkeypatch.setattr(parser_reference, "read_response", misread)
    raw = line + sent + b"\r\n"
    with pytest.raises(Malformed):
        parser_reference.parse_answer(raw + chunks, len(raw), b"GET")
    raw = line + CHUNKED + b"\r\n"
    assert parser_reference.parse_answer(raw + chunks, len(raw), b"GET").payload == b"abc"


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
    long_lived = LongLivedParser(HttpRequestParser)
    for _ in range(2):
        long_lived.head(post())
        with pytest.raises(Malformed, match="where the message ends"):
            long_lived.head(raw)


def test_one_llhttp_parses_all_that_is_there_as_a_whole(monkeypatch: pytest.MonkeyPatch):
    """It is replaced only when it refuses, and then decides nothing about the next."""
    long_lived = LongLivedParser(HttpRequestParser)
    monkeypatch.setattr(llhttp, "SecondParser", None)
    for _ in range(3):
        long_lived.head(post())
        long_lived.whole(post(b"Content-Length: 3") + b"abc")
    monkeypatch.undo()
    with pytest.raises(Malformed):
        long_lived.head(post(b" A: b"))
    long_lived.head(post())
    with pytest.raises(Malformed):
        long_lived.whole(post(b"Content-Length: 4") + b"abc")
    long_lived.whole(post(b"Content-Length: 3") + b"abc")


@for_each(
    "before",
    [
        ok(b"Connection: close", b"Content-Length: 0"),
        ok(line=b"HTTP/1.0 204 A"),
        ok(b"Connection: upgrade", b"Upgrade: a", line=b"HTTP/1.1 101 A"),
        ok(b"Content-Length: 9"),
        ok(b"Transfer-Encoding: chunked"),
        ok(b"A"),
    ],
)
@for_each("method", [b"GET", b"HEAD"])
def test_no_response_decides_how_the_next_one_is_judged(before: bytes, method: bytes):
    """Whatever a message leaves llhttp in the middle of."""
    with suppress(Malformed):
        parse_answer(before, len(before), method)
    head = ok(b"Content-Length: 3")
    assert parse_answer(head + b"abc", len(head), b"GET").payload == b"abc"
    with pytest.raises(Malformed):
        parse_answer(b"abc" + head, len(head) + 3, b"GET")


@for_each(
    "message",
    [
        b"abc",
        LENGTH_3,
        b"\r\nabc",
        b"a: b\r\n\r\nab",
        *(CHUNKED + b"\r\n" + wire for wire in (b"3\r\nabc\r\n0\r\n", b"0\r\n\r\nH", b"0\r\n\r\n\n", b"0\r\n\r\r\n")),
        *(LENGTH_3 + b"\r\nabc" + rest for rest in (b"HTTP", b"H", b"\n")),
    ],
)
def test_llhttp_wants_exactly_one_whole_message(message: bytes):
    """Which ends with the last byte, and not before."""
    with pytest.raises(Malformed):
        SecondParser(HttpResponseParser).whole(b"HTTP/1.1 200 OK\r\n" + message)
    SecondParser(HttpResponseParser).whole(b"HTTP/1.1 200 OK\r\n" + LENGTH_3 + b"\r\nabc")
    long_lived = LongLivedParser(HttpResponseParser)
    for _ in range(2):
        long_lived.whole(b"HTTP/1.1 200 OK\r\n" + LENGTH_3 + b"\r\nabc")
        long_lived.whole(b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n3\r\nabc\r\n0\r\n\r\n")
        with pytest.raises(Malformed):
            long_lived.whole(b"HTTP/1.1 200 OK\r\n" + message)


BY_LLHTTP = r"^(The body is not valid HTTP/1\.1: |It is ambiguous where the message ends\.$)"
BY_OURS = rf"^(?!{BY_LLHTTP[1:]})"
BODIES_STOPPED_BY_OURS_ALONE = {
    "extension of 64 KiB": b"3;" + b"a" * 65536 + b"\r\nabc\r\n0\r\n\r\n",
    "200 leading zeros": b"0" * 200 + b"3\r\nabc\r\n0\r\n\r\n",
    "trailers of 100 KB": b"0\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
    "trailer that frames": b"0\r\nContent-Encoding: a\r\n\r\n",
    "trailer that routes": b"0\r\nHost: a\r\n\r\n",
    "trailer that authenticates": b"0\r\nAuthorization: a\r\n\r\n",
}


@pytest.mark.parametrize("wire", BODIES_STOPPED_BY_OURS_ALONE.values(), ids=BODIES_STOPPED_BY_OURS_ALONE.keys())
def test_llhttp_alone_would_let_this_body_pass(wire: bytes):
    told(CHUNKED, HttpRequestParser).last(wire)
    with pytest.raises(Malformed, match=BY_OURS):
        ChunkedReader(told(CHUNKED, HttpRequestParser)).feed(wire)


BODIES_STOPPED_BY_BOTH = {
    "size not in hexadecimal": b"g\r\nabc\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a\nabcde\r\n0\r\n\r\n",
    "bytes between data and line end": b"3\r\nabcx\r\n0\r\n\r\n",
    "trailer with a bare LF": b"0\r\nA: b\nC: d\r\n\r\n",
    "size beyond 64 bits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("wire", BODIES_STOPPED_BY_BOTH.values(), ids=BODIES_STOPPED_BY_BOTH.keys())
def test_each_parser_stops_this_body_by_itself(wire: bytes, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Malformed, match=BY_LLHTTP):
        told(CHUNKED, HttpRequestParser).body(wire)
    reader = ChunkedReader(told(CHUNKED, HttpRequestParser))
    for asked in ("body", "last"):
        monkeypatch.setattr(SecondParser, asked, lambda self, chunk: None)
    with pytest.raises(Malformed, match=BY_OURS):
        reader.feed(wire)


def cases(*tables: dict[str, bytes]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "raw", [pytest.param(raw, id=name) for table in tables for name, raw in table.items()]
    )


def around(table: dict[str, bytes], start: bytes) -> dict[str, bytes]:
    return {name: start + fields + b"\r\n" for name, fields in table.items()}


class TestTheCompiledTwin:
    """Its own two judges, each alone, and both together."""

    def ours_alone(self, raw: bytes) -> bool:
        try:
            if raw.startswith(b"HTTP/"):
                scan.read_response(raw, b"GET", 100)
            else:
                scan.read_request(raw, 100)
        except Malformed:
            return False
        return True

    def llhttp_alone(self, raw: bytes) -> bool:
        if raw.startswith(b"HTTP/"):
            return bodies.SecondParser(HttpResponseParser).agrees(raw, believe_response(raw, b"GET", 100).has_body)
        head = believe_request(raw, 100)
        return bodies.SecondParser(HttpRequestParser).agrees(raw, bool(head.length or head.chunked))

    def both(self, raw: bytes) -> None:
        if raw.startswith(b"HTTP/"):
            scan.parse_answer(raw, len(raw), b"GET")
        else:
            scan.parse_request(raw)

    @cases(STOPPED_BY_LLHTTP_ALONE)
    def test_llhttp_alone_stops(self, raw: bytes):
        assert (self.ours_alone(raw), self.llhttp_alone(raw)) == (True, False)
        with pytest.raises(Malformed):
            self.both(raw)

    @cases(STOPPED_BY_OURS_ALONE, RESPONSES_STOPPED_BY_OURS_ALONE)
    def test_ours_alone_stops(self, raw: bytes):
        assert (self.ours_alone(raw), self.llhttp_alone(raw)) == (False, True)
        with pytest.raises(Malformed):
            self.both(raw)

    @cases(
        around(STOPPED_BY_BOTH, b"POST / HTTP/1.1\r\nHost: a\r\n"),
        {f"{name}, in a response": raw for name, raw in around(STOPPED_BY_BOTH, b"HTTP/1.1 200 OK\r\n").items()},
    )
    def test_each_by_itself_stops(self, raw: bytes):
        assert (self.ours_alone(raw), self.llhttp_alone(raw)) == (False, False)
        with pytest.raises(Malformed):
            self.both(raw)
