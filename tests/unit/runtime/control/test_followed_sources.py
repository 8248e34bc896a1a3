"""Reports of followed sources in the log."""

from __future__ import annotations

import pytest

from fastgw.operator_events import OUTAGE_REPORT_S
from fastgw.runtime.control.discovery import followed_sources
from fastgw.runtime.control.discovery.followed_sources import SourceReport


def test_a_later_cause_of_an_outage_is_reported_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [1000.0], []
    monkeypatch.setattr(followed_sources.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(followed_sources, "notice", lambda _, text: said.append(text))
    report = SourceReport("consul: users")
    for why in ("refused", "refused", "the token is not accepted"):
        report.failed(why)
    now[0] += OUTAGE_REPORT_S
    report.failed("the token is not accepted")
    report.succeeded()
    report.succeeded()
    stays = "the last known content stays in use"
    assert said == [
        f"consul: users: refused; {stays}",
        f"consul: users: the token is not accepted; {stays}",
        "consul: users: reachable again",
    ]
