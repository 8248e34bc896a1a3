"""Counters: each exchange is counted exactly once, in bounded memory, under the names of its generation."""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.observe.metrics.carry_over import CounterCarryOver
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.observe.metrics.families import BOUNDS_S, METHODS, FilterEvent
from fastgw.observe.metrics.series_layout import (
    CELLS,
    CELLS_AT,
    METERS_AT,
    ROUTE_REQUEST_BYTES,
    ROUTE_RESPONSE_BYTES,
    SUM,
    UPSTREAM_RETRIES,
    WORDS,
    Cell,
    CellKind,
    Series,
    claimed,
)
from fastgw.observe.metrics.totals import Totals, sums, totals
from fastgw.shm.slot_assignment import MAX_ROWS, SlotNames, SlotTable, first
from tests.support import counted

FAULTS = ["bad_request", "connection_lost"]
LISTENERS = ["public", "local"]

Kind = tuple[str, str, bytes, int]


def names(routes: Iterable[str], upstreams: Iterable[str] = ("users",)) -> SlotNames:
    return SlotNames(LISTENERS, list(routes), dict.fromkeys(upstreams, ()))


def series(routes: Iterable[str] = ("user", "files"), upstreams: Iterable[str] = ("users",)) -> Series:
    return Series(first(names(routes, upstreams)), FAULTS)


def column() -> memoryview:
    return memoryview(bytearray(8 * WORDS)).cast("Q")


def count(
    counters: ExchangeCounters,
    *,
    listener: str = "public",
    route: str = "user",
    upstream: str = "",
    method: bytes = b"GET",
    status: int = 200,
    fault: str = "",
    duration_s: float = 0.0,
    **numbers: float,
) -> None:
    words = counters.series_words(listener, route, upstream, method, status, fault)
    counted.count(counters, words, duration_s, **numbers)  # type: ignore[arg-type]


def durations(rows: Iterable[tuple[str, list[int]]]) -> dict[str, int]:
    return {name: sum(row[: len(BOUNDS_S) + 1]) for name, row in rows}


KINDS = st.tuples(
    st.sampled_from(["public", "local", "gone"]),
    st.sampled_from(["user", "files", "", "gone", "_other", "_none"]),
    st.sampled_from([b"GET", b"POST", b"BREW", b"get", b"\xff"]),
    st.sampled_from([101, 200, 204, 404, 499, 503]),
)


WORD = st.integers(0, CELLS_AT - 1) | st.sampled_from([0, 1023, 1024, CELLS_AT - 1])  # also at the edges of blocks
COUNT = st.integers(0, 1 << 40)


@given(st.dictionaries(WORD, st.tuples(COUNT, COUNT, COUNT), max_size=20))
def test_each_word_is_summed_less_what_was_returned(counts: dict[int, tuple[int, int, int]]) -> None:
    one, other, returned = columns = [column() for _ in range(3)]
    for word, (first_count, second_count, back) in counts.items():
        one[word], other[word], returned[word] = first_count + back, second_count, back
    words, cells = sums(columns[:2], returned)
    wanted = {word: first_count + second_count for word, (first_count, second_count, _) in counts.items()}
    assert {word: words[word] for word in counts} == wanted
    assert sum(words.tolist()) == sum(wanted.values())  # all others are 0
    assert (len(words), dict(cells)) == (CELLS_AT, {})


@given(st.lists(st.tuples(st.integers(0, 1), KINDS)))
def test_the_requests_of_all_series_are_the_requests(finished: list[tuple[int, Kind]]) -> None:
    """Kept counts against counted ones, over two workers: each request once, under its own labels."""
    columns = [column(), column()]
    tallies = [ExchangeCounters(series(), each) for each in columns]
    counted: Counter[tuple[str, str, str, int]] = Counter()
    for worker, (listener, route, method, status) in finished:
        count(tallies[worker], listener=listener, route=route, method=method, status=status)
        listener = listener if listener != "gone" else "_other"
        route = {"": "_none", "gone": "_other"}.get(route, route)
        counted[listener, route, method.decode() if method in METHODS else "other", status] += 1
    found = totals(series(), columns)
    assert found.cells[CellKind.REQUEST] == counted
    assert sum(durations(found.routes.items()).values()) == len(finished)


