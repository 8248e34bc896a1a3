"""One message judged by both sides and by two parsers that are not ours.

The twin must do what plain Python does: accept, refuse and say the same, in every attribute and every byte that goes
out. And of what both accept, h11 and llhttp must say so too, and see it end at the same byte: we may refuse more.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import h11
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from tests.fuzz.sides import Side

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
IDS = [b"0af7651916cd43dd8448eb211c80319c", b"a"]


class Difference(AssertionError):
    """Two judges read the same bytes in two ways."""


def shown(value: Any) -> str:
    """A value with all of its types, the same for equal dictionaries."""
    return repr(sorted(value.items())) if isinstance(value, dict) else repr(value)


class Judged:
    """One side's reading of one message, step by step: `steps` has to be the same on both sides."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self.steps: list[tuple[str, str]] = []

    def step(self, name: str, judge: Callable[..., Any], *arguments: Any) -> Any | None:
        """What `judge` returned; None if it refused. Anything but `Malformed` is a defect on either side."""
        try:
            value = judge(*arguments)
        except self._side.malformed.Malformed as refusal:
            self.steps.append((name, f"refused: {refusal.status} {refusal}"))
            return None
        self.steps.append((name, shown(value)))
        return value

    def attributes(self, head: Any, random: Random) -> None:
        """All that is public, asked for in any order: some of it is worked out only then."""
        kind = type(head)
        names = [name for name in dir(kind) if not name.startswith("_") and not callable(getattr(kind, name))]
        random.shuffle(names)
        self.steps += sorted((name, shown(getattr(head, name, "not set"))) for name in names)

    def fields(self, head: Any, random: Random) -> None:
        for name in ASKED:
            self.step(f"first {name!r}", head.first, name)
            self.step(f"field {name!r}", head.field, name)
        before = random.random() < 0.5
        if before:
            self.steps.append(("fields", shown(list(head.fields()))))
            for name in ASKED:
                self.step(f"first {name!r} of fields", head.first, name)
        if random.random() < 0.2:
            fields = head.fields()
            fields.set(b"X-A", b"ours")
            fields.remove(b"User_Agent")
            fields.add(b"Cookie", b"c")
            self.steps.append(("edited", shown(list(fields))))

    def body(self, reader: Any, pieces: list[bytes]) -> tuple[bytes, bool, bytes] | None:
        """Payload, whether it is complete, and what came behind it. None: refused."""
        payload = b""
        for piece in pieces:
            fed = self.step("feed", reader.feed, piece)
            if fed is None:
                return None
            payload += fed
        told = payload, reader.done, reader.rest
        self.steps.append(("body", shown((told, reader.trailers))))
        self.step("eof", reader.eof)
        return told


def cut(random: Random, wire: bytes) -> list[bytes]:
    """The same bytes as they may come in: whole, byte by byte, or in a few pieces."""
    die = random.random()
    if die < 0.4:
        return [wire]
    if die < 0.5 and len(wire) < 300:
        return [wire[at : at + 1] for at in range(len(wire))]
    places = sorted(random.randint(0, len(wire)) for _ in range(random.randint(1, 4)))
    return [wire[start:end] for start, end in zip([0, *places], [*places, len(wire)], strict=True)]


def read_request(side: Side, wire: bytes, random: Random) -> tuple[Judged, tuple[Any, Any] | None]:
    """One side's reading, and head and body if it accepts them."""
    judged = Judged(side)
    most = random.choice((100, 100, 100, 5))
    end = judged.step("end", side.framing.find_head_end, wire, random.choice((0, 0, random.randint(0, len(wire)))))
    begin = random.randint(0, len(wire))
    judged.step("end behind others", side.framing.find_head_end, wire, random.choice((0, begin)), begin)
    judged.step("end in a bytearray", side.framing.find_head_end, bytearray(wire))
    judged.step("leading_bytes", side.framing.leading_bytes, memoryview(bytearray(wire)), random.randint(0, len(wire)))
    raw = wire[:end] if end is not None and end > 0 else wire
    head = judged.step("judge", side.framing.parse_request, raw, most)
    if head is None:
        return judged, None
    judged.attributes(head, random)
    body = judged.body(head.body(), cut(random, wire[len(raw) :]))
    judged.attributes(head, random)
    judged.fields(head, random)
    for also in ALSO:
        judged.step("end to end", side.render.end_to_end, head, also)
        judged.step("render", side.render.request, head, head.path, b"origin:8080", also, ADDED, b"p")
        judged.step("render as sent", side.render.request, head, None, None, also, ADDED)
        for request_id in IDS:
            judged.step("render with an id", side.render.request, head, None, None, also, ADDED, b"", request_id)
    return judged, (head, body) if body is not None else None


