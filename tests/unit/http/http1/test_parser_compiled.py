"""The compiled twin of `wire` against its reference: whatever the bytes, both come to the same, or refuse alike."""

from collections.abc import Callable
from typing import Any

import pytest
from httptools import HttpRequestParser, HttpResponseParser
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastgw.http.fields import folded
from fastgw.http.http1 import _body as bodies
from fastgw.http.http1 import _parser as scan
from fastgw.http.http1 import _serializer as compiled_splice
from fastgw.http.http1 import body, llhttp, parser_reference, serializer_reference
from fastgw.http.http1.body import BodyReader
from fastgw.http.malformed import Malformed
from tests.support.table import for_each
from tests.unit.http.http1 import test_against_h11 as messages
from tests.unit.http.http1 import test_body, test_requests, test_responses

thorough = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))

Outcome = dict[str, object] | str


def outcome(look: Callable[[], dict[str, object]]) -> Outcome:
    try:
        return look()
    except Malformed as malformed:
        return f"{malformed.status} {malformed.reason}"


BOTH = ["raw", "minor", "fields_start", "length", "chunked", "close", "upgrade", "known", "connection_named"]
BOTH += ["whole", "payload"]
OF_REQUESTS = ["method", "request_target", "scheme", "authority", "host", "raw_path", "path", "query"]
OF_REQUESTS += [
    "version",
    "body_length",
    "forwarded",
    "expects_continue",
    "accepts_trailers",
    "ordinary",
    "path_as_sent",
    "host_as_sent",
    "sized",
]
OF_RESPONSES = ["version", "body_length", "status", "reason", "until_close", "has_body", "payload_length"]
ASKED = (b"host", b"via", b"x-request-id", b"user-agent", b"referer", b"origin", b"x-a", b"A", b"cookie", b"date",
         b"server", b"")  # fmt: skip
ASKED += (b"authorization", b"Authorization")
LEFT_OUT = [frozenset(names) for names in ((), (b"via",), (b"via", b"x-request-id", b"trailer"), (b"host", b"date"))]
LEFT_OUT += [
    frozenset({serializer_reference.NO_VIA}),
    frozenset({serializer_reference.NO_VIA, b"via", b"authorization"}),
]
LEFT_OUT += [
    frozenset({b"x-a"}),
    parser_reference.FORWARDING,
    frozenset({b"authorization", b"x_a", b"x-real-ip", b"a"}),
]
LEFT_OUT += [frozenset(b"n%d" % number for number in range(20)) | {b"x-a", b"cookie"}, frozenset({b"X-A", b""})]


LENGTHS = [serializer_reference.UNFRAMED, serializer_reference.IN_CHUNKS, 0, 7, 10, 123_456_789_012_345_678, 2**63 - 1]


def dated() -> bytes:
    return b"Date: now\r\n"


def attributes(head: Any, names: list[str]) -> dict[str, object]:
    """All that can be asked of a head, before and after its fields are parsed."""
    told = {name: (getattr(head, name), type(getattr(head, name))) for name in names}
    for stage in ("unparsed", "parsed"):
        told[f"first, {stage}"] = [head.first(name) for name in ASKED]
        told[f"field, {stage}"] = [head.field(name) for name in ASKED]
        told[f"values, {stage}"] = [head.values(name) for name in ASKED]
        told[f"edited, {stage}"] = head.edited()
        told[f"fields, {stage}"] = list(head.fields())
    return told | {"repr": repr(head), "dropped": (head.DROPPED, head.KNOWN)}


def read(reader: BodyReader, pieces: list[bytes]) -> Outcome:
    """What a body amounts to, and what of it was read before it was refused."""
    payload = []

    def whole() -> dict[str, object]:
        for piece in pieces:
            payload.append(reader.feed(piece))
        told = {"done": reader.done, "rest": reader.rest, "trailers": reader.trailers}
        reader.eof()
        return told

    return {"read": outcome(whole), "payload": payload, "done": reader.done}


def of_request(judges: Any, splicer: Any, raw: bytes, following: list[bytes], max_fields: int) -> Outcome:
    def look() -> dict[str, object]:
        head = judges.parse_request(raw, max_fields)
        rendered = [splicer.end_to_end(head, also) for also in LEFT_OUT]
        rendered += [splicer.request(head, b"/t", b"h:1", also, b"C: d\r\n") for also in LEFT_OUT]
        told = attributes(head, BOTH + OF_REQUESTS) | {"rendered": rendered, "body": read(head.body(), following)}
        rendered += [splicer.request(head, b"/", b""), splicer.request(head), splicer.request(head, host=b"h")]
        rendered.append(splicer.request(head, payload=b"efg"))
        head.fields().add(b"X-A", b"b")
        rendered += [splicer.request(head, b"/t", b"h:1", also, b"C: d\r\n") for also in LEFT_OUT]
        return told

    return outcome(look)


