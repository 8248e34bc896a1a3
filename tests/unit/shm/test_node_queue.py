"""The queue of a node for the connections of an upstream, as its workers see it in shared memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import inf
from time import monotonic

import pytest

from fastgw.shm.memory import Layout, SharedMemory
from fastgw.shm.node_queue import STALE_S, NodeQueue, WorkerBell
from fastgw.shm.upstream_words import TargetWords

TIMEOUT = 10.0
SLOT = 3


class Node:
    """Three workers, each with an eventfd, and the shared memory."""

    def __init__(self) -> None:
        layout = Layout()
        self.words = TargetWords(layout)
        self.shared = SharedMemory.create(layout, 3)
        self.wakers = {index: os.eventfd(0, os.EFD_NONBLOCK) for index in range(4)}
        columns = self.shared.columns
        self.limits = [column.limit(self.words.connections + SLOT, 4) for column in columns]
        self.pending = [column.limit(self.words.pending + SLOT, 100) for column in columns]
        self.queues = [
            NodeQueue(self.words.queue(SLOT), 4, TIMEOUT, column, WorkerBell(self.wakers)) for column in columns
        ]

    def wait(self, worker: int, since: float | None, count: int = 1) -> None:
        for _ in range(count):
            assert self.pending[worker].try_take()
        self.queues[worker].publish(since)

    def woken(self) -> list[int]:
        """The workers that were woken since the last call."""
        found = []
        for worker in range(3):
            try:
                os.eventfd_read(self.wakers[worker + 1])
            except BlockingIOError:
                continue
            found.append(worker)
        return found


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    for fd in made.wakers.values():
        os.close(fd)


def test_requests_that_have_waited_longer_at_other_workers_are_counted(node: Node) -> None:
    now = monotonic()
    node.wait(0, now - 3.0, count=2)
    node.wait(1, now - 1.0, count=5)
    one, other, third = node.queues
    assert [one.others_waiting(), other.others_waiting(), third.others_waiting()] == [5, 2, 7]
    assert third.others_ahead(now - 2.0) == 2
    assert third.others_ahead(now - 3.5) == 0
    assert one.others_ahead(now - 2.0) == 0, "its own do not count"
    node.queues[0].publish(None)
    assert third.others_waiting() == 5


def test_the_limit_leaves_what_no_worker_has(node: Node) -> None:
    assert [queue.vacant() for queue in node.queues] == [4, 4, 4]
    for limit in (*node.limits, node.limits[0]):
        assert limit.try_take()
    assert [queue.vacant() for queue in node.queues] == [0, 0, 0]


def test_a_worker_that_died_waits_for_nothing(node: Node) -> None:
    node.wait(1, monotonic(), count=2)
    assert node.queues[0].others_waiting() == 2
    node.shared.clear_gauges(1)
    assert node.queues[0].others_waiting() == 0


def test_a_worker_that_hangs_keeps_no_connection_from_the_others(node: Node) -> None:
    """A request that still waits after its timeout is one of a worker that does not run."""
    node.wait(1, monotonic() - TIMEOUT - STALE_S - 1.0)
    assert node.queues[0].others_waiting() == 0


def test_a_worker_that_did_not_look_is_passed_over_until_it_looks(node: Node) -> None:
    """It has at least the time between two calls to look."""
    now = monotonic()
    node.wait(0, now - 3.0)
    node.wait(1, now - 2.0)
    here = node.queues[2]
    for _ in range(3):
        here.skip_unresponsive()
        assert here.others_ahead(now) == 2, "no place was left to them"
    here.prefer_others(now)
    here.skip_unresponsive()
    assert here.others_ahead(now) == 2, "it may have been left to them just now"
    node.queues[1].tell_look()
    here.prefer_others(now)
    here.skip_unresponsive()
    assert here.others_ahead(now) == 1
    here.skip_unresponsive()
    assert here.others_waiting() == 0
    node.queues[0].tell_look()
    assert here.others_waiting() == 1


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_worker_where_another_request_waits_has_looked(node: Node, is_replaced: bool) -> None:
    """Also a replacement of one that was killed while it was passed over."""
    now = monotonic()
    node.wait(0, now - 3.0)
    here = node.queues[2]
    here.prefer_others(now)
    for _ in range(2):
        here.skip_unresponsive()
    assert here.others_waiting() == 0
    if is_replaced:
        node.shared.clear_gauges(0)
    else:
        node.queues[0].publish(None)
    node.queues[0].publish(now - 1.0)
    assert here.others_waiting() == 1


def test_workers_with_connections_are_woken_unless_they_watch_the_queue(node: Node) -> None:
    for limit in node.limits:
        assert limit.try_take()
    node.queues[0].ring_holders()
    assert node.woken() == [1, 2]
    node.queues[1].watch(True)
    node.limits[2].give_back()
    node.queues[0].ring_holders()
    assert node.woken() == []
    node.queues[1].watch(False)
    node.queues[0].ring_holders()
    assert node.woken() == [1]


def test_those_that_have_waited_longer_are_woken(node: Node) -> None:
    now = monotonic()
    node.wait(1, now - 2.0)
    node.wait(2, now - 1.0)
    for since, woken in ((now - 3.0, []), (now - 1.5, [1]), (now, [1, 2])):
        node.queues[0].ring_ahead(since)
        assert node.woken() == woken


def test_a_worker_without_an_eventfd_is_not_woken(node: Node) -> None:
    queue = NodeQueue(node.words.queue(SLOT), 4, TIMEOUT, node.shared.columns[0])
    node.wait(1, monotonic())
    queue.ring_ahead(monotonic() + 1.0)
    assert node.woken() == []


class Listener:
    def __init__(self, name: str, looked: list[str]) -> None:
        self._name, self._looked = name, looked

    def handle_bell(self) -> None:
        self._looked.append(self._name)


def test_who_listens_already_is_entered_once(node: Node) -> None:
    bell = WorkerBell({})
    queue = NodeQueue(node.words.queue(SLOT), 4, TIMEOUT, node.shared.columns[0], bell)
    listener = Listener("one", [])
    queue.listen(listener)
    entered = bell.listening[queue]
    queue.listen(listener)
    assert bell.listening[queue] is entered


def test_only_pools_with_connections_or_waiting_requests_are_asked_to_look(node: Node) -> None:
    bell, looked = WorkerBell({}), list[str]()
    slots = (1, 2, 3, 4)
    queues = [NodeQueue(node.words.queue(slot), 4, TIMEOUT, node.shared.columns[0], bell) for slot in slots]
    others = [NodeQueue(node.words.queue(slot), 4, TIMEOUT, node.shared.columns[1]) for slot in slots]
    listeners = [Listener(name, looked) for name in ("one", "other", "dropped", "not rung for")]
    for queue, listener in zip(queues, listeners, strict=True):
        queue.listen(listener)
        queue.publish(monotonic())
    del listener, listeners[2]  # the bell keeps nobody

    def ring() -> list[str]:
        looked.clear()
        for other in others[:3]:
            other.ring_ahead(inf)
        for look in bell.due():
            look()
        return looked

    assert ring() == ["one", "other"]
    queues[0].ignore()
    assert ring() == ["other"]
    assert [*bell.due()] == [], "nobody has rung since"
    queues[1].ring_ahead(inf)
    assert [*bell.due()] == [], "nobody is woken by its own bell"
    assert len(bell.listening) == 2
