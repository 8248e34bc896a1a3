"""Steps that are left out, by what filters declare, against all steps, with all that a worker counts, judges and logs.

Each play is acted on two planes with clocks and dice of their own, on one of which all steps run. After each step both
are in the same state; in the end each word of the node's memory is the same, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.errors import Fault
from fastgw.exchange.hooks import Looks
from fastgw.filters.api import Consumer, Exchange, Filter, Phase, Reply
from tests.support.counted_plane import CountedPlane, acting, played
from tests.support.memory import Wire, probe
from tests.unit.upstream.forwarding.test_plays import (
    BODY,
    CHUNKED,
    GET,
    HINTS,
    OK,
    POST,
    PUT,
    Play,
    Step,
    answers,
    asking,
    breaks,
    cannot_connect,
    connects,
    hangs_up,
    leaves,
    passes,
    resets,
    saying,
    sends,
)

REFUSED = saying(b"503 No", b"Content-Length: 1", body=b"n")
ERROR = saying(b"500 No", b"Content-Length: 2", body=b"no")


class CountedPlay(Play):
    """A play on a plane that counts."""

    plane_type = CountedPlane
    plane: CountedPlane

    @property
    def upstream(self) -> Wire:
        """The connection that was lent last and is still."""
        return next((each for each in reversed(self.upstreams) if each.protocol.streams), self.upstreams[-1])

    def act(self, step: Step) -> None:
        self.plane.take_turn()
        step(self)

    def state(self) -> dict[str, Any]:
        plane = self.plane
        exact = [{name: getattr(each, name) for name in each.__struct_fields__} for each in plane.records]
        return super().state() | {
            "records": exact,
            "seen": plane.seen,
            "health": plane.health(),
            "lines": plane.lines(),
            "filters": plane.observer.filters,
            "dice": hash(plane.dice.getstate()),
        }


_ID = re.compile(r"\b[0-9a-f]{32}\b")


def shown(play: CountedPlay) -> dict[str, Any]:
    """Its state; where it makes ids at random, those are told by the order in which they were made."""
    state = play.state()
    if not play.plane.config.filters.get("request_id"):
        return state
    ids: dict[str, int] = {}
    return {
        name: _ID.sub(lambda found: f"id {ids.setdefault(found[0], len(ids))}", repr(each))
        for name, each in state.items()
    }


def both(
    steps: Sequence[Step],
    settings: Mapping[str, Any],
    probes: Sequence[type[Filter]] = (),
    warm: bool = True,
    ip: str = "127.0.0.1",
) -> CountedPlay:
    """Act a play with the steps that have to run, and with all; the former."""
    spared, full = (CountedPlay(settings, probes, ip, warm, all_steps) for all_steps in (False, True))
    assert shown(spared) == shown(full), "at first"
    for number, step in enumerate(steps):
        for play in (spared, full):
            play.act(step)
        assert shown(spared) == shown(full), f"step {number}: {step!r}"
    ours, theirs = spared.plane.words(), full.plane.words()
    assert {name for name in ours if ours[name] != theirs[name]} == set()
    return spared


@pytest.fixture(autouse=True)
def _played() -> Any:
    with played():
        yield


def upstream(targets: int = 1, **settings: Any) -> dict[str, Any]:
    urls = [{"url": f"http://127.0.0.{number + 1}:9"} for number in range(targets)]
    timeouts = {"response_headers": "10s", "idle": "20s"}
    return {"upstreams": {"u": {"targets": urls, "timeouts": timeouts, **settings}}}


def takes(seconds: float) -> Callable[[Exchange], None]:
    def step(exchange: Exchange) -> None:
        acting().lapse += seconds

    return step


PASSING = probe("passing", Phase.TRANSFORM, request=lambda exchange: None)
SLOW = probe("slow", Phase.TRANSFORM, request=takes(0.5))
MEETING = probe("meeting", Phase.TRANSFORM, response=lambda exchange: None)
BREAKER = {"min_requests": 4, "error_rate": "50%", "open": "2s", "probes": 1}
PASSIVE = {"passive": {"failures": 2, "eject": "3s"}}


def times(play: CountedPlay) -> list[tuple[object, ...]]:
    """What was told of attempts since the first one."""
    told = play.plane.listeners["u"]
    assert told is not None
    return told.events[4:]


@pytest.mark.parametrize("probes", [(), (SLOW,), (MEETING,)], ids=["at once", "behind a step", "met"])
def test_an_attempt_is_timed_from_its_own_beginning(probes: Any) -> None:
    """Not from that of the exchange: what filters take is not the target's."""
    lost: list[Step] = [sends(GET), passes(0.25), hangs_up, passes(0.5), connects, passes(1.0), answers(OK)]
    for steps, expected in (
        ([sends(GET), passes(0.25), answers(OK)], [("answered", 0.25)]),
        ([sends(GET), passes(0.25), answers(OK[:-1]), answers(OK[-1:])], [("answered", 0.25)]),
        ([sends(GET), passes(0.25), answers(b"no"), answers(b" HTTP")], [("given up", 0.25)]),
        (lost, [("given up", 0.25), ("answered", 1.5)]),
        ([sends(GET), passes(0.25), leaves], [("given up", 0.25)]),
    ):
        play = both(steps, upstream(circuit_breaker=BREAKER), probes)
        told = times(play)
        kinds = [event[0] for event in told]
        assert kinds.count("begun") == kinds.count("ended") + kinds.count("given up") == 1 + (steps is lost)
        timed = [
            (event[0], pytest.approx(event[-1], abs=0.11))  # by ticks
            for event in told
            if event[0] in ("answered", "given up")
        ]
        assert expected == timed
        play.plane.assert_quiet()


