"""The last error of each target and of each route, with time and reason, in shared memory. For operators only.

Rule 1: a process writes to its own column; the newest entry of all columns counts. Rule 2: an entry belongs to the name
that it was written for; it is ignored once the slot has another name. Rule 3: the date is cleared before an entry is
changed and written last, so readers never use an incomplete one.
"""

import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from fastgw.shm.memory import Column, Layout
from fastgw.shm.slot_assignment import MAX_ROWS, SlotTable

TEXT_BYTES: Final = 112
_DATE, _NAME, _ANSWERS, _TEXT = range(4)
_WORDS: Final = _TEXT + TEXT_BYTES // 8
_LOOKS: Final = 3


class LastErrorEntry(NamedTuple):
    """Last error. `date`: epoch seconds. `reason`: name of an errno, or message of TLS or DNS; for a route the target;
    or empty. `answers`: number of responses of the target by then; 0 for a route.
    """

    date: float
    fault: str
    reason: str
    answers: int = 0


class LastErrors:
    """Layout of the last errors in a column."""

    def __init__(self, layout: Layout) -> None:
        self._targets = layout.counter("last_error_targets", 2 * MAX_ROWS * _WORDS)
        self._routes = layout.counter("last_error_routes", 2 * MAX_ROWS * _WORDS)

    def note_target(
        self, column: Column, slot_table: SlotTable, name: str, fault: str, reason: str, answers: int = 0
    ) -> None:
        """Record the last error of a target. `name`: from `target_name`; a target without a slot is ignored. `answers`:
        responses of the target, counted over all processes (`observe.metrics.series_layout.answers_at`).
        """
        self._note(column, self._targets, slot_table.target_rows.get(name), name, fault, reason, answers)

    def note_route(self, column: Column, slot_table: SlotTable, name: str, fault: str, reason: str) -> None:
        self._note(column, self._routes, slot_table.routes.get(name), name, fault, reason)

    def of_targets(self, columns: Sequence[memoryview], slot_table: SlotTable) -> dict[str, LastErrorEntry]:
        """Return the last errors by `target_name`; targets without one are left out."""
        return _last_errors_by_name(columns, self._targets, slot_table.target_rows)

    def of_routes(self, columns: Sequence[memoryview], slot_table: SlotTable) -> dict[str, LastErrorEntry]:
        return _last_errors_by_name(columns, self._routes, slot_table.routes)

    def _note(
        self, column: Column, first: int, slot: int | None, name: str, fault: str, reason: str, answers: int = 0
    ) -> None:
        if slot is None:
            return
        words, at = column.words, first + slot * _WORDS
        text = f"{fault} {reason}".encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
        words[at + _DATE] = 0
        column.fence()
        words[at + _NAME], words[at + _ANSWERS] = _tag(name), answers
        for word in range(TEXT_BYTES // 8):
            words[at + _TEXT + word] = int.from_bytes(text[8 * word : 8 * word + 8], "little")
        column.fence()
        words[at + _DATE] = int(time.time() * 1000)


def _last_errors_by_name(
    columns: Sequence[memoryview], first: int, slots: Mapping[str, int]
) -> dict[str, LastErrorEntry]:
    found = {}
    for name, slot in slots.items():
        entries = [entry for column in columns if (entry := _entry(column, first + slot * _WORDS, name)) is not None]
        if entries:
            found[name] = max(entries)
    return found


def _entry(words: memoryview, at: int, name: str) -> LastErrorEntry | None:
    for _ in range(_LOOKS):
        date = words[at + _DATE]
        if not date or words[at + _NAME] != _tag(name):
            return None
        answers = words[at + _ANSWERS]
        text = b"".join(word.to_bytes(8, "little") for word in words[at + _TEXT : at + _WORDS])
        if words[at + _DATE] == date:
            fault, _, reason = text.rstrip(b"\0").decode(errors="ignore").partition(" ")
            return LastErrorEntry(date / 1000, fault, reason, answers)
    return None


def _tag(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
