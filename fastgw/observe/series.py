"""Every metric of the data plane: its name, its labels, and the word that counts it in a worker's column.

A column is a row of 64-bit words that one worker writes and anyone may read; a scrape sums the columns. Rule 1: a count
is one aligned store of a plain integer, so that a reader never sees half of one. Rule 2: no sample is in two series of
a family, so their sum is exact. Rule 3: what a peer sends never makes a new label value.

Routes, upstreams and faults have a fixed place in the column. Requests do not: listener x route x method x status has
far more places than are ever used, so a combination takes the next free *cell* when it is first seen: one word that
names it and one that counts it. A replaced worker finds its predecessor's cells by these names and counts on.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
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
        self._listeners = _places([OTHER, *listeners])
        self._routes, self.routes_folded = _bounded([OTHER, NONE], routes)
        self._upstreams, self.upstreams_folded = _bounded([OTHER], upstreams)
        self._faults = _places([OTHER, *faults])
        self._route_rows = _FAULTS + len(self._faults)
        self._upstream_rows = self._route_rows + len(self._routes) * _ROUTE_WORDS
        self._cells = self._upstream_rows + len(self._upstreams) * _UPSTREAM_WORDS
        self.words = self._cells + 2 * (len(self._routes) * CELLS_PER_ROUTE + SPARE_CELLS)
        """Length of a column."""

    def tally(self, column: memoryview) -> "Tally":
        """The writer of a column: of this worker's own, zeroed or left by the worker that it replaces."""
        return Tally(self, column)

    def counts(self, columns: Sequence[memoryview]) -> Iterator[Sample]:
        """Sum the columns: (metric, labels, value), family after family, names as Prometheus spells them.

        A row or cell that has counted nothing is left out; families without labels and faults are always there.
        """
        raise NotImplementedError


def _places(names: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _bounded(reserved: list[str], names: Iterable[str]) -> tuple[dict[str, int], int]:
    """The places of the reserved names and of the first `MAX_ROWS` others, and how many others got none."""
    others = [name for name in dict.fromkeys(names) if name not in reserved]
    return _places(reserved + others[:MAX_ROWS]), len(others[MAX_ROWS:])


class Tally:
    """Counts finished exchanges into one column."""

    def __init__(self, series: Series, column: memoryview) -> None:
        self._column = column

    def count(self, record: Record) -> None:
        """Hot path."""
