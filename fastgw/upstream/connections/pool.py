"""Connection pool of one worker for one upstream: streams are lent and given back, connections are opened and waited
for.

A pool lends capacity: a connection carries `capacity` streams at once, which is 1 for HTTP/1. Connections with free
capacity are used before idle ones, which can then expire.
Rule 1: a stream is lent only for the target that its connection was opened to, or the part of it.
One pool serves one upstream, and an upstream has one TLS identity (client certificate, trusted CA, verification), so
connections of two identities never mix.
Rule 2: every connection counts in the upstream's limit from before it is opened until it is closed. Rule 3: counts are
kept, never recounted. Rule 4: every waiting borrower is called exactly once, by `lent` or by `failed`, unless it
withdraws; and only when the pool is in a consistent state, so that it may call back into the pool.

An opening connection has no owner: when it is open, it is lent to the borrowers that have waited longest for its
target, or kept.

The limit is the node's, and so is the queue for it: a place that becomes free is for the request that has waited
longest at any worker, and idle connections are closed for requests that wait at other workers. A used connection is
lent to a borrower of the same worker, unless one of another worker has waited longer by `LEAD`: it cannot be handed
over, only closed in favour of another.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from heapq import nsmallest
from itertools import islice, takewhile
from math import inf
from time import monotonic
from typing import Any, Final, Protocol, cast, final

from fastgw.config.settings import gateway as settings
from fastgw.errors import Fault
from fastgw.eventloop.timer_wheel import Wheel
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.shm.node_queue import NodeQueue
from fastgw.upstream.connections.connect import (
    ConnectFailed,
    Connecting,
    connect,
    is_about_name,
    is_refusal,
    not_connected,
)
from fastgw.upstream.connections.pool_limit import LocalLimit, PoolLimit
from fastgw.upstream.connections.pooled_connection import Lender, PooledConnection
from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import Target

TICK: Final = 0.05
"""Seconds between two checks of the borrowers that wait for the limit: for timeouts, and if no bell has rung."""
LEAD: Final = 0.1
"""Seconds by which a request of another worker must have waited longer to get the place of a connection that a request
of this worker could use; less if `pending_timeout` is short.

Each such place costs closing a connection and opening another. Without a lead, that is most requests of a service that
has fewer connections than requests.
"""
LEADS: Final = 8
"""Minimum number of leads in `pending_timeout`."""
RING_EVERY: Final = 0.005
"""Minimum number of seconds between two times that the other workers are woken for requests that wait here."""
SWEEP: Final = 1.0
"""Seconds between two checks for expired idle connections."""
USUAL_IDLE: Final = 64
"""Idle connections of a node that are kept until they expire, where `max_idle` is left out."""
RECENT: Final = 5.0
"""Seconds since its last use after which one beyond these is closed.

