"""The data plane in one thread and in memory: real connections, exchanges and routes on transports played by a test.

Nothing runs by itself: the test decides when bytes arrive, how much a peer reads, when a connect completes and what
time it is, so that rare orders of events can be produced at will. The transports are as strict as uvloop's: they raise
the same errors.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from functools import cached_property
from itertools import count
from math import inf
from tempfile import gettempdir
from time import monotonic, time
from types import SimpleNamespace
from typing import Any, cast

from fastgw.composition import helper_program
from fastgw.config import Loaded
from fastgw.config.settings.gateway import Config
from fastgw.downstream import Server
from fastgw.errors import Fault
from fastgw.eventloop import worker_loop
from fastgw.eventloop.addressed_connections import AddressedConnections
from fastgw.eventloop.body_reads import BodyReads
from fastgw.eventloop.socket_poller import SocketPoller
from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.eventloop.timer_wheel import TICK, Wheel
from fastgw.filters import TYPES
from fastgw.filters.api import Env, Filter, Hooks, Phase
from fastgw.gateway.compiler import building
from fastgw.gateway.compiler import compile as compile_tables
from fastgw.gateway.tables import dismantling
from fastgw.observe.access_log.finished_exchange import FinishedExchange, record_of
from fastgw.observe.access_log.record import Record
from fastgw.observe.metrics.families import FilterEvent
from fastgw.routing.table import at_once
from fastgw.shm.held_body_budget import HeldBodyBudget
from fastgw.upstream.connections.http1_connection import UpstreamConnection
from fastgw.upstream.connections.pooled_connection import Lender, PooledConnection
from fastgw.upstream.targets.target import Target
from tests.support.generations import load_with_files, plan_after
from tests.support.judge import RequestJudge

SERVICE = {
    "version": 1,
    "listeners": {"main": {"address": "127.0.0.1:0"}},
    "upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:9"}]}},
    "routes": [{"name": "all", "upstream": "u"}],
}


_descriptors = count(1_000_000)  # there are no such ones: all bytes go through the transport


class Wire(SocketTransport):
    """A transport with its peer. `room`: bytes that the peer's socket accepts before `take` empties it."""

    def __init__(self, plane: Plane, protocol: Any) -> None:
        self.plane = plane
        self.plain_fd = next(_descriptors)
        self._judge = RequestJudge() if isinstance(protocol, UpstreamConnection) else None
        self.room: float = inf
        self.received = b""  # read by the peer
        self.ended = False  # the peer has received a FIN
        self.aborted = self.lost = False
        self.reading = True
        self.over = False  # the protocol was called for the peer's end
        self.resets_on_close = False
        self.rest: bytes | None = None  # what the socket has after a failed write, before a FIN
        self._unsent = b""
        self._unread: list[bytes | None] = []  # sent by the peer while reading was paused; None: FIN
        self._closing = self._eof = self._told_to_pause = False
        self.begin(protocol)

    # --- the transport ---

    def write(self, chunk: bytes) -> None:
        if self.lost:
            raise RuntimeError("unable to perform operation; the handler is closed")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.aborted or not chunk:
            return
        if self._judge is not None:
            self._judge.read(chunk)
        fits = len(chunk) if self.room is inf else max(0, min(len(chunk), int(self.room) - len(self.received)))
        if self._unsent:
            fits = 0
        self.received += chunk[:fits]
        self._unsent += chunk[fits:]
        if self._unsent and not self._told_to_pause:
            self._told_to_pause = True
            self.protocol.pause_writing()

    def write_parts(self, head: bytes, body: bytes) -> None:
        self.write(head)
        self.write(body)

    def write_eof(self) -> None:
        if self.lost:
            raise RuntimeError("unable to perform operation; the handler is closed")
        self._eof = True
        self.ended = self.ended or not self._unsent

    def close(self) -> None:
        if not self._closing:
            self._closing, self.reading = True, False
            if not self._unsent:
                self.ended = True
                self.plane.soon.append(lambda: self._lose(None))

    def abort(self) -> None:
        if not self.aborted and not self.lost:
            self.aborted = self._closing = True
            self.reading = False
            self._unsent = b""
            self.plane.soon.append(lambda: self._lose(None))

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        if not self._closing and not self.reading:
            self.reading = True
            self.plane.soon.append(self._deliver)

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def unsent(self) -> int:
        return len(self._unsent)

    def reset_on_close(self) -> None:
        self.resets_on_close = True

    def has_unread(self) -> bool:
        return bool(self._unread)

    def read_rest(self, buffer: memoryview) -> int:
        if self.rest is None:
            raise OSError
        count = min(len(buffer), len(self.rest))
        buffer[:count], self.rest = self.rest[:count], self.rest[count:]
        return count

    # --- the peer ---

    @property
    def target(self) -> str:
        """The address of the target whose end of a connection it is."""
        return str(self.protocol.target.label)

    def sends(self, chunk: bytes) -> None:
        self._unread.append(chunk)
        self._deliver()
        self.plane.settle()

    def ends(self) -> None:
        """Send FIN."""
        self._unread.append(None)
        self._deliver()
        self.plane.settle()

    def resets(self) -> None:
        """Send RST, which the transport notices also while reading is paused, as in a write."""
        if not self.lost:
            self._closing = self.aborted = True
            self._lose(ConnectionResetError())
        self.plane.settle()

    def takes(self, room: float = inf) -> None:
        """Read all waiting bytes, and accept `room` more."""
        self.room = inf if room is inf else len(self.received) + len(self._unsent) + room
        self.received += self._unsent
        self._unsent = b""
        if self._told_to_pause:
            self._told_to_pause = False
            self.protocol.resume_writing()
        if self._closing and not self.lost and not self._unsent:
            self.ended = True
            self._lose(None)
        elif self._eof:
            self.ended = True
        self.plane.settle()

    def takes_some(self, count: int) -> None:
        """Read so many of the waiting bytes, and leave others: the transport does not report that."""
        assert count < len(self._unsent)
        self.received += self._unsent[:count]
        self._unsent = self._unsent[count:]

    def _deliver(self) -> None:
        while self._unread and self.reading and not self._closing:
            chunk = self._unread[0]
            if chunk is None:
                self._unread.pop(0)
                self.over = True
                if not self.protocol.eof_received():
                    self.close()
                self.reading = False
                return
            buffer = self.protocol.buffer
            self._unread[0] = chunk[len(buffer) :]
            if not self._unread[0]:
                self._unread.pop(0)
            piece = chunk[: len(buffer)]
            with memoryview(buffer) as lent:
                lent[: len(piece)] = piece
            self.protocol.buffer_updated(len(piece))

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.protocol.connection_lost(error)
            self.lost = True
            self.reading = False


