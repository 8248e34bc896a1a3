"""When the expiry of a client's certificate is announced, and when it takes effect."""

from typing import Any, cast

import pytest

from fastgw.downstream.tls import connection
from fastgw.downstream.tls.connection import CLOCK_CHECK_S, EXPIRY_NOTICE_S, _CertificateExpiry
from fastgw.eventloop.timer_wheel import Wheel


class Above:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def certificate_expires_soon(self) -> None:
        self.calls.append("soon")

    def certificate_expired(self) -> None:
        self.calls.append("expired")


class Clocks:
    """The wall clock and the wheel, which a test sets each on its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: float) -> None:
        self.date, self.wheel, self.above = 1_000_000.0, Wheel(50.0), Above()
        monkeypatch.setattr(connection, "time", lambda: self.date)
        self.expiry = _CertificateExpiry(cast(Any, self.above), self.date + left, self.wheel)

    def passes(self, seconds: float) -> list[str]:
        """Return all calls so far."""
        self.date += seconds
        self.wheel.advance(self.wheel.now + seconds)
        return self.above.calls


def test_the_end_is_announced_and_comes_at_the_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch, left=100)
    assert clocks.passes(99 - EXPIRY_NOTICE_S) == []
    assert clocks.passes(1.1) == ["soon"]
    assert clocks.passes(EXPIRY_NOTICE_S - 0.5) == ["soon"]
    assert clocks.passes(0.5) == ["soon", "expired"]
    assert clocks.passes(10 * CLOCK_CHECK_S) == ["soon", "expired"]


def test_a_connection_that_begins_within_the_notice_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end at once, and each one after it, while the client has no other certificate."""
    clocks = Clocks(monkeypatch, left=EXPIRY_NOTICE_S - 1)
    assert clocks.passes(EXPIRY_NOTICE_S - 1.5) == []
    assert clocks.passes(0.6) == ["expired"]


def test_a_step_of_the_clock_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a suspend of the machine, during which the monotonic clock stands still."""
    clocks = Clocks(monkeypatch, left=10 * CLOCK_CHECK_S)
    clocks.date += 20 * CLOCK_CHECK_S
    assert clocks.passes(CLOCK_CHECK_S + 0.1) == ["expired"]


def test_a_clock_that_is_set_back_ends_nothing_before_the_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch, left=100)
    clocks.date -= 1000
    assert clocks.passes(101) == []
    assert clocks.passes(1000) == ["expired"]
