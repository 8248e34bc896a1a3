"""Burn rates of service level objectives: the counts of each route, kept for the windows of alerts.

Counts are read every `EVERY_S`; a window is read from the ring with the finest steps that reaches back so far. Windows
begin with the control process: one that was replaced, or upgraded, has no history. Alerts that have to be exact over
days use the counters (`fastgw_slo_requests_total`).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, final

from fastgw.observe.metrics.families import SloCount
from fastgw.observe.metrics.request_meter import MeterPlan
from fastgw.observe.metrics.series_layout import CellKind
from fastgw.observe.metrics.totals import Totals
from fastgw.runtime.node.measured_metrics import SLO_COUNTS

EVERY_S: Final = 15.0
WINDOWS: Final[Mapping[str, float]] = {"5m": 300.0, "30m": 1800.0, "1h": 3600.0, "6h": 21600.0, "3d": 259200.0}
"""Windows, as in multi-window alerts: a fast and a slow one for each severity."""
_STEPS: Final = 24
"""Steps of a window, at least: its error is a 24th."""

_Counts = Mapping[tuple[str, int], int]


class _Mark(NamedTuple):
    at: float
    counts: _Counts


@final
class SloHistory:
    """History of one control process. `totals`: current counts; `plan`: what is measured; `uptime`: seconds since the
    start of the gateway, whose first requests may end before the first reading.
    """

    def __init__(
        self,
        totals: Callable[[], Totals],
        plan: Callable[[], MeterPlan | None],
        uptime: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._totals, self._plan, self._uptime, self._clock = totals, plan, uptime, clock
        self._marks = {window: deque[_Mark](maxlen=_STEPS + 2) for window in WINDOWS}

    async def run(self) -> None:
        """Record until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(EVERY_S)

    def tick(self) -> None:
        """Record the counts, if there are objectives."""
        if not self._has_objectives():
            for marks in self._marks.values():
                marks.clear()
            return
        now = self._clock()
        begins = self._uptime() < EVERY_S and not any(self._marks.values())
        mark = _Mark(now, {} if begins else self._totals().cells[CellKind.SLO])
        for window, marks in self._marks.items():
            if not marks or now - marks[-1].at >= WINDOWS[window] / _STEPS - EVERY_S / 2:
                marks.append(mark)

    def _has_objectives(self) -> bool:
        plan = self._plan()
        return plan is not None and (plan.objectives is not None or bool(plan.route_objectives))

    def burn_rates(self) -> Mapping[tuple[str, str, str], float]:
        """Return the burn rates by route, objective and window."""
        plan = self._plan()
        if plan is None or not self._has_objectives():
            return {}
        now, counts = self._clock(), self._totals().cells[CellKind.SLO]
        found: dict[tuple[str, str, str], float] = {}
        for route in dict.fromkeys(route for route, _ in counts):
            objectives = plan.objectives_of(route)
            if objectives is None:
                continue
            for name, every, bad in SLO_COUNTS:
                if name not in objectives.named:
                    continue
                allowed = 1.0 - objectives.named[name]
                for window, seconds in WINDOWS.items():
                    before = self._before(window, now - seconds)
                    share = _share(route, every, bad, counts, before)
                    found[route, name, window] = share / allowed
        return found

    def _before(self, window: str, at: float) -> _Counts:
        """Return the counts at the begin of a window, or the oldest ones."""
        marks = self._marks[window]
        known = next((mark for mark in marks if mark.at >= at), None)
        return {} if known is None else known.counts


def _share(route: str, every: SloCount, bad: SloCount, now: _Counts, before: _Counts) -> float:
    total = now.get((route, every), 0) - before.get((route, every), 0)
    failed = now.get((route, bad), 0) - before.get((route, bad), 0)
    return failed / total if total > 0 else 0.0
