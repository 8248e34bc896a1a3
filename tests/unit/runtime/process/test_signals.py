"""Signals wait in a pipe until they are taken; a program that is about to be replaced knows whether there are some."""

import signal
from collections.abc import Iterator

import pytest

from fastgw.runtime.process.signals import Signals

TERM, USR1 = signal.SIGTERM, signal.SIGUSR1


@pytest.fixture
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in (TERM, USR1)}
    signals = Signals((TERM, USR1))
    signals.catch()
    yield signals
    signals.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_they_are_taken_in_their_order_and_once(signals: Signals) -> None:
    assert not signals.some_wait
    for number in (USR1, TERM):
        signal.raise_signal(number)
    assert signals.some_wait
    assert signals.read_pending() == bytes((USR1, TERM))
    assert not signals.some_wait
    assert signals.read_pending() == b""


def test_those_that_came_before_are_told_from_those_that_are_held_back(signals: Signals) -> None:
    """The first would be gone with a program that is replaced, the others reach the next one."""
    with signals.held_back():
        signal.raise_signal(USR1)
        assert not signals.some_wait
        assert USR1 in signal.sigpending()
    assert signals.some_wait
    with signals.held_back():
        signal.raise_signal(TERM)
        assert signals.some_wait
        assert signals.read_pending() == bytes((USR1,))
    assert signals.read_pending() == bytes((TERM,))
