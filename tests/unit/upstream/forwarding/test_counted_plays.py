"""What a worker counts, judges and draws while requests are forwarded.

Each play is acted on a plane with a clock and dice of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from fastgw.filters.api import Exchange, Filter, Phase
from tests.support.counted_plane import CountedPlane, acting, played
from tests.support.memory import Wire, probe
from tests.unit.upstream.forwarding.test_plays import (
    BODY,
    GET,
    OK,
    POST,
    PUT,
    Play,
    Step,
    answers,
    asking,
    connects,
    hangs_up,
    leaves,
    passes,
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


def acted(
    steps: Sequence[Step],
    settings: Mapping[str, Any],
    probes: Sequence[type[Filter]] = (),
    warm: bool = True,
    ip: str = "127.0.0.1",
) -> CountedPlay:
    """Act a play, and return it."""
    play = CountedPlay(settings, probes, ip, warm)
    for step in steps:
        play.act(step)
    return play


def answers_if_asked(chunk: bytes) -> Step:
    """Connects first, if somebody waits for that."""

    def step(play: Play) -> None:
        if play.plane.pool.waiting:
            connects(play)
        if play.upstreams and not play.upstream.lost:
            play.upstream.sends(chunk)

    return step


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
    return told.events[3:]


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
        play = acted(steps, upstream(circuit_breaker=BREAKER), probes)
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
    play = acted(steps, upstream(circuit_breaker=BREAKER))
    assert "open" in repr(play.plane.gateway.upstreams["u"].health.breaker)  # type: ignore[union-attr]
    again: list[Step] = [*steps, sends(GET), passes(2.2), sends(GET), answers(OK), sends(GET), answers(OK)]
    play = acted(again, upstream(circuit_breaker=BREAKER))
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
    play = acted(steps, settings)
    assert [each.label for each in play.plane.gateway.upstreams["u"].shunned] == ["127.0.0.1:9"]
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
    play = acted(steps, settings, probes)
    assert [record.fault for record in play.plane.records].count("circuit_open") >= 3
    assert [record.status for record in play.plane.records][-4:] == [200] * 4


@pytest.mark.parametrize("probes", [(), (PASSING,)], ids=["at once", "behind a step"])
def test_the_retry_of_a_probe_on_a_closed_connection_is_the_same_probe(probes: Any) -> None:
    """The target had closed the idle connection and processed nothing: the only probe of the node goes on."""
    steps: list[Step] = [sends(GET), answers(ERROR)] * 3
    steps += [passes(2.2), sends(GET), hangs_up, other_client(GET), connects, answers(OK), sends(GET), answers(OK)]
    play = acted(steps, upstream(circuit_breaker=BREAKER), probes)
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
    play = acted(steps, settings, probes)
    assert [record.status for record in play.plane.records][-3:] == [200] * 3
    assert [record.retries for record in play.plane.records][-3:] == [0] * 3
    assert "closed" in repr(play.plane.gateway.upstreams["u"].health.breaker)  # type: ignore[union-attr]


@pytest.mark.parametrize("probes", [(), (PASSING,)], ids=["at once", "behind a step"])
def test_a_client_without_a_sticky_cookie_is_given_one(probes: Any) -> None:
    settings = upstream(2, load_balancing={"sticky": {"cookie": "at", "key": "k" * 32}})
    steps: list[Step] = [sends(GET), lambda play: connects(play) if play.plane.pool.waiting else None, answers(OK)]
    play = acted(steps * 3, settings, probes)
    assert play.client.received.lower().count(b"set-cookie: at=") == len(play.plane.records)


@pytest.mark.parametrize("algorithm", ["latency", "least_connections", "random"])
def test_targets_are_picked_by_what_attempts_have_told(algorithm: str) -> None:
    settings = upstream(3, load_balancing={"algorithm": algorithm})
    steps: list[Step] = []
    for number in range(30):
        steps += [sends(GET), lambda play: connects(play) if play.plane.pool.waiting else None]
        steps += [passes(0.1 * (number % 4)), answers(OK)]
    play = acted(steps, settings)
    assert len({record.target for record in play.plane.records}) == 3


@pytest.mark.parametrize("probes", [(), (SLOW,), (MEETING,)], ids=["at once", "behind a step", "met"])
@pytest.mark.parametrize("again", [False, True])
def test_what_may_not_be_repeated_is_if_the_upstream_says_so(again: bool, probes: Any) -> None:
    """It takes a connection that was idle for long, and is sent once more when that closes."""
    settings = upstream(retries={"non_idempotent": again})
    idle: list[Step] = [passes(2.0), sends(POST)]
    play = acted(idle, settings, probes)
    assert len(play.plane.pool.waiting) == (not again)
    play = acted([sends(POST), hangs_up], settings, probes)
    assert len(play.plane.pool.waiting) == again
    acted([*idle, *([hangs_up] if again else []), connects, answers(OK)], settings, probes)


@pytest.mark.parametrize("probes", [(), (SLOW,), (MEETING,)], ids=["at once", "behind a step", "met"])
@pytest.mark.parametrize("most", [10, 10_000])
def test_a_body_that_is_too_long_to_be_kept_is_not_sent_again(most: int, probes: Any) -> None:
    """It is let go of as soon as it was sent."""
    settings = upstream(retries={"body_bytes": most})
    play = acted([sends(PUT), hangs_up], settings, probes)
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
    play = acted(steps, settings, warm=False)
    sent = b"".join(each.received for each in play.upstreams)
    told = {"added": b"tenant=acme", "in front": b"?v=1", "hidden": b"b?b=c HTTP/1.1"}[name]
    assert sent.count(told) == {"added": 6, "in front": 6, "hidden": 4}[name]
    assert (b"sesame" in sent) is (name != "hidden")
