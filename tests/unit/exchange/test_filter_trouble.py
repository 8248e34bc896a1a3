"""Filters that raise, return nonsense or never decide: the request is not let through, is counted, and all goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw.config.settings.gateway import Config
from fastgw.exchange import exchange
from fastgw.filters.api import Phase, Reply
from fastgw.gateway.tables import CompileError
from fastgw.observe.metrics.families import FilterEvent
from tests.support.memory import Plane, Wire, probe
from tests.support.table import for_each

HOST = b"Host: a.test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RAISED = [("broken", FilterEvent.RAISED)]


def raising(error: BaseException) -> Callable[..., Any]:
    def step(*_: object) -> Any:
        raise error

    return step


def raising_later(error: BaseException) -> Callable[..., Any]:
    async def later() -> Reply:
        await asyncio.sleep(0)
        raise error

    return lambda *_: later()


class Own(BaseException):
    pass


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def live(step: Callable[..., Any], phase: Phase = Phase.TRANSFORM) -> tuple[Plane, Wire]:
    """A request that meets this request step, some turns later."""

    async def run() -> tuple[Plane, Wire]:
        plane = Plane(probes=[probe("broken", phase, request=step)])
        client = plane.client()
        client.sends(GET)
        await turns()
        plane.settle()
        assert plane.pool.waiting == []
        return plane, client

    return asyncio.run(run())


@for_each("phase", [Phase.ADMIT, Phase.TRANSFORM])
@for_each(
    "step",
    [
        pytest.param(raising(ZeroDivisionError()), id="raises"),
        pytest.param(raising(SystemExit(1)), id="exits"),
        pytest.param(raising(asyncio.CancelledError()), id="asks a cancelled future"),
        pytest.param(raising_later(ZeroDivisionError()), id="raises later"),
        pytest.param(raising_later(SystemExit(1)), id="exits later"),
        pytest.param(raising_later(asyncio.CancelledError()), id="waits for what is cancelled"),
        pytest.param(raising_later(Own()), id="raises its own later"),
        pytest.param(raising_later(GeneratorExit()), id="raises GeneratorExit later"),
        pytest.param(raising_later(KeyboardInterrupt()), id="raises KeyboardInterrupt later"),
        pytest.param(lambda exchange: True, id="returns True"),
        pytest.param(lambda exchange: "no", id="returns a text"),
        pytest.param(lambda exchange: asyncio.sleep(0, True), id="returns True later"),
    ],
)
def test_a_request_step_that_fails_lets_nothing_through(step: Callable[..., Any], phase: Phase) -> None:
    plane, client = live(step, phase)
    assert client.received.startswith(b"HTTP/1.1 500 ")
    assert client.received.endswith(b'"detail":"The gateway had an internal error."}')
    (record,) = plane.records
    assert (record.fault, record.fault_detail) == ("internal", "filter broken: its request step raised")
    assert plane.observer.filters == RAISED
    plane.assert_quiet()


@pytest.mark.parametrize("step", [lambda exchange: "no", lambda exchange: asyncio.sleep(0, "no")])
def test_what_a_step_has_returned_is_told(step: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    live(step, Phase.ADMIT)
    (record,) = (each for each in caplog.records if each.exc_info)
    assert "a step of a filter returned 'no'; expected a Reply or None" in str(record.exc_info)


NONSENSE: dict[str, Callable[[], Any]] = {
    "no status": lambda: Reply(99),
    "an interim status": lambda: Reply(101),
    "a status too high": lambda: Reply(600),
    "a status in a text": lambda: Reply("200"),  # type: ignore[arg-type]
    "a text as body": lambda: Reply(200, "x"),  # type: ignore[arg-type]
    "a name with a line in it": lambda: Reply(200, b"x", [(b"A\r\nB: c", b"d")]),
    "a value with a line in it": lambda: Reply(200, b"x", [(b"A", b"d\r\n\r\nx")]),
    "an empty name": lambda: Reply(200, b"x", [(b"", b"d")]),
    "a text as name": lambda: Reply(200, b"x", [("A", b"d")]),  # type: ignore[list-item]
    "a text as value": lambda: Reply(200, b"x", [(b"A", "d")]),  # type: ignore[list-item]
    "a field that is no pair": lambda: Reply(200, b"x", [b"A: d"]),  # type: ignore[list-item]
}


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_reply_that_could_not_be_sent_is_a_defect_of_its_filter(
    nonsense: str, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    make = NONSENSE[nonsense]

    async def later() -> Reply:
        return make()  # type: ignore[no-any-return]

    plane, client = live(lambda exchange: later() if waits else make())
    assert client.received.startswith(b"HTTP/1.1 500 ")
    assert plane.records[0].fault_detail == "filter broken: its request step raised"
    assert (plane.observer.filters, "filter broken: its request step raised" in caplog.text) == (RAISED, True)
    plane.assert_quiet()


def test_a_reply_of_a_body_step_that_could_not_be_sent() -> None:
    plane = Plane(probes=[probe("broken", Phase.TRANSFORM, request_body=lambda exchange, payload: Reply(99))])
    client = plane.client()
    client.sends(POST)
    assert client.received.startswith(b"HTTP/1.1 500 ")
    assert (plane.pool.waiting, plane.observer.filters) == ([], RAISED)


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(1), asyncio.CancelledError()])
@pytest.mark.parametrize("hook", ["response", "request_body", "finish"])
def test_other_steps_that_raise(hook: str, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """500 while that can be answered; the filter's name in the log; counted; the next request is served."""
    plane = Plane(probes=[probe("broken", Phase.TRANSFORM, **{hook: raising(error)})])
    client = plane.client()
    client.sends(POST)
    if hook != "request_body":
        plane.connects().sends(OK)
    assert client.received.startswith(b"HTTP/1.1 500 " if hook != "finish" else b"HTTP/1.1 200 ")
    assert plane.observer.filters == RAISED
    assert f"filter broken: its {hook.removeprefix('request_')} step raised" in caplog.text
    plane.assert_quiet()


