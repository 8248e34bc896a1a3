"""`fastgw status --watch` ends by Ctrl-C at whatever moment it comes."""

import io
import itertools
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import pytest
from rich.console import Console

from fastgw.admin import tables

TRACED = (tables.__file__, threading.__file__)
HANGS_AFTER = 5.0
"""Seconds."""


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    interrupt, alarm = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGALRM, alarm)


@pytest.fixture(autouse=True)
def nothing_to_wait_for(monkeypatch):
    monkeypatch.setattr(tables, "WATCH_EVERY", 0.0)
    monkeypatch.setattr(tables, "overview", lambda *told: "")
    monkeypatch.setattr(tables, "console", lambda: Console(file=io.StringIO()))


class GoesOn(Exception):
    """It asks, though it was to end."""


def watch(monkeypatch, *, until: int) -> bool:
    """Watch, with Ctrl-C at the line of that number behind the first answer. False: there is none before the next."""
    asked = lines = 0

    def ask(client: object) -> tuple[None, None]:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise GoesOn
        return None, None

    def trace(frame: FrameType, event: str, argument: object):
        nonlocal lines
        if asked and frame.f_code.co_filename in TRACED and event == "line":
            lines += 1
            if lines == until:
                signal.raise_signal(signal.SIGINT)
        return trace

    def hangs(number: int, frame: object) -> None:
        raise TimeoutError(f"it hangs, interrupted at line {until}")

    monkeypatch.setattr(tables, "ask", ask)
    signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        tables.watch(None)
    except GoesOn:
        return False
    except KeyboardInterrupt:  # before it watches: the command ends as any other
        return True
    finally:
        sys.settrace(before)
    return True


def test_whatever_it_is_doing(monkeypatch):
    moments = next(moment for moment in itertools.count(1) if not watch(monkeypatch, until=moment))
    assert moments > 10
