"""Metrics that are measured on request: histograms and counts by labels of choice, and service level objectives."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Final

from fastgw.admin.prometheus_text import Sample, histogram, labels
from fastgw.observe.metrics import families
from fastgw.observe.metrics.families import NONE, OTHER, Family, SloCount
from fastgw.observe.metrics.meter_rows import LABELS, NO_FAULT, NO_ROW, MeterKey, unpacked
from fastgw.observe.metrics.request_meter import MeterPlan
from fastgw.observe.metrics.series_layout import CellKind, Series
from fastgw.observe.metrics.totals import Totals

SLO_COUNTS: Final = (
    ("availability", SloCount.AVAILABILITY_ALL, SloCount.AVAILABILITY_BAD),
    ("latency", SloCount.LATENCY_ALL, SloCount.LATENCY_BAD),
)
"""Objectives by name, with the counts of all and of bad requests."""


def measured(
    series: Series, totals: Totals, plan: MeterPlan | None
) -> Iterator[tuple[Family, Sequence[Sample] | Iterator[Sample]]]:
    """Yield histograms by labels of choice, and counts of objectives."""
    histograms: list[Sample] = []
    folded: list[Sample] = []
    if plan is not None and plan.exposed_labels:
        family = families.REQUEST_DURATION._replace(labels=tuple(sorted(plan.exposed_labels)))
        for names, bounds, counts in measured_by_labels(series, totals, plan):
            labelled = labels(family, *(names[label] for label in family.labels))
            texts = {bound: "+Inf" if bound == inf else f"{bound}" for bound in (*bounds, inf)}
            histograms += histogram(labelled, texts, counts[: len(texts)], counts[-1] / 1e6)
        folded.append(("", "", totals.measured_folded))
    yield families.REQUEST_DURATION, histograms
    yield families.REQUEST_DURATION_FOLDED, folded
    requests = totals.cells[CellKind.SLO]
    slo = families.SLO_REQUESTS
    samples: list[Sample] = []
    for route in dict.fromkeys(route for route, _ in requests):
        for name, every, bad in SLO_COUNTS:
            if total := requests.get((route, every), 0):
                failed = requests.get((route, bad), 0)
                samples.append(("", labels(slo, "good", route, name), total - failed))
                samples.append(("", labels(slo, "bad", route, name), failed))
    yield slo, samples


def counted_requests(series: Series, totals: Totals, plan: MeterPlan | None) -> tuple[Family, Sequence[Sample]]:
    """Return the counter of requests, by the labels of a plan if it has more."""
    family = families.REQUESTS
    if plan is None or not plan.more_request_labels:
        requests = totals.cells[CellKind.REQUEST].items()
        return family, [
            ("", labels(family, listener, method, route, f"{status}" if status else OTHER), count)
            for (listener, route, method, status), count in requests
        ]
    family = family._replace(labels=plan.request_labels)
    names = MeterNames(series, plan.request_labels)
    found: Counter[tuple[str, ...]] = Counter()
    for (key, shape), counts in totals.measured.items():
        if shape == plan.request_shape and counts[0]:
            found[names.labels_of(unpacked(key))] += counts[0]
    return family, [("", labels(family, *values), count) for values, count in found.items()]


def measured_by_labels(
    series: Series, totals: Totals, plan: MeterPlan
) -> Iterator[tuple[Mapping[str, str], Sequence[float], Sequence[int]]]:
    """Yield the histograms of a plan by its exposed labels: labels, upper bounds, and counts with the sum in
    microseconds as the last.
    """
    names = MeterNames(series, plan.exposed_labels)
    shapes = plan.shapes
    summed: dict[tuple[str, ...], tuple[Sequence[float], Sequence[int]]] = {}
    for (key, shape), counts in totals.measured.items():
        bounds = shapes.get(shape)
        if bounds is None or not any(counts):
            continue
        labelled = names.labels_of(unpacked(key))
        known = summed.get(labelled)
        if known is not None and known[0] == bounds:  # rows of removed names, or of labels that are not exposed
            counts = [one + other for one, other in zip(known[1], counts, strict=True)]
        summed[labelled] = bounds, counts
    for values, (limits, counts) in summed.items():
        yield dict(zip(plan.exposed_labels, values, strict=True)), limits, counts


_IN_ORDER: Final = (*LABELS, "listener", "host")


class MeterNames:
    """Names of the labels of measured requests in one generation."""

    def __init__(self, series: Series, chosen: Sequence[str]) -> None:
        self._chosen = [_IN_ORDER.index(label) for label in chosen]
        self._listeners = {row: name for name, row in series.listeners.items()}
        self._routes = {row: name for name, row in series.routes.items()}
        self._upstreams = {row: name for name, row in series.upstreams.items()} | {NO_ROW: NONE}
        self._consumers = {row: name for name, row in series.consumers.items()} | {NO_ROW: NONE}
        self._hosts = {row: name for name, row in series.hosts.items()} | {NO_ROW: NONE}
        self._faults = {row: name for name, row in series.faults.items()} | {NO_FAULT: NONE}

    def labels_of(self, key: MeterKey) -> tuple[str, ...]:
        """Return the values of the chosen labels."""
        status = f"{key.status}" if key.status else OTHER
        status_class = key.status // 100 or key.status
        values = (
            self._routes.get(key.route, OTHER),
            self._upstreams.get(key.upstream, OTHER),
            self._consumers.get(key.consumer, OTHER),
            families.METHODS[key.method].decode() if key.status or key.method else OTHER,
            status,
            f"{status_class}xx" if status_class else OTHER,
            self._faults.get(key.fault, OTHER),
            self._listeners.get(key.listener, OTHER),
            self._hosts.get(key.host, OTHER),
        )
        return tuple(values[index] for index in self._chosen)
