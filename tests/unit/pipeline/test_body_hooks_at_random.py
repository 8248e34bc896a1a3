"""Random plays of body hooks over framings, pieces, lost connections and pipelining, against a plain model of bytes."""

from collections.abc import Callable
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.filters.api import BodyHook, Bounded, Phase, StageFactory
from fastgw.http.http1.body import body_reader
from fastgw.http.http1.parser import find_head_end, parse_request, parse_response
from tests.support.memory import Plane, Wire, probe
from tests.unit.pipeline.test_body_hooks import Doubling, Reversing, cut

KINDS: dict[str, tuple[Callable[[bytes], bytes], Callable[[str], dict[str, Any]]]] = {
    "looks": (lambda body: body, lambda side: {side: lambda exchange, piece: None}),
    "upper": (bytes.upper, lambda side: {side: BodyHook(lambda exchange, piece: piece.upper(), changes=True)}),
    "drops": (
        lambda body: body.replace(b"a", b""),
        lambda side: {side: BodyHook(lambda exchange, piece: piece.replace(b"a", b""), changes=True)},
    ),
    "expands": (
        lambda body: b"".join(b"%c" % byte * 1000 for byte in body),
        lambda side: {
            side: BodyHook(lambda exchange, piece: b"".join(b"%c" % byte * 1000 for byte in piece), changes=True)
        },
    ),
    "doubles": (
        lambda body: b"".join(b"%c%c" % (byte, byte) for byte in body) + b".",
        lambda side: {side: StageFactory(lambda exchange: Doubling())},
    ),
    "reverses": (lambda body: body[::-1], lambda side: {side: StageFactory(lambda exchange: Reversing())}),
    "whole": (
        lambda body: b"<" + body + b">",
        lambda side: {side: BodyHook(lambda exchange, body: b"<" + body + b">", needs=Bounded("1MiB"))},
    ),
    "collected": (
        lambda body: body[::-1],
        lambda side: {side: BodyHook(StageFactory(lambda exchange: Reversing()), needs=Bounded("1MiB"))},
    ),
}
BODIES = st.text("abc", max_size=6).map(str.encode)
CHOSEN = st.lists(st.sampled_from(sorted(KINDS)), max_size=3).filter(lambda kinds: kinds.count("expands") < 2)
PLACES = st.lists(st.integers(0, 300), max_size=5)


def modelled(body: bytes, kinds: list[str]) -> bytes:
    """What comes out: a stage that gets nothing and gives nothing leaves the next one nothing; an empty body passes."""
    if body:
        for kind in kinds:
            body = KINDS[kind][0](body)
    return body


def framed(body: bytes, framing: str, sizes: int) -> tuple[bytes, bytes]:
    if framing == "length":
        return b"Content-Length: %d\r\n" % len(body), body
    if framing == "close":
        return b"", body
    pieces = [body[at : at + sizes] for at in range(0, len(body), sizes)]
    end = b"0\r\nX-End: 1\r\n\r\n" if framing == "trailers" else b"0\r\n\r\n"
    return b"Transfer-Encoding: chunked\r\n", b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces) + end


def taken_request(sent: bytes) -> bytes | None:
    """The body of the only request in there. None: it is not whole."""
    end = find_head_end(sent)
    if end <= 0:
        return None
    reader = body_reader(parse_request(sent[:end]))
    body = reader.feed(sent[end:])
    assert not reader.rest
    return body if reader.done else None


def taken_response(received: bytes, closed: bool) -> tuple[bytes | None, bytes]:
    """The body of the first response, and what stands behind it. None: it is not whole."""
    end = find_head_end(received)
    if end <= 0:
        return None, b""
    head = parse_response(received[:end], b"PUT")
    assert head.status == 200, received
    reader = body_reader(head)
    body = reader.feed(received[end:])
    if not reader.done and closed:
        reader.eof()
    return (body, reader.rest) if reader.done else (None, b"")


@settings(max_examples=200, deadline=None)
@given(
    request_kinds=CHOSEN,
    response_kinds=CHOSEN,
    bodies=st.tuples(BODIES, BODIES),
    framings=st.tuples(
        st.sampled_from(["length", "chunked", "trailers"]), st.sampled_from(["length", "chunked", "trailers", "close"])
    ),
    sizes=st.integers(1, 4),
    places=st.tuples(PLACES, PLACES),
    version=st.sampled_from([b"1.0", b"1.1"]),
    lost=st.booleans(),
    slow=st.booleans(),
)
def test_bodies_come_out_as_the_stages_make_them_whole_and_once(
    request_kinds: list[str],
    response_kinds: list[str],
    bodies: tuple[bytes, bytes],
    framings: tuple[str, str],
    sizes: int,
    places: tuple[list[int], list[int]],
    version: bytes,
    lost: bool,
    slow: bool,
) -> None:
    names = (f"filter_{number}" for number in count())
    probes = [
        probe(next(names), Phase.TRANSFORM, order=order, **KINDS[kind][1]("request_body"))
        for order, kind in enumerate(request_kinds)
    ] + [
        probe(next(names), Phase.VALIDATE, order=-order, **KINDS[kind][1]("response_body"))
        for order, kind in enumerate(response_kinds)
    ]
    plane = Plane(probes=probes)
    client = plane.client()
    framing = framings[0] if version == b"1.1" else "length"
    lines, rest = framed(bodies[0], framing, sizes)
    request = b"PUT /a HTTP/%b\r\nHost: t\r\n%b\r\n%b" % (version, lines, rest)
    wires: list[Wire] = []
    wanted = modelled(bodies[0], request_kinds)

    def play(pieces: list[bytes], lose: bool) -> bytes:
        """Let the request come by pieces and reach an upstream, which answers when it has all of it."""
        before = len(client.received)
        seen = {wire: len(wire.received) for wire in wires}
        for piece in pieces:
            client.sends(piece)
            while plane.pool.waiting:
                wires.append(plane.connects())
        wire = next(each for each in wires if len(each.received) > seen.get(each, 0) and not each.lost)
        if lose:  # as the target closes what it held to be idle
            wire.resets()
            while plane.pool.waiting:
                wires.append(plane.connects())
            wire = wires[-1]
        assert taken_request(wire.received[seen.get(wire, 0) :]) == wanted
        answer_lines, answer = framed(bodies[1], framings[1], sizes)
        response = b"HTTP/1.1 200 OK\r\n" + answer_lines + b"\r\n" + answer
        for piece in cut(response, places[1]):
            if slow:
                client.takes(3)
            wire.sends(piece)
            client.takes()
        if framings[1] == "close":
            wire.ends()
        client.takes()
        return client.received[before:]

    for turn in range(2):
        if client.ended:
            break
        received = play(cut(request, places[0]), lost and turn == 1 and not wires[-1].lost)
        body, behind = taken_response(received, client.ended)
        assert body == modelled(bodies[1], response_kinds)
        assert behind == b""
        record = plane.records[-1]
        assert len(plane.records) == turn + 1
        assert (record.status, record.fault, record.response_bytes) == (200, "", len(body))
        assert record.request_bytes == len(bodies[0])
        plane.assert_quiet()
