"""Response heads: nonsense is refused, and of the others it is settled how the body ends."""

import pytest

from fastgw.http.http1.body import body_reader
from fastgw.http.http1.parser import parse_answer, parse_response, read_http2_response, take_answer
from fastgw.http.malformed import Malformed
from fastgw.http.messages import ResponseHead
from tests.support.head_lines import lines_found
from tests.support.table import for_each


def head(line: bytes = b"HTTP/1.1 200 OK", *fields: bytes) -> bytes:
    return b"".join(each + b"\r\n" for each in (line, *fields)) + b"\r\n"


def ok(*fields: bytes) -> bytes:
    return head(b"HTTP/1.1 200 OK", *fields)


REFUSED: dict[str, bytes] = {
    # status line (RFC 9112 section 4)
    "no status line": b"\r\n",
    "HTTP/0.9": b"hello\r\n\r\n",
    "HTTP/1.2": head(b"HTTP/1.2 200 OK"),
    "HTTP/2.0": head(b"HTTP/2.0 200 OK"),
    "HTTP/1.10": head(b"HTTP/1.10 200 OK"),
    "version in lower case": head(b"http/1.1 200 OK"),
    "status 000": head(b"HTTP/1.1 000 OK"),
    "status 099": head(b"HTTP/1.1 099 OK"),
    "status 600": head(b"HTTP/1.1 600 OK"),
    "status 999": head(b"HTTP/1.1 999 OK"),
    "status of two digits": head(b"HTTP/1.1 20 OK"),
    "status of four digits": head(b"HTTP/1.1 2000 OK"),
    "status with a sign": head(b"HTTP/1.1 +20 OK"),
    "no status": head(b"HTTP/1.1 OK"),
    "two spaces before the status": head(b"HTTP/1.1  200 OK"),
    "NUL in the reason": head(b"HTTP/1.1 200 O\x00K"),
    "control in the reason": head(b"HTTP/1.1 200 O\x01K"),
    "bare CR in the reason": head(b"HTTP/1.1 200 O\rK"),
    "CRLF before the status line": b"\r\n" + head(),
    # field lines
    "bare LF": b"HTTP/1.1 200 OK\nA: b\n\n",
    "bare LF in a field": ok(b"A: b\nC: d"),
    "bare CR": ok(b"A: b\rc"),
    "obs-fold": ok(b"A: b", b" c"),
    "white space before the first field": ok(b" A: b"),
    "space before the colon": ok(b"A : b"),
    "empty name": ok(b": b"),
    "no colon": ok(b"A"),
    "NUL in a value": ok(b"A: \x00"),
    "NUL in a name": ok(b"A\x00: b"),
    "101 fields": ok(*[b"A: b"] * 101),
    "bytes behind the empty line": ok() + b"x",
    # framing (RFC 9112 section 6)
    "length and chunked": ok(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
    "lengths that differ": ok(b"Content-Length: 3", b"Content-Length: 4"),
    "length twice": ok(b"Content-Length: 3", b"Content-Length: 3"),
    "length listed": ok(b"Content-Length: 3, 3"),
    "length signed": ok(b"Content-Length: +3"),
    "length negative": ok(b"Content-Length: -3"),
    "length empty": ok(b"Content-Length:"),
    "length not a number": ok(b"Content-Length: abc"),
    "length of 19 digits": ok(b"Content-Length: 1000000000000000000"),
    "bad length of a 304": head(b"HTTP/1.1 304 Not Modified", b"Content-Length: abc"),
    "chunked in HTTP/1.0": head(b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"),
    "gzip": ok(b"Transfer-Encoding: gzip"),
    "gzip, chunked": ok(b"Transfer-Encoding: gzip, chunked"),
    "identity": ok(b"Transfer-Encoding: identity"),
    "xchunked": ok(b"Transfer-Encoding: xchunked"),
    "chunked, chunked": ok(b"Transfer-Encoding: chunked, chunked"),
    "chunked twice": ok(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked, identity": ok(b"Transfer-Encoding: chunked, identity"),
    "no coding": ok(b"Transfer-Encoding:"),
    # interim responses (RFC 9110 section 15.2)
    "100 with a length": head(b"HTTP/1.1 100 Continue", b"Content-Length: 3"),
    "103 in chunks": head(b"HTTP/1.1 103 Early Hints", b"Transfer-Encoding: chunked"),
    "101 without Upgrade": head(b"HTTP/1.1 101 Switching Protocols", b"Connection: upgrade"),
    "101 without Connection": head(b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket"),
    "101 to h2c": head(b"HTTP/1.1 101 Switching Protocols", b"Connection: upgrade", b"Upgrade: h2c"),
    "101 with a length": head(
        b"HTTP/1.1 101 Switching Protocols", b"Connection: upgrade", b"Upgrade: a", b"Content-Length: 3"
    ),
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_nonsense_is_refused(raw: bytes, method: bytes):
    with pytest.raises(Malformed):
        parse_answer(raw, len(raw), method)


CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: 3"
EMPTY = b"Content-Length: 0"


@for_each(
    ("method", "status", "fields", "body"),
    [
        (b"GET", 200, (LENGTH,), "length"),
        (b"GET", 200, (EMPTY,), "none"),
        (b"GET", 200, (CHUNKED,), "chunked"),
        (b"GET", 200, (CHUNKED + b" \t",), "chunked"),
        (b"GET", 200, (), "until close"),
        (b"GET", 404, (LENGTH,), "length"),
        (b"GET", 200, (LENGTH, b"Connection: Upgrade", b"Upgrade: h2,h2c"), "length"),
        (b"HEAD", 200, (LENGTH,), "none"),
        (b"HEAD", 200, (CHUNKED,), "none"),
        (b"HEAD", 200, (), "none"),
        (b"HEAD", 304, (), "none"),
        (b"GET", 304, (LENGTH,), "none"),
        (b"GET", 304, (CHUNKED,), "none"),
        (b"GET", 304, (), "none"),
        (b"GET", 204, (), "none"),
        (b"GET", 204, (EMPTY,), "none"),
        (b"GET", 205, (EMPTY,), "none"),
        (b"GET", 205, (LENGTH,), "length"),
        (b"GET", 205, (), "until close"),
        (b"POST", 100, (), "none"),
        (b"POST", 103, (EMPTY,), "none"),
    ],
)
def test_how_the_body_ends(method, status, fields, body):
    """RFC 9112 section 6.3, in its order."""
    response = parse_response(head(b"HTTP/1.1 %d X" % status, *fields), method)
    assert response.status == status
    assert response.has_body is (body != "none")
    assert response.until_close is (body == "until close")
    assert response.close is (body == "until close")
    assert (
        type(body_reader(response)).__name__
        == {
            "chunked": "ChunkedReader",
            "length": "LengthReader",
            "none": "LengthReader",
            "until close": "UntilCloseReader",
        }[body]
    )
    assert body_reader(response).done is (body == "none")


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 304)])
def test_what_get_would_bring_is_told_where_no_body_follows(method, status):
    response = parse_response(head(b"HTTP/1.1 %d X" % status, LENGTH), method)
    assert (response.length, response.has_body) == (3, False)
    assert parse_response(head(b"HTTP/1.1 %d X" % status, CHUNKED), method).chunked


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED])
def test_a_204_that_declares_a_body_ends_the_connection(framing: bytes):
    """The answer is clear without it, but what follows belongs to nobody."""
    response = parse_response(head(b"HTTP/1.1 204 No Content", framing), b"GET")
    assert response.close
    assert not response.has_body


