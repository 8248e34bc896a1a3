"""Outlier ejection and breakers: several workers over one memory, and a clock that stands still."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fastgw.config.base.value_types import parse_url
from fastgw.config.settings import gateway as settings
from fastgw.errors import Fault
from fastgw.eventloop.timer_wheel import Wheel
from fastgw.shm.health_words import Ejection, HealthVerdict, HealthWords
from fastgw.shm.memory import Layout, SharedMemory
from fastgw.upstream.health.circuit_breaker import BreakerPhase
from fastgw.upstream.health.error_window import SLOTS, Window
from fastgw.upstream.health.outlier_ejection import most_ejected
from fastgw.upstream.health.upstream_health import Health, HealthEvent, HealthPoller
from fastgw.upstream.load_balancing import BalancingRequest
from fastgw.upstream.targets.target import Target, build_targets
from tests.support.attempts import record
from tests.support.table import for_each

ASKED: Any = SimpleNamespace()
"""Somebody's request: nobody looks at it here."""


class Always:
    """A balancer that has an answer."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def pick(self, asked: BalancingRequest, tried: Any = ()) -> Target:
        return self.target


class Group:
    """One worker's side of an upstream."""

    def __init__(self, node: Node, worker: int) -> None:
        self.settings = node.settings
        self.targets = build_targets(node.settings)
        self.shunned: frozenset[Target] = frozenset()
        self.ejected: frozenset[Target] = frozenset()
        self.drained: frozenset[Target] = frozenset()
        self.settled = 0
        self.events: list[HealthEvent] = []
        column = node.shared.columns[worker]
        node.words.enter_upstream(column, 7, "users")
        slots = dict(zip(self.targets, range(20, 20 + len(self.targets)), strict=True))
        for target, slot in slots.items():
            node.words.enter(column, slot, target.label)
        self.health = Health(self, node.words, column, 7, slots, self.events.append, lambda: node.now)
        self.outlook = HealthPoller(node.wheel, node.words, column, [self.health])
        self.outlook.start()

    def settle(self) -> None:
        self.settled += 1

    def out(self) -> str:
        return "".join(sorted(target.host for target in self.shunned))

    def answers(self, index: int, status: int = 200, seconds: float = 0.0) -> None:
        self.health.attempt_answered(record(self.targets[index], seconds, status))

    def fails(self, index: int, fault: Fault = Fault.UPSTREAM_TIMEOUT, seconds: float = 0.0) -> None:
        self.health.attempt_given_up(record(self.targets[index], seconds), fault, "")

    def passes(self) -> bool:
        """Whether one more request may go to the upstream."""
        assert self.health.breaker is not None
        return self.health.breaker.guard(Always(self.targets[0])).pick(ASKED) is not None


