"""The reader of frames: the same in pieces, never other bytes than came, and wsproto's opinion."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from fastgw.http.websocket.frames import FrameReader, close_frame, unmask

PAYLOADS = st.one_of(st.binary(max_size=300), st.text(max_size=80).map(str.encode))


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """Frames that are nearly right."""
    made = b""
    for _ in range(draw(st.integers(1, 6))):
        first = draw(st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x88, 0x83, 0xC1, 0x09]))
        payload = draw(PAYLOADS)
        size = len(payload)
        head = bytes((first, 128 | size)) if size < 126 else bytes((first, 254)) + size.to_bytes(2, "big")
        key = draw(st.binary(min_size=4, max_size=4))
        made += head + key + unmask(payload, key, 0)
    return made


@given(written(), st.lists(st.integers(1, 40), max_size=30))
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
    assert (pieces.close, pieces.frames, pieces.messages, pieces.pings) == (
        *(whole.close, whole.frames, whole.messages, whole.pings),
    )
    assert got.startswith(passed)  # of a frame with a fault, payload may have gone before it was seen


@given(written())
def test_wsproto_takes_what_passes(sent: bytes) -> None:
    """A second opinion: of a stream without a fault, wsproto sees as many messages, and no fault."""
    reader = FrameReader(True)
    passed = reader.feed(sent)
    judge = FrameProtocol(client=False, extensions=[])
    judge.receive_bytes(passed)
    ended = 0
    for frame in judge.received_frames():
        ended += frame.opcode in (Opcode.TEXT, Opcode.BINARY) and frame.message_finished
        if frame.opcode is Opcode.CLOSE:
            break
    assert ended <= reader.messages


def test_mask_of_a_reply() -> None:
    made = close_frame(1001, "bye", masked=True)
    assert unmask(made[6:], made[2:6], 0) == b"\x03\xe9bye"
