"""Whatever comes of attempts, in any order: each ends once, nothing is left, and no POST is sent twice, unless a filter
has renewed what it shows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.errors import Fault
from fastgw.filters.api import Exchange, Phase
from tests.support.attempts import OK, Service, asking, saying
from tests.support.memory import probe

RETRIES = {
    "max": 2,
    "conditions": ["connect_failure", "reset_before_response", "per_try_timeout", "503"],
    "per_try_timeout": "300ms",
    "backoff": {"base": "100ms", "max": "100ms"},
}
STEPS = (
    *("connects", "cannot", "answers", "refuses", "begins", "goes on", "informs", "hangs up", "resets"),
    *("a moment", "a while", "long", "sends on", "leaves", "stalls", "nobody", "everybody"),
    *("denies", "begins to deny", "renewed", "timed out while renewing"),
)
REQUESTS = {
    b"GET": asking(b"GET"),
    b"PUT": b"PUT /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 6\r\n\r\nabc",
    b"POST": b"POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
}
REST = {b"PUT": b"def", b"POST": b"3\r\ndef\r\n0\r\n\r\n"}
SECONDS = {"a moment": 0.05, "a while": 0.4, "long": 3.0}


class Renewing:
    """A filter that renews when the story says so."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.sent_again = 0

    async def renew(self, exchange: Exchange, head: Any) -> bool:
        future = self.service.plane.worker_loop.turns.create_future()
        self.waiting.append(future)
        renewed: bool = await future
        self.sent_again += renewed
        return renewed

    def serving(self, settings: Any, targets: int) -> Service:
        probes = [probe("renewing", Phase.CREDENTIALS, renew=self.renew)]
        self.service = Service(settings, targets, {"timeout": "2s"}, probes)
        return self.service

    def decides(self, renewed: bool) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_result(renewed)
        self.service.plane.settle()


def play(service: Service, method: bytes, step: str, which: int) -> None:
    """One step of the story. `which`: of the connections that are there."""
    plane = service.plane
    alive = [wire for wire in service.wires if not wire.lost and not wire.aborted]
    wire = alive[which % len(alive)] if alive else None
    if step == "connects":
        if plane.pool.waiting:
            service.connects()
    elif step == "cannot":
        if plane.pool.waiting:
            plane.cannot_connect([Fault.CONNECT_REFUSED, Fault.POOL_TIMEOUT][which % 2])
    elif step in SECONDS:
        service.passes(SECONDS[step])
    elif step == "sends on":
        if method in REST and not service.rest_sent:
            service.rest_sent = True
            service.client.sends(REST[method])
    elif step == "leaves":
        service.client.ends()
    elif step == "stalls":
        service.client.takes(0)
    elif step in ("nobody", "everybody"):
        service.upstream.shunned = frozenset(service.upstream.targets if step == "nobody" else ())
        service.upstream.settle()
    elif wire is not None:
        if step == "hangs up":
            wire.ends()
        elif step == "resets":
            wire.resets()
        else:
            wire.sends(
                {
                    "answers": OK,
                    "refuses": saying(503, b"no"),
                    "denies": saying(401, b"no"),
                    "begins to deny": saying(403, b"no")[:-1],
                    "begins": OK[:-1],
                    "goes on": b"k",
                    "informs": b"HTTP/1.1 103 Early Hints\r\n\r\n",
                }[step]
            )


def reported(kind: str) -> dict[str, Any]:
    if kind.endswith("hedged"):
        return {"hedge": {"after": "50ms", "max": 2}}
    return {}


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(REQUESTS)),
    st.sampled_from(["plain", "hedged", "renewing", "renewing hedged"]),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), max_size=14),
)
@example(b"GET", "hedged", 3, False, [("connects", 0), ("a moment", 0), ("connects", 0), ("resets", 0), ("refuses", 0)])
@example(b"PUT", "plain", 3, True, [("connects", 0), ("refuses", 0), ("a while", 0), ("connects", 0), ("long", 0)])
@example(
    b"PUT",
    "renewing",
    1,
    True,
    [("begins to deny", 0), ("sends on", 0), ("timed out while renewing", 0), ("goes on", 0)],
)
@example(
    b"POST", "renewing", 1, False, [("connects", 0), ("denies", 0), ("renewed", 0), ("connects", 1), ("denies", 1)]
)
@example(b"POST", "plain", 1, False, [("cannot", 0), ("a moment", 0), ("a moment", 0), ("connects", 0), ("resets", 0)])
def test_each_attempt_ends_once(
    method: bytes, kind: str, targets: int, warm: bool, steps: list[tuple[str, int]]
) -> None:
    limits = {"load_balancing": {"panic_threshold": "0%"}}
    renewing, upstream = Renewing(), {"retries": RETRIES, **limits, **reported(kind)}
    if kind.startswith("renewing"):
        service = renewing.serving(upstream, targets)
    else:
        service = Service(upstream, targets, route={"timeout": "2s"})
    if warm:
        service.asks(asking(b"GET"))
        service.connects().sends(OK)
    before = service.received(method)
    service.asks(REQUESTS[method])
    for step, which in steps:
        if step in ("renewed", "timed out while renewing"):
            if kind.startswith("renewing"):
                renewing.decides(step == "renewed")
        else:
            play(service, method, step, which)
    service.client.takes()
    service.client.ends()
    if not service.client.lost:
        service.client.resets()
    service.passes(0.1)
    service.watch.assert_even()
    service.plane.assert_quiet()
    assert service.plane.limit.taken == 0
    assert len(service.plane.records) == 1 + warm
    assert all(record.retries <= 5 for record in service.plane.records)
    assert len(renewing.waiting) <= 1
    if method == b"POST":
        assert service.received(method) - before <= 1 + renewing.sent_again, "a POST was sent twice"


