"""What is told once a minute at most."""

import pytest

from fastgw import operator_log
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice


def test_each_kind_is_told_and_counted_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    now = [100.0]
    monkeypatch.setattr(operator_log, "notice", lambda event, text: told.append(text))
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    complain = RareNotice()
    for _ in range(3):
        complain(OperatorEvent.TLS_HANDSHAKE_FAILED, "one is revoked", "revoked")
    complain(OperatorEvent.TLS_HANDSHAKE_FAILED, "the list has expired", "expired")
    assert told == ["one is revoked", "the list has expired"]
    now[0] += RareNotice.INTERVAL
    complain(OperatorEvent.TLS_HANDSHAKE_FAILED, "one is revoked", "revoked")
    complain(OperatorEvent.TLS_HANDSHAKE_FAILED, "the list has expired", "expired")
    assert told[2:] == ["one is revoked (2 more since the last such line)", "the list has expired"]


def test_of_many_kinds_those_that_are_too_many_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(operator_log, "notice", lambda event, text: told.append(text))
    complain = RareNotice()
    for number in range(RareNotice.KINDS + 5):
        complain(OperatorEvent.CONNECTION_REFUSED, f"{number}", f"{number}")
    assert told == [f"{number}" for number in range(RareNotice.KINDS + 1)]
