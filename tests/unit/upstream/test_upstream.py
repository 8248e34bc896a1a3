"""What an upstream picks from when something about its targets changes, and what it keeps over a reload."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fastgw.config.base.value_types import parse_url
from fastgw.config.settings import gateway as settings
from fastgw.errors import Fault
from fastgw.eventloop.timer_wheel import Wheel
from fastgw.shm.health_words import HealthWords
from fastgw.shm.memory import Layout, SharedMemory
from fastgw.upstream.connections.pool_limit import LocalLimit
from fastgw.upstream.health.circuit_breaker import BreakerPhase
from fastgw.upstream.health.upstream_health import Health, HealthPoller
from fastgw.upstream.load_balancing import NoTarget
from fastgw.upstream.load_balancing.load_tracking import Loads
from fastgw.upstream.load_balancing.random_choice import LatencyBalancing
from fastgw.upstream.load_balancing.round_robin import SingleTarget
from fastgw.upstream.targets.target import Target, build_targets
from fastgw.upstream.upstream import Upstream
from tests.support.attempts import record
from tests.unit.upstream.load_balancing.test_balancers import asked, loads_of


def configured(*weights: int, priorities: str = "", **balancing: Any) -> settings.Upstream:
    return settings.Upstream(
        targets=tuple(
            settings.Target(
                url=parse_url(f"http://{'abcdef'[slot]}:80"),
                weight=weight,
                priority=int(priorities[slot]) if priorities else 0,
            )
            for slot, weight in enumerate(weights)
        ),
        load_balancing=settings.LoadBalancing(**balancing),
    )


class Running:
    """An upstream in a worker, at an instant that the test says."""

    def __init__(self, configuration: settings.Upstream, before: Running | None = None) -> None:
        old = before.upstream if before is not None else None
        self.worker_loop: Any = before.worker_loop if before is not None else SimpleNamespace(wheel=Wheel(1000.0))
        there = old.targets_by_url if old is not None else settings.NONE
        self.upstream = Upstream("u", configuration, build_targets(configuration, None, there), None, b"", old)
        for slot, target in enumerate(self.upstream.targets):
            target.slot = slot
        (self.loads,) = loads_of(len(self.upstream.targets))
        self.upstream.start(self.worker_loop, 1, LocalLimit(9), LocalLimit(9), self.loads, b"a key of this run")

    def target(self, name: str) -> Target:
        (found,) = (target for target in self.upstream.targets if target.host == name)
        return found

    def shun(self, names: str) -> None:
        self.upstream.shunned = {self.target(name) for name in names}
        self.upstream.settle()

    def advance(self, seconds: float) -> None:
        wheel = self.worker_loop.wheel
        for _ in range(int(seconds / 0.05)):
            wheel.advance(wheel.now + 0.05)

    def shares(self) -> dict[str, float]:
        counted: Counter[str] = Counter()
        for _ in range(1000):
            target = self.upstream.balancer.pick(asked())
            assert target is not None
            counted[target.host] += 1
        return {name: count / 1000 for name, count in sorted(counted.items())}

    def names(self) -> str:
        return "".join(self.shares())


# --- which targets ---


def test_the_next_group_takes_over_and_gives_back():
    running = Running(configured(1, 1, 1, 1, priorities="0011"))
    assert running.names() == "ab"
    running.shun("a")
    assert running.names() == "b"
    running.shun("ab")
    assert running.names() == "cd"
    running.shun("b")
    assert running.names() == "a"


def test_a_group_that_is_too_small_is_helped():
    running = Running(configured(1, 1, 1, priorities="001", spill_below=0.6))
    running.shun("a")
    assert running.names() == "bc"


def test_when_most_are_ill_all_are_used_but_those_that_somebody_drains():
    running = Running(configured(1, 1, 1, 1))
    running.shun("ab")
    assert running.names() == "cd"
    running.shun("abc")
    assert running.names() == "abcd"
    running.upstream.drain({"a:80"})
    assert running.names() == "bcd"
    running.shun("bcd")
    assert running.names() == "bcd"


def test_without_a_panic_threshold_nobody_may_be_left():
    running = Running(configured(1, 1, panic_threshold=0.0))
    running.shun("ab")
    assert isinstance(running.upstream.balancer, NoTarget)
    assert running.upstream.unavailable() is Fault.NO_HEALTHY_TARGET
    running.shun("a")
    assert running.names() == "b"


def test_the_last_resort_is_a_target_that_is_ejected_and_nothing_else():
    running = Running(configured(1, 1, 0, 1))
    upstream, a, b, c, d = running.upstream, *map(running.target, "abcd")
    running.shun("abcd")
    assert upstream.last_resort(()) is None  # active checks have found them unhealthy
    upstream.ejected = frozenset((b, c, d))
    assert upstream.last_resort((a,)) is b
    assert upstream.last_resort((a, b)) is d  # c has the weight 0
    upstream.drain({"d:80"})
    assert upstream.last_resort((a, b)) is None


def test_a_backup_is_a_target_of_the_next_group_that_is_available():
    running = Running(configured(1, 1, 1, 0, 1, 1, priorities="001112"))
    upstream, a, b, c, _, e, f = running.upstream, *map(running.target, "abcdef")
    assert upstream.backup(asked(), ()) is None
    assert upstream.backup(asked(), (a,)) is None  # b is in use
    assert {upstream.backup(asked(), (a, b)) for _ in range(4)} == {c, e}
    assert upstream.backup(asked(), (a, b, c)) is e
    assert upstream.backup(asked(), (a, b, c, e)) is f
    assert upstream.backup(asked(), (a, b, c, e, f)) is None
    running.shun("c")
    assert upstream.backup(asked(), (a, b)) is e
    upstream.drain({"e:80"})
    assert upstream.backup(asked(), (a, b)) is f


@pytest.mark.parametrize("algorithm", ["round_robin", "random"])
def test_backups_are_selected_by_weight(algorithm: Any) -> None:
    running = Running(configured(1, 3, 1, priorities="011", algorithm=algorithm))
    counted = Counter(running.upstream.backup(asked(), (running.target("a"),)) for _ in range(2000))
    assert {*counted} == {running.target("b"), running.target("c")}
    assert counted[running.target("b")] / 2000 == pytest.approx(0.75, abs=0.06)


def test_the_backup_of_a_hash_is_the_target_that_takes_over_its_key() -> None:
    running = Running(configured(1, 1, 1, 1, priorities="0111", algorithm="ip_hash"))
    clients = [asked(f"10.0.0.{number}") for number in range(50)]
    backups = [running.upstream.backup(client, (running.target("a"),)) for client in clients]
    running.shun("a")
    assert [running.upstream.balancer.pick(client) for client in clients] == backups


def test_without_a_panic_threshold_there_is_no_last_resort():
    running = Running(configured(1, 1, panic_threshold=0.0))
    running.shun("a")
    running.upstream.ejected = frozenset((running.target("a"),))
    assert running.upstream.last_resort(()) is None


def test_one_target_in_use_costs_nothing_to_choose():
    running = Running(configured(1, 1, algorithm="consistent_hash"))
    running.shun("a")
    assert isinstance(running.upstream.balancer, SingleTarget)


@pytest.mark.parametrize("algorithm", ["round_robin", "random", "ip_hash"])
def test_a_plain_upstream_is_not_told_of_its_attempts(algorithm: Any) -> None:
    assert Running(configured(1, 1, algorithm=algorithm)).upstream.attempt_listeners == ()
    assert Running(configured(1, 1, algorithm="consistent_hash", load_factor=None)).upstream.attempt_listeners == ()


@pytest.mark.parametrize("algorithm", ["least_connections", "latency", "consistent_hash"])
def test_who_goes_by_what_is_under_way_is_told_of_it(algorithm: Any) -> None:
    running = Running(configured(1, 1, algorithm=algorithm))
    assert running.upstream.attempt_listeners[0] is running.loads
    running.loads.attempt_begun(record(running.target("b")))
    assert (running.loads.of(running.target("b")), running.loads.of_all()) == (1, 1)
    running.loads.attempt_ended(record(running.target("b")))
    assert running.loads.of_all() == 0


# --- slow start ---


@pytest.mark.parametrize("algorithm", ["round_robin", "random", "least_connections"])
def test_a_target_that_comes_back_gets_its_share_little_by_little(algorithm: Any) -> None:
    running = Running(configured(1, 1, algorithm=algorithm, slow_start=10.0))
    assert running.shares()["a"] == pytest.approx(0.5, abs=0.06)
    running.shun("a")
    running.advance(3.0)
    running.shun("")
    running.advance(0.5)  # weights grow by steps of a tenth of the time
    seen = []
    for _ in range(6):
        seen.append(running.shares()["a"])
        running.advance(2.0)
    wanted = [0.1 / 1.1, 0.2 / 1.2, 0.4 / 1.4, 0.6 / 1.6, 0.8 / 1.8, 0.5]
    assert seen == pytest.approx(wanted, abs=0.06)
    assert not running.upstream._rising._since  # type: ignore[union-attr]


def test_a_drained_target_rises_when_it_is_back_and_a_new_one_as_well():
    running = Running(configured(1, 1, slow_start=10.0))
    running.upstream.drain({"a:80"})
    running.upstream.drain(set())
    assert running.shares()["a"] == pytest.approx(0.1 / 1.1, abs=0.01)
    running.advance(20.0)
    after = Running(configured(1, 1, 1, slow_start=10.0), running)
    assert after.shares() == pytest.approx({"a": 1 / 2.1, "b": 1 / 2.1, "c": 0.1 / 2.1}, abs=0.01)


def test_what_rises_goes_on_rising_over_a_reload():
    running = Running(configured(1, 1, slow_start=10.0))
    running.shun("a")
    running.shun("")
    running.advance(5.0)
    after = Running(configured(1, 2, slow_start=10.0), running)
    assert after.shares()["a"] == pytest.approx(0.5 / 2.5, abs=0.02)


def test_targets_that_are_there_at_the_start_do_not_rise():
    assert Running(configured(1, 1, slow_start=10.0)).shares() == pytest.approx({"a": 0.5, "b": 0.5})


# --- over a reload ---


def test_targets_that_stay_keep_their_pool_whatever_their_weights():
    running = Running(configured(1, 1))
    after = Running(configured(2, 0, 1, algorithm="random"), running)
    assert after.upstream.pool is running.upstream.pool
    assert after.upstream.targets[:2] == running.upstream.targets
    assert after.upstream.pool.targets == after.upstream.targets
    running.upstream.retire(after.upstream)
    assert after.upstream.pool.targets == after.upstream.targets
    fewer = Running(configured(3), after)
    after.upstream.retire(fewer.upstream)
    assert fewer.upstream.pool.targets == fewer.upstream.targets


def test_an_upstream_without_requests_in_flight_follows_the_limits_of_its_successor():
    """A request that waits in a filter may come to it later."""
    running, after = Running(configured(1)), Running(configured(1))
    after.upstream.pool._limit.most = 3
    running.upstream.retire(after.upstream)
    assert running.upstream.pool._limit.most == 3


def test_a_change_that_is_not_made_leaves_no_target_behind():
    running = Running(configured(1, 1))
    built = Running(configured(1, 1, 1), running)
    built.upstream.retire(running.upstream)
    assert running.upstream.pool.targets == running.upstream.targets


def test_who_speaks_otherwise_to_its_targets_begins_anew():
    running = Running(configured(1, 1))
    upstream = running.upstream
    assert upstream.goes_on(configured(2, 1), None)
    slow = settings.UpstreamTimeouts(response_headers=99.0)
    for changed in ({"timeouts": slow}, {"host_header": "a.test"}, {"pool": settings.Pool(max_idle=1)}):
        other = settings.Upstream(targets=upstream.settings.targets, **changed)
        assert not upstream.goes_on(other, None)


def test_what_is_known_of_latencies_is_kept():
    running = Running(configured(1, 1, algorithm="latency"))
    watch = running.upstream.attempt_listeners[1]
    watch.attempt_answered(record(running.target("a"), 5.0, 200))
    watch.attempt_answered(record(running.target("b"), 0.001, 200))
    after = Running(configured(1, 3, algorithm="latency"), running)
    assert isinstance(after.upstream.balancer, LatencyBalancing)
    assert after.names() == "b"


def test_explaining_needs_no_worker():
    for algorithm in ("least_connections", "latency", "consistent_hash"):
        configuration = configured(1, 1, algorithm=algorithm, sticky=settings.Sticky(cookie="lb"))
        upstream = Upstream("u", configuration, build_targets(configuration), None)
        assert upstream.balancer.pick(asked()) in upstream.targets
        assert Loads().of(upstream.targets[0]) == 0


# --- other targets in place


def test_targets_that_are_replaced_in_place_share_at_once_and_the_others_keep_their_state() -> None:
    running = Running(configured(1, 1, 2))
    upstream, kept = running.upstream, running.target("b")
    running.shun("c")
    more = configured(0, 1, 0, 3)
    now = msgspec.structs.replace(upstream.settings, targets=(more.targets[1], more.targets[3]))
    upstream.use_targets(now, build_targets(now, None, upstream.targets_by_url))
    assert running.shares() == {"b": pytest.approx(0.25, abs=0.01), "d": pytest.approx(0.75, abs=0.01)}
    assert running.target("b") is kept
    assert not upstream.shunned
    assert set(upstream.pool.targets) == set(upstream.targets)
    upstream.use_targets(msgspec.structs.replace(now, targets=()), ())
    assert isinstance(upstream.balancer, NoTarget)


def test_a_target_that_is_added_in_place_starts_slowly() -> None:
    running = Running(configured(1, 1, slow_start=10.0))
    running.advance(20)
    now = msgspec.structs.replace(running.upstream.settings, targets=configured(1, 1, 1).targets)
    running.upstream.use_targets(now, build_targets(now, None, running.upstream.targets_by_url))
    assert running.shares()["c"] < 0.1
    running.advance(20)
    assert running.shares()["c"] == pytest.approx(1 / 3, abs=0.02)


# --- health while the targets change


class Followed:
    """An upstream whose targets and breaker are followed as in a worker: `a` is always a target, others come and go."""

    def __init__(self, names: str = "ab", **configuration: Any) -> None:
        layout = Layout()
        self.words = HealthWords(layout)
        self.shared = SharedMemory.create(layout, 1)
        self.configuration = configuration
        self.running = Running(self.of(names))
        self.follow()

    def of(self, names: str) -> settings.Upstream:
        targets = tuple(settings.Target(url=parse_url(f"http://{name}:80")) for name in names)
        return settings.Upstream(targets=targets, **self.configuration)

    def follow(self) -> None:
        upstream, column, wheel = self.running.upstream, self.shared.columns[0], self.running.worker_loop.wheel
        slots = {target: ord(target.host) for target in upstream.targets}
        for target, slot in slots.items():
            self.words.enter(column, slot, target.label)
        upstream.look_after(Health(upstream, self.words, column, 0, slots, clock=lambda: wheel.now))
        self.outlook = HealthPoller(wheel, self.words, column, [upstream.health])  # type: ignore[list-item]
        self.outlook.start()

    def replace(self, names: str) -> None:
        """As when a source of targets has changed."""
        self.outlook.stop()
        upstream, now = self.running.upstream, self.of(names)
        upstream.use_targets(now, build_targets(now, None, upstream.targets_by_url))
        self.follow()

    def reload(self, names: str) -> None:
        """As when the configuration has changed."""
        self.outlook.stop()
        before, self.running = self.running, Running(self.of(names), self.running)
        self.follow()
        before.upstream.retire(self.running.upstream)

    def answer(self, status: int, name: str = "a") -> None:
        health = self.running.upstream.health
        assert health is not None
        health.attempt_answered(record(self.running.target(name), 0.0, status))

    def passes(self) -> bool:
        """Whether one more request passes."""
        request: Any = SimpleNamespace()
        return self.running.upstream.balancer.pick(request) is not None

    @property
    def phase(self) -> BreakerPhase:
        health = self.running.upstream.health
        assert health is not None
        assert health.breaker is not None
        return health.breaker.phase


BREAKER = settings.CircuitBreaker(min_requests=20, window=10.0, open=5.0, probes=1)


@pytest.mark.parametrize("changes", [[], [Followed.replace], [Followed.reload], [Followed.reload, Followed.replace]])
def test_a_target_that_is_configured_twice_is_ejected_like_any_other(changes: list[Any]) -> None:
    """Of a list that is new, the two are two targets with one slot; after a change they are the same one."""
    followed = Followed("aab", health_checks=settings.HealthChecks())
    for change in changes:
        change(followed, "aab")
    upstream = followed.running.upstream
    assert upstream.health is not None
    upstream.health.attempt_given_up(record(upstream.targets[0], 0.0), Fault.CONNECT_REFUSED, "")
    assert {target.host for target in upstream.ejected} == {"a"}


@pytest.mark.parametrize("change", [Followed.replace, Followed.reload])
def test_a_breaker_counts_on_while_targets_come_and_go(change: Any) -> None:
    followed = Followed(circuit_breaker=BREAKER)
    for number in range(6):
        for _ in range(3):
            followed.answer(503)
        followed.running.advance(1.0)
        change(followed, "abc" if number % 2 else "ab")
    followed.answer(503)
    assert followed.phase is BreakerPhase.CLOSED
    followed.answer(503)
    assert followed.phase is BreakerPhase.OPEN
    change(followed, "abcd")
    assert followed.phase is BreakerPhase.OPEN
    assert isinstance(followed.running.upstream.balancer, NoTarget)


@pytest.mark.parametrize("change", [Followed.replace, Followed.reload])
def test_a_breaker_that_has_closed_counts_on_while_targets_come_and_go(change: Any) -> None:
    followed = Followed(circuit_breaker=BREAKER)
    for _ in range(20):
        followed.answer(503)
    followed.running.advance(5.1)
    assert followed.phase is BreakerPhase.HALF_OPEN
    change(followed, "abc")
    followed.answer(200)
    assert followed.phase is BreakerPhase.CLOSED
    for number in range(20):
        followed.answer(503)
        change(followed, "abc" if number % 2 else "ab")
    assert followed.phase is BreakerPhase.OPEN


def test_probes_without_a_result_are_replaced_while_targets_come_and_go() -> None:
    followed = Followed(circuit_breaker=BREAKER)
    for _ in range(20):
        followed.answer(503)
    followed.running.advance(5.1)
    assert followed.passes()
    assert not followed.passes()
    for number in range(7):
        followed.running.advance(1.0)
        followed.replace("abc" if number % 2 else "ab")
    assert followed.passes()


@pytest.mark.parametrize("change", [Followed.replace, Followed.reload])
def test_the_share_of_errors_of_a_target_counts_on_while_others_come_and_go(change: Any) -> None:
    passive = settings.PassiveHealth(error_rate=0.5, min_requests=20, window=10.0)
    followed = Followed(health_checks=settings.HealthChecks(passive=passive))
    for number in range(19):
        followed.answer(500)
        followed.answer(200, "b")
        change(followed, "abc" if number % 2 else "ab")
    assert not followed.running.upstream.ejected
    followed.answer(500)
    assert followed.running.upstream.ejected == {followed.running.target("a")}
