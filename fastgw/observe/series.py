"""Every metric of the data plane: its name, its labels, and the word that counts it in a worker's column.

A column is a row of 64-bit words that one worker writes and anyone may read; a scrape sums the columns. Rule 1: a count
is one aligned store of a plain integer, so that a reader never sees half of one. Rule 2: no sample is in two series of
a family, so their sum is exact. Rule 3: what a peer sends never makes a new label value.

Routes, upstreams and faults have a fixed place in the column. Requests do not: listener x route x method x status has
far more places than are ever used, so a combination takes the next free *cell* when it is first seen: one word that
names it and one that counts it. A replaced worker finds its predecessor's cells by these names and counts on.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from threading import Lock
from typing import Final, NamedTuple

from fastgw.observe.record import Record

OTHER: Final = "_other"
"""Label of what has no place of its own: a route or upstream beyond `MAX_ROWS`, or of a configuration now replaced."""
NONE: Final = "_none"
"""Label of the route of a request that no route matched."""
MAX_ROWS: Final = 500
"""Routes, and likewise upstreams, that are counted by name. The first ones of the file; the rest are folded."""
METHODS: Final = (b"other", b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE")
BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms' buckets, inclusive; one more takes what is longer."""
METHOD_PLACES: Final = {method: place for place, method in enumerate(METHODS)}
CELLS_PER_ROUTE: Final = 32
SPARE_CELLS: Final = 256


class Family(NamedTuple):
    name: str
    kind: str
    """counter, gauge or histogram."""
    labels: tuple[str, ...]
    text: str


REQUESTS = Family(
    "fastgw_requests_total", "counter", ("listener", "route", "method", "status"), "Finished requests, each once."
)
REQUEST_SECONDS = Family(
    "fastgw_request_seconds", "histogram", ("route",), "From the first byte of a request to the end of its exchange."
)
UPSTREAM_SECONDS = Family(
    "fastgw_upstream_seconds", "histogram", ("upstream",), "Until the head of the upstream's response was complete."
)
REQUEST_BYTES = Family("fastgw_request_bytes_total", "counter", ("route",), "Request bodies, as received.")
RESPONSE_BYTES = Family("fastgw_response_bytes_total", "counter", ("route",), "Response bodies, as sent.")
RETRIES = Family("fastgw_retries_total", "counter", ("upstream",), "Attempts after a request's first.")
FAULTS = Family("fastgw_faults_total", "counter", ("fault",), "Exchanges that ended in a fault of the table.")
LOG_RECORDS_DROPPED = Family(
    "fastgw_log_records_dropped_total", "counter", (), "Access log lines not written: a log was full, stuck or gone."
)
ROUTES_FOLDED = Family("fastgw_routes_folded", "gauge", (), 'Routes counted together as route="_other".')
UPSTREAMS_FOLDED = Family("fastgw_upstreams_folded", "gauge", (), 'Upstreams counted together as upstream="_other".')

FAMILIES: Final = (
    REQUESTS,
    REQUEST_SECONDS,
    UPSTREAM_SECONDS,
    REQUEST_BYTES,
    RESPONSE_BYTES,
    RETRIES,
    FAULTS,
    LOG_RECORDS_DROPPED,
    ROUTES_FOLDED,
    UPSTREAMS_FOLDED,
)

# Words within a row. A histogram is its buckets, then its sum in microseconds.
_SUM = len(BOUNDS_S) + 1
_REQUEST_BYTES, _RESPONSE_BYTES, _ROUTE_WORDS = _SUM + 1, _SUM + 2, _SUM + 3
_RETRIES, _UPSTREAM_WORDS = _SUM + 1, _SUM + 2

_DROPPED_UNQUEUED, _DROPPED_UNWRITTEN, _UNCELLED, _FAULTS = range(4)  # the column's first words
_CLAIMED = 1 << 63  # no name of a cell is 0, which is what an unused cell holds

Sample = tuple[str, dict[str, str], int | float]


