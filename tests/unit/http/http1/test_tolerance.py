"""Repairs leave valid text alone, and read a body in sloppy chunks alike, wherever its bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.http1.body import LONGEST_EXTENSIONS, body_reader
from fastgw.http.http1.parser import parse_response
from fastgw.http.http1.tolerance import Repair, RepairedChunks, ResponseRules
from fastgw.http.malformed import Malformed
from tests.support.table import for_each

ALL = ResponseRules(
    (
        *("content_length_with_chunked", "repeated_content_length", "transfer_encoding_identity", "repeated_chunked"),
        *("bare_lf", "padded_chunk_sizes", "statuses_above_599", "control_characters"),
    )
)
FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"X-A", b"Set-Cookie", b"Trailer", b"Content-Length-X", b"Connection"]),
        st.from_regex(rb"[\t -~\x80-\xff]{0,20}", fullmatch=True),
    ),
    max_size=4,
)
FRAMINGS = st.sampled_from([b"", b"Content-Length: 3\r\n", b"transfer-encoding:  Chunked \r\n"])


@given(FIELDS, FRAMINGS, st.from_regex(rb"[\t -~]{0,20}", fullmatch=True))
def test_a_valid_head_is_left_alone(fields: list[tuple[bytes, bytes]], framing: bytes, reason: bytes) -> None:
    head = b"HTTP/1.1 200 %b\r\n%b%b\r\n" % (reason, b"".join(b"%b:%b\r\n" % each for each in fields), framing)
    repair = Repair(ALL)
    assert (repair.repair_head(head), repair.ambiguous) == (head, False)


def reader() -> RepairedChunks:
    head = parse_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"GET")
    return RepairedChunks(body_reader(head), Repair(ALL))


SLOPPY = b"5 \t\r\nhe\nlo\n0003;a=b \n\r\n0\n0 ;c\nX-A: b\x01\r\nX-B: c\n\n"


def test_a_sloppy_body_may_be_cut_anywhere() -> None:
    for first in range(len(SLOPPY) + 1):
        for second in range(first, len(SLOPPY) + 1):
            read = reader()
            parts = SLOPPY[:first], SLOPPY[first:second], SLOPPY[second:] + b"HTTP/1.1 200"
            assert b"".join(map(read.feed, parts)) == b"he\nlo\r\n0", (first, second)
            assert read.trailers == ((b"X-A", b"b"), (b"X-B", b"c"))
            assert (read.done, read.rest, read._repair.ambiguous) == (True, b"HTTP/1.1 200", True)


@for_each(
    "body",
    [
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello \r\n0\r\n\r\n",
        b"5\x01\r\nhello\r\n0\r\n\r\n",
        b"00000000000000005\r\nhello\r\n0\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nX-A: b\n c\n\n",
        b"5" + b" " * (LONGEST_EXTENSIONS + 1),
        b"0\r\nX-A: " + b"b" * 70_000,
    ],
)
def test_what_has_no_meaning_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        reader().feed(body)


def test_the_end_before_the_last_chunk_is_refused() -> None:
    read = reader()
    assert read.feed(b"5\nhello\n0\n") == b"hello"
    with pytest.raises(Malformed):
        read.eof()
