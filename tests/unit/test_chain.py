"""The filter chain: its order, its levels, and which response and finish steps are due for which answer."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from fastgw.exchange import Exchange, run_request
from fastgw.filters.api import Fault, Filter, Phase, Reply
from tests.support.memory import Plane, probe

HOST = b"Host: a.test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ORDER = [phase.name.lower() for phase in Phase]
EARLY = [phase.name.lower() for phase in Phase if phase.early]
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Told:
    """What the probes of one plane saw: `request:admit`, and so on."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def of(self, kind: str) -> list[str]:
        return [call.partition(":")[2] for call in self.calls if call.startswith(f"{kind}:")]

    def probe(self, phase: Phase, act: Any = None, name: str = "", order: int = 0) -> type[Filter]:
        """Tells of all its hooks; `act` is its request step's outcome."""
        name = name or phase.name.lower()

        def request(exchange: Exchange) -> Any:
            self.calls.append(f"request:{name}")
            return act(exchange) if act is not None else None

        return probe(
            name,
            phase,
            order,
            request=request,
            response=lambda exchange: self.calls.append(f"response:{name}"),
            finish=lambda exchange: self.calls.append(f"finish:{name}"),
        )

    def probes(self, acting: Phase | None = None, act: Any = None) -> list[type[Filter]]:
        """One of each phase, handed over in no order."""
        phases = sorted(Phase, key=lambda phase: phase.name)
        return [self.probe(phase, act if phase is acting else None) for phase in phases]


def test_requests_pass_in_order_of_phases_and_responses_back() -> None:
    told = Told()
    plane = Plane(probes=told.probes())
    client = plane.client()
    client.sends(GET)
    assert told.of("request") == ORDER
    plane.connects().sends(OK)
    assert told.of("response") == told.of("finish") == ORDER[::-1]
    assert client.received.endswith(b"ok")


def test_within_a_phase_the_order_decides() -> None:
    told = Told()
    first, second = told.probe(Phase.ADMIT, name="z", order=1), told.probe(Phase.ADMIT, name="a", order=2)
    plane = Plane(probes=[second, first])
    plane.client().sends(GET)
    assert told.of("request") == ["z", "a"]


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("how", ["answers", "raises", "answers later", "raises later"])
def test_an_answer_is_seen_by_those_before_it_and_those_that_see_every_answer(phase: Phase, how: str) -> None:
    """Design section 2: OBSERVE and ADMIT always, else every filter whose request step ran; each once, in reverse."""
    told = Told()

    async def later(exchange: Exchange) -> Reply:
        await asyncio.sleep(0)
        return now(exchange)

    def now(exchange: Exchange) -> Reply:
        if how.startswith("raises"):
            raise ZeroDivisionError
        return exchange.refuse(Fault.ROUTE_NOT_FOUND)

    async def live() -> bytes:
        plane = Plane(probes=told.probes(phase, later if how.endswith("later") else now))
        client = plane.client()
        client.sends(GET)
        for _ in range(4):
            await asyncio.sleep(0)
        plane.assert_quiet()
        return client.received

    received = asyncio.run(live())
    assert received.startswith(b"HTTP/1.1 500 " if how.startswith("raises") else b"HTTP/1.1 404 ")
    ran = ORDER[:phase]
    due = [name for name in ORDER if name in ran or Phase[name.upper()].always]
    if phase.early:
        due = [name for name in due if name in EARLY]
    assert told.of("request") == ran
    assert told.of("response") == told.of("finish") == due[::-1]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n", 404),
        (b"DELETE /here HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ],
)
def test_early_filters_see_what_meets_no_route(request_bytes: bytes, status: int) -> None:
    told = Told()
    plane = Plane(
        {"routes": [{"name": "here", "paths": ["/here"], "methods": ["GET"], "upstream": "u"}]}, probes=told.probes()
    )
    client = plane.client()
    client.sends(request_bytes)
    assert client.received.startswith(b"HTTP/1.1 %d " % status)
    assert told.of("request") == EARLY
    assert told.of("response") == told.of("finish") == EARLY[::-1]