class Series:
    """Where each series of one configuration lives in a column, and how it is called when it is shown."""

    def __init__(
        self, listeners: Iterable[str], routes: Iterable[str], upstreams: Iterable[str], faults: Iterable[str]
    ) -> None:
        """Names in the order of the file; `faults`: every label of the table of faults."""
        self.listeners = _places([OTHER, *listeners])
        names = list(routes)
        self.routes, self._routes_folded = _bounded([OTHER, NONE], names)
        self.routes_by_name = dict.fromkeys(names, 0) | self.routes | {"": self.routes[NONE]}
        self.upstreams, self._upstreams_folded = _bounded([OTHER], upstreams)
        self.faults = _places([OTHER, *faults])
        self.route_rows = _FAULTS + len(self.faults)
        self.upstream_rows = self.route_rows + len(self.routes) * _ROUTE_WORDS
        self.cells = self.upstream_rows + len(self.upstreams) * _UPSTREAM_WORDS
        self.words = self.cells + 2 * (len(self.routes) * CELLS_PER_ROUTE + SPARE_CELLS)
        """Length of a column, in words."""

    def tally(self, column: memoryview) -> "Tally":
        """The writer of a worker's own column, which is zeroed or was left by the worker that this one replaces."""
        return Tally(self, column[: self.words])

    def counts(self, columns: Sequence[memoryview]) -> Iterator[Sample]:
        """Sum the columns: (metric, labels, value), family after family, with the suffixes of Prometheus' histograms.

        A row or cell that has counted nothing is left out; faults and the families without labels are always told.
        """
        yield from self._requests(columns)
        words = [sum(column[word] for column in columns) for word in range(self.cells)]
        for family, names, rows, width, word in (
            (REQUEST_SECONDS, self.routes, self.route_rows, _ROUTE_WORDS, 0),
            (UPSTREAM_SECONDS, self.upstreams, self.upstream_rows, _UPSTREAM_WORDS, 0),
            (REQUEST_BYTES, self.routes, self.route_rows, _ROUTE_WORDS, _REQUEST_BYTES),
            (RESPONSE_BYTES, self.routes, self.route_rows, _ROUTE_WORDS, _RESPONSE_BYTES),
            (RETRIES, self.upstreams, self.upstream_rows, _UPSTREAM_WORDS, _RETRIES),
        ):
            for name, place in names.items():
                row = words[rows + place * width : rows + (place + 1) * width]
                labels = {family.labels[0]: name}
                if not any(row):
                    continue
                if family.kind == "histogram":
                    yield from _histogram(family, labels, row)
                else:
                    yield family.name, labels, row[word]
        for label, place in self.faults.items():
            yield FAULTS.name, {"fault": label}, words[_FAULTS + place]
        yield LOG_RECORDS_DROPPED.name, {}, words[_DROPPED_UNQUEUED] + words[_DROPPED_UNWRITTEN]
        yield ROUTES_FOLDED.name, {}, self._routes_folded
        yield UPSTREAMS_FOLDED.name, {}, self._upstreams_folded

    def _requests(self, columns: Sequence[memoryview]) -> Iterator[Sample]:
        listeners, routes = list(self.listeners), list(self.routes)
        found: Counter[int] = Counter()
        for column in columns:
            for cell, name in claimed(column[: self.words], self.cells):
                found[name] += column[cell + 1]
        for name, count in sorted(found.items()):
            listener, route, method, status = _cell_labels(name)
            labels = (listeners[listener], routes[route], METHODS[method].decode(), str(status))
            yield REQUESTS.name, dict(zip(REQUESTS.labels, labels, strict=True)), count
        if uncelled := sum(column[_UNCELLED] for column in columns):
            yield REQUESTS.name, dict.fromkeys(REQUESTS.labels, OTHER), uncelled


