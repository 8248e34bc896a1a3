"""All that may happen to a request, whatever filters are there: nobody outside sees which of them have run.

Each play is acted on a route without filters, and on the same one with filters that let requests pass, that see
answers, ends, or both. After each step all are in the same state: bytes on all wires, deadlines, records, counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import pytest

from fastgw.errors import Fault
from fastgw.filters.api import Consumer, Exchange, Filter, Phase, Reply
from fastgw.observe.access_log.record import Record
from tests.support.memory import Plane, Wire, probe
from tests.support.table import for_each

PASSING = probe("passing", Phase.TRANSFORM, request=lambda exchange: None)
EARLY = probe("early", Phase.ADMIT, request=lambda exchange: None)
MEETING = probe("meeting", Phase.TRANSFORM, response=lambda exchange: None)
MEETING_ALL = probe("meeting_all", Phase.ADMIT, response=lambda exchange: None)
ENDING = probe("ending", Phase.TRANSFORM, finish=lambda exchange: None)
SILENT: list[tuple[type[Filter], ...]] = [
    (), (PASSING,), (EARLY,), (EARLY, PASSING), (MEETING,), (MEETING_ALL,), (ENDING,), (PASSING, MEETING, ENDING),
    (MEETING, ENDING),
]  # fmt: skip

HOST = b"Host: a.test\r\n"
LOGGED = b"User-Agent: u\r\nReferer: r\r\nX-Request-Id: i\r\n"


def asking(line: bytes = b"GET /a?b=c", *fields: bytes) -> bytes:
    return line + b" HTTP/1.1\r\n" + HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def saying(status: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


GET = asking(b"GET /a?b=c", b"User-Agent: u", b"Referer: r", b"X-Request-Id: i")
HEAD = asking(b"HEAD /a")
DELETE = asking(b"DELETE /a")
BODY = b"a\r\n\r\nbc" * 100
SIZED = b"Content-Length: %d" % len(BODY)
PUT = asking(b"PUT /a?b=c", b"User-Agent: u", SIZED) + BODY
POST = asking(b"POST /a?b=c", SIZED) + BODY
OK = saying(b"200 OK", b"Content-Length: 2", body=b"ok")
CHUNKED = saying(b"200 OK", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")
HINTS = saying(b"103 Early Hints", b"Link: </a>")
SETTINGS: dict[str, Any] = {
    "upstreams": {
        "u": {
            "targets": [{"url": "http://127.0.0.1:9"}],
            "timeouts": {"response_headers": "10s", "idle": "20s"},
        }
    },
    "timeouts": {"response_idle": "5s"},
}


class Play:
    """A client that has been answered once, over a connection that is idle now, and what follows."""

    plane_type: type[Plane] = Plane

    def __init__(
        self,
        settings: Mapping[str, Any],
        probes: Sequence[type[Filter]] = (),
        ip: str = "127.0.0.1",
        warm: bool = True,
    ) -> None:
        self.plane = self.plane_type({**SETTINGS, **settings}, probes=probes)
        self.plane.server.date_line = lambda: b"Date: now\r\n"
        self.client = self.plane.client(ip)
        self.upstreams: list[Wire] = []
        if warm:
            self.client.sends(asking(b"GET /first"))
            connects(self)
            self.upstream.sends(OK)

    @property
    def upstream(self) -> Wire:
        return self.upstreams[-1]

    def state(self, known: int = 0) -> dict[str, Any]:
        """All that plays must have in common; of records, those that came after so many."""
        plane, connection = self.plane, self.client.protocol
        upstream = plane.gateway.upstreams["u"]
        return {
            "client": wire_state(self.client),
            "upstreams": [wire_state(each) for each in self.upstreams],
            "phases": [connection.phase, *(each.protocol.phase for each in self.upstreams)],
            "reused": [(each.protocol.uses, each.protocol.reusable) for each in self.upstreams],
            "ahead": connection._ahead,
            "answered": connection.requests,
            "counts": (upstream.active, upstream.retry_budget.in_use, plane.limit.taken, plane.server.drained),
            "pool": (len(plane.pool.open), len(plane.pool.waiting), [len(each.idle) for each in upstream.targets]),
            "records": [told(record) for record in plane.records[known:]],
        }


def wire_state(wire: Wire) -> tuple[Any, ...]:
    deadline = wire.protocol.deadline
    return wire.received, wire.ended, wire.aborted, wire.lost, wire.reading, deadline, wire.resets_on_close


def told(record: Record) -> dict[str, Any]:
    """What is told of an exchange; of times only whether they were taken."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    assert fields.pop("ended_date") > 0
    assert 0 <= fields.pop("duration_s") < inf
    return fields | {"upstream_s": record.upstream_s >= 0}


