"""Writer of the analytics database: in control every few seconds, and in the supervisor once all workers have ended."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Final, final

from fastgw.admin.node_interface import AnalyticsInfo
from fastgw.analytics.queries import MINUTE
from fastgw.analytics.readings import NO_NAMES, CounterReading, RowNames, read_counters
from fastgw.analytics.store import AnalyticsStore, CannotKeepAnalytics
from fastgw.config.settings.gateway import Config
from fastgw.consumers.index import Index
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.node.node_state import NodeState
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.shm.memory import SharedMemory
from fastgw.shm.slot_assignment import SlotTable

EVERY_S: Final = 5.0
"""Interval of writes: the most that a power failure, or the death of all processes at once, may lose."""
WAITING_MAX: Final = 60
"""Maximum number of readings, one a minute and one a reload, that wait in memory while the database cannot be written.
Beyond them two become one: requests are not lost, but counted in a later minute, with the names of then."""


@final
class AnalyticsWriter:
    """Writer of one process. All but `write_readings` takes milliseconds at most."""

    def __init__(self, shared: SharedMemory, words: ShmLayout, *, is_last: bool = False) -> None:
        """`is_last`: nothing is written after this writer."""
        self._shared, self._words, self._is_last = shared, words, is_last
        self._store: AnalyticsStore | None = None
        self._settings: object = None
        self._names: RowNames = NO_NAMES
        self._readings: deque[CounterReading] = deque()
        self._ending: list[tuple[AnalyticsStore, list[CounterReading]]] = []  # of earlier settings, with what to write
        self._lock = threading.Lock()
        self._problem = ""
        self._written_date: float | None = None

    @property
    def info(self) -> AnalyticsInfo | None:
        store = self._store
        return None if store is None else AnalyticsInfo(store.path, self._written_date, self._problem)

    def use_configuration(self, settings: Config, slot_table: SlotTable, index: Index, *, begins: bool = False) -> None:
        """Use the settings and names of a generation. `begins`: it is the first one of this process."""
        wanted, now = settings.analytics, time.time()
        if self._store is not None and not begins:
            self.read(now)  # with the names of before
        groups = {} if wanted is None else _groups_of(slot_table, index)
        self._names = self._names.following(slot_table, groups)
        if wanted == self._settings:
            return
        previous, self._settings = self._store, wanted
        with self._lock:
            if previous is not None:
                self._ending.append((previous, list(self._readings)))
            self._readings.clear()
        self._problem, self._written_date = "", None
        self._store = None
        if wanted is not None:
            self._store = AnalyticsStore(wanted.path, wanted.keep, wanted.size, self._shared.identity)
            if not begins:
                self.read(now, begins=True)

    def read(self, date: float, *, begins: bool = False) -> None:
        """Read the counters; they are written later as those of the minute of `date`."""
        if self._store is None:
            return
        columns = [self._words.counted(column) for column in self._shared.columns]
        reading = read_counters(columns, self._names, date, begins=begins)
        with self._lock:
            waiting = self._readings
            is_same_minute = waiting and not waiting[-1].begins and waiting[-1].date // MINUTE == date // MINUTE
            # The names of before may matter for the counts of before: see `use_configuration`.
            if is_same_minute and waiting[-1].names == self._names:
                waiting.pop()
            elif len(waiting) >= WAITING_MAX:
                del waiting[1]
            waiting.append(reading)

    def write_readings(self) -> None:
        """Write what was read. It may block on the disk: a thread's work in a process with a loop."""
        with self._lock:
            store, readings, ending = self._store, list(self._readings), self._ending
            self._ending = []
        for previous, last in ending:
            try:
                previous.write(last)
            except CannotKeepAnalytics as error:
                notice(
                    OperatorEvent.ANALYTICS_NOT_KEPT, f"analytics: {error}; the counts since the last write are lost"
                )
            previous.close()
        if store is None or not readings:
            return
        try:
            aside = store.write(readings)
        except CannotKeepAnalytics as error:
            self._shared.supervisor.words[self._words.analytics_failures] += 1
            if not self._problem:
                then = "the counts since the last write are lost" if self._is_last else "counts wait in memory"
                notice(OperatorEvent.ANALYTICS_NOT_KEPT, f"analytics: {error}; {then}")
            self._problem = str(error)
            return
        if aside:
            notice(
                OperatorEvent.FILE_SET_ASIDE,
                f"analytics: {store.path} is damaged, and is {aside} now; a new one begins with the counts since the "
                "start of the gateway",
            )
        if self._problem:
            notice(OperatorEvent.ANALYTICS_KEPT, f"analytics: {store.path} is written again")
        self._problem, self._written_date = "", time.time()
        with self._lock:
            written = {id(each) for each in readings}
            while self._readings and id(self._readings[0]) in written:
                self._readings.popleft()

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


def _groups_of(slot_table: SlotTable, index: Index) -> Mapping[str, str]:
    """Return the groups of the consumers that are counted by name."""
    missing, groups = set(slot_table.consumers), {}
    for each in index.known():
        if not missing:
            break
        if each.name in missing:
            missing.remove(each.name)
            groups[each.name] = ",".join(each.groups)
    return groups


def write_last_counts(node_state: NodeState) -> None:
    """Write what is not in the database yet, in the supervisor, after all processes that count have ended."""
    if node_state.sealed.settings.analytics is None:
        return
    accepted = node_state.sealed.whole()
    writer = AnalyticsWriter(node_state.shared, node_state.words, is_last=True)
    writer.use_configuration(accepted.settings, accepted.slot_table, accepted.index, begins=True)
    writer.read(time.time())
    writer.write_readings()
    writer.close()