def test_a_breaker_sees_what_is_answered() -> None:
    steps: list[Step] = [step for _ in range(3) for step in (sends(GET), answers(ERROR))]
    play = both(steps, upstream(circuit_breaker=BREAKER))
    assert "open" in repr(play.plane.gateway.upstreams["u"].health.breaker)  # type: ignore[union-attr]
    again: list[Step] = [*steps, sends(GET), passes(2.2), sends(GET), answers(OK), sends(GET), answers(OK)]
    play = both(again, upstream(circuit_breaker=BREAKER))
    assert [record.status for record in play.plane.records] == [200, 500, 500, 500, 503, 200, 200]
    assert "closed" in repr(play.plane.gateway.upstreams["u"].health.breaker)  # type: ignore[union-attr]


def test_a_target_that_fails_is_ejected() -> None:
    """And another one gets the requests from then on."""
    settings = upstream(2, health_checks=PASSIVE)

    def answers_unless_ill(play: Play) -> None:
        target = play.upstream.protocol.target
        play.upstream.sends(ERROR if target.label == "127.0.0.1:9" else OK)

    steps: list[Step] = [sends(GET), connects, answers(OK)]
    steps += [step for _ in range(5) for step in (sends(GET), answers_unless_ill)]
    play = both(steps, settings)
    assert play.plane.health()["u"][0] == ["127.0.0.1:9"]
    assert [record.target[8] for record in play.plane.records] == [*"1212122"]


def other_client(chunk: bytes) -> Step:
    return lambda play: play.plane.client("127.0.0.3").sends(chunk)


@pytest.mark.parametrize("probes", [(), (PASSING,)], ids=["at once", "behind a step"])
@pytest.mark.parametrize("algorithm", ["round_robin", "random", "least_connections"])
def test_who_is_refused_by_a_half_open_breaker_is_picked_for_once(algorithm: str, probes: Any) -> None:
    """The balancer is asked once, and a probe is asked for once."""
    settings = upstream(2, circuit_breaker=BREAKER, load_balancing={"algorithm": algorithm})
    steps: list[Step] = [sends(GET), answers_if_asked(ERROR)] * 4
    steps += [passes(2.2), sends(GET), *[other_client(GET)] * 3, answers_if_asked(OK)]
    steps += [sends(GET), answers_if_asked(OK)] * 3
    play = both(steps, settings, probes)
    assert [record.fault for record in play.plane.records].count("circuit_open") >= 3
    assert [record.status for record in play.plane.records][-4:] == [200] * 4