def of_response(judges: Any, splicer: Any, raw: bytes, following: list[bytes], method: bytes) -> Outcome:
    """The first of the `following` bytes came with the head."""

    def look() -> dict[str, object]:
        received = raw + following[0]
        head = judges.parse_answer(received, len(raw), method)
        rendered = [splicer.end_to_end(head, also) for also in LEFT_OUT]
        rendered += [splicer.response(head, 200, also, b"C: d\r\n", b"efg") for also in LEFT_OUT]
        told = attributes(head, BOTH + OF_RESPONSES) | {"rendered": rendered}
        if head.payload is None:
            told["body"] = read(head.body(), following)
        rendered += as_a_whole(splicer, head)
        rendered.append(splicer.response(head, 99))
        rendered += [
            splicer.response(head, 200, length=length, date_line=dated, last=b"Z: z\r\n") for length in LENGTHS
        ]
        head.fields().add(b"X-A", b"b")
        rendered += [splicer.response(head, head.status, also, b"C: d\r\n", b"efg") for also in LEFT_OUT]
        rendered += as_a_whole(splicer, head)
        return told

    return outcome(look)


def as_a_whole(splicer: Any, head: Any) -> list[bytes]:
    if not head.whole:
        return []
    sent = [splicer.whole(head, dated, b"", also, b"C: d\r\n") for also in LEFT_OUT]
    return sent + [splicer.whole(head, dated, last) for last in (b"", b"Z: z\r\n")]


def agree_on_request(raw: bytes, following: list[bytes], max_fields: int = 100) -> None:
    ours = of_request(scan, compiled_splice, raw, following, max_fields)
    assert ours == of_request(parser_reference, serializer_reference, raw, following, max_fields)
    for received in (raw, raw + b"".join(following)):
        agree_on_taking_request(received, len(received), max_fields)


def agree_on_response(raw: bytes, following: list[bytes], method: bytes = b"GET") -> None:
    ours = of_response(scan, compiled_splice, raw, following, method)
    assert ours == of_response(parser_reference, serializer_reference, raw, following, method)
    for received in (raw, raw + following[0], raw + b"".join(following)):
        agree_on_taking_answer(received, method)


def agree_on_taking_request(received: bytes, max_bytes: int, max_fields: int = 100) -> None:
    """The twin takes what it can judge itself if it is one head, alone or with its body, and no more."""

    def told(head: Any, splicer: Any) -> Outcome:
        sent = splicer.request(head, payload=head.payload or b"")
        body = None if head.whole else read(head.body(), [])
        dropped = head.drop_payload() if head.payload else None
        return attributes(head, BOTH + OF_REQUESTS) | {"sent": sent, "body": body, "dropped": dropped}

    ours, theirs = (
        take_out(judges.take_request, received, max_bytes, max_fields) for judges in (scan, parser_reference)
    )
    end = received.find(b"\r\n\r\n") + 4
    raw, behind = (received[:end], received[end:]) if 4 <= end <= max_bytes else (b"", b"")
    for took, judges, kind in (
        (theirs, parser_reference, parser_reference.Http1RequestHead),
        (ours, scan, scan.Http1RequestHead),
    ):
        judged = outcome(lambda judges=judges: {"head": judges.parse_request(raw, max_fields)})  # type: ignore[misc]
        head = judged["head"] if isinstance(judged, dict) else None
        is_one = type(head) is kind and (not behind or (not head.chunked and head.length == len(behind)))
        assert isinstance(took, bytes) is not is_one
        assert isinstance(took, bytes) or took.raw + (took.payload or b"") == received
    if not isinstance(ours, bytes):
        assert told(ours, compiled_splice) == told(theirs, serializer_reference)


def agree_on_taking_answer(received: bytes, method: bytes) -> None:
    """The twin takes what it can judge itself if it is one final response and no more."""

    def told(head: Any, splicer: Any) -> Outcome:
        return attributes(head, BOTH + OF_RESPONSES) | {"sent": as_a_whole(splicer, head)}

    ours, theirs = (take_out(judges.take_answer, received, method) for judges in (scan, parser_reference))
    end = received.find(b"\r\n\r\n") + 4
    twins = by_whom(scan.parse_answer, received, end, method) if end >= 4 else None
    if isinstance(ours, bytes):
        assert isinstance(theirs, bytes) or twins is not scan.Http1ResponseHead
    else:
        assert twins is scan.Http1ResponseHead
        assert ours.whole
        assert ours.status >= 200
        assert told(ours, compiled_splice) == told(theirs, serializer_reference)
    if not isinstance(theirs, bytes):
        raw = theirs.raw
        assert received.startswith(raw)
        assert theirs.payload == (
            unchunked(raw, received[end:]) if theirs.chunked and end < len(received) else received[end:]
        )


