"""An API server that is away for an hour, by a clock of the test's own: attempts, objects, what is told, the Lease.

Nothing counts how long it was away, so an hour is no different from a minute: after some seconds every attempt waits
equally long, reads the credentials anew, and lists when it succeeds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.runtime.control.kubernetes import leader_election, watch
from fastgw.runtime.control.kubernetes.api_client import CannotAsk, RequestRefused
from fastgw.runtime.control.kubernetes.cluster_objects import ClusterObjects
from fastgw.runtime.control.kubernetes.leader_election import DURATION_S, EVERY_S, LeaderElection
from fastgw.runtime.control.kubernetes.watch import LONGEST_PAUSE_S, WATCH_S, Following
from tests.support.gateway import messages

HOUR = 3600.0


class Over(Exception):
    """The time of the test has passed."""


class Clock:
    """Time that passes in `sleep` alone."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ends_at = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.ends_at:
            raise Over

    async def run(self, work: Callable[[], Any], seconds: float) -> None:
        """Let this time pass."""
        self.ends_at = self.now + seconds
        with pytest.raises(Over):
            await work()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (watch, leader_election):
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": clock.sleep}))
    return clock


class ApiServer:
    """Stand-in, and the access to it."""

    def __init__(self) -> None:
        self.is_away = self.ends_watches = False
        self.watches = 0
        self.token = self.accepted = "first"
        self.attempts = self.asked_lists = self.lists = self.refused = 0
        self.items: list[dict[str, Any]] = []
        self.lease: dict[str, Any] | None = None

    async def client(self, path: str, namespace: str = "") -> ApiServer:
        self.attempts += 1
        self._shown = self.token
        return self

    def _answer(self) -> None:
        if self.is_away:
            raise CannotAsk("connection refused")
        if self._shown != self.accepted:
            raise RequestRefused(401, "Unauthorized")
        if self.refused:
            raise RequestRefused(self.refused, "no")

    async def list(self, **asked: Any) -> bytes:
        self.asked_lists += 1
        self._answer()
        self.lists += 1
        return json.dumps({"kind": "ServiceList", "metadata": {"resourceVersion": "7"}, "items": self.items}).encode()

    @asynccontextmanager
    async def watch(self, since: str, seconds: float, **asked: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        self._answer()
        self.watches += 1

        async def events() -> AsyncIterator[bytes]:
            await watch.asyncio.sleep(0 if self.ends_watches else seconds)  # nothing happens until the watch ends
            self._answer()
            return
            yield b""

        yield events()

    async def get(self, path: str) -> bytes:
        self._answer()
        if self.lease is None:
            raise RequestRefused(404, "not found")
        return json.dumps(self.lease).encode()

    async def send(self, method: str, path: str, body: Any, *more: Any) -> None:
        self._answer()
        self.lease = body

    async def close(self, failed: bool = False) -> None:
        pass


def service(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": {}}


def test_objects_stay_for_the_hour_and_are_listed_again_within_seconds_after_it(
    clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    """An attempt every 2.5 to 5 s, one line in the log for all of them, and one when the API server is back. The token
    was replaced meanwhile; everything is listed, so that a history that is gone does not matter.
    """
    server = ApiServer()
    objects = ClusterObjects(lambda: None, lambda: None)
    following = Following("Service", server, "", objects, "kubernetes/Service")  # type: ignore[arg-type]

    def known() -> set[str]:
        return {name for _, name in objects.cluster().all("Service")}

    async def live() -> None:
        server.items = [service("cart")]
        await clock.run(following.run, 300.0)
        assert (known(), server.lists) == ({"cart"}, 1)
        server.is_away, server.attempts = True, 0
        await clock.run(following.run, HOUR)
        assert known() == {"cart"}
        assert HOUR / LONGEST_PAUSE_S <= server.attempts <= 2 * HOUR / LONGEST_PAUSE_S + 10
        assert following.report.info.problem == "connection refused"
        server.items, server.token, server.accepted = [service("books")], "second", "second"
        server.is_away = False
        await clock.run(following.run, LONGEST_PAUSE_S)
        assert (known(), server.lists) == ({"books"}, 2)
        await clock.run(following.run, WATCH_S[1] + LONGEST_PAUSE_S)  # a watch that ends in time
        assert (server.lists, following.report.info.problem) == (2, "")

    asyncio.run(live())
    told = messages(capfd.readouterr().err)
    assert [each for each in told if "kubernetes/Service" in each] == [
        "kubernetes/Service: connection refused; the last known objects stay in use",
        "kubernetes/Service: reachable again",
    ]


@pytest.mark.parametrize("status", [401, 429])
def test_a_watch_that_is_refused_for_an_hour_goes_on_without_a_list(clock: Clock, status: int) -> None:
    """Lists of everything are no answer to a token that has expired or an API server with too much load."""
    server = ApiServer()
    objects = ClusterObjects(lambda: None, lambda: None)
    following = Following("Service", server, "", objects, "kubernetes/Service")  # type: ignore[arg-type]

    async def live() -> None:
        await clock.run(following.run, 300.0)
        server.refused, server.attempts = status, 0
        await clock.run(following.run, HOUR)
        assert server.attempts >= HOUR / LONGEST_PAUSE_S
        assert following.report.info.problem == "no"
        server.refused = 0
        await clock.run(following.run, LONGEST_PAUSE_S + WATCH_S[1])
        assert (following.report.info.problem, server.asked_lists) == ("", 1)

    asyncio.run(live())


def test_watches_that_end_at_once_without_an_event_are_begun_again_seldom(clock: Clock) -> None:
    """As those that are refused, though each is answered with 200."""
    server = ApiServer()
    objects = ClusterObjects(lambda: None, lambda: None)
    following = Following("Service", server, "", objects, "kubernetes/Service")  # type: ignore[arg-type]

    async def live() -> None:
        server.ends_watches = True
        await clock.run(following.run, HOUR)
        assert HOUR / LONGEST_PAUSE_S <= server.watches <= 2 * HOUR / LONGEST_PAUSE_S + 10
        assert server.lists == 1

    asyncio.run(live())


INVALID_LEASES = [
    [],
    "x",
    {"spec": []},
    {"spec": {"holderIdentity": 7}},
    {"spec": {"leaseDurationSeconds": "long"}},
    {"spec": {"holderIdentity": "", "leaseTransitions": "many"}},
]


@pytest.mark.parametrize("lease", INVALID_LEASES, ids=str)
def test_an_invalid_lease_ends_no_election(clock: Clock, lease: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """A leader no longer writes, and `changed` is called. The log has one line; a valid Lease is taken soon."""
    server = ApiServer()
    changes: list[bool] = []
    election = LeaderElection(server, "fastgw", "lease", lambda: changes.append(election.is_leader))  # type: ignore[arg-type]

    async def live() -> None:
        await clock.run(election.run, 60.0)
        server.lease = lease
        await clock.run(election.run, HOUR)
        assert (election.is_leader, changes) == (False, [True, False])
        server.lease = None
        await clock.run(election.run, DURATION_S)
        assert (election.is_leader, changes) == (True, [True, False, True])

    asyncio.run(live())
    (line,) = [each for each in messages(capfd.readouterr().err) if "Lease" in each]
    assert line.startswith("leader election: the Lease fastgw/lease is invalid: Expected ")


@pytest.mark.parametrize("who", ["itself", "another replica, gone since", "another replica"])
def test_the_lease_is_nobodys_for_the_hour_and_taken_again_after_it(clock: Clock, who: str) -> None:
    """Without the API server a leader stops writing before its Lease ends. Afterwards the Lease is renewed, or taken
    over a duration after it was seen: how old it is by its own clock counts for nothing.
    """
    server = ApiServer()
    changes: list[bool] = []
    election = LeaderElection(server, "fastgw", "lease", lambda: changes.append(election.is_leader))  # type: ignore[arg-type]

    async def live() -> None:
        await clock.run(election.run, 60.0)
        assert (election.is_leader, changes) == (True, [True])
        server.is_away = True
        await clock.run(election.run, HOUR)
        assert (election.is_leader, changes) == (False, [True, False])
        server.is_away = False
        assert server.lease is not None
        if who != "itself":
            server.lease["spec"]["holderIdentity"] = "other"
        await clock.run(election.run, 5.0)
        assert election.is_leader is (who == "itself")
        for _ in range(6):
            if who == "another replica":
                server.lease["spec"]["renewTime"] = f"{clock.now}"
            await clock.run(election.run, DURATION_S / 3)
        assert election.is_leader is (who != "another replica")

    asyncio.run(live())


@pytest.mark.parametrize("date", ["1970-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"])
def test_a_leader_whose_lease_another_replica_takes_stops_whatever_the_clock_of_that_one_says(
    clock: Clock, date: str
) -> None:
    """It stops when it sees the Lease, and takes it back once the other one has not renewed it for its duration."""
    server = ApiServer()
    election = LeaderElection(server, "fastgw", "lease", lambda: None)  # type: ignore[arg-type]

    async def live() -> None:
        await clock.run(election.run, 60.0)
        assert server.lease is not None
        taken = {"holderIdentity": "other", "renewTime": date, "leaseDurationSeconds": DURATION_S}
        server.lease["spec"] |= taken
        await clock.run(election.run, EVERY_S + 1)
        assert not election.is_leader
        assert server.lease["spec"] | taken == server.lease["spec"]
        await clock.run(election.run, DURATION_S - EVERY_S)
        assert not election.is_leader
        await clock.run(election.run, DURATION_S)
        assert election.is_leader

    asyncio.run(live())