@pytest.mark.parametrize("probes", [(), (PASSING,)], ids=["at once", "behind a step"])
def test_the_retry_of_a_probe_on_a_closed_connection_is_the_same_probe(probes: Any) -> None:
    """The target had closed the idle connection and processed nothing: the only probe of the node goes on."""
    steps: list[Step] = [sends(GET), answers(ERROR)] * 3
    steps += [passes(2.2), sends(GET), hangs_up, other_client(GET), connects, answers(OK), sends(GET), answers(OK)]
    play = both(steps, upstream(circuit_breaker=BREAKER), probes)
    assert [(record.status, record.retries) for record in play.plane.records][-3:] == [(503, 0), (200, 1), (200, 0)]
    assert "closed" in repr(play.plane.gateway.upstreams["u"].health.breaker)  # type: ignore[union-attr]


def leaving_client(play: Play) -> None:
    """A client that leaves before it is answered."""
    client = play.plane.client("127.0.0.3")
    client.sends(GET)
    client.resets()


@pytest.mark.parametrize("probes", [(), (PASSING,), (MEETING,)], ids=["at once", "behind a step", "met"])
@pytest.mark.parametrize("algorithm", ["round_robin", "random", "least_connections", "latency", "consistent_hash"])
def test_a_half_open_breaker_closes_although_clients_leave_and_slow_requests_are_hedged(
    algorithm: str, probes: Any
) -> None:
    """After a further `open` as many pass; and a slow one is not hedged, which would be two for one request."""
    settings = upstream(
        2,
        circuit_breaker={**BREAKER, "probes": 3},
        load_balancing={"algorithm": algorithm},
        retries={"max": 0},
        hedge={"after": "50ms", "max": 1},
    )
    steps: list[Step] = [step for _ in range(5) for step in (sends(GET), answers_if_asked(ERROR))]
    steps += [passes(2.2), *[leaving_client] * 7, passes(2.6)]
    steps += [step for _ in range(3) for step in (sends(GET), passes(0.2), answers_if_asked(OK))]
    play = both(steps, settings, probes)
    assert [record.status for record in play.plane.records][-3:] == [200] * 3
    assert [record.retries for record in play.plane.records][-3:] == [0] * 3
    assert "closed" in repr(play.plane.gateway.upstreams["u"].health.breaker)  # type: ignore[union-attr]


@pytest.mark.parametrize("probes", [(), (PASSING,)], ids=["at once", "behind a step"])
def test_a_client_without_a_sticky_cookie_is_given_one(probes: Any) -> None:
    settings = upstream(2, load_balancing={"sticky": {"cookie": "at", "key": "k" * 32}})
    steps: list[Step] = [sends(GET), lambda play: connects(play) if play.plane.pool.waiting else None, answers(OK)]
    play = both(steps * 3, settings, probes)
    assert play.client.received.lower().count(b"set-cookie: at=") == len(play.plane.records)


@pytest.mark.parametrize("algorithm", ["latency", "least_connections", "random"])
def test_targets_are_picked_by_what_attempts_have_told(algorithm: str) -> None:
    settings = upstream(3, load_balancing={"algorithm": algorithm})
    steps: list[Step] = []
    for number in range(30):
        steps += [sends(GET), lambda play: connects(play) if play.plane.pool.waiting else None]
        steps += [passes(0.1 * (number % 4)), answers(OK)]
    play = both(steps, settings)
    assert len({record.target for record in play.plane.records}) == 3


