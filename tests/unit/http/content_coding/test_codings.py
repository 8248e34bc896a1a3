"""Compressors and decompressors: what is compressed is read by other programs' libraries, and bombs are refused."""

from __future__ import annotations

import gzip
import zlib
from itertools import pairwise
from typing import get_args

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.http.content_coding.compressors import (
    BROTLI,
    EVENT_CODINGS,
    GZIP,
    MAX_PADDING,
    ZSTD,
    Compressor,
    Level,
    PaddedCompressor,
    open_compressor,
    open_event_compressor,
    whole_compressor,
    zstd,
)
from fastgw.http.content_coding.decompressors import (
    MAX_PARTS,
    RATIO_FREE,
    Decompressor,
    Excessive,
    Undecodable,
)

CODINGS = (GZIP, BROTLI, ZSTD)
LEVELS: tuple[Level, ...] = get_args(Level)
MIB = 1024 * 1024


def decoded(coding: bytes, data: bytes) -> bytes:
    """What another library reads."""
    if coding == GZIP:
        return gzip.decompress(data)
    return brotli.decompress(data) if coding == BROTLI else zstd.decompress(data)  # type: ignore[no-any-return]


def partly_decoded(coding: bytes, data: bytes) -> bytes:
    """What a client has read of a stream that goes on."""
    if coding == GZIP:
        return zlib.decompressobj(31).decompress(data)
    if coding == BROTLI:
        return brotli.Decompressor().process(data)  # type: ignore[no-any-return]
    read = b""
    while data:  # one decompressor for each frame
        made = zstd.ZstdDecompressor()
        read += made.decompress(data)
        data = made.unused_data
    return read