class Hangups:
    """Records the connections that watch for a hang-up."""

    def __init__(self) -> None:
        self.watched: set[Any] = set()

    def watch(self, transport: Any) -> None:
        self.watched.add(transport)

    def unwatch(self, transport: Any) -> None:
        self.watched.discard(transport)


class MemoryLoop:
    """Replaces `fastgw.eventloop.worker_loop.WorkerLoop`, with a clock that stands still."""

    def __init__(self) -> None:
        self.held_body_budget = HeldBodyBudget.single_process()
        self.wheel = Wheel(1000.0)
        self.reads = BodyReads(lambda turn: self.loop.call_soon(turn))
        self.tls_memory = worker_loop.TlsMemory()
        self.hangups = Hangups()
        self.turns = Turns(self.wheel)
        self.make_room = lambda: False
        self.connections = AddressedConnections(self.loop)
        self.crowded: set[Any] = set()
        self.holders: set[Any] = set()

    @cached_property
    def sockets(self) -> SocketPoller:
        """For sockets that the test opens on its loop."""
        return SocketPoller(self.loop)

    look_at_crowded = worker_loop.WorkerLoop.look_at_crowded

    def attached(self, make: Callable[[Any], Any]) -> Any:
        """Return what is made for this loop, with its program in this process."""
        held: Any = make(SimpleNamespace(loop=Turns(self.wheel), make_room=self.make_room))  # its own timers
        held._pool = ProgramHere()
        return held

    @property
    def loop(self) -> Any:
        """The test's own loop if it runs one; else the turns played by `settle`."""
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            return self.turns