@pytest.mark.parametrize("probes", [(), (SLOW,), (MEETING,)], ids=["at once", "behind a step", "met"])
@pytest.mark.parametrize("again", [False, True])
def test_what_may_not_be_repeated_is_if_the_upstream_says_so(again: bool, probes: Any) -> None:
    """It takes a connection that was idle for long, and is sent once more when that closes."""
    settings = upstream(retries={"non_idempotent": again})
    idle: list[Step] = [passes(2.0), sends(POST)]
    play = both(idle, settings, probes)
    assert len(play.plane.pool.waiting) == (not again)
    play = both([sends(POST), hangs_up], settings, probes)
    assert len(play.plane.pool.waiting) == again
    both([*idle, *([hangs_up] if again else []), connects, answers(OK)], settings, probes)


@pytest.mark.parametrize("probes", [(), (SLOW,), (MEETING,)], ids=["at once", "behind a step", "met"])
@pytest.mark.parametrize("most", [10, 10_000])
def test_a_body_that_is_too_long_to_be_kept_is_not_sent_again(most: int, probes: Any) -> None:
    """It is let go of as soon as it was sent."""
    settings = upstream(retries={"body_bytes": most})
    play = both([sends(PUT), hangs_up], settings, probes)
    assert len(play.plane.pool.waiting) == (most > len(BODY))


QUERIES = {
    "added": {"request_parameters": {"query": {"tenant": "acme"}}},
    "in front": {"request_parameters": {"query_first": "v=1"}},
    "hidden": {"key_auth": {"key_in": ["query"], "key_names": ["key"], "hide_credentials": True}},
}


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("route", [{}, {"strip_prefix": "/a", "paths": ["/a/{rest:path}"]}], ids=["as sent", "cut"])
def test_a_query_that_filters_have_changed_is_sent_so(name: str, route: dict[str, Any]) -> None:
    settings: dict[str, Any] = {**upstream(), "filters": QUERIES[name]}
    if name == "hidden":
        settings["consumers"] = [{"name": "alice", "key_auth": [{"key": "sesame-sesame-sesame"}]}]
    settings["routes"] = [{"name": "all", "upstream": "u", **route}]
    asked = [b"GET /a/b?b=c&key=sesame-sesame-sesame", b"GET /a/b?key=sesame-sesame-sesame"]
    asked += [b"GET /a/b"] if name != "hidden" else []
    first: list[Step] = [sends(asking(asked[0])), connects, answers(OK)]
    steps = first + [step for each in asked for step in (sends(asking(each)), answers(OK))]
    steps += [sends(asking(asked[0])), hangs_up, connects, answers(OK)]
    play = both(steps, settings, warm=False)
    sent = b"".join(each.received for each in play.upstreams)
    told = {"added": b"tenant=acme", "in front": b"?v=1", "hidden": b"b?b=c HTTP/1.1"}[name]
    assert sent.count(told) == {"added": 6, "in front": 6, "hidden": 4}[name]
    assert (b"sesame" in sent) is (name != "hidden")


def test_filters_are_shown_the_same() -> None:
    """Of an exchange whose answer they meet, and of one that is over."""

    def shows(exchange: Exchange) -> None:
        response, body = exchange.response, exchange.request_body
        head = None if response is None else response.head
        acting().seen.append(
            (
                *(
                    exchange.state,
                    exchange.sent,
                    exchange.upstream,
                    exchange.target,
                    exchange.params,
                    exchange.client_ip,
                ),
                *(exchange.request_bytes, exchange.response_bytes, exchange.upstream_s, exchange.begun_at),
                *(exchange.retries, exchange.fault, exchange.answered_by is None, body is not None and body.bytes),
                None if response is None or head is None else (response.status, head.raw, head.payload_length),
            )
        )

    for hooks in ({"request": shows, "response": shows}, {"response": shows}, {"finish": shows}):
        probes = (
            [probe("p", Phase.TRANSFORM, **hooks), SLOW] if "request" in hooks else [probe("p", Phase.ADMIT, **hooks)]
        )
        for asked in (GET, PUT, asking(b"POST /a")):
            play = both([sends(asked), passes(0.5), answers(OK), sends(asked), answers(CHUNKED)], upstream(), probes)
            assert len(play.plane.seen) == 3 * len(hooks)


# --- random plays ---