Step = Callable[[Play], object]


def connects(play: Play) -> None:
    play.upstreams.append(play.plane.connects())


def cannot_connect(play: Play) -> None:
    play.plane.cannot_connect()


def sends(chunk: bytes) -> Step:
    return lambda play: play.client.sends(chunk)


def answers(chunk: bytes) -> Step:
    return lambda play: play.upstream.sends(chunk)


def hangs_up(play: Play) -> None:
    play.upstream.ends()


def breaks(play: Play) -> None:
    play.upstream.resets()


def leaves(play: Play) -> None:
    play.client.ends()


def resets(play: Play) -> None:
    play.client.resets()


def client_takes(room: float = inf) -> Step:
    return lambda play: play.client.takes(room)


def target_takes(room: float = inf) -> Step:
    return lambda play: play.upstream.takes(room)


def passes(seconds: float) -> Step:
    return lambda play: play.plane.passes(seconds)


def drains(play: Play) -> None:
    play.plane.server.begin_drain()
    play.plane.settle()


def is_cut(play: Play) -> None:
    assert play.client.protocol.cut()
    play.plane.settle()


def alike(
    steps: Sequence[Step], settings: Mapping[str, Any] | None = None, ip: str = "127.0.0.1", warm: bool = True
) -> Play:
    """Act a play with all filters; the one without any."""
    bare, *others = [Play(settings or {}, probes, ip, warm) for probes in SILENT]
    for number, step in enumerate(steps):
        known = len(bare.plane.records)
        for play in (bare, *others):
            step(play)
        expected = bare.state(known)
        for other in others:
            assert other.state(known) == expected, f"step {number}"
    expected = bare.state()
    assert all(other.state() == expected for other in others)  # no record has changed since
    return bare


def status_of(play: Play) -> int:
    return play.plane.records[-1].status


@for_each(
    ("message", "end"),
    [
        *((message, b"") for message in (GET, HEAD, DELETE, asking(b"PUT /"), asking(b"POST /"), asking(b"SEARCH /"))),
        *((message, SIZED + b"\r\n") for message in (PUT, POST, asking(b"GET /", SIZED) + BODY)),
        (asking(b"GET /", b"Connection: close"), b""),
        (asking(b"POST /", b"connection:CLOSE ", SIZED) + BODY, SIZED + b"\r\n"),
        (asking(b"PATCH /", b"content-length:003 ") + b"abc", b"Content-Length: 3\r\n"),
        (asking(b"POST /", b"Content-Length: 00"), b"Content-Length: 0\r\n"),
    ],
)
def test_what_is_all_there_is_sent_in_one_message(message: bytes, end: bytes) -> None:
    """Framed anew; and what came of its body is told of."""
    play = alike([sends(message)])
    assert "service=<Forwarding by <Attempt at <Target" in repr(play.client.protocol)
    body = message.partition(b"\r\n\r\n")[2]
    assert play.upstream.received.endswith(b"\r\n" + end + b"Via: 1.1 fastgw\r\n\r\n" + body)
    assert play.upstream.received.lower().count(b"content-length") == bool(end)
    play.upstream.sends(saying(b"204 No Content"))
    assert play.plane.records[-1].request_bytes == len(body)


