"""One message read by the gateway, and by two parsers that are not ours.

Of what the gateway accepts, h11 and llhttp must say so too, and see it end at the same byte: it may refuse more. And it
has to come to the same whether the message was received at once or in pieces, and to send the fields on that h11 reads.
"""

from __future__ import annotations

import re
from random import Random
from typing import Any

import h11
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from fastgw.http.fields import Fields, folded
from fastgw.http.http1 import parser, serializer
from fastgw.http.http1.body import body_reader
from fastgw.http.http1.methods import method_for_llhttp
from fastgw.http.malformed import Malformed

ALSO = [
    frozenset[bytes](),
    frozenset([b"via"]),
    frozenset([b"x-forwarded-for", b"x-forwarded-proto", b"via", b"forwarded", b"x-real-ip", b"x-request-id"]),
    frozenset([b"user-agent", b"x-a"]),
    frozenset([b"x_real_ip", b"x_request_id", b"x.forwarded-for", b"v_ia"]),
]
ASKED = [b"user-agent", b"referer", b"host", b"via", b"x-a", b"content-length", b"connection", b"cookie"]
ADDED = b"X-Forwarded-For: 192.0.2.7\r\n"
LAST = b"Connection: close\r\n"
IDS = [b"", b"0af7651916cd43dd8448eb211c80319c", b"a"]

Body = tuple[bytes, bool, bytes]
"""Payload, whether it is complete, and what came behind it."""


class Difference(AssertionError):
    """Two readings of the same bytes."""


def attributes(head: Any, random: Random) -> dict[str, str]:
    """All that is public, asked for in any order: some of it is worked out only then."""
    kind = type(head)
    names = [name for name in dir(kind) if not name.startswith("_") and not callable(getattr(kind, name))]
    random.shuffle(names)
    return {name: repr(getattr(head, name)) for name in names}


def read_body(reader: Any, pieces: list[bytes]) -> Body | None:
    """None: refused."""
    try:
        payload = b"".join([reader.feed(piece) for piece in pieces])
    except Malformed:
        return None
    return payload, reader.done, reader.rest if reader.done else b""


def cut(random: Random, wire: bytes) -> list[bytes]:
    """The same bytes as they may come in: whole, byte by byte, or in a few pieces."""
    die = random.random()
    if die < 0.4:
        return [wire]
    if die < 0.5 and len(wire) < 300:
        return [wire[at : at + 1] for at in range(len(wire))]
    places = sorted(random.randint(0, len(wire)) for _ in range(random.randint(1, 4)))
    return [wire[start:end] for start, end in zip([0, *places], [*places, len(wire)], strict=True)]


def fields_agree(head: Any, random: Random) -> None:
    """What is asked for by name is what the fields have, and what is sent on is them without some. Edits them."""
    lines = list(Fields.parse(head.raw, head.raw.index(b"\n") + 1, head.connection_named))
    names = [*ASKED, *(name.lower() for name, _ in lines)]
    for parsed in (False, True):
        for name in names:
            values = [value for known, value in lines if known.lower() == name]
            if head.values(name) != values or head.first(name) != (values[0] if values else None):
                raise Difference(f"{name!r} is {head.values(name)}, of {lines}")
        for also in ALSO:
            drop = head.DROPPED | also
            alike = {*map(folded, also - serializer.REQUEST_IDS if hasattr(head, "status") else also)}
            kept = [line for line in lines if line[0].lower() not in drop and folded(line[0]) not in alike]
            sent = list(Fields.parse(serializer.end_to_end(head, also), 0))
            if sent != kept:
                raise Difference(f"without {also} {sent} is sent of {lines}")
        if not parsed and list(head.fields()) != lines:
            raise Difference(f"{list(head.fields())} was parsed, of {lines}")
    if random.random() < 0.2:
        fields = head.fields()
        fields.set(b"X-A", b"ours")
        fields.remove(b"User_Agent")
        fields.add(b"Cookie", b"c")


def render_request(head: Any) -> None:
    for also in ALSO:
        serializer.request(head, head.path, b"origin:8080", also, ADDED, b"p")
        for request_id in IDS:
            serializer.request(head, None, None, also, ADDED, b"", request_id)


