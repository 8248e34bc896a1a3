"""Who gets the connections of a dead worker, and how often."""

import os
from collections.abc import Iterator

import pytest

from fastgw.runtime.ipc.channel import SendDisconnects
from fastgw.runtime.supervisor.orphaned_journals import MOST_ATTEMPTS, OrphanedJournals
from fastgw.shm.connection_journal import ConnectionJournal
from tests.support.node import Crew


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.close()


@pytest.fixture
def orphans() -> Iterator[OrphanedJournals]:
    orphans = OrphanedJournals()
    yield orphans
    orphans.close()


def journal_with(*records: bytes) -> int:
    fd = ConnectionJournal.create()
    journal = ConnectionJournal(os.dup(fd))
    for record in records:
        journal.add(record)
    journal.close()
    return fd


def test_a_journal_is_handed_over_once(crew: Crew, orphans: OrphanedJournals) -> None:
    orphans.add(journal_with(b"a"))
    orphans.hand_over([])  # the only worker has died
    orphans.hand_over(crew.children)
    orphans.hand_over(crew.children)
    assert [crew.told(child) for child in crew.children] == [[SendDisconnects], []]


def test_an_empty_journal_is_not_kept(orphans: OrphanedJournals) -> None:
    fd = journal_with()
    orphans.add(fd)
    assert len(orphans) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_journal_that_is_dealt_with_is_dropped(crew: Crew, orphans: OrphanedJournals) -> None:
    fd = journal_with(b"a")
    orphans.add(fd)
    orphans.hand_over(crew.children)
    ConnectionJournal(fd).discard()
    orphans.worker_gone(crew.children[0])
    assert len(orphans) == 0


def test_the_next_worker_gets_what_a_dead_one_has_left(crew: Crew, orphans: OrphanedJournals) -> None:
    """But not for ever: a journal may be the reason for its readers' deaths."""
    orphans.add(journal_with(b"a", b"b"))
    told = []
    for _ in range(MOST_ATTEMPTS + 1):
        orphans.hand_over(crew.children)
        told.append([crew.told(child) for child in crew.children])
        for child in crew.children:
            orphans.worker_gone(child)
    first, second = [[SendDisconnects], []], [[], [SendDisconnects]]
    assert told == [first, second, first, [[], []]]
    assert len(orphans) == 0


def test_workers_of_the_previous_version_do_not_know_the_order(crew: Crew, orphans: OrphanedJournals) -> None:
    crew.children[0].outdated = True
    orphans.add(journal_with(b"a"))
    orphans.hand_over(crew.children)
    assert [crew.told(child) for child in crew.children] == [[], [SendDisconnects]]


def test_they_outlast_an_upgrade(crew: Crew, orphans: OrphanedJournals) -> None:
    orphans.add(journal_with(b"a"))
    orphans.hand_over(crew.children)
    later = OrphanedJournals([os.dup(fd) for fd in orphans.descriptors])
    later.hand_over(crew.children)
    assert len(later) == 1
    later.close()
