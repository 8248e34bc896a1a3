"""Traffic history of the node: one point per ten seconds of the last hour, and the counts of a minute ago.

Bounded: `POINTS` points of a few numbers, and `MARKS` copies of the rows with counts. It is empty after a restart of
control; the counts themselves are in shared memory.
"""

import asyncio
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from fastgw.admin.node_interface import HistoryPoint, Live
from fastgw.observe.metrics.families import BOUNDS_S
from fastgw.observe.metrics.series_layout import TARGET_SERVER_ERRORS, CellKind
from fastgw.observe.metrics.totals import Totals

EVERY_S: Final = 10.0
POINTS: Final = 360
"""An hour of them."""
MARKS: Final = 7
"""Number of marks: the oldest is a minute old."""
_BUCKETS: Final = len(BOUNDS_S) + 1
Fares = Literal["healthy", "failing", "unknown"]


class Recent(NamedTuple):
    """Counts of the last minute, by the words of `observe.metrics.series_layout`."""

    seconds: float
    targets: Mapping[str, Sequence[int]]
    routes: Mapping[str, Sequence[int]]
    faults: Mapping[tuple[str, str], int]
    """Faults by route and label."""


class _Mark(NamedTuple):
    at: float
    targets: Mapping[str, Sequence[int]]
    routes: Mapping[str, Sequence[int]]
    faults: Mapping[tuple[str, str], int]


class TrafficHistory:
    """`totals`, `live`: the current values. `clock`: monotonic seconds."""

    def __init__(
        self, totals: Callable[[], Totals], live: Callable[[], Live], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._totals, self._live, self._clock = totals, live, clock
        self._marks: deque[_Mark] = deque(maxlen=MARKS)
        self._before: Live | None = None
        self.points: deque[HistoryPoint] = deque(maxlen=POINTS)

    async def run(self) -> None:
        """Record until cancelled. The caller does the first `tick`, before the node is reported as serving."""
        while True:
            await asyncio.sleep(EVERY_S)
            self.tick()

    def tick(self) -> None:
        self._marks.append(_mark(self._totals(), self._clock()))
        live, before = self._live(), self._before
        self._before = live
        if before is not None and before.uptime_s <= live.uptime_s:
            self.points.append(_point(before, live))

    def recent(self, totals: Totals) -> Recent:
        """Return the counts since about a minute ago, or since control started."""
        now = _mark(totals, self._clock())
        if not self._marks:
            return Recent(1.0, {}, {}, {})
        since = self._marks[0]
        return Recent(
            max(now.at - since.at, 1.0),
            {name: _less(row, since.targets.get(name)) for name, row in now.targets.items()},
            {name: _less(row, since.routes.get(name)) for name, row in now.routes.items()},
            {key: count - since.faults.get(key, 0) for key, count in now.faults.items()},
        )

    def observed_health(self, target: str, totals: Totals, *, failed_last: bool) -> Fares:
        """Return the state of a target without health checks, by its responses. `failed_last`: there was no response
        since an attempt failed.
        """
        if failed_last:
            return "failing"
        row = totals.targets.get(target)
        if row is None or not self._marks:
            return "unknown"
        lately = _less(row, self._marks[0].targets.get(target))
        answers = response_count(lately)
        if not answers:
            return "unknown"
        return "healthy" if lately[TARGET_SERVER_ERRORS] < answers else "failing"


def response_count(row: Sequence[int]) -> int:
    """Return the number of responses in a histogram's row."""
    return sum(row[:_BUCKETS])


def _mark(totals: Totals, now: float) -> _Mark:
    faults: Counter[tuple[str, str]] = Counter()
    for (fault, route, _), count in totals.cells[CellKind.FAULT].items():
        faults[route, fault] += count
    targets, routes = _copied(totals.targets), _copied(totals.routes)
    return _Mark(now, targets, routes, faults)


def _copied(rows: Mapping[str, Sequence[int]]) -> Mapping[str, Sequence[int]]:
    return {name: array("Q", row) for name, row in rows.items()}


def _less(row: Sequence[int], before: Sequence[int] | None) -> Sequence[int]:
    """Return the difference; a row with lower counts than before is a new one."""
    if before is None:
        return row
    less = [now - then for now, then in zip(row, before, strict=True)]
    return row if any(count < 0 for count in less) else less


def _point(before: Live, live: Live) -> HistoryPoint:
    seconds = max(live.uptime_s - before.uptime_s, 0.001)
    faults = {name: count - before.faults.get(name, 0) for name, count in live.faults.items()}
    return HistoryPoint(
        date=live.date,
        seconds=seconds,
        connections=live.connections,
        requests=max(live.requests - before.requests, 0),
        responses={name: max(count - before.responses.get(name, 0), 0) for name, count in live.responses.items()},
        faults={name: count for name, count in faults.items() if count > 0},
        latency=[max(now - then, 0) for now, then in zip(live.latency.counts, before.latency.counts, strict=True)],
        loop_lag_s=live.loop_lag_s,
    )