class Node:
    def __init__(
        self,
        targets: int = 3,
        workers: int = 3,
        passive: settings.PassiveHealth | None = None,
        breaker: settings.CircuitBreaker | None = None,
        priorities: str = "",
    ) -> None:
        layout = Layout()
        self.words = HealthWords(layout)
        self.shared = SharedMemory.create(layout, workers)
        self.now = 1000.0
        self.wheel = Wheel(self.now)
        urls = [parse_url(f"http://{chr(ord('a') + index)}:80") for index in range(targets)]
        self.settings = settings.Upstream(
            targets=tuple(
                settings.Target(url=url, priority=int(priorities[index]) if priorities else 0)
                for index, url in enumerate(urls)
            ),
            health_checks=settings.HealthChecks(passive=passive),
            circuit_breaker=breaker,
        )
        self.workers = [Group(self, worker) for worker in range(workers)]

    def passes(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now = min(self.now + 0.05, until)
            self.wheel.advance(self.now)

    def out(self) -> str:
        """The ejected targets: all workers agree, two turns of the wheel later."""
        self.passes(0.1)
        (agreed,) = {worker.out() for worker in self.workers}
        return agreed

    def phase(self) -> BreakerPhase:
        self.passes(0.1)
        breakers = [worker.health.breaker for worker in self.workers]
        (agreed,) = {breaker.phase for breaker in breakers if breaker is not None}
        return agreed


PASSIVE = settings.PassiveHealth(failures=5, window=10.0, eject=5.0, max_ejected=0.5)
BREAKER = settings.CircuitBreaker(error_rate=0.5, min_requests=20, window=10.0, open=5.0, probes=3)


# --- windows ---


@for_each("seed", range(20))
def test_a_window_counts_what_the_columns_have_added_of_late(seed: int) -> None:
    """Compared with a list of all that happened, to within a part of the window."""
    draw = random.Random(seed)
    window, now, columns = Window(10.0), 1000.0, [[0, 0] for _ in range(3)]
    window.count_attempts(now, [(0, 0)] * 3)
    happened: list[tuple[float, bool]] = [(now, True)]
    for _ in range(300):
        now += draw.choice((0.0, 0.01, 0.2, 1.0))
        erred = draw.random() < 0.5
        column = draw.choice(columns)
        column[0] += 1
        column[1] += erred
        happened.append((now, erred))
        found = window.count_attempts(now, [(column[0], column[1]) for column in columns])
        older, newer = (
            [erred for at, erred in happened if at > now - span] for span in (10.0 + 10.0 / SLOTS, 10.0 - 10.0 / SLOTS)
        )
        assert len(newer) <= found[0] <= len(older)
        assert sum(newer) <= found[1] <= sum(older)


def test_a_window_begins_anew_when_nobody_has_looked_for_long() -> None:
    """What was added meanwhile may be older than the window."""
    window = Window(10.0)
    assert window.count_attempts(1000.0, [(5, 1)]) == (1, 1)
    assert window.count_attempts(1001.0, [(9, 2)]) == (5, 2)
    assert window.count_attempts(1008.0, [(900, 3)]) == (1, 1)
    assert window.count_attempts(1008.5, [(901, 4)]) == (2, 2)


def test_a_window_without_new_attempts_goes_on_if_it_is_read() -> None:
    window = Window(10.0)
    assert window.count_attempts(1000.0, [(5, 1)]) == (1, 1)
    for second in range(1, 9):
        window.read_counts(1000.0 + second, [(5, 1)], 0.0)
    assert window.count_attempts(1008.5, [(30, 2)]) == (26, 2)
    window.read_counts(1009.0, [(30, 2)], 1008.8)
    assert window.count_attempts(1009.1, [(31, 3)]) == (1, 1)


def test_a_process_that_was_killed_takes_only_its_own_counts_along() -> None:
    window = Window(10.0)
    window.count_attempts(1000.0, [(50, 10), (70, 20)])
    assert window.count_attempts(1000.5, [(2, 1), (71, 21)]) == (1 + 3, 1 + 2)


# --- outliers ---


def test_a_worker_learns_from_its_own_failure_that_another_one_has_ejected_the_target() -> None:
    """Before the next turn of the wheel: its retry goes elsewhere, instead of to the same target."""
    node = Node(passive=msgspec.structs.replace(PASSIVE, failures=1))
    first, second, third = node.workers
    first.fails(1)
    assert (first.out(), second.out(), third.out()) == ("b", "", "")
    assert first.ejected == first.shunned
    second.fails(1, seconds=0.01)  # it began before the ejection
    assert (first.out(), second.out(), third.out()) == ("b", "b", "")
    assert second.events == []
    node.now += PASSIVE.eject + 0.01  # the ejection is over: an attempt from before it says nothing
    third.fails(1, seconds=PASSIVE.eject + 1.0)
    assert third.out() == ""


@pytest.mark.parametrize("turns", [(0, 0, 0, 0, 0), (0, 1, 2, 0, 1), (2, 2, 1, 1, 0)])
def test_failures_in_a_row_are_counted_over_all_workers(turns: Sequence[int]) -> None:
    """Whichever workers they are on: the fifth ejects, on all of them."""
    node = Node(passive=PASSIVE)
    for worker in turns[:-1]:
        node.workers[worker].fails(1)
    assert node.out() == ""
    node.workers[turns[-1]].fails(1)
    assert node.workers[turns[-1]].out() == "b"  # here at once
    assert node.out() == "b"
    assert [len(worker.events) for worker in node.workers].count(1) == 1


def test_a_success_on_any_worker_ends_the_row() -> None:
    node = Node(passive=PASSIVE)
    for number in range(20):
        for worker in (0, 1, 2, 0):
            node.workers[worker].fails(0)
        node.workers[number % 3].answers(0, 404 if number % 2 else 200)  # a service that says 404 is there
    assert node.out() == ""


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_answers_of_500_and_above_are_failures_where_they_are_counted(status: int) -> None:
    node = Node(passive=PASSIVE)
    for _ in range(5):
        node.workers[0].answers(2, status)
    assert node.out() == "c"


def test_by_default_a_failed_connect_ejects_and_nothing_else_does() -> None:
    """As nginx's `max_fails=1`; and no request is told of for it."""
    node = Node(passive=settings.HealthChecks().passive)
    first = node.workers[0]
    assert not first.health.watches
    for fault in (Fault.UPSTREAM_TIMEOUT, Fault.CONNECTION_LOST, Fault.POOL_FULL, Fault.CONNECTIONS_EXHAUSTED):
        first.health.attempt_given_up(record(first.targets[0]), fault, "")
    assert node.out() == ""
    first.health.attempt_given_up(record(first.targets[0]), Fault.CONNECT_REFUSED, "")
    assert node.out() == "a"
    second = node.workers[1]
    second.health.attempt_given_up(record(second.targets[1]), Fault.CONNECT_TIMEOUT, "")
    assert node.out() == "a"  # of three, half is one
    node.passes(5.1)
    assert node.out() == ""


def test_a_connection_between_ends_a_row_of_failed_connects() -> None:
    """On whichever worker it was opened."""
    node = Node(passive=settings.PassiveHealth(connect_failures=3))
    for _ in range(5):
        for worker in node.workers[:2]:
            worker.health.attempt_given_up(record(worker.targets[0]), Fault.CONNECT_REFUSED, "")
        node.workers[2].health.connected(node.workers[2].targets[0])
    assert node.out() == ""
    for worker in node.workers:
        worker.health.attempt_given_up(record(worker.targets[0]), Fault.CONNECT_REFUSED, "")
    assert node.out() == "a"


def test_failed_connects_may_have_a_bound_of_their_own() -> None:
    node = Node(passive=settings.PassiveHealth(failures=5, connect_failures=2))
    for _ in range(4):
        node.workers[0].fails(0)
    assert node.out() == ""
    node.workers[0].fails(1, Fault.CONNECT_REFUSED)
    node.workers[0].fails(1, Fault.CONNECT_REFUSED)
    assert node.out() == "b"


def test_the_only_target_is_never_ejected_and_pays_nothing() -> None:
    node = Node(targets=1, passive=settings.HealthChecks().passive)
    worker = node.workers[0]
    assert not worker.health.watches
    for _ in range(10):
        worker.health.attempt_given_up(record(worker.targets[0]), Fault.CONNECT_REFUSED, "")
    assert node.out() == ""


@pytest.mark.parametrize("fault", [Fault.CLIENT_LEFT, Fault.POOL_FULL, Fault.TUNNEL_IDLE, Fault.LENGTH_REQUIRED])
def test_what_is_not_the_targets_fault_does_not_count(fault: Fault) -> None:
    node = Node(passive=PASSIVE)
    for _ in range(50):
        node.workers[0].fails(0, fault)
    assert node.out() == ""


def test_answers_that_break_off_are_failures_in_a_row() -> None:
    """Each was counted as answered when its head came."""
    node = Node(passive=PASSIVE)
    for number in range(5):
        worker = node.workers[number % 3]
        worker.answers(0)
        worker.fails(0, Fault.UPSTREAM_INCOMPLETE)
    assert node.out() == "a"


def test_failures_long_ago_do_not_count() -> None:
    node = Node(passive=PASSIVE)
    for _ in range(4):
        node.workers[0].fails(0)
    node.passes(10.1)
    node.workers[1].fails(0)
    assert node.out() == ""


def test_an_ejected_target_comes_back_by_itself_and_is_out_for_longer_each_time() -> None:
    """Back again, one failure is enough; what was under way before tells nothing."""
    node = Node(passive=PASSIVE)
    for _ in range(5):
        node.workers[0].fails(0)
    for level in (1, 2, 3):
        assert node.out() == "a"
        node.passes(5.0 * level - 0.3)
        assert node.out() == "a"
        node.passes(0.2)
        assert node.out() == ""
        node.workers[1].fails(0, seconds=5.0)
        assert node.out() == ""
        node.workers[1].fails(0)
    node.workers[2].answers(1)


def test_after_a_success_a_target_that_has_returned_is_ejected_by_as_many_failures_as_any_other() -> None:
    node = Node(passive=PASSIVE)
    for _ in range(5):
        node.workers[0].fails(0)
    assert node.out() == "a"
    node.passes(5.0)
    node.workers[1].answers(0)
    for worker in (0, 1, 2, 0):
        node.workers[worker].fails(0)
    assert node.out() == ""
    node.workers[1].fails(0)
    assert node.out() == "a"


def test_ejections_shorten_again_while_a_target_does_well() -> None:
    node = Node(passive=PASSIVE)

    def length() -> float:
        for _ in range(5):
            node.workers[0].fails(0)
        assert node.out() == "a"
        until = node.words.ejection(node.shared.views, 20).until
        lasting = until - node.now
        node.passes(lasting + 0.1)
        node.workers[0].answers(0)
        return round(lasting)

    assert [length(), length(), length()] == [5, 10, 15]
    node.passes(20.0)
    assert length() == 10  # two steps less, and one more
    node.passes(1000.0)
    assert length() == 5


def test_no_ejection_lasts_longer_than_the_longest() -> None:
    node = Node(passive=settings.PassiveHealth(failures=1, eject=5.0, max_eject=12.0))
    for _ in range(10):
        node.workers[0].fails(0, Fault.CONNECT_REFUSED)
        until = node.words.ejection(node.shared.views, 20).until
        assert until - node.now <= 12.0
        node.passes(until - node.now + 0.1)


@for_each(
    ("targets", "share", "most"),
    [
        (100, 0.29, 29),
        (1000, 0.001, 1),
        (1, 1.0, 0),
        (2, 0.5, 1),
        (2, 0.1, 1),
        (3, 0.5, 1),
        (4, 0.5, 2),
        (10, 0.3, 3),
        (10, 0.0, 0),
        (3, 1.0, 3),
    ],
)
def test_how_many_may_be_ejected(targets: int, share: float, most: int) -> None:
    assert most_ejected(targets, share) == most


def test_no_more_are_ejected_than_may_be() -> None:
    """Nobody can connect to any of them: half stay, and the rest as long as those are out."""
    node = Node(targets=4, passive=PASSIVE)
    for number in range(200):
        node.workers[number % 3].fails(number // 3 % 4, Fault.CONNECT_REFUSED)
    assert len(node.out()) == 2


@pytest.mark.parametrize(
    ("priorities", "dead", "out"),
    [
        ("01", "a", "a"),
        ("001", "ab", "ab"),
        ("0001", "abc", "abc"),
        ("012", "ab", "ab"),
        ("001", "abc", "ab"),  # nothing is available but the backup: it stays
        ("01", "b", "b"),  # a backup that is down, while the primary is not
        ("0011", "abc", "abc"),  # of the backups, half may be ejected as well
        ("0011", "abcd", "abc"),
        ("0000", "abcd", "ab"),
    ],
)
def test_all_targets_of_a_priority_group_are_ejected_while_another_group_is_available(
    priorities: str, dead: str, out: str
) -> None:
    node = Node(targets=len(priorities), passive=settings.HealthChecks().passive, priorities=priorities)
    for number, name in enumerate(dead):
        node.workers[number % 3].fails("abcd".index(name), Fault.CONNECT_REFUSED)
        node.passes(0.1)
    assert node.out() == out


def test_the_limit_of_ejections_applies_while_the_backups_are_unhealthy_or_drained() -> None:
    unhealthy = Node(targets=3, passive=settings.HealthChecks().passive, priorities="001")
    unhealthy.words.set_verdict(unhealthy.shared.supervisor, 22, HealthVerdict.UNHEALTHY, unhealthy.now + 60.0)
    drained = Node(targets=3, passive=settings.HealthChecks().passive, priorities="001")
    for worker in drained.workers:
        worker.drained = frozenset(worker.targets[2:])
    for node, ejected in ((unhealthy, "ac"), (drained, "a")):
        for index in (0, 1):
            node.workers[index].fails(index, Fault.CONNECT_REFUSED)
        assert node.out() == ejected


def test_backups_without_requests_do_not_make_the_primaries_outliers() -> None:
    """One client's requests fail at all targets that get any."""
    node = Node(targets=3, passive=PASSIVE, priorities="001")
    for number in range(300):
        node.workers[number % 3].fails(number % 2, Fault.UPSTREAM_TIMEOUT)
        node.passes(0.01)
    assert node.out() == ""


def test_one_clients_poison_ejects_nothing() -> None:
    """Its requests fail wherever they go, in turn; another client's, once in a while, do not."""
    node = Node(targets=3, passive=PASSIVE)
    for number in range(300):
        node.workers[number % 2].fails(number % 3, Fault.UPSTREAM_TIMEOUT)
        node.passes(0.01)
    assert node.out() == ""
    assert not any(worker.events for worker in node.workers)
    for target in (0, 2):
        node.workers[2].answers(target)
    for _ in range(3):
        node.workers[0].fails(1)
    assert node.out() == "b"  # now it is the only one


def test_a_share_of_errors_ejects_if_the_neighbours_do_better() -> None:
    passive = settings.PassiveHealth(failures=1000, error_rate=0.5, min_requests=20)
    node = Node(passive=passive)
    for number in range(90):
        node.workers[number % 2].answers(number % 3, 500 if number % 3 == 1 else 200)
        node.passes(0.01)
    assert node.out() == "b"
    alike = Node(passive=passive)
    for number in range(600):
        alike.workers[number % 2].answers(number % 3, 500)
        alike.passes(0.01)
    assert alike.out() == ""


def test_a_share_of_errors_ejects_from_the_least_number_of_requests_on() -> None:
    node = Node(passive=settings.PassiveHealth(failures=1000, error_rate=0.5, min_requests=20))
    for target in (0, 2):
        for _ in range(20):
            node.workers[0].answers(target)
    for _ in range(19):
        node.workers[0].answers(1, 500)
    assert node.out() == ""
    node.workers[0].answers(1, 500)
    assert node.out() == "b"


def test_successes_before_the_first_error_count_in_the_share_of_errors() -> None:
    node = Node(passive=settings.PassiveHealth(error_rate=0.5, min_requests=20))
    for number in range(300):
        node.workers[number % 2].answers(number % 3)
        node.passes(0.01)
    for number in range(40):
        node.workers[number % 2].answers(0, 500)
    assert node.out() == ""  # 40 of 140 within 10 s
    for number in range(60):
        node.workers[number % 2].answers(0, 500)
    assert node.out() == "a"


@pytest.mark.parametrize("later", [0.0, 1.0])
@pytest.mark.parametrize(("window", "eject"), [(60.0, 5.0), (30.0, 2.0), (10.0, 5.0)])
def test_errors_before_an_ejection_do_not_count_in_the_share_of_errors_after_the_return(
    window: float, eject: float, later: float
) -> None:
    """Also if no reading of the windows, every tenth of one, falls into the ejection."""
    node = Node(passive=settings.PassiveHealth(error_rate=0.5, min_requests=20, window=window, eject=eject))
    for number in range(90):
        node.workers[number % 2].answers(number % 3, 500 if number % 3 == 1 else 200)
    assert node.out() == "b"
    node.passes(eject)
    assert node.out() == ""
    node.passes(later)
    for number in range(19):
        node.workers[number % 2].answers(1, 500 if number == 18 else 200)
    assert node.out() == ""


class Counted:
    """A column whose reads are counted."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.reads = 0

    def __getitem__(self, at: Any) -> Any:
        self.reads += 1
        return self.view[at]


def test_a_reading_of_the_windows_reads_each_column_as_often_for_many_targets_as_for_few() -> None:
    """A worker serves nothing else meanwhile: 5,000 targets word by word held it for a tenth of a second."""
    reads = []
    for targets in (3, 24):
        node = Node(targets=targets, passive=settings.PassiveHealth(error_rate=0.5))
        outliers = node.workers[0].health.windows.outliers
        assert outliers is not None
        views = [Counted(view) for view in node.shared.views]
        outliers._column = SimpleNamespace(views=views)  # type: ignore[assignment]
        outliers.read_windows(node.now + 1.0)
        reads.append([view.reads for view in views])
    assert reads[0] == reads[1] != []


def test_a_reading_finds_what_each_target_has_counted_wherever_its_slot_is() -> None:
    node = Node()
    for slot in (20, 21, 22, 900):
        for column in node.shared.columns:
            column.words[node.words.attempts + slot] = 2 * slot
            column.words[node.words.errors + slot] = slot
    node.words.eject(node.shared.columns[1], 21, Ejection(1003.5, 1))
    supervisor = ((0, 0),)
    for slots in ((22, 20, 21), (900, 21)):
        found = node.words.read_attempts(node.shared.columns[0], slots)
        assert [each for each, _ in found] == [supervisor + ((2 * slot, slot),) * 3 for slot in slots]
        assert [until for _, until in found] == [1003.5 if slot == 21 else 0.0 for slot in slots]


def test_an_ejection_outlives_the_worker_that_decided_it() -> None:
    node = Node(passive=PASSIVE)
    for _ in range(5):
        node.workers[0].fails(0)
    assert node.out() == "a"
    node.shared.clear_gauges(0)
    node.workers.pop(0)
    node.words.changed(node.shared.supervisor)
    assert node.out() == "a"


def test_what_control_finds_ill_gets_nothing_and_no_verdict_holds_for_ever() -> None:
    """Three workers see it within two turns of the wheel; when control is away it is unknown again, and usable."""
    node = Node(passive=PASSIVE)
    control = node.shared.supervisor
    node.words.set_verdict(control, 21, HealthVerdict.UNHEALTHY, node.now + 3.0)
    node.words.changed(control)
    assert node.out() == "b"
    node.words.set_verdict(control, 21, HealthVerdict.UNHEALTHY, node.now + 4.0)  # renewed: nobody is told
    node.passes(3.5)
    assert node.out() == "b"
    assert node.workers[0].health.wait() < 1.0  # it may be well with its next check
    node.passes(1.0)
    assert node.out() == ""


def test_how_long_it_is_until_an_ejected_target_is_back() -> None:
    node = Node(passive=PASSIVE)
    for _ in range(5):
        node.workers[0].fails(1)
    assert node.out() == "b"
    assert [round(worker.health.wait(), 1) for worker in node.workers] == [4.9, 4.9, 4.9]


def test_a_place_given_anew_inherits_nothing() -> None:
    node = Node(passive=PASSIVE, breaker=BREAKER)
    for worker in node.workers:
        for _ in range(30):
            worker.fails(0, Fault.CONNECT_REFUSED)
    assert node.out() == "a"
    for column in node.shared.columns:
        node.words.enter(column, 20, "another")
        node.words.enter_upstream(column, 7, "another")
        node.words.enter(column, 21, "b:80")
    views = node.shared.views
    assert node.words.ejection(views, 20) == Ejection(0.0, 0)
    assert not node.words.breaker(views, 7).is_open
    assert sum(view[node.words.attempts + 20] for view in views) == 0


# --- breakers ---


def test_a_breaker_opens_by_the_share_of_errors_on_the_node() -> None:
    """Half of twenty attempts, wherever they were; open for all, with a wait that is true."""
    node = Node(breaker=BREAKER)
    for number in range(19):
        node.workers[number % 3].answers(number % 3, 500 if number % 2 else 200)
    assert node.phase() is BreakerPhase.CLOSED
    assert node.workers[0].health.breaker.wait() == 0.0
    node.workers[1].answers(0, 503)
    assert node.workers[1].health.breaker.phase is BreakerPhase.OPEN  # here at once
    assert node.phase() is BreakerPhase.OPEN
    assert not any(worker.passes() for worker in node.workers)
    assert node.workers[2].health.breaker.wait() == pytest.approx(4.9, abs=0.02)
    assert [worker.events for worker in node.workers] == [[], [HealthEvent.OPENED], []]


@pytest.mark.parametrize("percent", [7, 14, 28, 55, 56])
def test_the_share_at_which_a_breaker_opens_is_exact(percent: int) -> None:
    """7 of 100 are 7 %, although 0.07 * 100 is more than 7."""
    for errors in (percent - 1, percent):
        node = Node(breaker=msgspec.structs.replace(BREAKER, error_rate=percent / 100, min_requests=100))
        for _ in range(100 - errors):
            node.workers[0].answers(0)
        node.workers[0].health.breaker.refresh_state(node.now)
        for _ in range(errors):
            node.workers[1].answers(0, 500)
        assert (node.phase() is BreakerPhase.OPEN) is (errors == percent)


def test_few_errors_among_many_successes_open_nothing() -> None:
    node = Node(breaker=BREAKER)
    for number in range(1000):
        node.workers[number % 3].answers(0, 500 if number % 3 == 0 else 200)
        node.passes(0.01)
    assert node.phase() is BreakerPhase.CLOSED


def opened(node: Node) -> None:
    for number in range(40):
        node.workers[number % len(node.workers)].fails(0)
    assert node.phase() is BreakerPhase.OPEN


def test_a_half_open_breaker_lets_probes_pass_counted_on_the_node_and_closes_when_all_are_well() -> None:
    node = Node(breaker=BREAKER)
    opened(node)
    node.passes(5.0)
    assert node.phase() is BreakerPhase.HALF_OPEN
    assert [node.workers[number % 3].passes() for number in range(12)] == [True] * 3 + [False] * 9
    node.workers[0].answers(0)
    node.workers[1].answers(0)
    assert node.phase() is BreakerPhase.HALF_OPEN
    node.workers[2].answers(0)
    assert node.phase() is BreakerPhase.CLOSED
    assert all(worker.passes() for worker in node.workers * 10)


def test_one_failed_probe_opens_it_again() -> None:
    node = Node(breaker=BREAKER)
    opened(node)
    node.passes(5.0)
    assert node.phase() is BreakerPhase.HALF_OPEN
    assert node.workers[0].passes()
    assert node.workers[1].passes()
    node.workers[0].answers(0)
    node.workers[1].answers(0, 502)
    assert node.phase() is BreakerPhase.OPEN
    node.passes(4.7)
    assert node.phase() is BreakerPhase.OPEN
    node.passes(0.2)
    assert node.phase() is BreakerPhase.HALF_OPEN
    assert [node.workers[number % 3].passes() for number in range(5)] == [True] * 3 + [False] * 2


def test_attempts_from_before_it_opened_decide_nothing() -> None:
    node = Node(breaker=BREAKER)
    opened(node)
    node.passes(5.0)
    assert node.phase() is BreakerPhase.HALF_OPEN
    for worker in node.workers * 3:
        worker.answers(0, seconds=5.5)
    assert node.phase() is BreakerPhase.HALF_OPEN
    node.workers[0].fails(0, seconds=5.5)
    assert node.phase() is BreakerPhase.HALF_OPEN


def test_probes_that_come_to_nothing_are_made_up_for() -> None:
    """Their clients left, or their worker was killed. A late failure of one still opens it."""
    node = Node(breaker=BREAKER)
    opened(node)
    node.passes(5.0)
    assert node.phase() is BreakerPhase.HALF_OPEN
    node.passes(100.0)  # it waits for somebody to ask
    assert [worker.passes() for worker in node.workers * 2] == [True] * 3 + [False] * 3
    node.passes(4.9)
    assert not any(worker.passes() for worker in node.workers)
    node.passes(1.2)
    assert node.phase() is BreakerPhase.HALF_OPEN
    assert [worker.passes() for worker in node.workers * 2] == [True] * 3 + [False] * 3
    node.workers[0].fails(0, seconds=5.5)
    assert node.phase() is BreakerPhase.OPEN


@pytest.mark.parametrize("fault", [None, Fault.CLIENT_LEFT, Fault.POOL_FULL, Fault.STREAM_REFUSED])
def test_however_probes_end_no_more_pass_in_each_open_time(fault: Fault | None) -> None:
    """Also if the target causes it: it refuses each at once, or hangs until their clients leave."""
    node = Node(breaker=BREAKER)
    opened(node)
    node.passes(5.0)
    assert node.phase() is BreakerPhase.HALF_OPEN
    passed: list[float] = []
    for _ in range(400):
        for worker in node.workers * 10:
            if worker.passes():
                passed.append(node.now)
                attempt = record(worker.targets[0])
                worker.health.attempt_begun(attempt)
                worker.health.attempt_given_up(attempt, fault, "")
        node.passes(0.1)
    assert node.phase() is BreakerPhase.HALF_OPEN
    rounds = [passed[at : at + 3] for at in range(0, len(passed), 3)]
    assert all(begun[0] == begun[-1] for begun in rounds)  # nothing holds back those that may pass
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(rounds)]
    assert len(gaps) >= 6
    assert 5.0 <= min(gaps) <= max(gaps) <= 6.2


@pytest.mark.parametrize("workers", [1, 3])
def test_it_closes_although_probes_of_each_round_have_no_result(workers: int) -> None:
    """Successes of all rounds count, those of other workers too."""
    node = Node(breaker=msgspec.structs.replace(BREAKER, probes=6), workers=workers)
    opened(node)
    node.passes(5.0)
    rounds = 0
    while node.phase() is BreakerPhase.HALF_OPEN:
        rounds += 1
        assert rounds <= 3
        taken = [worker for worker in node.workers * 10 if worker.passes()]
        assert len(taken) == 6
        for worker in taken[:2]:
            worker.answers(0)
        node.passes(6.2)
    assert (rounds, node.phase()) == (3, BreakerPhase.CLOSED)


@pytest.mark.parametrize("is_well", [True, False])
def test_results_count_in_a_worker_that_has_not_seen_the_next_round(is_well: bool) -> None:
    node = Node(breaker=BREAKER)
    opened(node)
    node.passes(5.0)
    assert [worker.passes() for worker in node.workers * 2] == [True] * 3 + [False] * 3
    node.passes(4.9)
    first, second = node.workers[0].health.breaker, node.workers[1].health.breaker
    assert first is not None
    assert second is not None
    while first._state == second._state:
        node.now += 0.1
        first.refresh_state(node.now)
    assert first.phase is second.phase is BreakerPhase.HALF_OPEN
    for _ in range(3 if is_well else 1):
        if is_well:
            node.workers[1].answers(0, seconds=5.5)
        else:
            node.workers[1].fails(0, seconds=5.5)
    assert second.phase is (BreakerPhase.CLOSED if is_well else BreakerPhase.OPEN)
    assert node.phase() is second.phase


def test_successes_from_before_it_opened_again_do_not_close_it() -> None:
    node = Node(breaker=BREAKER)
    opened(node)
    for _ in range(4):
        node.passes(5.0)
        assert node.phase() is BreakerPhase.HALF_OPEN
        first, second, third = node.workers
        for worker in (first, second):
            assert worker.passes()
            worker.answers(0)
        assert node.phase() is BreakerPhase.HALF_OPEN
        third.fails(0)
        assert node.phase() is BreakerPhase.OPEN


def test_it_closes_however_rare_requests_are() -> None:
    node = Node(breaker=BREAKER)
    opened(node)
    for worker in node.workers:
        node.passes(30.0)
        assert node.phase() is BreakerPhase.HALF_OPEN
        assert worker.passes()
        worker.answers(0)
    assert node.phase() is BreakerPhase.CLOSED


def test_it_stays_open_when_the_worker_that_opened_it_is_killed() -> None:
    node = Node(breaker=BREAKER)
    opened(node)
    (opener,) = (number for number, worker in enumerate(node.workers) if worker.events)
    node.shared.clear_gauges(opener)
    node.workers.pop(opener)
    node.words.changed(node.shared.supervisor)
    assert node.phase() is BreakerPhase.OPEN


def test_after_it_has_closed_the_window_begins_anew() -> None:
    node = Node(breaker=BREAKER)
    opened(node)
    node.passes(5.0)
    assert node.phase() is BreakerPhase.HALF_OPEN
    for worker in node.workers:
        assert worker.passes()
        worker.answers(0)
    assert node.phase() is BreakerPhase.CLOSED
    for _ in range(19):
        node.workers[0].fails(0)
    assert node.phase() is BreakerPhase.CLOSED
    node.workers[0].fails(0)
    assert node.phase() is BreakerPhase.OPEN


@pytest.mark.parametrize("between", ["switched off", "removed"])
def test_what_is_configured_again_begins_without_a_past(between: str) -> None:
    """Each worker clears its own words as it reloads; until the last one has, those before it follow nothing."""
    node = Node(passive=PASSIVE, breaker=BREAKER)
    opened(node)
    for _ in range(5):
        node.workers[0].fails(0, Fault.CONNECT_REFUSED)
    assert node.out() == "a"
    followed = node.settings
    node.settings = msgspec.structs.replace(
        followed, health_checks=settings.HealthChecks(passive=None), circuit_breaker=None
    )
    for index, old in enumerate(node.workers):
        assert old.health.breaker is not None
        assert (old.out(), old.health.breaker.phase) == ("a", BreakerPhase.OPEN)
        heir = Group(node, index).health if between == "switched off" else None
        old.health.clear_decisions(heir)
        old.outlook.stop()
        old.health.stop()
        node.passes(0.1)
    node.settings = followed
    node.workers = [Group(node, index) for index in range(3)]
    assert node.phase() is BreakerPhase.CLOSED
    assert node.out() == ""
    for _ in range(4):
        node.workers[0].fails(0, Fault.CONNECT_REFUSED)
    assert node.out() == ""


def test_what_goes_on_being_configured_keeps_its_decisions() -> None:
    node = Node(passive=PASSIVE, breaker=BREAKER)
    opened(node)
    for _ in range(5):
        node.workers[0].fails(0, Fault.CONNECT_REFUSED)
    node.passes(0.1)
    before, node.workers = node.workers, [Group(node, index) for index in range(3)]
    for old, new in zip(before, node.workers, strict=True):
        old.health.clear_decisions(new.health)
        old.outlook.stop()
        old.health.stop()
    assert (node.out(), node.phase()) == ("a", BreakerPhase.OPEN)


def test_whoever_follows_is_settled_once_per_change() -> None:
    node = Node(passive=PASSIVE, breaker=BREAKER)
    for _ in range(5):
        node.workers[0].fails(0, Fault.CONNECT_REFUSED)
    node.passes(1.0)
    assert [worker.settled for worker in node.workers] == [1, 1, 1]
    for worker in node.workers:
        worker.outlook.stop()
    node.passes(10.0)
    assert [worker.settled for worker in node.workers] == [1, 1, 1]


def test_results_of_a_target_that_was_removed_meanwhile_do_not_count() -> None:
    """Its requests are still in flight when the targets are replaced in place."""
    node = Node(breaker=BREAKER, passive=PASSIVE)
    gone = build_targets(settings.Upstream(targets=(settings.Target(url=parse_url("http://gone:80")),)))
    (worker, *_) = node.workers
    for _ in range(30):
        worker.health.attempt_answered(record(gone[0], 0.0, 500))
        worker.health.attempt_given_up(record(gone[0], 0.0), Fault.CONNECT_REFUSED, "")
    assert node.out() == ""
    assert node.phase() is BreakerPhase.CLOSED
