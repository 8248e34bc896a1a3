"""What the node has counted, as Prometheus' text format. Read from shared memory: no worker is asked or disturbed."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from fastgw.node.shared import Shared
from fastgw.observe import FAMILIES, Series
from fastgw.runtime.words import Words

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """The metrics of one gateway; a collector as prometheus-client wants it."""

    def __init__(self, series: Series, shared: Shared, words: Words, begun_date: float) -> None:
        self._series = series
        self._shared = shared
        self._words = words
        self._begun_date = begun_date
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        metrics = {family.name: Metric(_stem(family.name), family.text, family.kind) for family in FAMILIES}
        columns = [self._words.counted(column) for column in self._shared.columns]
        for name, labels, value in self._series.counts(columns):
            family = name if name in metrics else name.rpartition("_")[0]  # a histogram's _bucket, _sum, _count
            metrics[family].add_sample(name, labels, value)
        yield from metrics.values()
        total, own = self._shared.total, self._shared.supervisor.words
        for name, kind, text, value in (
            ("fastgw_connections", "gauge", "Client connections.", total(self._words.connections)),
            ("fastgw_workers", "gauge", "Workers that accept.", self._words.accepting(self._shared)),
            ("fastgw_child_deaths_total", "counter", "Processes that died and were replaced.", own[self._words.deaths]),
            ("fastgw_start_time_seconds", "gauge", "When the gateway started, epoch seconds.", self._begun_date),
        ):
            metric = Metric(_stem(name), text, kind)
            metric.add_sample(name, {}, value)
            yield metric


def _stem(name: str) -> str:
    """prometheus-client wants a counter's name without the suffix of its samples."""
    return name.removesuffix("_total")
