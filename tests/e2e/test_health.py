"""Targets in trouble and breakers, over three workers and a control process: what clients get, what the node says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import admin, read
from tests.e2e.test_reload import Reloadable
from tests.support.client import Client
from tests.support.faults import assert_fault
from tests.support.gateway import wait_until
from tests.support.moody import Moody
from tests.support.peer import DEADLINE

WORKERS = 3
CLIENTS = 24  # of which each worker has some: that one has none happens once in 5,000 runs
ACTIVE = {
    "path": "/healthz",
    "interval": "100ms",
    "timeout": "60s",
    "healthy_threshold": 2,
    "unhealthy_threshold": 2,
}
PASSIVE = {"failures": 3, "window": "60s", "eject": "400ms"}
BREAKER = {"error_rate": "50%", "min_requests": 10, "window": "10s", "open": "500ms", "probes": 3}


PATIENT = {"connect": "60s", "response_headers": "60s", "idle": "60s"}
"""Timeouts that each target keeps, whatever else the machine does."""
IMPATIENT = {**PATIENT, "response_headers": "1s", "idle": "1s"}
"""Timeouts for targets that hang: each failure is waited for."""
COMMON = {"retries": {"max": 0}, "timeouts": PATIENT, "load_balancing": {"panic_threshold": "0%"}}
MOODS = ("503", "resets", "hangs", "hangs_within", "breaks_off", "babbles", "refuses")
"""In which a target is ejected."""


class Scene:
    """One gateway and its upstreams: each test has one of its own. `targets`: of each."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        self.targets: dict[str, list[Moody]] = {}

        def upstream(name: str, *names: bytes, **settings: Any) -> dict[str, Any]:
            self.targets[name] = [stack.enter_context(Moody(each)) for each in names]
            return {**COMMON, **settings, "targets": [{"url": target.url} for target in self.targets[name]]}

        def passive(name: str, *names: bytes, **settings: Any) -> dict[str, Any]:
            # Each on a new connection: a reset of one that was idle may be no sign of ill health.
            checks = {"passive": {**PASSIVE, **settings}}
            timeouts = IMPATIENT if name.startswith("hangs") else PATIENT
            return upstream(name, *names, health_checks=checks, pool={"max_idle": 0}, timeouts=timeouts)

        pair = b"good", b"moody"
        upstreams = {
            "checked": upstream("checked", *pair, health_checks={"active": ACTIVE}),
            "away": upstream("away", *pair, health_checks={"active": {**ACTIVE, "timeout": "200ms"}}),
            "changed": upstream("changed", *pair, b"third", health_checks={"active": ACTIVE}),
            **{mood: passive(mood, *pair) for mood in MOODS},
            "four": passive("four", b"1", b"2", b"3", b"4", failures=2, eject="60s")
            | {"load_balancing": {"algorithm": "least_connections", "panic_threshold": "0%"}},
            "killed": passive("killed", *pair, eject="60s"),
            "broken": upstream("broken", b"moody", circuit_breaker=BREAKER, timeouts=IMPATIENT),
        }
        upstreams["changed"]["targets"].pop()
        for name in ("away", "checked"):
            self.targets[name][1].be("500", b"/healthz")
        config = {
            "workers": WORKERS,
            "upstreams": upstreams,
            "routes": [{"name": name, "paths": [f"/{name}/*"], "upstream": name} for name in upstreams],
        }
        self.gateway = stack.enter_context(Reloadable(config, directory))

    def crowd(self, name: str) -> Crowd:
        return Crowd(self.gateway, name)

    def told(self, name: str, target: Moody | None = None) -> dict[str, Any]:
        """What the admin API says of an upstream, or of one of its targets."""
        (found,) = (each for each in read(self.gateway, "/upstreams")["upstreams"] if each["name"] == name)
        if target is None:
            return dict(found)
        (mine,) = (each for each in found["targets"] if each["url"] == target.url)
        return dict(mine)

    def explained(self, name: str) -> dict[str, Any]:
        """What the running gateway says of a request to an upstream."""
        asked = {"method": "GET", "url": f"http://a.test/{name}/x", "headers": []}
        told = admin(self.gateway, "POST /explain", json.dumps(asked), "application/json")
        assert told.status == 200, told.body
        return dict(told.json)

    def wait_for_health(self, name: str, target: Moody, health: str) -> None:
        wait_until(lambda: self.told(name, target)["health"] == health, f"a target that is {health}", 6 * DEADLINE)

    def lines(self, text: str) -> int:
        return self.gateway.stderr.text().count(text)

    def metric(self, name: str) -> float:
        with Client(str(self.gateway.ready["status"])) as client:
            body = client.exchange(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").body.decode()
        return next(float(line.rpartition(" ")[2]) for line in body.splitlines() if line.startswith(name))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        yield Scene(stack, tmp_path_factory.mktemp("health"))


class Crowd:
    """Clients on connections of their own, which lead to all workers."""

    def __init__(self, gateway: Reloadable, name: str) -> None:
        self._gateway = gateway
        self._request = b"GET /%b/x HTTP/1.1\r\nHost: a\r\n\r\n" % name.encode()
        self._clients: list[Client] = [gateway.connect() for _ in range(CLIENTS)]
        self.turn = 0

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def ask(self) -> Any:
        """One request, by the next client; the answer, or None where it broke off."""
        self.turn = (self.turn + 1) % CLIENTS
        client = self._clients[self.turn]
        try:
            answer = client.exchange(self._request)
        except (AssertionError, OSError):
            answer = None
        if answer is None or answer.get(b"Connection") == b"close":
            client.close()
            self._clients[self.turn] = self._gateway.connect()
        return answer

    def bodies(self) -> list[bytes]:
        """Of each client, one after the other."""
        return [b"" if (answer := self.ask()) is None else answer.body for _ in range(CLIENTS)]


def until(fact: Callable[[], bool], wanted: str) -> None:
    wait_until(fact, wanted, 6 * DEADLINE)


@pytest.mark.landing
def test_checks_take_a_target_out_and_bring_it_back(scene: Scene) -> None:
    """Whatever is wrong with it; no worker asks it, and it gets no requests."""
    good, moody = scene.targets["checked"]
    with scene.crowd("checked") as crowd:
        for mood, problem in (("500", "status 500"), ("refuses", "connect_refused"), ("resets", "connection_lost")):
            moody.be(mood, b"/healthz")
            scene.wait_for_health("checked", moody, "unhealthy")
            assert scene.told("checked", moody)["problem"].startswith(problem)
            until(lambda: set(crowd.bodies()) == {b"good"}, "all workers to know")
            served = moody.served
            assert set(crowd.bodies()) == {b"good"}
            assert moody.served == served
            for _ in range(3):
                explained = scene.explained("checked")
                assert explained["explanation"]["target"] == good.url
                assert "1 of 1 eligible of 2; upstream checked" in explained["text"]
            moody.be("ok")
            scene.wait_for_health("checked", moody, "healthy")
            until(lambda: set(crowd.bodies()) == {b"good", b"moody"}, "all workers to know")
            assert {scene.explained("checked")["explanation"]["target"] for _ in range(9)} == {good.url, moody.url}
    assert scene.told("checked", moody)["problem"] == ""
    until(lambda: scene.lines(f"upstream checked: {moody.address} is healthy again") == 3, "the last line")
    assert scene.lines(f"upstream checked: {moody.address} is unhealthy") == 3
    assert scene.metric('fastgw_upstream_targets{health="healthy",upstream="checked"}') == 2


@pytest.mark.landing
def test_checks_follow_the_targets(scene: Scene) -> None:
    """One that is put in place of another is checked, and the other no more; it inherits nothing."""
    good, moody, third = scene.targets["changed"]
    scene.wait_for_health("changed", moody, "healthy")
    moody.be("500", b"/healthz")
    scene.wait_for_health("changed", moody, "unhealthy")
    targets = json.dumps([{"url": good.url}, {"url": third.url}])
    assert admin(scene.gateway, "PUT /upstreams/changed/targets", targets, "application/json").status == 200
    scene.wait_for_health("changed", third, "healthy")
    asked, checked = moody.requests[b"/healthz"], third.requests[b"/healthz"]
    until(lambda: third.requests[b"/healthz"] > checked + 3, "some more checks")
    assert moody.requests[b"/healthz"] == asked
    with scene.crowd("changed") as crowd:
        until(lambda: set(crowd.bodies()) == {b"good", b"third"}, "all workers to know")


@pytest.mark.parametrize("mood", MOODS)
def test_a_target_that_fails_is_ejected_by_all_workers_and_comes_back(scene: Scene, mood: str) -> None:
    """Three failures in a row, on whichever workers; one request at a time, so that they can be counted."""
    _, moody = scene.targets[mood]
    with scene.crowd(mood) as crowd:
        assert set(crowd.bodies()) == {b"good", b"moody"}
        moody.be(mood)
        failed = 0
        while not scene.told(mood)["ejections"]:
            answer = crowd.ask()
            failed += answer is None or answer.status >= 500
            assert failed <= PASSIVE["failures"]
        assert failed == PASSIVE["failures"]
        until(lambda: set(crowd.bodies()) == {b"good"}, "all workers to know")
        moody.be("ok")
        until(lambda: set(crowd.bodies()) == {b"good", b"moody"}, "the target to be back")
    # Once, or again for what was asked of it before it came back and failed only then.
    line = f"upstream {mood}: {moody.address} is ejected"
    until(lambda: scene.told(mood)["ejections"] == scene.lines(line) >= 1, "a line for each ejection")
    scene.gateway.stderr.wait_for(lambda line: b"upstream %b" % mood.encode() in line and b"no longer" in line)


@pytest.mark.landing
def test_not_all_are_ejected_whoever_fails(scene: Scene) -> None:
    """Nobody can connect to any of four: two stay, on all workers."""
    for target in scene.targets["four"]:
        target.be("refuses")
    with scene.crowd("four") as crowd:
        for _ in range(3):
            crowd.bodies()

    def are_as_many_as_may_be() -> bool:
        """A worker writes an ejection first, and takes it back where there are too many."""
        healths = [scene.told("four", target)["health"] for target in scene.targets["four"]]
        return sorted(healths) == ["ejected", "ejected", "failing", "failing"]

    wait_until(are_as_many_as_may_be, "two of them to be ejected")


@pytest.mark.landing
def test_a_breaker_opens_for_all_workers_and_closes_after_probes_of_the_node(scene: Scene) -> None:
    """Three probes pass on the node, not on each worker; one that fails opens it again."""
    (moody,) = scene.targets["broken"]

    def is_refused() -> bool:
        answer = crowd.ask()
        if answer is None or answer.status != 503:
            return False
        assert_fault(answer, "circuit_open")
        assert answer.get(b"Retry-After") == b"1"
        return True

    def is_half_open() -> bool:
        return scene.told("broken")["breaker"] == "half_open"

    def openings() -> int:
        return int(scene.told("broken")["breaker_openings"])

    with scene.crowd("broken") as crowd:
        assert set(crowd.bodies()) == {b"moody"}
        moody.be("500")
        refused: set[int] = set()
        """Clients that were refused, in whichever of the times in which it is open."""

        def are_all_refused() -> bool:
            for _ in range(CLIENTS):
                if is_refused():
                    refused.add(crowd.turn)
            return len(refused) == CLIENTS

        until(are_all_refused, "the breaker to open for all")
        until(lambda: is_refused() and "circuit_open" in scene.explained("broken")["text"], "explain to say so")
        moody.be("hangs")  # nobody knows of probes what comes of them, for a second
        served, before = moody.served, openings()
        until(is_half_open, "it to be half-open")

        def has_opened() -> bool:
            """Ask, too: workers may learn a moment later than control that it is half-open."""
            ask_at_once(scene.gateway, "broken", 2 * BREAKER["probes"])
            return openings() > before

        until(has_opened, "the probes to fail")
        until(lambda: moody.served - served <= BREAKER["probes"] * (openings() - before), "an opening for all probes")
        moody.be("ok")
        until(lambda: set(crowd.bodies()) == {b"moody"}, "the breaker to be closed for all")
    assert scene.told("broken")["breaker"] == "closed"
    assert scene.metric('fastgw_upstream_breaker_state{upstream="broken"}') == 0
    assert scene.metric('fastgw_upstream_breaker_openings_total{upstream="broken"}') == openings()
    until(lambda: scene.lines("upstream broken: its breaker is open") == openings(), "a line for each opening")
    scene.gateway.stderr.wait_for(lambda line: b"upstream broken: its breaker is closed again" in line)


def ask_at_once(gateway: Reloadable, name: str, clients: int) -> None:
    """Let clients ask once at the same time, each on a new connection, so that all workers are asked."""

    def ask(_: int) -> None:
        with gateway.connect() as client:
            client.exchange(b"GET /%b/x HTTP/1.1\r\nHost: a\r\n\r\n" % name.encode())

    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(ask, range(clients)))


