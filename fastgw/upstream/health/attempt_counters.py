"""Counters of failed attempts at an upstream: a listener to failures only."""

from collections.abc import Callable
from typing import final

from fastgw.errors import Fault
from fastgw.observe.metrics.series_layout import TARGET_FAULT_WORDS, TARGET_SERVER_ERRORS, UPSTREAM_HEDGES
from fastgw.upstream.targets.attempt_listener import AttemptKind, AttemptListener, AttemptRecord
from fastgw.upstream.targets.target import Target

Note = Callable[[Target, Fault, str], None]
"""Function that stores the last failure of a target, with its kind and reason."""


@final
class AttemptCounters(AttemptListener):
    """Counts hedges, failures caused by the target, and dropped responses of 500 and above.

    `counts`: this worker's counters, in which the upstream's row begins at `first`, and those of its targets at their
    own positions. `note`: stores a target's last error; None: targets have no rows.
    """

    __slots__ = ("_counts", "_first", "_note")

    def __init__(self, counts: memoryview, first: int, note: Note | None) -> None:
        self._counts, self._first, self._note = counts, first, note

    def attempt_begun(self, attempt: AttemptRecord) -> None:
        if attempt.kind is AttemptKind.HEDGE:
            self._counts[self._first + UPSTREAM_HEDGES] += 1

    def attempt_given_up(self, attempt: AttemptRecord, fault: Fault | None, why: str) -> None:
        if self._note is None:
            return
        target = attempt.target
        if fault is None:
            if attempt.refused and attempt.status >= 500:
                self._counts[target.counted + TARGET_SERVER_ERRORS] += 1
        elif (word := TARGET_FAULT_WORDS.get(fault)) is not None:
            self._counts[target.counted + word] += 1
            self._note(target, fault, why)