class Tally:
    """Counts finished exchanges into the column of one worker."""

    def __init__(self, series: Series, column: memoryview) -> None:
        self._column = column
        self._listeners = series.listeners
        self._routes = series.routes_by_name
        self._upstreams = series.upstreams
        self._faults = series.faults
        self._route_rows, self._upstream_rows = series.route_rows, series.upstream_rows
        self._counting = {name: cell + 1 for cell, name in claimed(column, series.cells)}
        self._free = range(series.cells + 2 * len(self._counting), series.words, 2)
        self._seen: dict[tuple[str, str, bytes, int], tuple[int, int]] = {}
        self._unwritten = Lock()

    def count(self, record: Record) -> None:
        """Count one finished exchange. A name that the series does not know counts as `_other`."""
        column = self._column
        # PERF: one look-up by four names instead of four, and words that stay 0 left alone: 0.94 us per record,
        # 1.35 without (CPython 3.11, micro/observe).
        place = self._seen.get((record.listener, record.route, record.method, record.status))
        cell, row = place or self._place(record)
        column[cell] += 1
        column[row + bisect_left(BOUNDS_S, record.duration_s)] += 1
        column[row + _SUM] += int(record.duration_s * 1e6)
        if record.request_bytes:
            column[row + _REQUEST_BYTES] += record.request_bytes
        if record.response_bytes:
            column[row + _RESPONSE_BYTES] += record.response_bytes
        if record.upstream_s >= 0.0:
            row = self._upstream_row(record)
            column[row + bisect_left(BOUNDS_S, record.upstream_s)] += 1
            column[row + _SUM] += int(record.upstream_s * 1e6)
        if record.retries:
            column[self._upstream_row(record) + _RETRIES] += record.retries
        if record.fault:
            column[_FAULTS + self._faults.get(record.fault, 0)] += 1

    def drop_unqueued(self) -> None:
        """Count a log line that found no place in its queue. For the thread that calls `count`."""
        self._column[_DROPPED_UNQUEUED] += 1

    def drop_unwritten(self, lines: int) -> None:
        """Count log lines that were queued in vain. For the threads that write: they have a word of their own."""
        with self._unwritten:
            self._column[_DROPPED_UNWRITTEN] += lines

    def _place(self, record: Record) -> tuple[int, int]:
        """The counting words of a record: of its request, and the first one of its route's row."""
        route = self._routes.get(record.route, 0)
        method = METHOD_PLACES.get(record.method, 0)
        name = _cell_name(self._listeners.get(record.listener, 0), route, method, record.status)
        if name not in self._counting:
            self._counting[name] = self._claim(name)
        place = self._counting[name], self._route_rows + route * _ROUTE_WORDS
        if method and record.route in self._routes and record.listener in self._listeners:  # not what a peer invents
            self._seen[record.listener, record.route, record.method, record.status] = place
        return place

    def _claim(self, name: int) -> int:
        """The counting word of a combination that is new to this column. Without a free cell: the word of the rest."""
        if not self._free:
            return _UNCELLED
        cell, self._free = self._free[0], self._free[1:]
        self._column[cell] = name
        return cell + 1

    def _upstream_row(self, record: Record) -> int:
        return self._upstream_rows + self._upstreams.get(record.upstream, 0) * _UPSTREAM_WORDS


def claimed(column: memoryview, cells: int) -> Iterator[tuple[int, int]]:
    """The cells of a column that are in use, which start at word `cells`: (word, name)."""
    for cell in range(cells, len(column), 2):
        if not column[cell]:
            return
        yield cell, column[cell]


def _cell_name(listener: int, route: int, method: int, status: int) -> int:
    return _CLAIMED | listener << 48 | route << 32 | method << 16 | status


def _cell_labels(name: int) -> tuple[int, int, int, int]:
    return name >> 48 & 0x7FFF, name >> 32 & 0xFFFF, name >> 16 & 0xFFFF, name & 0xFFFF


def _histogram(family: Family, labels: dict[str, str], row: Sequence[int]) -> Iterator[Sample]:
    total = 0
    for bound, count in zip((*BOUNDS_S, inf), row, strict=False):  # a row goes on behind its buckets
        total += count
        yield f"{family.name}_bucket", labels | {"le": "+Inf" if bound == inf else f"{bound:g}"}, total
    yield f"{family.name}_sum", labels, row[_SUM] / 1e6
    yield f"{family.name}_count", labels, total


def _places(names: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _bounded(reserved: list[str], names: Iterable[str]) -> tuple[dict[str, int], int]:
    """The places of the reserved names and of the first `MAX_ROWS` others, and how many others got none."""
    others = [name for name in dict.fromkeys(names) if name not in reserved]
    return _places(reserved + others[:MAX_ROWS]), len(others[MAX_ROWS:])
