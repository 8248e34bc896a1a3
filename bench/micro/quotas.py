"""Quotas: cost of a decision by compare-and-swap, if available, and by locks."""

from collections.abc import Iterator

from bench.micro.timing import Room
from fastgw.shm import compare_and_swap
from fastgw.shm.quota_table import KeyDigest, Period, QuotaTable, own_quotas

KEYS = 1_000
NEVER_FULL = 10**12  # so that every decision admits
PERIOD = Period(20_000, 0.0, 2.0**40)


def rooms() -> Iterator[Room]:
    twin = compare_and_swap._twin
    for name, used in (("compare-and-swap", twin), ("fcntl locks", None)):
        if name == "compare-and-swap" and twin is None:
            continue
        compare_and_swap._twin = used
        try:
            yield from of(own_quotas(), name)
        finally:
            compare_and_swap._twin = twin


def of(table: QuotaTable, name: str) -> Iterator[Room]:
    slots = [table.assign_slot(KeyDigest.of(b"%d" % number), KeyDigest.of(b"shared")) for number in range(KEYS)]

    def decide(slot: tuple[int, KeyDigest]) -> int:
        return table.spend(slot[0], slot[1], PERIOD, 1, NEVER_FULL)

    yield Room(f"a decision, {name}", decide, slots)
    yield Room(f"one swap, {name}", lambda slot: table._swap(100, 0, 0), slots)