def _seen(name: str) -> Callable[[Exchange], None]:
    """A hook that notes what it is shown, and does what the path of the request asks of it."""

    def hook(exchange: Exchange) -> None:
        response = exchange.response
        shown = (name, exchange.path, exchange.client_ip, exchange.upstream, exchange.target, exchange.retries)
        status = None if response is None else response.status
        so_far = exchange.state, exchange.sent, exchange.response_bytes, exchange.upstream_s, exchange.begun_at
        acting().seen.append((*shown, status, *so_far))
        if exchange.path == b"/raises/" + name.encode():
            raise ZeroDivisionError

    return hook


def _request(name: str) -> Callable[[Exchange], Any]:
    note = _seen(name)

    def request(exchange: Exchange) -> Any:
        note(exchange)
        if exchange.path == b"/refused/" + name.encode():
            return exchange.refuse(Fault.FORBIDDEN, why=name)
        if exchange.path == b"/waits/" + name.encode():
            return _waits(exchange)
        exchange.request_added += b"X-%b: %b\r\n" % (name.encode(), exchange.path)
        exchange.request_dropped |= {b"user-agent"}
        exchange.query_sent = b"by=" + name.encode() if exchange.query else exchange.query_sent
        exchange.consumer = Consumer(name)
        takes(0.25)(exchange)
        return None

    return request


async def _waits(exchange: Exchange) -> Reply | None:
    takes(0.5)(exchange)
    return exchange.refuse(Fault.FORBIDDEN) if exchange.query == b"no" else None


def _request_body(exchange: Exchange, payload: bytes) -> Reply | None:
    acting().seen.append(("body", exchange.path, payload))
    return exchange.refuse(Fault.BODY_TOO_LARGE) if exchange.path == b"/refused/body" else None


def _response(exchange: Exchange) -> None:
    _seen("response")(exchange)
    assert exchange.response is not None
    exchange.add_response_fields(b"X-Met: %b\r\n" % exchange.path)
    exchange.response.dropped |= {b"x-a"}
    if exchange.path == b"/changes":
        exchange.response.status = 418


def _shown(exchange: Exchange) -> None:
    """For a filter that looks at some answers: it has to leave the others as they are."""
    assert exchange.response is not None
    if exchange.response.status == 500 or (exchange.response.head is not None and exchange.response.head.first(b"x-a")):
        exchange.add_response_fields(b"X-Shown: 1\r\n")


def _reply(exchange: Exchange, reply: Reply) -> Reply:
    acting().seen.append(("reply", exchange.path, reply.status))
    return Reply(reply.status, b"instead", fields=reply.fields) if exchange.path == b"/changes" else reply


def _renew(exchange: Exchange, head: Any) -> Any:
    acting().seen.append(("renew", exchange.path, head.status, exchange.may_be_sent_again))
    return None if exchange.path == b"/denied" else _renewed(exchange)


async def _renewed(exchange: Exchange) -> bool:
    exchange.request_added += b"X-Token: new\r\n"
    return exchange.path != b"/changes"


