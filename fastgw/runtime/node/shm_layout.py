"""Words of shared memory for the data plane, and those of the runtime itself.

They are at the same positions in every generation of the configuration; only the slots of names change, see
`shm.slot_assignment`.
"""

import os
import time
from array import array
from collections.abc import Mapping
from typing import Final, Literal

from fastgw.config.settings import gateway as config
from fastgw.downstream.tls.connection import HandshakeOutcome
from fastgw.eventloop.idle_order import Evicted
from fastgw.gateway.tables import Gateway
from fastgw.observe.metrics.carry_over import CounterCarryOver
from fastgw.observe.metrics.series_layout import (
    CARRIED,
    ROUTE_ROWS,
    TARGET_WORDS,
    TARGETS_AT,
    UNCELLED,
    CellKind,
    Series,
    answers_at,
    claimed,
    counted_in,
    kind_of,
)
from fastgw.observe.metrics.series_layout import WORDS as COUNTED
from fastgw.observe.metrics.totals import Totals, totals
from fastgw.redis import availability
from fastgw.routing.table import Steps
from fastgw.shm.held_body_budget import HeldBodyBudget
from fastgw.shm.last_errors import LastErrorEntry, LastErrors
from fastgw.shm.memory import Column, SharedMemory
from fastgw.shm.node_limits import AddressLimit, NodeLimit
from fastgw.shm.slot_assignment import OutOfSlots, SlotTable
from fastgw.shm.upstream_words import TargetWords
from fastgw.sync import credential_cache
from fastgw.sync.on_demand import OrderRefusal

WorkerState = Literal["ready", "silent", "starting", "draining"]

MAX_COLUMNS: Final = 4096
CONFIG_FAILED: Final = 1
"""Bit of `last_reload_failed`: the configuration that was read last is not active."""
CONTENTS_FAILED: Final = 2
"""Bit of `last_reload_failed`: the present contents of referenced files, such as certificates and secrets, are not
active.
"""
LAG_WINDOW_S: Final = 5
"""Seconds of a window: a worker's lag is the maximum of the current and the previous window."""
PUBLISHED_AT_ONCE: Final = 200
"""Number of targets whose load is stored in one step of about 0.2 ms."""