def _dated() -> bytes:
    return b"Date: Fri, 20 Nov 2026 12:00:00 GMT\r\n"


def render_response(head: Any) -> None:
    payload = head.payload or b""
    for also in ALSO:
        for request_id in IDS:
            for length in (head.length, serializer.UNFRAMED, serializer.IN_CHUNKS):
                sent = head, head.status, also, ADDED, payload, length, _dated, LAST, request_id
                message = serializer.response(*sent)
                if (
                    head.whole
                    and length == len(payload)
                    and serializer.whole(head, _dated, LAST, also, ADDED, request_id) != message
                ):
                    raise Difference(f"as a whole it is not sent as {message!r}")


def end_of(wire: bytes, random: Random) -> int:
    """The end of the head, looked for from several places. -1: it has none."""
    found: list[int | None] = []
    for received in (wire, bytearray(wire)):
        try:
            found.append(parser.find_head_end(received))
        except Malformed:
            found.append(None)
    if found[0] != found[1]:
        raise Difference(f"a bytearray ends at {found[1]}, bytes at {found[0]}")
    at = random.randint(0, len(wire))
    end = wire.find(b"\r\n\r\n", at) + 4
    if end >= 4 and parser.find_head_end(wire, at, at) != end:
        raise Difference(f"from {at} on the head does not end at {end}")
    return -1 if found[0] is None else found[0]


def take(name: str, received: bytes, *arguments: Any) -> Any:
    """What is taken out of a buffer that is read into anew at once: a head, or else the very bytes."""
    buffer = memoryview(bytearray(received + b"\r\n\r\nof an earlier read"))
    took = getattr(parser, name)(buffer, len(received), *arguments)
    buffer[:] = bytes(len(buffer))
    if isinstance(took, bytes):
        whole = took == received
    elif took.chunked:
        whole = received.startswith(took.raw)  # the payload is compared with what is read in pieces
    else:
        begun = parser.take_begun(took) if name == "take_request" else None  # its body follows
        whole = took.raw + (took.payload or begun or b"") == received
    if not whole:
        raise Difference(f"{name} gives {took!r} of {received!r}")
    return took


def _taken_is(took: Any, head: Any, body: Body | None, random: Random) -> None:
    """What was taken at once is what was read in pieces. Changes it."""
    if head is None:
        raise Difference(f"{took!r} was taken, and is refused in pieces")
    if took.whole and body != (took.payload, True, b""):
        raise Difference(f"taken as a whole the body is {took.payload!r}, read in pieces {body}")
    ours, theirs = attributes(took, random), attributes(head, random)
    for name in ("whole", "payload", "payload_length", "ordinary"):
        ours.pop(name, None)
        theirs.pop(name, None)
    if ours != theirs:
        raise Difference(f"taken as a whole it is {ours}, read in pieces {theirs}")
    fields_agree(took, random)


def compare_request(wire: bytes, seed: int) -> bool:
    """Whether it was accepted. Raises `Difference`."""
    random = Random(seed)
    most = random.choice((100, 100, 100, 5))
    end = end_of(wire, random)
    raw = wire[:end] if end > 0 else wire
    head, body = None, None
    try:
        head = parser.parse_request(raw, most)
    except Malformed:
        pass
    else:
        body = read_body(body_reader(head), cut(random, wire[len(raw) :]))
    longest = random.choice((10**6, 10**6, 8192, len(wire), len(wire) - 1))
    for received in (wire, raw, wire[: random.randint(0, len(wire))]):
        took = take("take_request", received, longest, most)
        if len(received) >= len(raw) and not isinstance(took, bytes):
            once_more = None if head is None else parser.parse_request(raw, most)
            _taken_is(took, once_more, once_more and read_body(body_reader(once_more), [received[len(raw) :]]), random)
        if not isinstance(took, bytes):
            render_request(took)
            took.drop_payload()
            attributes(took, random)
    if head is None or body is None:
        return False
    fields_agree(head, random)
    render_request(head)
    h11_agrees(h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20), head, body, wire)
    if head.method != b"CONNECT" and head.first(b"upgrade") is None and not _space_behind_chunked(head):
        llhttp_agrees(HttpRequestParser, body, method_for_llhttp(head.method) + wire[len(head.method) :])
    return True


