"""Byte ranges: which part of a representation a Range asks for, and how the answer says so."""

from email.parser import BytesParser
from email.policy import HTTP

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.http.byte_ranges import (
    MAX_RANGES,
    ByteRange,
    ContentRange,
    content_range,
    frame_multipart,
    parse_content_range,
    select_ranges,
    unsatisfied_range,
)
from tests.support.table import for_each

HUGE = b"9" * 5000


@for_each(
    ("value", "length", "ranges"),
    [
        (b"bytes=0-0", 10, [(0, 0)]),
        (b"bytes=0-", 10, [(0, 9)]),
        (b"bytes=3-5", 10, [(3, 5)]),
        (b"bytes=9-9", 10, [(9, 9)]),
        (b"bytes=3-5000", 10, [(3, 9)]),
        (b"bytes=3-" + HUGE, 10, [(3, 9)]),
        (b"bytes=0" + b"0" * 5000 + b"3-5", 10, [(3, 5)]),
        (b"bytes=-3", 10, [(7, 9)]),
        (b"bytes=-30", 10, [(0, 9)]),
        (b"bytes=-" + HUGE, 10, [(0, 9)]),
        (b"BYTES=1-2", 10, [(1, 2)]),
        (b"bytes=0-0,-1", 10, [(0, 0), (9, 9)]),
        (b"bytes=5-6 ,\t1-2", 10, [(5, 6), (1, 2)]),
        (b"bytes=,, 1-2,,", 10, [(1, 2)]),
        (b"bytes=1-2,10-20,4-4", 10, [(1, 2), (4, 4)]),
        (b"bytes=0-4,5-9", 10, [(0, 4), (5, 9)]),
    ],
)
def test_ranges_are_selected(value: bytes, length: int, ranges: list[tuple[int, int]]) -> None:
    assert select_ranges(value, length) == tuple(ByteRange(*each) for each in ranges)


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (b"bytes=10-", 10),
        (b"bytes=10-20", 10),
        (b"bytes=20-30,40-50", 10),
        (b"bytes=%b-" % HUGE, 10),
        (b"bytes=%b-%b" % (HUGE, HUGE), 10),
        (b"bytes=-0", 10),
        (b"bytes=-0", 0),
        (b"bytes=0-0", 0),
    ],
)
def test_what_lies_behind_the_end_is_not_satisfiable(value: bytes, length: int) -> None:
    assert select_ranges(value, length) == ()


@for_each(
    "value",
    [
        b"",
        b"bytes",
        b"bytes=",
        b"bytes= ",
        b"bytes=,",
        b"bytes=-",
        b"bytes=--1",
        b"bytes=1--1",
        b"bytes=5-4",
        b"bytes=5-4,0-0",
        b"bytes=0-0,x",
        b"bytes=0 -1",
        b"bytes=0- 1",
        b"bytes =0-1",
        b" bytes=0-1",
        b"bytes=+1-2",
        b"bytes=1-+2",
        b"bytes=1_0-2_0",
        b"bytes=0x1-2",
        b"bytes=1.0-2",
        b"bytes=1-2-3",
        b"bytes=1-2;3-4",
        b"bytes:1-2",
        b"bytes 1-2",
        b"bytes=0-1, bytes=2-3",  # two lines
        b"items=0-1",
        b"none=0-1",
        b"0-1",
        b"bytes=\xb2-3",
        b"bytes=\xd9\xa0-\xd9\xa3",
        b"bytes=" + b",".join([b"0-0"] * (MAX_RANGES + 1)),
        b"bytes=" + b",".join([b"0-0"] * 10_000),
        b"bytes=0-,0-",  # longer than the whole
        b"bytes=0-6,3-9",
        b"bytes=-6,-6",
    ],
)
def test_other_ranges_are_ignored(value: bytes) -> None:
    assert select_ranges(value, 10) is None


def test_the_end_of_nothing_is_the_whole() -> None:
    """A suffix of an empty representation is satisfiable, and no Content-Range can say so: 200."""
    assert select_ranges(b"bytes=-5", 0) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40).map(b"bytes=".__add__) | st.from_regex(rb"bytes=[0-9,\- ]{0,30}"), st.integers(0, 30))
def test_no_range_leaves_the_representation(value: bytes, length: int) -> None:
    ranges = select_ranges(value, length) or ()
    assert all(0 <= each.first <= each.last < length for each in ranges)
    assert sum(each.length for each in ranges) <= length


@for_each(
    ("value", "read"),
    [
        (b"bytes 0-4/10", ContentRange(ByteRange(0, 4), 10)),
        (b"Bytes 0-4/10", ContentRange(ByteRange(0, 4), 10)),
        (b"bytes 0-4/*", ContentRange(ByteRange(0, 4), None)),
        (b"bytes 9-9/10", ContentRange(ByteRange(9, 9), 10)),
        (b"bytes */10", ContentRange(None, 10)),
        (b"bytes */0", ContentRange(None, 0)),
        (b"bytes */*", None),
        (b"bytes 5-4/10", None),
        (b"bytes 0-10/10", None),
        (b"bytes 0-4", None),
        (b"bytes 0-4/", None),
        (b"bytes -4/10", None),
        (b"bytes 0-/10", None),
        (b"bytes=0-4/10", None),
        (b"bytes  0-4/10", None),
        (b"bytes 0-4/10, bytes 5-9/10", None),
        (b"items 0-4/10", None),
        (b"bytes +0-4/10", None),
        (b"", None),
        (b"bytes 0-%b/%b" % (HUGE, HUGE), None),
    ],
)
def test_a_content_range_is_read(value: bytes, read: ContentRange | None) -> None:
    assert parse_content_range(value) == read


def test_what_is_written_is_read() -> None:
    assert content_range(ByteRange(2, 5), 10) == b"bytes 2-5/10"
    assert parse_content_range(content_range(ByteRange(2, 5), None)) == ContentRange(ByteRange(2, 5), None)
    assert parse_content_range(unsatisfied_range(7)) == ContentRange(None, 7)


@pytest.mark.parametrize("kind", [b"text/html", b""])
def test_a_multipart_body_is_read_by_a_mime_parser(kind: bytes) -> None:
    content = bytes(range(256))
    ranges = (ByteRange(0, 0), ByteRange(100, 120), ByteRange(255, 255))
    frame = frame_multipart(ranges, len(content), kind, b"THIS_STRING_SEPARATES")
    pieces = [head + content[each.first : each.last + 1] for head, each in zip(frame.heads, ranges, strict=True)]
    body = b"".join(pieces) + frame.end
    assert len(body) == frame.length
    assert body.startswith(b"--THIS_STRING_SEPARATES\r\n")
    parsed = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + frame.content_type + b"\r\n\r\n" + body)
    parts = list(parsed.iter_parts())
    assert [part["Content-Range"] for part in parts] == ["bytes 0-0/256", "bytes 100-120/256", "bytes 255-255/256"]
    assert [part["Content-Type"] for part in parts] == [kind.decode() or None] * 3