def plays(asked: bytes) -> dict[str, tuple[list[Step], int]]:
    """All that may happen to this request, which may be sent again."""
    return {
        "whole": ([sends(asked), answers(OK)], 200),
        "whole, for a target that wants to close": (
            [sends(asked), answers(saying(b"200 OK", b"Content-Length: 2", b"Connection: close", body=b"ok"))],
            200,
        ),
        "whole, in HTTP/1.0": ([sends(asked), answers(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")], 200),
        "whole, of a server error": ([sends(asked), answers(saying(b"503 No", b"Content-Length: 1", body=b"n"))], 503),
        "whole, with a date and unusual fields": (
            [
                sends(asked),
                answers(
                    saying(
                        b"200 OK",
                        b"Date: then",
                        b"Content-Length: 2",
                        b"Connection: X-A",
                        b"X-A: b",
                        b"V: w",
                        body=b"ok",
                    )
                ),
            ],
            200,
        ),
        "in the middle of the head": ([sends(asked), answers(OK[:20]), answers(OK[20:])], 200),
        "in the middle of the body": ([sends(asked), answers(OK[:-1]), answers(OK[-1:])], 200),
        "byte by byte": ([sends(asked), *(answers(OK[at : at + 1]) for at in range(len(OK)))], 200),
        "chunked": ([sends(asked), answers(CHUNKED)], 200),
        "chunked, in pieces": (
            [sends(asked), answers(CHUNKED[:-12]), answers(CHUNKED[-12:-5]), answers(CHUNKED[-5:])],
            200,
        ),
        "chunked, with trailers": ([sends(asked), answers(CHUNKED[:-2] + b"A: b\r\n\r\n")], 200),
        "until the connection ends": ([sends(asked), answers(saying(b"200 OK", body=b"until")), hangs_up], 200),
        "to HEAD": ([sends(HEAD), answers(saying(b"200 OK", b"Content-Length: 7"))], 200),
        "to HEAD, chunked": ([sends(HEAD), answers(saying(b"200 OK", b"Transfer-Encoding: chunked"))], 200),
        "to HEAD, with a body": ([sends(HEAD), answers(OK)], 200),
        "204": ([sends(DELETE), answers(saying(b"204 No Content"))], 204),
        "304": ([sends(asked), answers(saying(b"304 Not Modified", b"Content-Length: 7"))], 304),
        "of length 0": ([sends(asked), answers(saying(b"404 Not Found", b"Content-Length: 0"))], 404),
        "100 first": ([sends(asked), answers(saying(b"100 Continue")), answers(OK)], 200),
        "103 first": ([sends(asked), answers(HINTS), answers(OK)], 200),
        "103 twice and the answer in one": ([sends(asked), answers(HINTS + HINTS + OK)], 200),
        "too many interim ones": ([sends(asked), answers(HINTS * 17)], 502),
        "103, then nothing": ([sends(asked), answers(HINTS), hangs_up], 502),
        "101 that nobody asked for": (
            [sends(asked), answers(saying(b"101 Go", b"Connection: Upgrade", b"Upgrade: websocket"))],
            502,
        ),
        "with a byte more": ([sends(asked), answers(OK + b"x")], 200),
        "with another answer behind": ([sends(asked), answers(OK + OK)], 200),
        "with a byte more later": ([sends(asked), answers(OK), answers(b"x")], 200),
        "no HTTP": ([sends(asked), answers(b"SSH-2.0\r\n")], 502),
        "malformed": ([sends(asked), answers(saying(b"200 OK", b"A b: c"))], 502),
        "two lengths": (
            [sends(asked), answers(saying(b"200 OK", b"Content-Length: 2", b"Content-Length: 2", body=b"ok"))],
            502,
        ),
        "a body cut short": ([sends(asked), answers(OK[:-1]), hangs_up], 200),
        "a body that stalls": ([sends(asked), answers(OK[:-1]), passes(21)], 200),
        "hung up, then answered": ([sends(asked), hangs_up, connects, answers(OK)], 200),
        "reset, then answered": ([sends(asked), breaks, connects, answers(OK)], 200),
        "hung up twice": ([sends(asked), hangs_up, connects, hangs_up], 502),
        "hung up after a byte": ([sends(asked), answers(b"H"), hangs_up], 502),
        "hung up and gone": ([sends(asked), hangs_up, cannot_connect], 502),
        "no answer in time": ([sends(asked), passes(11)], 504),
        "no whole head in time": ([sends(asked), answers(b"HTTP/1.1 200"), passes(11)], 504),
        "the client leaves": ([sends(asked), leaves], 499),
        "the client resets": ([sends(asked), resets], 499),
        "the client has sent ahead and leaves": ([sends(asked), sends(b"GET /"), leaves], 499),
        "the client resets amid the answer": ([sends(asked), answers(OK[:-1]), resets], 200),
        "a drain": ([sends(asked), drains, answers(OK)], 200),
        "a drain before": ([drains, sends(asked), answers(OK)], 200),
        "a drain, and no length": ([sends(asked), drains, answers(saying(b"204 No Content"))], 204),
        "cut": ([sends(asked), is_cut], 503),
        "cut amid the answer": ([sends(asked), answers(OK[:-1]), is_cut], 200),
        "pipelined": ([sends(asked * 3), answers(OK), answers(OK), answers(OK)], 200),
        "sent ahead in pieces": ([sends(asked), sends(asked[:9]), answers(OK), sends(asked[9:]), answers(OK)], 200),
        "sent far ahead": ([sends(asked), sends(b"G" * 70_000), answers(OK)], 414),
        "pipelined, and malformed behind": ([sends(asked + b" \r\n\r\n"), answers(OK)], 400),
        "a client that does not read": (
            [client_takes(0), sends(asked), answers(OK), client_takes(), sends(asked), answers(OK)],
            200,
        ),
        "a client that reads a part": (
            [client_takes(9), sends(asked), answers(OK), passes(3), client_takes(5), passes(3)],
            200,
        ),
        "a client that never reads": ([client_takes(0), sends(asked), answers(OK), passes(6)], 200),
        "a client that does not read, and leaves": ([client_takes(0), sends(asked), answers(OK), leaves], 200),
        "pipelined by a client that does not read": (
            [client_takes(0), sends(asked * 2), answers(OK), client_takes(), answers(OK)],
            200,
        ),
        "a client that stopped reading an answer in pieces": (
            [client_takes(0), sends(asked), answers(OK[:-1]), answers(OK[-1:]), client_takes()],
            200,
        ),
        "a client that stopped reading, with a drain": (
            [client_takes(0), sends(asked), drains, answers(OK), client_takes()],
            200,
        ),
        "a target that takes the request late": (
            [target_takes(0), sends(asked), passes(5), target_takes(), answers(OK)],
            200,
        ),
        "a target that takes a part": (
            [target_takes(9), sends(asked), passes(9), target_takes(5), passes(9), answers(OK)],
            200,
        ),
        "a target that never takes it": ([target_takes(0), sends(asked), passes(21)], 504),
        "a target that answers without taking it": ([target_takes(0), sends(asked), answers(OK)], 200),
        "a target that hangs up without taking it": (
            [target_takes(9), sends(asked), hangs_up, connects, answers(OK)],
            200,
        ),
        "a client that sends ahead meanwhile": (
            [target_takes(0), sends(asked), sends(asked), target_takes(), answers(OK), answers(OK)],
            200,
        ),
    }


# What is pipelined has come with something behind its body, and is read step by step.
WITH_BODY = {name: play for name, play in plays(PUT).items() if not name.startswith("pipelined")}
# What comes behind the last request is not looked at, whatever it is.
LAST = {
    name: (steps, 200 if status in (400, 414) else status)
    for name, (steps, status) in plays(asking(b"GET /", b"Connection: close")).items()
}
PLAYS = plays(GET) | {
    **{f"{name}, of a request with a body": play for name, play in WITH_BODY.items()},
    **{f"{name}, of the last request": play for name, play in LAST.items()},
}


@for_each("name", PLAYS)
def test_the_same_comes_of_it_with_all_filters(name: str) -> None:
    steps, status = PLAYS[name]
    play = alike(steps)
    assert status_of(play) == status
    play.plane.assert_quiet()


@for_each("name", [name for name, (steps, _) in PLAYS.items() if steps[-1].__name__ != "is_cut"])
def test_the_next_request_finds_all_as_it_should_be(name: str) -> None:
    """On the same connection if there still is one, and over the same upstream connection if that still serves."""
    steps, _ = PLAYS[name]

    def next_request(play: Play) -> None:
        if play.client.lost or play.client.ended:
            play.client = play.plane.client()
        play.client.sends(DELETE)
        if play.plane.pool.waiting:
            connects(play)

    play = alike([*steps, next_request, answers(CHUNKED), next_request, answers(OK)])
    assert status_of(play) == 200
    play.plane.assert_quiet()


ONLY_ONCE: dict[str, tuple[list[Step], int]] = {
    "hung up": ([sends(POST), hangs_up], 502),
    "reset": ([sends(POST), breaks], 502),
    "no answer in time": ([sends(POST), passes(11)], 504),
    "whole": ([sends(POST), answers(OK)], 200),
    "answered in pieces": ([sends(POST), answers(CHUNKED[:-1]), answers(CHUNKED[-1:])], 200),
    "on a connection that was idle for long": ([passes(2), sends(POST), connects, answers(OK)], 200),
    "cannot connect": ([passes(2), sends(POST), cannot_connect, passes(0.1), connects, answers(OK)], 200),
    "a target that takes a part and hangs up": ([target_takes(9), sends(POST), hangs_up], 502),
    "a target that answers without taking it": ([target_takes(9), sends(POST), answers(OK)], 200),
    "the client leaves": ([sends(POST), leaves], 499),
    "what it sends ahead waits": ([sends(POST), sends(POST[:-1]), answers(OK), sends(POST[-1:]), answers(OK)], 200),
}


@for_each("name", ONLY_ONCE)
def test_what_may_not_be_sent_again_is_sent_once(name: str) -> None:
    steps, status = ONLY_ONCE[name]
    play = alike(steps)
    assert status_of(play) == status
    assert play.plane.records[-1].request_bytes == len(BODY)
    assert b"".join(each.received for each in play.upstreams).count(b"POST ") == name.count("ahead") + 1
    play.plane.assert_quiet()


@pytest.mark.parametrize(
    ("message", "retries", "statuses"),
    [
        (POST, {"non_idempotent": True}, [200]),
        (PUT, {"body_bytes": len(BODY)}, [200]),
        (PUT, {"body_bytes": len(BODY) - 1}, [502]),  # not that much is kept, though it is all there
        (PUT, {"body_bytes": 0}, [502]),
        (GET, {"body_bytes": 0}, [200]),
    ],
)
def test_a_body_is_sent_again_as_the_rules_allow(message: bytes, retries: dict[str, Any], statuses: list[int]) -> None:
    settings = {"upstreams": {"u": {**SETTINGS["upstreams"]["u"], "retries": retries}}}
    again: list[Step] = [connects, answers(OK)] if statuses == [200] else []
    play = alike([sends(message), hangs_up, *again], settings)
    assert [record.status for record in play.plane.records[1:]] == statuses
    if again:
        assert play.upstream.received.endswith(message.partition(b"\r\n\r\n")[2])
    play.plane.assert_quiet()


@pytest.mark.parametrize("message", [PUT, POST])
def test_a_body_that_is_too_long_goes_no_way(message: bytes) -> None:
    """Also where it is all there: it is answered before it is looked at, and the connection ends."""
    settings = {"limits": {"body_bytes": len(BODY) - 1}}
    play = alike([sends(message)], settings)
    assert (status_of(play), play.plane.records[-1].request_bytes) == (413, 0)
    assert b"Connection: close\r\n" in play.client.received
    assert BODY not in play.upstream.received


def test_filters_see_a_body_that_is_all_there_once_and_before_it_is_sent() -> None:
    """On a route where that is all they do; a request without a body is none of their business."""
    shown: list[tuple[bytes, int]] = []

    def request_body(exchange: Exchange, payload: bytes) -> Reply | None:
        assert exchange.request_body is not None
        assert exchange.request_body.ended
        shown.append((payload, len(play.upstream.received)))
        return exchange.refuse(Fault.BODY_TOO_LARGE) if exchange.path == b"/refused" else None

    play = Play({}, [probe("p", Phase.TRANSFORM, request_body=request_body)])
    for message in (POST, GET, POST):
        before = len(play.upstream.received)
        play.client.sends(message)
        play.upstream.sends(OK)
        assert shown == ([(BODY, before)] if message is POST else [])
        shown.clear()
    sent = play.upstream.received
    play.client.sends(POST.replace(b"/a", b"/refused"))
    assert shown == [(BODY, len(sent))]
    assert play.upstream.received == sent
    assert [record.status for record in play.plane.records] == [200, 200, 200, 200, 413]
    play.client.sends(POST)  # all of the refused body was read, so the connection serves on
    play.upstream.sends(OK)
    assert status_of(play) == 200
    play.plane.assert_quiet()


def test_of_a_body_nothing_is_held_while_its_answer_streams() -> None:
    """It is not sent again once an answer has begun, which may take hours."""
    play = Play({})
    play.client.sends(POST)
    head = play.client.protocol.exchange.head
    assert head.payload == BODY
    play.upstream.sends(CHUNKED[:-5])
    assert head.payload is None
    exchange = play.client.protocol.exchange
    assert exchange is not None
    assert exchange.request_body.kept is None
    play.upstream.sends(CHUNKED[-5:])
    assert play.plane.records[-1].request_bytes == len(BODY)
    play.plane.assert_quiet()


WITHOUT_IDLE: dict[str, tuple[list[Step], int]] = {
    "connects": ([sends(GET), connects, answers(OK)], 200),
    "cannot connect": ([sends(GET), cannot_connect, passes(0.1), cannot_connect], 502),
    "connects at the second time": ([sends(GET), cannot_connect, passes(0.1), connects, answers(OK)], 200),
    "the client leaves": ([sends(GET), leaves], 499),
    "the client leaves, and the connection comes to nothing": ([sends(GET), connects, resets], 499),
    "a drain": ([sends(GET), drains, connects, answers(OK)], 200),
    "cut": ([sends(GET), is_cut], 503),
    "pipelined": ([sends(GET * 2), connects, answers(OK), answers(OK)], 200),
    "hung up at once": ([sends(GET), connects, hangs_up], 502),
}


@pytest.mark.parametrize("name", WITHOUT_IDLE)
def test_where_no_connection_is_at_hand(name: str) -> None:
    steps, status = WITHOUT_IDLE[name]
    play = alike(steps, warm=False)
    assert status_of(play) == status
    play.plane.assert_quiet()


def test_where_no_connection_is_at_hand_and_too_many_wait() -> None:
    def is_full(play: Play) -> None:
        play.plane.pool.lend = lambda *told: Fault.POOL_FULL  # type: ignore[method-assign,assignment]

    play = alike([is_full, sends(GET)], warm=False)
    assert (status_of(play), play.plane.records[-1].fault) == (503, "pool_full")
    play.plane.assert_quiet()


def test_without_retries_a_silent_end_is_a_502() -> None:
    upstreams = {"u": {**SETTINGS["upstreams"]["u"], "retries": {"max": 0}}}
    play = alike([sends(GET), hangs_up], {"upstreams": upstreams})
    assert (status_of(play), play.plane.records[-1].retries) == (502, 0)
    play.plane.assert_quiet()


def test_a_retry_is_counted_and_spent() -> None:
    """Of targets the balancer's next is asked, on a connection that has carried nothing."""
    play = alike([sends(GET), hangs_up, connects, answers(OK)])
    assert play.plane.records[-1].retries == 1
    assert [each.protocol.uses for each in play.upstreams] == [2, 1]


def test_a_defect_while_the_request_is_made_is_a_500(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def raises(*told: object) -> None:
        raise ZeroDivisionError

    def breaks_down(play: Play) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(play.upstream, "write", raises)
            play.client.sends(GET)

    play = alike([breaks_down])
    assert status_of(play) == 500
    play.plane.assert_quiet()
    assert [record.exc_info is not None for record in caplog.records] == [True] * len(SILENT)


FORWARDED = (
    [],
    [b"X-Forwarded-For: 192.0.2.9, 198.51.100.7"],
    [b'Forwarded: for="[2001:db8::1]:4711";proto=https', b"X-Real-IP: 192.0.2.9"],
    [b"X-Forwarded-For: 192.0.2.9", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: b.test", b"X-Forwarded-Port: 1"],
    [b"X-Forwarded-For: nonsense", b"X-Forwarded-Client-Cert: c", b"Forwarded: nonsense,"],
)


@pytest.mark.parametrize("policy", [None, "append", "set", "strip", "pass"])
@pytest.mark.parametrize("trusted", [(), ("127.0.0.1/32", "198.51.100.0/24")], ids=["nobody", "proxies"])
@pytest.mark.parametrize("ip", ["127.0.0.1", "203.0.113.5", "2001:db8::5", "unix:"])
def test_the_upstream_is_told_the_same_of_the_client(policy: str | None, trusted: tuple[str, ...], ip: str) -> None:
    settings = {
        "routes": [{"name": "all", "upstream": "u", **({"forwarded": policy} if policy else {})}],
        "listeners": {"main": {"address": "127.0.0.1:0", "trusted_proxies": list(trusted)}},
    }
    requests = [asking(b"GET /a", *fields) for fields in FORWARDED]
    requests += [request.replace(b"a.test", b"b.test:81") for request in requests]
    steps = [step for request in requests for step in (sends(request), answers(OK), sends(request), answers(CHUNKED))]
    steps += [step for request in requests for step in (sends(request), hangs_up, connects, answers(OK))]
    play = alike(steps, settings, ip)
    believed = ["192.0.2.9", "2001:db8::1"] if ip == "127.0.0.1" and trusted else []
    assert {record.client for record in play.plane.records} == {ip, *believed}


def lines_of(sent: bytes) -> list[bytes]:
    """What is asked for in these requests, which have no body."""
    return [each.partition(b" HTTP/1.1\r\n")[0] for each in sent.split(b"\r\n\r\n")[:-1]]


@pytest.mark.parametrize(
    "route",
    [
        {},
        {"path": {"forward": "raw"}},
        {"paths": ["/a/{rest:path}"], "strip_prefix": "/a"},
        {"paths": ["/a/{rest:path}"], "rewrite": "/b/{rest}/c"},
        {"paths": ["/a/{name}", "/{rest:path}"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("base", ["", "/base"])
def test_the_upstream_is_asked_for_the_same_path(route: dict[str, Any], base: str) -> None:
    settings = {
        "upstreams": {"u": {"targets": [{"url": f"http://127.0.0.1:9{base}"}]}},
        "routes": [{"name": "one", "upstream": "u", **route}, {"name": "others", "upstream": "u"}],
    }
    paths = [b"/", b"/a", b"/a/", b"/a/b", b"/a/./b//c", b"/a/%7eb/%2e%2e/%41", b"/a/b%2Fc", b"/a/x/../..//", b"/b;c=d"]
    targets = [path + query for path in paths for query in (b"", b"?", b"?b=%7e/../c")]
    steps = [step for target in targets for step in (sends(asking(b"GET " + target)), answers(OK))]
    steps += [step for target in targets for step in (sends(asking(b"GET " + target)), hangs_up, connects, answers(OK))]
    play = alike(steps, settings)
    assert {record.status for record in play.plane.records} == {200}
    first, *others = (each.received for each in play.upstreams)
    assert first.count(b"GET " + base.encode() + b"/") == first.count(b" HTTP/1.1\r\n") == len(targets) + 2
    assert [lines_of(each)[0] for each in others] == lines_of(first)[1:-1]


@pytest.mark.parametrize(
    "fields",
    [
        (b"Cookie: a", b"cookie: b", b"X_A: c"),
        (b"Connection: keep-alive", b"Keep-Alive: 1", b"Proxy-Connection: a", b"Proxy-Authorization: b"),
        (b"Via: 1.0 a", b"Trailer: x", b"Forwarded_For: b"),
        tuple(b"F%d: v" % number for number in range(60)),
    ],
)
def test_the_upstream_is_sent_the_same_fields(fields: tuple[bytes, ...]) -> None:
    play = alike([sends(asking(b"GET /", *fields)), answers(OK)])
    assert status_of(play) == 200


# --- with filters that let requests pass ---


def known(exchange: Exchange) -> None:
    exchange.headers.set(b"X-Set", b"1")
    exchange.request_added += b"X-Added: 1\r\n"
    exchange.request_dropped |= {b"user-agent"}
    exchange.consumer = Consumer("alice")
    exchange.request_id = b"named"
    exchange.client_ip = "192.0.2.9"


@pytest.mark.parametrize("phase", [Phase.OBSERVE, Phase.AUTHENTICATE])
@pytest.mark.parametrize("meets", [True, False])
def test_what_filters_have_found_out_and_changed_goes_with_the_request(meets: bool, phase: Phase) -> None:
    """To the upstream and into the log, and not on to the next request of the connection."""
    hooks: dict[str, Any] = {"request": lambda exchange: known(exchange) if exchange.path == b"/told" else None}
    if meets:
        hooks["response"] = lambda exchange: None
    play = Play({}, [probe("p", phase, **hooks)])
    for path in (b"/told", b"/", b"/told"):
        before = len(play.upstream.received)
        play.client.sends(asking(b"GET " + path, b"User-Agent: u"))
        sent = play.upstream.received[before:]
        assert [line in sent for line in (b"X-Set: 1\r\n", b"X-Added: 1\r\n")] == [path == b"/told"] * 2
        assert (b"User-Agent" in sent) is (path == b"/")
        play.upstream.sends(OK)
        record = play.plane.records[-1]
        reported = (record.consumer, record.request_id, record.client)
        assert reported == (("alice", b"named", "192.0.2.9") if path == b"/told" else ("", b"", "127.0.0.1"))
    play.plane.assert_quiet()


def test_a_host_with_upper_case_letters_meets_filters_that_look_at_headers() -> None:
    """Its head is one of the reference parser's."""
    plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": {"compress": {}}}]})
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\nHost: A.test\r\n\r\n")
    plane.connects().sends(OK)
    assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
