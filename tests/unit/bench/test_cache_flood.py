"""The flood of a cache store: its memory stays within its limit, and popular objects stay in it."""

from bench.cache_flood import flood


def test_a_flood_of_objects_that_nobody_asks_for_again_evicts_only_those() -> None:
    assert flood(8_000, 4 << 20, 1000)
