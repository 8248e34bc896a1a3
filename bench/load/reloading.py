"""A load during repeated reloads, and the same load without them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from threading import Event, Thread

from bench.load.load import Environment, Load
from bench.peers.peer import Changes, Running
from bench.ports import NotReady
from bench.samples import Told

PAUSE_SECONDS = 0.05
"""Seconds between two changes."""


@dataclass(frozen=True)
class Reloading:
    """`load` twice: without changes, with figures stored as `alone_…`, and during continual changes.

    `alone_apply_s` and `alone_check_s` are for a change without load, `apply_s` is the median of those under load.
    """

    name: str
    load: Load

    @property
    def cut_off(self) -> int:
        return self.load.cut_off

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        changes = running.changes
        assert changes is not None
        figures = {"alone_check_s": changes.check(), "alone_apply_s": changes.apply()}
        alone = self.load.run(name, running, environment, seconds)
        if alone is None:
            return None
        with _changing(changes) as applied:
            told = self.load.run(name, running, environment, seconds)
        assert told is not None
        figures |= {**{f"alone_{each}": value for each, value in alone.figures.items()}, **told.figures}
        figures |= {"reloads": len(applied), "apply_s": median(applied), "longest_apply_s": max(applied)}
        faults = {**{f"{fault}, alone": count for fault, count in alone.faults.items()}, **told.faults}
        requests = alone.requests + told.requests
        return replace(told, requests=requests, figures=figures, faults=faults)


@contextmanager
def _changing(changes: Changes) -> Iterator[list[float]]:
    """Apply changes one after another within the `with`, at least one; yield the seconds of each."""
    applied: list[float] = []
    failed: list[NotReady] = []
    over = Event()

    def go_on() -> None:
        try:
            while not applied or not over.wait(PAUSE_SECONDS):
                applied.append(changes.apply())
        except NotReady as error:
            failed.append(error)

    thread = Thread(target=go_on)
    thread.start()
    try:
        yield applied
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]
