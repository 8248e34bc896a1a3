"""Followed sources: their reports in the log, and when they are asked."""

from __future__ import annotations

import asyncio
import random
import time
from types import SimpleNamespace

import pytest

from fastgw.operator_events import OUTAGE_REPORT_S
from fastgw.runtime.control.discovery import followed_sources
from fastgw.runtime.control.discovery.followed_sources import Backoff, SourceReport, _VaultFollower


def test_a_later_cause_of_an_outage_is_reported_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [1000.0], []
    monkeypatch.setattr(followed_sources, "time", SimpleNamespace(**{**vars(time), "monotonic": lambda: now[0]}))
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
    monkeypatch.setattr(followed_sources, "time", SimpleNamespace(**{**vars(time), "monotonic": lambda: 1000.0}))
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


class Over(BaseException):
    """The time of the test has passed."""


@pytest.mark.parametrize(("part", "read_at"), [(0.0, [0, 9, 18, 27]), (0.5, [0, 10, 20, 30]), (1.0, [0, 11, 22, 33])])
def test_secrets_are_read_once_an_interval_and_the_token_is_kept_in_between(
    part: float, read_at: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interval is a tenth shorter or longer, at random. Time passes in pauses alone."""
    now = [1000.0]
    reads: list[float] = []
    kept_at: list[float] = []

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    async def fetch(names: list[str]) -> tuple[dict[str, bytes], dict[str, str]]:
        if len(reads) == len(read_at):
            raise Over
        reads.append(now[0] - 1000.0)
        return dict.fromkeys(names, b"content"), {}

    async def keep_token() -> None:
        kept_at.append(now[0] - 1000.0)

    monkeypatch.setattr(
        followed_sources, "time", SimpleNamespace(**{**vars(time), "monotonic": lambda: now[0], "time": lambda: now[0]})
    )
    monkeypatch.setattr(followed_sources, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    uniform = SimpleNamespace(uniform=lambda least, most: least + part * (most - least))
    monkeypatch.setattr(followed_sources, "random", SimpleNamespace(**{**vars(random), **vars(uniform)}))
    follower = object.__new__(_VaultFollower)  # without a task of its own
    follower._interval, follower._names, follower._backoff = 10.0, ["a", "b"], Backoff(10.0)
    follower.report, follower._publish = SourceReport("vault"), lambda name, content: None
    follower._files = SimpleNamespace(fetch=fetch)  # type: ignore[assignment]
    follower._session = SimpleNamespace(wait=3.0, keep_token=keep_token)  # type: ignore[assignment]
    with pytest.raises(Over):
        asyncio.run(follower._follow_service())
    assert reads == pytest.approx(read_at)
    assert kept_at[:3] == pytest.approx([3.0, 6.0, 9.0])
