"""Samples of workers reach the control process whole, or are dropped and counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastgw.runtime.ipc.sample_stream import MOST_BYTES, PART_BYTES, Sample, SampleReader, SampleWriter, sample_pair


class Pair:
    def __init__(self) -> None:
        reading, writing = sample_pair()
        self.received: list[Sample] = []
        self.reader = SampleReader(reading, self.received.append)
        self.first = SampleWriter(writing.dup(), 1)
        self.second = SampleWriter(writing.dup(), 2)
        writing.close()

    def close(self) -> None:
        for each in (self.reader, self.first, self.second):
            each.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.mark.parametrize("length", [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_samples_of_any_length_arrive_whole(pair: Pair, length: int) -> None:
    pair.first.send(b"x" * length)
    pair.second.send(b"y")
    pair.reader.read()
    assert pair.received == [Sample(b"x" * length, 0), Sample(b"y", 0)]


def test_a_sample_that_does_not_fit_is_dropped_and_the_next_one_says_so(pair: Pair) -> None:
    while not pair.first.dropped:
        pair.first.send(b"x" * PART_BYTES * 4)
    pair.first.send(b"z" * (MOST_BYTES + 1))
    before = len(pair.received)
    for _ in range(10):
        pair.reader.read(most=1000)
    assert len(pair.received) > before
    pair.first.send(b"last")
    pair.reader.read()
    assert pair.received[-1].content == b"last"
    assert pair.received[-1].dropped >= 2
    assert {each.content for each in pair.received[:-1]} == {b"x" * PART_BYTES * 4}  # never a part of one


def test_a_writer_notices_that_the_reader_has_gone(pair: Pair) -> None:
    pair.reader.close()
    pair.first.send(b"x")
    assert pair.first.is_closed
    pair.first.send(b"x")