@pytest.mark.parametrize(
    "request_bytes",
    [b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n"],
)
def test_what_is_refused_before_any_filter_is_seen_by_those_that_see_every_answer(request_bytes: bytes) -> None:
    told = Told()
    plane = Plane(probes=told.probes())
    client = plane.client()
    client.sends(request_bytes)
    assert client.received.startswith(b"HTTP/1.1 400 ")
    assert told.of("request") == []
    assert told.of("response") == told.of("finish") == ["admit", "observe"]


def test_a_fault_while_a_step_waits_is_not_seen_by_the_filters_behind_it() -> None:
    """A body that turns out malformed: what stands behind the waiting filter has not run."""
    told = Told()

    async def live() -> bytes:
        never: Awaitable[None] = asyncio.get_running_loop().create_future()
        plane = Plane(probes=told.probes(Phase.AUTHENTICATE, lambda exchange: never))
        client = plane.client()
        client.sends(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        client.sends(b"nonsense\r\n")
        await asyncio.sleep(0)
        return client.received

    assert asyncio.run(live()).startswith(b"HTTP/1.1 400 ")
    assert told.of("response") == told.of("finish") == [*EARLY, "authenticate"][::-1]


def test_a_step_that_waited_and_passed_is_like_any_other() -> None:
    told = Told()

    async def live() -> bytes:
        async def later(exchange: Exchange) -> None:
            await asyncio.sleep(0)

        plane = Plane(probes=told.probes(Phase.AUTHENTICATE, later))
        client = plane.client()
        client.sends(GET)
        for _ in range(3):
            await asyncio.sleep(0)
        plane.connects().sends(OK)
        return client.received

    assert asyncio.run(live()).endswith(b"ok")
    assert told.of("request") == ORDER
    assert told.of("response") == told.of("finish") == ORDER[::-1]


def test_faults_of_the_upstream_are_seen_by_all() -> None:
    told = Told()
    plane = Plane(probes=told.probes())
    client = plane.client()
    client.sends(GET)
    plane.cannot_connect()
    plane.passes(1.0)  # until it is tried again
    plane.cannot_connect()
    assert client.received.startswith(b"HTTP/1.1 502 ")
    assert told.of("response") == told.of("finish") == ORDER[::-1]


def test_a_change_of_protocols_is_an_answer_too() -> None:
    """A 101 has its request id and whatever else filters add, as any answer has."""
    told = Told()
    edit = {"headers": {"response": {"set": {"X-Set": "1"}, "remove": ["X-Gone"]}}}
    plane = Plane({"filters": {"request_id": {}, **edit}}, probes=told.probes())
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    upstream = plane.connects()
    upstream.sends(SWITCHED[:-2] + b"X-Gone: 1\r\n\r\nearly")
    head, _, rest = client.received.partition(b"\r\n\r\n")
    assert rest == b"early"
    assert b"\r\nX-Request-Id: " in head
    assert b"\r\nX-Set: 1" in head
    assert b"X-Gone" not in head
    assert told.of("response") == ORDER[::-1]
    assert told.of("finish") == []
    upstream.ends()
    client.ends()
    assert told.of("finish") == ORDER[::-1]
    plane.assert_quiet()


@pytest.mark.parametrize(
    "response",
    [OK, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n", SWITCHED],
)
def test_a_response_step_that_raises_lets_nothing_out(response: bytes) -> None:
    """What a filter could not check is answered 500, whole, and the upstream's work is stopped."""

    def broken(exchange: Exchange) -> None:
        raise ZeroDivisionError

    plane = Plane(probes=[probe("broken", Phase.TRANSFORM, response=broken)])
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    upstream = plane.connects()
    upstream.sends(response)
    assert client.received.startswith(b"HTTP/1.1 500 ")
    assert client.received.count(b"HTTP/1.1") == 1
    assert plane.records[0].fault == "internal"
    plane.assert_quiet()


def test_a_finish_step_that_raises_does_not_keep_the_others_from_theirs() -> None:
    told = Told()

    def broken(exchange: Exchange) -> None:
        raise ZeroDivisionError

    plane = Plane(probes=[told.probe(Phase.OBSERVE), probe("broken", Phase.TRANSFORM, finish=broken)])
    client = plane.client()
    client.sends(GET)
    plane.connects().sends(OK)
    assert told.of("finish") == ["observe"]
    plane.assert_quiet()


def test_a_body_step_that_refuses_ends_the_upload_and_the_upstreams_work() -> None:
    """`refuse_late`: before the answer has begun the reply is it; afterwards the answer is cut short."""
    refusing = False

    def body(exchange: Exchange, payload: bytes) -> Reply | None:
        return exchange.refuse(Fault.BODY_TOO_LARGE) if refusing else None

    for answered in (False, True):
        refusing = False
        plane = Plane(probes=[probe("guards", Phase.VALIDATE, request_body=body)])
        client = plane.client()
        client.sends(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc")
        upstream = plane.connects()
        if answered:
            upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        refusing = True
        client.sends(b"def")
        assert upstream.lost
        assert client.received.startswith(b"HTTP/1.1 200 " if answered else b"HTTP/1.1 413 ")
        assert client.ended
        assert plane.records[0].fault == "body_too_large"
        plane.assert_quiet()


# --- levels ---

LEVELS: dict[str, Any] = {
    "listeners": {
        "main": {"address": "127.0.0.1:0", "filters": {"of_listener": {"type": "transform"}}},
    },
    "upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:9"}], "filters": {"of_upstream": {"type": "transform"}}}},
    "filter_sets": {"s": {"of_set": {"type": "transform"}, "replaced": {"type": "validate"}}},
    "filters": {
        "replaced": {"type": "transform"},
        "removed": {"type": "transform"},
        "kept": {"type": "transform", "enforced": True},
    },
    "routes": [
        {"name": "all", "upstream": "u", "use": ["s"], "filters": {"of_route": {"type": "transform"}, "removed": None}}
    ],
}


def test_levels_add_up_replace_and_remove() -> None:
    """Gateway, listener, upstream, sets and route add up by instance name; the nearest counts, null removes."""
    plane = Plane(LEVELS, probes=Told().probes())
    exchange_of = plane.client().protocol
    route = next(iter(_routes(plane)))
    placed = [(link.use.name, link.use.type) for link in route.chain.links]
    names = [name for name, _ in placed]
    assert set(names) == {*ORDER, "of_listener", "of_upstream", "of_set", "of_route", "replaced", "kept"}
    assert dict(placed)["replaced"] == "validate"
    assert names.index("replaced") < names.index("of_route")
    assert [name for name, _ in placed if name in EARLY] == names[: len(EARLY)]
    assert exchange_of.listener.early.links == route.chain.links[: len(EARLY)]


def _routes(plane: Plane) -> list[Any]:
    seen: list[Any] = []
    client = plane.client()
    client.sends(GET)
    seen.append(client.protocol.exchange.route)
    client.resets()
    return seen


def test_run_request_makes_no_coroutine_where_none_waits() -> None:
    class Passing:
        answered_by: Any = "untouched"

    calls = []
    exchange: Any = Passing()
    assert run_request([calls.append, calls.append], exchange) is None
    assert calls == [exchange, exchange]
    assert exchange.answered_by is None