ENDS = {
    "answered": ([("connects", 0), ("answers", 0)], ["begun", "answered", "ended"]),
    "answered in pieces": (
        [("connects", 0), ("begins", 0), ("goes on", 0)],
        ["begun", "answered", "ended"],
    ),
    "broken off": (
        [("connects", 0), ("begins", 0), ("resets", 0)],
        ["begun", "answered", "given up: upstream_incomplete"],
    ),
    "no connection": ([("cannot", 1)], ["begun", "given up: pool_timeout"]),
    "hung up": ([("connects", 0), ("hangs up", 0)], ["begun", "given up: connection_lost"]),
    "left": ([("connects", 0), ("leaves", 0)], ["begun", "given up"]),
    "left while connecting": ([("leaves", 0)], ["begun", "given up"]),
    "late": ([("connects", 0), ("long", 0)], ["begun", "given up: upstream_timeout"]),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_is_told_of_a_single_attempt(name: str) -> None:
    """That it is begun first, and last that it is ended or given up, and by what; between them how far it came."""
    steps, told = ENDS[name]
    service = Service({"retries": {"max": 0}}, targets=1, route={"timeout": "2s"})
    service.asks()
    for step, which in steps:
        play(service, b"GET", step, which)
    given_up = [f"{what}: {how}" if what == "given up" and how else what for what, _, how in service.watch.told]
    assert given_up == told
    assert len({id(record) for record in service.watch.records}) == 1
    service.plane.assert_quiet()


def test_each_attempt_of_an_exchange_is_told_with_its_number_and_why_it_is_made() -> None:
    """A retry after a refusal, and hedges beside it; the exchange has the count of them for the log."""
    service = Service({"retries": {"conditions": ["503"]}}, targets=2)
    service.asks()
    service.connects().sends(saying(503, b"no"))
    service.passes(1.0)
    service.connects().sends(OK)
    service.assert_over(200, retries=1)
    first, second = dict.fromkeys(service.watch.records)
    assert [(each.number, each.kind.name, each.status, each.refused) for each in (first, second)] == [
        (1, "FIRST", 503, True),
        (2, "RETRY", 200, False),
    ]
    assert first.target is not second.target
    assert first.exchange is second.exchange
    hedged = Service({"hedge": {"after": "100ms"}}, targets=2)
    hedged.asks()
    hedged.passes(0.2)
    slow, fast = hedged.connects(), hedged.connects()
    fast.sends(OK)
    assert slow.lost or slow.aborted
    hedged.assert_over(200, retries=1)
    first, second = dict.fromkeys(hedged.watch.records)
    assert [(each.number, each.kind.name, each.status) for each in (first, second)] == [
        (1, "FIRST", 0),
        (2, "HEDGE", 200),
    ]
    assert hedged.hedges == 1


def test_a_tunnel_that_is_closed_is_an_attempt_that_ended() -> None:
    service = Service(targets=1, route={"upgrade": ["websocket"]})
    service.asks(b"GET /a HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    wire = service.connects()
    wire.sends(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    wire.ends()
    service.client.ends()
    service.plane.settle()
    assert [what for what, _, _ in service.watch.told] == ["begun", "answered", "ended"]


def test_a_reused_connection_is_told_and_its_loss_blames_nobody() -> None:
    service = Service(targets=1)
    service.asks()
    wire = service.connects()
    wire.sends(OK)
    service.asks()
    wire.ends()
    service.connects().sends(OK)
    told = [(what, how) for what, _, how in service.watch.told]
    assert told[3:] == [
        ("begun", None),
        ("given up", None),
        ("begun", None),
        ("answered", 200),
        ("ended", None),
    ]
    assert [record.reused for record in service.watch.records[3:]] == [True, True, False, False, False]
    service.watch.assert_even()