Until then the load has as many requests at once, and would open another one. PERF: with 512 requests at once and 64
connections kept, half of the requests opened one, and cost three times as much (CPython 3.11, bench http2).
"""
CLOSED_PER_SWEEP: Final = 64
"""Maximum number of these that are closed at once: each takes some 15 us."""
LOG_EVERY: Final = 1.0
"""Minimum number of seconds between two log lines about failed connects of a target."""


class StreamBorrower(Protocol):
    """Borrower that waits for a stream; compared by identity."""

    def queue_left(self) -> None:
        """Handle the end of its time in the queue for a place in the limit; `lent` or `failed` follows. Not called for
        a borrower that was in no queue.
        """

    def lent(self, stream: Any) -> None: ...

    def failed(self, fault: Fault, why: str = "") -> None:
        """`why`: for the log; may be empty."""


@final
class _Waiter:
    __slots__ = ("borrower", "counted", "deadline", "target")

    def __init__(self, borrower: StreamBorrower, target: Target, deadline: float) -> None:
        self.borrower = borrower
        self.counted = False  # counted in the node's number of waiting requests
        self.target = target
        self.deadline = deadline  # monotonic seconds until which it waits for a connection


def _goes_before(placeless: _Waiter, willing: _Waiter) -> bool:
    """Whether a waiting borrower that cannot use a free connection is served first.

    For the same target: a borrower that needs a fresh connection, in its turn. For another target: while that one has
    fewer connections. Otherwise a target that is reachable again would get no connection until the others release
    theirs.
    """
    if placeless.deadline >= willing.deadline:
        return False
    return placeless.target is willing.target or placeless.target.places < willing.target.places


class Pool(Lender):
    """Connections to the targets of one upstream. No timer runs while there are no connections."""

    def __init__(
        self,
        targets: Sequence[Target],
        upstream: settings.Upstream,
        connection_factory: Callable[..., PooledConnection],
        workers: int = 1,
        limit: PoolLimit | None = None,
        pending: PoolLimit | None = None,
        clock: Wheel | None = None,
        lent_once: bool = False,
        queue: NodeQueue | None = None,
    ) -> None:
        """`connection_factory`: called with the pool and the target. `limit`, `pending`: the node's limits for
        `pool.max_connections` and `pool.max_pending`; None = this worker has the whole limit. `clock`: the worker's
        timer wheel, which expires idle connections; None = the monotonic clock.

        `lent_once`: connections are lent once, and none is kept without a waiting borrower. `queue`: the node's queue
        for the limit; None: no other worker has connections, or nothing waits for it.

        The other numbers are divided among `workers`. A worker keeps no more idle connections than its share of
        `max_connections`: otherwise the idle ones of some workers could leave none for another. Without `max_idle`,
        connections beyond its share of the usual number are kept while the load needs as many (`RECENT`).
        """
        pool = self._numbers = upstream.pool
        self.targets = tuple(targets)
        self._factory = connection_factory
        self._clock: Wheel | None = clock
        self._connect_timeouts = upstream.timeouts.connect, upstream.timeouts.tls
        self._pending_timeout = pool.pending_timeout
        self._limit = LocalLimit(pool.most_connections()) if limit is None else limit
        self._pending = LocalLimit(pool.max_pending) if pending is None else pending
        self._max_uses = 0 if lent_once else inf if pool.max_uses is None else pool.max_uses
        self._idle_timeout = pool.idle_timeout
        self.idle_count = 0
        self._connections: dict[PooledConnection, TargetAddress] = {}  # lent and idle
        # Those in use that are not lent again, and are closed when they are idle.
        self._leaving: set[PooledConnection] = set()
        self._openings: set[asyncio.Task[tuple[PooledConnection, TargetAddress]]] = set()
        self._waiters: dict[StreamBorrower, _Waiter] = {}
        self._placeless: OrderedDict[_Waiter, None] = OrderedDict()  # waiting borrowers without an opening
        self._beyond: dict[_Waiter, None] = {}  # those of them that exceed `max_pending`
        # Maximum number of simultaneous openings. After a lack of descriptors or ports: none before the next tick, then
        # one, and twice as many with each tick. An attempt that finds no port takes 2 ms.
        self._at_once = inf
        self._places = 0  # connections: opening, lent and idle
        self._queue = queue
        self._lead = min(LEAD, pool.pending_timeout / LEADS)
        self._published: float | None = None  # deadline of the first waiting borrower, as other workers know it
        self._contended = False  # at the last look, requests waited at other workers
        self._ringer: asyncio.TimerHandle | None = None
        self._rings_again = False  # a borrower has entered the queue since the other workers were woken
        self._ticker: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._stopped = False
        self.on_connected: Callable[[Target], None] | None = None
        """Called with each target to which a connection was opened."""
        self.share(workers)
        for target in self.targets:
            target.watch(partial(self._addresses_changed, target))

    def __repr__(self) -> str:
        return (
            f"<Pool: {len(self._connections)} connections, {self.idle_count} idle, {len(self._openings)} opening, "
            f"{len(self._waiters)} waiting>"
        )

    def _now(self) -> float:
        return monotonic() if self._clock is None else self._clock.now

    def try_lend(self, target: Target, idle_at_most: float = inf) -> Any:
        """Lend a stream of an open connection; None: there is none that was idle for less than this many seconds.

        There is no later call.
        """
        if target.shared:
            shared = self._lend_shared(target)
            if shared is not None:
                return shared
        idle = target.idle
        if idle:
            now = self._now()
            while idle:
                connection: PooledConnection = idle.popitem()[0]  # the most recently used: the others can expire
                self.idle_count -= 1
                idle_for = now - connection.idle_since
                if connection.closed or idle_for >= self._idle_timeout:
                    self._drop(connection)
                elif idle_for > idle_at_most and connection.capacity == 1:  # HTTP/2 reports unprocessed requests
                    idle[connection] = None  # other requests may use it, and older ones were idle for longer
                    self.idle_count += 1
                    break
                else:
                    connection.uses += 1
                    connection.streams = 1
                    if target.capacity > 1 and connection.capacity > 1 and connection.uses < self._max_uses:
                        target.shared[connection] = None
                    return connection.open_stream()
        return None

    def _lend_shared(self, target: Target) -> Any:
        """Lend a stream of the oldest connection in use that has free capacity."""
        while target.shared:
            connection: PooledConnection = next(iter(target.shared))
            if not connection.closed:
                return self._lend_one(connection)
            del target.shared[connection]
        return None

    def _lend_one(self, connection: PooledConnection) -> Any:
        """Count one more stream of a connection in use, and update whether it has free capacity."""
        connection.uses += 1
        connection.streams += 1
        if connection.streams < connection.capacity and connection.uses < self._max_uses:
            connection.target.shared[connection] = None
        else:
            connection.target.shared.pop(connection, None)
        return connection.open_stream()

    def lend(self, target: Target, borrower: StreamBorrower, fresh: bool = False, idle_at_most: float = inf) -> Any:
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
            if not waiter.counted and self._queue is not None and (count := self._queue.perhaps_idle()):
                waiter.counted = self._pending.try_take(count)
                if waiter.counted:
                    self._beyond[waiter] = None
            if not waiter.counted:
                self._forget_waiter(waiter)
                return Fault.POOL_FULL
            self._publish()
            self._tell_holders()
            if self._queue is not None and self._queue.vacant() > 0:
                self._fill()  # a place has become free before the others knew of this borrower
        return None

    def may_open(self) -> bool:
        """Whether a connection could be opened now: the limit leaves a place, or has one of an idle connection, and no
        other borrower waits for it.
        """
        return self._is_free_for_new() and (self.idle_count > 0 or self._limit.vacant() > 0)

    def _is_free_for_new(self) -> bool:
        """Whether a borrower that comes now may take a place before others."""
        if self._placeless or self._stopped or len(self._openings) >= self._at_once:
            return False
        return not self._is_others(monotonic())

    # for borrowers that open and close their connections themselves

    def take_place(self, target: Target) -> bool:
        """Take a place in the limit for a connection that the caller opens. False: none is free, or others wait."""
        return self._is_free_for_new() and self._take_place(target)

    def leave_place(self, target: Target) -> None:
        """Release such a place after the connection was closed."""
        self._leave_place(target)
        if self._placeless:
            self._fill()

    def leave_unconnected(self, target: Target, error: OSError) -> tuple[Fault | None, str]:
        """Release such a place after a failed connect; return the fault, and the reason for logs.

        None: no descriptor or port was available; `lend` waits for one.
        """
        self.leave_place(target)
        failed = not_connected(error, self._connect_timeouts[0], target.literal)
        if failed.fault is Fault.CONNECTIONS_EXHAUSTED:
            return None, ""
        return self._explain(target, failed, "")

    def is_queued(self, borrower: StreamBorrower) -> bool:
        """Whether it waits for the limit, and not for a connection that is being opened."""
        waiter = self._waiters.get(borrower)
        return waiter is not None and waiter in self._placeless

    def withdraw(self, borrower: StreamBorrower) -> None:
        """Remove a borrower that no longer waits; it is not called later. Does nothing if it does not wait."""
        waiter = self._waiters.get(borrower)
        if waiter is not None:
            self._forget_waiter(waiter)

    def give_back(self, connection: PooledConnection) -> None:
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
        if (self._waiters or self._contended) and self._hand_on(connection):
            return
        target = connection.target
        if streams:
            if streams < connection.capacity:  # the target may have lowered its limit
                target.shared[connection] = None
            return
        if target.shared:
            target.shared.pop(connection, None)
        connection.idle_since = self._now()
        target.idle[connection] = None
        self.idle_count += 1
        if self.idle_count > self._max_idle:
            self._drop(self._longest_idle())
        if self._sweeper is None and self.idle_count:
            self._sweep_later()

    def _hand_on(self, connection: PooledConnection) -> bool:
        """Lend the connection to a waiting borrower, or close it in favour of another target's or another worker's, in
        turn. False: neither.
        """
        waiter = next(iter(connection.target.willing), None)
        first = next(iter(self._placeless), None)
        if self._is_owed(connection, waiter, first):
            self._leaving.add(connection)
            self._retire(connection)
            return True
        if waiter is not None and not (first is not None and _goes_before(first, waiter)):
            self._lend_to(waiter, connection)
            return True
        if first is None or (connection.streams and self._leaving):  # one at a time is enough
            return False
        self._leaving.add(connection)
        self._retire(connection)  # `first` waits for this capacity
        return True

    def _is_owed(self, connection: PooledConnection, waiter: _Waiter | None, first: _Waiter | None) -> bool:
        """Whether the connection is to be closed in favour of a request that waits at another worker. `waiter` and
        `first` could use it, or its place, at this one.
        """
        queue = self._queue
        if queue is None:
            return False
        if connection.streams:
            # It closes with its last stream, and until then its free capacity is of no use: one at a time, and never
            # the only one.
            if self._leaving or connection.target.places < 2:
                return False
            since = monotonic()
        elif waiter is None and first is None:
            waiting = self._others_waiting(queue)
            if queue.vacant() < waiting:
                return True
            if waiting:
                queue.watch(False)
            return False
        else:
            since = min(each.deadline for each in (waiter, first) if each is not None) - self._pending_timeout
        # One at a time: the next in line there may not have waited as long.
        return queue.others_ahead(since - self._lead) > 0 and queue.vacant() <= 0

    def _is_others(self, since: float) -> bool:
        """Whether the places that the limit leaves are for requests at other workers that wait since an earlier
        instant; if so, leave them to these.
        """
        if self._queue is None:
            return False
        ahead = self._queue.others_ahead(since)
        if not ahead:
            return False
        vacant = self._queue.vacant()
        if vacant > ahead:
            return False
        if vacant > 0:
            self._queue.prefer_others(since)
        return True

    def _retire(self, connection: PooledConnection) -> None:
        """Lend no more streams of a connection, and close it with its last stream."""
        connection.target.shared.pop(connection, None)
        if connection.streams <= 0:
            self.discard(connection)

    def discard(self, connection: PooledConnection) -> None:
        """Close a connection, lent or idle, and release its count in the limit. Idempotent."""
        self._drop(connection)
        self._fill()

    def forget(self, connection: PooledConnection) -> None:
        """Handle a connection that has become unusable: it is discarded if idle; if lent, its streams do that."""
        if connection in connection.target.idle:
            self.discard(connection)
        else:
            connection.target.shared.pop(connection, None)

    def share(self, workers: int) -> None:
        """Set the number of workers: each keeps its share of the idle connections."""
        numbers = self._numbers
        most = self._limit.most // workers
        lasting = min(-(-(USUAL_IDLE if numbers.max_idle is None else numbers.max_idle) // workers), most)
        self._keep_idle(lasting, most if numbers.max_idle is None else lasting)

    def add_targets(self, targets: Sequence[Target]) -> None:
        """Add targets. Known targets do not change."""
        there = set(self.targets)
        added = tuple(target for target in targets if target not in there)
        self.targets += added
        for target in added:
            target.watch(partial(self._addresses_changed, target))

    def release(self, targets: Iterable[Target]) -> None:
        """Remove targets: keep no connections to them. Requests that already selected them still get connections."""
        gone = set(self.targets).intersection(targets)
        self.targets = tuple(target for target in self.targets if target not in gone)
        for target in gone:
            self._let_go(target)
        self._fill()

    def _let_go(self, target: Target) -> None:
        target.watch(None)
        target.stop()
        self._leaving.update(c for c in self._connections if c.target.whole is target and c not in c.target.idle)
        for part in (target, *target.parts):
            part.shared.clear()
            for connection in list(part.idle):
                self._drop(connection)

    def retire(self) -> None:
        """Keep no connections, because the upstream was removed from the configuration. Its remaining requests still
        get connections.
        """
        self._keep_idle(0, 0)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for target in self.targets:
            target.watch(None)
            target.stop()

    def follow_limits(self, later: Pool) -> None:
        """Apply the limits of the pool that has replaced this one to the borrowers that remain. Both count in the same
        numbers of the node, so the connections of the other would reach a lower limit of this one.
        """
        self._limit.most, self._pending.most = later._limit.most, later._pending.most
        if self._queue is not None and later._queue is not None:
            self._queue.most = later._queue.most
        self._fill()

    def _keep_idle(self, lasting: int, most: int) -> None:
        """Set the numbers of idle connections that are kept until they expire, and at all."""
        self._lasting = lasting
        self._max_idle = most
        while self.idle_count > most:
            self._drop(self._longest_idle())
        self._fill()

    def close_idle(self, most: int) -> int:
        """Close up to so many connections, those that have been idle for longest, and return how many."""
        closed = min(most, self.idle_count)
        for _ in range(closed):
            self._drop(self._longest_idle())
        return closed

    def stop(self) -> None:
        """Close idle connections, cancel those being opened, and fail waiting borrowers. Lent ones are closed when
        given back."""
        self._stopped = True
        for timer in (self._ticker, self._sweeper, self._ringer):
            if timer is not None:
                timer.cancel()
        self._ticker = self._sweeper = self._ringer = None
        for opening in self._openings:
            opening.cancel()
        for part in self._parts():
            for connection in list(part.idle):
                self._drop(connection)
        for target in self.targets:
            target.stop()
        while self._waiters:
            waiter = next(iter(self._waiters.values()))
            self._forget_waiter(waiter)
            waiter.borrower.failed(Fault.POOL_TIMEOUT)

    def _lend_to(self, waiter: _Waiter, connection: PooledConnection) -> None:
        if waiter.counted:
            waiter.borrower.queue_left()
        self._forget_waiter(waiter)
        waiter.borrower.lent(self._lend_one(connection))

    def _forget_waiter(self, waiter: _Waiter) -> None:
        del self._waiters[waiter.borrower]
        del waiter.target.waiting[waiter]
        waiter.target.willing.pop(waiter, None)
        if waiter in self._placeless:
            self._leave_queue(waiter)

    def _parts(self) -> Iterator[Target]:
        """Yield all that connections are opened to."""
        for target in self.targets:
            yield target
            yield from target.parts

    def _longest_idle(self) -> PooledConnection:
        ends = (next(iter(part.idle)) for part in self._parts() if part.idle)
        longest: PooledConnection = min(ends, key=lambda connection: connection.idle_since)
        return longest

    def _drop(self, connection: PooledConnection) -> None:
        """Close a connection and release its count, which the caller reuses."""
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
        """Reserve a connection of the limit, closing an idle one if the limit is reached."""
        taken = self._limit.try_take()
        while not taken and self.idle_count:
            self._drop(self._longest_idle())
            taken = self._limit.try_take()
        if taken:
            target.places += 1
            self._places += 1
            if self._queue is not None:
                self._queue.listen(self)
        return taken

    def _leave_place(self, target: Target) -> None:
        target.places -= 1
        self._places -= 1
        self._limit.give_back()
        if self._queue is not None:
            first = self._first_in_queue()
            self._queue.ring_ahead(inf if first is None else self._since(first))
            self._ignore_if_unused(self._queue)

    def _first_in_queue(self) -> _Waiter | None:
        """Return the first borrower that waits for the limit; None: there is none, or all of them wait for descriptors
        or ports, and leave the places of the limit to other workers.
        """
        return None if len(self._openings) >= self._at_once else next(iter(self._placeless), None)

    def _since(self, waiter: _Waiter) -> float:
        return waiter.deadline - self._pending_timeout

    def _fill(self, in_turn: bool = True) -> None:
        """Open connections for waiting borrowers, the longest-waiting first, while the limit allows it. `in_turn`: not
        before those of other workers that wait longer.
        """
        has_taken = False
        while self._placeless:
            waiter = next(iter(self._placeless))
            target = waiter.target
            # Otherwise an opening without a borrower, or with free capacity, is available for this one.
            if target.opening * target.capacity < len(target.waiting):
                is_others = in_turn and self._is_others(self._since(waiter))
                if len(self._openings) >= self._at_once or is_others or not self._take_place(target):
                    if is_others and has_taken and self._queue is not None:
                        self._queue.ring_ahead(self._since(waiter))  # they may have left their places to this worker
                    self._tick_later()
                    return
                has_taken = True
                self._open(target)
            if waiter.counted:
                waiter.borrower.queue_left()
            self._leave_queue(waiter)

    def _leave_queue(self, waiter: _Waiter) -> None:
        del self._placeless[waiter]
        if waiter.counted:
            waiter.counted = False
            self._beyond.pop(waiter, None)
            self._pending.give_back()
        self._publish()

    def _publish(self) -> None:
        """Tell other workers since when the first borrower of this one waits for the limit."""
        if self._queue is None:
            return
        first = self._first_in_queue()
        deadline = None if first is None else first.deadline
        if deadline != self._published:
            self._published = deadline
            self._queue.publish(None if first is None else self._since(first))
            if first is None:
                self._ignore_if_unused(self._queue)

    def _ignore_if_unused(self, queue: NodeQueue) -> None:
        """Stop listening to the queue if the pool has neither connections nor borrowers there."""
        if not self._places and not self._placeless:
            queue.watch(False)
            queue.ignore()
            self._contended = False

    def _tell_holders(self) -> None:
        """Ring for idle connections of other workers: at once, and then at intervals while borrowers come."""
        if self._queue is None:
            return
        self._queue.listen(self)
        if self._ringer is not None:
            self._rings_again = True
            return
        self._rings_again = False
        self._queue.ring_holders()
        self._ring_later()

    def _ring_again(self) -> None:
        """Ring for borrowers that have come since the last bell, and fail those beyond `max_pending` for which nothing
        can come any more.
        """
        self._ringer = None
        queue = self._queue
        if self._beyond and queue is not None and not queue.perhaps_idle() and queue.vacant() <= 0:
            self._settle_beyond(monotonic())
        if self._rings_again and self._placeless:
            self._tell_holders()
        if self._beyond and self._ringer is None:
            self._ring_later()

    def _ring_later(self) -> None:
        self._ringer = asyncio.get_running_loop().call_later(RING_EVERY, self._ring_again)

    def _settle_beyond(self, until: float) -> None:
        """Let the borrowers beyond `max_pending` wait as the others as far as these leave room for them; fail the rest
        of those that have come until this instant.
        """
        room = len(self._beyond) + min(self._pending.vacant(), 0)
        for waiter in list(islice(self._beyond, max(room, 0))):
            del self._beyond[waiter]
        while self._beyond:
            waiter = next(iter(self._beyond))
            if self._since(waiter) > until:
                break
            self._forget_waiter(waiter)
            waiter.borrower.failed(Fault.POOL_FULL)

    def handle_bell(self) -> None:
        """Handle the bell of another worker: a place may have become free, or requests may wait there."""
        if self._queue is not None:
            self._queue.tell_look()
        self._fill()
        self._leave_idle()
        if self._queue is not None:
            if not self._placeless and self._queue.vacant() > 0:
                self._queue.ring_ahead(inf)  # others may have left their places to a borrower that has left
            self._ignore_if_unused(self._queue)

    def _leave_idle(self) -> None:
        """Close idle connections for requests that wait at other workers, one for each."""
        if self._queue is None:
            return
        waiting = self._others_waiting(self._queue)
        while self.idle_count and self._queue.vacant() < waiting:
            self._drop(self._longest_idle())
        if waiting:
            self._queue.watch(not self.idle_count)

    def _others_waiting(self, queue: NodeQueue) -> int:
        """Return how many requests wait at other workers, and watch the queue from now on if there are any."""
        waiting = queue.others_waiting()
        if not waiting and self._contended:
            queue.watch(False)
            waiting = queue.others_waiting()
        self._contended = waiting > 0
        return waiting

    def _open(self, target: Target) -> None:
        """Open a connection for all who wait for the target."""
        connection = self._factory(self, target)
        target.opening += 1
        opening = connect(target, cast(Connecting, connection), *self._connect_timeouts)
        task = asyncio.get_running_loop().create_task(opening)
        self._openings.add(task)
        task.add_done_callback(partial(self._opened, target))

    def _opened(
        self,
        target: Target,
        task: asyncio.Task[tuple[PooledConnection, TargetAddress]],
    ) -> None:
        self._openings.remove(task)
        target.opening -= 1
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        lost_by = ""
        if error is None:
            if self.on_connected is not None:
                self.on_connected(target.whole)
            target.accepted = target.whole.accepted = True
            connection, address = task.result()
            if not connection.closed:
                self._connections[connection] = address
                if target.whole not in self.targets or not target.has(address):  # removed meanwhile
                    self._leaving.add(connection)
                self._share_out(target, connection)
                return
            lost_by = connection.lost_by
        self._leave_place(target)
        fault, why = self._explain(target, error, lost_by)
        if fault is Fault.CONNECTIONS_EXHAUSTED:
            self._queue_again(target)
            return
        # As long as there are enough openings for all waiting borrowers, a failed one has no borrower.
        lost = max(len(target.waiting) - target.opening * target.capacity, 0)
        waiters = list(islice(target.waiting, min(lost, target.capacity)))
        for waiter in waiters:
            self._forget_waiter(waiter)
        self._fill()
        for waiter in waiters:
            waiter.borrower.failed(fault, why)

    def _share_out(self, target: Target, connection: PooledConnection) -> None:
        """Lend a connection that was just opened to those who have waited longest, up to its capacity."""
        fewer = connection.capacity < target.capacity
        target.capacity = connection.capacity
        waiter = next(iter(target.waiting), None)
        if waiter is None:
            connection.streams = 1  # placeholder while it is shared out
            self.give_back(connection)
            return
        self._lend_to(waiter, connection)
        while connection in target.shared and not connection.closed:
            waiter = next(iter(target.willing), None)
            if waiter is None:
                break
            self._lend_to(waiter, connection)
        if connection in self._leaving:
            target.shared.pop(connection, None)
        if fewer or connection.capacity > 1:
            self._queue_uncovered(target)
            self._fill()

    def _queue_uncovered(self, target: Target) -> None:
        """Put the last borrowers back into the queue if the connections being opened cannot serve all of them."""
        placed = [waiter for waiter in target.waiting if waiter not in self._placeless]
        for waiter in reversed(placed[target.opening * target.capacity :]):
            self._placeless[waiter] = None
            self._placeless.move_to_end(waiter, last=False)
        self._publish()

    def _queue_again(self, target: Target) -> None:
        """Put the last borrowers back into the queue after a lack of descriptors or ports."""
        self._at_once = 0.0
        self._queue_uncovered(target)
        self._tick_later()

    def _explain(self, target: Target, error: BaseException | None, lost_by: str) -> tuple[Fault, str]:
        """Return the fault of a failed opening, and the reason for logs, which clients must not see.

        `lost_by`: TLS error that has ended the connection directly after the handshake.
        """
        if isinstance(error, asyncio.CancelledError):  # by `stop`
            return Fault.POOL_TIMEOUT, ""
        if error is None and lost_by:  # for example, the target has rejected the client certificate
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
        if target.follows_host and target.whole is not target and fault is Fault.TLS_FAILED:
            # Clients choose the name. Servers refuse one that they do not serve by any alert (Go: `internal_error`), or
            # by none (Envoy), as if they were broken. Names that they have accepted tell one from the other.
            is_unknown = not target.accepted and target.whole.accepted and is_refusal(error)
            if is_unknown or is_about_name(error):
                return Fault.MISDIRECTED, detail
            target.whole.accepted = False
        now = monotonic()
        if now >= target.whole.logged_at + LOG_EVERY:
            target.whole.logged_at = now
            log_event(OperatorEvent.TARGET_FAILED, "target %s: %s: %s", target.label, fault.label, reason)
        return fault, detail

    def _addresses_changed(self, target: Target) -> None:
        """Handle a removed address of the target: its connections are closed, lent ones after they are given back."""
        gone = [c for c, address in self._connections.items() if c.target.whole is target and not target.has(address)]
        for connection in gone:
            if connection in connection.target.idle:
                self._drop(connection)
            else:
                self._leaving.add(connection)
                connection.target.shared.pop(connection, None)
        self._fill()

    def _tick_later(self) -> None:
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        """End waits that have timed out, and try again for the others."""
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
            self._published = None  # the pool of an earlier configuration writes to the same word
            self._publish()  # also the look of this tick
            if self._queue is not None:
                self._queue.skip_unresponsive()
            # Not in turn: a place that was left to a worker until now may be of no use to it.
            self._fill(in_turn=False)  # it schedules the next tick if any are left
            if self._placeless:
                self._tell_holders()
            if self._beyond:  # a worker that may have an idle connection does not say that it has none
                self._settle_beyond(now - TICK)

    def _sweep_later(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        """Close expired idle connections, and some of those that the load no longer needs; checks only those, and one
        more per target.
        """
        self._sweeper = None
        self._leave_idle()  # if no bell has rung
        now = self._now()
        for connection in self._idle_since(now - self._idle_timeout):
            self._drop(connection)
        surplus = self.idle_count - self._lasting
        if surplus > 0:
            unused = self._idle_since(now - RECENT)
            for connection in nsmallest(min(surplus, CLOSED_PER_SWEEP), unused, key=lambda each: each.idle_since):
                self._drop(connection)
        if self.idle_count:
            self._sweep_later()

    def _idle_since(self, instant: float) -> list[PooledConnection]:
        """Return the connections that have been idle since then."""
        return [
            connection
            for part in self._parts()
            for connection in takewhile(lambda each: each.idle_since <= instant, part.idle)
        ]
