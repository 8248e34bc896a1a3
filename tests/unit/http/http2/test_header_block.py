"""Header blocks without Huffman code mean what they meant with it; those that are invalid are left to libnghttp2."""

from __future__ import annotations

from typing import Any

import pytest
from hpack import Decoder, Encoder, HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.http2.session import HEAD, WHOLE, Session
from tests.support.http2 import frames
from tests.support.http2.frames import MAX_FRAME, Flag, block, data, headers, integer, priority, string
from tests.support.table import for_each

if Session is not None:
    from fastgw.http.http2._header_block import plain
    from tests.unit.http.http2.sessions import ours, server

_CODE = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
EOS = "1" * 30
TEXT = st.binary(max_size=300) | st.text("abcdeostiplr0123456789 /=&;,-", max_size=300).map(str.encode)
FIRST = {"indexed name": b"\x44", "no index": b"\x04", "never": b"\x14"}
"""First bytes of a literal whose name is `:path`."""


def huffman(text: bytes) -> bytes:
    """Return a string in Huffman code."""
    code = _CODE.encode(text)
    return integer(len(code), 7, 0x80) + code


def coded(bits: str) -> bytes:
    """Return a literal whose value is these bits, filled up by ones."""
    bits += "1" * (-len(bits) % 8)
    return (
        b"\x04" + integer(len(bits) // 8, 7, 0x80) + bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    )


def bits_of(symbol: int) -> str:
    return f"{REQUEST_CODES[symbol]:0{REQUEST_CODES_LENGTH[symbol]}b}"


def events(piece: bytes, session: Any = None) -> tuple[list[Any], bool]:
    """Return the events of these frames, and whether the connection goes on."""
    session = session or server()
    beginning = frames.BEGINNING
    session.feed(beginning, len(beginning), 0.0)
    found = session.feed(piece, len(piece), 0.0)
    while session.to_send():
        pass
    return found + session.events(), session.error is None and not session.done


def decoded(made: bytes) -> Any:
    """Return the fields by hpack; None: it refuses them."""
    try:
        return Decoder().decode(made, raw=True)
    except HPACKError:
        return None


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
@given(TEXT)
def test_a_value_is_what_it_was(first: bytes, text: bytes) -> None:
    assert plain(first + huffman(text)) == first + string(text)


@given(TEXT, TEXT)
def test_a_name_is_what_it_was(name: bytes, value: bytes) -> None:
    assert plain(b"\x40" + huffman(name) + string(value)) == b"\x40" + string(name) + string(value)
    assert plain(b"\x40" + string(name) + huffman(value)) == b"\x40" + string(name) + string(value)
    assert plain(b"\x00" + huffman(name) + huffman(value)) == b"\x00" + string(name) + string(value)


def test_every_symbol_is_decoded() -> None:
    symbols = [bytes((each,)) for each in range(256)]
    texts = [symbol * 9 for symbol in symbols]
    for before in (b"", b"e", b"\xff", b"x" * 50):
        texts += [before + symbol + after for symbol in symbols for after in (b"", before)]
    assert [text for text in texts if plain(b"\x04" + huffman(text)) != b"\x04" + string(text)] == []


@for_each("length", [0, 1, 78, 79, 80, 81, 126, 127, 128, 129, 200, 254, 255, 256, 257, 9000])
@for_each("text", [b"0", b"~", b"\0"])
def test_lengths_are_written_as_they_are_read(length: int, text: bytes) -> None:
    assert plain(b"\x04" + huffman(length * text) + b"\x82") == (
        b"\x04" + string(length * text) + b"\x82" if len(huffman(length * text)) < MAX_FRAME else None
    )


def test_what_has_no_huffman_code_is_left_as_it_is() -> None:
    for each in (b"", b"\x82\x86\x84", b"\x3f\xe1\x1f\x82", block((b":method", b"GET"), (b"a", b"b"))):
        assert plain(each) is None


def test_updates_of_the_table_and_indexed_fields_are_kept() -> None:
    before = b"\x3f\xe1\x1f\x20\x82\xff\x80\x01"
    assert (
        plain(before + b"\x7f\x02" + huffman(b"abc") + b"\xbe\x82")
        == before + b"\x7f\x02" + string(b"abc") + b"\xbe\x82"
    )


@pytest.mark.parametrize(
    "value",
    {
        "eight bits of padding": coded(bits_of(ord("&")) + "1" * 8),
        "a byte of padding alone": coded("1" * 8),
        "zeros as padding": coded(bits_of(ord("0")) + "000"),
        "a zero in the padding": coded(bits_of(ord("0")) + "110"),
        "EOS": coded(EOS),
        "EOS behind a symbol": coded(bits_of(ord("0")) + EOS),
        "EOS amid symbols": coded(bits_of(ord("0")) * 20 + EOS + bits_of(ord("0")) * 20),
        "a long code that is cut off": coded(bits_of(0x0A)[:24]),
        "a string that is cut off": b"\x04\x85ab",
        "no string": b"\x04",
        "a name without a value": b"\x40" + huffman(b"a"),
        "a length that is cut off": b"\x04\xff\x80",
        "a length of many bytes": b"\x04\xff\x80\x80\x80\x80\x80\x80\x01abc",
        "an index of many bytes": b"\xff\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    }.items(),
    ids=lambda each: each[0],
)
def test_what_is_invalid_is_left_to_the_library(value: tuple[str, bytes]) -> None:
    """Also behind a valid string."""
    good = b"\x04" + huffman(b"/" + b"a" * 250)  # short frames are left as they are
    assert plain(value[1]) is None
    assert plain(good + value[1]) is None
    found, goes_on = events(headers(b"\x82\x86" + good + value[1]))
    assert not goes_on
    assert not found


@given(
    st.lists(st.tuples(TEXT.filter(bool), TEXT), max_size=8),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), max_size=3),
)
def test_the_library_reads_the_same_with_and_without(
    fields: list[tuple[bytes, bytes]], changes: list[tuple[int, bytes]]
) -> None:
    """Heads of ordinary clients, and blocks that are no longer valid. Padded frames are passed on as they are."""
    encoder = Encoder()
    pseudo = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/abc?d=e")]
    made = bytearray(encoder.encode([*pseudo, *fields], huffman=True))
    for at, change in changes:
        made[at % len(made) : at % len(made) + len(change)] = change
    changed = bytes(made)[: MAX_FRAME - 1]
    assert events(headers(changed)) == events(headers(b"\0" + changed, flags=Flag.PADDED))


@given(st.binary(max_size=80))
def test_any_bytes_are_read_the_same_with_and_without(junk: bytes) -> None:
    before = block(*frames.pseudo(b"GET", b"/"), (b"x-long", b"a" * 150))
    assert events(headers(before + junk)) == events(headers(b"\0" + before + junk, flags=Flag.PADDED))
    without = plain(junk)
    if without is not None:
        assert decoded(without) == decoded(junk)


def test_both_tables_stay_equal() -> None:
    """Entries by literals, evictions, another size: the following requests refer to them."""
    encoder, session = Encoder(), server()
    events(b"", session)
    for number in range(60):
        if number == 30:
            encoder.header_table_size = 200
        fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/%d" % number)]
        fields += [(b"x-name-%d" % (number % 7), b"value %d of many" % (number % 11)), (b"x-other", b"o" * 6 * number)]
        piece = headers(encoder.encode(fields, huffman=True), 2 * number + 1)
        (found,) = session.feed(piece, len(piece), 0.0)
        assert b"x-name-%d: value %d of many\r\n" % (number % 7, number % 11) in found[2]
        assert b"x-other: %b\r\n" % (b"o" * 6 * number) in found[2] or not number


def test_frames_are_found_wherever_they_are_cut() -> None:
    """Also between the bytes of a frame's header, and where several frames come together."""
    head = (
        b"\x82\x86\x04"
        + huffman(b"/a?b=c")
        + b"\x01"
        + huffman(b"a.test")
        + b"\x00"
        + huffman(b"x-a")
        + huffman(b"b" * 190)
    )
    sent = frames.BEGINNING + b"".join(
        (
            headers(head, 1, end=False),
            data(b"abc", 1, end=False),
            data(b"d" * 20, 1, padding=3),
            headers(b"\0\0\0\0\x0f" + head, 3, flags=Flag.PRIORITY),
            priority(5),
            headers(b"\x02" + head + b"\0\0", 5, flags=Flag.PADDED),
            headers(head[:9], 7, whole=False) + frames.continuation(head[9:], 7),
            frames.ping(),
            headers(head, 9, end=False) + headers(b"\x00" + huffman(b"x-b") + huffman(b"c"), 9),
            frames.frame(frames.Type.UNKNOWN, b"\x01" * 12),
            headers(head, 11),
        )
    )
    whole = ours([sent])
    assert set(whole.heads) == {1, 3, 5, 7, 9, 11} == whole.ended
    assert all(head == whole.heads[1] for head in whole.heads.values())
    assert whole.trailers == {9: [(b"x-b", b"c")]}
    for at in range(1, len(sent)):
        assert ours([sent[:at], sent[at:]]) == whole, at
    for step in (2, 3, 7, 20):  # nghttp2 takes each byte of a CONTINUATION frame's header for a further frame
        assert ours([sent[at : at + step] for at in range(0, len(sent), step)]) == whole


@pytest.mark.parametrize("size", [10_000, 10_400, MAX_FRAME, MAX_FRAME + 1])
def test_a_frame_that_would_be_too_long_without_is_passed_as_it_is(size: int) -> None:
    """From 10,240 bytes of the shortest code on; above the limit of frames nothing is read, as before."""
    before = b"\x82\x86\x84\x01" + huffman(b"a.test") + b"\x00" + string(b"x-a")
    code = size - len(before) - 3
    made = before + huffman(b"0" * (code * 8 // 5))
    assert abs(len(made) - size) <= 1
    assert (plain(made) is None) is (size > 10_240)
    session = server(header_bytes=65_536)
    found, goes_on = events(headers(made), session)
    assert goes_on is (size <= MAX_FRAME)
    assert [b"x-a: " + b"0" * (code * 8 // 5) + b"\r\n" in text for _, _, text in found] == [True] * goes_on


@pytest.mark.parametrize("cut", [0, 1, 5, 12])
def test_a_request_behind_a_goaway_is_served_however_long_its_head_is(cut: int) -> None:
    """By itself nghttp2 reads nothing behind one, if there is no stream; as before, the rest of what was received
    together is read.
    """
    session = server()
    session.feed(frames.BEGINNING, len(frames.BEGINNING), 0.0)
    leaving = frames.goaway()
    session.feed(leaving, cut, 0.0)
    made = b"".join(
        headers(b"\x82\x86\x04" + huffman(b"/" + b"a" * length) + b"\x01" + huffman(b"a.test"), stream)
        for stream, length in ((1, 300), (3, 3), (5, 300))
    )
    rest = leaving[cut:] + made
    found = session.feed(rest, len(rest), 0.0)
    assert [stream for kind, stream, _ in found if kind in (HEAD, WHOLE)] == [1, 3, 5]
