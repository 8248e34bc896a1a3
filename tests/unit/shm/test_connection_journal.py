"""Records of a dead process: those that it had added and not removed, at whatever instruction it was killed."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from fastgw.shm import connection_journal
from fastgw.shm.connection_journal import BLOCK, ConnectionJournal

LONG = bytes(range(256)) * 5


class Killed(BaseException):
    """The process is no more."""


@pytest.fixture
def journal() -> Iterator[ConnectionJournal]:
    journal = ConnectionJournal(ConnectionJournal.create())
    yield journal
    journal.close()


def left(journal: ConnectionJournal) -> list[bytes]:
    """What a reader finds that has its descriptor."""
    reader = ConnectionJournal(os.dup(journal.fd))
    records = [record for _, record in reader.records()]
    assert (len(reader), reader.is_empty) == (len(records), not records)
    reader.close()
    return records


@pytest.mark.parametrize("record", [b"", b"a", bytes(503), bytes(504), bytes(505), LONG])
def test_a_record_is_what_was_added(journal: ConnectionJournal, record: bytes) -> None:
    journal.add(record)
    number = journal.add(b"another")
    assert left(journal) == [record, b"another"]
    journal.remove(number)
    assert left(journal) == [record]


def test_blocks_are_used_again(journal: ConnectionJournal) -> None:
    for _ in range(20):
        numbers = [journal.add(LONG), journal.add(b"a"), journal.add(LONG)]
        for number in numbers:
            journal.remove(number)
    assert left(journal) == []
    assert os.fstat(journal.fd).st_size <= 8 * BLOCK


@pytest.mark.parametrize("writes", range(12))
def test_a_record_is_there_completely_or_not_at_all(
    journal: ConnectionJournal, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """The process is killed before the write with this number, of: add, remove, add in the same blocks."""
    journal.add(b"first")
    real, count = os.pwrite, 0

    def pwrite(*call: Any) -> int:
        nonlocal count
        if count == writes:
            raise Killed
        count += 1
        return real(*call)

    def work() -> None:
        number = journal.add(LONG)  # 3 blocks, then its state
        journal.remove(number)
        number = journal.add(LONG[::-1])
        journal.remove(number)
        journal.add(b"")

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(Killed):
        work()
    expected = [b"first"] + ([LONG] if writes == 4 else [LONG[::-1]] if writes == 9 else [])
    assert left(journal) == expected


def test_a_full_journal_takes_no_more(journal: ConnectionJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_journal, "MOST_BYTES", 4 * BLOCK)
    numbers = [journal.add(b"a") for _ in range(3)]
    for record in (b"b", LONG):
        with pytest.raises(OSError, match="have reached their limit"):
            journal.add(record)
    journal.remove(numbers[1])
    journal.add(b"c")
    assert left(journal) == [b"a", b"c", b"a"]


def test_records_stay_for_the_next_reader_once_it_is_closed(journal: ConnectionJournal) -> None:
    reader = ConnectionJournal(os.dup(journal.fd))
    for record in (b"a", b"b", b"c"):
        journal.add(record)
    records = reader.records()
    reader.remove(next(records)[0])
    number, _ = next(records)
    reader.close()
    reader.remove(number)
    assert list(records) == []
    assert left(journal) == [b"b", b"c"]


def test_what_is_dealt_with_is_freed(journal: ConnectionJournal) -> None:
    journal.add(LONG)
    journal.discard()
    assert (left(journal), os.fstat(journal.fd).st_size) == ([], 0)


@pytest.mark.parametrize(
    "contents",
    [b"", b"fastgw connections 2\n".ljust(BLOCK, b"\0") + b"\1" * BLOCK, b"fastgw connections 1\n".ljust(BLOCK, b"\0")],
)
def test_another_form_has_no_records(journal: ConnectionJournal, contents: bytes) -> None:
    os.ftruncate(journal.fd, 0)
    os.pwrite(journal.fd, contents, 0)
    assert [record for _, record in journal.records()] == []


def test_a_chain_without_end_is_bounded(journal: ConnectionJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that something else has overwritten stops nobody."""
    monkeypatch.setattr(connection_journal, "MOST_BYTES", 8 * BLOCK)
    number = journal.add(b"a")
    os.pwrite(journal.fd, number.to_bytes(4, "little"), number * BLOCK + 4)
    assert [record for _, record in journal.records()] == [b"a" * 8]
