"""A second target beside one that is slow: who answers first is heard, and nothing is left of the other."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from fastgw.upstream.policies.retry import ENOUGH, KEPT, SOONEST_S, HeadTimes
from tests.support.attempts import GET, OK, Service, asking, saying

FIRST, SECOND = "127.0.0.1:9", "127.0.0.2:9"
HEDGED = {"hedge": {"after": "50ms"}}
REFUSING = {**HEDGED, "retries": {"conditions": ["connect_failure", "503"], "max": 1}}
SLOW = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"


def hedged(settings: dict[str, object] | None = None, targets: int = 2, request: bytes = GET) -> Service:
    """A request that two targets have got."""
    service = Service(settings or HEDGED, targets)
    service.asks(request)
    service.connects()
    service.passes(0.1)
    service.connects()
    return service


def test_who_is_quick_enough_is_asked_alone() -> None:
    service = Service(HEDGED)
    service.asks()
    service.connects().sends(OK)
    service.passes(1)
    service.assert_over(200)
    assert len(service.wires) == 1


@pytest.mark.parametrize("winner", [0, 1])
def test_the_first_answer_counts(winner: int) -> None:
    service = hedged()
    assert service.wires[0].received == service.wires[1].received.replace(b"127.0.0.2", b"127.0.0.1")
    service.wires[winner].sends(OK)
    assert service.client.received.endswith(b"\r\n\r\nok")
    assert service.wires[1 - winner].aborted
    assert not service.wires[winner].aborted
    service.assert_over(200, retries=1)
    assert service.plane.records[0].target == (FIRST, SECOND)[winner]
    assert service.hedges == 1
    assert service.watch.of("answered") == [200]
    assert service.watch.faults == []


def test_an_answer_in_pieces_wins_with_its_head() -> None:
    service = hedged()
    service.wires[1].sends(OK[:-1])
    assert service.wires[0].aborted
    service.passes(3)
    service.wires[1].sends(OK[-1:])
    service.assert_over(200, retries=1)


def test_nobody_is_asked_when_the_answer_has_begun() -> None:
    service = Service(HEDGED)
    service.asks()
    wire = service.connects()
    wire.sends(OK[:-1])
    service.passes(1)
    assert service.waiting == []
    wire.sends(OK[-1:])
    service.assert_over(200)


def test_a_hedge_that_has_no_connection_yet_is_withdrawn() -> None:
    service = Service(HEDGED)
    service.asks()
    wire = service.connects()
    service.passes(0.1)
    assert service.waiting == [SECOND]
    wire.sends(OK)
    assert service.waiting == []
    service.assert_over(200, retries=1)


@pytest.mark.parametrize(
    "request_bytes",
    [
        *(asking(method) for method in (b"POST", b"PATCH", b"PUT", b"DELETE")),
        asking(b"GET", b"body"),
        asking(b"GET", b"", b"Connection: Upgrade", b"Upgrade: websocket"),
    ],
)
def test_what_is_asked_once_only(request_bytes: bytes) -> None:
    service = Service(HEDGED)
    service.asks(request_bytes)
    wire = service.connects()
    service.passes(1)
    assert service.waiting == []
    wire.sends(OK)
    service.assert_over(200)


@pytest.mark.parametrize("method", [b"HEAD", b"OPTIONS"])
def test_what_else_is_safe(method: bytes) -> None:
    service = hedged(request=asking(method))
    service.wires[1].sends(saying(200))
    service.assert_over(200, retries=1)


def test_a_single_target_is_asked_once() -> None:
    service = Service(HEDGED, targets=1)
    service.asks()
    wire = service.connects()
    service.passes(1)
    assert service.waiting == []
    wire.sends(OK)
    service.assert_over(200)


def test_a_hedge_does_not_wait_for_a_connection() -> None:
    """It would take the place of a request in the queue, and be of no use until another one ends."""
    service = Service(HEDGED)
    service.asks()
    wire = service.connects()
    service.plane.pool.is_full = True
    service.passes(1)
    assert (service.waiting, service.hedges) == ([], 0)
    wire.sends(OK)
    service.assert_over(200)


def test_where_no_connection_can_be_opened_a_hedge_goes_to_a_target_that_has_one() -> None:
    service = Service(HEDGED, targets=4)
    for _ in range(2):
        service.asks()
        service.connects().sends(OK)
    service.plane.records.clear()
    service.asks()
    slow = service.connects()
    service.plane.pool.is_full = True
    service.passes(0.1)
    assert service.waiting == []
    assert [wire.received.count(b"GET ") for wire in service.wires] in ([2, 1, 1], [1, 2, 1])
    slow.sends(OK)
    service.assert_over(200, retries=1)


def test_as_many_as_there_may_be() -> None:
    service = Service({"hedge": {"after": "50ms", "max": 2}}, targets=4)
    service.asks()
    service.connects()
    service.passes(0.1)
    service.connects()
    service.passes(0.1)
    service.connects()
    service.passes(1)
    assert service.waiting == []
    assert len(set(service.watch.of("begun"))) == 3
    service.wires[2].sends(OK)
    assert [wire.aborted for wire in service.wires] == [True, True, False]
    service.assert_over(200, retries=2)


def test_the_budget_is_that_of_retries() -> None:
    service = Service({**HEDGED, "retries": {"budget": "0%"}})
    clients = [service.plane.client() for _ in range(5)]
    for client in clients:
        client.sends(GET)
    firsts = [service.connects() for _ in clients]
    service.passes(0.1)
    assert (len(service.waiting), service.hedges, service.denied) == (3, 3, 2)
    for wire in firsts:
        wire.sends(OK)
    assert all(client.received.endswith(b"ok") for client in clients)
    service.watch.assert_even()
    service.plane.assert_quiet()


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("how", ["ends", "resets"])
def test_one_that_fails_leaves_it_to_the_other(failing: int, how: str) -> None:
    service = hedged()
    getattr(service.wires[failing], how)()
    assert service.client.received == b""
    service.wires[1 - failing].sends(OK)
    service.assert_over(200, retries=1)
    assert service.watch.faults == ["connection_lost"]
    assert service.plane.records[0].target == (FIRST, SECOND)[1 - failing]


def test_when_both_fail_it_is_over() -> None:
    service = hedged()
    service.wires[0].ends()
    service.wires[1].ends()
    assert service.client.received.startswith(b"HTTP/1.1 502 ")
    service.assert_over(502, retries=1)


def test_a_hedge_that_cannot_connect_changes_nothing() -> None:
    service = Service(HEDGED)
    service.asks()
    wire = service.connects()
    service.passes(0.1)
    service.plane.cannot_connect()
    wire.sends(OK)
    service.assert_over(200, retries=1)


def test_a_refused_answer_leaves_it_to_the_other() -> None:
    service = hedged(REFUSING)
    service.wires[0].sends(saying(503, b"no"))
    assert service.client.received == b""
    service.wires[1].sends(OK)
    service.assert_over(200, retries=1)


def test_two_refused_answers_are_followed_by_a_retry() -> None:
    service = hedged(REFUSING, targets=3)
    for wire in service.wires:
        wire.sends(saying(503, b"no"))
    service.passes(0.1)
    service.connects().sends(OK)
    service.assert_over(200, retries=2)
    assert len(set(service.watch.of("begun"))) == 3


def test_a_client_that_leaves_ends_both() -> None:
    service = hedged()
    service.client.ends()
    assert all(wire.aborted for wire in service.wires)
    service.assert_over(499, retries=1)


def test_the_time_of_the_route_ends_both() -> None:
    service = Service(HEDGED, route={"timeout": "1s"})
    service.asks()
    service.connects()
    service.passes(0.1)
    service.connects()
    service.passes(1)
    assert all(wire.aborted for wire in service.wires)
    service.assert_over(504, retries=1)
    assert service.watch.faults == ["upstream_timeout"] * 2


# --- after p95 ---


def test_nothing_is_known_before_enough_was_seen() -> None:
    times = HeadTimes()
    for _ in range(ENOUGH - 1):
        times.add(0.1)
    assert times.slow == inf
    times.add(0.1)
    assert 0.1 <= times.slow <= 0.12


def test_it_is_the_time_that_95_of_100_keep() -> None:
    times, random = HeadTimes(), Random(1)
    seen = [random.lognormvariate(-4.0, 0.8) for _ in range(KEPT - 100)]
    for seconds in seen:
        times.add(seconds)
    slower = sum(seconds > times.slow for seconds in seen) / len(seen)
    assert 0.025 <= slower <= 0.05


def test_the_quickest_are_given_a_little_time() -> None:
    times = HeadTimes()
    for _ in range(ENOUGH):
        times.add(0.0004)
    assert times.slow == SOONEST_S


def test_what_was_is_forgotten() -> None:
    times = HeadTimes()
    for _ in range(4 * KEPT):
        times.add(0.01)
    for _ in range(KEPT):
        times.add(0.5)
    assert 0.5 <= times.slow <= 0.6
    for _ in range(5 * KEPT):
        times.add(0.01)
    assert 0.01 <= times.slow <= 0.012


def test_too_slow_to_be_measured() -> None:
    times = HeadTimes()
    for _ in range(ENOUGH):
        times.add(100.0)
    assert times.slow == inf


def test_hedges_begin_when_enough_is_known() -> None:
    service = Service({"hedge": {}})
    for _ in range(ENOUGH):
        service.asks()
        for wire in [service.connects()] if service.waiting else service.wires:
            if wire.protocol.phase.name == "AWAITING":
                wire.sends(OK)
    service.asks()
    service.passes(0.1)
    assert service.hedges == 1
    assert service.upstream.hedging is not None
    assert SOONEST_S <= service.upstream.hedging.after() <= 0.1
    service.client.ends()
    service.watch.assert_even()
    service.plane.assert_quiet()