class ShmLayout:
    """Layout of the runtime's words in a column. Placed before the memory is mapped."""

    def __init__(self, gateway: Gateway) -> None:
        """`gateway`: tables of the first generation, which determine for how many connections addresses are counted."""
        layout = gateway.layout
        layout.connections = max(layout.connections, gateway.limits.connections)
        self._counted = counted_in(layout)
        self._returned = layout.counter("series_returned", CARRIED)
        self.targets = TargetWords(layout)
        self.last_errors = LastErrors(layout)
        self.tokens = layout.counter("token_cache", credential_cache.WORDS)
        """Lookups in token caches: hits, then misses."""
        self.state_up = layout.gauge("state_up")
        """Whether the Redis of `state` is reachable for a worker, with the values of `redis.availability`."""
        self.deaths = layout.counter("deaths")
        """Counter in the supervisor's column: children that ended unexpectedly."""
        self.accepted = layout.counter("accepted")
        """Client connections accepted within the limits."""
        self._evicted = layout.counter("evicted", len(Evicted))
        self.reloads_ok = layout.counter("reloads_ok")
        self.reloads_failed = layout.counter("reloads_failed")
        """Counter in the supervisor's column: failed reloads."""
        self.analytics_failures = layout.counter("analytics_failures")
        """Counter in the supervisor's column, written by control: failed writes of the analytics database."""
        self.metric_pushes = layout.counter("metric_pushes", 4)
        """Counters in the supervisor's column, written by control: pushes by OTLP that succeeded and failed, then those
        to StatsD.
        """
        self.statsd_push = layout.gauge("statsd_begun")
        """Gauge in the supervisor's column, written by control: number of the present push to StatsD, so that a later
        control process does not push its counts again. It is unique, also over upgrades. 0: there was none.
        """
        self.acme_attempts = layout.counter("acme_attempts", 2)
        """Counters in the supervisor's column, written by control: successful attempts to obtain a certificate by ACME,
        then failed ones.
        """
        self.acme_refusals = layout.counter("acme_refusals", len(OrderRefusal))
        """Counters in the supervisor's column, written by control: names that get no certificate on demand, by
        `OrderRefusal`.
        """
        self.last_reload_failed = layout.gauge("last_reload_failed")
        """Gauge in the supervisor's column: sum of `CONFIG_FAILED` and `CONTENTS_FAILED`, for the kinds of changes
        whose last attempt has failed.
        """
        self.last_reload_date = layout.gauge("last_reload_date")
        """Gauge in the supervisor's column: start of the active generation (epoch seconds)."""
        self.beat = layout.gauge("beat")
        """Time of the last heartbeat of the worker's event loop, in nanoseconds of the monotonic clock."""
        self._lag = layout.gauge("lag", 3)  # microseconds in this window and the previous one; number of this window
        self.control_beat = layout.gauge("control_beat")
        """Gauge in the supervisor's column, written by control only: time of the last heartbeat of control, like
        `beat`.
        """
        self.ready = layout.gauge("ready")
        """1 while the worker accepts. In the supervisor's column: 1 from the start until the stop begins."""
        self.awaits = layout.gauge("awaits")
        """Gauge in the supervisor's column: 1 from a start without data of a watched cluster until its first
        response.
        """
        self.silent = layout.gauge("silent", MAX_COLUMNS)
        """Gauges in the supervisor's column, a word for each worker: 1 while its heartbeat is missing."""
        self.generation = layout.gauge("generation")
        """Generation that the worker serves. In the supervisor's column: the committed one; set before the workers are
        notified.
        """
        self.pid = layout.gauge("pid")
        """0: the column is free."""
        self.slot = layout.gauge("slot")
        """The slot of the worker."""
        self.began = layout.gauge("began")
        """Start of the process, in nanoseconds of the monotonic clock."""
        self.challenges = layout.gauge("acme_challenges")
        """Number (`turn`) of the ACME challenges that the worker answers."""
        self.connections = layout.gauge("connections")
        """Client connections."""
        self.udp_sessions = layout.gauge("udp_sessions")
        """Sessions of UDP listeners."""
        self.websocket_connections = layout.gauge("websocket_connections", ROUTE_ROWS)
        """Connections of WebSocket APIs, by the row of their route in the active generation."""
        self.kept_bytes = layout.gauge("kept_bytes")
        """Bytes of request bodies that are kept for retries, beyond the free allowance of each."""
        self._shaken = layout.counter("tls_handshakes", len(HandshakeOutcome))
        self.leaving = layout.gauge("leaving")
        """1 once the worker accepts nothing new."""

    # written by workers

    def enter(self, column: Column, slot: int) -> None:
        """Record the start of a worker with this column."""
        words = column.words
        words[self.slot], words[self.began] = slot, time.monotonic_ns()
        words[self.pid] = os.getpid()

    def serve(self, column: Column, generation: int) -> None:
        """Record that the worker accepts and serves this generation."""
        column.words[self.generation] = generation
        column.words[self.ready] = 1

    def set_leaving(self, column: Column) -> None:
        """Record that the worker accepts nothing new."""
        column.words[self.leaving] = 1
        column.words[self.ready] = 0

    def held_body_budget(self, column: Column) -> HeldBodyBudget:
        """Return this process's share of the memory budget for kept request bodies."""
        return column.held_body_budget(self.kept_bytes)

    def count_tokens(self, column: Column) -> None:
        """Let the token caches of this process use these counters."""
        credential_cache.count_in(column.words[self.tokens : self.tokens + credential_cache.WORDS])

    def report_state(self, column: Column) -> None:
        """Let this process report here whether the Redis of `state` is reachable."""
        availability.report_in(column.words[self.state_up : self.state_up + 1])

    # written by the supervisor

    def set_ready(self, shared: SharedMemory, ready: bool) -> None:
        """Set whether the gateway is ready: from the start until the stop begins."""
        shared.supervisor.words[self.ready] = ready

    def set_awaits(self, shared: SharedMemory, awaits: bool) -> None:
        """Set whether the gateway waits for data before it can serve."""
        shared.supervisor.words[self.awaits] = awaits

    def commit(self, shared: SharedMemory, generation: int) -> None:
        """Record the active generation, before workers are notified."""
        shared.supervisor.words[self.generation] = generation

    def expect(self, shared: SharedMemory, column: int, generation: int) -> None:
        """Prepare this free column for a worker that is about to be forked, and will count in this generation."""
        shared.columns[column].words[self.generation] = generation

    def set_silent(self, shared: SharedMemory, column: int, silent: bool) -> None:
        """Record whether the heartbeat of this column's worker is missing."""
        shared.supervisor.words[self.silent + column] = silent

    def worker_reaped(self, shared: SharedMemory, column: int) -> None:
        """Clear the column of a worker that is dead and was reaped."""
        self.set_silent(shared, column, False)
        shared.clear_gauges(column)

    def died(self, shared: SharedMemory) -> None:
        """Count an unexpected end of a process."""
        shared.supervisor.words[self.deaths] += 1

    # derived values

    def is_current(self, shared: SharedMemory, generation: int) -> bool:
        """Whether a worker that starts with this generation may accept: no later one is active."""
        return bool(shared.supervisor.words[self.generation] <= generation)

    def is_ready(self, shared: SharedMemory) -> bool:
        """Whether the gateway is ready: started, not stopping, all watches have data, and a worker accepts."""
        return self.is_serving(shared) and not shared.supervisor.words[self.awaits] and self.accepting(shared) > 0

    def is_serving(self, shared: SharedMemory) -> bool:
        """Whether the gateway is started and not stopping."""
        return bool(shared.supervisor.words[self.ready])

    def is_of(self, shared: SharedMemory, column: int | None, pid: int) -> bool:
        """Whether this worker writes to the column, and not to one of another memory."""
        return column is not None and column < len(shared.columns) and shared.columns[column].words[self.pid] == pid

    def beat_of(self, shared: SharedMemory, column: int) -> int:
        return int(shared.columns[column].words[self.beat])

    def state_of(self, shared: SharedMemory, column: int) -> WorkerState:
        words = shared.columns[column].words
        if shared.supervisor.words[self.silent + column]:
            return "silent"
        if words[self.ready]:
            return "ready"
        return "draining" if words[self.leaving] else "starting"

    def oldest_generation(self, shared: SharedMemory) -> int:
        """Return the oldest generation served by any worker, including those that are leaving or not ready yet."""
        served = [column.words[self.generation] for column in shared.columns]
        return min(filter(None, served), default=shared.supervisor.words[self.generation])

    def workers_answer(self, shared: SharedMemory, turn: int) -> bool:
        """Whether all workers answer the ACME challenges with this number."""
        return all(
            column.words[self.challenges] >= turn
            for column in shared.columns
            if column.words[self.pid] and not column.words[self.leaving]
        )

    def control_has_beaten(self, shared: SharedMemory, at_ns: int) -> None:
        """Record a heartbeat of control at this instant of the monotonic clock."""
        shared.supervisor.words[self.control_beat] = at_ns

    def beat_of_control(self, shared: SharedMemory) -> int:
        return int(shared.supervisor.words[self.control_beat])

    def is_state_up(self, shared: SharedMemory) -> bool | None:
        """Whether the Redis of `state` is reachable for each worker that uses it; None: no worker does, or it is
        unknown.
        """
        said = {column.words[self.state_up] for column in shared.columns} - {availability.UNASKED}
        return availability.AWAY not in said if said else None

    # --- workers ---

    def accepting(self, shared: SharedMemory) -> int:
        """Return the number of workers that accept and have a recent heartbeat."""
        columns = shared.columns
        silent = shared.supervisor.words[self.silent : self.silent + len(columns)]
        return sum(column.words[self.ready] for column, hangs in zip(columns, silent, strict=True) if not hangs)

    def beaten(self, column: Column, at_ns: int, late_s: float) -> None:
        """Record a heartbeat at this instant of the monotonic clock, with the lag of the loop."""
        words, lag = column.words, self._lag
        window = at_ns // (LAG_WINDOW_S * 10**9)
        if window != words[lag + 2]:
            words[lag + 1] = words[lag] if window == words[lag + 2] + 1 else 0
            words[lag], words[lag + 2] = 0, window
        words[lag] = max(words[lag], int(late_s * 1e6), 0)
        words[self.beat] = at_ns  # last: readers that see it also see its lag

    def lag_s(self, column: Column) -> float:
        """Return the maximum lag of the last 5 to 10 seconds, in seconds."""
        return max(column.words[self._lag : self._lag + 2]) / 1e6

    def handshake_counts(self, column: Column) -> memoryview:
        """Return the number of TLS handshakes of this worker, and of earlier ones in this column, by
        `HandshakeOutcome`.
        """
        return column.words[self._shaken : self._shaken + len(HandshakeOutcome)]

    def eviction_counts(self, column: Column) -> memoryview:
        """Return the number of connections that this worker, and earlier ones in this column, have closed for others,
        by `Evicted`.
        """
        return column.words[self._evicted : self._evicted + len(Evicted)]

    def evictions(self, shared: SharedMemory) -> dict[Evicted, int]:
        """Return the evictions of all workers by kind."""
        return {kind: shared.total(self._evicted + kind) for kind in Evicted}

    def handshakes(self, shared: SharedMemory) -> dict[HandshakeOutcome, int]:
        """Return the TLS handshakes of all workers by outcome."""
        return {outcome: shared.total(self._shaken + outcome) for outcome in HandshakeOutcome}

    def connection_limit(self, column: Column, limits: config.Limits) -> NodeLimit:
        return column.limit(self.connections, limits.connections, self.accepted)

    def session_limit(self, column: Column, limits: config.Limits) -> NodeLimit:
        return column.limit(self.udp_sessions, limits.udp_sessions)

    def address_limit(self, column: Column, limits: config.Limits) -> AddressLimit:
        """Return the limit per client address. The default is a share, which need not be exact."""
        most = limits.connections_per_ip
        share = limits.address_share
        return column.address_limit(share, few=share // 100) if most is None else column.address_limit(most)

    def session_address_limit(self, column: Column, limits: config.Limits) -> AddressLimit:
        """Return the limit of UDP sessions per client address."""
        return column.address_limit(config.address_share(limits.udp_sessions), b"udp ")

    def check(self, shared: SharedMemory, limits: config.Limits) -> None:
        """Check that these limits can be enforced in memory created for other limits. Raises `OutOfSlots`."""
        if limits.connections_per_ip is not None and limits.connections > shared.sketch.connections:
            raise OutOfSlots(
                f"limits.connections: {limits.connections} with limits.connections_per_ip needs a restart: the shared "
                f"memory counts the addresses of {shared.sketch.connections} connections"
            )

    def publishing(self, column: Column, gateway: Gateway, websockets: Mapping[str, int]) -> Steps[None]:
        """Write this worker's load of the targets, in steps, and its connections of WebSocket APIs by route."""
        self.write_websockets(column, gateway.series, websockets)
        stored = 0
        slots = gateway.slot_table.upstreams
        for name, upstream in gateway.upstreams.items():
            column.words[self.targets.requests + slots[name]] = upstream.in_flight
            for target in upstream.targets:
                slot = gateway.target_slot(name, target)
                idle = waiting = lent = 0
                for part in (target, *target.parts):
                    idle += len(part.idle)
                    waiting += len(part.waiting)
                    lent += part.places - part.opening - len(part.idle)
                self.targets.write_gauges(column, slot, lent, idle, waiting)
                stored += 1
                if stored % PUBLISHED_AT_ONCE == 0:
                    yield

    def write_websockets(self, column: Column, series: Series, by_route: Mapping[str, int]) -> None:
        """Write this worker's connections of WebSocket APIs."""
        counts = array("Q", bytes(8 * ROUTE_ROWS))
        for route, count in by_route.items():
            counts[series.routes_by_name.get(route, 0)] += count
        column.words[self.websocket_connections : self.websocket_connections + ROUTE_ROWS] = memoryview(counts)

    def websockets(self, shared: SharedMemory, series: Series) -> dict[str, int]:
        """Return the connections of WebSocket APIs on the node by route, of those that have some."""
        span = slice(self.websocket_connections, self.websocket_connections + ROUTE_ROWS)
        counts = [sum(each) for each in zip(*(view[span].tolist() for view in shared.views), strict=True)]
        return {route: counts[row] for route, row in series.routes.items() if counts[row]}

    # counts

    def requests_of(self, column: Column) -> int:
        """Return the number of requests finished by this worker, and by earlier ones in this column."""
        counted = self.counted(column)
        return counted[UNCELLED] + sum(count for key, count in claimed(counted) if kind_of(key) is CellKind.REQUEST)

    def reloaded(self, shared: SharedMemory, ok: bool, date: float, *, of_contents: bool = False) -> None:
        """Record the end of a reload, in the supervisor, with its date (epoch seconds). `of_contents`: it loaded
        contents of referenced files, and does not change whether the configuration that was read last is active.
        """
        words = shared.supervisor.words
        words[self.reloads_ok if ok else self.reloads_failed] += 1
        failed = words[self.last_reload_failed] & ~(CONTENTS_FAILED if of_contents else CONFIG_FAILED | CONTENTS_FAILED)
        words[self.last_reload_failed] = failed | (0 if ok else CONTENTS_FAILED if of_contents else CONFIG_FAILED)
        if ok:
            words[self.last_reload_date] = int(date)

    def counted(self, column: Column) -> memoryview:
        """Return the words that the observer counts in."""
        return column.words[self._counted : self._counted + COUNTED]

    def failed_last(self, shared: SharedMemory, series: Series, target: str, error: LastErrorEntry | None) -> bool:
        """Whether the most recent result of attempts at a target (`target_name`) is its last error."""
        if error is None or target not in series.targets:
            return False
        row = self._counted + TARGETS_AT + series.targets[target] * TARGET_WORDS
        return answers_at(shared.views, row) <= error.answers

    def _given_back(self, column: Column) -> memoryview:
        return column.words[self._returned : self._returned + CARRIED]

    def carry(self, shared: SharedMemory, before: SlotTable, after: SlotTable) -> None:
        """Carry counts over to the new names, in the supervisor, when all workers are prepared and before any commits:
        see `carry_over`.
        """
        columns = [self.counted(column) for column in shared.columns]
        carry_over = CounterCarryOver(self.counted(shared.supervisor), self._given_back(shared.supervisor))
        carry_over.carry(columns, before, after)

    def totals(self, shared: SharedMemory, series: Series) -> Totals:
        """Return the totals of the node, by the names of this generation."""
        columns = [self.counted(column) for column in shared.columns]
        return totals(series, columns, self.counted(shared.supervisor), self._given_back(shared.supervisor))
