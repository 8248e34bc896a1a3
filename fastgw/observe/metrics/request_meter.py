"""Meter of a worker's requests: histograms and counts by chosen labels, and counts of service level objectives.

It exists only if the configuration asks for any of them, and receives the record of a request as an access log does: a
request costs nothing otherwise.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

from fastgw.observe.access_log.record import Record
from fastgw.observe.metrics.families import METHOD_INDEXES, SloCount
from fastgw.observe.metrics.meter_rows import (
    ALL_OTHER,
    COUNTS,
    FOLDED,
    LAST_ROW,
    NO_FAULT,
    NO_ROW,
    REQUEST_LABELS,
    SUM_US,
    MeterKey,
    MeterRows,
    shape_of,
)
from fastgw.observe.metrics.series_layout import METERS_AT, Cell, CellKind, Series, SeriesCells

_MOST_KNOWN: Final = 8192
"""Maximum number of combinations whose rows are remembered: peers can send any method."""
_ERRORS: Final = 500


class Objectives(NamedTuple):
    """Service level objectives of a route; None: it has none of this kind."""

    availability: float | None
    """Share of the requests that are not answered 500 and above."""
    latency_s: float | None
    """Duration in seconds that `latency_share` of the requests do not exceed."""
    latency_share: float

    @property
    def named(self) -> dict[str, float]:
        """Shares of good requests, by the name of the objective."""
        shares = {"availability": self.availability, "latency": None if self.latency_s is None else self.latency_share}
        return {name: share for name, share in shares.items() if share is not None}


class MeterPlan(NamedTuple):
    """Plan of a meter: labels and buckets of histograms, and objectives of routes."""

    labels: tuple[str, ...]
    """Labels of the histograms, some of `meter_rows.LABELS`; empty: there are no histograms."""
    bounds: tuple[float, ...]
    """Upper bounds of the buckets, in seconds, ascending."""
    route_bounds: Mapping[str, tuple[float, ...]]
    """Bounds of routes with buckets of their own."""
    objectives: Objectives | None
    """Objectives of routes that have none of their own."""
    route_objectives: Mapping[str, Objectives]
    exposed: tuple[str, ...] | None = None
    """Labels that histograms have in `/metrics`, if `labels` has more for StatsD; a status gives its class. None:
    `labels`; empty: only a StatsD server gets them."""

    more_request_labels: tuple[str, ...] = ()
    """Labels that `fastgw_requests_total` has in addition, some of `meter_rows.MORE_REQUEST_LABELS`; empty: it is
    counted by `ExchangeCounters` alone."""

    @property
    def request_labels(self) -> tuple[str, ...]:
        """Labels of the counts of requests, in alphabetical order; empty: there are none."""
        return tuple(sorted((*REQUEST_LABELS, *self.more_request_labels))) if self.more_request_labels else ()

    @property
    def request_shape(self) -> int:
        """Shape of the rows that count requests."""
        return shape_of(("requests", *self.request_labels), ())

    @property
    def exposed_labels(self) -> tuple[str, ...]:
        """Labels of the histograms in `/metrics`; empty: there are none."""
        return self.labels if self.exposed is None else self.exposed

    def bounds_of(self, route: str) -> tuple[float, ...]:
        """Return the bounds of a route's histograms."""
        return self.route_bounds.get(route, self.bounds)

    @property
    def shapes(self) -> dict[int, tuple[float, ...]]:
        """Bounds of all histograms, by the shape of their rows."""
        if not self.labels:
            return {}
        return {shape_of(self.labels, bounds): bounds for bounds in (self.bounds, *self.route_bounds.values())}

    def objectives_of(self, route: str) -> Objectives | None:
        """Return the objectives of a route; None: it has none."""
        return self.route_objectives.get(route, self.objectives)


_HTTP_SINCE: Final = 10
"""Records of connections and sessions have lower versions."""
_ATTRIBUTES: Final[Mapping[str, str]] = {"status_class": "status"}


