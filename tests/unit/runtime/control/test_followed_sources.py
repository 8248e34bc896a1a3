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


def test_a_success_in_part_ends_an_outage_and_each_of_its_problems_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(followed_sources.time, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(followed_sources, "notice", lambda _, text: said.append(text))
    report = SourceReport("consul: users")
    report.failed("refused")
    for left_out in ("3 left out", "3 left out", "4 left out"):
        report.succeeded(left_out)
    report.failed("4 left out")  # the part was tried again by itself
    report.succeeded("4 left out")
    report.failed("refused")
    report.succeeded("4 left out")
    report.succeeded()
    report.succeeded()
    stays = "the last known content stays in use"
    assert said == [
        f"consul: users: refused; {stays}",
        "consul: users: 3 left out",
        "consul: users: 4 left out",
        f"consul: users: refused; {stays}",
        "consul: users: 4 left out",
        "consul: users: reachable again",
    ]
