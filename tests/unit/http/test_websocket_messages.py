"""Messages put together from frames, however they are cut; `websockets` writes the frames."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from fastgw.http.websocket.frames import BINARY, PING, PONG, TEXT, message_frame
from fastgw.http.websocket.messages import Received, WebsocketMessageReader
from tests.support.table import for_each

LIMIT = 70_000
TEXTS = st.text(max_size=300).map(str.encode)


def sent(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin).serialize(mask=True)


def fragments(opcode: int, payload: bytes, cuts: list[int]) -> bytes:
    """A message in frames that end at `cuts`."""
    places = [0, *sorted(min(cut, len(payload)) for cut in cuts), len(payload)]
    pieces = [payload[start:end] for start, end in itertools.pairwise(places)]
    last = len(pieces) - 1
    return b"".join(sent(0 if at else opcode, piece, at == last) for at, piece in enumerate(pieces))


MESSAGES = st.lists(
    st.one_of(
        st.tuples(st.just(TEXT), TEXTS),
        st.tuples(st.just(BINARY), st.binary(max_size=300)),
        st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)),
        st.tuples(st.just(BINARY), st.sampled_from([125, 126, 65_535, 65_536, LIMIT]).map(bytes)),
    ),
    max_size=5,
)


@given(MESSAGES, st.lists(st.integers(0, 300), max_size=3), st.integers(1, 200_000))
def test_messages_are_read_as_they_were_sent(messages: list[tuple[int, bytes]], cuts: list[int], step: int) -> None:
    wire = b"".join(
        fragments(opcode, payload, cuts) if opcode in (TEXT, BINARY) else sent(opcode, payload)
        for opcode, payload in messages
    )
    reader = WebsocketMessageReader(LIMIT)
    got = [message for at in range(0, len(wire), step) for message in reader.feed(wire[at : at + step])]
    assert got == [Received(opcode, payload) for opcode, payload in messages]
    assert (reader.close, reader.violation) == (None, None)


def test_a_ping_within_a_message_comes_first() -> None:
    reader = WebsocketMessageReader(LIMIT)
    wire = sent(TEXT, b"a", fin=False) + sent(PING, b"p") + sent(0, b"b")
    assert reader.feed(wire) == [(PING, b"p"), (TEXT, b"ab")]


WRONG = {
    "too long": (lambda: sent(TEXT, bytes(LIMIT + 1)), 1009),
    "too long in fragments": (lambda: sent(BINARY, bytes(LIMIT), fin=False) + sent(0, b"x"), 1009),
    "no UTF-8": (lambda: sent(TEXT, b"\xff"), 1007),
    "no mask": (lambda: message_frame(TEXT, b"a"), 1002),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_violation_ends_the_reading(kind: str) -> None:
    write, code = WRONG[kind]
    wire = write()
    reader = WebsocketMessageReader(LIMIT)
    assert [message.payload for message in reader.feed(sent(TEXT, b"before") + wire)] == [b"before"]
    assert reader.violation is not None
    assert reader.violation.code == code
    assert reader.feed(sent(TEXT, b"after")) == []


def test_a_close_frame_ends_the_reading() -> None:
    reader = WebsocketMessageReader(LIMIT)
    assert reader.feed(sent(TEXT, b"a") + sent(8, (4000).to_bytes(2, "big")) + sent(TEXT, b"b")) == [(TEXT, b"a")]
    assert reader.close == 4000


@for_each("length", [0, 125, 126, 65_535, 65_536])
@for_each("opcode", [TEXT, BINARY])
def test_messages_of_the_gateway_are_written_as_websockets_does(opcode: int, length: int) -> None:
    assert message_frame(opcode, bytes(length)) == Frame(Opcode(opcode), bytes(length)).serialize(mask=False)
