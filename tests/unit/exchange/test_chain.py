"""The filter chain: its order, its levels, and which response and finish steps are due for which answer."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from fastgw.capture.observed_tables import observer_link
from fastgw.config.settings.gateway import FilterUse
from fastgw.exchange import Chain, Exchange, FilterInstance, Hooks, Route, run_request
from fastgw.filters.api import Fault, Filter, Phase, Reply, RequestHook, ResponseHook, ResponseLines
from fastgw.observe.metrics.families import FilterEvent
from tests.support.memory import Plane, probe
from tests.support.table import for_each

HOST = b"Host: a.test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
COLLECTORS_HEAD = 16  # bytes that CPython puts before an object that the collector sees
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


@for_each("phase", list(Phase))
@for_each("how", ["answers", "raises", "answers later", "raises later"])
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


@pytest.mark.parametrize("phases", [list(Phase), [phase for phase in Phase if not phase.early]], ids=["all", "late"])
@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ({"forward": "raw"}, b"/a//../b"),
        ({"encoded_slash": "reject"}, b"/a//../b%2F"),
        ({"encoded_slash": "reject"}, b"/b%2F"),
    ],
)
def test_a_path_that_a_route_does_not_pass_on_is_refused_on_the_way_of_that_route(
    path: dict[str, str], sent: bytes, phases: list[Phase]
) -> None:
    """None of its own request steps has run: those see the answer that see every answer, and those before routing."""
    told = Told()
    probes = [told.probe(phase) for phase in phases]
    plane = Plane({"routes": [{"name": "here", "path": path, "upstream": "u"}]}, probes=probes)
    client = plane.client()
    client.sends(b"GET %b HTTP/1.1\r\n" % sent + HOST + b"\r\n")
    assert client.received.startswith(b"HTTP/1.1 400 ")
    seen = [phase.name.lower() for phase in phases if phase.early]
    assert told.of("request") == seen
    assert told.of("response") == told.of("finish") == seen[::-1]
    assert plane.records[-1].route == "here"


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


# Replies of the gateway's own


def marking(name: bytes) -> Any:
    """A reply step that puts its name behind the body."""
    return lambda exchange, reply: Reply(reply.status, reply.body + b"|" + name, reply.fields, reply.fault)


def replies(*probes: type[Filter], request: bytes = GET, settings: Any = None) -> tuple[Plane, bytes]:
    """What a client gets where nobody is asked, or nobody can be reached."""
    once = {"upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:9"}], "retries": {"max": 0}}}}
    plane = Plane({**once, **(settings or {})}, probes=probes)
    client = plane.client()
    client.sends(request)
    if plane.pool.waiting:
        plane.cannot_connect()
    return plane, client.received


def test_a_reply_passes_the_steps_on_the_way_back() -> None:
    steps = [probe(phase.name.lower(), phase, reply=marking(phase.name.encode())) for phase in Phase]
    plane, received = replies(*steps)
    names = b"".join(b"|" + phase.name.encode() for phase in reversed(Phase))
    assert received.endswith(b"}" + names)
    assert b"\r\nContent-Length: %d\r\n" % len(received.partition(b"\r\n\r\n")[2]) in received
    assert (plane.records[0].status, plane.records[0].fault) == (502, "connect_refused")


def test_a_reply_of_an_earlier_filter_is_seen_too() -> None:
    """Also by a filter whose request step has not run: whoever speaks on this route speaks in its way."""
    refuses = probe("refuses", Phase.ADMIT, request=lambda exchange: exchange.refuse(Fault.FORBIDDEN, why="not you"))
    both = probe("early", Phase.OBSERVE, reply=marking(b"early")), probe("late", Phase.CREDENTIALS, reply=marking(b"x"))
    plane, received = replies(refuses, *both)
    assert received.endswith(b"}|early")  # no route is found by then
    assert (plane.records[0].fault, plane.records[0].fault_detail) == ("forbidden", "not you")
    refuses = probe("refuses", Phase.AUTHENTICATE, request=lambda exchange: exchange.refuse(Fault.FORBIDDEN))
    _, received = replies(refuses, *both)
    assert received.endswith(b"}|x|early")


@pytest.mark.parametrize("request_bytes", [b"GET\r\n\r\n", GET.replace(b"a.test", b"b.test"), b"HEAD" + GET[3:]])
def test_what_meets_no_route_is_seen_by_the_early_ones(request_bytes: bytes) -> None:
    steps = probe("early", Phase.ADMIT, reply=marking(b"early")), probe("late", Phase.TRANSFORM, reply=marking(b"late"))
    hosts = {"routes": [{"name": "all", "hosts": ["c.test"], "respond": {}}]}
    _, received = replies(*steps, request=request_bytes, settings=hosts)
    assert received.endswith(b"\r\n\r\n" if request_bytes.startswith(b"HEAD") else b"}|early")


def test_an_answer_of_a_route_is_a_reply() -> None:
    settings = {"routes": [{"name": "all", "respond": {"status": 200, "body": "hello"}}]}
    _, received = replies(probe("p", Phase.TRANSFORM, reply=marking(b"p")), settings=settings)
    assert received.endswith(b"\r\n\r\nhello|p")


def test_the_upstreams_answer_is_no_reply() -> None:
    plane = Plane(probes=[probe("p", Phase.TRANSFORM, reply=marking(b"p"))])
    client = plane.client()
    client.sends(GET)
    plane.connects().sends(OK)
    assert client.received.endswith(b"\r\n\r\nok")


def test_the_fault_stays_unless_the_other_reply_is_for_another() -> None:
    for fault, told in ((None, "connect_refused"), (Fault.OVERLOADED, "overloaded")):
        step = probe("p", Phase.TRANSFORM, reply=lambda exchange, reply, fault=fault: Reply(500, b"x", (), fault))
        plane, received = replies(step)
        assert received.startswith(b"HTTP/1.1 500 ")
        assert (plane.records[0].status, plane.records[0].fault) == (500, told)


@pytest.mark.parametrize("wrong", [lambda exchange, reply: 1 / 0, lambda exchange, reply: None])
def test_a_reply_step_that_raises_is_a_500(wrong: Any) -> None:
    plane, received = replies(
        probe("p", Phase.TRANSFORM, reply=wrong), probe("early", Phase.ADMIT, reply=marking(b"early"))
    )
    assert received.startswith(b"HTTP/1.1 500 ")
    assert b"early" not in received
    assert (plane.records[0].fault, plane.records[0].fault_detail) == ("internal", "filter p: its reply step raised")
    assert plane.observer.filters == [("p", FilterEvent.RAISED)]
    plane.assert_quiet()


def test_the_500_in_place_of_a_response_is_a_reply() -> None:
    def broken(exchange: Exchange) -> None:
        raise ZeroDivisionError

    plane = Plane(probes=[probe("p", Phase.TRANSFORM, response=broken, reply=marking(b"p"))])
    client = plane.client()
    client.sends(GET)
    plane.connects().sends(OK)
    assert client.received.endswith(b"}|p")


# The status of a response


def becoming(status: Any) -> type[Filter]:
    """A filter that sets the status of every response."""

    def response(exchange: Exchange) -> None:
        assert exchange.response is not None
        exchange.response.status = status

    return probe("becoming", Phase.TRANSFORM, response=response)


def answered(status: Any, response: bytes, request: bytes = GET) -> tuple[Plane, bytes]:
    """What a client gets where the upstream answers with `response`, whose status becomes another one."""
    plane = Plane(probes=[becoming(status)])
    client = plane.client()
    client.sends(request)
    plane.connects().sends(response)
    return plane, client.received


@pytest.mark.parametrize(
    "response",
    [
        OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nT: 1\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_a_status_that_a_filter_sets_goes_out_with_the_body(response: bytes) -> None:
    plane, received = answered(502, response)
    assert received.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"ok" in received.partition(b"\r\n\r\n")[2]
    assert (plane.records[0].status, plane.records[0].fault) == (502, "")
    plane.assert_quiet()


@pytest.mark.parametrize(
    ("response", "method", "length"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET", b"0"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"GET", b"0"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", b"GET", b"0"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\n", b"HEAD", b"5"),
        (b"HTTP/1.1 500 No\r\n\r\n", b"HEAD", None),
    ],
)
def test_the_end_of_no_body_is_said_by_the_new_status(response: bytes, method: bytes, length: bytes | None) -> None:
    """A client that reads 502 where 204 was expects a body, and would wait for it."""
    _, received = answered(502, response, method + GET[3:])
    lines = received.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 502 Bad Gateway"
    assert [line for line in lines if line.startswith(b"Content-Length")] == (
        [] if length is None else [b"Content-Length: " + length]
    )
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize(
    ("response", "method"), [(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"GET"), (OK[:-2], b"HEAD")]
)
def test_no_body_may_become_a_status_that_has_none(status: int, response: bytes, method: bytes) -> None:
    _, received = answered(status, response, method + GET[3:])
    assert received.startswith(b"HTTP/1.1 %d N" % status)
    assert b"Content-Length" not in received


@pytest.mark.parametrize("status", [204, 304, 100, 101, 199, 600, 0, -1, "502", None, 502.0])
def test_a_status_that_cannot_go_out_is_a_500(status: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With a 204 or 304 the body would be read as the next response."""
    plane, received = answered(status, OK)
    assert received.startswith(b"HTTP/1.1 500 ")
    assert received.count(b"HTTP/1.1") == 1
    assert (plane.records[0].status, plane.records[0].fault) == (500, "internal")
    assert "a response step has made the status 200 " in caplog.text
    plane.assert_quiet()