def unchunked(raw: bytes, behind: bytes) -> bytes:
    """The payload of an answer in chunks that ends where `behind` does, taken apart by a reader."""
    reader = parser_reference.parse_response(raw, b"GET").body()
    payload = reader.feed(behind)
    assert (reader.done, reader.rest, reader.trailers) == (True, b"", ())
    return payload


def take_out(take: Callable[..., Any], received: bytes, *arguments: object) -> Any:
    """What is taken out of a buffer that is read into anew at once; if bytes, then the very ones."""
    buffer = memoryview(bytearray(received + b"\r\n\r\nof an earlier read"))
    took = take(buffer, len(received), *arguments)
    buffer[:] = bytes(len(buffer))
    assert not isinstance(took, bytes) or took == received
    return took


def by_whom(judge: Callable[..., Any], *told: object) -> type | None:
    """The type of the head; None: it was refused."""
    try:
        return type(judge(*told))
    except Malformed:
        return None


def agree_on_end(raw: bytes) -> None:
    for start in (0, len(raw) // 2):
        for begin in (0, len(raw) // 3, len(raw)):
            assert end_by(scan, raw, start, begin) == end_by(parser_reference, raw, start, begin)


def end_by(judges: Any, received: bytes | bytearray, start: int, begin: int = 0) -> Outcome:
    return outcome(lambda: {"end": judges.find_head_end(received, start, begin)})


def get(*fields: bytes, line: bytes = b"GET /a?b HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: a", *fields, b"", b""])


def ok(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


ORDINARY_REQUESTS = [
    get(),
    get(b"Connection: keep-alive", b"User-Agent: a", b"Referer: b", b"X-Request-Id: c", b"user-agent: d"),
    get(b"ORIGIN: a ", b"origin: b", b"x-origin: c"),
    get(b"Origin:", b"Origin: b"),
    get(b"Origin: "),
    get(b"connection: Close", b"Cookie: a=b; c=d", b"X_A: 1", b"x-a:2\t"),
    get(b"Content-Length: 3", line=b"POST / HTTP/1.1"),
    get(b"Content-Length: 000000000000000003 \t", line=b"POST / HTTP/1.1"),
    get(b"Transfer-Encoding: Chunked", b"Trailer: A", line=b"POST / HTTP/1.1"),
    get(b"Max-Forwards: 1", b"Via: 1.0 a", b"VIA: 1.1 b", line=b"OPTIONS /%7ea/./b HTTP/1.1"),
    get(b"X-Forwarded-For: a", b"Forwarded: for=b", b"Keep-Alive: 1", b"Proxy-Connection: a", line=b"TRACE / HTTP/1.1"),
    b"GET //a;b=c,d HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost:\tb-c_~.d.:65535 \r\nConnection: keep-alive\r\n\r\n",
    get(*[b"A%d: b" % number for number in range(99)]),
]
ORDINARY_RESPONSES = [
    ok(b"Content-Length: 3", b"Date: a", b"Server: b", b"Via: 1.1 c", b"Host: d", b"Host: e"),
    ok(b"Content-Length: 3", b"Connection: close", b"Content_Length: 9"),
    ok(b"Content-Length: 0", b"Keep-Alive: timeout=5", b"Connection: Keep-Alive", line=b"HTTP/1.0 404"),
    ok(b"Transfer-Encoding: chunked", b"Trailer: A", line=b"HTTP/1.1 201 \xe9 a\t"),
    ok(b"Transfer-Encoding: chunked", line=b"HTTP/1.1 304 "),
    ok(b"Content-Length: 3", line=b"HTTP/1.1 204 A"),
    ok(b"X-A: b", line=b"HTTP/1.1 103 Early Hints"),
    ok(b"TE: a", b"Proxy-Authenticate: b"),
]
FOLLOWING = [[b""], [b"abc"], [b"ab", b"c"], [b"3\r\nabc\r\n0\r\n\r\nGET"], [b"abc", b"3\r\nabc\r\n"]]


@for_each("raw", ORDINARY_REQUESTS)
@for_each("following", FOLLOWING)
def test_ordinary_requests(raw: bytes, following: list[bytes]):
    """They are not left to the reference."""
    assert type(scan.parse_request(raw)) is scan.Http1RequestHead
    agree_on_request(raw, following)


@for_each("raw", ORDINARY_RESPONSES)
@for_each("following", FOLLOWING)
@for_each("method", [b"GET", b"HEAD"])
def test_ordinary_responses(raw: bytes, following: list[bytes], method: bytes):
    assert type(scan.parse_response(raw, method)) is scan.Http1ResponseHead
    agree_on_response(raw, following, method)


UNORDINARY_REQUESTS = [
    *(raw for raw, _ in test_requests.REFUSED.values()),
    *map(test_requests.post, test_requests.REASONS),
    *(get(b"Connection: " + value) for value in (b"", b"upgrade", b"x-a, close", b"keep-alive, te", b"close\t")),
    *(get(field) for field in (b"Upgrade: a", b"TE: trailers", b"Expect: 100-continue", b"Via:", b"A:", b"!#$|~: a")),
    *(
        b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host
        for host in (b"A.b", b"[::1]:8080", b"a..", b".", b"a:0", b"a:99999")
    ),
    *(get(line=b"GET " + target + b" HTTP/1.1") for target in (b"http://a/", b"*", b"/.", b"/a/..", b"/..", b"/%zz")),
    get(line=b"CONNECT a:1 HTTP/1.1"),
    get(line=b"GET /%zz HTTP/1.1") + b"a",
    get(b"Content-Length: 3", b"Upgrade: a", b"Connection: upgrade", line=b"POST / HTTP/1.1"),
    get(b"Transfer-Encoding: chunked ", line=b"POST / HTTP/1.1"),
    get(*[b"Via: a"] * 50),
    get(b"A: " + b"b" * 70_000),
]
UNORDINARY_RESPONSES = [
    *test_responses.REFUSED.values(),
    ok(b"Connection: upgrade", b"Upgrade: a", line=b"HTTP/1.1 101 A"),
    ok(b"Connection: upgrade", b"Upgrade: a", b"Content-Length: 3"),
    ok(b"Connection: X-A", b"X-A: b", b"Content-Length: 3"),
    ok(*[b"Via: a"] * 50),
    ok(b"A: " + b"b" * 70_000, b"Content-Length: 3"),
]


@for_each("raw", UNORDINARY_REQUESTS)
def test_what_is_out_of_the_ordinary_in_requests(raw: bytes):
    agree_on_request(raw, [b"abc"])
    agree_on_end(raw)


@for_each("raw", UNORDINARY_RESPONSES)
def test_what_is_out_of_the_ordinary_in_responses(raw: bytes):
    for method in (b"GET", b"HEAD"):
        agree_on_response(raw, [b"abc"], method)
    agree_on_end(raw)


@pytest.mark.parametrize("most", range(4))
def test_the_number_of_fields(most: int):
    for count in range(5):
        agree_on_request(get(*[b"A: b"] * count), [b""], most)


def test_every_byte_everywhere():
    """In the place of each byte of a head, each other one."""
    request = b"PUT /a?b HTTP/1.1\r\nHost:a\r\nContent-Length:3\r\nX-A: b\r\n\r\n"
    response = b"HTTP/1.1 200 OK\r\nContent-Length:3\r\nVia: b\r\n\r\n"
    for code in range(256):
        for at in range(len(request)):
            raw = request[:at] + bytes([code]) + request[at + 1 :]
            assert seen(scan.parse_request, raw) == seen(parser_reference.parse_request, raw), raw
        for at in range(len(response)):
            raw = response[:at] + bytes([code]) + response[at + 1 :]
            assert seen(scan.parse_answer, raw, len(raw), b"GET") == seen(
                parser_reference.parse_answer, raw, len(raw), b"GET"
            ), raw


def seen(judge: Callable[..., Any], *told: object) -> object:
    try:
        head = judge(*told)
    except Malformed as malformed:
        return malformed.status, malformed.reason
    return head.length, head.chunked, head.close, head.known, head.minor, list(head.fields())


# What makes a difference somewhere in a message, put in its place or into it.
BYTES = [bytes([code]) for code in b"\r\n \t:,_-./?#%01aA\x00\x1f\x7f\xff"]
WORDS = [b"\r\n", b"\r\n\r\n", b"close", b"keep-alive", b"chunked", b"HTTP/1.0", b"/../", b"%2e", b""]
LINES = [b"Host: a", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Connection: close", b"Via: a", b"A_B: c"]
BITS = st.sampled_from(BYTES + WORDS + [b"\r\n" + line for line in LINES]) | st.binary(min_size=1, max_size=1)
CHANGES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), BITS), max_size=4)


