"""A 401 or 403 of the upstream, after which a filter renews what the gateway has shown (`Hooks.renew`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from fastgw.filters.api import Exchange, Phase
from fastgw.observe.metrics.families import FilterEvent
from tests.support.attempts import GET, OK, Service, asking, saying
from tests.support.memory import Plane, Wire, probe

REFUSED = saying(401, b"no", b"WWW-Authenticate: Bearer")


class Shown:
    """A filter that shows a token, and renews it when the test says so."""

    def __init__(self) -> None:
        self.token = b"one"
        self.asked: list[int] = []
        self.waiting: asyncio.Future[bool] | None = None
        self.outcome: Any = self
        """What its step returns; itself: what waits for the test."""

    def request(self, exchange: Exchange) -> None:
        exchange.request_added += b"X-Token: %b\r\n" % self.token

    def renew(self, exchange: Exchange, head: Any) -> Awaitable[bool] | None:
        self.asked.append(head.status)
        if self.outcome is not self:
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return self.outcome  # type: ignore[no-any-return]
        return self._renewed(exchange)

    async def _renewed(self, exchange: Exchange) -> bool:
        self.waiting = self.service.plane.worker_loop.turns.create_future()
        renewed = await self.waiting
        if renewed is True:
            self.token = b"two"
            exchange.request_added = b"X-Token: two\r\n"
        return renewed

    def serving(self, settings: Any = None, targets: int = 1, route: Any = None) -> Service:
        shows = probe("shows", Phase.CREDENTIALS, request=self.request, renew=self.renew)
        self.service = Service(settings, targets, route, [shows])
        return self.service

    def decides(self, renewed: Any) -> None:
        assert self.waiting is not None
        if isinstance(renewed, BaseException):
            self.waiting.set_exception(renewed)
        else:
            self.waiting.set_result(renewed)
        self.service.plane.settle()


@pytest.fixture
def shown() -> Shown:
    return Shown()


def refused(shown: Shown, request: bytes = GET, answer: bytes = REFUSED, **settings: Any) -> tuple[Service, Wire]:
    """A request that was answered with a 401, which is held back."""
    service = shown.serving(**settings)
    service.asks(request)
    wire = service.connects()
    wire.sends(answer)
    assert shown.asked == [401]
    assert shown.waiting is not None
    assert service.client.received == b""
    return service, wire


def test_it_is_sent_once_more_with_what_is_shown_now(shown: Shown) -> None:
    service, wire = refused(shown)
    shown.decides(True)
    assert wire.received.count(b"GET /a") == 2
    assert wire.received.endswith(b"X-Token: two\r\nVia: 1.1 fastgw\r\n\r\n")
    wire.sends(OK)
    assert service.client.received.startswith(b"HTTP/1.1 200 OK\r\n")
    service.assert_over(200, retries=1)


@pytest.mark.parametrize("status", [401, 403, 503])
def test_the_second_answer_goes_to_the_client_whatever_it_is(shown: Shown, status: int) -> None:
    service, wire = refused(shown, settings={"retries": {"max": 3, "conditions": ["503"]}})
    shown.decides(True)
    wire.sends(saying(status, b"still not"))
    assert service.client.received.endswith(b"\r\n\r\nstill not")
    assert (shown.asked, service.received(b"GET")) == ([401], 2)
    service.assert_over(status, retries=1)


@pytest.mark.parametrize("renewed", [False, ValueError("away"), None, b"secret"])
def test_what_was_not_renewed_leaves_the_first_answer(
    shown: Shown, renewed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service, _ = refused(shown)
    shown.decides(renewed)
    assert service.client.received.startswith(b"HTTP/1.1 401 Said\r\nWWW-Authenticate: Bearer\r\n")
    assert service.client.received.endswith(b"\r\n\r\nno")
    service.assert_over(401)
    raised = [("shows", FilterEvent.RAISED)] if renewed is not False else []
    assert service.plane.observer.filters == raised
    assert "secret" not in caplog.text


def test_the_time_of_filters_is_up(shown: Shown) -> None:
    service, _ = refused(shown)
    service.passes(29.0)
    assert service.client.received == b""
    service.passes(1.2)
    assert service.client.received.startswith(b"HTTP/1.1 401 ")
    assert service.plane.records[0].fault_detail == "filter shows timed out while renewing credentials"
    assert service.plane.observer.filters == [("shows", FilterEvent.LATE)]
    service.assert_over(401)


def test_a_route_with_more_time_gives_it_to_its_filters(shown: Shown) -> None:
    service, _ = refused(shown, route={"timeout": "60s"})
    service.passes(50.0)
    assert service.client.received == b""
    shown.decides(True)
    assert service.received(b"GET") == 2


def test_the_time_of_the_route_is_up(shown: Shown) -> None:
    service, _ = refused(shown, route={"timeout": "2s"})
    service.passes(2.2)
    assert service.client.received.startswith(b"HTTP/1.1 401 ")
    service.assert_over(401)


def test_the_client_leaves_meanwhile(shown: Shown) -> None:
    service, _ = refused(shown)
    service.client.ends()
    assert shown.waiting is not None
    assert shown.waiting.cancelled()
    assert service.received(b"GET") == 1
    service.assert_over(499)


@pytest.mark.parametrize("outcome", [None, ValueError("away"), 7])
def test_a_step_that_has_nothing_to_wait_for_leaves_the_answer(shown: Shown, outcome: Any) -> None:
    shown.outcome = outcome
    service = shown.serving()
    service.asks()
    service.connects().sends(REFUSED)
    service.assert_over(401)


@pytest.mark.parametrize("status", [200, 400, 402, 404, 407, 500])
def test_other_statuses_are_passed_on(shown: Shown, status: int) -> None:
    service = shown.serving()
    service.asks()
    service.connects().sends(saying(status, b"x"))
    assert shown.asked == []
    service.assert_over(status)


def test_a_body_is_sent_once_more_whatever_the_method(shown: Shown) -> None:
    service, first = refused(shown, asking(b"POST", b"abc"))
    shown.decides(True)
    second = service.connects()
    assert first.received.endswith(b"\r\n\r\nabc")
    assert second.received.endswith(b"\r\n\r\nabc")
    second.sends(OK)
    service.assert_over(200, retries=1)


def test_more_of_a_body_than_is_kept_leaves_the_answer(shown: Shown) -> None:
    service = shown.serving({"retries": {"body_bytes": 2}})
    service.asks(asking(b"POST", b"abc"))
    service.connects().sends(REFUSED)
    assert (shown.asked, shown.waiting) == ([401], None)
    service.assert_over(401)


# Answers that have not come as a whole

CHUNKED = b"HTTP/1.1 401 Said\r\nTransfer-Encoding: chunked\r\n\r\n"
BEGUN = b"HTTP/1.1 401 Said\r\nContent-Length: 4\r\n\r\nno"


@pytest.mark.parametrize("renewed", [True, False])
@pytest.mark.parametrize(
    ("begun", "rest", "body"),
    [
        (BEGUN, [b"pe"], b"nope"),
        (CHUNKED, [b"2\r\nno\r\n2\r\npe\r\n", b"0\r\n\r\n"], b"nope"),
        (CHUNKED + b"4\r\nnope\r\n", [b"0\r\nX-T: 1\r\n\r\n"], b"nope"),
        (CHUNKED, [b"4\r\nnope\r\n0\r\nX-T: 1\r\n\r\n"], b"nope"),
        (CHUNKED + b"4\r\nnope\r\n0\r\nX-T: 1\r\n\r\n", [], b"nope"),
    ],
)
def test_the_rest_comes_meanwhile(shown: Shown, begun: bytes, rest: list[bytes], body: bytes, renewed: bool) -> None:
    service, wire = refused(shown, answer=begun)
    for piece in rest:
        wire.sends(piece)
    assert service.client.received == b""
    shown.decides(renewed)
    if renewed:
        assert service.waiting == []  # the connection may serve again
        wire.sends(OK)
        service.assert_over(200, retries=1)
    else:
        head, _, got = service.client.received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 Said\r\n")
        trailers = b"X-T: 1" in b"".join([begun, *rest])
        chunks = b"4\r\nnope\r\n0\r\nX-T: 1\r\n\r\n"
        assert got == (chunks if trailers else body)
        service.assert_over(401)


def test_the_rest_comes_later(shown: Shown) -> None:
    service, wire = refused(shown, answer=BEGUN)
    shown.decides(False)
    assert service.client.received.endswith(b"\r\n\r\nno")
    wire.sends(b"pe")
    assert service.client.received.endswith(b"\r\n\r\nnope")
    service.assert_over(401)


def test_what_is_not_wanted_any_more_is_not_waited_for(shown: Shown) -> None:
    service, wire = refused(shown, answer=BEGUN)
    shown.decides(True)
    assert wire.aborted
    service.connects().sends(OK)
    service.assert_over(200, retries=1)


def test_not_more_is_held_than_may_be(shown: Shown) -> None:
    """An upstream that goes on and on is not read until it is decided who gets that."""
    body = b"x" * 300_000
    service, wire = refused(shown, answer=b"HTTP/1.1 401 Said\r\nContent-Length: 300000\r\n\r\n")
    for at in range(0, len(body), 50_000):
        wire.sends(body[at : at + 50_000])
    assert not wire.reading
    assert sum(map(len, wire._unread)) >= 100_000  # type: ignore[arg-type]
    service.passes(25.0)  # nobody is late who may not send
    shown.decides(False)
    service.plane.settle()
    assert service.client.received.endswith(b"\r\n\r\n" + body)
    service.assert_over(401)


@pytest.mark.parametrize("renewed", [True, False])
@pytest.mark.parametrize("end", ["ends", "resets"])
def test_the_answer_breaks_off_meanwhile(shown: Shown, end: str, renewed: bool) -> None:
    """Nothing of it has gone out, so that the client can be told."""
    service, wire = refused(shown, answer=BEGUN)
    getattr(wire, end)()
    shown.decides(renewed)
    if renewed:
        service.connects().sends(OK)
        service.assert_over(200, retries=1)
    else:
        assert service.client.received.startswith(b"HTTP/1.1 502 ")
        assert service.plane.records[0].fault == "upstream_incomplete"
        service.assert_over(502)


def test_a_slow_answer_has_the_time_of_any(shown: Shown) -> None:
    service, _ = refused(shown, answer=BEGUN, settings={"timeouts": {"idle": "2s"}})
    service.passes(2.2)
    shown.decides(False)
    assert service.plane.records[0].fault == "upstream_stalled"
    service.assert_over(504)


def test_the_client_leaves_while_an_answer_comes(shown: Shown) -> None:
    service, wire = refused(shown, answer=BEGUN)
    service.client.ends()
    assert wire.aborted
    service.assert_over(499)


def test_the_client_leaves_before_anybody_has_begun_to_wait(shown: Shown) -> None:
    """In the same turn of the loop as the refusal comes."""
    service = shown.serving()
    service.asks()
    wire = service.connects()
    wire._unread.append(REFUSED)
    wire._deliver()
    assert (shown.asked, shown.waiting) == ([401], None)
    service.client.ends()
    assert shown.waiting is not None
    assert shown.waiting.cancelled()
    service.assert_over(499)


def test_a_broken_answer_is_not_the_last_one_either(shown: Shown) -> None:
    service, wire = refused(shown, answer=BEGUN, settings={"load_balancing": {"panic_threshold": "0%"}})
    wire.resets()
    service.upstream.shunned = frozenset(service.upstream.targets)
    service.upstream.settle()
    shown.decides(True)
    assert service.plane.records[0].fault == "no_healthy_target"
    service.assert_over(503)


# Where the second attempt comes to nothing


def test_it_is_told_as_any_failure(shown: Shown) -> None:
    service, wire = refused(shown, answer=BEGUN, settings={"retries": {"max": 0}})
    shown.decides(True)
    assert wire.aborted
    service.plane.cannot_connect()
    assert service.plane.records[0].fault == "connect_refused"
    service.assert_over(502, retries=1)


def test_where_nobody_can_be_asked_the_first_answer_is_the_last(shown: Shown) -> None:
    for answer in (REFUSED, BEGUN):
        shown.asked, shown.waiting = [], None
        service, wire = refused(shown, answer=answer, settings={"load_balancing": {"panic_threshold": "0%"}})
        service.upstream.shunned = frozenset(service.upstream.targets)
        service.upstream.settle()
        shown.decides(True)
        assert service.client.received.startswith(b"HTTP/1.1 401 ")
        if answer is BEGUN:
            wire.sends(b"pe")
        service.assert_over(401)


def test_a_lost_connection_is_followed_by_another_attempt(shown: Shown) -> None:
    """A repeatable request on a connection that was in use: the rule of `retries`, whatever was renewed."""
    service, wire = refused(shown)
    shown.decides(True)
    wire.ends()
    second = service.connects()
    assert b"X-Token: two" in second.received
    second.sends(OK)
    service.assert_over(200, retries=2)


def test_what_cannot_be_repeated_goes_on_a_fresh_connection(shown: Shown) -> None:
    """A server may close a connection on which it has refused somebody."""
    service, first = refused(shown, asking(b"POST", b"abc"))
    shown.decides(True)
    assert service.waiting == ["127.0.0.1:9"]
    first.ends()
    service.connects().sends(OK)
    service.assert_over(200, retries=1)


def test_another_target_may_take_it(shown: Shown) -> None:
    service, _ = refused(shown, targets=2)
    shown.decides(True)
    assert service.waiting == ["127.0.0.2:9"]
    service.connects().sends(OK)
    service.assert_over(200, retries=1)


def test_it_counts_neither_as_a_retry_that_is_allowed_nor_against_the_budget(shown: Shown) -> None:
    service, wire = refused(shown, settings={"retries": {"max": 0, "budget": "0%"}})
    shown.decides(True)
    wire.sends(OK)
    assert service.denied == 0
    service.assert_over(200, retries=1)


def test_a_refusal_after_other_attempts_is_renewed_too(shown: Shown) -> None:
    service = shown.serving(
        {"retries": {"max": 1, "conditions": ["503"], "backoff": {"base": "0s", "max": "0s"}}}, targets=1
    )
    service.asks()
    wire = service.connects()
    wire.sends(saying(503))
    service.passes(0.1)
    wire.sends(REFUSED)
    shown.decides(True)
    wire.sends(OK)
    service.assert_over(200, retries=2)


# The request's body


PER_TRY = {"per_try_timeout": "1s", "conditions": ["per_try_timeout"]}
UPLOAD = b"POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 6\r\n\r\n"


def test_what_has_come_is_sent_again_and_the_rest_behind_it(shown: Shown) -> None:
    service, first = refused(shown, UPLOAD + b"abc")
    service.client.sends(b"de")
    assert first.received.endswith(b"\r\n\r\nabc")  # it has refused: it gets no more
    shown.decides(True)
    second = service.connects()
    service.client.sends(b"f")
    assert second.received.endswith(b"\r\n\r\nabcdef")
    second.sends(OK)
    service.assert_over(200, retries=1)


def test_an_upload_goes_on_to_who_has_refused_where_nothing_was_renewed(shown: Shown) -> None:
    service, wire = refused(shown, UPLOAD + b"abc", BEGUN)
    service.client.sends(b"de")
    shown.decides(False)
    assert wire.received.endswith(b"\r\n\r\nabcde")
    service.client.sends(b"f")
    assert wire.received.endswith(b"\r\n\r\nabcdef")
    wire.sends(b"pe")
    assert service.client.received.endswith(b"\r\n\r\nnope")
    service.assert_over(401)


def test_a_chunked_upload_that_ends_meanwhile_is_ended_for_who_has_refused(shown: Shown) -> None:
    upload = b"POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    service, wire = refused(shown, upload, BEGUN, settings={"retries": PER_TRY})
    service.client.sends(b"1\r\nd\r\n0\r\n\r\n")
    service.passes(2.0)
    assert service.client.received == b""
    shown.decides(False)
    service.plane.settle()
    assert wire.received.endswith(b"\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")
    wire.sends(b"pe")
    service.assert_over(401)


def test_a_chunked_upload_that_was_whole_is_not_ended_twice(shown: Shown) -> None:
    """A second last chunk would be read as the beginning of the next request."""
    upload = b"POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    service, wire = refused(shown, upload, BEGUN)
    shown.decides(False)
    wire.sends(b"pe")
    assert wire.received.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    service.assert_over(401)


@pytest.mark.parametrize("answer", [REFUSED, BEGUN + b"pe"])
def test_an_early_refusal_of_an_upload_ends_the_connection_as_ever(shown: Shown, answer: bytes) -> None:
    service, _ = refused(shown, UPLOAD + b"abc", answer)
    shown.decides(False)
    assert b"\r\nConnection: close\r\n" in service.client.received
    service.client.sends(b"def")
    service.client.ends()
    service.assert_over(401)


def test_a_large_body_is_sent_again_as_long_as_what_has_come_is_kept(shown: Shown) -> None:
    """A server that refuses before it reads: the rest is streamed behind what was kept."""
    service = shown.serving({"retries": {"body_bytes": 100}})
    service.asks(b"PUT /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\n" + b"x" * 60)
    service.connects().sends(REFUSED)
    shown.decides(True)
    second = service.connects()
    service.client.sends(b"x" * 940)
    assert second.received.endswith(b"\r\n\r\n" + b"x" * 1000)
    second.sends(REFUSED)
    assert shown.asked == [401]
    service.assert_over(401, retries=1)


def test_a_body_of_which_too_much_has_gone_is_not_kept(shown: Shown) -> None:
    service = shown.serving({"retries": {"body_bytes": 100}})
    service.asks(b"PUT /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\n" + b"x" * 60)
    wire = service.connects()
    service.client.sends(b"x" * 60)
    wire.sends(REFUSED)
    assert (shown.asked, shown.waiting) == ([401], None)
    service.client.ends()
    service.assert_over(401)


def test_who_waits_for_a_100_sends_the_body_to_who_takes_it(shown: Shown) -> None:
    service, first = refused(shown, UPLOAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert first.received.endswith(b"\r\n\r\n")
    shown.decides(True)
    second = service.connects()
    assert b"Expect: 100-continue\r\n" in second.received
    assert service.client.received == b""
    second.sends(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert service.client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    service.client.sends(b"abcdef")
    assert second.received.endswith(b"\r\n\r\nabcdef")
    second.sends(OK)
    service.assert_over(200, retries=1)


def test_the_client_stalls_with_its_body(shown: Shown) -> None:
    """It is not read meanwhile, so its time stands still; afterwards it counts again."""
    service, _ = refused(shown, UPLOAD + b"abc")
    service.passes(25.0)
    assert service.client.received == b""
    shown.decides(True)
    service.connects()
    service.passes(31.0)
    assert service.plane.records[0].fault == "request_timeout"
    service.assert_over(408, retries=1)


# Ways to ask


def test_on_an_idle_connection(shown: Shown) -> None:
    """A connection is at hand, and nothing but the answer's status makes it more than a passage."""
    service = shown.serving()
    service.asks()
    wire = service.connects()
    wire.sends(OK)
    for answers, status in ((REFUSED, 401), (BEGUN, 401)):
        service.asks()
        wire = service.wires[-1]
        wire.sends(answers)
        assert shown.asked[-1:] == [status]
        shown.decides(True)
        wire = wire if answers is REFUSED else service.connects()
        wire.sends(OK)
    service.asks()
    wire.sends(OK)
    assert [(each.status, each.retries) for each in service.plane.records] == [(200, 0), (200, 1), (200, 1), (200, 0)]
    assert len(shown.asked) == 2
    service.plane.assert_quiet()


