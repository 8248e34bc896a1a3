"""Places in shared memory: a name keeps its own, and nobody gets another's while that may still be written to."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.shm.slot_assignment import (
    MAX_ROWS,
    OutOfSlots,
    SlotNames,
    SlotTable,
    assign,
    first,
    target_name,
    upstream_of,
)

NAMES = st.lists(st.sampled_from("abcdefgh"), max_size=8)


def test_names_keep_their_places_and_new_ones_take_the_lowest_that_are_free() -> None:
    assert assign({}, ["a", "b", "a"], 3) == {"a": 0, "b": 1}
    assert assign({"a": 0, "b": 1}, ["c", "b"], 3) == {"c": 2, "b": 1}
    assert assign({"c": 2, "b": 1}, ["d", "c", "b"], 3) == {"d": 0, "c": 2, "b": 1}
    assert assign({"c": 2, "b": 1}, ["d", "c", "b"], 3, busy={0}) == {"d": 3, "c": 2, "b": 1}


def test_beyond_the_capacity_the_first_ones_win_but_for_those_that_have_a_place() -> None:
    assert assign({"z": 5}, ["a", "b", "c", "z"], 3) == {"a": 0, "b": 1, "z": 5}


@given(st.lists(st.tuples(NAMES, st.booleans()), max_size=12))
def test_a_place_that_an_older_process_may_write_to_is_never_given_to_another(
    generations: list[tuple[list[str], bool]],
) -> None:
    """Whatever is reloaded, and however long some process goes on with what was before."""
    slot_table, oldest = first(SlotNames(routes=["a"])), 1
    written = {1: slot_table.routes}
    for generation, (routes, lingers) in enumerate(generations, 2):
        slot_table = slot_table.following(SlotNames(routes=routes), generation, oldest)
        written[generation] = slot_table.routes
        names: dict[int, set[str]] = {}
        for served in range(oldest, generation + 1):
            for name, slot in written[served].items():
                names.setdefault(slot, set()).add(name)
        assert all(len(each) == 1 for each in names.values())
        assert set(slot_table.routes) == set(routes)
        oldest = oldest if lingers else generation


def test_all_names_may_change_in_each_generation() -> None:
    """As many as there are rows: the others rest meanwhile."""
    slot_table = first(SlotNames())
    for generation in range(2, 10):
        names = [f"{generation}-{each}" for each in range(MAX_ROWS)]
        slot_table = slot_table.following(SlotNames(routes=names), generation, oldest=generation - 1)
        assert list(slot_table.routes) == names
    assert sum(map(len, slot_table.freed.values())) == MAX_ROWS


def test_routes_beyond_the_rows_are_counted() -> None:
    names = [f"r{each}" for each in range(MAX_ROWS + 7)]
    slot_table = first(SlotNames(routes=names, upstreams=dict.fromkeys(names, ("t:1",))))
    assert (len(slot_table.routes), slot_table.routes_folded) == (MAX_ROWS, 7)
    assert (len(slot_table.upstream_rows), slot_table.upstreams_folded, len(slot_table.upstreams)) == (
        MAX_ROWS,
        7,
        MAX_ROWS + 7,
    )


def test_a_target_that_is_named_twice_is_one() -> None:
    table = first(SlotNames(upstreams={"a": ["t:1", "t:1", "t:2"]}))
    assert (table.generation, len(table.targets), table.targets_folded) == (1, 2, 0)


def test_an_upstreams_place_is_kept_as_long_as_something_counts_on_it() -> None:
    slot_table = first(SlotNames(upstreams={"a": ()}))
    slot_table = slot_table.following(SlotNames(upstreams={"b": ()}), 2, oldest=1)
    held = slot_table.following(SlotNames(upstreams={"b": (), "c": ()}), 3, oldest=2, is_held=lambda slot: slot == 0)
    assert held.upstreams == {"b": 1, "c": 2}
    assert slot_table.following(SlotNames(upstreams={"b": (), "c": ()}), 3, oldest=2).upstreams == {"b": 1, "c": 0}


def test_what_finds_no_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.shm.slot_assignment.MAX_LISTENERS", 2)
    with pytest.raises(OutOfSlots, match="1 of 3 listeners"):
        first(SlotNames(listeners=["a", "b", "c"]))


def test_places_travel() -> None:
    """With the configuration, to processes that are born later."""
    slot_table = first(SlotNames(["public"], ["user"], {"users": ["[::1]:9001", "unix:/a"]}))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(slot_table), type=SlotTable) == slot_table
    assert isinstance(slot_table, SlotTable)
    assert slot_table.targets[target_name("users", "unix:/a")] == 1
    assert [upstream_of(name) for name in slot_table.targets] == ["users", "users"]


def test_removed_targets_keep_their_places_until_a_later_generation() -> None:
    slot_table = first(SlotNames(upstreams={"a": ["1", "2"], "b": ["1"]}))
    now = slot_table.with_targets({"a": ["2", "3"]}, oldest=1)
    assert now.generation == 1
    assert now.targets == {"b 1": 2, "a 2": 1, "a 3": 3}
    assert now.target_rows == now.targets
    again = now.with_targets({"a": ["1"]}, oldest=1)
    assert again.targets == {"b 1": 2, "a 1": 4}
    later = again.following(SlotNames(upstreams={"a": ["1", "4"], "b": ["1"]}), 2, oldest=1)
    assert later.targets == {"a 1": 4, "a 4": 5, "b 1": 2}
    assert later.following(SlotNames(upstreams={"a": ["5"]}), 3, oldest=2).targets == {"a 5": 0}


def test_targets_that_find_no_free_place_among_the_kept_ones_need_a_generation() -> None:
    slot_table = first(SlotNames(upstreams={"a": ["0"]}))
    for turn in range(1, 2 * MAX_ROWS):
        slot_table = slot_table.with_targets({"a": [str(turn)]}, oldest=1)
    with pytest.raises(OutOfSlots):
        slot_table.with_targets({"a": ["more"]}, oldest=1)
