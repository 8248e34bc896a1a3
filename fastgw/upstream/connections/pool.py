"""The connections of one worker to one upstream, and the streams on them: lent, given back, opened and waited for.

A pool lends capacity: a connection carries `capacity` streams at once, which is 1 for HTTP/1. The connections that
carry some and have room for more are lent from first, so that the idle ones may grow old and go.
Rule 1: a stream is lent only for the target its connection was opened to. One pool serves one upstream, and an upstream
has one TLS identity (client certificate, trusted CA, verification), so connections of two identities never mix.
Rule 2: every connection holds one place of the upstream's allowance from before it is opened until it is closed.
Rule 3: counts are kept, never recounted. Rule 4: whoever waits is told exactly once, by `lent` or by `failed`, unless
it withdraws; and it is told when the pool's books are in order again, so it may call back into the pool.

An opening belongs to nobody: when it is done it goes to those who have waited longest for its target, else it is kept.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice, takewhile
from math import inf
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar, cast, final

from fastgw.config.settings import gateway as settings
from fastgw.errors import Fault
from fastgw.operator_events import OperatorEvent, say
from fastgw.upstream.connections.connect import ConnectFailed, Connecting, connect
from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import Target

TICK: Final = 0.05
"""Seconds between two looks at those who wait for a place: another worker may have given one back."""
SWEEP: Final = 1.0
"""Seconds between two looks for idle connections whose time is up."""
LOG_EVERY: Final = 1.0
"""Seconds in which a target's failed connects are logged once at most."""


S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
S_contra = TypeVar("S_contra", contravariant=True)


class Pooled(Protocol[S_co]):
    """Connection as the pool knows it. It must be a `connect.Connecting` as well."""

    target: Target
    streams: int
    """How many are lent; counted here."""
    idle_since: float
    """Monotonic seconds; set here."""
    uses: int
    """How many streams were lent ever; counted here. More than 1 while one is lent: it is a reused one."""
    closed: bool

    def open_stream(self) -> S_co:
        """Return another stream, which tells by `Pool.give_back` or `discard` that it is over."""

    @property
    def capacity(self) -> int:
        """Number of streams that it carries at once, when it is open; 1 at least."""

    @property
    def lost_by(self) -> str:
        """Reason in TLS why it has ended, if there is one."""

    def close(self) -> None: ...


class StreamBorrower(Protocol[S_contra]):
    """Borrower that waits for a stream; compared by identity."""

    def lent(self, stream: S_contra) -> None: ...

    def failed(self, fault: Fault, why: str = "") -> None:
        """`why`: for the log; may be empty."""


class PoolLimit(Protocol):
    """An allowance of places; `shm.memory.NodeLimit` is one for all workers together."""

    def try_take(self) -> bool: ...

    def give_back(self) -> None: ...


class Clock(Protocol):
    @property
    def now(self) -> float:
        """Monotonic seconds."""


class _Exact:
    @property
    def now(self) -> float:
        return monotonic()


@final
class LocalLimit:
    """The allowance of a worker that is alone."""

    __slots__ = ("_left",)

    def __init__(self, most: int) -> None:
        self._left = most

    def try_take(self) -> bool:
        if not self._left:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        self._left += 1


@final
class _Waiter:
    __slots__ = ("borrower", "counted", "deadline", "target")

    def __init__(self, borrower: StreamBorrower[Any], target: Target, deadline: float) -> None:
        self.borrower = borrower
        self.counted = False  # has one of the node's waiting places
        self.target = target
        self.deadline = deadline  # monotonic seconds: how long it waits for a place


def _goes_before(placeless: _Waiter, willing: _Waiter) -> bool:
    """Whether a place is due to one who cannot use the connection that another would take.

    For the same target: to one who wants a fresh connection, in its turn. For another target: while that has fewer
    places. A target that was away has none when it is back, and if the others did not let go it would get none.
    """
    if placeless.deadline >= willing.deadline:
        return False
    return placeless.target is willing.target or placeless.target.places < willing.target.places