def _dated() -> bytes:
    return b"Date: Fri, 20 Nov 2026 12:00:00 GMT\r\n"


def read_response(side: Side, wire: bytes, random: Random, method: bytes) -> tuple[Judged, tuple[Any, Any] | None]:
    judged = Judged(side)
    most = random.choice((100, 100, 100, 5))
    end = judged.step("end", side.framing.find_head_end, wire, 0)
    if end is None or end < 0:
        end = len(wire)
    received = wire if random.random() < 0.7 else wire[: random.randint(end, len(wire))]
    judged.step("judge", side.framing.parse_response, wire[:end], method, most)
    head = judged.step("judge with body", side.framing.parse_answer, received, end, method, most)
    if head is None:
        return judged, None
    judged.attributes(head, random)
    body: tuple[bytes, bool, bytes] | None
    if head.payload is None:
        body = judged.body(head.body(), cut(random, wire[end:]))
    else:
        body = head.payload, True, wire[len(received) :]
    judged.attributes(head, random)
    judged.fields(head, random)
    for also in ALSO:
        judged.step("end to end", side.render.end_to_end, head, also)
        payload = head.payload or b""
        for length in (head.length, side.render.UNFRAMED, side.render.IN_CHUNKS):
            sent = head, head.status, also, ADDED, payload, length, _dated, LAST
            judged.step("render", side.render.response, *sent)
            judged.step("render with an id", side.render.response, *sent, IDS[0])
    if head.whole:
        for also in ALSO:
            judged.step("whole", side.render.whole, head, _dated, LAST, also, ADDED)
            judged.step("whole with an id", side.render.whole, head, _dated, LAST, also, ADDED, IDS[0])
    return judged, (head, body) if body is not None else None


def _same(reference: Judged, twin: Judged) -> None:
    if reference.steps == twin.steps:
        return
    for ours, theirs in zip(reference.steps, twin.steps, strict=False):
        if ours != theirs:
            raise Difference(
                f"{ours[0]}: plain Python has\n  {ours[1][:2000]}\nthe twin {theirs[0]}\n  {theirs[1][:2000]}"
            )
    raise Difference(f"one went on: {reference.steps[-1]} and {twin.steps[-1]}")


def take(side: Side, name: str, received: bytes, *arguments: Any) -> Any:
    """What is taken out of a buffer that is read into anew at once: a head, or else the very bytes."""
    buffer = memoryview(bytearray(received + b"\r\n\r\nof an earlier read"))
    took = getattr(side.framing, name)(buffer, len(received), *arguments)
    buffer[:] = bytes(len(buffer))
    if isinstance(took, bytes):
        whole = took == received
    elif took.chunked:
        whole = received.startswith(took.raw)  # the payload is compared with what is read in pieces
    else:
        whole = took.raw + (took.payload or b"") == received
    if not whole:
        raise Difference(f"{name} gives {took!r} of {received!r}")
    return took


def compare_taking(reference: Side, twin: Side, name: str, received: bytes, seed: int, *arguments: Any) -> None:
    """The twin takes nothing that its reference would not take, and what it takes is the same. Raises `Difference`."""
    ours, theirs = take(reference, name, received, *arguments), take(twin, name, received, *arguments)
    if isinstance(theirs, bytes):
        return
    if isinstance(ours, bytes):
        raise Difference(f"{name}: the twin has taken {theirs!r}")
    told = []
    for side, head in ((reference, ours), (twin, theirs)):
        random = Random(seed)
        judged = Judged(side)
        judged.attributes(head, random)
        judged.fields(head, random)
        if name == "take_answer":
            judged.step("whole", side.render.whole, head, _dated, LAST)
        else:
            judged.step("as sent", side.render.request, head, None, None, ALSO[2], ADDED, head.payload or b"")
            head.drop_payload()
            judged.attributes(head, random)
        told.append(judged)
    _same(*told)