def changed(raw: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for where, instead_of, piece in changes:
        at = where % (len(raw) + 1)
        raw = raw[:at] + piece + raw[at + instead_of :]
    return raw


@thorough
@given(st.sampled_from(ORDINARY_REQUESTS[:-1] + UNORDINARY_REQUESTS[:-1]), CHANGES, st.sampled_from(FOLLOWING))
def test_mutated_requests(raw, changes, following):
    raw = changed(raw, changes)
    agree_on_request(raw, following)
    agree_on_end(raw)


@thorough
@given(
    st.sampled_from(ORDINARY_RESPONSES + UNORDINARY_RESPONSES[:-1]),
    CHANGES,
    st.sampled_from(FOLLOWING),
    st.sampled_from([b"GET", b"HEAD"]),
)
def test_mutated_responses(raw, changes, following, method):
    agree_on_response(changed(raw, changes), following, method)


@thorough
@given(messages.METHODS, messages.TARGETS, messages.VERSIONS, messages.FIELDS, messages.BODIES, messages.CUTS)
def test_composed_requests(method, target, version, fields, sent, where):
    raw = b"%b %b %b\r\nHost: a\r\n%b\r\n" % (method, target, version, messages.lines(fields))
    agree_on_request(raw, messages.cut(sent, where))


@thorough
@given(
    st.sampled_from([b"GET", b"HEAD"]),
    messages.VERSIONS,
    messages.STATUSES,
    messages.FIELDS,
    messages.BODIES,
    messages.CUTS,
)
def test_composed_responses(method, version, status, fields, sent, where):
    raw = b"%b %b\r\n%b\r\n" % (version, status, messages.lines(fields))
    agree_on_response(raw, messages.cut(sent, where), method)


@thorough
@given(st.binary(max_size=60) | st.lists(BITS, max_size=20).map(b"".join), st.integers(0, 60))
@example(b"\r\n\r\n", 4)
@example(b"\r\n\r\r\n\r\n" + b"\r\n" * 20, 0)
def test_where_heads_end(raw, start):
    for received in (raw, bytearray(raw)):
        assert end_by(scan, received, start) == end_by(parser_reference, received, start)
    agree_on_end(raw)


@for_each("size", range(70))
def test_what_stands_at_the_edges_of_what_is_read_at_once(size: int):
    """Values and heads of every length, with every kind of end: bytes are looked at by sixteens."""
    for odd in (b"", b"\x00", b"\x7f", b"\t", b"\x1f", b"\x80", b"\r", b"\n", b" "):
        for at in (0, size // 2, size):
            value = b"b" * at + odd + b"b" * (size - at)
            agree_on_request(get(b"A:" + value), [b""])
            agree_on_end(get(b"A:" + value))
            agree_on_end(b"a" * size + b"\r\n" + odd + b"\r\n" + b"a" * at)


@for_each(
    "name",
    sorted(
        parser_reference.Http1RequestHead.KNOWN
        | parser_reference.Http1ResponseHead.KNOWN
        | {b"authorization", b"x" * 40}
    ),
)
def test_names_are_known_in_whatever_case_and_none_that_only_seems_to_be_in_another(name: bytes):
    """A control, too, becomes a hyphen or a digit by the bit that makes letters small."""
    spellings = [name, name.upper(), name.title()]
    spellings += [name[:at] + bytes([name[at] ^ 0x20]) + name[at + 1 :] for at in range(len(name))]
    for spelling in spellings:
        agree_on_request(get(b"Host: a", spelling + b": a, b"), [b""])
        agree_on_request(get(b"Host: a", spelling + b":"), [b""])  # hardly a byte behind it
        agree_on_response(ok(b"Content-Length: 0", spelling + b":"), [b""])


@pytest.mark.parametrize("length", range(5))
def test_what_is_taken_out_of_a_buffer(length: int):
    for judges in (scan, parser_reference):
        assert judges.leading_bytes(memoryview(bytearray(b"abc")), length) == b"abc"[:length]


@for_each("raw", ORDINARY_REQUESTS[:-1])
def test_an_ordinary_request_is_taken_when_it_is_there_alone_and_no_longer_than_it_may_be(raw: bytes):
    took = take_out(scan.take_request, raw, len(raw), 100)
    assert type(took) is scan.Http1RequestHead
    assert took.raw == raw
    assert take_out(scan.take_request, raw, len(raw) - 1, 100) == raw
    for behind in (b"\r\n", b"a", b"\x00", get(), get()[:-1]):
        assert take_out(scan.take_request, raw + behind, 10_000, 100) == raw + behind
        agree_on_taking_request(raw + behind, 10_000)
    for end in range(len(raw)):
        assert take_out(scan.take_request, raw[:end], 10_000, 100) == raw[:end]
        agree_on_taking_request(raw[:end], 10_000)


@pytest.mark.parametrize("fields", range(1, 5))
def test_requests_with_too_many_fields_are_not_taken(fields: int):
    for most in range(6):
        agree_on_taking_request(get(*[b"A: b"] * (fields - 1)), 10_000, most)


WHOLE_REQUESTS = [
    get(b"Content-Length: 3", line=b"POST / HTTP/1.1") + b"abc",
    get(b"Content-Length: 3") + b"a\x00c",
    get(b"Content-Length: 4", b"Connection: close", line=b"PUT / HTTP/1.1") + b"\r\n\r\n",
    get(b"Content-Length: 0", line=b"OPTIONS / HTTP/1.1"),
    get(b"Content-Length: 003", b"Connection: keep-alive", line=b"POST / HTTP/1.0") + b"abc",
    get(b"Content-Length: %d" % len(get())) + get(),
    get(b"Content-Length: 60000", line=b"PATCH / HTTP/1.1") + b"a" * 60_000,
]


@pytest.mark.parametrize("message", WHOLE_REQUESTS)
def test_a_request_is_taken_with_its_body_when_all_of_it_is_there_and_no_more(message: bytes):
    end = message.index(b"\r\n\r\n") + 4
    took = take_out(scan.take_request, message, end, 100)
    assert type(took) is scan.Http1RequestHead
    assert (took.raw, took.payload) == (message[:end], message[end:])
    agree_on_taking_request(message, end)
    agree_on_taking_request(message, end - 1)
    for behind in (b"\r\n", b"a", b"\x00", get()):
        assert take_out(scan.take_request, message + behind, 100_000, 100) == message + behind
        agree_on_taking_request(message + behind, 100_000)
    for cut in {*range(min(len(message), 300)), len(message) - 1} - {end}:
        assert take_out(scan.take_request, message[:cut], 100_000, 100) == message[:cut]
        agree_on_taking_request(message[:cut], 100_000)


WHOLE = [
    ok(b"Content-Length: 3", b"Date: a") + b"abc",
    ok(b"Content-Length: 4", b"Connection: close") + b"\r\n\r\n",
    ok(b"Content-Length: 0"),
    ok(b"Content-Length: 3", line=b"HTTP/1.0 404") + b"a\x00c",
    ok(line=b"HTTP/1.1 204 No Content"),
    ok(b"Content-Length: 7", line=b"HTTP/1.1 304 Not Modified"),
    ok(b"Content-Length: 66000") + b"a" * 66_000,
]
CHUNKED = ok(b"Transfer-Encoding: chunked")
WHOLE_IN_CHUNKS = [
    CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    CHUNKED + b"0\r\n\r\n",
    CHUNKED + b"a\r\n0\r\n\r\n0\r\n\r\n\r\n0A\r\n0\r\n\r\n0\r\n\r\n\r\n000\r\n\r\n",
    ok(b"transfer-encoding: Chunked", b"Connection: close") + b"1\r\n\x00\r\n1\r\na\r\n0\r\n\r\n",
    CHUNKED + b"fde8\r\n" + b"a" * 65_000 + b"\r\n0\r\n\r\n",
]


@for_each("answer", WHOLE + WHOLE_IN_CHUNKS)
def test_an_answer_is_taken_when_all_of_it_is_there_and_no_more(answer: bytes):
    took = take_out(scan.take_answer, answer, b"GET")
    assert type(took) is scan.Http1ResponseHead
    agree_on_taking_answer(answer, b"GET")
    for behind in (b"\r\n", b"a", b"\x00", ok(b"Content-Length: 0")):
        assert take_out(scan.take_answer, answer + behind, b"GET") == answer + behind
        agree_on_taking_answer(answer + behind, b"GET")
    for end in {*range(min(len(answer), 300)), len(answer) - 1}:
        assert take_out(scan.take_answer, answer[:end], b"GET") == answer[:end]
        agree_on_taking_answer(answer[:end], b"GET")
        agree_on_taking_answer(answer[:end], b"HEAD")


@for_each(
    "answer",
    [
        ok(line=b"HTTP/1.1 100 Continue"),
        ok(b"Link: </a>", line=b"HTTP/1.1 103 Early Hints"),
        ok(line=b"HTTP/1.1 103 Early Hints") + WHOLE[0],
        ok(b"Connection: upgrade", b"Upgrade: a", line=b"HTTP/1.1 101 A"),
        ok() + b"until the end",
        CHUNKED,
        *(
            CHUNKED + behind
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
    for judges in (scan, parser_reference):
        assert take_out(judges.take_answer, answer, b"GET") == answer
    agree_on_taking_answer(answer, b"GET")


@pytest.mark.parametrize("fields", [(b"Content-Length: 3",), (b"Transfer-Encoding: chunked",), ()])
def test_to_head_an_answer_ends_with_its_head(fields: tuple[bytes, ...]):
    assert type(take_out(scan.take_answer, ok(*fields), b"HEAD")) is scan.Http1ResponseHead
    agree_on_taking_answer(ok(*fields), b"HEAD")
    for behind in (b"abc", b"3\r\nabc\r\n0\r\n\r\n"):
        assert take_out(scan.take_answer, ok(*fields) + behind, b"HEAD") == ok(*fields) + behind
        agree_on_taking_answer(ok(*fields) + behind, b"HEAD")


def test_what_was_not_taken_does_not_change_what_is_taken_next():
    """One judge looks at many messages."""
    for odd in (get(b"A b: c"), get(b"Content-Length: 3") + b"ab", get()[:-1], get() + get(), get(b"A:\x00")):
        for good in (get(), WHOLE_REQUESTS[0]):
            take_out(scan.take_request, odd, 10_000, 100)
            assert type(take_out(scan.take_request, good, 10_000, 100)) is scan.Http1RequestHead
    for odd in (WHOLE[0][:-1], WHOLE[0] + b"a", ok(b"A b: c"), ok(b"A:\x00"), ok(line=b"HTTP/1.1 100 Continue")):
        take_out(scan.take_answer, odd, b"GET")
        assert type(take_out(scan.take_answer, WHOLE[0], b"GET")) is scan.Http1ResponseHead


def test_a_size_may_have_sixteen_digits():
    answer = CHUNKED + b"0000000000000003\r\nabc\r\n0000000000000000\r\n\r\n"
    assert [take_out(judges.take_answer, answer, b"GET").payload for judges in (scan, parser_reference)] == [
        b"abc",
        b"abc",
    ]


def test_names_that_connection_or_cgi_would_confuse():
    for name in sorted(parser_reference.Http1RequestHead.KNOWN | parser_reference.Http1ResponseHead.KNOWN):
        for spelled in (name, name.upper(), name.replace(b"-", b"_"), name + b"_", name[:-1], b"x" + name):
            agree_on_request(get(spelled + b": 1"), [b""])
            agree_on_response(ok(spelled + b": 1"), [b""])


@for_each(("name", "told"), [("LengthReader", (3,)), ("UntilCloseReader", ())])
@for_each(
    "declared", [b"Content-Length: %d\r\n" % length for length in (2, 3, 4)] + [b"Transfer-Encoding: chunked\r\n"]
)
@for_each("wire", [b"abc", b"abcd", b"ab", b"\r\n\r", b"0\r\n\r\n", b"3\r\n", b"xyz"])
@for_each("size", [1, 2, 100])
def test_readers(name: str, told: tuple[int, ...], declared: bytes, wire: bytes, size: int):
    """Also where llhttp was told something else."""
    raw = b"HTTP/1.1 200 OK\r\n" + declared + b"\r\n"
    our_judge, their_judge = bodies.SecondParser(HttpResponseParser), llhttp.SecondParser(HttpResponseParser)
    assert our_judge.agrees(raw, True)
    their_judge.head(raw, True)
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    ours, theirs = getattr(bodies, name)(*told, our_judge), getattr(body, name)(*told, their_judge)
    assert read(ours, pieces) == read(theirs, pieces)


@for_each("wire", [*test_body.BAD_CHUNKS.values(), *(wire for wire, _, _ in test_body.CHUNKS.values())])
@for_each("size", [1, 7, 10_000])
def test_chunks(wire: bytes, size: int):
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    agree_on_request(get(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.1"), pieces)
    agree_on_response(ok(b"Transfer-Encoding: chunked"), [b"", *pieces])


CHUNK = st.builds(
    lambda size, extension: b"%x%b\r\n%b\r\n" % (size, extension, b"\r\n0" * (size // 3) + b"." * (size % 3)),
    st.integers(1, 40),
    st.sampled_from([b"", b"", b"", b";a", b";a=" + b"b" * 2000]),
)
CHUNKED_BODIES = st.builds(
    lambda chunks, end: b"".join(chunks) + end,
    st.lists(CHUNK, max_size=6),
    st.sampled_from([b"0\r\n\r\n", b"0\r\n\r\nGET", b"00;a\r\n\r\n", b"0\r\nA: b\r\n\r\nGET", b""]),
)


@thorough
@given(CHUNKED_BODIES, CHANGES.filter(lambda changes: len(changes) < 2), st.lists(st.integers(0, 10_000), max_size=12))
def test_chunks_changed_and_cut_anywhere(wire, changes, where):
    """So that the reading goes to and fro between the twin and its reference."""
    pieces = messages.cut(changed(wire, changes), where)
    agree_on_request(get(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.1"), pieces)


HEADS_FOR_LLHTTP = [
    get(),
    get(b"Content-Length: 3"),
    get()[:-2],
    get() + get(),
    get(b" A: b"),
    b"",
    get(b"Content-Length: 0"),
]


@for_each("raw", HEADS_FOR_LLHTTP)
@for_each("body_follows", [True, False, None])
def test_llhttp_is_asked_the_same(raw: bytes, body_follows: bool | None):
    def by_reference() -> dict[str, object]:
        llhttp.SecondParser(HttpRequestParser).head(raw, body_follows)
        return {}

    assert bodies.SecondParser(HttpRequestParser).agrees(raw, body_follows) is (outcome(by_reference) == {})


@pytest.mark.parametrize(
    "raw", [get(b"Content-Length: 3") + tail for tail in (b"", b"ab", b"abc", b"abcd", b"abc" + get())]
)
def test_llhttp_is_asked_the_same_of_whole_messages(raw: bytes):
    def by_reference() -> dict[str, object]:
        llhttp.SecondParser(HttpRequestParser).whole(raw)
        return {}

    assert bodies.SecondParser(HttpRequestParser).whole(raw) is (outcome(by_reference) == {})


CUT_NAMES = [*b"X-A x_a X_A X-a Authorization Via X-Real-IP A x-aa Cookie -a .A a- a~ ! -".split(), b"x-" * 40]
SOUGHT = st.frozensets(st.sampled_from([*b"x-a x_a authorization via x-real-ip a -a a_ .".split(), b"x-" * 40]))


@given(st.lists(st.sampled_from(CUT_NAMES), max_size=30), SOUGHT)
def test_lines_are_cut_out_by_their_names_and_twins_and_the_others_keep_their_bytes(
    names: list[bytes], also: frozenset[bytes]
) -> None:
    """As if all fields were read and written anew, whoever does it."""
    lines = b"".join(b"%b: %d\r\n" % (name, number) for number, name in enumerate(names))
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"
    reference = parser_reference.parse_request(raw)
    written = reference.fields().render(parser_reference.Http1RequestHead.DROPPED | also, frozenset(map(folded, also)))
    assert serializer_reference.end_to_end(parser_reference.parse_request(raw), also) == written
    assert compiled_splice.end_to_end(scan.parse_request(raw), also) == written


@for_each(
    ("lines", "read_here"),
    [
        ((b"te: trailers",), True),
        ((b"te: trailers", b"transfer-encoding: chunked"), True),
        ((b"te: trailers", b"content-length: 3"), True),
        ((b"te: Trailers",), False),
        ((b"te: gzip",), False),
        ((b"te: trailers, gzip",), False),
        ((b"te: trailers", b"te: trailers"), False),
        ((b"te: trailers", b"expect: 100-continue"), False),
        ((b"te:",), False),
        ((b"content-length: 3",), True),
        ((b"transfer-encoding: chunked",), True),
    ],
)
@for_each("line", [b"GET /a?b HTTP/1.1", b"POST /a HTTP/1.1", b"POST /a/../b HTTP/1.1"])
@for_each("payload", [None, b"abc"])
def test_a_request_that_came_by_http2(line, lines, read_here, payload):
    """Calls of gRPC all have `te: trailers`: the compiled module reads them itself."""
    raw = get(*lines, line=line)

    def look(judges: Any, splicer: Any) -> Outcome:
        def told() -> dict[str, object]:
            head = judges.read_http2_request(raw, 100, payload)
            rendered = [splicer.request(head, payload=b"abc"), *(splicer.end_to_end(head, also) for also in LEFT_OUT)]
            return attributes(head, BOTH + OF_REQUESTS) | {"http2": head.http2, "rendered": rendered}

        return outcome(told)

    assert look(scan, compiled_splice) == look(parser_reference, serializer_reference)
    judges = scan if read_here else parser_reference
    assert by_whom(scan.read_http2_request, raw, 100, payload) is judges.Http1RequestHead


@for_each("following", [b"", b"abc", b"abcd", b"3\r\nabc\r\n0\r\n\r\n"])
@for_each("line", [b"content-length: 3", b"transfer-encoding: chunked", b"x: y"])
@for_each("method", [b"GET", b"HEAD"])
def test_a_response_that_came_by_http2(line, method, following):
    raw = b"HTTP/1.1 200 \r\n" + line + b"\r\n\r\n"

    def look(judges: Any) -> Outcome:
        def told() -> dict[str, object]:
            head = judges.read_http2_response(raw + following, len(raw), method, 100)
            return attributes(head, BOTH + OF_RESPONSES) | {"http2": head.http2, "whole": head.whole}

        return outcome(told)

    assert look(scan) == look(parser_reference)
