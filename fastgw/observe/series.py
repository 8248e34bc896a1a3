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
SUM: Final = len(BOUNDS_S) + 1
ROUTE_REQUEST_BYTES, ROUTE_RESPONSE_BYTES, _ROUTE_WORDS = SUM + 1, SUM + 2, SUM + 3
UPSTREAM_RETRIES, _UPSTREAM_WORDS = SUM + 1, SUM + 2

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
            (REQUEST_BYTES, self.routes, self.route_rows, _ROUTE_WORDS, ROUTE_REQUEST_BYTES),
            (RESPONSE_BYTES, self.routes, self.route_rows, _ROUTE_WORDS, ROUTE_RESPONSE_BYTES),
            (RETRIES, self.upstreams, self.upstream_rows, _UPSTREAM_WORDS, UPSTREAM_RETRIES),
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


class Place(NamedTuple):
    """The words that count one kind of exchange."""

    request: int
    row: int
    """The first word of its route's row."""
    upstream_row: int
    fault: int
    """0: it has none."""


class Tally:
    """Counts finished exchanges into the column of one worker."""

    def __init__(self, series: Series, column: memoryview) -> None:
        self.column = column
        self._listeners = series.listeners
        self._routes = series.routes_by_name
        self._upstreams = series.upstreams
        self._faults = series.faults
        self._route_rows, self._upstream_rows = series.route_rows, series.upstream_rows
        self._counting = {name: cell + 1 for cell, name in claimed(column, series.cells)}
        self._free = range(series.cells + 2 * len(self._counting), series.words, 2)
        self._unwritten = Lock()

    def place(self, listener: str, route: str, upstream: str, method: bytes, status: int, fault: str = "") -> Place:
        """Where such an exchange counts. A name that the series does not know counts as `_other`.

        `route`: "" where none matched.
        """
        column_route = self._routes.get(route, 0)
        name = _cell_name(self._listeners.get(listener, 0), column_route, METHOD_PLACES.get(method, 0), status)
        if name not in self._counting:
            self._counting[name] = self._claim(name)
        return Place(
            self._counting[name],
            self._route_rows + column_route * _ROUTE_WORDS,
            self._upstream_rows + self._upstreams.get(upstream, 0) * _UPSTREAM_WORDS,
            _FAULTS + self._faults.get(fault, 0) if fault else 0,
        )

    def count(
        self,
        place: Place,
        duration_s: float,
        request_bytes: int = 0,
        response_bytes: int = 0,
        upstream_s: float = -1.0,
        retries: int = 0,
    ) -> None:
        """Count one finished exchange. `upstream_s`: negative when no upstream's head was complete."""
        column = self.column
        request, row, upstream_row, fault = place
        column[request] += 1
        column[row + bisect_left(BOUNDS_S, duration_s)] += 1
        column[row + SUM] += int(duration_s * 1e6)
        # PERF: words that stay as they are left alone: 0.1 us (CPython 3.11, micro/observe).
        if request_bytes:
            column[row + ROUTE_REQUEST_BYTES] += request_bytes
        if response_bytes:
            column[row + ROUTE_RESPONSE_BYTES] += response_bytes
        if upstream_s >= 0.0:
            column[upstream_row + bisect_left(BOUNDS_S, upstream_s)] += 1
            column[upstream_row + SUM] += int(upstream_s * 1e6)
        if retries:
            column[upstream_row + UPSTREAM_RETRIES] += retries
        if fault:
            column[fault] += 1

    def drop_unqueued(self) -> None:
        """Count a log line that found no place in its queue. For the thread that calls `count`."""
        self.column[_DROPPED_UNQUEUED] += 1

    def drop_unwritten(self, lines: int) -> None:
        """Count log lines that were queued in vain. For the threads that write: they have a word of their own."""
        with self._unwritten:
            self.column[_DROPPED_UNWRITTEN] += lines

    def _claim(self, name: int) -> int:
        """The counting word of a combination that is new to this column. Without a free cell: the word of the rest."""
        if not self._free:
            return _UNCELLED
        cell, self._free = self._free[0], self._free[1:]
        self.column[cell] = name
        return cell + 1


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
    yield f"{family.name}_sum", labels, row[SUM] / 1e6
    yield f"{family.name}_count", labels, total


def _places(names: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _bounded(reserved: list[str], names: Iterable[str]) -> tuple[dict[str, int], int]:
    """The places of the reserved names and of the first `MAX_ROWS` others, and how many others got none."""
    others = [name for name in dict.fromkeys(names) if name not in reserved]
    return _places(reserved + others[:MAX_ROWS]), len(others[MAX_ROWS:])