def test_a_change_of_protocols_may_be_refused_first(shown: Shown) -> None:
    request = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    service, wire = refused(shown, request)
    service.client.sends(b"early")
    shown.decides(True)
    assert wire.received.count(b"Upgrade: websocket\r\n") == 2
    wire.sends(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert service.client.received.startswith(b"HTTP/1.1 101 ")
    assert wire.received.endswith(b"early")
    wire.ends()
    service.client.ends()
    service.assert_over(101, retries=1)


def test_a_head_is_renewed_as_a_get(shown: Shown) -> None:
    service, wire = refused(shown, b"HEAD" + GET[3:], b"HTTP/1.1 401 Said\r\nContent-Length: 7\r\n\r\n")
    shown.decides(True)
    wire.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    assert service.client.received.endswith(b"\r\n\r\n")
    service.assert_over(200, retries=1)


def test_a_hedge_that_is_refused_first_ends_the_others(shown: Shown) -> None:
    service = shown.serving({"hedge": {"after": "50ms"}}, targets=2)
    service.asks()
    first = service.connects()
    service.passes(0.1)
    second = service.connects()
    second.sends(REFUSED)
    assert first.aborted
    shown.decides(True)
    for wire in service.wires[1:]:
        if wire.received.count(b"GET /a") == 2:
            wire.sends(OK)
            break
    else:
        service.connects().sends(OK)
    service.assert_over(200, retries=2)


def test_a_drain_cuts_it_off(shown: Shown) -> None:
    service, _ = refused(shown)
    (connection,) = service.plane.server.connections
    assert connection.cut()
    service.plane.settle()
    assert shown.waiting is not None
    assert shown.waiting.cancelled()
    service.assert_over(503)


def test_a_body_that_is_refused_meanwhile_ends_it(shown: Shown) -> None:
    service = shown.serving(route={"filters": {"size": {"body": "4B"}}})
    service.asks(b"POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    service.connects().sends(REFUSED)
    assert shown.waiting is not None
    shown.decides(True)
    second = service.connects()
    service.client.sends(b"3\r\nabc\r\n")
    assert second.aborted
    service.assert_over(413, retries=1)


# Several filters


def test_the_first_that_has_something_to_wait_for_counts(shown: Shown) -> None:
    asked: list[str] = []

    def passing(exchange: Exchange, head: Any) -> None:
        asked.append("last")

    def never(exchange: Exchange, head: Any) -> None:
        raise AssertionError("another one was asked before")

    service = shown.service = Service(
        None,
        1,
        None,
        [
            probe("first", Phase.TRANSFORM, renew=never),
            probe("shows", Phase.CREDENTIALS, request=shown.request, renew=shown.renew),
            probe("last", Phase.CREDENTIALS, 1, renew=passing),
        ],
    )
    service.asks()
    wire = service.connects()
    wire.sends(REFUSED)
    assert asked == ["last"]
    shown.decides(True)
    wire.sends(OK)
    service.assert_over(200, retries=1)


def test_a_filter_without_a_request_step_is_asked_too(shown: Shown) -> None:
    """Its requests go straight from their head to the upstream."""
    service = shown.service = Service(None, 1, None, [probe("shows", Phase.CREDENTIALS, renew=shown.renew)])
    service.asks()
    wire = service.connects()
    wire.sends(OK)
    service.asks()
    wire.sends(REFUSED)
    shown.decides(True)
    assert wire.received.endswith(b"X-Token: two\r\nVia: 1.1 fastgw\r\n\r\n")
    wire.sends(OK)
    assert [(each.status, each.retries) for each in service.plane.records] == [(200, 0), (200, 1)]
    service.plane.assert_quiet()


def falling_back(shown: Shown, alone: bool) -> tuple[Plane, Wire]:
    """A request on a route where another upstream takes the place of one that fails. `alone`: what the filter shows is
    for the first one alone."""
    shows = probe("shows", Phase.CREDENTIALS, request=shown.request, renew=shown.renew)
    shows.for_its_upstream = alone
    plane = Plane(
        {
            "upstreams": {
                "u": {"targets": [{"url": "http://127.0.0.1:9"}], "retries": {"max": 0}},
                "other": {"targets": [{"url": "http://127.0.0.2:9"}]},
            },
            "routes": [{"name": "all", "upstream": "u", "fallback": {"upstream": "other"}, "filters": {"shows": {}}}],
        },
        probes=[shows],
    )
    shown.service = Service()
    shown.service.plane = plane
    client = plane.client()
    client.sends(GET)
    return plane, client


def test_another_upstream_is_shown_nothing_that_is_renewed(shown: Shown) -> None:
    """Who takes the place of the upstream is not whom the credentials are for."""
    plane, client = falling_back(shown, alone=True)
    plane.cannot_connect()
    other = plane.connects()
    other.sends(REFUSED)
    assert shown.asked == []
    assert (plane.records[0].status, plane.records[0].upstream) == (401, "other")
    assert client.received.endswith(b"no")
    plane.assert_quiet()


def test_another_upstream_that_takes_its_place_is_not_asked_twice(shown: Shown) -> None:
    """Once per exchange, whoever answers."""
    plane, _ = falling_back(shown, alone=False)
    wire = plane.connects()
    wire.sends(REFUSED)
    shown.decides(True)
    wire.ends()
    other = plane.connects()
    assert b"X-Token: two" in other.received
    other.sends(REFUSED)
    assert shown.asked == [401]
    (record,) = plane.records
    assert (record.status, record.upstream, record.retries) == (401, "other", 1)
    plane.assert_quiet()


def test_what_comes_of_the_body_meanwhile_goes_on_behind_what_was_sent(shown: Shown) -> None:
    """As HTTP/2 brings it: what is in the client's window comes though nobody takes it."""
    service, wire = refused(shown, UPLOAD + b"abc", BEGUN)
    body = service.client.protocol.exchange.request_body
    body.bytes += 2
    body.feed(b"de")
    assert wire.received.endswith(b"\r\n\r\nabc")
    shown.decides(False)
    assert wire.received.endswith(b"\r\n\r\nabcde")
    assert service.client.received.startswith(b"HTTP/1.1 401 ")
