"""Measured requests: labels, the bound on combinations, and counts of removed names."""

from __future__ import annotations

import re

import pytest

from fastgw.observe.access_log.record import Record
from fastgw.observe.metrics import meter_rows
from fastgw.observe.metrics.carry_over import CounterCarryOver
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.observe.metrics.families import SloCount
from fastgw.observe.metrics.meter_rows import MeterKey, unpacked
from fastgw.observe.metrics.request_meter import MeterPlan, Objectives
from fastgw.observe.metrics.series_layout import WORDS, CellKind, series_of
from fastgw.observe.metrics.totals import totals
from fastgw.runtime.node.measured_metrics import counted_requests
from fastgw.shm.slot_assignment import SlotNames, SlotTable, first

BOUNDS = (0.1, 1.0)


def column() -> memoryview:
    return memoryview(bytearray(8 * WORDS)).cast("Q")


def record(route: str, status: int = 200, method: bytes = b"GET") -> Record:
    return Record(1.0, "::1", "main", method, b"http", b"a", b"/", None, 11, status, 0, 0, 0.5, route=route)


def test_a_key_is_read_as_it_was_written() -> None:
    key = MeterKey(1001, 1000, meter_rows.NO_ROW, meter_rows.NO_FAULT, 11, 999, 1022, 1000)
    assert unpacked(key.packed()) == key
    assert MeterKey().packed() != 0


def test_combinations_beyond_the_bound_are_folded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_rows, "METER_ROWS", meter_rows.RESERVED_ROWS + 3)
    series, own = series_of(first(SlotNames(routes=["a"]))), column()
    meter = ExchangeCounters(series, own).meter(MeterPlan(("status",), BOUNDS, {}, None, {}))
    for status in (200, 201, 202, 203, 202):
        meter.add_record(record("a", status))
    found = totals(series, [own])
    assert found.measured_folded == 3
    assert sorted(unpacked(key).status for key, _ in found.measured) == [0, 200, 201]
    assert sum(sum(counts[:-1]) for counts in found.measured.values()) == 5


