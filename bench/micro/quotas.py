"""Quotas: cost of a decision."""

from collections.abc import Iterator

from bench.micro.timing import Room
from fastgw.shm.quota_table import KeyDigest, Period, own_quotas

KEYS = 1_000
NEVER_FULL = 10**12  # so that every decision admits
PERIOD = Period(20_000, 0.0, 2.0**40)


def rooms() -> Iterator[Room]:
    table = own_quotas()
    slots = [table.assign_slot(KeyDigest.of(b"%d" % number), KeyDigest.of(b"shared")) for number in range(KEYS)]

    def decide(slot: tuple[int, KeyDigest]) -> int:
        return table.spend(slot[0], slot[1], PERIOD, 1, NEVER_FULL)

    yield Room("a decision", decide, slots)
    yield Room("one swap", lambda slot: table._swap(100, 0, 0), slots)