@pytest.mark.parametrize(
    ("version", "connection", "close"),
    [
        (b"1.1", (), False),
        (b"1.1", (b"close",), True),
        (b"1.1", (b"x, Close",), True),
        (b"1.0", (), True),
        (b"1.0", (b"Keep-Alive",), False),
    ],
)
def test_whether_the_connection_can_be_used_again(version, connection, close):
    raw = head(b"HTTP/%b 200 OK" % version, LENGTH, *(b"Connection: " + each for each in connection))
    assert parse_response(raw, b"GET").close is close


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"HTTP/1.1 200 OK", b"OK"),
        (b"HTTP/1.1 200 ", b""),
        (b"HTTP/1.1 200", b""),
        (b"HTTP/1.1 299 All\tis \xe9 well", b"All\tis \xe9 well"),
    ],
)
def test_the_reason_is_kept(line, reason):
    assert parse_response(head(line, EMPTY), b"GET").reason == reason


def test_a_101_says_what_it_switches_to():
    raw = head(b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade", b"Upgrade: WebSocket")
    response = parse_response(raw, b"GET")
    assert response.upgrade == (b"websocket",)
    assert not response.has_body


def test_only_a_101_switches():
    raw = ok(LENGTH, b"Connection: Upgrade", b"Upgrade: websocket")
    assert parse_response(raw, b"GET").upgrade == ()


def test_connection_names_fields_away_in_responses_too():
    raw = ok(LENGTH, b"Connection: close, X-A, set-cookie, date", b"X-A: b")
    assert parse_response(raw, b"GET").connection_named == (b"x-a",)


def test_underscores_are_no_twins_in_responses():
    """No client reads them as one."""
    assert parse_response(ok(LENGTH, b"Content_Length: 4"), b"GET").length == 3


@for_each("name", sorted(ResponseHead.DROPPED | {b"date", b"server", b"trailer", b"via", b"x-request-id"}))
def test_every_known_field_is_found(name: bytes):
    value = {b"content-length": b"0", b"transfer-encoding": b"chunked"}.get(name, b"a")
    assert parse_response(ok(name.upper() + b": " + value), b"GET").values(name) == [value]


def test_a_repr_tells_the_state_without_secrets():
    assert repr(parse_response(ok(CHUNKED, b"Set-Cookie: s3cret"), b"GET")) == "<ResponseHead 200, chunked>"


LENGTH_3 = ok(b"Content-Length: 3")
IN_CHUNKS = ok(CHUNKED)


@for_each(
    ("raw", "method", "following", "payload"),
    [
        (LENGTH_3, b"GET", b"abc", b"abc"),
        (ok(b"Content-Length: 1"), b"GET", b"a", b"a"),
        (ok(b"Content-Length: 3", b"Connection: close"), b"GET", b"abc", b"abc"),
        (ok(b"Content-Length: 3", b"Connection: upgrade", b"Upgrade: h2"), b"GET", b"abc", b"abc"),
        (head(b"HTTP/1.0 200 OK", b"Content-Length: 3"), b"GET", b"abc", b"abc"),
        (head(b"HTTP/1.0 200 OK", b"Content-Length: 3", b"Connection: keep-alive"), b"GET", b"abc", b"abc"),
        (IN_CHUNKS, b"GET", b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (IN_CHUNKS, b"GET", b"3\r\nabc\r\n5\r\n0\r\n\r\n\r\n00\r\n\r\n", b"abc0\r\n\r\n"),
        (IN_CHUNKS, b"GET", b"0\r\n\r\n", b""),
        (ok(CHUNKED + b" \t"), b"GET", b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (ok(CHUNKED, b"Connection: close"), b"GET", b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (ok(b"Content-Length: 0"), b"GET", b"", b""),
        (LENGTH_3, b"HEAD", b"", b""),
        (ok(), b"HEAD", b"", b""),
        (IN_CHUNKS, b"HEAD", b"", b""),
        (head(b"HTTP/1.1 204 No Content"), b"GET", b"", b""),
        (head(b"HTTP/1.1 304 Not Modified", b"Content-Length: 3"), b"GET", b"", b""),
        (head(b"HTTP/1.1 100 Continue"), b"GET", b"", b""),
        # not all, or more
        (LENGTH_3, b"GET", b"", None),
        (LENGTH_3, b"GET", b"ab", None),
        (LENGTH_3, b"GET", b"abcd", None),
        (LENGTH_3, b"HEAD", b"abc", None),
        (ok(b"Content-Length: 0"), b"GET", b"a", None),
        (head(b"HTTP/1.1 304 Not Modified", b"Content-Length: 3"), b"GET", b"abc", None),
        (IN_CHUNKS, b"HEAD", b"0\r\n\r\n", None),
        (IN_CHUNKS, b"GET", b"", None),
        (IN_CHUNKS, b"GET", b"3\r\nabc\r\n0\r\n\r", None),
        (IN_CHUNKS, b"GET", b"5\r\n0\r\n\r\n", None),
        (IN_CHUNKS, b"GET", b"0\r\n\r\na", None),
        # for a reader: its extensions are counted, its trailers judged
        (IN_CHUNKS, b"GET", b"3;a\r\nabc\r\n0\r\n\r\n", None),
        (IN_CHUNKS, b"GET", b"0\r\nA: b\r\n\r\n", None),
        (ok(), b"GET", b"abc", None),
    ],
)
def test_a_body_that_came_with_its_head_is_judged_with_it(raw: bytes, method: bytes, following: bytes, payload):
    answer = parse_answer(raw + following, len(raw), method)
    alone = parse_response(raw, method)
    assert answer.payload == payload
    for name in ("raw", "status", "reason", "minor", "length", "chunked", "close", "until_close", "has_body"):
        assert getattr(answer, name) == getattr(alone, name)
    assert lines_found(answer) == lines_found(alone)
    if payload is None:
        reader, reader_alone = body_reader(answer), body_reader(alone)
        assert reader.feed(following) == reader_alone.feed(following)
        assert (reader.done, reader.rest) == (reader_alone.done, reader_alone.rest)


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_nonsense_is_refused_whatever_came_behind_it(raw: bytes):
    with pytest.raises(Malformed):
        parse_answer(raw + b"abc", len(raw), b"GET")


def take(received: bytes, method: bytes = b"GET", room: bytes = b"\r\n\r\nof an earlier read") -> ResponseHead | bytes:
    """What is taken out of a buffer that is read into anew at once."""
    buffer = memoryview(bytearray(received + room))
    took = take_answer(buffer, len(received), method)
    buffer[:] = bytes(len(buffer))
    return took


WHOLE = [
    (ok(b"Content-Length: 3", b"Date: a"), b"abc", b"abc"),
    (ok(b"Content-Length: 4", b"Connection: close"), b"\r\n\r\n", b"\r\n\r\n"),
    (ok(b"Content-Length: 0"), b"", b""),
    (head(b"HTTP/1.0 404", b"Content-Length: 3"), b"a\x00c", b"a\x00c"),
    (head(b"HTTP/1.1 204 No Content"), b"", b""),
    (head(b"HTTP/1.1 304 Not Modified", b"Content-Length: 7"), b"", b""),
    (ok(b"Content-Length: 66000", b"A: " + b"b" * 70_000), b"a" * 66_000, b"a" * 66_000),
    (ok(b"Content-Length: 3", b"Connection: Upgrade", b"Upgrade: h2c"), b"abc", b"abc"),
    (ok(b"Content-Length: 3", b"Connection: X-A", b"X-A: b"), b"abc", b"abc"),
    (IN_CHUNKS, b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    (IN_CHUNKS, b"0\r\n\r\n", b""),
    (IN_CHUNKS, b"0000000000000003\r\nabc\r\n0000000000000000\r\n\r\n", b"abc"),
    (IN_CHUNKS, b"fde8\r\n" + b"a" * 65_000 + b"\r\n0\r\n\r\n", b"a" * 65_000),
    (ok(b"transfer-encoding: Chunked\t", b"Connection: close"), b"1\r\n\x00\r\n1\r\na\r\n0\r\n\r\n", b"\x00a"),
]


@for_each(("raw", "following", "payload"), WHOLE)
def test_an_answer_is_taken_when_all_of_it_is_there_and_no_more(raw: bytes, following: bytes, payload: bytes):
    answer = raw + following
    took = take(answer)
    assert not isinstance(took, bytes)
    assert (took.raw, took.payload, took.payload_length, took.whole) == (raw, payload, len(payload), True)
    alone = parse_response(raw, b"GET")
    assert lines_found(took) == lines_found(alone)
    assert [*took.fields()] == [*alone.fields()]
    for behind in (b"\r\n", b"a", b"\x00", ok(b"Content-Length: 0")):
        assert take(answer + behind) == answer + behind
    for end in {*range(min(len(answer), 300)), len(answer) - 1}:
        assert take(answer[:end]) == answer[:end]
    assert take(answer, room=b"") == answer  # the buffer is full: more may follow


@for_each(
    "answer",
    [
        head(b"HTTP/1.1 100 Continue"),
        head(b"HTTP/1.1 103 Early Hints", b"Link: </a>"),
        head(b"HTTP/1.1 101 A", b"Connection: upgrade", b"Upgrade: a"),
        head(b"HTTP/1.1 600 A", b"Content-Length: 0"),
        ok() + b"until the end",
        ok(b"A b: c", b"Content-Length: 0"),
        IN_CHUNKS,
        *(
            IN_CHUNKS + behind
            for behind in (
                b"3;a\r\nabc\r\n0\r\n\r\n",
                b"3\r\nabc\r\n0;a\r\n\r\n",
                b"3\r\nabc\r\n0\r\nA: b\r\n\r\n",
                b"000000000000003\r\nabc\r\n00000000000000000\r\n\r\n",
                b"5\r\n0\r\n\r\n",
                b"4\r\nabc\r\n0\r\n\r\n",
                b"2\r\nabc\r\n0\r\n\r\n",
                b"3\r\nabc0\r\n\r\n",
                b"3\nabc\r\n0\r\n\r\n",
                b"3 \r\nabc\r\n0\r\n\r\n",
                b"0\r\n\r\n0\r\n\r\n",
                b"-0\r\n\r\n",
                b"ffffffffffffffff\r\n0\r\n\r\n",
            )
        ),
    ],
)
def test_an_answer_that_is_not_over_with_these_bytes_is_not_taken(answer: bytes):
    """Nor one whose chunks a reader has to look at."""
    assert take(answer) == answer
    assert not isinstance(take(LENGTH_3 + b"abc"), bytes)  # it decides nothing about the next


@for_each("fields", [(b"Content-Length: 3",), (b"Transfer-Encoding: chunked",), ()])
def test_to_head_an_answer_ends_with_its_head(fields: tuple[bytes, ...]):
    assert not isinstance(take(ok(*fields), b"HEAD"), bytes)
    for behind in (b"abc", b"3\r\nabc\r\n0\r\n\r\n"):
        assert take(ok(*fields) + behind, b"HEAD") == ok(*fields) + behind


@for_each("method", [b"GET", b"HEAD"])
@for_each(
    ("line", "following", "payload"),
    [
        (b"content-length: 3", b"", None),
        (b"content-length: 3", b"abc", b"abc"),
        (b"content-length: 3", b"abcd", None),
        (b"transfer-encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"x: y", b"abc", None),
    ],
)
def test_a_response_that_came_by_http2(method: bytes, line: bytes, following: bytes, payload: bytes | None):
    raw = b"HTTP/1.1 200 \r\n" + line + b"\r\n\r\n"
    answer = read_http2_response(raw + following, len(raw), method, 100)
    expected = payload if method == b"GET" else None if following else b""
    assert (answer.version, answer.payload, answer.whole) == (20, expected, expected is not None)


def test_lines_of_known_fields_may_be_many():
    answer = parse_response(ok(*[b"Via: a"] * 90, b"Content-Length: 3", b"Via: b"), b"GET")
    assert answer.values(b"via") == [b"a"] * 90 + [b"b"]