def _taken_is(took: Any, body: tuple[bytes, bool, bytes]) -> None:
    if not isinstance(took, bytes) and took.whole and (took.payload, True, b"") != body:
        raise Difference(f"taken as a whole the body is {took.payload!r}, read in pieces {body}")


def compare_request(reference: Side, twin: Side, wire: bytes, seed: int) -> bool:
    """Whether it was accepted. Raises `Difference`."""
    random = Random(seed)
    end = wire.find(b"\r\n\r\n") + 4
    most = random.choice((10**6, 10**6, 8192, len(wire), len(wire) - 1))
    for received in (wire, wire[:end], wire[: random.randint(0, len(wire))]):
        compare_taking(reference, twin, "take_request", received, seed, most, random.choice((100, 100, 5)))
    ours, accepted = read_request(reference, wire, Random(seed))
    theirs, _ = read_request(twin, wire, Random(seed))
    _same(ours, theirs)
    if accepted is None:
        return False
    head, body = accepted
    for side in (reference, twin):
        _taken_is(take(side, "take_request", wire, len(wire), 100), body)
    h11_agrees(h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20), head, body, wire)
    if head.method != b"CONNECT" and b"upgrade" not in head.known and not _space_behind_chunked(head):
        llhttp_agrees(HttpRequestParser, body, wire)
    return True


def compare_response(reference: Side, twin: Side, wire: bytes, seed: int, method: bytes) -> bool:
    """Whether it was accepted. Raises `Difference`."""
    random = Random(seed)
    for received in (wire, wire[: random.randint(0, len(wire))]):
        compare_taking(reference, twin, "take_answer", received, seed, method, random.choice((100, 100, 5)))
    ours, accepted = read_response(reference, wire, Random(seed), method)
    theirs, _ = read_response(twin, wire, Random(seed), method)
    _same(ours, theirs)
    if accepted is None:
        return False
    head, body = accepted
    for side in (reference, twin):
        _taken_is(take(side, "take_answer", wire, method), body)
    if head.status >= 200:
        judge = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        judge.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
        judge.send(h11.EndOfMessage())
        h11_agrees(judge, head, body, wire)
    if method != b"HEAD" and head.status != 101 and not _space_behind_chunked(head):
        llhttp_agrees(HttpResponseParser, body, wire)
    return True


def compare_beginnings(reference: Side, twin: Side, wire: bytes, method: bytes | None) -> None:
    """Judge every beginning of a message as a head: of a response, if there is a method that it answers.

    Raises `Difference`.
    """
    ours, theirs = Judged(reference), Judged(twin)
    for judged, side in ((ours, reference), (theirs, twin)):
        for end in range(len(wire)):
            raw = wire[:end]
            judged.step(f"end of {end}", side.framing.find_head_end, raw, max(0, end - 7))
            if method is None:
                judged.step(f"judge {end}", side.framing.parse_request, raw)
            else:
                judged.step(f"judge {end}", side.framing.parse_response, raw, method)
                judged.step(f"judge {end} of all", side.framing.parse_answer, wire, end, method)
    _same(ours, theirs)


def _space_behind_chunked(head: Any) -> bool:
    """Legal white space that llhttp refuses; we take it out before llhttp reads the head."""
    return head.chunked and any(head.raw[end - 3] in b" \t" for _, end, _ in head.known[b"transfer-encoding"])


def h11_agrees(judge: h11.Connection, head: Any, body: tuple[bytes, bool, bytes], wire: bytes) -> None:
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
    lines = [(name.lower(), value) for name, value in type(head.fields()).parse(head.raw, head.fields_start)]
    codings = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in lines]
    if list(event.headers) != codings:
        raise Difference(f"h11 reads the fields as {list(event.headers)}, we {codings}")


class _Seen:
    def __init__(self) -> None:
        self.messages = 0

    def on_message_complete(self) -> None:
        self.messages += 1


def llhttp_agrees(
    parser: type[HttpRequestParser] | type[HttpResponseParser], body: tuple[bytes, bool, bytes], wire: bytes
) -> None:
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