class ProgramHere:
    """Replaces the helper process of compositions, with the same program."""

    def start(self, *of_worker: Any) -> None: ...
    def stop(self) -> None: ...

    async def run_request(self, request: bytes) -> bytes:
        return helper_program.start(b"")(request)


class Timer:
    """A callback at a time, unless cancelled."""

    def __init__(self, turns: Turns, at: float, call: Any) -> None:
        self.turns, self.at, self.call = turns, at, call

    def cancel(self) -> None:
        if self in self.turns.timers:
            self.turns.timers.remove(self)


class Turns:
    """Callbacks of later turns, or at a time by the wheel's clock."""

    def __init__(self, wheel: Wheel) -> None:
        self.soon: list[Any] = []
        self.timers: list[Timer] = []
        self._struck_at = 0.0  # the last one was due
        self.offloaded = 0
        self._wheel = wheel

    def call_soon(self, callback: Any, *arguments: Any, context: Any = None) -> None:
        self.soon.append(lambda: callback(*arguments))

    def settle(self) -> None:
        """Run the callbacks of the next turn."""
        while self.soon:
            running, here = asyncio._get_running_loop(), cast(asyncio.AbstractEventLoop, self)
            asyncio._set_running_loop(here)  # from CPython 3.14 on a task asks for the current task
            try:
                self.soon.pop(0)()
            finally:
                asyncio._set_running_loop(running)

    def create_task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        loop: Any = self
        return asyncio.Task(coroutine, loop=loop)

    def create_future(self) -> asyncio.Future[Any]:
        loop: Any = self
        return asyncio.Future(loop=loop)

    def run_in_executor(self, executor: Executor, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Do the work in the executor's thread, while no turn runs; its future is done in the next one."""
        self.offloaded += 1
        future = self.create_future()
        future.set_result(executor.submit(work).result())
        return future

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: Mapping[str, Any]) -> None:
        raise AssertionError(context)

    def call_later(self, seconds: float, callback: Any, *arguments: Any) -> Timer:
        now = max(self._wheel.now, self._struck_at)
        timer = Timer(self, now + seconds, lambda: callback(*arguments))
        self.timers.append(timer)
        return timer

    def strike(self, now: float) -> bool:
        """Run the callback that is due first until then; False: there is none."""
        timer = min(self.timers, key=lambda each: each.at, default=None)
        if timer is None or timer.at > now:
            return False
        self.timers.remove(timer)
        self._struck_at = timer.at
        timer.call()
        return True


