"""The writer of analytics while the database cannot be written: what waits is bounded, and nothing is lost."""

from __future__ import annotations

import gc
import time
from pathlib import Path

from fastgw.analytics.queries import DAY, UsageQuery
from fastgw.analytics.readings import CounterReading
from fastgw.analytics.usage import read_usage
from fastgw.config.base.value_types import Address
from fastgw.config.settings import gateway as config
from fastgw.config.settings.telemetry import Analytics
from fastgw.consumers.index import index_of
from fastgw.gateway.compiler import compile as compiled
from fastgw.gateway.tables import Gateway
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.runtime.node.analytics_writer import WAITING_MAX, AnalyticsWriter
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.shm.memory import SharedMemory
from tests.support.counted import count


def with_routes(path: Path, *names: str) -> Gateway:
    respond = config.Respond(body="here")
    return compiled(
        config.Config(
            version=1,
            listeners={"main": config.Listener(address=Address("127.0.0.1", 0))},
            routes=tuple(config.Route(name=name, paths=(f"/{name}",), respond=respond) for name in names),
            analytics=Analytics(path=str(path)),
        ),
        workers=1,
    )


def test_many_reloads_within_a_minute_do_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a.db"
    gateway = with_routes(path, "users")
    words = ShmLayout(gateway)
    shared = SharedMemory.create(gateway.layout, columns=1)
    counters = ExchangeCounters(gateway.series, words.counted(shared.columns[0]))
    writer = AnalyticsWriter(shared, words)
    begin = len([each for each in gc.get_objects() if isinstance(each, CounterReading)])
    for number in range(3 * WAITING_MAX):
        reloaded = with_routes(path, "users", f"route-{number}")
        writer.use_configuration(reloaded.config, reloaded.slot_table, index_of((), {}), begins=not number)
        count(counters, counters.series_words("main", "users", "", b"GET", 200), 0.01, 1, 1)
        writer.read(time.time())
        writer.write_readings()
    waiting = len([each for each in gc.get_objects() if isinstance(each, CounterReading)]) - begin
    assert 1 < waiting <= WAITING_MAX + 1
    assert writer.info is not None
    assert "missing" in writer.info.problem

    path.parent.mkdir()
    writer.write_readings()
    writer.close()
    assert writer.info.problem == ""
    (row,) = read_usage(str(path), UsageQuery(by="route", since_date=0.0, until_date=time.time() + DAY)).rows
    assert (row.route, row.requests) == ("users", 3 * WAITING_MAX)
