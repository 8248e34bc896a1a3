"""What a worker's connections stand on goes on turning, whatever happens on it."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from fastgw.eventloop.body_reads import (
    BODY_BYTES_PER_TURN,
    BODY_READ_BYTES,
    FRAMING_COST,
    MEDIUM_READ_BYTES,
    READ_BYTES,
    READERS_PER_TURN,
    SMALL_READ_BYTES,
    BodyReading,
    Rests,
)
from fastgw.eventloop.socket_transport import SocketTransport, room
from fastgw.eventloop.timer_wheel import TICK, Timed
from fastgw.eventloop.worker_loop import AFTER_STALL_S, STALL_S, WorkerLoop


class Broken(Timed):
    def expire(self, now: float) -> None:
        raise ZeroDivisionError


class Waiting(Timed):
    def __init__(self, rang: asyncio.Event) -> None:
        super().__init__()
        self.rang = rang

    def expire(self, now: float) -> None:
        self.rang.set()


def test_the_wheel_turns_on_when_an_expiry_raises() -> None:
    """Else no connection of this worker would ever time out again. The error is the loop's to report."""

    async def live() -> list[str]:
        loop = asyncio.get_running_loop()
        reported: list[str] = []
        loop.set_exception_handler(lambda _, report: reported.append(type(report["exception"]).__name__))
        worker_loop = WorkerLoop(loop)
        worker_loop.start()
        rang = asyncio.Event()
        worker_loop.wheel.watch(Broken(), worker_loop.wheel.now + 0.05)
        worker_loop.wheel.watch(Waiting(rang), worker_loop.wheel.now + 0.2)
        async with asyncio.timeout(30):
            await rang.wait()
        worker_loop.close()
        return reported

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(live()) == ["ZeroDivisionError"]


class Listening:
    """Notes that its peer has left."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    def peer_left(self) -> None:
        assert not self.left.is_set(), "told twice"
        self.left.set()


def run(live: object) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live())  # type: ignore[operator]


class Noted(Timed):
    """Notes when it expires."""

    def __init__(self) -> None:
        super().__init__()
        self.expired_at = inf

    def expire(self, now: float) -> None:
        self.expired_at = now


class ClockedLoop:
    """An event loop whose time is the test's, and which makes a call when the test says so. `time`: in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = 1000.01  # amid a tick of the wheel
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.Handle:
        self.calls.append((seconds, callback))
        return SimpleNamespace(cancel=lambda: None)  # type: ignore[return-value]

    def play(self, late_s: float = 0.0) -> float:
        """Make the one call that is planned, late by so many seconds. Returns the delay that was asked for."""
        ((seconds, call),) = self.calls
        self.calls.clear()
        self.now += seconds + late_s
        call()
        return seconds


@pytest.fixture
def clocked() -> Iterator[tuple[ClockedLoop, WorkerLoop]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop: Any = ClockedLoop(runner.get_loop())
        worker_loop = WorkerLoop(loop)
        worker_loop.start()
        yield loop, worker_loop
        worker_loop.close()


def test_deadlines_are_checked_in_each_tick_and_one_turn_later_after_a_stall(
    clocked: tuple[ClockedLoop, WorkerLoop],
) -> None:
    """A stall is a delay of more than `STALL_S`. One that comes right after another one is waited out no longer."""
    loop, worker_loop = clocked
    for late_s, waits in ((0.0, False), (STALL_S - 2 * TICK, False), (STALL_S, True), (1000.0, True)):
        due = Noted()
        worker_loop.wheel.watch(due, loop.now)
        assert loop.play(late_s) == TICK
        assert (due.expired_at == inf) is waits, late_s
        assert worker_loop.wheel.now == loop.now
        if waits:
            assert loop.play(late_s) == AFTER_STALL_S
            assert due.expired_at == loop.now


def test_nobody_is_late_because_we_stood_still(clocked: tuple[ClockedLoop, WorkerLoop]) -> None:
    """After a stall (a paused machine, a throttled container) what has come meanwhile is read first."""
    loop, worker_loop = clocked
    answered, silent = Noted(), Noted()
    for each in (answered, silent):
        worker_loop.wheel.watch(each, loop.now + 0.1)
    loop.play(late_s=1.0)
    answered.deadline = inf  # it is read in the turn in between
    loop.play()
    assert (answered.expired_at, silent.expired_at) == (inf, loop.now)


def test_the_delay_after_a_stall_leaves_a_turn_for_what_has_come() -> None:
    """uvloop looks at the sockets before it makes a call that is planned for so much later."""

    async def live() -> list[str]:
        loop = asyncio.get_running_loop()
        order: list[str] = []
        called = asyncio.Event()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"!")
            loop.add_reader(ours, lambda: (order.append("read"), loop.remove_reader(ours)))
            loop.call_later(AFTER_STALL_S, lambda: (order.append("called"), called.set()))
            async with asyncio.timeout(30):
                await called.wait()
        return order

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(live()) == ["read", "called"]