def compare_response(wire: bytes, seed: int, method: bytes) -> bool:
    """Whether it was accepted. Raises `Difference`."""
    random = Random(seed)
    most = random.choice((100, 100, 100, 5))
    end = end_of(wire, random)
    if end < 0:
        end = len(wire)
    received = wire if random.random() < 0.7 else wire[: random.randint(end, len(wire))]
    head, body = None, None
    try:
        parser.parse_response(wire[:end], method, most)
        head = parser.parse_answer(received, end, method, most)
    except Malformed:
        pass
    else:
        body = (
            read_body(body_reader(head), cut(random, wire[end:]))
            if head.payload is None
            else (head.payload, True, wire[len(received) :])
        )
    for part in (wire, wire[: random.randint(0, len(wire))]):
        took = take("take_answer", part, method, most)
        if part == wire and not isinstance(took, bytes):
            _taken_is(took, head, body, random)
        if not isinstance(took, bytes):
            render_response(took)
    if head is None or body is None:
        return False
    fields_agree(head, random)
    render_response(head)
    if head.status >= 200:
        judge = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        judge.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
        judge.send(h11.EndOfMessage())
        h11_agrees(judge, head, body, wire)
    if method != b"HEAD" and head.status != 101 and not _space_behind_chunked(head):
        llhttp_agrees(HttpResponseParser, body, wire)
    return True


def refuse_beginnings(wire: bytes, method: bytes | None) -> None:
    """Read every beginning of a message as a head: of a response, if there is a method that it answers. None is one
    that does not end with an empty line.

    Raises `Difference`.
    """
    for end in range(len(wire)):
        raw = wire[:end]
        try:
            head: Any
            if method is None:
                head = parser.parse_request(raw)
            else:
                parser.parse_answer(wire, end, method)
                head = parser.parse_response(raw, method)
        except Malformed:
            continue
        if not raw.endswith(b"\r\n\r\n"):
            raise Difference(f"{head!r} ends without an empty line")


def _space_behind_chunked(head: Any) -> bool:
    """Legal white space that llhttp refuses; we take it out before llhttp reads the head."""
    return head.chunked and re.search(rb"\ntransfer-encoding:[^\r]*[ \t]\r", head.raw, re.IGNORECASE) is not None


def h11_agrees(judge: h11.Connection, head: Any, body: Body, wire: bytes) -> None:
    payload, done, rest = body
    try:
        judge.receive_data(wire)
        event = judge.next_event()
        read = b""
        while isinstance(data := judge.next_event(), h11.Data):
            read += data.data
    except h11.RemoteProtocolError as refusal:
        raise Difference(f"h11 refuses what we accept: {refusal}") from refusal
    if not isinstance(event, h11.Request | h11.Response):
        raise Difference(f"h11 sees no head but {event!r}")
    complete = isinstance(data, h11.EndOfMessage)
    if (read, complete) != (payload, done):
        raise Difference(f"h11 reads the body as {(read, complete)}, we {(payload, done)}")
    if done and judge.trailing_data[0] != rest:
        raise Difference(f"h11 ends the message before {judge.trailing_data[0]!r}, we before {rest!r}")
    lines = [(name.lower(), value) for name, value in type(head.fields()).parse(head.raw, head.raw.index(b"\n") + 1)]
    codings = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in lines]
    if list(event.headers) != codings:
        raise Difference(f"h11 reads the fields as {list(event.headers)}, we {codings}")


class _Seen:
    def __init__(self) -> None:
        self.messages = 0

    def on_message_complete(self) -> None:
        self.messages += 1


def llhttp_agrees(parser: type[HttpRequestParser] | type[HttpResponseParser], body: Body, wire: bytes) -> None:
    _, done, rest = body
    seen = _Seen()
    judge = parser(seen)
    message = wire[: len(wire) - len(rest)] if done else wire
    try:
        judge.feed_data(message[:-1])
        early = seen.messages
        judge.feed_data(message[-1:])
    except (HttpParserError, HttpParserUpgrade) as refusal:
        raise Difference(f"llhttp refuses what we accept: {refusal!r}") from refusal
    if early or seen.messages != done:
        raise Difference(f"llhttp sees {early} and {seen.messages} messages end where we see {done}")
