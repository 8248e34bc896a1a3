"""The reader of frames: the same in pieces, never other bytes than came, and wsproto's opinion."""

from __future__ import annotations

import zlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from fastgw.http.websocket import frames
from fastgw.http.websocket.frame_reader import FrameReader
from fastgw.http.websocket.frames import close_frame, unmask
from tests.fuzz import frames as hostile
from tests.support.table import for_each

PAYLOADS = st.one_of(st.binary(max_size=300), st.text(max_size=80).map(str.encode))


def frame(first: int, payload: bytes, key: bytes = b"\x11\x22\x33\x44") -> bytes:
    size = len(payload)
    head = bytes((first, 128 | size)) if size < 126 else bytes((first, 254)) + size.to_bytes(2, "big")
    return head + key + unmask(payload, key, 0)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """Frames that are nearly right."""
    made = b""
    for _ in range(draw(st.integers(1, 6))):
        first = draw(st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x88, 0x83, 0xC1, 0x09]))
        made += frame(first, draw(PAYLOADS), draw(st.binary(min_size=4, max_size=4)))
    return made


@given(sent=written(), sizes=st.lists(st.integers(1, 40), max_size=30))
def test_pieces_do_not_matter(sent: bytes, sizes: list[int]) -> None:
    whole = FrameReader(True, 400)
    passed = whole.feed(sent)
    assert sent.startswith(passed)
    pieces, at, got = FrameReader(True, 400), 0, b""
    for size in [*sizes, len(sent)]:
        got += pieces.feed(sent[at : at + size])
        at += size
    assert sent.startswith(got)
    assert (pieces.violation and pieces.violation.code) == (whole.violation and whole.violation.code)
    assert (pieces.close, pieces.frames, pieces.pings) == (whole.close, whole.frames, whole.pings)
    assert got.startswith(passed)  # of a frame with a fault, payload may have gone before it was seen
    assert pieces.messages - whole.messages in ((0, 1) if len(got) > len(passed) else (0,))  # and then it is counted


@given(sent=written())
def test_wsproto_takes_what_passes(sent: bytes) -> None:
    """A second opinion: of a stream without a fault, wsproto sees as many messages, and no fault."""
    read = FrameReader(True)
    passed = read.feed(sent)
    judge = FrameProtocol(client=False, extensions=[])
    judge.receive_bytes(passed)
    ended = 0
    for each in judge.received_frames():
        ended += each.opcode in (Opcode.TEXT, Opcode.BINARY) and each.message_finished
        if each.opcode is Opcode.CLOSE:
            break
    assert ended <= read.messages


@given(text=st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode)), cuts=st.lists(st.integers(0, 40)))
def test_text_is_what_python_decodes(text: bytes, cuts: list[int]) -> None:
    """Over fragments at any place, and whatever the mask."""
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in zip(places, [*places[1:], len(text)], strict=True)]
    read = FrameReader(True)
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        read.feed(frame((0x80 if last else 0) | (0 if number else 1), piece, bytes((number, 7, 200, 255))))
    try:
        text.decode()
    except UnicodeDecodeError:
        assert read.violation is not None
        assert read.violation.code == 1007
    else:
        assert (read.violation, read.messages, read.frames) == (None, 1, len(pieces))


def test_a_message_is_counted_if_any_byte_of_it_passes() -> None:
    good, bad = frame(0x81, b"good"), frame(0x81, b"bad\xff")
    read = FrameReader(True)
    assert read.feed(good + bad) == good
    assert (read.violation and read.violation.code, read.texts) == (1007, 1)
    read = FrameReader(True)
    assert read.feed(bad[:7]) + read.feed(bad[7:]) == bad[:7]
    assert (read.violation and read.violation.code, read.texts) == (1007, 1)
    read = FrameReader(True)
    begun = frame(0x01, b"good")
    assert read.feed(begun + frame(0x80, b"\xff")) == begun
    assert (read.violation and read.violation.code, read.texts) == (1007, 1)
    for refused in (frame(0x88, b"\0"), frame(0x83, b""), frame(0x00, b"")):
        read = FrameReader(True)
        assert read.feed(good + refused) == good
        assert (read.violation and read.violation.code, read.texts) == (1002, 1)


def test_a_compressed_message_is_counted_if_any_byte_of_it_passes() -> None:
    """Also one whose check takes more than one call."""
    for last, counts in ((b"x", (1, 0)), (b"\xff", (0, 0))):
        read = FrameReader(True, None, DEFLATE)
        sent = frame(0xC1, deflated(b"x" * 3 * frames.INFLATED_PER_CALL + last))
        passed = read.feed(sent)
        assert (passed, read.unfinished, read.texts, read.binaries) == (b"", True, 0, 0)
        while read.unfinished:
            assert not passed
            passed = read.feed(b"")
        assert (passed, read.texts, read.binaries) == (sent if counts[0] else b"", *counts)


@pytest.mark.parametrize("sent", [frame(0x82, b"x" * 4000), frame(0x81, b"x" * 4000), frame(0x89, b"x") * 9])
def test_what_passes_as_a_whole_is_not_copied(sent: bytes) -> None:
    assert FrameReader(True).feed(sent) is sent


DEFLATE = frames.Deflate()