FILTERS = {
    "early": probe("early", Phase.ADMIT, request=_request("early")),
    "passing": probe("passing", Phase.TRANSFORM, request=_request("passing")),
    "body": probe("body", Phase.VALIDATE, request_body=_request_body),
    "response": probe("response", Phase.TRANSFORM, order=1, response=_response),
    "always": probe("always", Phase.OBSERVE, response=_seen("always")),
    "looking": probe(
        "looking",
        Phase.TRANSFORM,
        order=2,
        response=_shown,
        looks_at=lambda head: head.status == 500 or head.first(b"x-a") is not None,
    ),
    "simple": probe("simple", Phase.TRANSFORM, order=3, response=_shown, looks_at=Looks((500,), (b"x-a",))),
    "reply": probe("reply", Phase.TRANSFORM, order=4, reply=_reply),
    "renew": probe("renew", Phase.CREDENTIALS, renew=_renew),
    "finish": probe("finish", Phase.TRANSFORM, order=5, finish=_seen("finish")),
}
PATHS = [
    *(b"/a", b"/a?b=c", b"/%61//x/../b?", b"/changes", b"/denied", b"/elsewhere/a?q", b"/waits/passing?no"),
    *(b"/%b/%b" % (what, who) for what in (b"raises", b"refused", b"waits") for who in (b"early", b"passing")),
    *(b"/raises/response", b"/raises/always", b"/raises/finish", b"/refused/body"),
]
SIZED = b"Content-Length: %d" % len(BODY)
FORMS: list[Callable[[bytes], bytes]] = [
    lambda path: asking(b"GET " + path, b"User-Agent: u", b"Referer: r", b"X-Request-Id: i"),
    lambda path: asking(b"GET " + path),
    lambda path: asking(b"HEAD " + path),
    lambda path: asking(b"DELETE " + path),
    lambda path: asking(b"OPTIONS " + path),
    lambda path: asking(b"PUT " + path, SIZED) + BODY,
    lambda path: asking(b"POST " + path, SIZED) + BODY,
    lambda path: asking(b"POST " + path, b"Content-Length: 0"),
    lambda path: asking(b"POST " + path, b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    lambda path: asking(b"PUT " + path, b"Expect: 100-continue", SIZED) + BODY,
    lambda path: asking(b"GET " + path, b"Connection: close"),
    lambda path: asking(b"GET " + path, b"Connection: x-a", b"X-A: b", b"TE: trailers"),
    lambda path: asking(b"GET " + path, b"X-Forwarded-For: 192.0.2.9", b"Forwarded: for=b"),
    lambda path: asking(b"GET " + path) * 2,
    lambda path: asking(b"PUT " + path, SIZED) + BODY + asking(b"GET " + path),
    lambda path: asking(b"GET " + path, b"A b: c"),
]
ANSWERS = [
    *(OK, OK, OK, ERROR, REFUSED, CHUNKED, CHUNKED[:-2] + b"A: b\r\n\r\n", HINTS + OK, HINTS, OK + b"x", OK + OK),
    *(saying(b"204 No Content"), saying(b"304 Not Modified", b"Content-Length: 7"), saying(b"200 OK", body=b"till")),
    saying(b"401 Who", b"Content-Length: 3", b"WWW-Authenticate: x", body=b"who"),
    saying(b"200 OK", b"Content-Length: 2", b"X-A: b", b"Connection: close", body=b"ok"),
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    *(b"SSH-2.0\r\n", saying(b"200 OK", b"A b: c"), saying(b"200 OK", b"Content-Length: 9", body=b"short")),
]


class Told:
    """A step that says what it is, so that a play that fails can be read."""

    def __init__(self, step: Step, what: object) -> None:
        self._step, self._what = step, what

    def __call__(self, play: Play) -> object:
        return self._step(play)

    def __repr__(self) -> str:
        return f"<{getattr(self._step, '__qualname__', '').partition('.')[0]} {self._what!r}>"


def answers_if_asked(chunk: bytes) -> Step:
    """Connects first, if somebody waits for that."""

    def step(play: Play) -> None:
        if play.plane.pool.waiting:
            connects(play)
        if play.upstreams and not play.upstream.lost:
            play.upstream.sends(chunk)

    return Told(step, chunk)


def asks_again(chunk: bytes) -> Step:
    """On a new connection, where that of before is over."""

    def step(play: Play) -> None:
        if play.client.lost or play.client.aborted or play.client.ended or play.client.over:
            play.client = play.plane.client("127.0.0.2")
        play.client.sends(chunk)

    return Told(step, chunk)


def if_alive(step: Step) -> Step:
    """What happens to the connection that was lent last, to one that is waited for or to the client's."""

    def guarded(play: Play) -> None:
        if step in (connects, cannot_connect):
            if play.plane.pool.waiting:
                step(play)
        elif step in (leaves, resets):
            if not (play.client.lost or play.client.over or play.client.aborted):
                step(play)
        elif play.upstreams and not (play.upstream.lost or play.upstream.over):
            step(play)

    return Told(guarded, step.__name__)


def in_pieces(message: bytes, cuts: Sequence[int], step: Callable[[bytes], Step]) -> list[Step]:
    bounds = [0, *sorted({cut % len(message) for cut in cuts} - {0}), len(message)]
    return [step(message[a:b]) for a, b in pairwise(bounds)]


CUTS = st.one_of(st.just([]), st.just([]), st.just([]), st.lists(st.integers(1, 3000), max_size=3))
REQUESTS = st.builds(
    lambda form, path, cuts: in_pieces(form(path), cuts, asks_again),
    st.one_of(st.sampled_from(FORMS), st.sampled_from(FORMS[:6])),
    st.one_of(st.sampled_from(PATHS), st.sampled_from(PATHS[:4])),
    CUTS,
)
REPLIES = st.builds(
    lambda answer, cuts: in_pieces(answer, cuts, answers_if_asked),
    st.one_of(st.sampled_from(ANSWERS), st.sampled_from(ANSWERS[:5])),
    CUTS,
)
MISHAPS = st.sampled_from([connects, cannot_connect, hangs_up, hangs_up, breaks, leaves, resets]).map(
    lambda step: [if_alive(step)]
)
PAUSES = st.sampled_from([0.25, 0.5, 1.5, 3.0, 12.0]).map(lambda seconds: [Told(passes(seconds), seconds)])
SCENES = st.one_of(
    st.tuples(REQUESTS, REPLIES),
    st.tuples(REQUESTS, REPLIES),
    st.tuples(REQUESTS, PAUSES, REPLIES),
    st.tuples(REQUESTS, MISHAPS, REPLIES),
    st.tuples(REQUESTS, REPLIES, MISHAPS),
    st.tuples(REQUESTS, MISHAPS, MISHAPS, REPLIES),
    st.tuples(REQUESTS, REQUESTS, REPLIES, REPLIES),
    st.tuples(PAUSES),
).map(lambda parts: [step for part in parts for step in part])
UPSTREAMS = st.builds(
    lambda targets, algorithm, passive, breaker, retries, again, kept: upstream(
        targets,
        load_balancing={"algorithm": algorithm},
        health_checks={"passive": passive},
        circuit_breaker=breaker,
        retries={"max": retries, "non_idempotent": again, "budget": "100%", "body_bytes": kept},
    ),
    st.integers(1, 3),
    st.sampled_from(["round_robin", "latency", "least_connections", "random", "consistent_hash"]),
    st.sampled_from([None, {}, {"failures": 2, "eject": "2s"}]),
    st.sampled_from([None, {"min_requests": 3, "error_rate": "50%", "open": "2s", "probes": 1}]),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([10, 65536]),
)
ROUTES: list[list[dict[str, Any]]] = [
    [{"name": "all", "upstream": "u"}],
    [{"name": "all", "upstream": "u", "forwarded": "append", "via": "off"}],
    [{"name": "a", "paths": ["/elsewhere/{rest:path}"], "rewrite": "/b/{rest}", "upstream": "u"},
     {"name": "all", "upstream": "u"}],
]  # fmt: skip
EXTRAS: list[dict[str, Any]] = [
    {},
    {"request_id": {}},
    {"request_parameters": {"query": {"tenant": "acme"}, "headers": {"X-Tenant": "acme"}}},
]


@settings(max_examples=60)
@given(
    UPSTREAMS,
    st.sampled_from(ROUTES),
    st.sampled_from(EXTRAS),
    st.sets(st.sampled_from(sorted(FILTERS)), max_size=4),
    st.lists(SCENES, min_size=8, max_size=16),
)
def test_whatever_happens_the_same_is_done(
    upstreams: dict[str, Any],
    routes: list[dict[str, Any]],
    extra: dict[str, Any],
    names: set[str],
    scenes: list[list[Step]],
) -> None:
    probes = [FILTERS[name] for name in sorted(names)]
    with played():
        both([step for scene in scenes for step in scene], {**upstreams, "routes": routes, "filters": extra}, probes)
