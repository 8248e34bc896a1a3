"""concurrency: how many requests may be under way at a time, and who is refused first."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import pytest

from fastgw.config import ConfigError
from fastgw.errors import Fault
from fastgw.filters.api import Phase, Services
from fastgw.filters.limiting.adaptive_concurrency import SAMPLES, WINDOW_S
from fastgw.filters.policies.concurrency import Adaptive, Divided, cells_of, scope
from fastgw.shm.node_limits import own_counts
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane, Wire, probe
from tests.support.secrecy import explained
from tests.support.table import for_each

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Served(Plane):
    """With filters that were started, as in a worker."""

    def __init__(self, settings: Mapping[str, Any], probes: Any = (), **route: Any) -> None:
        self.counts = own_counts()
        super().__init__(_with(settings, route), probes=probes)

    def _start(self) -> None:
        super()._start()
        nothing: Any = None
        for link in self.gateway.live:
            if not link.started and link.hooks.start is not None:
                link.hooks.start(Services(nothing, nothing, nothing, nothing, self.counts))
                link.started = True

    def asked(self, *lines: str, ip: str = "192.0.2.1") -> Wire:
        client = self.client(ip)
        client.sends("\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode())
        return client

    def asks(self, *lines: str, ip: str = "192.0.2.1") -> bool:
        """Send a request that is not answered yet; whether it has passed."""
        return not self.asked(*lines, ip=ip).received

    def answers(self) -> None:
        """The request that has waited longest for its connection gets its answer."""
        self.connects().sends(ANSWER)


def _with(settings: Mapping[str, Any], route: Mapping[str, Any]) -> dict[str, Any]:
    filters = {"concurrency": settings, **route.pop("filters", {})} if "filters" in route else {"concurrency": settings}
    upstream = {"targets": [{"url": "http://127.0.0.1:9"}], "retries": {"max": 0}}
    return {"upstreams": {"u": upstream}, "routes": [{"name": "all", "upstream": "u", "filters": filters, **route}]}


def test_so_many_pass_at_a_time_and_each_answer_makes_room():
    plane = Served({"limit": 2, "retry_after": "1500ms"})
    assert [plane.asks() for _ in range(3)] == [True, True, False]
    plane.answers()
    refused = plane.asked() and plane.asked()
    assert refused.received.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 2\r\n" in refused.received
    assert plane.records[-1].fault == "overloaded"


def test_429_where_that_is_asked_for():
    plane = Served({"limit": 1, "status": 429})
    assert plane.asks()
    assert plane.asked().received.startswith(b"HTTP/1.1 429 ")
    assert plane.records[-1].fault == "too_many_at_once"


def test_a_client_that_leaves_makes_room():
    plane = Served({"limit": 1})
    client = plane.asked()
    assert not plane.asks()
    client.resets()
    plane.settle()
    assert plane.asks()


def test_a_refusal_further_on_makes_room():
    plane = Served({"limit": 1}, filters={"size": {"body": 1}})
    for _ in range(3):
        assert plane.asked("Content-Length: 5").received.startswith(b"HTTP/1.1 413 ")
    assert plane.asks()


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("header:X-Tenant", "X-Tenant: a", "X-Tenant: b"),
        ("cookie:t", "Cookie: t=a", "Cookie: t=b"),
        (["route", "header:x-tenant"], "X-Tenant: a", "X-Tenant: b"),
    ],
)
def test_each_key_has_its_own_places(key, one, other):
    plane = Served({"limit": 1, "key": key})
    assert plane.asks(one)
    assert not plane.asks(one)
    assert plane.asks(other)


def test_addresses_of_one_ipv6_subscriber_are_one_key():
    plane = Served({"limit": 1, "key": "ip"})
    assert [plane.asks(ip=ip) for ip in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")] == [True, False, True]


def test_parts_of_a_key_cannot_run_into_each_other():
    plane = Served({"limit": 1, "key": ["header:a", "header:b"]})
    assert plane.asks("A: 1:x", "B: y")
    assert plane.asks("A: 1", "B: :xy")


@for_each("limit", [{"limit": 100}, {"adaptive": {"min": 100, "max": 200}}])
@for_each(("share", "admitted"), [("7%", 7), ("29%", 29), ("57%", 57), ("58%", 58), ("0.5%", 1)])
def test_a_share_of_the_limit_is_exact(limit, share, admitted):
    plane = Served({**limit, "priority": {"low": "0.1%", "normal": share}})
    assert [plane.asks() for _ in range(admitted + 1)] == [True] * admitted + [False]


def test_a_share_between_two_numbers_is_rounded_down():
    plane = Served({"limit": 100, "priority": {"low": "0.1%", "normal": "28.9%"}})
    assert [plane.asks() for _ in range(29)] == [True] * 28 + [False]


def test_who_is_less_urgent_is_shed_first():
    plane = Served({"limit": 4, "priority": {"header": "X-Priority", "low": "50%", "normal": "75%"}})
    low, normal, high = "X-Priority: low", "X-Priority: whatever", "X-Priority: high"
    assert [plane.asks(low) for _ in range(3)] == [True, True, False]
    assert [plane.asks(normal) for _ in range(2)] == [True, False]
    assert [plane.asks(high) for _ in range(2)] == [True, False]
    assert plane.records[0].fault_detail == "the limit is reached for requests of low priority"


@pytest.mark.parametrize(
    ("added", "passes"), [(b"", False), (b"X-Priority: low\r\n", False), (b"X-Priority: high\r\n", True)]
)
def test_a_client_cannot_choose_the_priority_that_authentication_writes(added: bytes, passes: bool) -> None:
    def owns(exchange: Any) -> None:
        exchange.request_dropped |= {b"x-priority"}
        exchange.request_added += added

    settings = {"limit": 2, "priority": {"header": "X-Priority", "low": "50%", "default": "low"}}
    plane = Served(settings, probes=[probe("owns", Phase.AUTHENTICATE, request=owns)])
    assert [plane.asks("X-Priority: high") for _ in range(2)] == [True, passes]


def test_a_reload_with_another_limit_knows_what_is_under_way():
    plane = Served({"limit": 2})
    assert [plane.asks() for _ in range(2)] == [True, True]
    plane.adopts(_with({"limit": 3}, {}))
    assert [plane.asks() for _ in range(2)] == [True, False]
    plane.answers()  # of one that began before
    assert [plane.asks() for _ in range(2)] == [True, False]


def test_in_shadow_it_counts_and_refuses_nobody():
    plane = Served({"limit": 1, "shadow": True})
    assert [plane.asks() for _ in range(3)] == [True] * 3
    for _ in range(3):
        plane.answers()
    assert "503" in "".join(record.shadowed for record in plane.records)
    assert plane.asks()
    plane.answers()
    assert plane.records[-1].shadowed == ""


def test_a_limit_that_adapts_begins_with_its_least():
    plane = Served({"adaptive": {"min": 2, "max": 10}})
    assert [plane.asks() for _ in range(3)] == [True, True, False]
    plane.answers()
    assert plane.asks()


@pytest.mark.parametrize("outcome", ["answer", "no connection", "client leaves"])
def test_what_is_over_in_any_way_makes_room_in_a_limit_that_adapts(outcome):
    plane = Served({"adaptive": {"min": 1, "max": 1}})
    for _ in range(50):
        client = plane.asked()
        assert not client.received
        if outcome == "answer":
            plane.answers()
        elif outcome == "no connection":
            while plane.pool.waiting:
                plane.cannot_connect(Fault.CONNECT_REFUSED)
        else:
            client.resets()
            plane.settle()
            plane.pool.waiting.clear()


def test_slow_uploads_do_not_lower_a_limit_that_adapts():
    """Their timeout tells nothing of the upstream; counted, ten of them would end the fast growth at the start."""
    plane = Served({"adaptive": {"min": 10, "max": 100}}, timeout="1s")
    for _ in range(10):
        plane.client().sends(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
        plane.connects()
    plane.passes(1.1)
    assert [record.status for record in plane.records] == [504] * 10
    assert [plane.asks() for _ in range(10)] == [True] * 10
    for _ in range(10):
        plane.answers()
    assert plane.counts.count(cells_of(plane.counts, scope("route", "all", "concurrency"))[1]) == 15


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"limit": 1, "adaptive": {}},
        {"adaptive": {}, "key": "ip"},
        {"adaptive": {"min": 5, "max": 4}},
        {"limit": 0},
        {"limit": 1, "priority": {"low": "95%"}},
        {"limit": 1, "key": "address"},
    ],
)
def test_what_makes_no_sense_is_told(settings):
    with pytest.raises(ConfigError):
        load_document({**SERVICE, **_with(settings, {})})


def test_explain_says_how_many_may_pass():
    plane = Served({"limit": 10, "key": "ip", "priority": {}})
    assert "while fewer than 9 are in flight by ip of 10, with normal priority" in explained(plane.gateway, "http://a/")


def test_a_limit_that_adapts_is_told_and_so_is_what_it_has_let_in():
    plane = Served({"adaptive": {"min": 2, "max": 10}})
    told = [plane.counts.count(cells) for cells in cells_of(plane.counts, scope("route", "all", "concurrency"))]
    assert told == [0, 2]
    plane.asks()
    in_use, limits = cells_of(plane.counts, scope("route", "all", "concurrency"))
    assert (plane.counts.count(in_use), plane.counts.count(limits)) == (1, 2)
    plane.answers()
    assert plane.counts.count(in_use) == 0


def test_what_a_limit_says_of_itself_goes_with_it():
    """Without the collector: a reload has replaced it."""
    counts = own_counts()
    nothing: Any = None
    limits = cells_of(counts, "name")[1]
    gc.collect()
    gc.disable()
    try:
        divided = Divided(Adaptive(min=8), "name")
        divided.start(Services(nothing, nothing, nothing, nothing, counts, workers=lambda: 2))
        assert counts.count(limits) == 4
        del divided
        assert counts.count(limits) == 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("least", "most", "workers", "admitted"),
    [
        (5, 5, 4, [2, 1, 1, 1]),
        (1, 5, 4, [2, 1, 1, 1]),
        (8, 8, 4, [2, 2, 2, 2]),
        (2, 3, 4, [1, 1, 1, 1]),
        (7, 7, 1, [7]),
    ],
)
def test_the_shares_of_all_workers_admit_the_maximum_of_the_node_and_no_more(
    least: int, most: int, workers: int, admitted: list[int]
) -> None:
    """However far each has grown. One of which there is less than one for each worker is one for each."""
    nothing: Any = None
    taken = []
    for slot in range(workers):
        divided = Divided(Adaptive(min=least, max=most), "name")
        divided.start(Services(nothing, nothing, nothing, nothing, own_counts(), workers=lambda: workers, slot=slot))
        limit, now = divided.limit, 0.0
        for _ in range(20):  # windows in which all that it admits is answered at once
            count = sum(limit.try_take() for _ in range(SAMPLES))
            now += WINDOW_S
            for _ in range(count):
                limit.record_response(now, now, 0.01)
        taken.append(sum(limit.try_take() for _ in range(most + 1)))
    assert taken == admitted