def test_a_body_step_that_returns_nonsense_lets_nothing_through() -> None:
    plane = Plane(probes=[probe("broken", Phase.TRANSFORM, request_body=lambda exchange, payload: True)])
    client = plane.client()
    client.sends(POST)
    assert client.received.startswith(b"HTTP/1.1 500 ")
    assert (plane.pool.waiting, plane.observer.filters) == ([], RAISED)


@pytest.mark.parametrize("phase", [Phase.ADMIT, Phase.TRANSFORM])
def test_a_step_that_never_decides_is_late(phase: Phase) -> None:
    """Bounded by the route's timeout; before a route is known by `timeouts.filters`. What it waits for is cancelled."""
    settings = {
        "timeouts": {"filters": "20ms" if phase is Phase.ADMIT else "1h"},
        "routes": [{"name": "all", "upstream": "u", "timeout": "20ms"}],
    }

    async def run() -> None:
        never = asyncio.get_running_loop().create_future()
        left = asyncio.Event()

        async def wait() -> None:
            try:
                await never
            finally:
                left.set()

        plane = Plane(settings, probes=[probe("slow", phase, request=lambda exchange: wait())])
        client = plane.client()
        client.sends(GET)
        await left.wait()
        plane.settle()
        assert client.received.startswith(b"HTTP/1.1 504 ")
        (record,) = plane.records
        assert (record.fault, record.fault_detail) == ("filter_timeout", "filter slow timed out")
        assert plane.observer.filters == [("slow", FilterEvent.LATE)]
        plane.assert_quiet()

    asyncio.run(run())


