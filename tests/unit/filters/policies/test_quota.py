"""quota: so many requests in a long period, by whatever key, and nothing for those that are refused."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from weakref import ref
from zoneinfo import ZoneInfo

import pytest

from fastgw.config import ConfigError
from fastgw.filters.api import Services
from fastgw.filters.policies import quota
from fastgw.shm.node_limits import own_counts
from fastgw.shm.quota_table import own_quotas
from fastgw.shm.rate_limit_table import own_table
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane
from tests.support.secrecy import explained

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
CONSUMERS = [
    {"name": "alice", "groups": ["gold"], "key_auth": [{"key": "key-of-alice-1"}]},
    {"name": "bob", "key_auth": [{"key": "key-of-bob-4711"}]},
]
ALICE, BOB = "apikey: key-of-alice-1", "apikey: key-of-bob-4711"


class Clock:
    def __init__(self) -> None:
        self.zone = "UTC"
        self.at("2026-03-10T12:00")

    def at(self, text: str, zone: str = "UTC") -> None:
        self.date = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()

    def __call__(self) -> float:
        return self.date


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(quota, "time", made)
    return made


class Served(Plane):
    """With filters that were started, as in a worker."""

    def __init__(self, settings: Mapping[str, Any], **filters: Any) -> None:
        self.table, self.cells, self.counts = own_quotas(), own_table(), own_counts()
        super().__init__(_with(settings, filters))

    def _start(self) -> None:
        super()._start()
        nothing: Any = None
        for link in self.gateway.live:
            if not link.started and link.hooks.start is not None:
                services = Services(nothing, nothing, nothing, self.cells, self.counts, quotas=self.table)
                link.hooks.start(services)
                link.started = True

    def asks(self, *lines: str) -> str:
        """What a client is answered."""
        client = self.client()
        client.sends("\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode())
        if not client.received:
            self.connects().sends(ANSWER)
        return client.received.decode()

    def admits(self, *lines: str) -> bool:
        return self.asks(*lines).startswith("HTTP/1.1 200 ")


def _with(settings: Mapping[str, Any], filters: Mapping[str, Any]) -> dict[str, Any]:
    all_filters = {"key_auth": {"key_names": ["apikey"]}, "quota": settings, **filters}
    return {"consumers": CONSUMERS, "routes": [{"name": "all", "upstream": "u", "filters": all_filters}]}


def test_each_consumer_has_its_own_until_the_day_ends(clock):
    plane = Served({"limit": 2, "period": "day"})
    assert [plane.admits(ALICE) for _ in range(3)] == [True, True, False]
    refused = plane.asks(ALICE)
    assert refused.startswith("HTTP/1.1 429 ")
    assert "\r\nRetry-After: 43200\r\n" in refused
    assert '"quota_exceeded"' in refused or "urn:fastgw:fault:quota_exceeded" in refused
    assert 'RateLimit: "quota";r=0;t=43200' in refused
    assert plane.admits(BOB)
    clock.at("2026-03-11T00:00")
    assert plane.admits(ALICE)


def test_answers_say_what_is_left(clock):
    answer = Served({"limit": 5, "period": "day"}).asks(ALICE)
    assert '\r\nRateLimit-Policy: "quota";q=5;w=86400\r\n' in answer
    assert '\r\nRateLimit: "quota";r=4;t=43200\r\n' in answer
    assert "w=" not in Served({"limit": 5, "period": "month"}).asks(ALICE)


@pytest.mark.parametrize(
    ("zone", "before", "after"),
    [
        ("Europe/Berlin", "2026-03-29T23:59:59", "2026-03-30T00:00"),
        ("America/New_York", "2026-11-01T23:59:59", "2026-11-02T00:00"),
    ],
)
def test_days_end_at_midnight_there_also_when_clocks_are_changed(clock, zone, before, after):
    plane = Served({"limit": 1, "period": "day", "time_zone": zone})
    clock.at(before.partition("T")[0] + "T00:00", zone)
    assert plane.admits(ALICE)
    clock.at(before, zone)
    assert "\r\nRetry-After: 1\r\n" in plane.asks(ALICE)
    clock.at(after, zone)
    assert plane.admits(ALICE)


def test_months(clock):
    plane = Served({"limit": 1, "period": "month", "time_zone": "Asia/Tokyo"})
    clock.at("2026-02-28T23:59:59", "Asia/Tokyo")
    assert [plane.admits(ALICE), plane.admits(ALICE)] == [True, False]
    clock.at("2026-03-01T00:00", "Asia/Tokyo")
    assert plane.admits(ALICE)


def test_groups_have_other_limits(clock):
    plane = Served({"limit": 1, "period": "1h", "groups": {"gold": {"limit": 3}}})
    assert sum(plane.admits(ALICE) for _ in range(5)) == 3
    assert sum(plane.admits(BOB) for _ in range(5)) == 1


def test_a_refusal_costs_nothing_in_other_limits_nor_theirs_here(clock):
    plane = Served(
        {"limit": 2, "period": "day"},
        rate_limit={"limit": 4, "window": "1h", "key": "consumer"},
        later={"type": "quota", "limit": 3, "period": "day", "key": "route"},
        single_flight={"type": "concurrency", "limit": 1},
    )
    assert sum(plane.admits(ALICE) for _ in range(10)) == 2
    assert sum(plane.admits(BOB) for _ in range(10)) == 1  # the route's quota of 3 has one left
    assert 'RateLimit: "later";r=0' in plane.asks(BOB)
    plane.adopts(_with({"limit": 2, "period": "day"}, {}))
    assert sum(plane.admits(BOB) for _ in range(10)) == 1  # so nothing but what was admitted has counted


def test_a_reload_with_another_limit_keeps_what_was_used(clock):
    plane = Served({"limit": 2, "period": "day"})
    assert sum(plane.admits(ALICE) for _ in range(5)) == 2
    plane.adopts(_with({"limit": 3, "period": "day", "time_zone": "UTC", "headers": "legacy"}, {}))
    assert "\r\nX-RateLimit-Remaining: 0\r\n" in plane.asks(ALICE)
    assert not plane.admits(ALICE)


def test_where_no_place_to_count_is_left_nobody_is_admitted(clock, monkeypatch):
    plane = Served({"limit": 2, "period": "day"})

    def full(*_: object) -> Any:
        raise quota.Full

    monkeypatch.setattr(type(plane.table), "assign_slot", full)
    assert "limits_unavailable" in plane.asks(ALICE)


def test_in_shadow_it_counts_and_refuses_nobody(clock):
    plane = Served({"limit": 1, "period": "day", "shadow": True})
    assert [plane.admits(ALICE) for _ in range(3)] == [True] * 3
    assert "quota_exceeded" in plane.records[-1].shadowed


@pytest.mark.parametrize(
    "settings",
    [
        {"limit": 1},
        {"limit": 0, "period": "day"},
        {"limit": 1, "period": "week"},
        {"limit": 1, "period": "1500ms"},
        {"limit": 1, "period": "day", "time_zone": "Berlin"},
        {"limit": 1, "period": "day", "time_zone": "../etc/passwd"},
        {"limit": 1, "period": "day", "key": "name"},
    ],
)
def test_what_makes_no_sense_is_told(settings):
    with pytest.raises(ConfigError):
        load_document({**SERVICE, **_with(settings, {})})


def test_explain_spends_nothing(clock):
    plane = Served({"limit": 7, "period": "day"})
    assert plane.admits(BOB)
    for _ in range(2):
        told = explained(plane.gateway, "http://a/", BOB)
        assert "counts 1 of 7 per day; 6 remaining" in told


def test_nothing_refers_in_a_circle(clock):
    """Tables that a reload has replaced are freed without the collector."""
    made = quota.Quota(limit=1, period="day", groups={"gold": quota.GroupQuota(limit=2)})
    counts = quota._QuotaCounts(made, "scope", "quota")
    gone = ref(counts._table)
    gc.collect()
    gc.disable()
    try:
        del counts
        assert gone() is None
    finally:
        gc.enable()
