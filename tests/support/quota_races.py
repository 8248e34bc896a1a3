"""Processes that spend from one quota at once, as a function of a small process: it forks many times."""

from __future__ import annotations

import os
from typing import Final

from fastgw.shm.quota_table import KeyDigest, Period, own_quotas

NOW: Final = 1_800_000_000.0
ROUNDS: Final = 20


def span(number: int) -> Period:
    """Of 1 s: numbers begin again after twelve days."""
    return Period(int(NOW) + number, NOW + number, NOW + number + 1)


def begin_together(idle: str) -> None:
    """Three processes want 90 permits of 40, in each of some periods, `idle` of which lie between two in which the
    key is used.
    """
    table = own_quotas(1024)
    slot = table.assign_slot(KeyDigest.of(b"alice"), KeyDigest.of(b"shared"))
    for round_ in range(ROUNDS):
        period = span(round_ * int(idle))
        children = []
        for _ in range(3):
            if not (child := os.fork()):
                admitted = 99  # had it failed
                try:
                    admitted = sum(table.spend(*slot, period, 1, 40) >= 0 for _ in range(30))
                finally:
                    os._exit(admitted)
            children.append(child)
        counts = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert sum(counts) == 40, (round_, counts)
