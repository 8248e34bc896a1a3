"""Threads of a worker, which share the lock of the interpreter with its event loop."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastgw.runtime.worker import worker


def test_a_thread_gives_the_lock_to_the_event_loop_before_it_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default of 5 ms is as long as a turn of the loop may take, and a turn may ask for it several times."""
    before, found = sys.getswitchinterval(), list[float]()

    def run(live: Coroutine[Any, Any, None]) -> None:
        live.close()
        found.append(sys.getswitchinterval())

    nothing = SimpleNamespace(enable=lambda *_: None, register=lambda *_: None, set_threshold=lambda *_: None)
    for name, instead in {
        "run_child_loop": run,
        "run_when_woken": lambda: True,  # this process goes on
        "faulthandler": nothing,
        "gc": nothing,
    }.items():
        monkeypatch.setattr(worker, name, instead)
    try:
        worker.run_worker(cast(Any, SimpleNamespace(gateway=lambda: None)), cast(Any, None))
    finally:
        sys.setswitchinterval(before)
    assert found == [pytest.approx(worker.THREAD_TURN_S)]
    assert found[0] < before
