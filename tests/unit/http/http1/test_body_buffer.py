"""What bodies are read into: whoever has taken bytes out of it keeps them as they are, whatever is read next."""

import random

import pytest

from fastgw.http.http1.parser import body_buffer, leading_bytes

SIZE = 1000


def read(buffer: memoryview, received: bytes) -> bytes:
    """What a loop does: lend the buffer, fill its beginning, and have it taken."""
    with memoryview(buffer) as lent:
        lent[: len(received)] = received
    return leading_bytes(buffer, len(received))


@pytest.mark.parametrize("length", [0, 1, 499, 500, 501, 999, 1000])
def test_what_was_read_is_taken_and_no_byte_more(length):
    received = random.Random(length).randbytes(length)
    chunk = read(body_buffer(SIZE), received)
    assert type(chunk) is bytes
    assert chunk == received
    assert hash(chunk) == hash(received)


def test_what_was_taken_stays():
    dice, buffer = random.Random(1), body_buffer(SIZE)
    all_received = [dice.randbytes(dice.choice([1, 499, 500, 999, 1000])) for _ in range(200)]
    assert [read(buffer, received) for received in all_received] == all_received


def test_it_is_as_long_as_it_says():
    buffer = body_buffer(SIZE)
    assert len(buffer) == SIZE
    with memoryview(buffer) as lent:
        assert (lent.nbytes, lent.readonly) == (SIZE, False)


def test_what_was_lent_and_not_filled_is_lent_again():
    """A loop asks for it before it knows whether there is anything to read."""
    buffer = body_buffer(SIZE)
    with memoryview(buffer):
        pass
    assert read(buffer, b"x" * SIZE) == b"x" * SIZE


def test_the_same_bytes_are_not_handed_over_twice():
    buffer = body_buffer(SIZE)
    leading_bytes(filled(buffer), SIZE)
    for length in (SIZE, 1, 0, -1, SIZE + 1):
        with pytest.raises(ValueError, match="nothing was read"):
            leading_bytes(buffer, length)


@pytest.mark.parametrize("length", [-1, SIZE + 1])
def test_no_more_is_taken_than_there_is(length):
    with pytest.raises(ValueError, match="nothing was read"):
        leading_bytes(filled(body_buffer(SIZE)), length)


def filled(buffer: memoryview) -> memoryview:
    with memoryview(buffer) as lent:
        lent[:] = bytes(SIZE)
    return buffer