PIECE = bytes(READ_BYTES)


@pytest.fixture
def worker_loop() -> Iterator[WorkerLoop]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        worker_loop = WorkerLoop(runner.get_loop())
        yield worker_loop
        worker_loop.close()


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        peer.setblocking(False)
        yield peer


@pytest.mark.parametrize(
    ("came", "payload", "assured", "read"),
    [
        (READ_BYTES, READ_BYTES, 1 << 40, BODY_READ_BYTES),
        (READ_BYTES, READ_BYTES, BODY_READ_BYTES, BODY_READ_BYTES),
        (READ_BYTES, READ_BYTES, BODY_READ_BYTES - 1, BODY_READ_BYTES - READ_BYTES),
        (READ_BYTES, READ_BYTES, 2 * READ_BYTES, 2 * READ_BYTES),
        (READ_BYTES, READ_BYTES, 2 * READ_BYTES - 1, 2 * READ_BYTES - 1),  # what is behind the body is not read with it
        (READ_BYTES, READ_BYTES, READ_BYTES + 1, READ_BYTES + 1),
        (READ_BYTES, READ_BYTES, READ_BYTES, READ_BYTES),
        (READ_BYTES, READ_BYTES, 1, READ_BYTES),
        (READ_BYTES // 2, READ_BYTES // 2, 1 << 40, READ_BYTES),  # it comes slowly
        (READ_BYTES, READ_BYTES * 7 // 8, 0, READ_BYTES),  # chunks
        (READ_BYTES, READ_BYTES * 7 // 8 - 1, 0, MEDIUM_READ_BYTES),
        (READ_BYTES, READ_BYTES // 2, 0, MEDIUM_READ_BYTES),
        (READ_BYTES, READ_BYTES // 2 - 1, 0, SMALL_READ_BYTES),
    ],
)
def test_many_bytes_are_read_at_once_of_payload_that_comes_fast_and_is_sure_to_come(
    worker_loop: WorkerLoop, peer: socket.socket, came: int, payload: int, assured: int, read: int
) -> None:
    assert len(worker_loop.reads.buffer_for(PIECE[:came], PIECE[:payload], assured, peer.fileno())) == read
    assert len(worker_loop.reads.buffer_for(PIECE[:came], PIECE[:payload], assured, -1)) == min(read, READ_BYTES)


def test_no_more_is_read_than_a_peer_that_does_not_take_it_has_room_for(
    worker_loop: WorkerLoop, peer: socket.socket
) -> None:
    reads = []
    with contextlib.suppress(BlockingIOError):
        while peer.send(PIECE):
            reads.append(len(worker_loop.reads.buffer_for(PIECE, PIECE, 1 << 40, peer.fileno())))
            assert reads[-1] == READ_BYTES or reads[-1] < room(peer.fileno())
    assert reads[0] == BODY_READ_BYTES
    assert reads[-1] == READ_BYTES


class Reading(SocketTransport):
    """A transport that is told what to do with its reading."""

    def __init__(self, body: "Body") -> None:
        self.body = body

    def is_closing(self) -> bool:
        return self.body.closing

    def pause_reading(self) -> None:
        self.body.told.append(("rest", self.body))


class Body(BodyReading):
    """A connection that reads a body."""

    def __init__(self, told: list[tuple[str, object]]) -> None:
        self.transport = Reading(self)
        self.closing = self.broken = False
        self.told = told

    def end_rest(self) -> None:
        self.told.append(("read on", self))
        if self.broken:
            raise ZeroDivisionError


Calls = list[Callable[[], None]]


def turn(calls: Calls) -> None:
    """What a turn of the loop does of what is due."""
    due = calls[:]
    del calls[:]
    for call in due:
        call()


def test_of_a_body_a_megabyte_is_read_until_others_have_had_their_turn(worker_loop: WorkerLoop) -> None:
    told: list[tuple[str, object]] = []
    body, leaving = Body(told), Body(told)
    leaving.closing = True

    async def live() -> None:
        for each in (leaving, body):
            each.read_since_rest = BODY_BYTES_PER_TURN - len(PIECE)
            worker_loop.reads.count(each, len(PIECE) - 1, 0)
            assert told == []
            worker_loop.reads.count(each, 1, 0)
        assert told == [("rest", body)]
        worker_loop.reads.count(body, len(PIECE), 0)  # what was under way already
        assert told == [("rest", body)]
        await asyncio.sleep(0)

    worker_loop.loop.run_until_complete(live())
    assert told == [("rest", body), ("read on", body)]
    assert (body.resting, body.read_since_rest) == (False, len(PIECE))


def test_framing_counts_by_what_it_costs(worker_loop: WorkerLoop) -> None:
    """A chunk of one byte costs more than a hundred bytes of a large one."""
    told: list[tuple[str, object]] = []
    body = Body(told)
    for _ in range(BODY_BYTES_PER_TURN // (5 * FRAMING_COST + 1)):
        worker_loop.reads.count(body, 1, 5)
    assert told == []
    worker_loop.reads.count(body, 1, 5)
    assert told == [("rest", body)]


def test_in_one_turn_a_few_read_on_in_the_order_in_which_they_began_to_rest() -> None:
    told: list[tuple[str, object]] = []
    calls: Calls = []
    rests = Rests(calls.append)
    bodies = [Body(told) for _ in range(3 * READERS_PER_TURN)]
    for body in bodies:
        body.read_since_rest = BODY_BYTES_PER_TURN
        rests.start_rest(body, body.transport)
    for start in range(0, len(bodies), READERS_PER_TURN):
        del told[:]
        turn(calls)
        assert told == [("read on", body) for body in bodies[start : start + READERS_PER_TURN]]
    assert calls == []  # with nobody in the line no turn is asked for


def test_who_rests_again_at_once_reads_once_in_a_turn() -> None:
    told: list[tuple[str, object]] = []
    calls: Calls = []
    rests = Rests(calls.append)

    class Greedy(Body):
        def end_rest(self) -> None:
            super().end_rest()
            self.read_since_rest += BODY_BYTES_PER_TURN
            rests.start_rest(self, self.transport)

    greedy = Greedy(told)
    greedy.read_since_rest = BODY_BYTES_PER_TURN
    rests.start_rest(greedy, greedy.transport)
    for _ in range(3):
        del told[:]
        turn(calls)
        assert told == [("read on", greedy), ("rest", greedy)]


def test_who_has_cost_several_shares_waits_for_as_many_turns() -> None:
    told: list[tuple[str, object]] = []
    calls: Calls = []
    rests = Rests(calls.append)
    body = Body(told)
    body.read_since_rest = 3 * BODY_BYTES_PER_TURN + 5
    rests.start_rest(body, body.transport)
    for turns in range(3):
        assert (body.resting, told) == (True, [("rest", body)]), turns
        turn(calls)
    assert (body.resting, told[1:]) == (False, [("read on", body)])
    assert (body.read_since_rest, calls) == (5, [])


def test_one_that_fails_does_not_keep_others_resting() -> None:
    told: list[tuple[str, object]] = []
    calls: Calls = []
    rests = Rests(calls.append)
    broken, sound = Body(told), Body(told)
    broken.broken = True
    for body in (broken, sound):
        rests.start_rest(body, body.transport)
    with pytest.raises(ZeroDivisionError):
        turn(calls)
    turn(calls)
    assert told[2:] == [("read on", broken), ("read on", sound)]
