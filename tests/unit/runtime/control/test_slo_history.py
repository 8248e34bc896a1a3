"""Burn rates: which requests count in a window."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastgw.observe.metrics.families import SloCount
from fastgw.observe.metrics.request_meter import MeterPlan, Objectives
from fastgw.observe.metrics.series_layout import CellKind
from fastgw.runtime.control.slo_history import EVERY_S, SloHistory
from fastgw.runtime.node.measured_metrics import SLO_COUNTS

PLAN = MeterPlan((), (), {}, Objectives(0.99, None, 0.99), {})
((_, EVERY, BAD), *_) = [each for each in SLO_COUNTS if each[0] == "availability"]


class History:
    """One over counts of one route, with a clock that is set."""

    def __init__(self, uptime: float) -> None:
        self.counts: dict[tuple[str, SloCount], int] = {}
        self.now = 1000.0
        totals = lambda: cast(Any, SimpleNamespace(cells={CellKind.SLO: dict(self.counts)}))  # noqa: E731 - read at each call
        self.slo = SloHistory(totals, lambda: PLAN, lambda: uptime, lambda: self.now)

    def count(self, every: int, bad: int) -> None:
        self.counts = {("r", EVERY): every, ("r", BAD): bad}

    def rate(self, window: str = "5m") -> float:
        return self.slo.burn_rates()["r", "availability", window]


def test_requests_before_the_first_reading_of_a_new_gateway_count() -> None:
    history = History(uptime=1.0)
    history.count(2, 1)
    history.slo.tick()
    assert history.rate() == pytest.approx(50.0)


def test_requests_before_a_replaced_control_process_do_not_count() -> None:
    """They may be of days ago."""
    history = History(uptime=EVERY_S)
    history.count(2, 1)
    history.slo.tick()
    assert history.rate() == 0.0
    history.count(4, 2)
    assert history.rate() == pytest.approx(50.0)


def test_requests_before_the_window_do_not_count() -> None:
    history = History(uptime=1.0)
    history.slo.tick()
    history.count(2, 2)
    for _ in range(30):
        history.now += EVERY_S
        history.slo.tick()
    assert (history.rate("5m"), history.rate("1h")) == (0.0, pytest.approx(100.0))
