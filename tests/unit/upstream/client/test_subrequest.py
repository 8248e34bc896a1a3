"""Sub-requests: what a filter asks of an upstream is an exchange of its own, within the one that it is asked for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Trailers
from fastgw.exchange.upstream_chains import NO_FILTERS
from fastgw.filters.api import Consumer, Env, Filter, Hooks, Phase, Reply, Services
from fastgw.http.malformed import Malformed
from fastgw.http.messages import ResponseHead
from fastgw.testing import ConfigError, configured, run
from fastgw.upstream.client import awaited_subrequest, subrequest
from fastgw.upstream.client.subrequest import (
    MOST_PER_EXCHANGE,
    Subrequest,
    SubrequestFailed,
    Subrequests,
    send_subrequest,
)
from fastgw.upstream.targets.attempt_listener import AttemptKind
from tests.support.attempts import Watch
from tests.support.memory import Plane, Wire, probe

GET = b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\nConnection: keep-alive\r\n\r\nok"
GUIDE = Path(__file__).parents[4] / "docs" / "guides" / "write-a-filter.md"
TWO = [{"url": "http://127.0.0.2:9/base"}, {"url": "http://127.0.0.3:9"}]


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_response(self, head: ResponseHead) -> None:
        self.told.append((head.status, head.first(b"x-a")))

    def on_data(self, payload: bytes) -> None:
        self.told.append(payload)

    def on_end(self, trailers: Trailers) -> None:
        self.told.append(trailers)

    def on_failure(self, failure: SubrequestFailed) -> None:
        self.told.append(failure)


class Asking:
    """A gateway in which a filter asks the upstream `v` for what goes to `u`."""

    def __init__(
        self,
        settings: Mapping[str, Any] = MappingProxyType({}),
        count: int = 1,
        route: Mapping[str, Any] = MappingProxyType({}),
        own: Mapping[str, Any] = MappingProxyType({}),
        more: Mapping[str, Any] = MappingProxyType({}),
        request: bytes = GET,
        **asked: Any,
    ) -> None:
        """`settings`: of the upstream that is asked; `own`: of that of the route."""
        self.heard = [Heard() for _ in range(count)]
        self.sent: list[Any] = []
        self.parent: Exchange

        def ask(exchange: Exchange) -> None:
            self.parent = exchange
            for heard in self.heard:
                self.sent.append(send_subrequest(exchange, self.upstream, heard, **{"target": b"/ask?b=c", **asked}))

        upstreams = {
            "u": {"targets": [{"url": "http://127.0.0.1:9"}], "retries": {"max": 0}, **own},
            "v": {"targets": TWO[:1], "retries": {"max": 0}, **settings},
        }
        self.plane = Plane(
            {"upstreams": upstreams, "routes": [{"name": "all", "upstream": "u", **route}], **more},
            probes=[probe("asks", Phase.AUTHORIZE, request=ask)],
        )
        self.upstream = self.plane.gateway.upstreams["v"]
        self.watch = Watch()
        self.upstream.attempt_listeners = (self.watch,)
        self.client = self.plane.client()
        self.client.sends(request)

    @property
    def told(self) -> list[Any]:
        return self.heard[0].told

    def connects(self) -> Wire:
        return self.plane.connects()

    def answers(self) -> None:
        """The parent is answered, and nothing is left of either."""
        while self.plane.pool.waiting:
            wire = self.plane.connects()
            if b"GET /a " in wire.received:
                wire.sends(OK)
        assert self.client.received.endswith(b"\r\n\r\nok")
        self.watch.assert_even()
        self.plane.assert_quiet()
        assert self.plane.worker_loop.turns.timers == []


def test_it_is_sent_as_its_own_request_and_told_as_it_comes() -> None:
    asking = Asking(method=b"PUT", body=b"{}", fields=[(b"X-B", b"2")])
    wire = asking.connects()
    assert wire.received.startswith(b"PUT /base/ask?b=c HTTP/1.1\r\nHost: a.test\r\n")
    assert b"\r\nX-B: 2\r\n" in wire.received
    assert b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in wire.received
    assert wire.received.endswith(b"\r\n\r\n{}")
    wire.sends(OK[:-1])
    assert asking.told == [(200, b"1"), b"o"]
    wire.sends(OK[-1:])
    assert asking.told == [(200, b"1"), b"o", b"k", ()]
    assert [what for what, _, _ in asking.watch.told] == ["begun", "answered", "ended"]
    asking.answers()


def test_retries_and_other_targets_hold_for_it() -> None:
    asking = Asking({"targets": TWO, "retries": {"max": 1}})
    asking.plane.cannot_connect()
    asking.plane.pool.waiting.reverse()  # what the parent waits for was asked for before
    asking.connects().sends(OK)
    assert asking.told == [(200, b"1"), b"ok", ()]
    first, second = dict.fromkeys(asking.watch.records)
    assert first.target is not second.target
    assert second.kind is AttemptKind.RETRY
    assert first.exchange is asking.sent[0].exchange
    asking.answers()


@pytest.mark.parametrize("after", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"])
def test_a_failure_is_told_once_with_its_fault(after: bytes) -> None:
    asking = Asking()
    wire = asking.connects()
    if after:
        wire.sends(after)
    wire.resets()
    *came, failure = asking.told
    assert failure.fault is (Fault.UPSTREAM_INCOMPLETE if after else Fault.CONNECTION_LOST)
    assert came == ([(200, None), b"ok"] if after else [])
    asking.sent[0].cancel()
    asking.sent[0].resume()
    asking.answers()


def test_who_cannot_be_reached_is_a_failure() -> None:
    asking = Asking()
    asking.plane.cannot_connect(Fault.CONNECT_REFUSED)
    assert [each.fault for each in asking.told] == [Fault.CONNECT_REFUSED]
    asking.answers()


@pytest.mark.parametrize("begun", [False, True])
def test_its_time_is_its_own(begun: bool) -> None:
    asking = Asking(timeout=2.0)
    wire = asking.connects()
    if begun:
        wire.sends(OK[:-1])
    asking.plane.passes(1.8)
    assert not isinstance(asking.told[-1:], SubrequestFailed)
    asking.plane.passes(0.4)
    assert asking.told[-1] == (Fault.UPSTREAM_TIMEOUT, "the sub-request was not done within 2 s")
    asking.answers()


def seconds_given(asking: Asking) -> float:
    """The most that any sub-request has."""
    sent = [each for each in asking.sent if isinstance(each, subrequest.Subrequest)]
    return max(each.deadline for each in sent) - asking.plane.worker_loop.wheel.now


@pytest.mark.parametrize(
    ("route", "upstream", "most"),
    [
        ({"timeout": "3s"}, {}, 3.0),
        ({"timeout": "3s"}, {"timeouts": {"total": "2s"}}, 2.0),
        ({}, {"timeouts": {"total": "2s"}}, 2.0),
        ({}, {}, 1000.0),
    ],
)
def test_it_has_no_more_time_than_is_left_to_its_parent(route: Any, upstream: Any, most: float) -> None:
    asking = Asking(timeout=1000.0, route=route, own=upstream)
    assert most - 1.0 < seconds_given(asking) <= most
    while asking.plane.pool.waiting:
        asking.connects().sends(OK)
    asking.answers()


def test_without_any_time_left_nothing_is_sent() -> None:
    asking = Asking(count=0, route={"timeout": "3s"})
    asking.parent.begun_at -= 3.0
    late = send_subrequest(asking.parent, asking.upstream, Heard(), target=b"/")
    assert late == (Fault.UPSTREAM_TIMEOUT, "no time is left of the route's timeout")
    asking.connects().sends(OK)
    asking.answers()


def test_its_upstream_is_told_of_the_deadline_and_holds_its_own() -> None:
    asking = Asking({"timeouts": {"total": "1s"}}, timeout=1000.0, route={"timeout": "3s", "deadline_header": "X-Left"})
    wire = asking.connects()
    assert b"GET /base/ask" in wire.received
    (left,) = re.findall(rb"\r\nX-Left: (\d+)\r\n", wire.received)
    assert 0 < int(left) <= 1000
    asking.plane.passes(1.2)
    assert [each.fault for each in asking.told] == [Fault.UPSTREAM_TIMEOUT]
    asking.answers()


def test_retries_end_with_its_time_and_have_a_place_in_the_budget() -> None:
    slow = {"retries": {"max": 3, "conditions": ["503"], "backoff": {"base": "10s", "max": "20s"}}}
    asking = Asking(slow, timeout=0.001)
    asking.connects()
    asking.plane.passes(0.1)
    assert [each.fault for each in asking.told] == [Fault.UPSTREAM_TIMEOUT]
    asking.answers()
    denied = Asking({"retries": {"max": 3, "conditions": ["503"], "budget": "0%"}}, count=5)
    denied.plane.pool.waiting.sort(key=lambda waiting: waiting[1].label, reverse=True)
    for _ in range(5):
        wire = denied.connects()
        assert b"GET /base/ask" in wire.received
        wire.sends(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    assert sum(bool(heard.told) for heard in denied.heard) == 2, "three may be retried besides the budget"
    denied.plane.passes(1.0)
    while denied.plane.pool.waiting:
        denied.connects().sends(OK)
    denied.answers()


@pytest.mark.parametrize("end", ["answered", "left"])
def test_it_ends_with_its_parent_and_nothing_more_is_told(end: str) -> None:
    asking = Asking()
    wire = asking.connects()
    wire.sends(OK[:-1])
    came = list(asking.told)
    if end == "answered":
        asking.connects().sends(OK)
    else:
        asking.client.resets()
        asking.plane.settle()
    assert wire.aborted or wire.lost
    assert asking.sent[0].is_over
    assert asking.told == came
    asking.watch.assert_even()
    asking.plane.assert_quiet()
    assert asking.plane.worker_loop.turns.timers == []
    late = send_subrequest(asking.parent, asking.upstream, Heard(), target=b"/")
    assert isinstance(late, SubrequestFailed)


@pytest.mark.parametrize("which", ["on_response", "on_data", "on_end"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_listener_that_raises_is_told_no_more(
    which: str, pieces: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NO_FILTERS, "logged_at", None)  # else it is told once in a while
    asking = Asking()
    heard = asking.heard[0]

    def raises(*told: Any) -> None:
        heard.told.append("raised")
        raise RuntimeError("of a filter")

    setattr(heard, which, raises)
    wire = asking.connects()
    for piece in (OK,) if pieces == 1 else (OK[:-1], OK[-1:]):
        wire.sends(piece)
    assert heard.told[-1] == "raised"
    assert heard.told.count("raised") == 1
    assert caplog.text.count("RuntimeError: of a filter") == 1
    assert asking.sent[0].is_over
    asking.answers()


def test_who_is_slower_than_the_response_brakes_it() -> None:
    asking = Asking()
    wire = asking.connects()
    sent = asking.sent[0]
    assert isinstance(sent, Subrequest)
    wire.sends(OK[:-2])
    sent.pause()
    wire.sends(b"ok")
    assert asking.told == [(200, b"1")]
    assert not wire.reading
    sent.resume()
    asking.plane.settle()
    assert asking.told == [(200, b"1"), b"ok", ()]
    asking.answers()


def test_an_exchange_has_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subrequest, "MOST_PER_EXCHANGE", 2)
    asking = Asking(count=3)
    assert [type(each) for each in asking.sent] == [Subrequest, Subrequest, SubrequestFailed]
    assert asking.sent[2].fault is Fault.INTERNAL
    asking.connects().sends(OK)
    asking.connects().sends(OK)
    assert [heard.told[-1:] for heard in asking.heard] == [[()], [()], []]
    asking.answers()


def test_a_sub_request_asks_nobody_further() -> None:
    asking = Asking()
    with pytest.raises(ValueError, match="asks nobody further"):
        send_subrequest(asking.sent[0].exchange, asking.upstream, Heard(), target=b"/")
    asking.connects().sends(OK)
    asking.answers()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"target": b"/a b"}, Malformed),
        ({"method": b"G T"}, Malformed),
        ({"fields": [(b"X-A", b"1\r\nX-B: 2")]}, ValueError),
        ({"fields": [(b"Content-Length", b"3")]}, ValueError),
        ({"target": b"/a\r\nX-B: 2"}, Malformed),
    ],
)
def test_what_no_request_may_have_is_refused_before_anything_is_sent(wrong: Any, error: type[Exception]) -> None:
    asking = Asking(count=0)
    with pytest.raises(error):
        send_subrequest(asking.parent, asking.upstream, Heard(), **{"target": b"/", **wrong})
    asking.answers()


# --- awaited ---

EXAMPLE = re.search(r"^```python\n(from [^`]+\bsubrequest\b(?:[^`]|`(?!``))+)```", GUIDE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def plan() -> type[Filter]:
    """The filter of the guide."""
    assert EXAMPLE is not None
    names: dict[str, Any] = {"__name__": "plan"}
    exec(EXAMPLE[1], names)
    found: type[Filter] = names["Plan"]
    return found


def saying(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def test_the_example_of_the_guide_asks_and_lets_pass(plan: type[Filter]) -> None:
    ran = run(
        configured(plan, ask="upstream"), GET, response=saying(200, b"gold\n"), again=OK, consumer=Consumer("ann")
    )
    asked, sent = ran.requests
    assert asked.startswith(b"GET /plans HTTP/1.1\r\n")
    assert b"\r\nX-Consumer: ann\r\n" in asked
    assert b"\r\nX-Plan: gold\r\n" in sent
    assert ran.status == 200


def test_the_example_of_the_guide_refuses(plan: type[Filter]) -> None:
    ran = run(configured(plan, ask="upstream"), GET, response=saying(404, b""))
    assert (ran.status, len(ran.requests)) == (403, 1)
    ran = run(configured(plan, ask="upstream"), GET, response=None)
    assert (ran.status, ran.record.fault) == (502, "connection_lost")
    with pytest.raises(ConfigError, match=r'filters\.plan\.ask: unknown upstream "nobody"'):
        configured(plan, ask="nobody")


@pytest.mark.parametrize("framed", [saying(200, b"x" * 11), b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 11])
def test_no_more_of_a_body_is_taken_than_may_be(framed: bytes) -> None:
    found: list[Any] = []

    class Takes(Filter, name="takes", phase=Phase.AUTHORIZE):
        """Takes a response of ten bytes."""

        def build(self, env: Env) -> Hooks:
            given: list[Services] = []

            async def request(exchange: Exchange) -> None:
                upstream = given[0].upstreams("upstream")
                assert upstream is not None
                found.append(await awaited_subrequest.subrequest(exchange, upstream, target=b"/", most=10))

            return Hooks(request=request, start=given.append)

    assert run(Takes(), GET, response=framed, again=OK).status == 200
    assert found[0] == (Fault.RESPONSE_TOO_LARGE, "the response has more than 10 bytes")
    found.clear()
    assert run(Takes(), GET, response=saying(201, b"x" * 10), again=OK).status == 200
    assert (found[0].status, found[0].body) == (201, b"x" * 10)


def test_in_shadow_it_decides_nothing(plan: type[Filter]) -> None:
    ran = run(configured(plan, ask="upstream"), GET, response=OK, again=saying(404, b""), shadow=True)
    assert (ran.status, ran.shadowed) == (200, "plan: unknown: it is still waiting")
    assert ran.requests[0].startswith(b"GET /a "), "the request itself does not wait for it"


@pytest.mark.parametrize("shadow", [False, True])
def test_who_awaits_one_whose_exchange_ends_is_told(shadow: bool) -> None:
    """Also from a task of its own, which nobody cancels; in shadow, the exchange ends without waiting for it."""
    found: list[Any] = []

    class Begins(Filter, name="begins", phase=Phase.AUTHORIZE):
        """Sends a sub-request, and does not wait for it."""

        def build(self, env: Env) -> Hooks:
            given: list[Services] = []
            tasks: list[asyncio.Task[None]] = []

            async def ask(exchange: Exchange) -> None:
                upstream = given[0].upstreams("upstream")
                assert upstream is not None
                found.append(await awaited_subrequest.subrequest(exchange, upstream, target=b"/"))

            def request(exchange: Exchange) -> Reply:
                tasks.append(asyncio.get_running_loop().create_task(ask(exchange)))
                return Reply(200, b"own")

            async def waits(exchange: Exchange) -> None:
                await ask(exchange)

            return Hooks(request=waits if shadow else request, start=given.append)

    run(Begins(), GET, shadow=shadow)
    assert {each.fault for each in found} == {Fault.CLIENT_LEFT}


# --- what is seen and done of one, to the letter ---


def test_it_may_be_paused_before_it_has_a_connection() -> None:
    asking = Asking()
    sent = asking.sent[0]
    assert isinstance(sent, Subrequest)
    sent.pause()
    wire = asking.connects()
    wire.sends(OK[:-2])
    wire.sends(OK[-2:])
    assert asking.told == [(200, b"1")]
    assert not wire.reading
    sent.resume()
    asking.plane.settle()
    assert asking.told == [(200, b"1"), b"ok", ()]
    asking.answers()


def test_it_is_shown_as_text_and_its_exchange_ends_with_it() -> None:
    asking = Asking()
    sent = asking.sent[0]
    assert repr(sent).startswith("<Subrequest of <Exchange b'GET' b'/ask' CHOOSING route=- service=<Forwarding by ")
    asking.connects().sends(OK)
    assert repr(sent) == "<Subrequest of <Exchange b'GET' b'/ask' ENDED route=- service=None>>"
    assert asking.parent.subrequests.active == set(), "what is over is not held"
    asking.answers()


def test_who_awaits_it_gets_the_header_that_is_not_for_the_connection_alone() -> None:
    got: list[Any] = []

    async def ask(exchange: Exchange) -> None:
        got.append(await awaited_subrequest.subrequest(exchange, plane.gateway.upstreams["u"], target=b"/ask"))

    plane = Plane(probes=[probe("asks", Phase.AUTHORIZE, request=ask)])
    client = plane.client()
    client.sends(GET)
    plane.settle()
    plane.connects().sends(OK.replace(b"X-A", b"Keep-Alive: timeout=5\r\nX-A"))
    plane.settle()
    (response,) = got
    assert (response.status, list(response.fields), response.body) == (200, [(b"X-A", b"1")], b"ok")
    client.resets()
    plane.settle()


def test_of_requests_without_a_bound_the_last_are_told() -> None:
    """Those that a connection causes as long as it lives."""
    sent = Subrequests()
    for number in range(MOST_PER_EXCHANGE):
        sent.end_detached("events", "", f"{200 + number}", 0.25)
    assert str(sent).split(", ")[0] == "events - 200 0.250000"
    sent.end_detached("events", "10.0.0.1:80", "connect_refused", 0.5)
    told = str(sent).split(", ")
    assert (told[0], told[1], told[-1]) == (
        "(1 earlier)",
        "events - 201 0.250000",
        "events 10.0.0.1:80 connect_refused 0.500000",
    )
    assert len(told) == 1 + MOST_PER_EXCHANGE