def test_what_peers_send_makes_no_label_and_no_memory() -> None:
    """A client that invents methods finds one word for all of them."""
    own = column()
    counters = ExchangeCounters(series(), own)
    for each in range(1000):
        count(counters, method=b"X%d" % each)
    assert totals(series(), [own]).cells[CellKind.REQUEST] == {("public", "user", "other", 200): 1000}
    assert len(counters.cells) == 1


def test_routes_beyond_the_limit_are_folded() -> None:
    """At most 500 routes have series of their own; the others share one."""
    many = [f"r{each}" for each in range(MAX_ROWS + 100)]
    shown = series(routes=many, upstreams=many)
    own = column()
    counters = ExchangeCounters(shown, own)
    for name in many:
        count(counters, route=name, upstream=name, upstream_s=0.1, retries=1)
    found = totals(shown, [own])
    for rows in (found.routes, found.upstreams):
        assert len(rows) == MAX_ROWS + 1
        assert durations(rows.items())["_other"] == 100
        assert durations(rows.items())["r499"] == 1
    assert found.cells[CellKind.REQUEST]["public", "_other", "GET", 200] == 100
    assert found.upstreams["_other"][UPSTREAM_RETRIES] == 100


def test_routes_may_have_the_names_of_labels() -> None:
    """They are counted there, for they could not be told apart."""
    shown = series(routes=["_other", "_none", "user"])
    own = column()
    for route in ("_other", "_none", "user", ""):
        count(ExchangeCounters(shown, own), route=route)
    found = durations(totals(shown, [own]).routes.items())
    assert found == {"_other": 1, "_none": 2, "user": 1}