def test_what_a_filter_waits_for_is_cancelled_when_the_client_leaves() -> None:
    async def run() -> None:
        left = asyncio.Event()

        async def wait() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                left.set()

        plane = Plane(probes=[probe("slow", Phase.TRANSFORM, request=lambda exchange: wait())])
        client = plane.client()
        client.sends(GET)
        await turns()
        client.ends()
        plane.settle()
        await left.wait()
        assert [(record.status, record.fault) for record in plane.records] == [(499, "client_left")]
        assert plane.observer.filters == []
        plane.assert_quiet()

    asyncio.run(run())


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_what_is_raised_by_what_nobody_waits_for_any_more_is_nothing(error: type[BaseException]) -> None:
    async def run() -> None:
        left = asyncio.Event()

        async def wait() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                left.set()
                raise error

        plane = Plane(probes=[probe("slow", Phase.TRANSFORM, request=lambda exchange: wait())])
        client = plane.client()
        client.sends(GET)
        await turns()
        client.ends()
        plane.settle()
        await left.wait()
        await turns()
        assert [record.fault for record in plane.records] == ["client_left"]
        plane.assert_quiet()

    asyncio.run(run())


def test_a_filter_that_decides_in_time_is_not_late() -> None:
    async def run() -> None:
        plane = Plane(
            {"routes": [{"name": "all", "upstream": "u", "timeout": "1h"}]},
            probes=[probe("slow", Phase.TRANSFORM, request=lambda exchange: asyncio.sleep(0))],
        )
        client = plane.client()
        client.sends(GET)
        await turns()
        plane.connects().sends(OK)
        assert client.received.startswith(b"HTTP/1.1 200 ")
        timers = [each for each in asyncio.get_running_loop()._scheduled if not each.cancelled()]  # type: ignore[attr-defined]
        assert timers == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (raising(ZeroDivisionError("no")), "gateway: filter broken: a bug: ZeroDivisionError: no"),
        (raising(ValueError("no sense")), "gateway: filter broken: no sense"),
        (lambda self, env: None, "gateway: filter broken: a bug: its build returned None; expected Hooks"),
    ],
)
def test_a_build_that_fails_is_one_line(build: Callable[..., Any], told: str) -> None:
    broken = probe("broken", Phase.TRANSFORM)
    type.__setattr__(broken, "build", build)
    with pytest.raises(CompileError) as caught:
        Plane(probes=[broken])
    assert str(caught.value) == told


def test_a_start_that_raises_names_the_filter_and_a_stop_that_raises_keeps_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plane = Plane(
        {"filters": {}},
        probes=[probe("broken", Phase.TRANSFORM, start=raising(OSError("gone")), stop=raising(OSError("gone")))],
    )
    (link,) = plane.gateway.live
    plane.gateway.upstreams.clear()
    services: Any = SimpleNamespace(worker_loop=None)
    with pytest.raises(CompileError, match=r"gateway: filter broken cannot start: OSError: gone"):
        plane.gateway.start(services, services)
    link.started = True
    plane.gateway.stop()
    assert "filter broken: its stop raised" in caplog.text
    assert not link.started


@pytest.mark.parametrize("shadow", [False, True])
def test_a_filter_that_raises_for_each_request_does_not_fill_the_log(
    shadow: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of once a second, and counted each time; another step of it is told of as well."""
    now = [1000.0]
    monkeypatch.setattr(exchange, "monotonic", lambda: now[0])
    kind = InShadow if shadow else Plane
    plane = kind(probes=[probe("broken", Phase.TRANSFORM, request=raising(ZeroDivisionError()))])
    upstream: Wire | None = None
    told = []
    for at in (1000.0, 1000.5, 1000.9, 1001.0, 1001.1):
        now[0] = at
        plane.client().sends(GET)
        if shadow:
            upstream = upstream or plane.connects()
            upstream.sends(OK)
        told.append(caplog.text.count("its request step raised"))
    assert told == [1, 1, 1, 2, 2]
    assert len(plane.observer.filters) == 5


class InShadow(Plane):
    """Its probes are in shadow."""

    def _load(self, settings: Mapping[str, Any]) -> Config:
        made = super()._load(settings)
        return replace(made, filters={name: replace(use, shadow=True) for name, use in made.filters.items()})