def test_a_change_of_protocols_stays_one() -> None:
    request = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    plane, received = answered(200, SWITCHED, request)
    assert received.startswith(b"HTTP/1.1 500 ")
    plane.assert_quiet()


def test_a_reply_may_get_another_status_too() -> None:
    settings = {"routes": [{"name": "all", "respond": {"status": 200, "body": "hello"}}]}
    plane, received = replies(becoming(299), settings=settings)
    assert received.startswith(b"HTTP/1.1 299 \r\n")
    assert received.endswith(b"hello")
    plane, received = replies(becoming(204), settings=settings)
    assert received.endswith(b"\r\n\r\n")
    assert plane.records[0].status == 204


def test_what_a_request_asks_of_its_route_is_one_line_of_memory() -> None:
    """Routes lie one behind the other. Were their size no multiple of a line's, some would begin in the middle."""
    assert (COLLECTORS_HEAD + Route.__basicsize__) % 64 == 0


def test_the_response_steps_that_may_change_headers_by_lines() -> None:
    """Those behind which no later one reads or replaces headers; response steps run in reverse order."""

    def hooks(lines: ResponseLines | None) -> Hooks:
        return Hooks(response=ResponseHook(lambda exchange: None, lines=lines))

    adds, other = ResponseLines((b"X-A",)), ResponseLines((b"X-B",))
    replaces, reads = ResponseLines((b"x_a",), replaces=True), ResponseLines((b"x-c",), reads=True, replaces=True)
    cases = [
        ([adds], 1),
        ([None, adds], 0),
        ([adds, None, other], 1),
        ([adds, other, reads], 3),
        ([adds, reads, other], 2),
        ([adds, replaces], 1),
        ([replaces, adds], 2),
        ([replaces, replaces, other], 3),
    ]
    for lines, count in cases:
        made = [hooks(each) for each in lines]
        chain = Chain(FilterInstance(FilterUse(name="a", type="a", settings=None), each, False, "") for each in made)
        assert set(chain.line_steps) == {each.response.step for each in made[:count] if each.response is not None}


