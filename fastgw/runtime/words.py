"""The words of shared memory that the runtime gives to those who serve, and those that it keeps itself.

They stand at the same places in every generation of the configuration; only names change theirs, see `node.places`.
"""

from collections.abc import Iterator
from typing import Final

from fastgw.compile import Gateway
from fastgw.config import settings as config
from fastgw.errors import Fault
from fastgw.node.limits import AddressLimit, NodeLimit
from fastgw.node.places import CannotPlace, Places
from fastgw.node.shared import Column, Shared
from fastgw.node.targets import TargetWords
from fastgw.observe import Series, Totals, totals
from fastgw.observe.ledger import Ledger
from fastgw.observe.series import WORDS as COUNTED
from fastgw.observe.series import counted_in

MAX_COLUMNS: Final = 4096
LAG_WINDOW_S: Final = 5
"""A worker's lag is the worst of this window of seconds and of the one before."""
PUBLISHED_AT_ONCE: Final = 200
"""Targets whose numbers are stored between two other turns of the loop: some 0.2 ms."""


class Words:
    """Where they stand in a column. Placed before the memory is mapped."""

    def __init__(self, gateway: Gateway) -> None:
        """The first generation, which settles how many connections the addresses are counted of."""
        layout = gateway.layout
        layout.connections = max(layout.connections, gateway.limits.connections)
        self._counted = counted_in(layout)
        self._returned = layout.counter("series_returned", COUNTED)
        self.targets = TargetWords(layout)
        self.deaths = layout.counter("deaths")
        """In the supervisor's column: how many children ended although they should not have."""
        self.accepted = layout.counter("accepted")
        """Client connections that were admitted."""
        self.reloads_ok = layout.counter("reloads_ok")
        self.reloads_failed = layout.counter("reloads_failed")
        """In the supervisor's column, as the one before."""
        self.last_reload_failed = layout.gauge("last_reload_failed")
        """In the supervisor's column: 1 after a reload that changed nothing."""
        self.last_reload_date = layout.gauge("last_reload_date")
        """In the supervisor's column: when the generation that serves was begun, epoch seconds."""
        self.beat = layout.gauge("beat")
        """When the worker's loop last went round, in nanoseconds of the monotonic clock."""
        self._lag = layout.gauge("lag", 3)  # microseconds in this window, in the one before; which window
        self.ready = layout.gauge("ready")
        """1 while the worker accepts. In the supervisor's column: 1 from the start until the stop begins."""
        self.silent = layout.gauge("silent", MAX_COLUMNS)
        """In the supervisor's column, a word for each worker: 1 while it does not beat."""
        self.generation = layout.gauge("generation")
        """What the worker serves. In the supervisor's column: what was committed; set before the workers are told."""
        self.pid = layout.gauge("pid")
        """0: the column is nobody's."""
        self.began = layout.gauge("began")
        """When the process began, in nanoseconds of the monotonic clock."""
        self.connections = layout.gauge("connections")
        """Client connections."""
        self._first_limits = gateway.limits

    # --- workers ---

    def accepting(self, shared: Shared) -> int:
        """How many workers accept, and go round."""
        columns = shared.columns
        silent = shared.supervisor.words[self.silent : self.silent + len(columns)]
        return sum(column.words[self.ready] for column, hangs in zip(columns, silent, strict=True) if not hangs)

    def beaten(self, column: Column, at_ns: int, late_s: float) -> None:
        """The loop went round at this instant of the monotonic clock, so late."""
        words, lag = column.words, self._lag
        words[self.beat] = at_ns
        window = at_ns // (LAG_WINDOW_S * 10**9)
        if window != words[lag + 2]:
            words[lag + 1] = words[lag] if window == words[lag + 2] + 1 else 0
            words[lag], words[lag + 2] = 0, window
        words[lag] = max(words[lag], int(late_s * 1e6), 0)

    def lag_s(self, column: Column) -> float:
        """The worst lateness of the last 5 to 10 seconds."""
        return max(column.words[self._lag : self._lag + 2]) / 1e6

    def connection_limit(self, column: Column, limits: config.Limits | None = None) -> NodeLimit:
        """`limits`: of the generation; None: the first."""
        return column.limit(self.connections, (limits or self._first_limits).connections, self.accepted)

    def address_limit(self, column: Column, limits: config.Limits | None = None) -> AddressLimit | None:
        """None: addresses are not limited."""
        most = (limits or self._first_limits).connections_per_ip
        return None if most is None else column.address_limit(most)

    def check(self, shared: Shared, limits: config.Limits) -> None:
        """Whether these limits can be held in memory that was made for others. Raises `CannotPlace`."""
        if limits.connections_per_ip is not None and limits.connections > shared.sketch.connections:
            raise CannotPlace(
                f"limits.connections: {limits.connections} with limits.connections_per_ip needs a restart: the shared "
                f"memory counts the addresses of {shared.sketch.connections} connections"
            )

    def publishing(self, column: Column, gateway: Gateway) -> Iterator[None]:
        """Tell how busy this worker keeps the targets; in steps, between which the loop may go on."""
        stored = 0
        for name, upstream in gateway.upstreams.items():
            for target in upstream.targets:
                place = gateway.target_place(name, target)
                lent = target.places - target.opening - len(target.idle)
                self.targets.tell(column, place, lent, len(target.idle), len(target.waiting))
                stored += 1
                if stored % PUBLISHED_AT_ONCE == 0:
                    yield

    # --- what is counted ---

    def reloaded(self, shared: Shared, ok: bool, date: float) -> None:
        """In the supervisor: a reload has ended, at this date (epoch seconds)."""
        words = shared.supervisor.words
        words[self.reloads_ok if ok else self.reloads_failed] += 1
        words[self.last_reload_failed] = not ok
        if ok:
            words[self.last_reload_date] = int(date)

    def counted(self, column: Column) -> memoryview:
        """What the observer counts."""
        return column.words[self._counted : self._counted + COUNTED]

    def _given_back(self, column: Column) -> memoryview:
        return column.words[self._returned : self._returned + COUNTED]

    def carry(self, shared: Shared, before: Places, after: Places) -> None:
        """In the supervisor, when all workers are prepared and none is told to commit: see `observe.ledger`."""
        columns = [self.counted(column) for column in shared.columns]
        ledger = Ledger(self.counted(shared.supervisor), self._given_back(shared.supervisor))
        ledger.carry(columns, before, after)

    def totals(self, shared: Shared, series: Series) -> Totals:
        """What the node has counted, by the names of this generation."""
        columns = [self.counted(column) for column in shared.columns]
        return totals(series, columns, self.counted(shared.supervisor), self._given_back(shared.supervisor))


def series_of(places: Places) -> Series:
    """What is counted in the generation with these places."""
    return Series(places, [fault.label for fault in Fault])
