"""Two opinions on the same bytes: what nghttp2 and we make of frames is what python-hyper's h2 makes of them.

Listed are the cases in which they may differ: h2 does not refuse all that must be refused, and ends the connection for
most of what is an error of one stream. What both serve must be the same, to the byte; where h2 sees an error of the
connection in frames that have nothing to do with a header's text, so must we.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.http2.session import Session
from tests.support.http2 import frames
from tests.support.http2.frames import block, data, frame, headers, ping, priority, reset, settings, window_update

if Session is not None:
    from tests.unit.http.http2.sessions import Opinion, ours, theirs

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12).map(str.encode)
VALUE = st.text("abc =;,/\"'()\t~", max_size=12).map(str.strip).map(str.encode)
OF_HTTP1 = (
    b"connection",
    b"host",
    b"te",
    b"upgrade",
    b"content-length",
    b"transfer-encoding",
    b"keep-alive",
    b"cookie",
)
FIELDS = st.lists(
    st.tuples(TOKEN.filter(lambda name: name not in OF_HTTP1), VALUE)
    | st.tuples(st.just(b"cookie"), VALUE.filter(bool)),
    max_size=5,
)
METHOD = st.sampled_from([b"GET", b"POST", b"PUT", b"REPORT"])
PATH = st.text("ab/?=&%25", max_size=10).map(lambda text: b"/" + text.encode())
STREAM = st.sampled_from([1, 3, 5, 7, 9])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request, whole: its head in one or several frames, its body in pieces, trailers."""
    stream = draw(STREAM)
    fields = block(*frames.pseudo(draw(METHOD), draw(PATH)), *draw(FIELDS))
    body = draw(st.lists(st.binary(max_size=20), max_size=3))
    has_trailers = draw(st.booleans())
    ended = not body and not has_trailers
    cut = draw(st.integers(0, len(fields)))
    made = headers(fields[:cut], stream, ended, False) + frames.continuation(fields[cut:], stream)
    for number, piece in enumerate(body):
        last = number == len(body) - 1 and not has_trailers
        made += data(piece, stream, last, draw(st.none() | st.integers(0, 9)))
    if has_trailers:
        made += headers(
            block(*draw(st.lists(st.tuples(TOKEN.map(lambda name: b"x-" + name), VALUE), max_size=2))), stream
        )
    return made


HARMLESS = st.sampled_from(
    [ping(), settings(), settings((4, 1000)), window_update(7), frame(0xBD, b"x"), priority(3, 0), settings((0xAB, 1))]
)
BROKEN = st.sampled_from(
    [
        ping(b"short"),
        settings((2, 7)),
        settings((4, 2**31)),
        window_update(0),
        window_update(2**31 - 1),
        frame(frames.Type.SETTINGS, b"x"),
        frames.continuation(b""),
        data(b"x", 0),
        headers(b"\x80", 11),
        headers(b"\xff\xff\xff\xff\xff\xff\xff\xff", 11),
        headers(block(*frames.pseudo()), 2),
        headers(block(*frames.pseudo()), 0),
        reset(99),
        frame(frames.Type.PUSH_PROMISE, b"\0\0\0\2", 4, 1),
        frame(frames.Type.DATA, b"\xff", frames.Flag.PADDED, 1),
    ]
)


def in_pieces(draw: st.DrawFn, sent: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    return [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


@st.composite
def conversations(draw: st.DrawFn, more: Any) -> list[bytes]:
    asked = draw(st.lists(requests() | HARMLESS | more, max_size=8))
    return in_pieces(draw, frames.BEGINNING + b"".join(asked))


@st.composite
def in_order(draw: st.DrawFn) -> list[bytes]:
    """Requests as a careful client sends them: each on the next stream."""
    asked, stream = [], 1
    for each in draw(st.lists(requests() | HARMLESS, max_size=8)):
        if each[8:9] and each[3] == frames.Type.HEADERS:
            asked.append(on_stream(each, stream))
            stream += 2
        else:
            asked.append(each)
    return in_pieces(draw, frames.BEGINNING + b"".join(asked))


def on_stream(sent: bytes, stream: int) -> bytes:
    """The same frames on another stream."""
    made, at = b"", 0
    while at < len(sent):
        end = at + 9 + int.from_bytes(sent[at : at + 3], "big")
        made += sent[at : at + 5] + stream.to_bytes(4, "big") + sent[at + 9 : end]
        at = end
    return made


def assert_alike(one: Opinion, other: Opinion) -> None:
    for stream, head in one.heads.items():
        if stream in other.heads and stream not in one.refused | other.refused:
            assert head == other.heads[stream]
            if stream in one.ended and stream in other.ended:
                assert one.bodies[stream] == other.bodies[stream]
                assert one.trailers.get(stream, []) == other.trailers.get(stream, [])


@given(in_order())
def test_what_a_careful_client_says_is_understood_alike(pieces: list[bytes]) -> None:
    one, other = ours(pieces), theirs(pieces)
    assert not one.broken
    assert not other.broken
    assert one.heads == other.heads
    assert one.bodies == other.bodies
    assert one.ended == other.ended
    assert {stream: lines for stream, lines in one.trailers.items() if lines} == {
        stream: lines for stream, lines in other.trailers.items() if lines
    }


@given(conversations(BROKEN))
def test_what_is_broken_is_served_by_neither(pieces: list[bytes]) -> None:
    """Where ours goes on, so does h2, but for what it takes for an error of the connection and is one of a stream."""
    one, other = ours(pieces), theirs(pieces)
    assert_alike(one, other)
    if other.broken and not one.broken:
        assert one.refused or one.heads == other.heads


@given(in_order(), st.data())
def test_one_wrong_byte_is_never_understood_otherwise(pieces: list[bytes], drawn: st.DataObject) -> None:
    sent = bytearray(b"".join(pieces))
    at = drawn.draw(st.integers(len(frames.PREFACE), len(sent) - 1))
    sent[at] ^= drawn.draw(st.integers(1, 255))
    assert_alike(ours([bytes(sent)]), theirs([bytes(sent)]))


@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_orderly_way(sent: bytes) -> None:
    """Neither an exception nor an event of a stream that is not there."""
    opinion = ours([frames.BEGINNING, sent])
    assert opinion.ended <= set(opinion.heads) | opinion.refused