@pytest.mark.parametrize("refuses", [None, Phase.AUTHENTICATE])
def test_a_later_filter_sees_the_request_before_authentication(refuses: Phase | None) -> None:
    """Its finish step runs, too, even if it is not reached."""
    told = Told()
    late = probe(
        "late",
        Phase.LIMIT_CONSUMER,
        request=RequestHook(
            lambda exchange: None, before_authentication=lambda exchange: told.calls.append("request:late")
        ),
        finish=lambda exchange: told.calls.append("finish:late"),
    )
    plane = Plane(probes=[late, *told.probes(refuses, lambda exchange: exchange.refuse(Fault.FORBIDDEN))])
    client = plane.client()
    client.sends(GET)
    if refuses is None:
        plane.connects().sends(OK)
    expected = [*EARLY, "late", *ORDER[len(EARLY) :]]
    assert told.of("request") == (expected if refuses is None else [*EARLY, "late", "authenticate"])
    assert told.of("finish").count("late") == 1


def test_observers_run_before_authentication() -> None:
    """They have no settings with a phase."""

    def observe(exchange: Exchange) -> None: ...

    def before(exchange: Exchange) -> None: ...

    def authenticate(exchange: Exchange) -> None: ...

    def authorize(exchange: Exchange) -> None: ...

    use = FilterUse(name="a", type="a", settings=probe("a", Phase.AUTHENTICATE)())
    links = [
        observer_link("capture", Hooks(request=observe)),
        FilterInstance(use, Hooks(request=authenticate), False, "route"),
        FilterInstance(use, Hooks(request=RequestHook(authorize, before_authentication=before)), False, "route"),
    ]
    assert Chain(links).request_steps == (observe, before, authenticate, authorize)


def test_the_chain_of_an_observed_route_leads_where_the_route_leads() -> None:
    """With an observer before its filters, a call of gRPC is still one: no filter holds it up."""
    chain = Chain(())
    chain.calls_only, chain.variant, chain.sent_settings = True, ("blue", 0), b"x"
    observed = chain.with_links(())
    assert (observed.calls_only, observed.variant, observed.sent_settings) == (True, ("blue", 0), b"x")
