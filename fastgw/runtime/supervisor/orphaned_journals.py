"""Connection journals of dead workers, which the supervisor hands to workers that serve."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.ipc.channel import SendDisconnects
from fastgw.runtime.node.child_slots import Child
from fastgw.shm.connection_journal import ConnectionJournal

MOST_ATTEMPTS: Final = 3
"""Number of workers that may end with the same journal, before it is dropped."""


@dataclass
class _Orphan:
    journal: ConnectionJournal
    reader: Child | None = None
    """Worker that has the journal; None: none could take it yet."""
    attempts: int = 0


class OrphanedJournals:
    """Journals with connections for which `$disconnect` is not sent yet."""

    def __init__(self, journals: Iterable[int] = ()) -> None:
        """`journals`: descriptors of those of before an upgrade."""
        self._orphans = [_Orphan(ConnectionJournal(fd)) for fd in journals]

    def __len__(self) -> int:
        return len(self._orphans)

    @property
    def descriptors(self) -> list[int]:
        return [each.journal.fd for each in self._orphans]

    def add(self, fd: int) -> None:
        """Keep the journal of a worker that is dead, if it is not empty."""
        self._orphans.append(_Orphan(ConnectionJournal(fd)))
        self._drop_empty()

    def worker_gone(self, child: Child) -> None:
        """Handle the death of a worker, which may have left a journal that it was handed unfinished."""
        for each in self._orphans:
            if each.reader is child:
                each.reader = None
        self._drop_empty()

    def hand_over(self, workers: Iterable[Child]) -> None:
        """Hand journals without a reader to a worker of this version."""
        self._drop_empty()
        able = [child for child in workers if not child.outdated]
        for each in [each for each in self._orphans if each.reader is None]:
            if each.attempts >= MOST_ATTEMPTS:
                notice(
                    OperatorEvent.CONNECTIONS_LOST,
                    f"connections of a worker that has ended: $disconnect is not sent for {len(each.journal)}, "
                    f"because {MOST_ATTEMPTS} workers have ended meanwhile",
                )
                self._drop(each)
            elif able:
                each.reader = able[each.attempts % len(able)]
                each.attempts += 1
                each.reader.send(SendDisconnects(generation=each.reader.generation), [each.journal.fd])

    def close(self) -> None:
        """Close the descriptors of this process."""
        for each in self._orphans:
            each.journal.close()

    def log_end(self) -> None:
        """Log the connections for which no worker is left, at the end of the gateway."""
        if count := sum(len(each.journal) for each in self._orphans):
            text = f"$disconnect was not answered for {count} connections before the end"
            notice(OperatorEvent.CONNECTIONS_LOST, text)

    def _drop_empty(self) -> None:
        for each in [each for each in self._orphans if each.journal.is_empty]:
            self._drop(each)

    def _drop(self, orphan: _Orphan) -> None:
        self._orphans.remove(orphan)
        orphan.journal.close()