class Pool(Lender):
    """Connects when the test says so (`Plane.connects`), and keeps returned connections."""

    def __init__(self, worker_loop: MemoryLoop) -> None:
        self.worker_loop = worker_loop
        self.waiting: list[tuple[Any, Target]] = []
        self.open: set[PooledConnection] = set()
        self.is_full = False

    def may_open(self) -> bool:
        return not self.is_full

    def lend(
        self, target: Target, borrower: Any, fresh: bool = False, idle_at_most: float = inf
    ) -> UpstreamConnection | Fault | None:
        connection = None if fresh else self.try_lend(target, idle_at_most)
        if connection is None:
            self.waiting.append((borrower, target))
        return connection

    def try_lend(self, target: Target, idle_at_most: float = inf) -> UpstreamConnection | None:
        newest: UpstreamConnection | None = next(reversed(target.idle), None)
        if newest is None or self.worker_loop.wheel.now - newest.idle_since > idle_at_most:
            return None
        connection: UpstreamConnection = target.idle.popitem()[0]
        connection.uses += 1
        connection.streams = 1
        opened: UpstreamConnection = connection.open_stream()
        return opened

    def is_queued(self, borrower: Any) -> bool:
        return False

    def withdraw(self, borrower: Any) -> None:
        self.waiting = [each for each in self.waiting if each[0] is not borrower]

    def give_back(self, connection: PooledConnection) -> None:
        assert connection in self.open
        connection.streams = 0
        if connection.closed:
            self.discard(connection)
            return
        connection.idle_since = self.worker_loop.wheel.now
        connection.target.idle[connection] = None

    def discard(self, connection: PooledConnection) -> None:
        if connection in self.open:
            self.open.remove(connection)
            connection.target.idle.pop(connection, None)
            connection.close()

    def forget(self, connection: PooledConnection) -> None:
        if connection in connection.target.idle:
            self.discard(connection)


class Counter:
    """A limit that counts its uses."""

    def __init__(self, most: int) -> None:
        self.taken, self.most = 0, most

    def try_take(self, ip: str = "") -> bool:
        if self.taken >= self.most:
            return False
        self.taken += 1
        return True

    def give_back(self, ip: str = "") -> None:
        assert self.taken > 0, "given back twice"
        self.taken -= 1


class Observer:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.subrequests: list[tuple[str, str, int, int]] = []
        self.filters: list[tuple[str, FilterEvent]] = []

    def finish(self, ended: FinishedExchange) -> None:
        self.records.append(record_of(ended, monotonic(), time()))

    def count_subrequest(self, ended: FinishedExchange, status: int) -> None:
        self.subrequests.append((ended.upstream, ended.target, status, ended.retries))

    def count_websocket(self, ended: FinishedExchange, side: int, what: int, count: int) -> None: ...
    def count_content_coding(
        self, ended: FinishedExchange, operation: int, coding: int, bytes_in: int, bytes_out: int
    ) -> None: ...

    def count_filter(self, instance: str, event: FilterEvent) -> None:
        self.filters.append((instance, event))

    def count_refusal(self, ended: FinishedExchange, instance: str) -> None:
        self.filters.append((instance, FilterEvent.REFUSED))

    def count_shadow_decision(self, ended: FinishedExchange, instance: str, decision: FilterEvent) -> None:
        self.filters.append((instance, decision))


def probe(name: str, phase: Phase, order: int = 0, **hooks: Any) -> type[Filter]:
    """Return a filter type with these hooks; `Plane(probes=...)` has one instance of it at the gateway level."""

    class Probe(Filter, name=name, phase=phase, order=order):
        """A filter of a test."""

        def build(self, env: Env) -> Hooks:
            return Hooks(**hooks)

    return Probe


def _loaded(document: Mapping[str, Any], probes: tuple[type[Filter], ...]) -> Loaded:
    """Load a configuration, or return what the same text was loaded as before: nothing in it can be changed, and to
    load it takes as long as the rest of a plane. One that names files or the environment is loaded each time.
    """
    text = json.dumps(document)
    types = {**TYPES, **{each.type_name: each for each in probes}}
    if "$" in text or gettempdir() in text:
        return load_with_files(document, types)
    by_default = tuple(name for name, each in types.items() if each.by_default)  # tests change it
    key = text, probes, by_default
    loaded = _known.pop(key, None) or load_with_files(document, types)
    _known[key] = loaded  # the newest is the last
    if len(_known) > KNOWN:
        del _known[next(iter(_known))]
    return loaded


KNOWN = 128
_known: dict[tuple[str, tuple[type[Filter], ...], tuple[str, ...]], Loaded] = {}


