"""Bodies taken apart: each case is fed whole, byte by byte, and with bytes after the end."""

from collections.abc import Callable

import pytest

from fastgw.http.http1.body import LONGEST_EXTENSIONS, BodyReader, body_reader
from fastgw.http.http1.parser import parse_request, parse_response
from fastgw.http.http1.trailers import LONGEST_TRAILERS, MOST_TRAILERS, TRAILERS_TOO_LARGE
from fastgw.http.malformed import Malformed
from tests.support.table import for_each

AFTER = b"GET /next HTTP/1.1\r\n\r\n"


def whole(reader: BodyReader, wire: bytes) -> bytes:
    return reader.feed(wire)


def byte_by_byte(reader: BodyReader, wire: bytes) -> bytes:
    return b"".join(reader.feed(wire[at : at + 1]) for at in range(len(wire)))


def with_bytes_after(reader: BodyReader, wire: bytes) -> bytes:
    return reader.feed(wire + AFTER)


feeding = pytest.mark.parametrize("feed", [whole, byte_by_byte, with_bytes_after])
Feed = Callable[[BodyReader, bytes], bytes]


def of_request(framing: bytes) -> BodyReader:
    return body_reader(parse_request(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n"))


def of_response(framing: bytes) -> BodyReader:
    return body_reader(parse_response(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n", b"GET"))


both_sides = pytest.mark.parametrize("reader_of", [of_request, of_response])
ReaderOf = Callable[[bytes], BodyReader]
CHUNKED = b"Transfer-Encoding: chunked"


@feeding
@both_sides
@pytest.mark.parametrize("length", [1, 2, 300])
def test_a_body_with_a_length_ends_there(reader_of: ReaderOf, feed: Feed, length: int):
    reader = reader_of(b"Content-Length: %d" % length)
    assert not reader.done
    assert feed(reader, b"\r" * length) == b"\r" * length
    assert reader.done
    assert reader.rest == (AFTER if feed is with_bytes_after else b"")
    assert reader.trailers == ()
    reader.eof()


@both_sides
def test_bytes_fed_after_the_end_are_kept(reader_of: ReaderOf):
    for framing, wire in (
        (b"Content-Length: 2", b"ab"),
        (CHUNKED, b"2\r\nab\r\n0\r\n\r\n"),
        (b"Content-Length: 0", b""),
    ):
        reader = reader_of(framing)
        assert reader.feed(wire + b"c") == wire[:0] + (b"ab" if wire else b"")
        assert reader.feed(b"d") == b""
        assert (reader.done, reader.rest) == (True, b"cd")


@both_sides
@pytest.mark.parametrize(
    ("framing", "wire"),
    [(b"Content-Length: 3", b"ab"), (CHUNKED, b""), (CHUNKED, b"2\r\nab\r\n"), (CHUNKED, b"2\r\nab\r\n0\r\n")],
)
def test_a_body_cut_short_is_refused(reader_of: ReaderOf, framing: bytes, wire: bytes):
    reader = reader_of(framing)
    reader.feed(wire)
    assert not reader.done
    with pytest.raises(Malformed, match="closed before"):
        reader.eof()


def test_a_body_may_end_with_the_connection_of_a_response():
    reader = of_response(b"A: b")
    assert reader.feed(b"ab") == b"ab"
    assert reader.feed(b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n") == b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    assert not reader.done
    reader.eof()
    assert (reader.done, reader.rest, reader.trailers) == (True, b"", ())


# wire -> payload, trailers
CHUNKS: dict[str, tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]] = {
    "empty": (b"0\r\n\r\n", b"", ()),
    "one chunk": (b"3\r\nabc\r\n0\r\n\r\n", b"abc", ()),
    "two chunks": (b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde", ()),
    "sizes in both cases": (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789", ()),
    "leading zeros": (b"0000000000000003\r\nabc\r\n00\r\n\r\n", b"abc", ()),
    "line ends in the payload": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n", ()),
    "what looks like the last chunk": (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n", ()),
    "an extension": (b"3;a\r\nabc\r\n0\r\n\r\n", b"abc", ()),
    "an extension with a value": (b"3;a=b;c=d\r\nabc\r\n0;e=f\r\n\r\n", b"abc", ()),
    "an extension in quotes": (b'3;a="b;\\"c d\t\xe9"\r\nabc\r\n0\r\n\r\n', b"abc", ()),
    "a trailer": (b"0\r\nGrpc-Status: 0\r\n\r\n", b"", ((b"Grpc-Status", b"0"),)),
    "trailers": (b"3\r\nabc\r\n0\r\nA: \t b \r\na:\r\n\r\n", b"abc", ((b"A", b"b"), (b"a", b""))),
    "a digest of the content": (b"0\r\nContent-Digest: a\r\n\r\n", b"", ((b"Content-Digest", b"a"),)),
    "as many trailers as may be": (
        b"0\r\n" + b"A: b\r\n" * MOST_TRAILERS + b"\r\n",
        b"",
        ((b"A", b"b"),) * MOST_TRAILERS,
    ),
}


@feeding
@both_sides
@pytest.mark.parametrize(("wire", "payload", "trailers"), CHUNKS.values(), ids=CHUNKS.keys())
def test_chunks_are_put_together(reader_of: ReaderOf, feed: Feed, wire: bytes, payload: bytes, trailers):
    reader = reader_of(CHUNKED)
    assert feed(reader, wire) == payload
    assert reader.done
    assert reader.trailers == trailers
    assert reader.rest == (AFTER if feed is with_bytes_after else b"")
    reader.eof()


def test_chunks_are_put_together_wherever_they_are_cut():
    wire = b'3;a="b"\r\nabc\r\n02\r\n\r\n\r\n0\r\nA: b\r\n\r\n'
    for first in range(len(wire)):
        for second in range(first, len(wire) + 1):
            reader = of_request(CHUNKED)
            pieces = wire[:first], wire[first:second], wire[second:] + AFTER
            assert b"".join(reader.feed(piece) for piece in pieces) == b"abc\r\n"
            assert (reader.done, reader.rest, reader.trailers) == (True, AFTER, ((b"A", b"b"),))


BAD_CHUNKS: dict[str, bytes] = {
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "size not in hexadecimal": b"g\r\nabc\r\n0\r\n\r\n",
    "size with a prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size signed": b"+3\r\nabc\r\n0\r\n\r\n",
    "size negative": b"-3\r\nabc\r\n0\r\n\r\n",
    "size with an underscore": b"0_3\r\nabc\r\n0\r\n\r\n",
    "size of 17 digits": b"00000000000000003\r\nabc\r\n0\r\n\r\n",
    "200 leading zeros": b"0" * 200 + b"3\r\nabc\r\n0\r\n\r\n",
    "size beyond 64 bits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "space before the size": b" 3\r\nabc\r\n0\r\n\r\n",
    "space behind the size": b"3 \r\nabc\r\n0\r\n\r\n",
    "space before an extension": b"3 ;a\r\nabc\r\n0\r\n\r\n",
    "space in an extension": b"3; a\r\nabc\r\n0\r\n\r\n",
    "bare LF behind the size": b"3\nabc\r\n0\r\n\r\n",
    "bare CR behind the size": b"3\rabc\r\n0\r\n\r\n",
    "CR CR LF behind the size": b"3\r\r\nabc\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a\nabcde\r\n0\r\n\r\n",
    "bare CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "line end in a quoted extension": b'3;a="\r\n"\r\nabc\r\n0\r\n\r\n',
    "open quote in an extension": b'3;a="b\r\nabc\r\n0\r\n\r\n',
    "NUL in an extension": b"3;a=\x00\r\nabc\r\n0\r\n\r\n",
    "empty extension": b"3;\r\nabc\r\n0\r\n\r\n",
    "data longer than its size": b"2\r\nabc\r\n0\r\n\r\n",
    "data shorter than its size": b"4\r\nabc\r\n0\r\n\r\n",
    "LF behind the data": b"3\r\nabc\n0\r\n\r\n",
    "CR behind the data": b"3\r\nabc\r0\r\n\r\n",
    "nothing behind the data": b"3\r\nabc0\r\n\r\n",
    "two line ends behind the data": b"3\r\nabc\r\n\r\n0\r\n\r\n",
    "bytes between data and line end": b"3\r\nabcxx\r\n0\r\n\r\n",
    "bare LF behind the last size": b"0\n\r\n",
    "bare LF at the end": b"0\r\n\n",
    "bare CR at the end": b"0\r\n\rx",
    "trailer with a bare LF": b"0\r\nA: b\n\r\n\r\n",
    "trailer folded": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer without a colon": b"0\r\nA\r\n\r\n",
    "trailer without a name": b"0\r\n: b\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nA : b\r\n\r\n",
    "trailer with NUL": b"0\r\nA: \x00\r\n\r\n",
    "trailer that begins with white space": b"0\r\n A: b\r\n\r\n",
    "extensions too long in one chunk": b"3;" + b"a" * LONGEST_EXTENSIONS + b"\r\nabc\r\n0\r\n\r\n",
    "extensions too long together": (b"1;" + b"a" * 99 + b"\r\nb\r\n") * (LONGEST_EXTENSIONS // 100 + 1) + b"0\r\n\r\n",
    "trailers too long": b"0\r\nA: " + b"b" * LONGEST_TRAILERS + b"\r\n\r\n",
    "too many trailers": b"0\r\n" + b"A: b\r\n" * (MOST_TRAILERS + 1) + b"\r\n",
}


@feeding
@both_sides
@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["without an end", "with one"])
def test_trailers_that_are_too_long_are_answered_431(reader_of: ReaderOf, feed: Feed, end: bytes):
    with pytest.raises(Malformed) as caught:
        feed(reader_of(CHUNKED), b"0\r\nA: " + b"b" * LONGEST_TRAILERS + end)
    assert caught.value.status == 431


@feeding
def test_trailers_of_a_request_have_the_limits_that_are_given(feed: Feed):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    for lines in (b"A: b\r\n" * 3, b"A: " + b"b" * 91 + b"\r\n"):  # with the line ends around them 100 bytes
        reader = body_reader(parse_request(head), 100, 3)
        assert feed(reader, b"3\r\nabc\r\n0\r\n" + lines + b"\r\n") == b"abc"
        assert reader.done
    for lines in (b"A: b\r\n" * 4, b"A: " + b"b" * 92 + b"\r\n"):
        with pytest.raises(Malformed) as caught:
            feed(body_reader(parse_request(head), 100, 3), b"3\r\nabc\r\n0\r\n" + lines + b"\r\n")
        assert (caught.value.status, caught.value.reason) == (431, TRAILERS_TOO_LARGE)


@feeding
@both_sides
@pytest.mark.parametrize("wire", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
def test_bad_chunks_are_refused(reader_of: ReaderOf, feed: Feed, wire: bytes):
    reader = reader_of(CHUNKED)
    with pytest.raises(Malformed):
        feed(reader, wire)
    assert not reader.done


@both_sides
@pytest.mark.parametrize(
    "name",
    [
        *(b"Content-Length", b"Transfer-Encoding", b"Trailer", b"Connection", b"Upgrade", b"TE", b"Keep-Alive"),
        *(b"Host", b"Forwarded", b"X-Forwarded-For", b"X-Real-IP", b"Via", b"Expect", b"Max-Forwards", b"Range"),
        *(b"Authorization", b"Proxy-Authorization", b"WWW-Authenticate", b"Cookie", b"Set-Cookie"),
        *(b"Content-Type", b"Content-Encoding", b"Content-Range", b"Content_Length", b"CONTENT-LENGTH"),
        *(b"Cache-Control", b"Date", b"Location", b"Vary"),
    ],
)
def test_trailers_that_come_too_late_are_refused(reader_of: ReaderOf, name: bytes):
    """RFC 9110 section 6.5.1."""
    with pytest.raises(Malformed):
        reader_of(CHUNKED).feed(b"0\r\n" + name + b": 0\r\n\r\n")


@pytest.mark.parametrize(
    "begun", [b"0" * 20, b"3;" + b"a" * (LONGEST_EXTENSIONS + 30), b"0\r\n" + b"a" * LONGEST_TRAILERS]
)
def test_what_is_held_is_bounded_before_it_is_complete(begun: bytes):
    reader = of_request(CHUNKED)
    with pytest.raises(Malformed):
        byte_by_byte(reader, begun)


@for_each(
    "wire, in_line",
    [
        (b"", False),
        (b"3", True),
        (b"3;a=b", True),
        (b"3;a=b\r\n", False),
        (b"3;a=b\r\nab", False),
        (b"3\r\nabc\r\n", False),
        (b"3\r\nabc\r\n1;", True),
        (b"0\r\n", True),
        (b"0\r\nA: b\r\n", True),
    ],
)
def test_a_line_that_has_begun_is_told_from_a_chunk_that_is_to_come(wire: bytes, in_line: bool) -> None:
    """The time for an incomplete line is bounded; a chunk may come whenever its sender has one."""
    for feed in (whole, byte_by_byte):
        reader = of_request(b"Transfer-Encoding: chunked")
        feed(reader, wire)
        assert reader.is_in_line() is in_line
