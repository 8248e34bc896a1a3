"""Credentials of sub-requests: those that any request to their upstream carries, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fastgw.errors import Fault
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Phase, Reply
from fastgw.gateway.compiler import CompileError
from fastgw.http.messages import ResponseHead
from fastgw.observe.metrics.families import FilterEvent
from fastgw.upstream.client.subrequest import Subrequest, send_subrequest
from tests.support.attempts import Watch
from tests.support.memory import Plane, Wire, probe
from tests.support.table import for_each
from tests.unit.upstream.client.test_subrequest import GET, OK, Heard

ANN = {"credentials": {"basic": {"username": "ann", "password": "pw-ann"}}}
BOB = {"credentials": {"basic": {"username": "bob", "password": "pw-bob"}}}
LINE_OF_ANN = b"\r\nAuthorization: Basic YW5uOnB3LWFubg==\r\n"
LINE_OF_BOB = b"\r\nAuthorization: Basic Ym9iOnB3LWJvYg==\r\n"
REFUSED = b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno"


class Asking:
    """A gateway in which the route to `u` asks `v` by a probe, with filters at these levels."""

    def __init__(
        self,
        *,
        upstream: Mapping[str, Any] = MappingProxyType({}),
        gateway: Mapping[str, Any] = MappingProxyType({}),
        listener: Mapping[str, Any] = MappingProxyType({}),
        route: Mapping[str, Any] = MappingProxyType({}),
        probes: tuple[type[Filter], ...] = (),
        request: bytes = GET,
        body: Any = b"",
        **asked: Any,
    ) -> None:
        """`body`: as it is asked with, or what makes it of the exchange."""
        self.heard = Heard()

        def ask(exchange: Exchange) -> None:
            asked["body"] = body(exchange) if callable(body) else body
            self.sent = send_subrequest(exchange, self.upstream, self.heard, **{"target": b"/ask", **asked})

        target = {"targets": [{"url": "http://127.0.0.2:9"}]}
        self.document = {
            "listeners": {"public": {"address": "127.0.0.1:0", "filters": dict(listener)}},
            "upstreams": {
                "u": {"targets": [{"url": "http://127.0.0.1:9"}], "retries": {"max": 0}},
                "v": {**target, "retries": {"max": 0}, "filters": dict(upstream)},
            },
            "filters": dict(gateway),
            "routes": [{"name": "all", "upstream": "u", "filters": dict(route)}],
        }
        self.plane = Plane(self.document, probes=(probe("asks", Phase.AUTHORIZE, request=ask), *probes))
        self.watch = Watch()
        self.upstream.attempt_listeners = (self.watch,)
        self.client = self.plane.client()
        self.client.sends(request)

    @property
    def upstream(self) -> Any:
        return self.plane.gateway.upstreams["v"]

    def asked(self) -> Wire:
        wire = self.plane.connects()
        assert wire.received.startswith(b"GET /ask")
        return wire

    def is_over(self) -> None:
        self.plane.connects().sends(OK)
        assert self.client.received.endswith(b"\r\n\r\nok")
        self.watch.assert_even()
        self.plane.assert_quiet()
        assert self.plane.worker_loop.turns.timers == []


@pytest.mark.parametrize(
    ("levels", "line"),
    [
        ({"upstream": ANN}, LINE_OF_ANN),
        ({"gateway": BOB}, LINE_OF_BOB),
        ({"listener": BOB}, LINE_OF_BOB),
        ({"gateway": BOB, "listener": BOB, "upstream": ANN}, LINE_OF_ANN),
        ({"gateway": BOB, "upstream": {"credentials": None}}, b""),
        ({"route": BOB}, b""),  # which are for the upstream of the route
        ({"upstream": {"credentials": {**ANN["credentials"], "shadow": True}}}, b""),
    ],
)
def test_it_carries_what_its_upstream_is_shown_by_any_request(levels: Any, line: bytes) -> None:
    asking = Asking(**levels)
    wire = asking.asked()
    assert line in wire.received
    assert wire.received.count(b"Authorization") == bool(line)
    wire.sends(OK)
    assert asking.heard.told == [(200, b"1"), b"ok", ()]
    asking.is_over()


def test_what_who_asks_has_put_there_does_not_reach_the_upstream() -> None:
    asking = Asking(upstream=ANN, fields=[(b"Authorization", b"Bearer of-the-client"), (b"X-B", b"2")])
    wire = asking.asked()
    assert LINE_OF_ANN in wire.received
    assert b"of-the-client" not in wire.received
    assert b"X-B: 2" in wire.received
    wire.sends(OK)
    asking.is_over()


def test_parameters_of_the_query_are_brought_as_well() -> None:
    asking = Asking(upstream={"request_parameters": {"query": {"key": "k1"}}}, target=b"/ask?a=b")
    wire = asking.plane.connects()
    assert wire.received.startswith(b"GET /ask?a=b&key=k1 HTTP/1.1\r\n")
    wire.sends(OK)
    asking.is_over()


def test_a_401_has_it_sent_once_more() -> None:
    asking = Asking(upstream=ANN)
    wire = asking.asked()
    wire.sends(REFUSED)
    assert asking.heard.told == [], "it is held back"
    asking.plane.settle()
    assert wire.received.count(b"GET /ask") == 2
    wire.sends(OK)
    assert asking.heard.told == [(200, b"1"), b"ok", ()]
    asking.is_over()


def _wires(asking: Asking) -> list[Wire]:
    return [connection.transport for connection in asking.plane.pool.open]


WAITED: list[Any] = []
RENEWED: list[Any] = []


class Brings(Filter, name="brings", phase=Phase.CREDENTIALS):
    """Brings a header for its upstream, once a test says so."""

    for_its_upstream = True

    def build(self, env: Env) -> Hooks:
        async def wait(exchange: Exchange) -> Reply | None:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            WAITED.append(future)
            said = await future
            if isinstance(said, bytes):
                exchange.keep_from_others()
                exchange.request_added += b"X-Key: %b\r\n" % said
                return None
            if isinstance(said, Exception):
                raise said
            assert said is None or isinstance(said, Reply)
            return said

        def request(exchange: Exchange) -> Awaitable[Reply | None] | None:
            return wait(exchange) if isinstance(exchange.client, Subrequest) else None

        async def renews(exchange: Exchange) -> bool:
            future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            RENEWED.append(future)
            exchange.request_added = exchange.request_added.replace(b"k1", b"k2")
            return await future

        def renew(exchange: Exchange, head: ResponseHead) -> Awaitable[bool] | None:
            return renews(exchange) if isinstance(exchange.client, Subrequest) else None

        return Hooks(request=request, renew=renew)


@pytest.fixture
def waiting() -> Asking:
    WAITED.clear()
    RENEWED.clear()
    asking = Asking(probes=(Brings,), timeout=2.0)
    asking.plane.settle()
    return asking


def decide(asking: Asking, said: Any, futures: list[Any] | None = None) -> None:
    (WAITED if futures is None else futures)[0].set_result(said)
    asking.plane.settle()


def test_a_filter_of_its_upstream_may_have_to_wait(waiting: Asking) -> None:
    assert len(waiting.plane.pool.waiting) == 1, "the parent goes on meanwhile"
    decide(waiting, b"k1")
    waiting.plane.pool.waiting.reverse()
    wire = waiting.asked()
    assert b"\r\nX-Key: k1\r\n" in wire.received
    wire.sends(OK)
    assert waiting.heard.told == [(200, b"1"), b"ok", ()]
    waiting.is_over()


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (Reply(503), Fault.INTERNAL),
        (RuntimeError("of a filter"), Fault.INTERNAL),
        ("refused", Fault.TOKEN_TIMEOUT),
    ],
)
def test_what_such_a_filter_answers_is_the_failure(waiting: Asking, said: Any, fault: Fault) -> None:
    if said == "refused":
        assert isinstance(waiting.sent, Subrequest)
        said = waiting.sent.exchange.refuse(Fault.TOKEN_TIMEOUT, why="nobody there")
    decide(waiting, said)
    assert [each.fault for each in waiting.heard.told] == [fault]
    waiting.is_over()


def test_such_a_filter_has_the_time_of_the_sub_request(waiting: Asking) -> None:
    waiting.plane.passes(2.2)
    assert waiting.heard.told == [(Fault.FILTER_TIMEOUT, "filter brings timed out")]
    assert ("brings", FilterEvent.LATE) in waiting.plane.observer.filters
    waiting.plane.settle()
    assert WAITED[0].cancelled()
    waiting.is_over()


@pytest.mark.parametrize("end", ["cancelled", "parent"])
def test_nobody_waits_for_such_a_filter_of_what_is_cancelled(waiting: Asking, end: str) -> None:
    if end == "cancelled":
        assert isinstance(waiting.sent, Subrequest)
        waiting.sent.cancel()
        waiting.plane.settle()
    else:
        waiting.plane.connects().sends(OK)
    waiting.plane.settle()
    assert WAITED[0].cancelled()
    assert waiting.heard.told == []
    if end == "cancelled":
        waiting.is_over()
    waiting.plane.assert_quiet()


def test_such_a_filter_renews_what_it_has_brought(waiting: Asking) -> None:
    decide(waiting, b"k1")
    waiting.plane.pool.waiting.reverse()
    wire = waiting.asked()
    wire.sends(REFUSED)
    assert waiting.heard.told == []
    decide(waiting, True, RENEWED)
    assert wire.received.count(b"GET /ask") == 2
    assert wire.received.count(b"X-Key: k2") == 1
    wire.sends(OK)
    assert waiting.heard.told == [(200, b"1"), b"ok", ()]
    waiting.is_over()


@pytest.mark.parametrize("end", ["refuses", "late", "cancelled"])
def test_a_renewal_that_comes_to_nothing(waiting: Asking, end: str) -> None:
    decide(waiting, b"k1")
    waiting.plane.pool.waiting.reverse()
    waiting.asked().sends(REFUSED)
    if end == "refuses":
        decide(waiting, False, RENEWED)
    elif end == "late":
        waiting.plane.passes(2.2)
    else:
        assert isinstance(waiting.sent, Subrequest)
        waiting.sent.cancel()
        waiting.plane.settle()
    expected = {"refuses": [(401, None), b"no", ()], "cancelled": []}
    if end == "late":
        assert waiting.heard.told[0] == (401, None) or waiting.heard.told[0].fault is Fault.UPSTREAM_TIMEOUT
    else:
        assert waiting.heard.told == expected[end]
    waiting.is_over()


def test_what_cannot_be_built_is_told_where_it_stands(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("two\nlines\tof it")
    shown = {"credentials": {"basic": {"username": "ann", "password": {"file": str(password)}}}}
    with pytest.raises(CompileError, match=r"^upstream v: filter credentials: the username or the password has"):
        Asking(upstream=shown)


def test_after_a_reload_it_is_what_the_new_configuration_says() -> None:
    asking = Asking(upstream=ANN)
    before = asking.plane.gateway.tables["public"].upstream_chains.chain_of("v")
    wire = asking.asked()
    wire.sends(OK)
    asking.is_over()
    asking.plane.adopts(asking.document)
    assert asking.plane.gateway.tables["public"].upstream_chains.chain_of("v").links == before.links
    asking.document["upstreams"]["v"]["filters"] = BOB  # type: ignore[index]
    asking.plane.adopts(asking.document)
    asking.client.sends(GET)
    while asking.plane.pool.waiting:
        asking.plane.connects()
    open_wires = _wires(asking)
    assert sum(LINE_OF_BOB in each.received for each in open_wires) == 1


SEEN: list[Any] = []


class Sees(Filter, name="sees", phase=Phase.TRANSFORM):
    """Keeps what the filters of an upstream are told of a sub-request."""

    for_its_upstream = True

    def build(self, env: Env) -> Hooks:
        def request(exchange: Exchange) -> Reply | None:
            SEEN.append(exchange.body_length)
            return Reply(404) if exchange.path == b"/no" else None

        def finish(exchange: Exchange) -> None:
            if isinstance(exchange.client, Subrequest):
                SEEN.append("finished")

        return Hooks(request=request, finish=finish)


async def pieces(exchange: Exchange) -> AsyncIterator[bytes]:
    yield b"abc"


def own(exchange: Exchange) -> Any:
    return exchange.request_body


@for_each(
    ("asked", "length"),
    [
        ({}, 0),
        ({"body": b"abc"}, 3),
        ({"body": pieces, "body_length": 3}, 3),
        ({"body": pieces}, None),
    ],
)
@for_each("end", ["answered", "failed", "cancelled"])
def test_filters_of_its_upstream_see_its_length_and_that_it_is_over(asked: Any, length: int | None, end: str) -> None:
    SEEN.clear()
    asking = Asking(probes=(Sees,), method=b"POST", **asked)
    assert length in SEEN
    asking.plane.settle()
    wire = asking.plane.connects()
    assert wire.received.startswith(b"POST /ask")
    assert "finished" not in SEEN
    if end == "answered":
        wire.sends(OK)
    elif end == "failed":
        wire.resets()
    else:
        assert isinstance(asking.sent, Subrequest)
        asking.sent.cancel()
        asking.plane.settle()
    assert SEEN.count("finished") == 1
    asking.is_over()


def test_the_log_names_the_upstream_though_a_filter_answers_in_its_place() -> None:
    asking = Asking(probes=(Sees,), target=b"/no")
    assert [each.fault for each in asking.heard.told] == [Fault.INTERNAL]
    asking.is_over()
    (record,) = asking.plane.records
    assert record.subrequests.rsplit(" ", 1)[0] == "v - internal"


def test_a_filter_that_has_let_it_pass_is_not_blamed_for_what_comes_later(waiting: Asking) -> None:
    decide(waiting, b"k1")
    waiting.plane.pool.waiting.reverse()
    waiting.asked()
    waiting.plane.passes(2.2)
    assert waiting.heard.told == [(Fault.UPSTREAM_TIMEOUT, "the sub-request was not done within 2 s")]
    assert waiting.plane.observer.filters == []
    waiting.is_over()


def test_a_task_that_somebody_cancels_before_it_has_begun_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """As a filter may, of all tasks that it finds."""
    asking = Asking(probes=(Waits, probe("cancels", Phase.AUTHORIZE, 1, request=cancel_all)), timeout=2.0)
    asking.plane.settle()
    assert [each.fault for each in asking.heard.told] == [Fault.INTERNAL]
    assert "the operation that a filter awaited failed" in caplog.text
    asking.is_over()


class Waits(Filter, name="waits", phase=Phase.CREDENTIALS):
    """Waits for ever with sub-requests."""

    for_its_upstream = True

    def build(self, env: Env) -> Hooks:
        def request(exchange: Exchange) -> Awaitable[Reply | None] | None:
            if not isinstance(exchange.client, Subrequest):
                return None
            future: asyncio.Future[Reply | None] = exchange.client._loop.create_future()
            return future

        return Hooks(request=request)


def cancel_all(exchange: Exchange) -> None:
    for task in asyncio.all_tasks(exchange.client.loop):  # type: ignore[attr-defined]
        task.cancel()


class Reads(Filter, name="reads", phase=Phase.TRANSFORM):
    """Reads the bodies that its upstream is sent."""

    for_its_upstream = True

    def build(self, env: Env) -> Hooks:
        return Hooks(request_body=lambda exchange, payload: None)


def test_the_clients_body_does_not_pass_filters_twice() -> None:
    asking = Asking(request=b"POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\n", probes=(Reads,), body=own)
    assert asking.sent == (
        Fault.INTERNAL,
        "filters of upstream v read bodies, which the request's own does not pass twice",
    )
    asking.client.sends(b"abc")
    wire = asking.plane.connects()
    assert wire.received.endswith(b"\r\n\r\nabc"), "the upstream of the route has it all"
    wire.sends(OK)
    asking.plane.assert_quiet()