@pytest.mark.landing
def test_a_killed_worker_takes_no_ejection_along(scene: Scene) -> None:
    gateway = scene.gateway
    _, moody = scene.targets["killed"]
    with scene.crowd("killed") as crowd:
        moody.be("503")
        until(lambda: set(crowd.bodies()) == {b"good"}, "the ejection")
    before = min(gateway.worker_pids)
    os.kill(before, signal.SIGKILL)
    until(lambda: len(set(gateway.worker_pids) - {before}) == WORKERS, "the next worker")
    with scene.crowd("killed") as crowd:
        assert set(crowd.bodies()) == {b"good"}
    assert scene.told("killed", moody)["health"] == "ejected"


def test_while_control_is_away_nothing_is_known_of_a_target_and_requests_go_on(scene: Scene) -> None:
    gateway = scene.gateway
    _, moody = scene.targets["away"]
    scene.wait_for_health("away", moody, "unhealthy")
    with scene.crowd("away") as crowd:
        until(lambda: set(crowd.bodies()) == {b"good"}, "all workers to know")
        os.kill(gateway.control_pid, signal.SIGSTOP)
        until(lambda: set(crowd.bodies()) == {b"good", b"moody"}, "the verdict to expire")
        asked = moody.requests[b"/healthz"]
        os.kill(gateway.control_pid, signal.SIGKILL)
        assert None not in [crowd.ask() for _ in range(CLIENTS)]
        until(lambda: moody.requests[b"/healthz"] > asked, "the next control process to check")
        until(lambda: set(crowd.bodies()) == {b"good"}, "all workers to know again")
