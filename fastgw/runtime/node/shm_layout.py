"""The words of shared memory that the runtime gives to those who serve, and those that it keeps itself.

They stand at the same places in every generation of the configuration; only names change theirs, see
`shm.slot_assignment`.
"""

import os
import time
from typing import Final, Literal

from fastgw.config.settings import gateway as config
from fastgw.downstream.tls.connection import HandshakeOutcome
from fastgw.gateway.tables import Gateway
from fastgw.observe import Series, Totals
from fastgw.observe.metrics.carry_over import CounterCarryOver
from fastgw.observe.metrics.series_layout import (
    TARGET_WORDS,
    TARGETS_AT,
    UNCELLED,
    answers_at,
    claimed,
    counted_in,
    is_fault_cell,
)
from fastgw.observe.metrics.series_layout import WORDS as COUNTED
from fastgw.observe.metrics.totals import totals
from fastgw.redis import availability
from fastgw.routing.table import Steps
from fastgw.shm.held_body_budget import HeldBodyBudget
from fastgw.shm.last_errors import LastErrorEntry, LastErrors
from fastgw.shm.memory import Column, SharedMemory
from fastgw.shm.node_limits import AddressLimit, NodeLimit
from fastgw.shm.slot_assignment import CannotPlace, SlotTable
from fastgw.shm.upstream_words import TargetWords
from fastgw.sync import credential_cache

WorkerState = Literal["ready", "silent", "starting", "draining"]

MAX_COLUMNS: Final = 4096
CONFIG_FAILED: Final = 1
"""The configuration that was read last is not served."""
CONTENTS_FAILED: Final = 2
"""Bit of `last_reload_failed`: the present contents of referenced files, such as certificates and secrets, are not in
force.
"""
LAG_WINDOW_S: Final = 5
"""A worker's lag is the worst of this window of seconds and of the one before."""
PUBLISHED_AT_ONCE: Final = 200
"""Targets whose numbers are stored between two other turns of the loop: some 0.2 ms."""


