"""Processes that are killed while they use the shared store, as functions of a small process: they fork many times."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import time
from collections.abc import Callable
from typing import Any

from fastgw.cache.shared._cells import Cells
from fastgw.cache.shared.layout import CacheMemory
from fastgw.cache.shared.recovery import clean_up
from fastgw.cache.shared.segments import SegmentState
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.shared.space import Space
from fastgw.cache.store import Refusal
from fastgw.routing.table import at_once
from tests.unit.cache.nodes import SharedNode, begin, body_of, leased, leases_in, objects_in, pins_in, put, read

MEMORY = 1 << 20
LONG = 100_000  # of several segments


def key_of(number: int) -> bytes:
    return b"%016d" % number


def content(number: int, version: int, length: int) -> bytes:
    """A body in which every part says whose it is."""
    return (b"<%d.%d>" % (number, version) * (length // 4 + 1))[:length]


class _Deadly:
    """Words, the n-th change of which a process does not survive."""

    def __init__(self, words: memoryview, countdown: int) -> None:
        self._words, self.countdown = words, countdown

    def __getitem__(self, at: Any) -> Any:
        return self._words[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self.tick()
        self._words[at] = value

    def tick(self) -> None:
        self.countdown -= 1
        if not self.countdown:
            os.kill(os.getpid(), signal.SIGKILL)


def deadly(memory: CacheMemory, countdown: int) -> CacheMemory:
    """The same memory, in a process that dies at a change of a word."""
    again = CacheMemory(memory.memory, os.dup(memory.fd))
    swap = memory.swap
    again.words = _Deadly(again.words, countdown)  # type: ignore[assignment]

    def dying(at: int, seen: int, wanted: int, /) -> bool:
        again.words.tick()  # type: ignore[attr-defined]
        return swap(at, seen, wanted)

    again.swap = dying
    return again


class _DeadlyCells(Cells):
    """Those of a process that dies before or after a change."""

    tick: Callable[[], None]


def _dying(name: str) -> Callable[..., Any]:
    def change(self: _DeadlyCells, *about: Any) -> Any:
        self.tick()
        outcome = getattr(Cells, name)(self, *about)
        self.tick()
        return outcome

    return change


for _name in (
    "completed",
    "drop",
    "end_lease",
    "evict",
    "fill",
    "grown",
    "insert",
    "move",
    "pin",
    "remove",
    "replace",
    "set_used",
    "take_lease",
    "unpin",
    "write",
    "write_chunk",
):
    setattr(_DeadlyCells, _name, _dying(_name))


def live_and_die(node: SharedNode, countdown: int, version: int) -> bool:
    """Let a child use the store until it dies at this change; return whether it has."""
    passing = itertools.count()
    pid = os.fork()
    if pid == 0:
        try:
            node.memory = deadly(node.memory, countdown)
            store = node.open(1)
            assert isinstance(store, SharedStore)
            store.cells = _DeadlyCells(node.memory, 1)
            store.cells.tick = node.memory.words.tick  # type: ignore[attr-defined]
            store.space = Space(node.memory, store.segments, store.cells)
            for number in range(4):
                writer = begin(store, key_of(number), size=None)
                for at in range(0, 20_000, 5000):
                    writer.append(content(number, version, 20_000)[at : at + 5000])
                writer.complete()
                read(store, key_of(number))
                writer = begin(store, key_of(number), size=None)
                writer.append(content(number, version, 20_000)[:5000])
                writer.abort()
            writer = begin(store, key_of(4), size=LONG)  # reserved at once
            for at in range(0, LONG, 30_000):
                writer.append(content(4, version, LONG)[at : at + 30_000])
            writer.complete()
            clock = store.clock
            store.clock = lambda: clock() + next(passing) / 100
            writer = begin(store, key_of(4), size=LONG)  # reserved as the body arrives
            writer.append(content(4, version, LONG)[:5000])
            writer.abort()
            lease = leased(store, key_of(0))
            if (found := store.find(key_of(0))) is not None:
                lease.freshen(found, b"head")
            at_once(store.purge("tag", [b"none"]))
            at_once(store.purge("prefix", [b"none"]))
            store.remove(key_of(3))
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def kill_at_any_change() -> None:
    """Each kill is followed by what the supervisor does; then all that is found is whole, and all can be stored."""
    node = SharedNode()
    clean_up(node.memory, 1, node.wakers)
    countdown = step = 1
    version = kills = 0
    while live_and_die(node, countdown, version):
        clean_up(node.memory, 1, node.wakers)
        kills += 1
        check_all(node, version)
        countdown, version, step = countdown + step, version + 1, 1 + countdown // 20
    assert kills > 70  # of 59 without the changes of `_cells`
    node.close()


def check_all(node: SharedNode, version: int) -> None:
    store, memory = node.b, node.memory
    assert pins_in(memory) == 0
    assert leases_in(store) == 0
    assert not [
        segment
        for segment in range(store.segments.count)
        if store.segments.state(segment).owner == 2 or store.segments.state(segment).state is SegmentState.RECYCLING
    ]
    for number in range(5):
        found = read(store, key_of(number))
        if found is not None:
            length = LONG if number == 4 else 20_000
            versions = {content(number, each, length) for each in range(max(0, version - 3), version + 1)}
            assert found[1] in versions or found[1] == b"other"
    put(store, key_of(version % 4), b"other")
    assert read(store, key_of(version % 4)) == (b"head", b"other")
    assert os.fstat(memory.fd).st_blocks * 512 <= MEMORY * 1.05 + 12_288


def use_until_killed(node: SharedNode, column: int, seed: int) -> None:
    """Store, read and purge at random; ends only if something wrong is found."""
    chance = random.Random(seed)
    store = node.open(column)
    parent = os.getppid()
    while os.getppid() == parent:
        number = chance.randrange(60)
        held = [found for each in range(3) if (found := store.find(key_of((number + each) % 60))) is not None]
        for found in held:
            is_complete = found.is_complete  # before the body, which may still grow otherwise
            body = body_of(found)
            named = re.match(rb"<(\d+)\.(\d+)>", body + b"<0.0>" * (not body))
            assert named is not None
            if body and body != content(int(found.key), int(named[2]), len(body)):
                os._exit(3)
            if is_complete and (len(body) != found.size or b"%d" % len(body) != found.head):
                os._exit(4)
        lease = store.lease(key_of(number))
        if isinstance(lease, Refusal):
            continue
        length = chance.choice([0, 10, 3000, 30_000, 90_000])
        body = content(number, chance.randrange(1000), length)
        writer = lease.store(b"%d" % length, chance.choice([None, length]), tags=[b"%d" % (number % 7)])
        if writer is None:
            lease.give_up()
        elif all(writer.append(body[at : at + 8000]) for at in range(0, length, 8000)) and chance.random() < 0.95:
            writer.complete()
        else:
            writer.abort()
        if chance.random() < 0.02:
            at_once(store.purge("tag", [b"%d" % chance.randrange(7)], soft=chance.random() < 0.5))
        for found in held:
            if body_of(found)[: found.length] and not body_of(found).startswith(b"<%d." % int(found.key)):
                os._exit(5)
            found.release()


def kill_some_at_once() -> None:
    """Three processes check all that they read, while one after the other is killed."""
    node = SharedNode()

    def spawn(column: int, seed: int) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                use_until_killed(node, column, seed)
            finally:
                os._exit(9)
        return pid

    node.loops[3] = node.loops[1]
    node.wakers[3] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    node.memory.use_column(3)
    workers = {column: spawn(column, column) for column in (1, 2, 3)}
    try:
        for kill in range(96):
            column = 1 + kill % 3
            seen, ends = node.memory.words[node.memory.column(column)], time.monotonic() + 60
            while node.memory.words[node.memory.column(column)] < seen + 15 and time.monotonic() < ends:
                ended, status = os.waitpid(workers[column], os.WNOHANG)
                if ended:
                    del workers[column]
                assert not ended, f"it has found something wrong: {status}"
                time.sleep(0.005)
            os.kill(workers[column], signal.SIGKILL)
            _, status = os.waitpid(workers.pop(column), 0)
            assert os.WIFSIGNALED(status), status
            clean_up(node.memory, column, node.wakers)
            workers[column] = spawn(column, 100 + kill)
    finally:
        for column, pid in workers.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            clean_up(node.memory, column, node.wakers)
    assert pins_in(node.memory) == 0
    assert leases_in(node.b) == 0
    for number in range(60):
        put(node.b, key_of(number), b"whole")
    assert all(read(node.a, key_of(number)) == (b"head", b"whole") for number in range(60))
    assert abs(node.a.numbers().objects - objects_in(node.a)) <= 27  # a kill between a change and its count
    node.close()