def test_when_the_cells_run_out_the_sum_stays_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream that answers with every status there is costs labels, not requests."""
    monkeypatch.setattr("fastgw.observe.metrics.series_layout.CELLS", 500)
    own = column()
    counters = ExchangeCounters(series(), own)
    statuses = [*range(100, 1000)]
    for status in statuses + statuses:
        count(counters, status=status)
    counts = totals(series(), [own]).cells[CellKind.REQUEST]
    assert sum(counts.values()) == 2 * len(statuses)
    assert len(counts) == 500 + 1
    assert counts["_other", "_other", "_other", 0] == 2 * (len(statuses) - 500)


def test_the_last_cell_is_within_the_column() -> None:
    own = column()
    counters = ExchangeCounters(series(), own)
    words = [counters.cells.word(1 << 63 | each) for each in range(CELLS + 2)]
    assert words[-3:] == [METERS_AT - 1, None, None]
    assert ExchangeCounters(series(), own).cells.word(1 << 63) == words[0]


def test_a_replaced_worker_counts_on_in_its_column() -> None:
    """Counters survive a worker: the next one finds the cells by the names that stand in them."""
    own = column()
    for status in (200, 404, 200, 503):
        count(ExchangeCounters(series(), own), status=status)
    counts = totals(series(), [own]).cells[CellKind.REQUEST]
    assert counts == {("public", "user", "GET", status): n for status, n in ((200, 2), (404, 1), (503, 1))}


@pytest.mark.parametrize(
    ("duration_s", "bucket"), [(0.0, 0), (0.0005, 0), (0.00051, 1), (30.0, len(BOUNDS_S) - 1), (3600.0, len(BOUNDS_S))]
)
def test_buckets_hold_what_is_at_most_their_bound(duration_s: float, bucket: int) -> None:
    own = column()
    count(ExchangeCounters(series(), own), duration_s=duration_s, upstream="users", upstream_s=duration_s)
    found = totals(series(), [own])
    for row in (found.routes["user"], found.upstreams["users"]):
        assert row[: len(BOUNDS_S) + 1] == [each == bucket for each in range(len(BOUNDS_S) + 1)]
        assert row[SUM] / 1e6 == pytest.approx(duration_s)


def test_bytes_retries_and_faults_are_summed_under_their_labels() -> None:
    own = column()
    counters = ExchangeCounters(series(), own)
    count(counters, request_bytes=10, response_bytes=1, upstream="users", retries=2)
    count(counters, request_bytes=2**40, response_bytes=2, fault="connection_lost")
    count(counters, route="", response_bytes=4, fault="of an older table")
    found = totals(series(), [own])
    assert {name: row[ROUTE_REQUEST_BYTES] for name, row in found.routes.items()} == {"user": 2**40 + 10, "_none": 0}
    assert {name: row[ROUTE_RESPONSE_BYTES] for name, row in found.routes.items()} == {"user": 3, "_none": 4}
    assert found.upstreams["users"][UPSTREAM_RETRIES] == 2
    assert found.cells[CellKind.FAULT] == {("_other", "_none", "_none"): 1, ("connection_lost", "user", "_none"): 1}


# --- over generations ---


class Node:
    """Two workers and a supervisor, as far as they count; the reader knows the places that were committed."""

    def __init__(self, routes: Iterable[str]) -> None:
        self.slot_table = first(names(routes))
        self.columns = [column(), column()]
        self.added, self.returned = column(), column()
        self.tallies = [ExchangeCounters(self.series, each) for each in self.columns]

    @property
    def series(self) -> Series:
        return Series(self.slot_table, FAULTS)

    @property
    def totals(self) -> Totals:
        return totals(self.series, self.columns, self.added, self.returned)

    def prepared(self, wanted: SlotNames) -> SlotTable:
        generation = self.slot_table.generation + 1
        return self.slot_table.following(wanted, generation, oldest=generation - 1)

    def commit(self, after: SlotTable) -> None:
        CounterCarryOver(self.added, self.returned).carry(self.columns, self.slot_table, after)
        self.slot_table = after

    def reload(self, wanted: SlotNames) -> None:
        self.commit(self.prepared(wanted))
        for counters in self.tallies:
            counters.adopt(self.series)


def test_a_name_that_is_gone_is_other_from_the_commit_on_and_its_place_begins_at_zero() -> None:
    node = Node(["a", "b"])
    for counters in node.tallies:
        count(counters, route="a", upstream="users", upstream_s=0.1, request_bytes=5)
        count(counters, route="b", status=404)
    node.reload(names(["b"]))
    gone = {("public", "_other", "GET", 200): 2, ("public", "b", "GET", 404): 2}
    assert node.totals.cells[CellKind.REQUEST] == gone
    node.reload(names(["b", "c"]))
    assert node.slot_table.routes == {"b": 1, "c": 0}
    assert node.totals.cells[CellKind.REQUEST] == gone
    count(node.tallies[0], route="c")
    assert node.totals.cells[CellKind.REQUEST] == gone | {("public", "c", "GET", 200): 1}
    assert node.totals.routes["_other"][ROUTE_REQUEST_BYTES] == 10
    assert durations(node.totals.routes.items()) == {"_other": 2, "b": 2, "c": 1}
    assert durations(node.totals.upstreams.items())["users"] == 2


def test_an_exchange_that_ends_after_its_route_has_gone_counts_as_other() -> None:
    node = Node(["a", "b"])
    node.reload(names(["b"]))
    count(node.tallies[0], route="a")
    count(node.tallies[0], route="b")
    assert node.totals.cells[CellKind.REQUEST] == {("public", "_other", "GET", 200): 1, ("public", "b", "GET", 200): 1}


def test_a_worker_that_is_late_to_adopt_gives_no_name_another_ones_counts() -> None:
    """It counts for the old name at its old place, which has none meanwhile, or for a name that has kept its own."""
    node = Node(["a", "b"])
    node.commit(node.prepared(names(["b", "c"])))
    late, punctual = node.tallies
    punctual.adopt(node.series)
    for route in ("a", "b"):
        count(late, route=route)
    count(punctual, route="c")
    assert durations(node.totals.routes.items()) == {"_other": 1, "b": 1, "c": 1}


def test_a_listener_that_is_gone_is_other() -> None:
    node = Node(["user"])
    count(node.tallies[0], listener="public")
    node.reload(SlotNames(["local"], ["user"]))
    assert node.totals.cells[CellKind.REQUEST] == {("_other", "user", "GET", 200): 1}
    node.reload(SlotNames(["local", "late"], ["user"]))
    count(node.tallies[1], listener="late")
    assert node.totals.cells[CellKind.REQUEST] == {("_other", "user", "GET", 200): 1, ("late", "user", "GET", 200): 1}


def test_decisions_in_shadow_are_counted_by_filter_and_route_and_a_name_that_is_gone_is_other() -> None:
    def named(filters: list[str], routes: list[str]) -> SlotNames:
        return SlotNames(["public"], routes, filters=filters)

    node = Node(["a"])
    node.reload(named(["limit", "waf"], ["a", "b"]))
    one, other = node.tallies
    one.count_shadow_decision("limit", "a", FilterEvent.ANSWER)
    other.count_shadow_decision("limit", "a", FilterEvent.ANSWER)
    other.count_shadow_decision("waf", "b", FilterEvent.PASS)
    other.count_shadow_decision("waf", "", FilterEvent.PASS)
    in_no_route = {("pass", "waf", "_none"): 1}
    assert node.totals.cells[CellKind.SHADOW] == {("answer", "limit", "a"): 2, ("pass", "waf", "b"): 1, **in_no_route}
    node.reload(named(["waf"], ["a"]))
    gone = {("answer", "_other", "a"): 2, ("pass", "waf", "_other"): 1, **in_no_route}
    assert node.totals.cells[CellKind.SHADOW] == gone
    node.reload(named(["waf", "late"], ["a", "c"]))
    assert node.totals.cells[CellKind.SHADOW] == gone
    one.count_shadow_decision("late", "c", FilterEvent.CHANGE)
    assert node.totals.cells[CellKind.SHADOW] == gone | {("change", "late", "c"): 1}
    assert not node.totals.cells[CellKind.REQUEST]


def test_decisions_in_shadow_without_a_free_cell_count_for_other_routes() -> None:
    node = Node(["a"])
    node.reload(SlotNames(["public"], ["a"], filters=["limit"]))
    counters = node.tallies[0]
    for status in range(CELLS):
        counters.cells.word(Cell(CellKind.REQUEST, 0, status, part=1).key)
    counters.count_shadow_decision("limit", "a", FilterEvent.ANSWER)
    assert node.totals.cells[CellKind.SHADOW] == {("answer", "limit", "_other"): 1}


def test_refusals_are_counted_by_consumer_and_filter_and_a_name_that_is_gone_is_other() -> None:
    def named(filters: list[str], consumers: list[str]) -> SlotNames:
        return SlotNames(["public"], ["a"], filters=filters, consumers=consumers)

    node = Node(["a"])
    node.reload(named(["limit", "quota"], ["alice", "bob"]))
    one, other = node.tallies
    for counters, filter_, consumer in (
        (one, "limit", "alice"),
        (other, "limit", "alice"),
        (one, "limit", "bob"),
        (other, "quota", "stranger"),
        (one, "quota", ""),
    ):
        counters.count_refusal(filter_, consumer)
    strangers = {("_other", "quota"): 1, ("_none", "quota"): 1}
    assert node.totals.cells[CellKind.REFUSAL] == {("alice", "limit"): 2, ("bob", "limit"): 1, **strangers}
    assert node.totals.filters["limit"][FilterEvent.REFUSED] == 3
    node.reload(named(["quota"], ["alice"]))
    gone = {("alice", "_other"): 2, ("_other", "_other"): 1, **strangers}
    assert node.totals.cells[CellKind.REFUSAL] == gone
    node.reload(named(["quota", "late"], ["alice", "carol"]))
    assert node.totals.cells[CellKind.REFUSAL] == gone
    one.count_refusal("late", "carol")
    assert node.totals.cells[CellKind.REFUSAL] == gone | {("carol", "late"): 1}
    assert not node.totals.cells[CellKind.REQUEST]


def test_refusals_without_a_free_cell_count_for_other_consumers() -> None:
    node = Node(["a"])
    node.reload(SlotNames(["public"], ["a"], filters=["limit"], consumers=["alice"]))
    counters = node.tallies[0]
    counters.count_refusal("limit", "alice")
    for status in range(CELLS):
        counters.cells.word(Cell(CellKind.REQUEST, 0, status, part=1).key)
    counters.count_refusal("limit", "")
    assert node.totals.cells[CellKind.REFUSAL] == {("alice", "limit"): 1, ("_other", "limit"): 1}
    assert node.totals.filters["limit"][FilterEvent.REFUSED] == 2


def test_a_column_whose_worker_has_died_is_carried_like_any_other() -> None:
    node = Node(["a"])
    count(node.tallies[0], route="a")
    del node.tallies[0]
    for routes in (["b"], ["c"], ["d"], ["e"]):
        node.reload(names(routes))
    assert node.totals.cells[CellKind.REQUEST] == {("public", "_other", "GET", 200): 1}


@given(st.lists(st.lists(st.sampled_from("abcd"), unique=True, max_size=3), max_size=8), st.data())
def test_each_name_has_what_was_counted_for_it_since_it_came(generations: list[list[str]], data: st.DataObject) -> None:
    """Against a model that counts by names, over any generations; no total ever shrinks."""
    node = Node(["a"])
    model: Counter[str] = Counter()
    for routes in [["a"], *generations]:
        node.reload(names(routes))
        for gone in [name for name in model if name not in (*routes, "_other")]:
            model["_other"] += model.pop(gone)
        for worker, route in data.draw(st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abcd")), max_size=5)):
            count(node.tallies[worker], route=route)
            model[route if route in routes else "_other"] += 1
        assert durations(node.totals.routes.items()) == +model
        assert Counter({route: n for (_, route, _, _), n in node.totals.cells[CellKind.REQUEST].items()}) == +model


def test_who_reads_while_counts_are_carried_sees_each_once() -> None:
    """Supervisor and workers in another process, which reloads as fast as it can; each name is counted three times."""
    node = Node([])
    shared = [mmap.mmap(-1, 8 * WORDS) for _ in range(5)]
    one, other, node.added, node.returned, committed = (memoryview(each).cast("Q") for each in shared)
    node.columns = [one, other]
    node.tallies = [ExchangeCounters(node.series, each) for each in node.columns]
    generations = [node.slot_table]
    for generation in range(1, 300):
        wanted = names([f"{generation}-{each}" for each in range(4)])
        generations.append(generations[-1].following(wanted, generation + 1, oldest=generation))

    def reload() -> None:
        for generation, slot_table in enumerate(generations[1:], 1):
            node.commit(slot_table)
            committed[0] = generation
            for counters in node.tallies:
                counters.adopt(node.series)
            for route in [*slot_table.routes] * 3:
                count(node.tallies[generation % 2], route=route)

    pid = os.fork()
    if not pid:
        try:
            reload()
            os._exit(0)
        finally:
            os._exit(70)
    try:
        last = 0
        while last < 12 * 299:
            known = committed[0]
            found = totals(Series(generations[known], FAULTS), [one, other], node.added, node.returned)
            if committed[0] != known:
                continue
            rows = durations(found.routes.items())
            assert all(0 < count <= 3 for name, count in rows.items() if name != "_other"), rows
            assert sum(rows.values()) >= last
            last = sum(rows.values())
    finally:
        assert os.waitpid(pid, 0)[1] == 0


def test_a_thousand_reloads_of_changing_names_take_no_more_room_than_a_few() -> None:
    """Neither cells nor rows, and nothing that was counted is lost."""
    node = Node([])
    used = []
    for generation in range(1000):
        routes = [f"{generation}-{each}" for each in range(5)]
        node.reload(names(routes, upstreams=[f"u{generation}"]))
        for counters in node.tallies:
            for route in routes:
                count(counters, route=route, upstream=f"u{generation}", upstream_s=0.1)
        used.append(sum(1 for each in (*node.columns, node.added, node.returned) for _ in claimed(each)))
    assert used[-1] == used[10] <= 4 * 11
    found = node.totals
    assert sum(found.cells[CellKind.REQUEST].values()) == 10_000
    assert durations(found.routes.items()) == {"_other": 9990, **dict.fromkeys(routes, 2)}
    assert durations(found.upstreams.items()) == {"_other": 9990, "u999": 10}