class Plane:
    """A worker's data plane. `settings`: additions to a configuration with one listener, one upstream and one route."""

    def __init__(
        self, settings: Mapping[str, Any] | None = None, *, probes: Sequence[type[Filter]] = (), most: int = 1000
    ) -> None:
        self._probes = probes
        self.config = self._load(settings or {})
        self.gateway = compile_tables(self.config, 1, self.files)
        self.worker_loop = MemoryLoop()
        self.pool = Pool(self.worker_loop)
        self.observer = Observer()
        self.limit = Counter(most)
        self.soon = self.worker_loop.turns.soon
        self._start()
        self.listener = self.gateway.listeners[0]
        self.server = Server(self.worker_loop, self.gateway, self.observer, self.limit, None)  # type: ignore[arg-type]

    def _load(self, settings: Mapping[str, Any]) -> Config:
        document = {**SERVICE, **settings}
        document["filters"] = {**document.get("filters", {}), **{each.type_name: {} for each in self._probes}}
        loaded = _loaded(document, tuple(self._probes))
        self.files = loaded.captured
        """Contents of the files that the configuration names."""
        return loaded.config

    def _start(self) -> None:
        for upstream in self.gateway.upstreams.values():
            upstream.worker_loop, upstream.pool = self.worker_loop, self.pool  # type: ignore[assignment]

    def adopts(self, settings: Mapping[str, Any]) -> None:
        """Replace the configuration by `settings`, as a worker does on a commit."""
        before, old = self.config, self.gateway
        self.config = self._load(settings)
        self.gateway = at_once(building(plan_after(before, self.config, self.files), 1, old))
        self._start()
        self.server.adopt(self.gateway, self.limit, None)  # type: ignore[arg-type]
        if not old.in_use:
            at_once(dismantling(old, self.gateway))

    @property
    def records(self) -> list[Record]:
        return self.observer.records

    def client(self, ip: str = "127.0.0.1", port: int = 80) -> Wire:
        """Return a client's end of a new connection. `port`: of the listener."""
        wire = Wire(self, self.server.accepted(self.listener, (ip, 1), port))
        self.settle()
        return wire

    def connects(self, room: float = inf) -> Wire:
        """Complete the oldest connect; return the upstream's end of it. `room`: bytes that it accepts."""
        borrower, target = self.pool.waiting.pop(0)
        connection = UpstreamConnection(self.worker_loop, self.pool, target)  # type: ignore[arg-type]
        self.pool.open.add(connection)
        wire = Wire(self, connection)
        wire.room = room
        connection.uses += 1
        connection.streams = 1
        borrower.lent(connection)
        self.settle()
        return wire

    def cannot_connect(self, fault: Fault = Fault.CONNECT_REFUSED) -> None:
        borrower, _ = self.pool.waiting.pop(0)
        borrower.failed(fault)
        self.settle()

    def settle(self) -> None:
        """Run the callbacks of the loop's next turn."""
        self.worker_loop.turns.settle()

    def passes(self, seconds: float) -> None:
        """Advance the time, tick by tick."""
        until = self.worker_loop.wheel.now + seconds
        while self.worker_loop.wheel.now < until:
            tick = self.worker_loop.wheel.now + TICK
            while self.worker_loop.turns.strike(tick):
                self.settle()
            self.worker_loop.wheel.advance(tick)
            self.settle()

    def assert_quiet(self) -> None:
        """Assert that no resources are held."""
        assert self.pool.waiting == []
        assert self.limit.taken == len(self.server.connections)
        upstreams = self.gateway.upstreams.values()
        assert all((upstream.active, upstream.retry_budget.in_use) == (0, 0) for upstream in upstreams)
        targets = [target for upstream in upstreams for target in upstream.targets]
        assert self.pool.open == {connection for target in targets for connection in target.idle}
        assert all(connection.exchange is None for connection in self.server.connections)
        assert not self.worker_loop.hangups.watched
        assert not self.worker_loop.turns.timers