class ShmLayout:
    """Layout of the runtime's words in a column. Placed before the memory is mapped."""

    def __init__(self, gateway: Gateway) -> None:
        """The first generation, which settles how many connections the addresses are counted of."""
        layout = gateway.layout
        layout.connections = max(layout.connections, gateway.limits.connections)
        self._counted = counted_in(layout)
        self._returned = layout.counter("series_returned", COUNTED)
        self.targets = TargetWords(layout)
        self.last_errors = LastErrors(layout)
        self.tokens = layout.counter("token_cache", credential_cache.WORDS)
        """Look-ups in token caches: hits, then misses."""
        self.state_up = layout.gauge("state_up")
        """Whether the Redis of `state` is there for a worker, in the words of `redis.availability`."""
        self.deaths = layout.counter("deaths")
        """Counter in the supervisor's column: children that ended although they should not have."""
        self.accepted = layout.counter("accepted")
        """Client connections that were admitted."""
        self.reloads_ok = layout.counter("reloads_ok")
        self.reloads_failed = layout.counter("reloads_failed")
        """Counter in the supervisor's column, as the one before."""
        self.last_reload_failed = layout.gauge("last_reload_failed")
        """Gauge in the supervisor's column: kinds of changes whose last attempt failed, `CONFIG_FAILED` and
        `CONTENTS_FAILED`, added up.
        """
        self.last_reload_date = layout.gauge("last_reload_date")
        """Gauge in the supervisor's column: the time that the active generation began, epoch seconds."""
        self.beat = layout.gauge("beat")
        """When the worker's loop last went round, in nanoseconds of the monotonic clock."""
        self._lag = layout.gauge("lag", 3)  # microseconds in this window, in the one before; which window
        self.control_beat = layout.gauge("control_beat")
        """Gauge in the supervisor's column, written by control alone: the time its loop last went round, like `beat`.
        """
        self.ready = layout.gauge("ready")
        """1 while the worker accepts. In the supervisor's column: 1 from the start until the stop begins."""
        self.awaits = layout.gauge("awaits")
        """Gauge in the supervisor's column: 1 from a start without knowledge of a watched cluster until its first
        answer.
        """
        self.silent = layout.gauge("silent", MAX_COLUMNS)
        """Gauges in the supervisor's column, a word for each worker: 1 while its heartbeat is missing."""
        self.generation = layout.gauge("generation")
        """The generation that the worker serves. In the supervisor's column: what was committed; set before the workers
        are told.
        """
        self.pid = layout.gauge("pid")
        """0: the column is nobody's."""
        self.slot = layout.gauge("slot")
        """The slot of the worker."""
        self.began = layout.gauge("began")
        """When the process began, in nanoseconds of the monotonic clock."""
        self.connections = layout.gauge("connections")
        """Client connections."""
        self.udp_sessions = layout.gauge("udp_sessions")
        """Sessions of UDP listeners."""
        self.kept_bytes = layout.gauge("kept_bytes")
        """Bytes of request bodies that are kept to be sent again, beyond what each may have anyhow."""
        self._shaken = layout.counter("tls_handshakes", len(HandshakeOutcome))
        self.leaving = layout.gauge("leaving")
        """1 once the worker takes nothing new."""

    # --- what processes say of themselves ---

    def enter(self, column: Column, slot: int) -> None:
        """A worker was born into this column."""
        words = column.words
        words[self.slot], words[self.began] = slot, time.monotonic_ns()
        words[self.pid] = os.getpid()

    def serve(self, column: Column, generation: int) -> None:
        """The worker accepts, and serves this generation."""
        column.words[self.generation] = generation
        column.words[self.ready] = 1

    def leave(self, column: Column) -> None:
        """The worker takes nothing new any more."""
        column.words[self.leaving] = 1
        column.words[self.ready] = 0

    def held_body_budget(self, column: Column) -> HeldBodyBudget:
        """Return this process's account of the memory of kept request bodies."""
        return column.held_body_budget(self.kept_bytes)

    def count_tokens(self, column: Column) -> None:
        """Let the token caches of this process count here."""
        credential_cache.count_in(column.words[self.tokens : self.tokens + credential_cache.WORDS])

    def report_state(self, column: Column) -> None:
        """Let this process tell here whether the Redis of `state` is there."""
        availability.report_in(column.words[self.state_up : self.state_up + 1])

    # --- what the supervisor says ---

    def set_ready(self, shared: SharedMemory, ready: bool) -> None:
        """Set whether the gateway is ready: from the start until the stop begins."""
        shared.supervisor.words[self.ready] = ready

    def set_awaits(self, shared: SharedMemory, awaits: bool) -> None:
        """Whether something is to come before there is anything to serve."""
        shared.supervisor.words[self.awaits] = awaits

    def commit(self, shared: SharedMemory, generation: int) -> None:
        """This generation is in force; before any worker is told."""
        shared.supervisor.words[self.generation] = generation

    def expect(self, shared: SharedMemory, column: int, generation: int) -> None:
        """A worker is about to be born into this column, which is nobody's yet, and will count by this generation."""
        shared.columns[column].words[self.generation] = generation

    def hush(self, shared: SharedMemory, column: int, silent: bool) -> None:
        """The worker of this column does not beat, or does again."""
        shared.supervisor.words[self.silent + column] = silent

    def left(self, shared: SharedMemory, column: int) -> None:
        """The worker of this column is dead, and was reaped."""
        self.hush(shared, column, False)
        shared.clear_gauges(column)

    def died(self, shared: SharedMemory) -> None:
        """A process ended that should not have."""
        shared.supervisor.words[self.deaths] += 1

    # --- what can be told of them ---

    def is_ready(self, shared: SharedMemory) -> bool:
        """The start is over, the stop has not begun, what watches say is known, and a worker accepts."""
        return self.is_serving(shared) and not shared.supervisor.words[self.awaits] and self.accepting(shared) > 0

    def is_serving(self, shared: SharedMemory) -> bool:
        """The start is over and the stop has not begun."""
        return bool(shared.supervisor.words[self.ready])

    def is_of(self, shared: SharedMemory, column: int | None, pid: int) -> bool:
        """Whether this worker writes into the column, and not into one of other memory."""
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
        """Return the oldest generation that any worker serves, also one that is leaving or not ready yet."""
        served = [column.words[self.generation] for column in shared.columns]
        return min(filter(None, served), default=shared.supervisor.words[self.generation])

    def control_has_beaten(self, shared: SharedMemory, at_ns: int) -> None:
        """Control's loop went round at this instant of the monotonic clock."""
        shared.supervisor.words[self.control_beat] = at_ns

    def beat_of_control(self, shared: SharedMemory) -> int:
        return int(shared.supervisor.words[self.control_beat])

    def is_state_up(self, shared: SharedMemory) -> bool | None:
        """Whether the Redis of `state` is there for each worker that asks it; None: none does, or knows yet."""
        said = {column.words[self.state_up] for column in shared.columns} - {availability.UNASKED}
        return availability.AWAY not in said if said else None

    # --- workers ---

    def accepting(self, shared: SharedMemory) -> int:
        """How many workers accept, and go round."""
        columns = shared.columns
        silent = shared.supervisor.words[self.silent : self.silent + len(columns)]
        return sum(column.words[self.ready] for column, hangs in zip(columns, silent, strict=True) if not hangs)

    def beaten(self, column: Column, at_ns: int, late_s: float) -> None:
        """The loop went round at this instant of the monotonic clock, so late."""
        words, lag = column.words, self._lag
        window = at_ns // (LAG_WINDOW_S * 10**9)
        if window != words[lag + 2]:
            words[lag + 1] = words[lag] if window == words[lag + 2] + 1 else 0
            words[lag], words[lag + 2] = 0, window
        words[lag] = max(words[lag], int(late_s * 1e6), 0)
        words[self.beat] = at_ns  # last: whoever sees it sees how late it came

    def lag_s(self, column: Column) -> float:
        """The worst lateness of the last 5 to 10 seconds."""
        return max(column.words[self._lag : self._lag + 2]) / 1e6

    def shaken(self, column: Column) -> memoryview:
        """TLS handshakes of this worker, and of those before it in this column, by `HandshakeOutcome`."""
        return column.words[self._shaken : self._shaken + len(HandshakeOutcome)]

    def handshakes(self, shared: SharedMemory) -> dict[HandshakeOutcome, int]:
        """Return the TLS handshakes of all workers by outcome."""
        return {outcome: shared.total(self._shaken + outcome) for outcome in HandshakeOutcome}

    def connection_limit(self, column: Column, limits: config.Limits) -> NodeLimit:
        return column.limit(self.connections, limits.connections, self.accepted)

    def session_limit(self, column: Column, limits: config.Limits) -> NodeLimit:
        return column.limit(self.udp_sessions, limits.udp_sessions)

    def address_limit(self, column: Column, limits: config.Limits) -> AddressLimit | None:
        """None: addresses are not limited."""
        most = limits.connections_per_ip
        return None if most is None else column.address_limit(most)

    def check(self, shared: SharedMemory, limits: config.Limits) -> None:
        """Whether these limits can be held in memory that was made for others. Raises `CannotPlace`."""
        if limits.connections_per_ip is not None and limits.connections > shared.sketch.connections:
            raise CannotPlace(
                f"limits.connections: {limits.connections} with limits.connections_per_ip needs a restart: the shared "
                f"memory counts the addresses of {shared.sketch.connections} connections"
            )

    def publishing(self, column: Column, gateway: Gateway) -> Steps[None]:
        """Tell how busy this worker keeps the targets; in steps, between which the loop may go on."""
        stored = 0
        for name, upstream in gateway.upstreams.items():
            for target in upstream.targets:
                place = gateway.target_place(name, target)
                lent = target.places - target.opening - len(target.idle)
                self.targets.write_gauges(column, place, lent, len(target.idle), len(target.waiting))
                stored += 1
                if stored % PUBLISHED_AT_ONCE == 0:
                    yield

    # --- what is counted ---

    def requests_of(self, column: Column) -> int:
        """How many requests this worker, and those before it in this column, have finished."""
        counted = self.counted(column)
        return counted[UNCELLED] + sum(count for name, count in claimed(counted) if not is_fault_cell(name))

    def reloaded(self, shared: SharedMemory, ok: bool, date: float, *, of_contents: bool = False) -> None:
        """Record the end of a reload, in the supervisor, at this date (epoch seconds). `of_contents`: it was about
        files that the configuration names, and says nothing of whether the configuration that was read last is served.
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
        """Whether the newest that has come of attempts at a target (`target_name`) is this error of it."""
        if error is None or target not in series.targets:
            return False
        row = self._counted + TARGETS_AT + series.targets[target] * TARGET_WORDS
        return answers_at(shared.views, row) <= error.answers

    def _given_back(self, column: Column) -> memoryview:
        return column.words[self._returned : self._returned + COUNTED]

    def carry(self, shared: SharedMemory, before: SlotTable, after: SlotTable) -> None:
        """Carry counts over to the new names, in the supervisor, when all workers are prepared and none has been told
        to commit: see `carry_over`.
        """
        columns = [self.counted(column) for column in shared.columns]
        carry_over = CounterCarryOver(self.counted(shared.supervisor), self._given_back(shared.supervisor))
        carry_over.carry(columns, before, after)

    def totals(self, shared: SharedMemory, series: Series) -> Totals:
        """Return the totals of the node, by the names of this generation."""
        columns = [self.counted(column) for column in shared.columns]
        return totals(series, columns, self.counted(shared.supervisor), self._given_back(shared.supervisor))
