"""The benchmark's WebSocket frames, and the conversation that both its ends know: every byte counts, no frame twice."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from bench.load import frames
from bench.load.circle import MESSAGES, OPENING_BYTES, Circle, Follower, conversation, openings
from bench.load.websocket import EchoCounts, Talker
from bench.origin.echo import Echo

SIZES = [0, 1, 125, 126, 127, 65_535, 65_536]
KEY = b"\x37\xfa\x21\x3d"
HELLO = bytes.fromhex("818537fa213d7f9f4d5158")  # RFC 6455 section 5.7: "Hello", masked
SPOKEN, HEARD = conversation()
EXAMPLE = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = self.closed = False

    def write(self, octets: bytes) -> None:
        self.written += octets

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True


def cut(octets: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(octets) + 1) for place in places}), len(octets)]
    return [octets[begin:end] for begin, end in pairwise(edges) if begin < end]


def echo_opened() -> tuple[Echo, Wire]:
    protocol, wire = Echo(SPOKEN, HEARD, openings(SPOKEN)), Wire()
    protocol.connection_made(wire)
    protocol.data_received(frames.opening("a", "/svc0/socket", EXAMPLE))
    assert wire.written.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in wire.written
    wire.written = b""
    return protocol, wire


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_is_what_another_library_makes_of_the_message(size):
    message = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    assert frames.from_server(frames.BINARY, message) == Frame(Opcode.BINARY, message).serialize(mask=False)
    assert frames.echo(frames.from_client(frames.BINARY, message, KEY))[0] == frames.from_server(frames.BINARY, message)


def test_a_frame_is_masked_as_the_rfc_shows():
    assert frames.from_client(frames.TEXT, b"Hello", KEY) == HELLO
    assert frames.echo(HELLO) == (bytes.fromhex("810548656c6c6f"), len(HELLO), False)


@pytest.mark.parametrize("size", SIZES)
def test_the_echo_waits_for_the_last_byte_of_a_frame(size):
    frame = frames.from_client(frames.BINARY, bytes(size), KEY)
    for end in {0, 1, 2, 5, len(frame) - 1}:
        assert frames.echo(frame[:end]) == (b"", 0, False)


def test_several_frames_are_answered_at_once_and_none_after_a_close():
    close = frames.from_client(frames.CLOSE, b"\x03\xe8", KEY)
    answer, taken, closing = frames.echo(HELLO + HELLO + close + HELLO)
    assert answer == bytes.fromhex("810548656c6c6f") * 2 + b"\x88\x02\x03\xe8"
    assert (taken, closing) == (len(HELLO) * 2 + len(close), True)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(frames.from_server(frames.TEXT, b"Hello"), id="not masked"),
        pytest.param(b"\x01" + HELLO[1:], id="not final"),
        pytest.param(b"\x80" + HELLO[1:], id="a continuation"),
        pytest.param(b"\x89" + HELLO[1:], id="a ping"),
    ],
)
def test_the_echo_refuses_what_the_benchmark_never_sends(frame):
    with pytest.raises(frames.NotAFrame):
        frames.echo(frame)


def test_no_two_messages_begin_alike():
    assert len(openings(SPOKEN)) == MESSAGES
    assert all(len(opening) == OPENING_BYTES for opening in openings(SPOKEN))


@given(
    first=st.integers(0, MESSAGES - 1),
    count=st.integers(1, MESSAGES),
    places=st.lists(st.integers(0, 1 << 20), max_size=9),
)
def test_a_follower_counts_each_frame_once_however_it_is_cut(first, count, places):
    follower = Follower(HEARD, first)
    ended = [follower.follow(piece) for piece in cut(HEARD.frames(first, count), places)]
    assert None not in ended
    assert sum(ended) == count


@given(
    first=st.integers(0, MESSAGES - 1),
    place=st.integers(0, 1 << 20),
    places=st.lists(st.integers(0, 1 << 20), max_size=4),
)
def test_a_follower_sees_one_changed_bit(first, place, places):
    sent = bytearray(HEARD.frames(first, 5))
    sent[place % len(sent)] ^= 0x10
    follower = Follower(HEARD, first)
    assert None in [follower.follow(piece) for piece in cut(bytes(sent), places)]


def test_a_follower_goes_round_and_round():
    circle = Circle([b"ab", b"c", b"def"])
    follower = Follower(circle, 1)
    assert [follower.follow(piece) for piece in (b"cd", b"efa", b"bcdefab", b"c", b"d", b"efabc")] == [1, 1, 4, 1, 0, 3]
    assert follower.follow(b"c") is None


@given(first=st.integers(0, MESSAGES - 1), places=st.lists(st.integers(0, 1 << 20), max_size=9))
def test_the_echo_server_answers_the_conversation_to_the_byte(first, places):
    protocol, wire = echo_opened()
    for piece in cut(SPOKEN.frames(first, 20), places):
        protocol.data_received(piece)
    assert wire.written == HEARD.frames(first, 20)
    protocol.data_received(b"?")
    assert wire.aborted


def test_the_echo_server_reads_the_frames_of_any_other_client():
    protocol, wire = echo_opened()
    for octet in HELLO + frames.from_client(frames.BINARY, b"", KEY) + frames.from_client(frames.CLOSE, b"", KEY):
        protocol.data_received(bytes([octet]))
    assert wire.written == bytes.fromhex("810548656c6c6f 8200 8800")
    assert wire.closed


def test_the_echo_server_refuses_a_request_that_is_no_opening_handshake():
    protocol, wire = Echo(SPOKEN, HEARD, {}), Wire()
    protocol.connection_made(wire)
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert wire.written.startswith(b"HTTP/1.1 426 ")
    assert wire.closed


async def talker_opened(counts: EchoCounts) -> tuple[Talker, Wire]:
    talker, wire = Talker(SPOKEN, HEARD, 250, 2, "/svc0/socket", counts), Wire()
    talker.connection_made(wire)
    key = wire.written.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    talker.data_received(b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: %b\r\n\r\n" % frames.accept_of(key))
    await talker.opened
    wire.written = b""
    return talker, wire


def test_a_client_says_as_much_as_it_hears_and_then_waits_for_the_rest():
    async def converse() -> EchoCounts:
        counts = EchoCounts()
        talker, wire = await talker_opened(counts)
        talker.talk()
        assert wire.written == SPOKEN.frames(250, 2)
        talker.data_received(HEARD.frames(250, 1))
        assert wire.written == SPOKEN.frames(250, 3)
        talker.stop()
        talker.data_received(HEARD.frames(0, 1))
        assert not talker.silent.done()
        assert talker.unanswered == 1
        talker.data_received(HEARD.frames(1, 1))
        await talker.silent
        talker.connection_lost(None)
        return counts

    counts = asyncio.run(converse())
    assert (counts.messages, len(counts.latencies), counts.faults) == (3, 3, {})


@pytest.mark.parametrize(
    ("heard", "fault"),
    [
        pytest.param(b"?", "wrong bytes", id="another byte"),
        pytest.param(HEARD.frames(250, 3), "wrong bytes", id="an echo of what was not said"),
        pytest.param(None, "closed early", id="closed"),
    ],
)
def test_a_client_tells_what_went_wrong(heard, fault):
    async def converse() -> EchoCounts:
        counts = EchoCounts()
        talker, wire = await talker_opened(counts)
        talker.talk()
        if heard is None:
            talker.connection_lost(None)
        else:
            talker.data_received(heard)
            assert wire.aborted
            talker.connection_lost(None)
        await talker.silent
        return counts

    counts = asyncio.run(converse())
    assert counts.faults == {fault: 1}
    assert counts.messages == 0
