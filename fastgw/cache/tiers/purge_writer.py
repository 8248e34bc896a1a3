"""Writes the purges of one process to the journal of a disk tier, one batch after another.

A purge that cannot be written ends the journal, as the next start would undo the purge. Where that is not possible
either, it is tried again: by this process when it ends, and by the control process every second.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from typing import TYPE_CHECKING, Final, final

from fastgw.cache.shared.layout import DISK_FAILED, JOURNAL_ENDED, JOURNAL_LEFT
from fastgw.cache.shared.watches import TimerHandle
from fastgw.cache.tiers.purge_journal import DamagedJournal, Purge, append_purges, end_journal
from fastgw.cache.tiers.purge_queue import PurgeQueue
from fastgw.cache.tiers.tier_threads import Work
from fastgw.operator_events import OperatorEvent, log_event

if TYPE_CHECKING:
    from fastgw.cache.tiers.disk_tier import DiskTier

LOOK_S: Final = 1.0
"""Seconds between two attempts to end the journal."""
_ATTEMPTS: Final = 3


@final
class PurgeWriter(PurgeQueue):
    """Purges of a process on their way to the journal."""

    def __init__(self, tier: "DiskTier") -> None:
        super().__init__()
        self._tier = tier
        self._is_ending = False
        self._timer: TimerHandle | None = None

    def write(self, purges: Sequence[Purge]) -> None:
        if not self._tier.has_failed:
            super().write(purges)

    def write_batch(self, batch: Sequence[Purge], written: Callable[[], None], failed: Callable[[], None]) -> bool:
        self._tier.threads.run(Work.PURGE, lambda: self._append(batch), lambda is_written: written())
        return True

    @property
    def may_be_undone(self) -> bool:
        """Whether the next start would undo a purge: it could not be written, and the journal could not be ended."""
        return self._tier.memory.words[DISK_FAILED] == JOURNAL_LEFT

    def begin_ending(self) -> None:
        """End the journal once that is possible after a purge could not be written, by any process. For one process
        of the node.
        """

        def done(_: bool | None) -> None:
            self._is_ending = False

        if self.may_be_undone and not self._is_ending:
            self._is_ending = True
            self._tier.threads.run(Work.PURGE, self.end_journal, done)
        self._timer = self._tier.loop.call_later(LOOK_S, self.begin_ending)

    def end_journal(self) -> bool:
        """End the journal if a purge could not be written, in a thread. False: it may be valid yet."""
        if not self.may_be_undone:
            return True
        self._try_to_end()
        if self.may_be_undone:
            return False
        log_event(
            OperatorEvent.CACHE_DISK_TROUBLE,
            "cache: the purges of %s are removed: the next start begins with an empty directory",
            self._tier.disk.path,
        )
        return True

    def _try_to_end(self) -> None:
        tier = self._tier
        with suppress(OSError):
            with tier.held_folder() as folder:
                end_journal(tier.disk.path, tier.disk.id, folder)
            tier.memory.words[DISK_FAILED] = JOURNAL_ENDED

    def close(self) -> None:
        """Write what is left, without calls of the loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.may_be_undone:
            self._tier.threads.run(Work.PURGE, self.end_journal, lambda is_ended: None)
        purges, self.pending = self.pending, []
        if purges:
            self._tier.threads.run(Work.PURGE, lambda: self._append(purges), lambda is_written: None)

    def _append(self, purges: Sequence[Purge]) -> bool:
        """Append to the journal, in a thread."""
        tier = self._tier
        if tier.memory.words[DISK_FAILED]:
            return False  # another process has reported it
        why: OSError | DamagedJournal | None = None
        for attempt in range(_ATTEMPTS):
            try:
                append_purges(tier.disk.path, tier.disk.id, purges)
            except (OSError, DamagedJournal) as error:
                why = error
                if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
                    with suppress(OSError):
                        tier.opened().evict_down_to(tier.counts.size * (9 - attempt) // 10)
            else:
                return True
        tier.memory.words[DISK_FAILED] = JOURNAL_LEFT
        self._try_to_end()
        undone = "; until it can be written the next start would serve what was purged" if self.may_be_undone else ""
        log_event(
            OperatorEvent.CACHE_DISK_FAILED,
            "cache: a purge cannot be written to %s: %s; the disk is not used until the next start%s",
            tier.disk.path,
            getattr(why, "strerror", None) or why,
            undone,
        )
        return False