def deflated(data: bytes) -> bytes:
    made = zlib.compressobj(wbits=-15)
    return (made.compress(data) + made.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("opcode", [1, 2])
@pytest.mark.parametrize(
    "payloads",
    [
        pytest.param([deflated(bytes(9_000_000))], id="one-large"),
        pytest.param([deflated(bytes(60_000))] * 100, id="many"),
        pytest.param([deflated(b"a")] * 1000, id="many-small"),
        pytest.param([b"\x03\x00" * 1000], id="many-blocks"),
    ],
)
@pytest.mark.parametrize("size", [5, 1 << 20])
def test_a_call_inflates_so_much_and_keeps_the_rest(opcode: int, payloads: list[bytes], size: int) -> None:
    """A call returns less than a message of which it has inflated a part only, if the message began in it."""
    sent = b"".join(frame(0xC0 | opcode, payload) for payload in payloads)
    read = FrameReader(True, None, DEFLATE)
    passed, unfinished = b"", 0
    for at in range(0, len(sent), size):
        passed += read.feed(sent[at : at + size])
        while read.unfinished:
            unfinished += 1
            assert sent.startswith(passed)
            passed += read.feed(b"")
    assert (unfinished > 0) is (size > 5)
    assert passed == sent
    assert (read.violation, read.messages, read.frames) == (None, len(payloads), len(payloads))


def test_no_part_of_a_message_passes_before_it_is_checked() -> None:
    first, second = frame(0xC1, deflated(b"a")), frame(0xC1, deflated(b"a" * 9_000_000 + b"\xff"))
    read = FrameReader(True, None, DEFLATE)
    assert read.feed(first + second) == first
    while read.unfinished:
        assert read.at_boundary
        assert read.feed(b"") == b""
    assert read.violation is not None
    assert (read.violation.code, read.at_boundary) == (1007, True)


def test_the_rest_of_a_frame_begins_with_the_data_that_was_kept() -> None:
    sent = frame(0xC2, deflated(bytes(9_000_000)))
    read = FrameReader(True, None, DEFLATE)
    passed = read.feed(sent[:20]) + read.feed(sent[20:-9])
    assert (read.unfinished, read.at_boundary) == (True, False)
    while read.unfinished:
        passed += read.rest(b"")
    more = frame(0x89, b"more")
    passed += read.rest(sent[-9:] + more[:5])
    assert passed == sent
    assert (read.unfinished, read.at_boundary) == (False, True)
    assert read.rest(b"") == b""
    assert read.feed(more[5:]) == more


def test_the_rest_of_a_frame_is_checked() -> None:
    text, compressed = frame(0x81, b"text" + b"\xff"), frame(0xC2, deflated(b"x" * 100_000))
    for sent, deflate, code in ((text, None, 1007), (compressed, DEFLATE, 1009)):
        read = FrameReader(True, 1000, deflate)
        assert read.feed(sent[:10]) == sent[:10]
        assert read.rest(sent[10:]) == b""
        assert read.rest(sent[10:]) == b""
        assert read.violation is not None
        assert (read.violation.code, read.at_boundary) == (code, False)


def test_a_limit_that_changes_is_that_of_the_next_frame() -> None:
    read = FrameReader(True, 10)
    read.limit_messages(None)
    sent = frame(0x82, b"x" * 4000)
    assert read.feed(sent) == sent
    read.limit_messages(20)
    assert read.feed(frame(0x82, b"x" * 20) + frame(0x82, b"x" * 21)) == frame(0x82, b"x" * 20)
    assert read.violation is not None
    assert read.violation.code == 1009


def test_a_limit_that_is_set_amid_a_message_counts_its_earlier_fragments() -> None:
    read = FrameReader(True)
    first = frame(0x02, b"x" * 100)
    assert read.feed(first) == first
    read.limit_messages(50)
    assert read.feed(frame(0x80, b"x" * 40)) == b""
    assert read.violation is not None
    assert read.violation.code == 1009


def test_kinds_are_counted_each() -> None:
    read = FrameReader(True)
    read.own_pong = b"own"
    sent = [(0x81, b"t"), (0x02, b"b"), (0x89, b""), (0x80, b"b"), (0x8A, b""), (0x8A, b"own"), (0x89, b"")]
    passed = b"".join(read.feed(frame(first, payload)) for first, payload in sent)
    assert (read.texts, read.binaries, read.pings, read.pongs, read.frames) == (1, 1, 2, 1, 6)
    assert passed == b"".join(frame(first, payload) for first, payload in sent if payload != b"own")
    assert read.own_pong is None


@for_each("seed", range(30))
def test_hostile_frames_mean_the_same_in_pieces_and_to_wsproto(seed: int) -> None:
    for number in range(seed * 100, seed * 100 + 100):
        hostile.judge(hostile.write(Random(number)), number)


@given(how=st.integers(0, 255), sent=written(), seed=st.integers(0, 2**32))
def test_whatever_comes_means_the_same_in_pieces_and_to_wsproto(how: int, sent: bytes, seed: int) -> None:
    hostile.judge(bytes((how,)) + sent, seed)


def test_what_is_forwarded_is_noted_where_that_is_asked_for() -> None:
    read = FrameReader(True, notes=True)
    read.own_pong = b"own"
    read.feed(frame(0x01, b"12") + frame(0x89, b"3") + frame(0x8A, b"own") + frame(0x80, b"456"))
    assert read.notes == [(9, 1), (1, 5)]
    read.feed(frame(0x82, b"") + frame(0x88, b""))
    assert read.notes == [(2, 0), (8, 0)]
    assert FrameReader(True).notes is None


def test_mask_of_a_reply() -> None:
    made = close_frame(1001, "bye", masked=True)
    assert unmask(made[6:], made[2:6], 0) == b"\x03\xe9bye"
