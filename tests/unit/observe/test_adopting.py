"""An observer that goes on while the configuration changes around it: what it counts, and which logs it writes."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from pathlib import Path

import orjson

from fastgw.config.settings.gateway import AccessLog
from fastgw.observe.metrics.series_layout import ROUTE_REQUEST_BYTES, WORDS, CellKind, Series, claimed
from fastgw.observe.metrics.totals import totals
from fastgw.observe.observer import Observer
from fastgw.shm.slot_assignment import SlotNames, SlotTable, first
from tests.unit.observe.access_log.test_finished_exchange import Named, over
from tests.unit.observe.access_log.test_logs import wait_until


class Worker:
    """An observer whose names change."""

    def __init__(self, routes: list[str], *sinks: Path) -> None:
        self.slot_table = first(SlotNames(["public"], routes))
        self.column = memoryview(bytearray(8 * WORDS)).cast("Q")
        self.observer = Observer(logs=logs(*sinks), column=self.column, series=Series(self.slot_table, []))

    def adopt(self, routes: list[str], *sinks: Path) -> None:
        generation = self.slot_table.generation + 1
        self.slot_table: SlotTable = self.slot_table.following(
            SlotNames(["public"], routes), generation, generation - 1
        )
        self.observer.adopt(logs(*sinks), Series(self.slot_table, []))

    def finish(self, name: str, times: int = 1) -> None:
        """Exchanges of this route, whose name is a text of its own, as in a new table."""
        route = Named("".join(list(name)))
        for _ in range(times):
            self.observer.finish(over(route=route, request_bytes=3))

    @property
    def requests(self) -> dict[str, int]:
        found = totals(Series(self.slot_table, []), [self.column])
        assert all(row[ROUTE_REQUEST_BYTES] == 3 * sum(row[:16]) for row in found.routes.values())
        return dict(Counter({route: count for (_, route, _, _), count in found.cells[CellKind.REQUEST].items()}))


def logs(*sinks: Path) -> list[AccessLog]:
    return [AccessLog(sink=str(sink)) for sink in sinks]


def routes_in(log: Path) -> list[str]:
    return [orjson.loads(line)["route"] for line in log.read_bytes().splitlines()]


def test_places_that_were_learned_before_are_not_used_after() -> None:
    """Neither for a name that is gone, nor for one that has another place when it comes back."""
    worker = Worker(["a", "b"])
    for route in ("a", "b", "b"):
        worker.finish(route)
    worker.adopt(["b"])
    for route in ("a", "b"):
        worker.finish(route)
    assert worker.requests == {"_other": 2, "b": 3}
    worker.adopt(["b", "c"])  # at the place of "a", which nobody carries here
    worker.finish("c")
    assert worker.requests == {"c": 2, "b": 3, "_other": 1}


def test_misses_of_a_cache_are_counted_for_the_routes_of_the_present_configuration() -> None:
    worker = Worker(["a", "b"])
    worker.observer.count_cache_miss("a", "stored")
    worker.adopt(["b"])
    worker.observer.count_cache_miss("b", "stored")
    worker.adopt(["b", "c"])  # at the place of "a"
    for route in ("a", "b", "c", "c"):
        worker.observer.count_cache_miss(route, "stored")
    found = totals(Series(worker.slot_table, []), [worker.column]).cells[CellKind.CACHE_MISS]
    assert found == {("stored", "b"): 2, ("stored", "c"): 1 + 2, ("stored", "_other"): 1}


def test_the_same_exchange_may_end_in_another_generation() -> None:
    """Whose texts are the same objects: nothing but the generation tells that what is remembered is no longer good."""
    worker = Worker(["a", "b"])
    exchanges = [over(route=Named("a"), request_bytes=3), over(route=Named("b"), request_bytes=3)]
    for routes in (["a", "b"], ["b"], ["b"], ["b", "a"]):
        worker.adopt(routes)
        for ended in exchanges:
            worker.observer.finish(ended)
    assert worker.requests == {"b": 4, "_other": 2, "a": 2}


def test_a_log_whose_settings_are_the_same_goes_on_and_others_begin_and_end(tmp_path: Path) -> None:
    """Without a line lost or doubled; the one that ends writes what it holds."""
    kept, gone, new = tmp_path / "kept", tmp_path / "gone", tmp_path / "new"
    worker = Worker(["a"], gone, kept)
    worker.observer.start()
    threads = threading.active_count()
    worker.finish("a", 500)
    worker.adopt(["a"], kept, new)
    worker.finish("a", 300)
    wait_until(lambda: threading.active_count() == threads)
    worker.observer.stop(30.0)
    assert [len(routes_in(path)) for path in (gone, kept, new)] == [500, 800, 300]


def test_two_logs_with_equal_settings_are_two(tmp_path: Path) -> None:
    worker = Worker(["a"], tmp_path / "log", tmp_path / "log")
    worker.observer.start()
    worker.adopt(["a"], tmp_path / "log", tmp_path / "log")
    worker.finish("a")
    worker.observer.stop(30.0)
    assert routes_in(tmp_path / "log") == ["a", "a"]


def test_a_log_that_is_gone_and_that_nobody_reads_ends_with_the_next_generation(tmp_path: Path) -> None:
    """Its lines are counted as dropped, and no thread is left behind by many reloads."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    worker = Worker(["a"], path)
    threads = threading.active_count()
    worker.observer.start()
    worker.finish("a", 2000)
    worker.adopt(["a"])
    worker.adopt(["a"])
    wait_until(lambda: threading.active_count() == threads)
    written = 0
    while chunk := os.read(reader, 65536):
        written += chunk.count(b"\n")
    os.close(reader)
    assert written + totals(Series(worker.slot_table, []), [worker.column]).log_records_dropped == 2000
    worker.observer.stop()


def test_a_thousand_generations_take_no_more_room_than_a_few() -> None:
    """Nothing is kept of those that are gone, and nothing is lost of what was counted."""
    worker = Worker([])
    used = []
    for generation in range(1000):
        routes = [f"{generation}-{each}" for each in range(3)]
        worker.adopt(routes)
        for route in routes:
            worker.finish(route)
        used.append(sum(1 for _ in claimed(worker.column)))
    assert used[-1] == used[5]
    assert sum(worker.requests.values()) == 3000


def test_what_was_learned_of_a_thousand_generations_is_let_go() -> None:
    """Targets, routes and their lines change each time: what is held of those that are gone does not grow."""
    worker = Worker([])
    blocks = []
    for generation in range(1500):
        worker.adopt(["a"])
        for each in range(3):
            worker.observer.finish(over(route=Named(f"{generation}-{each}"), target=f"http://{generation}.test:{each}"))
        blocks.append(sys.getallocatedblocks())
    assert max(blocks[1000:]) - max(blocks[500:1000]) < 4000


def test_the_recorder_that_is_asked_stays_the_same() -> None:
    """Whoever holds on to `finish` goes on with the new generation."""
    worker = Worker(["a"])
    finish = worker.observer.finish
    worker.adopt(["b"])
    assert worker.observer.finish == finish
    finish(over(route=Named("b"), request_bytes=3))
    assert worker.requests == {"b": 1}