def test_requests_are_counted_once_beyond_the_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all labels `_other`, and not among the folded of the histograms."""
    monkeypatch.setattr(meter_rows, "METER_ROWS", meter_rows.RESERVED_ROWS + 3)
    series, own = series_of(first(SlotNames(["main"], ["a"], consumers=["alice"]))), column()
    plan = MeterPlan((), (), {}, None, {}, (), ("consumer", "upstream"))
    meter = ExchangeCounters(series, own).meter(plan)
    for status, consumer in ((200, "alice"), (200, ""), (200, "alice"), (200, "stranger"), (404, "alice")):
        finished = record("a", status)
        finished.consumer = consumer
        meter.add_record(finished)
    family, samples = counted_requests(series, totals(series, [own]), plan)
    assert family.labels == ("consumer", "listener", "method", "route", "status", "upstream")
    told = {re.sub(r'\w+=|[{"}]', "", labels): count for _, labels, count in samples}
    assert told == {
        "alice,main,GET,a,200,_none": 2,
        "_none,main,GET,a,200,_none": 1,
        "_other,_other,_other,_other,_other,_other": 2,
    }
    assert totals(series, [own]).measured_folded == 0


def test_requests_of_removed_names_are_those_of_others() -> None:
    own, added, returned = column(), column(), column()
    plan = MeterPlan((), (), {}, None, {}, (), ("consumer",))
    before = first(SlotNames(["main"], ["a"], consumers=["alice"]))
    finished = record("a")
    finished.consumer = "alice"
    ExchangeCounters(series_of(before), own).meter(plan).add_record(finished)
    after = first(SlotNames(["late"], ["b"], consumers=["bob"]))
    CounterCarryOver(added, returned).carry([own], before, after)
    series = series_of(after)
    _, samples = counted_requests(series, totals(series, [own], added, returned), plan)
    assert [(re.sub(r'\w+=|[{"}]', "", labels), count) for _, labels, count in samples] == [
        ("_other,_other,GET,_other,200", 1)
    ]


def test_requests_are_counted_by_the_hosts_that_routes_name() -> None:
    """Those that clients choose are one; a removed host's requests are theirs."""
    own, added, returned = column(), column(), column()
    plan = MeterPlan((), (), {}, None, {}, (), ("host",))
    hosts = ["a.test", "*.wild.test", "*.deep.wild.test", "[::1]"]
    before = first(SlotNames(["main"], ["a"], hosts=hosts))
    meter = ExchangeCounters(series_of(before), own).meter(plan)
    sent = [b"a.test", b"a.test", b"x.wild.test", b"x.y.deep.wild.test", b"wild.test", b"[::1]", b"", b"b.a.test"]
    sent += [b"%d.evil" % number for number in range(10_000)] + [b"." * 30_000]
    for host in sent:
        finished = record("a")
        finished.host = host
        meter.add_record(finished)

    def told(slot_table: SlotTable) -> dict[str, int]:
        series = series_of(slot_table)
        family, samples = counted_requests(series, totals(series, [own], added, returned), plan)
        assert family.labels == ("host", "listener", "method", "route", "status")
        return {re.sub(r'\{host="([^"]*)".*', r"\1", labels): int(count) for _, labels, count in samples}

    expected = {"a.test": 2, "*.wild.test": 1, "*.deep.wild.test": 1, "[::1]": 1, "_none": 1, "_other": 10_003}
    assert told(before) == expected
    after = before.following(SlotNames(["main"], ["a"], hosts=["b.test", *hosts[1:]]), generation=2, oldest=2)
    CounterCarryOver(added, returned).carry([own], before, after)
    later = after.following(SlotNames(["main"], ["a"], hosts=["c.test", *hosts[1:]]), generation=3, oldest=3)
    CounterCarryOver(added, returned).carry([own], after, later)
    del expected["a.test"]
    assert told(later) == expected | {"_other": 10_005}


def test_counts_of_a_removed_route_are_those_of_others() -> None:
    own, added, returned = column(), column(), column()
    before = first(SlotNames(routes=["a"]))
    plan = MeterPlan(("route", "method"), BOUNDS, {}, None, {})
    ExchangeCounters(series_of(before), own).meter(plan).add_record(record("a"))
    after = first(SlotNames(routes=["b"]))
    CounterCarryOver(added, returned).carry([own], before, after)
    found = totals(series_of(after), [own], added, returned).measured
    assert {unpacked(key).route: sum(counts[:-1]) for (key, _), counts in found.items() if any(counts)} == {0: 1}


@pytest.mark.parametrize(
    ("method", "version", "status", "connect_protocol", "counts"),
    [
        (b"GET", 11, 200, b"", True),
        (b"GET", 11, 101, b"", False),
        (b"CONNECT", 20, 200, b"websocket", False),
        (b"CONNECT", 20, 403, b"websocket", True),
        (b"GET", 20, 200, b"", True),
    ],
)
def test_a_tunnel_is_no_request_of_the_latency_objective(
    method: bytes, version: int, status: int, connect_protocol: bytes, counts: bool
) -> None:
    """Over HTTP/2 its status is 200 (RFC 8441 section 5). A refused one is a request like others."""
    series, own = series_of(first(SlotNames(routes=["a"]))), column()
    objectives = Objectives(0.99, 0.3, 0.99)
    finished = record("a", status, method)
    finished.version, finished.connect_protocol = version, connect_protocol
    ExchangeCounters(series, own).meter(MeterPlan((), (), {}, objectives, {})).add_record(finished)
    expected = {("a", SloCount.AVAILABILITY_ALL): 1}
    if counts:
        expected |= {("a", SloCount.LATENCY_ALL): 1, ("a", SloCount.LATENCY_BAD): 1}
    assert totals(series, [own]).cells[CellKind.SLO] == expected
