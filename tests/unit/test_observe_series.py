"""Counters: each exchange is counted exactly once, in bounded memory, under names that are the contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.observe import FAMILIES, Series
from fastgw.observe.series import CELLS_PER_ROUTE, MAX_ROWS, METHODS, SPARE_CELLS, Tally

GOLDEN = Path(__file__).parent.parent / "contract" / "metrics.txt"
FAULTS = ["bad_request", "connection_lost"]

Kind = tuple[str, str, bytes, int]


def series(routes: Iterable[str] = ("user", "files"), upstreams: Iterable[str] = ("users",)) -> Series:
    return Series(["public", "local"], routes, upstreams, FAULTS)


def column(series: Series) -> memoryview:
    return memoryview(bytearray(8 * series.words)).cast("Q")


def count(
    tally: Tally,
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
    place = tally.place(listener, route, upstream, method, status, fault)
    tally.count(place, duration_s, **numbers)  # type: ignore[arg-type]


def values(series: Series, columns: list[memoryview], metric: str) -> dict[tuple[str, ...], int | float]:
    """The samples of one metric by their label values."""
    found = [(tuple(labels.values()), value) for name, labels, value in series.counts(columns) if name == metric]
    assert len(dict(found)) == len(found), "a series is told twice"
    return dict(found)


def test_the_names_are_the_contract() -> None:
    """Dashboards and alerts hold on to these: the file changes by decision only."""
    lines = (f"{each.name} {each.kind} {{{', '.join(each.labels)}}} {each.text}\n" for each in FAMILIES)
    assert "".join(lines) == GOLDEN.read_text()


def test_every_sample_is_of_a_family_with_its_labels() -> None:
    shown = series()
    own = column(shown)
    count(shown.tally(own), upstream="users", upstream_s=0.1, retries=1, request_bytes=1, fault=FAULTS[0])
    allowed = {each.name: set(each.labels) for each in FAMILIES if each.kind != "histogram"}
    for each in FAMILIES:
        if each.kind == "histogram":
            allowed |= {f"{each.name}_bucket": {*each.labels, "le"}, f"{each.name}_sum": {*each.labels}}
            allowed[f"{each.name}_count"] = {*each.labels}
    samples = list(shown.counts([own]))
    assert {name for name, _, _ in samples} == set(allowed)
    assert all(set(labels) == allowed[name] for name, labels, _ in samples)


KINDS = st.tuples(
    st.sampled_from(["public", "local", "gone"]),
    st.sampled_from(["user", "files", "", "gone", "_other", "_none"]),
    st.sampled_from([b"GET", b"POST", b"BREW", b"get", b"\xff"]),
    st.sampled_from([101, 200, 204, 404, 499, 503]),
)


@given(st.lists(st.tuples(st.integers(0, 1), KINDS)))
def test_the_requests_of_all_series_are_the_requests(finished: list[tuple[int, Kind]]) -> None:
    """Kept counts against counted ones, over two workers: each request once, under its own labels."""
    shown = series()
    columns = [column(shown), column(shown)]
    tallies = [shown.tally(each) for each in columns]
    counted: Counter[tuple[str, ...]] = Counter()
    for worker, (listener, route, method, status) in finished:
        count(tallies[worker], listener=listener, route=route, method=method, status=status)
        listener = listener if listener != "gone" else "_other"
        route = {"": "_none", "gone": "_other"}.get(route, route)
        counted[listener, route, method.decode() if method in METHODS else "other", str(status)] += 1
    assert values(shown, columns, "fastgw_requests_total") == counted
    assert sum(values(shown, columns, "fastgw_request_seconds_count").values()) == len(finished)


def test_what_peers_send_makes_no_label_and_no_memory() -> None:
    """A client that invents methods finds one word for all of them."""
    shown = series()
    own = column(shown)
    tally = shown.tally(own)
    for each in range(1000):
        count(tally, method=b"X%d" % each)
    assert values(shown, [own], "fastgw_requests_total") == {("public", "user", "other", "200"): 1000}
    assert len(tally._counting) == 1


def test_routes_beyond_the_limit_are_folded_and_counted() -> None:
    """At most 500 routes have series of their own; the others share one, and their number is told."""
    names = [f"r{each}" for each in range(MAX_ROWS + 100)]
    shown = series(routes=names, upstreams=names)
    own = column(shown)
    tally = shown.tally(own)
    for name in names:
        count(tally, route=name, upstream=name, upstream_s=0.1, retries=1)
    for metric in ("fastgw_request_seconds_count", "fastgw_upstream_seconds_count", "fastgw_retries_total"):
        counts = values(shown, [own], metric)
        assert len(counts) == MAX_ROWS + 1
        assert (counts["_other",], counts["r499",]) == (100, 1)
    assert values(shown, [own], "fastgw_requests_total")["public", "_other", "GET", "200"] == 100
    assert values(shown, [own], "fastgw_routes_folded") == {(): 100}
    assert values(shown, [own], "fastgw_upstreams_folded") == {(): 100}


def test_a_column_is_bounded_per_route() -> None:
    few, many = series(routes=["a"]), series(routes=[f"r{each}" for each in range(101)])
    assert (many.words - few.words) / 100 <= 128


def test_when_the_cells_run_out_the_sum_stays_exact() -> None:
    """An upstream that answers with every status there is costs labels, not requests."""
    shown = series()
    own = column(shown)
    tally = shown.tally(own)
    cells = 4 * CELLS_PER_ROUTE + SPARE_CELLS  # two routes, "_none" and "_other"
    statuses = [*range(100, 1000)]
    for status in statuses + statuses:
        count(tally, status=status)
    counts = values(shown, [own], "fastgw_requests_total")
    assert sum(counts.values()) == 2 * len(statuses)
    assert len(counts) == cells + 1
    assert counts["_other", "_other", "_other", "_other"] == 2 * (len(statuses) - cells)


def test_a_replaced_worker_counts_on_in_its_column() -> None:
    """Counters survive a worker: the next one finds the cells by the names that stand in them."""
    shown = series()
    own = column(shown)
    for status in (200, 404, 200, 503):
        count(shown.tally(own), status=status)
    counts = values(shown, [own], "fastgw_requests_total")
    assert counts == {("public", "user", "GET", str(status)): n for status, n in ((200, 2), (404, 1), (503, 1))}


def test_a_column_may_be_longer_than_its_series() -> None:
    """Shared memory is handed out in pages; what lies behind is not ours."""
    shown = series()
    own = memoryview(bytearray(b"\xff" * 8 * (shown.words + 512))).cast("Q")
    own[: shown.words] = column(shown)
    tally = shown.tally(own)
    for status in range(100, 1000):
        count(tally, status=status)
    assert sum(values(shown, [own], "fastgw_requests_total").values()) == 900
    assert set(own[shown.words :]) == {2**64 - 1}


@pytest.mark.parametrize(
    ("duration_s", "le"), [(0.0, "0.0005"), (0.0005, "0.0005"), (0.00051, "0.001"), (30.0, "30"), (3600.0, "+Inf")]
)
def test_buckets_hold_what_is_at_most_their_bound(duration_s: float, le: str) -> None:
    """Prometheus' histograms: bounds are inclusive, buckets are cumulative, the last one holds all."""
    shown = series()
    own = column(shown)
    count(shown.tally(own), duration_s=duration_s, upstream="users", upstream_s=duration_s)
    for metric, name in (("fastgw_request_seconds", "user"), ("fastgw_upstream_seconds", "users")):
        buckets = {labels[1]: count for labels, count in values(shown, [own], f"{metric}_bucket").items()}
        assert next(bound for bound, count in buckets.items() if count == 1) == le
        assert sorted(buckets.values()) == list(buckets.values())
        assert buckets["+Inf"] == values(shown, [own], f"{metric}_count")[name,] == 1
        assert values(shown, [own], f"{metric}_sum")[name,] == pytest.approx(duration_s)


def test_bytes_retries_and_faults_are_summed_under_their_labels() -> None:
    shown = series()
    own = column(shown)
    tally = shown.tally(own)
    count(tally, request_bytes=10, response_bytes=1, upstream="users", retries=2)
    count(tally, request_bytes=2**40, response_bytes=2, fault="connection_lost")
    count(tally, route="", response_bytes=4, fault="of an older table")
    assert values(shown, [own], "fastgw_request_bytes_total") == {("user",): 2**40 + 10, ("_none",): 0}
    assert values(shown, [own], "fastgw_response_bytes_total") == {("user",): 3, ("_none",): 4}
    assert values(shown, [own], "fastgw_retries_total") == {("users",): 2}
    assert values(shown, [own], "fastgw_faults_total") == {
        ("_other",): 1,
        ("bad_request",): 0,
        ("connection_lost",): 1,
    }
