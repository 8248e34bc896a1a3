"""A third judge, h11: we may refuse more than it does; we never accept what it refuses, nor end a body elsewhere."""

import h11
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastgw.http.fields import Fields
from fastgw.http.http1.body import BodyReader, body_reader
from fastgw.http.http1.parser import find_head_end, parse_request, parse_response
from fastgw.http.http1.serializer import chunk, last_chunk, request
from fastgw.http.malformed import Malformed
from tests.support.table import for_each

quick = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def mostly(*ordinary: bytes, hostile: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Hostile often enough to be met, seldom enough that what stands beside it is still judged."""
    return st.integers(0, 9).flatmap(lambda die: st.sampled_from(ordinary if die else hostile))


FRAMING = st.tuples(
    st.sampled_from([b"Content-Length", b"content-length", b"Transfer-Encoding", b"TRANSFER-ENCODING"]),
    mostly(
        *(b"0", b"3", b"03", b"chunked", b"Chunked \t"),
        hostile=(b"+3", b"3, 3", b"3, 4", b"xchunked", b"gzip, chunked", b"identity", b"", b"\x0bchunked"),
    ),
)
OTHERS = st.tuples(
    mostly(
        *(b"Connection", b"Upgrade", b"X-A", b"Trailer", b"Keep-Alive", b"Expect"),
        hostile=(b"Content-Length ", b"Host", b"", b"X A", b"X\x00", b"\xe9", b"Content_Length"),
    ),
    mostly(
        *(b"close", b"keep-alive", b"upgrade", b"a", b"a\xff", b"", b"@", b"100-continue"),
        hostile=(b"a\x00", b"a\rb", b"a\nb", b"a\r\n b", b"\x7f"),
    )
    | st.binary(max_size=3),
)
FIELDS = st.builds(
    lambda framing, others: framing + others, st.lists(FRAMING, max_size=1), st.lists(OTHERS, max_size=3)
) | st.lists(FRAMING, max_size=3)
METHODS = mostly(b"GET", b"POST", b"HEAD", b"OPTIONS", hostile=(b"get", b"G T", b"FROB", b""))
TARGETS = mostly(
    *(b"/", b"/a?b", b"//", b"http://a/", b'/"<>|'),
    hostile=(b"*", b"http://b/", b"/#a", b"/\xff", b"/ a", b"", b"a:1", b"/\x00"),
)
VERSIONS = mostly(b"HTTP/1.1", b"HTTP/1.0", hostile=(b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/1.10"))
STATUSES = mostly(
    *(b"200 OK", b"200", b"204 ", b"304 \xff", b"205 a"),
    hostile=(b"404 a\x00b", b"099 a", b"600 a", b"20 a", b"500 a\rb"),
)
CHUNKS = mostly(
    *(b"1\r\na\r\n", b"03;a=b\r\nabc\r\n", b"4\r\n\r\n\r\n\r\n", b"A;a\r\n0123456789\r\n"),
    hostile=(b"3\nabc\r\n", b"3\r\nabcd\r\n", b"3;a\nbc\r\nabc\r\n", b"3 \r\nabc\r\n", b"+3\r\nabc\r\n", b"3\r\nabc\n"),
)
ENDS = mostly(
    *(b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"000;a\r\n\r\nGET", b""),
    hostile=(b"0\r\nA: b\n\r\n", b"0\r\n\n", b"0\r\n\r", b"0\r\n b\r\n\r\n", b"0\r\nHost: a\r\n\r\n"),
)
BODIES = st.sampled_from([b"", b"ab", b"abc", b"abcd"]) | st.builds(
    lambda chunks, end: b"".join(chunks) + end, st.lists(CHUNKS, max_size=3), ENDS
)


def lines(fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields)


def judged_by_h11(judge: h11.Connection, wire: bytes) -> tuple[h11.Request | h11.Response, bytes, bool, bytes]:
    """Head, payload, whether the message is complete, and what follows it. Raises where h11 refuses."""
    judge.receive_data(wire)
    head = judge.next_event()
    while isinstance(head, h11.InformationalResponse):
        head = judge.next_event()
    assert isinstance(head, h11.Request | h11.Response), f"h11 sees no head but {head!r}"
    payload = b""
    while isinstance(event := judge.next_event(), h11.Data):
        payload += event.data
    complete = isinstance(event, h11.EndOfMessage)
    return head, payload, complete, judge.trailing_data[0] if complete else b""


def as_h11_tells(fields: Fields) -> list[tuple[bytes, bytes]]:
    """h11 puts names in lower case, and codings too."""
    pairs = ((name.lower(), value) for name, value in fields)
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in pairs]


def judged_by_us(reader: BodyReader, pieces: list[bytes]) -> tuple[bytes, bool, bytes]:
    payload = b"".join([reader.feed(piece) for piece in pieces])
    return payload, reader.done, reader.rest


def cut(wire: bytes, where: list[int]) -> list[bytes]:
    places = sorted(place % (len(wire) + 1) for place in where)
    return [wire[start:end] for start, end in zip([0, *places], [*places, len(wire)], strict=True)]


CUTS = st.lists(st.integers(0, 100), max_size=5)


def h11_server() -> h11.Connection:
    return h11.Connection(h11.SERVER)


def h11_client(method: bytes) -> h11.Connection:
    judge = h11.Connection(h11.CLIENT)
    judge.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    judge.send(h11.EndOfMessage())
    return judge


@quick
@given(METHODS, TARGETS, VERSIONS, FIELDS, BODIES, CUTS)
@example(b"POST", b"/", b"HTTP/1.1", [(b"Content-Length", b"3")], b"abcd", [])
@example(b"POST", b"/", b"HTTP/1.1", [(b"Transfer-Encoding", b"chunked ")], b"3\r\nabc\r\n0\r\nA: b\r\n\r\nGET", [4])
@example(
    b"POST", b"/", b"HTTP/1.1", [(b"Connection", b"upgrade"), (b"Upgrade", b"a"), (b"Content-Length", b"3")], b"abc", []
)
@example(b"OPTIONS", b"*", b"HTTP/1.1", [(b"A", b"\xff")], b"", [])
def test_requests(method, target, version, fields, body, where):
    head = b"%b %b %b\r\nHost: a\r\n%b\r\n" % (method, target, version, lines(fields))
    wire = head + body
    try:
        end = find_head_end(wire)
        ours = parse_request(wire[:end])
        payload, done, rest = judged_by_us(body_reader(ours), cut(wire[end:], where))
    except Malformed:
        return
    theirs, their_payload, their_done, their_rest = judged_by_h11(h11_server(), wire)
    assert (ours.method, ours.request_target) == (theirs.method, theirs.target)
    assert ours.minor == int(theirs.http_version[2:])
    assert as_h11_tells(ours.fields()) == list(theirs.headers)
    assert (payload, done) == (their_payload, their_done)
    assert not done or rest == their_rest


@quick
@given(
    st.sampled_from([b"GET", b"HEAD"]),
    VERSIONS,
    STATUSES,
    FIELDS,
    BODIES,
    CUTS,
)
@example(b"HEAD", b"HTTP/1.1", b"200 OK", [(b"Content-Length", b"3")], b"", [])
@example(b"GET", b"HTTP/1.1", b"200 OK", [(b"Transfer-Encoding", b"chunked")], b"3\r\nabc\r\n0\r\n\r\n", [1, 2, 3])
@example(b"GET", b"HTTP/1.1", b"200 OK", [], b"abc", [1])
def test_responses(method, version, status, fields, body, where):
    wire = b"%b %b\r\n%b\r\n" % (version, status, lines(fields)) + body
    try:
        end = find_head_end(wire)
        ours = parse_response(wire[:end], method)
        payload, done, rest = judged_by_us(body_reader(ours), cut(wire[end:], where))
    except Malformed:
        return
    theirs, their_payload, their_done, their_rest = judged_by_h11(h11_client(method), wire)
    assert ours.status == theirs.status_code
    assert ours.minor == int(theirs.http_version[2:])
    assert as_h11_tells(ours.fields()) == list(theirs.headers)
    assert (payload, done) == (their_payload, their_done)
    assert not done or rest == their_rest


@for_each("wire", [b"PUT /a?b HTTP/1.1\r\nHost:a\r\nContent-Length:3\r\nX-A: b\r\n\r\n"])
def test_every_byte_everywhere_in_a_request(wire: bytes):
    """In the place of each byte of a head, each other one."""
    for raw in (wire[:at] + bytes([code]) + wire[at + 1 :] for at in range(len(wire)) for code in range(256)):
        try:
            ours = parse_request(raw)
        except Malformed:
            continue
        theirs, *_ = judged_by_h11(h11_server(), raw)
        assert (ours.method, ours.request_target) == (theirs.method, theirs.target)
        assert (ours.length, as_h11_tells(ours.fields())) == (length_of(theirs), list(theirs.headers))


@for_each("wire", [b"HTTP/1.1 200 OK\r\nContent-Length:3\r\nVia: b\r\n\r\n"])
def test_every_byte_everywhere_in_a_response(wire: bytes):
    for raw in (wire[:at] + bytes([code]) + wire[at + 1 :] for at in range(len(wire)) for code in range(256)):
        try:
            ours = parse_response(raw, b"GET")
        except Malformed:
            continue
        if ours.status >= 200:
            theirs, *_ = judged_by_h11(h11_client(b"GET"), raw)
            assert (ours.status, ours.reason) == (theirs.status_code, theirs.reason)
            assert (ours.length, as_h11_tells(ours.fields())) == (length_of(theirs), list(theirs.headers))


def length_of(head: h11.Request | h11.Response) -> int:
    return int(dict(head.headers).get(b"content-length", b"0"))


@quick
@given(st.lists(st.binary(max_size=40), max_size=6), st.booleans(), st.lists(st.integers(0, 400), max_size=8))
def test_chunks_that_we_write_are_read_by_all_alike(payloads, with_trailers, where):
    """Whole and cut anywhere, with bytes after the end."""
    trailers = [(b"X-A", b"b")] if with_trailers else []
    wire = b"".join(map(chunk, payloads)) + last_chunk(trailers)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader = body_reader(parse_request(head))
    assert judged_by_us(reader, cut(wire + b"GET", where)) == (b"".join(payloads), True, b"GET")
    assert reader.trailers == tuple(trailers)
    assert judged_by_h11(h11_server(), head + wire + b"GET")[1:] == (b"".join(payloads), True, b"GET")


TOKENS = st.text("abcXYZ-_.!~", min_size=1, max_size=8).map(str.encode)
LEGAL_VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12).map(
    lambda t: t.encode("latin-1")
)
ORDINARY = st.lists(
    st.tuples(TOKENS.map(b"X-".__add__), LEGAL_VALUES)
    | st.tuples(st.sampled_from([b"Connection", b"Keep-Alive", b"Via", b"TE"]), TOKENS),
    max_size=8,
)


@quick
@given(ORDINARY)
def test_legal_fields_pass_and_go_on_as_h11_reads_them(fields):
    """What is spliced out of a head holds the same fields, in their order, less those that are for one hop."""
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines(fields) + b"\r\n")
    sent = request(head, b"/", b"b")
    theirs, *_ = judged_by_h11(h11_server(), sent)
    dropped = {b"connection", b"keep-alive", b"te", *head.connection_named}
    kept = [(name.lower(), value.strip(b" \t")) for name, value in fields if name.lower() not in dropped]
    assert list(theirs.headers) == [(b"host", b"b"), *kept, (b"via", b"1.1 fastgw")]


@for_each("size", range(1, 40))
def test_a_pipeline_is_cut_into_the_requests_that_h11_sees(size: int):
    """Chunked, with a length and without a body, one behind the other, in pieces of every size."""
    requests = [
        b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
        b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\ndef",
        b"GET /4 HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
    wire = b"".join(requests)
    arriving = (wire[at : at + size] for at in range(0, len(wire), size))
    buffer, seen, reader = b"", [], None
    for piece in arriving:
        buffer += piece
        while buffer:
            if reader is None:
                end = find_head_end(buffer)
                if end < 0:
                    break
                head = parse_request(buffer[:end])
                reader, payload, buffer = body_reader(head), b"", buffer[end:]
            payload += reader.feed(buffer)
            buffer = reader.rest
            if reader.done:
                seen.append((head.path, payload))
                reader = None
    assert seen == [(b"/1", b"abc"), (b"/2", b""), (b"/3", b"def"), (b"/4", b"")]

    judge = h11_server()
    judge.receive_data(wire)
    for path, payload in seen:
        assert judge.next_event().target == path
        while isinstance(event := judge.next_event(), h11.Data):
            payload = payload.removeprefix(event.data)
        assert payload == b""
        judge.send(h11.Response(status_code=204, headers=[]))
        judge.send(h11.EndOfMessage())
        judge.start_next_cycle()
