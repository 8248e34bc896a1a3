"""A TLS client's first message is collected whole, in whichever records and pieces it comes."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.malformed import Malformed
from fastgw.net.client_hello import LONGEST_HELLO, LONGEST_RECORD, MOST_RECORDS, HelloBuffer
from tests.support.secured import client_hello
from tests.support.table import for_each

hello = cache(client_hello)


def record(fragment: bytes) -> bytes:
    return b"\x16\x03\x01" + len(fragment).to_bytes(2) + fragment


def in_records(message: bytes, size: int) -> bytes:
    return b"".join(record(message[at : at + size]) for at in range(0, len(message), size))


@for_each("size", [10, 11, 100, 100_000])
@for_each("step", [1, 7, 100_000])
def test_a_hello_is_ready_with_its_last_byte_in_whichever_pieces_it_comes(size: int, step: int) -> None:
    """RFC 8446 section 5.1: a message may be fragmented across several records."""
    message = hello("http/1.1")[5:]
    sent = in_records(message, size)
    buffer = HelloBuffer()
    ready = [buffer.feed(sent[at : at + step]) for at in range(0, len(sent), step)]
    assert ready == [False] * (len(ready) - 1) + [True]
    assert (bytes(buffer.received), buffer.message()) == (sent, message)


def test_what_comes_behind_a_hello_is_kept_for_openssl() -> None:
    """Early data, and the last record may hold more than the message."""
    sent = hello()
    for behind in (b"\x17\x03\x03\x00\x02ab", b"\x17", b"x" * 30_000):
        buffer = HelloBuffer()
        assert buffer.feed(sent + behind)
        assert buffer.received == sent + behind
    assert HelloBuffer().feed(record(sent[5:] + b"more"))


@pytest.mark.parametrize(
    "sent",
    [
        b"\x17\x03\x01\x00\x05",  # of another type
        b"\x16\x02\x00\x00\x05",  # of another protocol
        b"\x16\x03\x01\x00\x00",  # empty
        b"\x16\x03\x01\x40\x01",  # longer than a record may be
        record(b"\x02\x00\x00\x10"),  # another message
        record(b"\x01\x00") + b"\x15\x03\x01\x00\x02",  # an alert amid the message
    ],
)
def test_what_openssl_refuses_is_left_to_it_at_once(sent: bytes) -> None:
    assert HelloBuffer().feed(sent)


def test_no_more_is_held_than_a_record_may_hold() -> None:
    """The longest hello passes; one byte more, in however many records, and it is refused."""
    longest = b"\x01" + (LONGEST_RECORD - 4).to_bytes(3) + b"x" * (LONGEST_RECORD - 4)
    assert HelloBuffer().feed(record(longest))
    longer = b"\x01" + (LONGEST_RECORD - 3).to_bytes(3) + b"x" * (LONGEST_RECORD - 3)
    for sent in (in_records(longer, LONGEST_RECORD), in_records(longer, 100)):
        buffer = HelloBuffer()
        assert not any(buffer.feed(sent[at : at + 1]) for at in range(LONGEST_HELLO - 1))
        with pytest.raises(Malformed, match=r"^the ClientHello is longer than 16389 bytes$"):
            buffer.feed(sent[LONGEST_HELLO - 1 : LONGEST_HELLO])


def test_records_without_end_are_refused() -> None:
    """Each costs as much as a long one."""
    message = b"\x01" + (MOST_RECORDS - 4).to_bytes(3) + bytes(MOST_RECORDS - 4)
    buffer = HelloBuffer()
    assert buffer.feed(in_records(message, 1))
    assert buffer.message() == message
    with pytest.raises(Malformed, match=r"^the ClientHello is cut into more than 256 records$"):
        HelloBuffer().feed(in_records(b"\x01" + (1000).to_bytes(3) + bytes(1000), 1))


@given(st.lists(st.binary(max_size=60)))
def test_no_bytes_are_too_strange_for_the_buffer(chunks: list[bytes]) -> None:
    buffer = HelloBuffer()
    for chunk in chunks:
        ready = buffer.feed(chunk)
        buffer.message()
        if ready:
            break