class RequestMeter:
    """Meter with one plan and the names of one generation."""

    def __init__(self, plan: MeterPlan, series: Series, column: memoryview, cells: SeriesCells) -> None:
        self._plan, self._series, self._column, self._cells = plan, series, column, cells
        self._rows = MeterRows(column, METERS_AT)
        self._known: dict[Any, tuple[int, tuple[float, ...]]] = {}
        self._known_requests: dict[Any, int] = {}
        self._known_objectives: dict[str, tuple[Sequence[int], float | None] | None] = {}
        # The route always: buckets may be those of the route.
        self._combination = _attributes(("route", *plan.labels))
        # A host is its row: as clients send them there is no end of them.
        labels = plan.request_labels or REQUEST_LABELS
        self._request_combination = _attributes([label for label in labels if label != "host"])
        self._request_shape = plan.request_shape
        self._has_hosts = "host" in plan.more_request_labels
        self._hosts = {name.encode().removeprefix(b"*"): row for name, row in series.hosts.items()}
        self._longest_host = max(map(len, self._hosts))
        self._has_objectives = plan.objectives is not None or bool(plan.route_objectives)

    def add_record(self, record: Record) -> None:
        """Count a request."""
        column = self._column
        if self._plan.labels:
            combination = self._combination(record)
            first, bounds = self._known.get(combination) or self._learn(combination, record)
            if first:
                column[first + COUNTS + bisect_left(bounds, record.duration_s)] += 1
                column[first + SUM_US] += int(record.duration_s * 1e6)
        if self._plan.more_request_labels:
            combination = self._request_combination(record)
            if self._has_hosts:
                combination = combination, self._host_row(record.host)
            first = self._known_requests.get(combination) or self._learn_request(combination, record)
            if first:
                column[first + COUNTS] += 1
        if self._has_objectives:
            self._count_objectives(record)

    def _learn(self, combination: Any, record: Record) -> tuple[int, tuple[float, ...]]:
        """Return the first word of a combination's row, and its bounds. A combination that has none is looked up again
        each time, and counted as folded; 0: not even that of all others has one.
        """
        bounds = self._plan.bounds_of(record.route)
        shape = shape_of(self._plan.labels, bounds)
        word = self._rows.word(self._key(record, self._plan.labels).packed(), shape)
        if word is not None:
            known = _room_in(self._known)[combination] = word, bounds
            return known
        self._column[METERS_AT + FOLDED] += 1
        return self._rows.word(ALL_OTHER.packed(), shape) or 0, bounds

    def _learn_request(self, combination: Any, record: Record) -> int:
        """Return the first word of the row that counts a combination, or that of all others; 0: there is none."""
        word = self._rows.word(self._key(record, self._plan.request_labels).packed(), self._request_shape)
        if word is None:
            return self._rows.word(ALL_OTHER.packed(), self._request_shape) or 0
        _room_in(self._known_requests)[combination] = word
        return word

    def _key(self, record: Record, labels: Sequence[str]) -> MeterKey:
        series = self._series
        status = record.status
        listener = series.listeners.get(record.listener, 0) if "listener" in labels else 0
        return MeterKey(
            series.routes_by_name.get(record.route, 0) if "route" in labels else 0,
            _row_of(series.upstreams, record.upstream) if "upstream" in labels else 0,
            _row_of(series.consumers, record.consumer) if "consumer" in labels else 0,
            (series.faults.get(record.fault, 0) if record.fault else NO_FAULT) if "fault" in labels else 0,
            METHOD_INDEXES.get(record.method, 0) if "method" in labels else 0,
            status if "status" in labels else status // 100 if "status_class" in labels else 0,
            listener if listener <= LAST_ROW else 0,
            self._host_row(record.host) if "host" in labels else 0,
        )

    def _host_row(self, host: bytes) -> int:
        """Return the row of a host, or of the longest wildcard that it is under; 0: the configuration names neither."""
        if not host:
            return NO_ROW
        row = self._hosts.get(host)
        parents = host[-self._longest_host :]  # no further left than a name reaches, however many dots there are
        while row is None:
            _, dot, parents = parents.partition(b".")
            row = self._hosts.get(dot + parents) if dot else 0
        return row

    def _count_objectives(self, record: Record) -> None:
        route = record.route
        known = self._known_objectives[route] if route in self._known_objectives else self._learn_objectives(route)
        if known is None:
            return
        words, latency_s = known
        column = self._column
        is_error = record.status >= _ERRORS
        column[words[SloCount.AVAILABILITY_ALL]] += 1
        if is_error:
            column[words[SloCount.AVAILABILITY_BAD]] += 1
        elif latency_s is not None and record.version >= _HTTP_SINCE and not record.is_tunnel:
            column[words[SloCount.LATENCY_ALL]] += 1
            if record.duration_s > latency_s:
                column[words[SloCount.LATENCY_BAD]] += 1

    def _learn_objectives(self, route: str) -> tuple[Sequence[int], float | None] | None:
        """Return the words of a route's objectives, and its latency. None: it has none, or there are no free cells."""
        known: tuple[Sequence[int], float | None] | None = None
        objectives = self._plan.objectives_of(route) if route else None
        if objectives is not None:
            row = self._series.routes_by_name.get(route, 0)
            words = [self._cells.word(Cell(CellKind.SLO, row, count).key) for count in SloCount]
            if None not in words:
                known = [word for word in words if word is not None], objectives.latency_s
        self._known_objectives[route] = known
        return known


def _attributes(labels: Sequence[str]) -> Callable[[Any], Any]:
    """Return a function for the attributes of a record that its labels depend on."""
    return attrgetter(*dict.fromkeys(_ATTRIBUTES.get(label, label) for label in labels))


def _room_in(known: dict[Any, Any]) -> dict[Any, Any]:
    if len(known) >= _MOST_KNOWN:
        known.clear()
    return known


def _row_of(rows: Mapping[str, int], name: str) -> int:
    return rows.get(name, 0) if name else NO_ROW
