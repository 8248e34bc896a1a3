"""A plane that counts and logs as a worker does, in a node's memory, with its own clock and random numbers.

What happens there happens in the same way each time.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any
from unittest.mock import patch

from fastgw.config.settings.gateway import AccessLog
from fastgw.errors import Fault
from fastgw.observe.access_log.finished_exchange import FinishedExchange, record_of
from fastgw.observe.log import Log
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.observe.metrics.series_layout import WORDS
from fastgw.observe.recorder import Recorder
from fastgw.shm.memory import Column, SharedMemory
from fastgw.upstream.health.outlier_ejection import may_eject
from fastgw.upstream.health.upstream_health import Health, HealthPoller
from fastgw.upstream.load_balancing.load_tracking import Loads
from fastgw.upstream.policies.retry import SPARE_RETRIES
from fastgw.upstream.targets.attempt_listener import AttemptListener, AttemptRecord
from fastgw.upstream.upstream import Upstream
from tests.support.memory import Observer, Plane

DATE = 1_700_000_000.0
PLAYED = ("fastgw.downstream", "fastgw.exchange", "fastgw.pipeline", "fastgw.upstream")
"""Packages whose modules use only the plane's clock and random numbers."""


class Told(AttemptListener):
    """Records the events of attempts with their seconds."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def attempt_begun(self, attempt: AttemptRecord) -> None:
        self._tell("begun", attempt, attempt.number, attempt.kind, attempt.upstream, attempt.begun_at)

    def attempt_answered(self, attempt: AttemptRecord) -> None:
        self._tell("answered", attempt, attempt.status, attempt.reused, attempt.head_at - attempt.begun_at)

    def attempt_ended(self, attempt: AttemptRecord) -> None:
        self._tell("ended", attempt, attempt.ended_at - attempt.begun_at)

    def attempt_given_up(self, attempt: AttemptRecord, fault: Fault | None, why: str) -> None:
        self._tell("given up", attempt, fault and fault.label, attempt.ended_at - attempt.begun_at)

    def _tell(self, what: str, attempt: AttemptRecord, *how: object) -> None:
        exchange = attempt.exchange
        route = None if exchange.route is None else exchange.route.name
        self.events.append((what, attempt.target.label, exchange.head.raw_path, exchange.client_ip, route, *how))


class Recording(Observer):
    """Keeps records, and has a worker's recorder count and format them."""

    def __init__(self, plane: CountedPlane, column: memoryview) -> None:
        super().__init__()
        self._plane = plane
        counters = ExchangeCounters(plane.gateway.series, column)
        self._log = Log(AccessLog(), counters)
        self._recorder = Recorder(counters, [self._log])

    def finish(self, ended: FinishedExchange) -> None:
        now = self._plane.now()
        self.records.append(record_of(ended, now, DATE))
        self._recorder.finish_at(ended, now, DATE)


class CountedPlane(Plane):
    """The plane of a worker: its upstreams follow the node's health. Create and use it within `played`."""

    acting: CountedPlane

    def _start(self) -> None:
        super()._start()
        self.lapse = 0.0  # seconds taken by steps of filters
        self.dice = random.Random(1)
        self.take_turn()
        self.shared = SharedMemory.create(self.gateway.layout, 1)
        self.column: Column = self.shared.columns[0]
        self.observer = Recording(self, self.column.words[:WORDS])
        self.listeners = {name: self._count(name, each) for name, each in self.gateway.upstreams.items()}
        looked_after = [each.health for each in self.gateway.upstreams.values() if each.health is not None]
        self._poller = HealthPoller(self.worker_loop.wheel, self.gateway._words.health, self.column, looked_after)
        self._poller.start()

    def _count(self, name: str, upstream: Upstream) -> Told | None:
        """Count as `Gateway.starting` does, with the test's pool and clock."""
        gateway, column = self.gateway, self.column
        words, series, slot = gateway._words, gateway.series, gateway.slot_table.upstreams[name]
        counted = gateway._counted + series.upstream_words(name)
        for target in upstream.targets:
            target.slot = gateway.target_slot(name, target)
            target.counted = gateway._counted + series.target_words(name, target.label)
        spare = column.limit(words.spare_retries + slot, SPARE_RETRIES)
        upstream.count_in(spare, column.words, counted, lambda target, fault, why: None)
        upstream._loads = Loads(column.words, column.views, words.under_way, words.under_way_all + slot)
        upstream._watch(upstream.settings.load_balancing, None)
        if upstream._latencies is not None:
            upstream._latencies._clock = self.now
        if upstream.settings.circuit_breaker is not None or may_eject(upstream.settings):
            upstream.look_after(self._health(upstream, slot, counted))
        if not upstream.attempt_listeners:
            return None
        told = Told()
        upstream.attempt_listeners = (told, *upstream.attempt_listeners)
        return told

    def _health(self, upstream: Upstream, slot: int, counted: int) -> Health:
        words, column = self.gateway._words.health, self.column
        words.enter_upstream(column, slot, upstream.name)
        slots = {target: target.slot for target in upstream.targets}
        for target, at in slots.items():
            words.enter(column, at, target.label)

        return Health(upstream, words, column, slot, slots, lambda event: None, self.now)

    def now(self) -> float:
        return self.worker_loop.wheel.now + self.lapse

    def take_turn(self) -> None:
        """Use this plane's clock and random numbers from now on."""
        CountedPlane.acting = self


def acting() -> CountedPlane:
    """Return the active plane, for filters of a test."""
    return CountedPlane.acting


@contextmanager
def played() -> Iterator[None]:
    """Use clock and random numbers of the active plane within the `with`."""
    ours: dict[object, Any] = {
        monotonic: lambda: CountedPlane.acting.now(),
        random.random: lambda: CountedPlane.acting.dice.random(),
    }
    with ExitStack() as stack:
        for module in [each for name, each in sys.modules.items() if name.startswith(PLAYED)]:
            for name in ("monotonic", "random"):
                meant = vars(module).get(name)
                if callable(meant) and meant in ours:
                    stack.enter_context(patch.object(module, name, ours[meant]))
        yield
