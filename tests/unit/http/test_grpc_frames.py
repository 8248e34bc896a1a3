"""Frames of gRPC messages: the same in pieces, bounded before a byte is held, and messages of statuses both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.grpc.frames import (
    COMPRESSED,
    TRAILERS,
    FrameError,
    FrameScanner,
    FrameTooLarge,
    MessageReader,
    frame,
)
from fastgw.http.grpc.status import TO_HTTP, GrpcStatus, decode_message, encode_message, outcome_of, parse_status

MESSAGES = st.lists(st.tuples(st.sampled_from([0, COMPRESSED]), st.binary(max_size=60)), max_size=8)


def cut(whole: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in [*sizes, len(whole)]:
        pieces.append(whole[:size])
        whole = whole[size:]
    return [piece for piece in pieces if piece]


@given(MESSAGES, st.lists(st.integers(1, 12), max_size=40))
def test_messages_are_the_same_in_pieces(messages: list[tuple[int, bytes]], sizes: list[int]) -> None:
    whole = b"".join(frame(message, flags) for flags, message in messages)
    reader, scanner = MessageReader(60), FrameScanner(60)
    got = []
    for piece in cut(whole, sizes):
        got += reader.feed(piece)
        scanner.feed(piece)
        assert scanner.messages == len(got)
    reader.end()
    scanner.end()
    assert got == messages


@given(MESSAGES.filter(bool), st.data())
def test_a_body_that_ends_within_a_message_is_refused(messages: list[tuple[int, bytes]], data: st.DataObject) -> None:
    *before, (flags, message) = messages
    last = frame(message, flags)
    whole = b"".join(frame(each, of) for of, each in before) + last[: data.draw(st.integers(1, len(last) - 1))]
    for codec in (MessageReader(60), FrameScanner(60)):
        codec.feed(whole)
        with pytest.raises(FrameError, match="within a message"):
            codec.end()


@pytest.mark.parametrize("codec", [MessageReader, FrameScanner])
def test_a_length_is_judged_before_a_byte_of_the_message_comes(codec: type[MessageReader] | type[FrameScanner]) -> None:
    codec(10).feed(b"\0\0\0\0\x0a")
    for length in (11, 2**32 - 1):
        with pytest.raises(FrameTooLarge, match=f"{length} bytes"):
            codec(10).feed(b"\0" + length.to_bytes(4, "big"))


@pytest.mark.parametrize("codec", [MessageReader, FrameScanner])
@pytest.mark.parametrize("flags", [0x02, 0x80, 0xFF])
def test_flags_that_are_not_allowed_are_refused(codec: type[MessageReader] | type[FrameScanner], flags: int) -> None:
    with pytest.raises(FrameError, match=f"{flags:#04x}"):
        codec(10).feed(bytes((flags, 0, 0, 0, 0)))
    codec(10, TRAILERS).feed(b"\x80\0\0\0\0")


@given(st.text())
def test_a_message_of_a_status_is_printable_ascii_and_comes_back(text: str) -> None:
    encoded = encode_message(text.encode("utf-8", "replace").decode())
    assert all(0x20 <= code < 0x7F for code in encoded)
    assert decode_message(encoded) == text.encode("utf-8", "replace").decode()


def test_a_message_that_is_not_encoded_well_is_kept() -> None:
    assert decode_message(b"100 %, %zz, %41") == "100 %, %zz, A"
    assert decode_message(b"%ff") == "\ufffd"


def test_a_status_is_one_of_grpcs() -> None:
    assert [parse_status(value) for value in (b"0", b"16", b"07")] == [0, 16, 7]
    for wrong in (None, b"", b"17", b"-1", b"999999", b"1 ", "²".encode(), b"x"):
        assert parse_status(wrong) is GrpcStatus.UNKNOWN
    assert set(TO_HTTP) == set(GrpcStatus)


def test_the_outcome_is_a_fault_of_the_target_or_none() -> None:
    assert [outcome_of(200, b"%d" % code) for code in GrpcStatus] == [
        *(200, 200, 500, 200, 504, 200, 200, 200, 200),
        *(200, 200, 200, 200, 500, 503, 500, 200),
    ]
    assert (outcome_of(503, b"0"), outcome_of(200, None)) == (503, 200)
    assert [outcome_of(200, code, own_deadline=True) for code in (b"4", b"13", b"14")] == [200, 500, 503]