def encoded(coding: bytes, data: bytes) -> bytes:
    return whole_compressor(coding, "default")(data)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(each % (len(data) + 1) for each in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


CONTENTS = st.one_of(
    st.binary(max_size=2000),
    st.builds(lambda word, times: word * times, st.binary(min_size=1, max_size=30), st.integers(0, 3000)),
)
CUTS = st.lists(st.integers(0, 100_000), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    content=CONTENTS, cuts=CUTS, again=CUTS, coding=st.sampled_from(CODINGS), level=st.sampled_from(LEVELS),
    flushes=st.booleans(), padding=st.integers(0, MAX_PADDING), events=st.booleans(),
)  # fmt: skip
def test_what_is_decompressed_is_the_content_whatever_the_cuts(
    content: bytes, cuts: list[int], again: list[int], coding: bytes, level: Level, flushes: bool, padding: int,
    events: bool,
) -> None:  # fmt: skip
    """For each coding, level, flush and padding: by another library, and by the own decompressor in other pieces."""
    events = events and coding in EVENT_CODINGS
    made: Compressor = open_event_compressor(coding) if events else open_compressor(coding, level)
    if padding:
        made = PaddedCompressor(coding, made, padding)
    out = b""
    for piece in cut(content, cuts):
        if piece:
            out += made.compress(piece)
            if flushes:
                out += made.flush()
    out += made.finish()
    assert decoded(coding, out) == content
    reader = Decompressor(coding, MIB, 1_000_000)
    assert b"".join(reader.feed(piece) for piece in cut(out, again)) == content
    reader.end()


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("padding", [0, 1, MAX_PADDING])
def test_after_a_flush_all_input_can_be_read(coding: bytes, padding: int) -> None:
    made: Compressor = open_event_compressor(coding) if coding in EVENT_CODINGS else open_compressor(coding, "default")
    if padding:
        made = PaddedCompressor(coding, made, padding)
    out = sent = b""
    for number in range(20):
        event = b"data: %d\n\n" % number
        sent += event
        out += made.compress(event) + made.flush()
        assert partly_decoded(coding, out) == sent


@pytest.mark.parametrize("coding", CODINGS)
def test_padding_makes_the_output_longer_by_as_much(coding: bytes) -> None:
    content = b"secret=42&guess=41" * 50

    def length(padding: int) -> int:
        made = PaddedCompressor(coding, open_compressor(coding, "default"), padding)
        return len(made.compress(content) + made.finish())

    assert length(101) - length(1) == 100
    assert length(256) - length(101) == 155


@pytest.mark.parametrize("coding", CODINGS)
def test_whole_contents_are_compressed_one_after_the_other(coding: bytes) -> None:
    compress = whole_compressor(coding, "default")
    contents = [b"one " * 100, b"", b"two " * 5000, b"one " * 100]
    outs = [compress(each) for each in contents]
    assert [decoded(coding, each) for each in outs] == contents
    assert outs[0] == outs[3]  # nothing of what came between is in it


def test_streams_share_no_data_with_earlier_ones_or_those_that_break_off() -> None:
    """Contexts of Zstandard are used again, once their frame is complete."""
    contents = [b"one " * 100, b"two " * 50_000, b"one " * 100]
    outs = []
    for content in contents:
        broken, other, made = (open_compressor(ZSTD, "default") for _ in range(3))
        broken.compress(b"half of a body")
        other.compress(b"of another client")
        outs.append(made.compress(content) + made.finish())
        other.finish()
    assert [decoded(ZSTD, out) for out in outs] == contents
    assert outs[0] == outs[2]


def fed(coding: bytes, data: bytes, max_bytes: int = MIB, max_ratio: int = 100, piece: int = 16384) -> int:
    """How many bytes came out, until the end or a refusal."""
    reader, came = Decompressor(coding, max_bytes, max_ratio), 0
    for start in range(0, len(data), piece):
        came += len(reader.feed(data[start : start + piece]))
    reader.end()
    return came


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_is_refused_as_soon_as_it_exceeds_the_limit(coding: bytes) -> None:
    """32 MiB of zeros in some KiB."""
    bomb = encoded(coding, bytes(32 * MIB))
    with pytest.raises(Excessive, match="more than 1000 bytes"):
        fed(coding, bomb, max_bytes=1000)
    with pytest.raises(Excessive, match="more than 100 times its size"):
        fed(coding, bomb, max_bytes=64 * MIB)
    assert fed(coding, bomb, max_bytes=32 * MIB, max_ratio=100_000) == 32 * MIB


@pytest.mark.parametrize("coding", CODINGS)
def test_the_limit_itself_passes_and_one_byte_more_does_not(coding: bytes) -> None:
    assert fed(coding, encoded(coding, b"a" * 1000), max_bytes=1000) == 1000
    with pytest.raises(Excessive):
        fed(coding, encoded(coding, b"a" * 1001), max_bytes=1000)


@pytest.mark.parametrize("coding", CODINGS)
def test_the_ratio_does_not_count_for_small_contents(coding: bytes) -> None:
    assert fed(coding, encoded(coding, bytes(RATIO_FREE)), max_bytes=2 * MIB, max_ratio=1) == RATIO_FREE


@pytest.mark.parametrize("coding", CODINGS)
def test_what_is_cut_off_or_damaged_is_refused(coding: bytes) -> None:
    data = encoded(coding, b"".join(b"%d," % number for number in range(5000)))
    for end in (1, 5, len(data) // 2, len(data) - 1):
        with pytest.raises(Undecodable):
            fed(coding, data[:end])
    with pytest.raises(Undecodable):
        fed(coding, b"no " + data)
    if coding == GZIP:  # the checksum
        with pytest.raises(Undecodable):
            fed(coding, data[:-6] + bytes([data[-6] ^ 1]) + data[-5:])


@pytest.mark.parametrize("coding", CODINGS)
def test_data_after_the_end_is_refused(coding: bytes) -> None:
    for piece in (1, 16384):
        with pytest.raises(Undecodable):
            fed(coding, encoded(coding, b"content") + b"more than that", piece=piece)


@pytest.mark.parametrize("coding", [GZIP, ZSTD])
def test_members_and_frames_are_joined_up_to_a_number(coding: bytes) -> None:
    """RFC 1952 section 2.2, RFC 8878 section 3.1: each has a cost, also an empty one."""
    assert fed(coding, encoded(coding, b"ab") * MAX_PARTS) == 2 * MAX_PARTS
    assert fed(coding, encoded(coding, b"ab") * 9, piece=1) == 18
    with pytest.raises(Undecodable, match="more than 256 parts"):
        fed(coding, encoded(coding, b"") * (MAX_PARTS + 1))


def test_a_window_beyond_that_of_the_coding_is_refused() -> None:
    """RFC 9659: 8 MiB at most; a frame could demand gigabytes."""
    of = zstd.CompressionParameter
    for window_log, passes in ((23, True), (24, False), (27, False)):
        made = zstd.ZstdCompressor(options={of.window_log: window_log})
        data = made.compress(b"a" * 100) + made.flush()
        if passes:
            assert fed(ZSTD, data) == 100
        else:
            with pytest.raises(Undecodable):
                fed(ZSTD, data)
