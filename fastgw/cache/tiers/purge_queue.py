"""Queue of the purges of one process that a slower tier is yet to learn: one batch after another is written to it."""

from collections.abc import Callable, Sequence
from typing import Final

from fastgw.cache.tiers.purge_journal import Purge

MOST_PURGES: Final = 10_000
"""Purges that are yet to be written; with more, everything is purged from the tier."""


class PurgeQueue:
    """Queue of a tier, which implements `write_batch`. `most_at_once`: purges that one call writes."""

    most_at_once = MOST_PURGES

    def __init__(self) -> None:
        self.pending: list[Purge] = []
        self._waiting: list[Callable[[], None]] = []
        self._is_writing = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} pending={len(self.pending)}>"

    @property
    def is_busy(self) -> bool:
        """Whether not all purges are written."""
        return bool(self.pending) or self._is_writing

    def write(self, purges: Sequence[Purge]) -> None:
        """Write purges, which hold in memory already."""
        self.pending += purges
        if len(self.pending) > MOST_PURGES:
            self.pending = [Purge("all", max(each.number for each in self.pending))]
        self.write_next()

    def when_written(self, callback: Callable[[], None]) -> None:
        """Call back once all purges so far are written, or cannot be written for now."""
        if self._is_writing:
            self._waiting.append(callback)
        else:
            callback()

    def write_next(self) -> None:
        """Write what is pending, if that is possible."""
        if self._is_writing or not self.pending:
            return
        batch, self.pending = self.pending[: self.most_at_once], self.pending[self.most_at_once :]
        self._is_writing = True

        def ended(*, is_written: bool) -> None:
            self._is_writing = False
            if is_written:
                self.write_next()
            else:
                self.pending = [*batch, *self.pending]
            if not self._is_writing:
                waiting, self._waiting = self._waiting, []
                for each in waiting:
                    each()

        if not self.write_batch(batch, lambda: ended(is_written=True), lambda: ended(is_written=False)):
            ended(is_written=False)

    def write_batch(self, batch: Sequence[Purge], written: Callable[[], None], failed: Callable[[], None]) -> bool:
        """Begin to write these purges, and call `written`, or `failed` if they are to be written again later. False:
        the tier cannot be reached; there is no call then.
        """
        raise NotImplementedError