@final
class Pool(Generic[S]):
    """The connections to the targets of one upstream. Nothing runs while nothing is open."""

    __slots__ = (
        "_at_once",
        "_clock",
        "_connect_timeouts",
        "_connections",
        "_factory",
        "_idle_timeout",
        "_leaving",
        "_limit",
        "_max_idle",
        "_max_uses",
        "_numbers",
        "_openings",
        "_pending",
        "_pending_timeout",
        "_placeless",
        "_stopped",
        "_sweeper",
        "_ticker",
        "_waiters",
        "idle_count",
        "on_connected",
        "targets",
    )

    def __init__(
        self,
        targets: Sequence[Target],
        upstream: settings.Upstream,
        connection_factory: "Callable[[Pool[S], Target], Pooled[S]]",
        workers: int = 1,
        limit: PoolLimit | None = None,
        pending: PoolLimit | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`limit`, `pending`: the node's allowances of `pool.max_connections` and `pool.max_pending`; None = this

        worker has all of it. `clock`: the worker's wheel, by which idle connections age; None = the monotonic clock.

        The rest of the numbers are shared out among `workers`. A worker keeps no more connections idle than its share
        of `max_connections`: else the idle ones of some workers could leave none for another.
        """
        pool = self._numbers = upstream.pool
        self.targets = tuple(targets)
        self._factory = connection_factory
        self._clock = _Exact() if clock is None else clock
        self._connect_timeouts = upstream.timeouts.connect, upstream.timeouts.tls
        self._pending_timeout = pool.pending_timeout
        self._limit = LocalLimit(pool.max_connections) if limit is None else limit
        self._pending = LocalLimit(pool.max_pending) if pending is None else pending
        self._max_uses = inf if pool.max_uses is None else pool.max_uses
        self._idle_timeout = pool.idle_timeout
        self.idle_count = 0
        self._connections: dict[Pooled[S], TargetAddress] = {}  # lent and idle
        self._leaving: set[Pooled[S]] = set()  # those in use that are lent no more, and closed when they are idle
        self._openings: set[asyncio.Task[TargetAddress]] = set()
        self._waiters: dict[StreamBorrower[S], _Waiter] = {}
        self._placeless: OrderedDict[_Waiter, None] = OrderedDict()  # those for whom no opening has begun
        # How many openings there may be at once. When no descriptor or port was left: none before the next tick, then
        # one, and with each tick twice as many. An attempt that finds no port has looked at all, which takes 2 ms.
        self._at_once = inf
        self._ticker: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._stopped = False
        self.on_connected: Callable[[Target], None] | None = None
        """Called with each target to which a connection was opened."""
        self.share(workers)
        for target in self.targets:
            target.watch(partial(self._follow, target))

    def __repr__(self) -> str:
        return (
            f"<Pool: {len(self._connections)} connections, {self.idle_count} idle, {len(self._openings)} opening, "
            f"{len(self._waiters)} waiting>"
        )

    def try_lend(self, target: Target, idle_at_most: float = inf) -> S | None:
        """Lend a stream of a connection that is open; None: there is none that was idle for less than so many seconds.

        Nothing follows.
        """
        if target.shared:
            shared = self._lend_shared(target)
            if shared is not None:
                return shared
        idle = target.idle
        if idle:
            now = self._clock.now
            while idle:
                connection: Pooled[S] = idle.popitem()[0]  # the one used last: the others may grow old and go
                self.idle_count -= 1
                idle_for = now - connection.idle_since
                if connection.closed or idle_for >= self._idle_timeout:
                    self._drop(connection)
                elif idle_for > idle_at_most:
                    idle[connection] = None  # good for others; and those below it have been idle for longer
                    self.idle_count += 1
                    break
                else:
                    connection.uses += 1
                    connection.streams = 1
                    if target.capacity > 1 and connection.capacity > 1 and connection.uses < self._max_uses:
                        target.shared[connection] = None
                    return connection.open_stream()
        return None

    def _lend_shared(self, target: Target) -> S | None:
        """Lend a stream of the connection that has carried some for longest and has room for one more."""
        while target.shared:
            connection: Pooled[S] = next(iter(target.shared))
            if not connection.closed:
                return self._lend_one(connection)
            del target.shared[connection]
        return None

    def _lend_one(self, connection: Pooled[S]) -> S:
        """Count one more stream of a connection in use, and note whether it has room for another."""
        connection.uses += 1
        connection.streams += 1
        if connection.streams < connection.capacity and connection.uses < self._max_uses:
            connection.target.shared[connection] = None
        else:
            connection.target.shared.pop(connection, None)
        return connection.open_stream()

    def lend(
        self, target: Target, borrower: StreamBorrower[S], fresh: bool = False, idle_at_most: float = inf
    ) -> S | Fault | None:
        """A stream at once where there is one; else None, and `borrower.lent` or `borrower.failed` is called later.

        `fresh`: only of a connection that has not carried a request. `idle_at_most`: only of one that was idle for
        less, in seconds; for a request that could not be repeated, should the target be just closing it.
        `Fault.POOL_FULL`: too many wait already; nothing follows.
        """
        if not fresh:
            stream = self.try_lend(target, idle_at_most)
            if stream is not None:
                return stream
        waiter = _Waiter(borrower, target, monotonic() + self._pending_timeout)
        self._waiters[borrower] = waiter
        target.waiting[waiter] = None
        if not fresh:
            target.willing[waiter] = None
        self._placeless[waiter] = None
        self._fill()
        if waiter in self._placeless:
            waiter.counted = self._pending.try_take()
            if not waiter.counted:
                self._forget_waiter(waiter)
                return Fault.POOL_FULL
        return None

    def is_queued(self, borrower: StreamBorrower[S]) -> bool:
        """Whether it waits for a place, and not for a connection that is being opened."""
        waiter = self._waiters.get(borrower)
        return waiter is not None and waiter in self._placeless

    def withdraw(self, borrower: StreamBorrower[S]) -> None:
        """The borrower no longer wants what it waits for; nothing follows. Does nothing when it does not wait."""
        waiter = self._waiters.get(borrower)
        if waiter is not None:
            self._forget_waiter(waiter)

    def give_back(self, connection: Pooled[S]) -> None:
        """A stream is over, and its connection can carry another: it may be lent anew before this returns."""
        connection.streams = streams = connection.streams - 1
        leaving = self._leaving
        if (
            connection.closed
            or connection.uses >= self._max_uses
            or self._stopped
            or (leaving and connection in leaving)
        ):
            self._retire(connection)
            return
        if self._waiters and self._hand_on(connection):
            return
        target = connection.target
        if streams:
            target.shared[connection] = None
            return
        if target.shared:
            target.shared.pop(connection, None)
        connection.idle_since = self._clock.now
        target.idle[connection] = None
        self.idle_count += 1
        if self.idle_count > self._max_idle:
            self._drop(self._longest_idle())
        if self._sweeper is None and self.idle_count:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _hand_on(self, connection: Pooled[S]) -> bool:
        """Lend it to one who waits, or make room for another connection, whatever is due first. False: neither is."""
        waiter = next(iter(connection.target.willing), None)
        first = next(iter(self._placeless), None)
        if waiter is not None and not (first is not None and _goes_before(first, waiter)):
            self._lend_to(waiter, connection)
            return True
        if first is None or (connection.streams and self._leaving):  # one at a time makes room by and by
            return False
        self._leaving.add(connection)
        self._retire(connection)  # its place is what `first` waits for
        return True

    def _retire(self, connection: Pooled[S]) -> None:
        """Lend no more of a connection, and close it with its last stream."""
        connection.target.shared.pop(connection, None)
        if connection.streams <= 0:
            self.discard(connection)

    def discard(self, connection: Pooled[S]) -> None:
        """Close a connection, lent or idle, and free its place. A second time it does nothing."""
        self._drop(connection)
        self._fill()

    def forget(self, connection: Pooled[S]) -> None:
        """The connection has become unusable: if it is idle it is discarded; if it is lent, its streams end that."""
        if connection in connection.target.idle:
            self.discard(connection)
        else:
            connection.target.shared.pop(connection, None)

    def share(self, workers: int) -> None:
        """Set the number of workers: each keeps its share of the idle connections."""
        most = self._numbers
        self._keep_idle(min(-(-most.max_idle // workers), most.max_connections // workers))

    def follow(self, targets: Sequence[Target]) -> None:
        """Add targets. Does nothing about those that are already."""
        there = set(self.targets)
        added = tuple(target for target in targets if target not in there)
        self.targets += added
        for target in added:
            target.watch(partial(self._follow, target))

    def release(self, targets: Iterable[Target]) -> None:
        """Remove targets: keep nothing of theirs. Whoever came to them before still gets connections."""
        gone = set(self.targets).intersection(targets)
        self.targets = tuple(target for target in self.targets if target not in gone)
        for target in gone:
            self._let_go(target)
        self._fill()

    def _let_go(self, target: Target) -> None:
        target.watch(None)
        target.stop()
        self._leaving.update(c for c in self._connections if c.target is target and c not in target.idle)
        target.shared.clear()
        for connection in list(target.idle):
            self._drop(connection)

    def retire(self) -> None:
        """The upstream is configured no more: keep nothing. Whoever came to it before still gets connections."""
        self._keep_idle(0)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for target in self.targets:
            target.watch(None)
            target.stop()

    def _keep_idle(self, most: int) -> None:
        self._max_idle = most
        while self.idle_count > most:
            self._drop(self._longest_idle())
        self._fill()

    def stop(self) -> None:
        """Close what is idle, end what is opening and fail who waits. What is lent is closed as it is given back."""
        self._stopped = True
        for timer in (self._ticker, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._ticker = self._sweeper = None
        for opening in self._openings:
            opening.cancel()
        for target in self.targets:
            for connection in list(target.idle):
                self._drop(connection)
            target.stop()
        while self._waiters:
            waiter = next(iter(self._waiters.values()))
            self._forget_waiter(waiter)
            waiter.borrower.failed(Fault.POOL_TIMEOUT)

    def _lend_to(self, waiter: _Waiter, connection: Pooled[S]) -> None:
        self._forget_waiter(waiter)
        waiter.borrower.lent(self._lend_one(connection))

    def _forget_waiter(self, waiter: _Waiter) -> None:
        del self._waiters[waiter.borrower]
        del waiter.target.waiting[waiter]
        waiter.target.willing.pop(waiter, None)
        if waiter in self._placeless:
            self._leave_queue(waiter)

    def _longest_idle(self) -> Pooled[S]:
        ends = (next(iter(target.idle)) for target in self.targets if target.idle)
        longest: Pooled[S] = min(ends, key=lambda connection: connection.idle_since)
        return longest

    def _drop(self, connection: Pooled[S]) -> None:
        """Close a connection and free its place, which the caller fills."""
        if connection not in self._connections:
            return
        del self._connections[connection]
        self._leaving.discard(connection)
        target = connection.target
        target.shared.pop(connection, None)
        if connection in target.idle:
            del target.idle[connection]
            self.idle_count -= 1
        self._leave_place(target)
        connection.close()

    def _take_place(self, target: Target) -> bool:
        """Take a place, that of an idle connection if there is no other."""
        taken = self._limit.try_take()
        while not taken and self.idle_count:
            self._drop(self._longest_idle())
            taken = self._limit.try_take()
        if taken:
            target.places += 1
        return taken

    def _leave_place(self, target: Target) -> None:
        target.places -= 1
        self._limit.give_back()

    def _fill(self) -> None:
        """Open connections for those who wait without one, the longest first, while there are places."""
        while self._placeless:
            waiter = next(iter(self._placeless))
            target = waiter.target
            # Else an opening whose waiter has gone is there for this one, or has room for both.
            if target.opening * target.capacity < len(target.waiting):
                if len(self._openings) >= self._at_once or not self._take_place(target):
                    self._tick_later()
                    return
                self._open(target)
            self._leave_queue(waiter)

    def _leave_queue(self, waiter: _Waiter) -> None:
        del self._placeless[waiter]
        if waiter.counted:
            waiter.counted = False
            self._pending.give_back()

    def _open(self, target: Target) -> None:
        connection = self._factory(self, target)
        target.opening += 1
        opening = connect(target, cast(Connecting, connection), *self._connect_timeouts)
        task = asyncio.get_running_loop().create_task(opening)
        self._openings.add(task)
        task.add_done_callback(partial(self._opened, target, connection))

    def _opened(self, target: Target, connection: Pooled[S], task: "asyncio.Task[TargetAddress]") -> None:
        self._openings.remove(task)
        target.opening -= 1
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None and self.on_connected is not None:
            self.on_connected(target)
        if error is None and not connection.closed:
            self._connections[connection] = task.result()
            if target not in self.targets:
                self._leaving.add(connection)
            self._share_out(target, connection)
            return
        self._leave_place(target)
        fault, why = self._explain(target, error, connection.lost_by)
        if fault is Fault.CONNECTIONS_EXHAUSTED:
            self._queue_again(target)
            return
        # As long as there are openings for all who wait, one that failed was there for somebody who has gone.
        lost = max(len(target.waiting) - target.opening * target.capacity, 0)
        waiters = list(islice(target.waiting, min(lost, target.capacity)))
        for waiter in waiters:
            self._forget_waiter(waiter)
        self._fill()
        for waiter in waiters:
            waiter.borrower.failed(fault, why)

    def _share_out(self, target: Target, connection: Pooled[S]) -> None:
        """Lend a connection that was just opened to those who have waited longest, as many as it carries."""
        fewer = connection.capacity < target.capacity
        target.capacity = connection.capacity
        waiter = next(iter(target.waiting), None)
        if waiter is None:
            connection.streams = 1  # that of nobody
            self.give_back(connection)
            return
        self._lend_to(waiter, connection)
        while connection in target.shared and not connection.closed:
            waiter = next(iter(target.willing), None)
            if waiter is None:
                break
            self._lend_to(waiter, connection)
        if fewer or connection.capacity > 1:
            self._queue_uncovered(target)
            self._fill()

    def _queue_uncovered(self, target: Target) -> None:
        """The last of those who wait for openings that cannot serve them all wait for a place again."""
        placed = [waiter for waiter in target.waiting if waiter not in self._placeless]
        for waiter in reversed(placed[target.opening * target.capacity :]):
            self._placeless[waiter] = None
            self._placeless.move_to_end(waiter, last=False)

    def _queue_again(self, target: Target) -> None:
        """No descriptor or port was left for an opening: the last ones that had a place wait for one again."""
        self._at_once = 0.0
        self._queue_uncovered(target)
        self._tick_later()

    def _explain(self, target: Target, error: BaseException | None, lost_by: str) -> tuple[Fault, str]:
        """The fault of an opening that failed, and why: for logs, as clients must not see it.

        `lost_by`: what has ended the connection as soon as it was open, where that was TLS.
        """
        if isinstance(error, asyncio.CancelledError):  # by `stop`
            return Fault.POOL_TIMEOUT, ""
        if error is None and lost_by:  # as by a target that judges our certificate
            fault, reason, detail = Fault.TLS_FAILED, lost_by, f"TLS: {lost_by}"
        elif error is None:
            fault, reason = Fault.CONNECT_REFUSED, "closed as soon as it was open"
            detail = reason
        elif isinstance(error, ConnectFailed):
            fault, reason, detail = error.fault, error.reason, error.detail
        else:
            report = {"message": f"opening a connection to {target.label}", "exception": error}
            asyncio.get_running_loop().call_exception_handler(report)
            return Fault.INTERNAL, ""
        now = monotonic()
        if now >= target.logged_at + LOG_EVERY:
            target.logged_at = now
            say(OperatorEvent.TARGET_FAILED, "target %s: %s: %s", target.label, fault.label, reason)
        return fault, detail

    def _follow(self, target: Target) -> None:
        """An address of the target has gone: so do the connections to it, the lent ones once they are given back."""
        gone = [c for c, address in self._connections.items() if c.target is target and not target.has(address)]
        for connection in gone:
            if connection in target.idle:
                self._drop(connection)
            else:
                self._leaving.add(connection)
                target.shared.pop(connection, None)
        self._fill()

    def _tick_later(self) -> None:
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        """End the waits that have lasted too long, and try again for the others."""
        self._ticker = None
        self._at_once = 2.0 * self._at_once or 1.0
        now = monotonic()
        try:
            while self._placeless:
                waiter = next(iter(self._placeless))
                if waiter.deadline > now:
                    break
                self._forget_waiter(waiter)
                waiter.borrower.failed(Fault.POOL_TIMEOUT)
        finally:
            self._fill()  # which sets the next tick if any are left

    def _sweep(self) -> None:
        """Close the connections that were idle too long; looks at those only, and at one more per target."""
        self._sweeper = None
        oldest = self._clock.now - self._idle_timeout
        for target in self.targets:
            expired = list(takewhile(lambda connection: connection.idle_since <= oldest, target.idle))
            for connection in expired:
                self._drop(connection)
        if self.idle_count:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)
