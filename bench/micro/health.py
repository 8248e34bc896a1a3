"""Health of an upstream: cost of counting results of attempts, and of following the node's decisions.

A node with four workers. In one microbenchmark the target fails, and is never ejected, because its only neighbour fails
too.
"""

from collections.abc import Iterator, Set
from time import monotonic
from typing import Any

from bench.micro.timing import Room
from fastgw.config.base.value_types import parse_url
from fastgw.config.settings import gateway as config
from fastgw.errors import Fault
from fastgw.eventloop.timer_wheel import Wheel
from fastgw.shm.health_words import HealthWords
from fastgw.shm.memory import Column, Layout, SharedMemory
from fastgw.upstream.health.upstream_health import Health, HealthPoller
from fastgw.upstream.targets.attempt_listener import AttemptKind, AttemptRecord
from fastgw.upstream.targets.target import Target, build_targets

WORKERS = 4
MANY = 500


class Group:
    """The parts of an upstream that are used."""

    def __init__(self, count: int, **settings: Any) -> None:
        urls = [parse_url(f"http://users-{number}:9001") for number in range(count)]
        self.settings = config.Upstream(targets=tuple(config.Target(url=url) for url in urls), **settings)
        self.targets = build_targets(self.settings)
        self.shunned: Set[Target] = frozenset()
        self.ejected: Set[Target] = frozenset()
        self.drained: Set[Target] = frozenset()

    def settle(self) -> None:
        pass


def rooms() -> Iterator[Room]:
    layout = Layout()
    words = HealthWords(layout)
    shared = SharedMemory.create(layout, WORKERS)
    column = shared.columns[0]
    passive = config.HealthChecks(passive=config.PassiveHealth(failures=5))
    both = Group(2, health_checks=passive, circuit_breaker=config.CircuitBreaker(min_requests=1000, error_rate=1.0))
    health = _health(both, words, column)
    good, bad = both.targets
    slow = attempt(bad, 0.01)
    yield Room("an answer", health.attempt_answered, [attempt(good, 0.01, 200)])
    yield Room("an answer of 500", health.attempt_answered, [attempt(bad, 0.01, 500)])
    yield Room("a failure", lambda fault: health.attempt_given_up(slow, fault, ""), [Fault.UPSTREAM_TIMEOUT])
    few, many = (Group(count, health_checks=passive) for count in (10, MANY))
    outlook = HealthPoller(Wheel(0.0), words, column, [_health(few, words, column)])
    outlook.expire(monotonic())
    yield Room("a turn of the wheel", outlook.expire, [monotonic()])
    yield Room("a change among 10 targets", _health(few, words, column).refresh_verdicts, [monotonic()])
    one_by_one = range(MANY)
    yield Room(f"a change among {MANY} targets", _health(many, words, column).refresh_verdicts, [monotonic()])
    yield Room(
        "  word by word", lambda now: [words.read_verdicts(column, [slot], now) for slot in one_by_one], [monotonic()]
    )


def _health(group: Group, words: HealthWords, column: Column) -> Health:
    upstream: Any = group
    return Health(upstream, words, column, 0, {target: slot for slot, target in enumerate(group.targets)})


def attempt(target: Target, seconds: float, status: int = 0) -> AttemptRecord:
    """Return an attempt whose response head, or end, came after these seconds."""
    nothing: Any = None
    record = AttemptRecord(nothing, nothing, target, AttemptKind.FIRST, 1, 0.0)
    record.head_at = record.ended_at = seconds
    record.status = status
    return record
