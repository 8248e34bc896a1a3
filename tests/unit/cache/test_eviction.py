"""Which files leave a disk tier: those that nobody asked for again first, and never more than necessary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastgw.cache.tiers.eviction import ListedFile, choose_evicted

FILES = st.lists(
    st.builds(
        ListedFile, st.just(0), st.just("name"), st.integers(), st.integers(1, 100), st.integers(), st.booleans()
    ),
    max_size=40,
    unique_by=(lambda each: each.inode, lambda each: each.used_ns),
)


@given(FILES, st.integers(0, 2000))
def test_it_evicts_in_order_and_no_more_than_is_wanted(files: list[ListedFile], wanted: int) -> None:
    left, freed = list(files), 0
    for file in choose_evicted(files, wanted):
        assert freed < wanted
        freed += file.size
        once = sum(each.size for each in left if not each.was_used)
        is_once = once > 0 and 10 * once >= sum(each.size for each in left)
        same = [each for each in left if each.was_used is not is_once]
        assert file == min(same or left, key=lambda each: each.used_ns)
        left.remove(file)
    assert freed >= wanted or not left
