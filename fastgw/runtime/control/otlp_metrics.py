"""OTLP: metrics in the protobuf encoding of `opentelemetry.proto`, with cumulative temporality.

A point of a counter or histogram has the time since which it counts. That is the start of the gateway, but for a series
that begins later, because its route did not exist before, or that began again: then it is the time of the push before.
Sources: opentelemetry/proto/metrics/v1/metrics.proto, collector/metrics/v1/metrics_service.proto (1.x, stable).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf
from struct import pack
from typing import Final, NamedTuple, final

from fastgw.admin.prometheus_text import Sample, parse_labels
from fastgw.http.grpc.protobuf import field, key_value, resource_of, scope_of, varint
from fastgw.observe.metrics import families
from fastgw.observe.metrics.exemplars import Exemplar
from fastgw.observe.metrics.families import Family

MOST_REQUEST_BYTES: Final = 1024 * 1024
"""Size from which points are put into another request: collectors refuse messages of more than 4 MiB."""
_CUMULATIVE: Final = b"\x10\x02"  # aggregation_temporality = 2
_MONOTONIC: Final = b"\x18\x01"  # is_monotonic = 3
_UNITS: Final = {"seconds": "s", "bytes": "By", "ratio": "1"}

Exposed = Iterable[tuple[Family, Iterable[Sample]]]


class _Histogram(NamedTuple):
    labelled: str
    bounds: Sequence[float]
    counts: Sequence[int]
    """Requests of each bucket, alone."""
    total: float


class _Since(NamedTuple):
    begun_ns: int
    value: float


@final
class MetricsEncoder:
    """Encoder for one collector. `begun_date`: when the counters began, in epoch seconds."""

    def __init__(self, resource: Mapping[str, str], scope: str, version: str, begun_date: float) -> None:
        self._before = resource_of(resource), scope_of(scope, version)
        self._begun_ns = int(begun_date * 1e9)
        self._series: dict[tuple[str, str], _Since] = {}
        self._pushed_ns = 0

    def requests(
        self, exposed: Exposed, date: float, exemplars: Mapping[str, Mapping[int, Exemplar]]
    ) -> Iterator[bytes]:
        """Yield `ExportMetricsServiceRequest`s with the families of a scrape. `exemplars`: of
        `fastgw_request_seconds`, by route and bucket.
        """
        now_ns = int(date * 1e9)
        seen: dict[tuple[str, str], _Since] = {}
        waiting: list[bytes] = []
        size = 0
        for family, samples in exposed:
            for metric in self._metrics(family, samples, now_ns, seen, exemplars):
                waiting.append(metric)
                size += len(metric)
                if size >= MOST_REQUEST_BYTES:
                    yield self._sealed(waiting)
                    waiting, size = [], 0
        if waiting:
            yield self._sealed(waiting)
        self._series, self._pushed_ns = seen, now_ns

    def _sealed(self, metrics: list[bytes]) -> bytes:
        resource, scope = self._before
        return field(b"\x0a", resource + field(b"\x12", b"".join((scope, *metrics))))

    def _metrics(
        self,
        family: Family,
        samples: Iterable[Sample],
        now_ns: int,
        seen: dict[tuple[str, str], _Since],
        exemplars: Mapping[str, Mapping[int, Exemplar]],
    ) -> Iterator[bytes]:
        points: list[bytes] = []
        size = 0
        encoded = (
            self._histogram_points(family, samples, now_ns, seen, exemplars)
            if family.kind == "histogram"
            else self._number_points(family, samples, now_ns, seen)
        )
        for point in encoded:
            points.append(point)
            size += len(point)
            if size >= MOST_REQUEST_BYTES:
                yield _metric(family, points)
                points, size = [], 0
        if points:
            yield _metric(family, points)

    def _number_points(
        self, family: Family, samples: Iterable[Sample], now_ns: int, seen: dict[tuple[str, str], _Since]
    ) -> Iterator[bytes]:
        for _, labelled, value in samples:
            begun = b""
            if family.kind == "counter":
                begun = b"\x11" + self._begun_ns_of(family, labelled, value, seen).to_bytes(8, "little")
            number = b"\x31" + pack("<q", value) if isinstance(value, int) else b"\x21" + pack("<d", value)
            time = b"\x19" + now_ns.to_bytes(8, "little")
            yield field(b"\x0a", begun + time + number + _attributes(b"\x3a", labelled))

    def _histogram_points(
        self,
        family: Family,
        samples: Iterable[Sample],
        now_ns: int,
        seen: dict[tuple[str, str], _Since],
        exemplars: Mapping[str, Mapping[int, Exemplar]],
    ) -> Iterator[bytes]:
        for each in _histograms(samples):
            count = sum(each.counts)
            begun = self._begun_ns_of(family, each.labelled, count, seen)
            examples = b""
            if family is families.REQUEST_SECONDS:
                route = dict(parse_labels(each.labelled)).get("route", "")
                examples = b"".join(map(_exemplar, exemplars.get(route, {}).values()))
            yield field(
                b"\x0a",
                b"".join(
                    (
                        b"\x11" + begun.to_bytes(8, "little"),
                        b"\x19" + now_ns.to_bytes(8, "little"),
                        b"\x21" + count.to_bytes(8, "little"),
                        b"\x29" + pack("<d", each.total),
                        field(b"\x32", pack(f"<{len(each.counts)}Q", *each.counts)),
                        field(b"\x3a", pack(f"<{len(each.bounds)}d", *each.bounds)),
                        examples,
                        _attributes(b"\x4a", each.labelled),
                    )
                ),
            )

    def _begun_ns_of(self, family: Family, labelled: str, value: float, seen: dict[tuple[str, str], _Since]) -> int:
        """Return the time since which a series counts, in nanoseconds."""
        key = family.name, labelled
        known = self._series.get(key)
        if known is None or value < known.value:
            begun_ns = self._pushed_ns or self._begun_ns
        else:
            begun_ns = known.begun_ns
        seen[key] = _Since(begun_ns, value)
        return begun_ns


def _metric(family: Family, points: Sequence[bytes]) -> bytes:
    """Encode a `Metric` as field 2."""
    unit = next((unit for word, unit in _UNITS.items() if word in family.name.split("_")), "")
    head = field(b"\x0a", family.name.encode()) + field(b"\x12", family.text.encode())
    if unit:
        head += field(b"\x1a", unit.encode())
    data = b"".join(points)
    if family.kind == "histogram":
        return field(b"\x12", head + field(b"\x4a", data + _CUMULATIVE))
    if family.kind == "counter":
        return field(b"\x12", head + field(b"\x3a", data + _CUMULATIVE + _MONOTONIC))
    return field(b"\x12", head + field(b"\x2a", data))


def _attributes(tag: bytes, labelled: str) -> bytes:
    return b"".join(field(tag, key_value(*each)) for each in parse_labels(labelled))


def _exemplar(each: Exemplar) -> bytes:
    """Encode an `Exemplar` as field 8."""
    date = int(each.date * 1e9).to_bytes(8, "little")
    trace = b"\x2a" + varint(16) + bytes.fromhex(each.trace_id)
    return field(b"\x42", b"\x11" + date + b"\x19" + pack("<d", each.value_s) + trace)


def _histograms(samples: Iterable[Sample]) -> Iterator[_Histogram]:
    """Yield histograms, whose samples follow one another: buckets, sum, count."""
    bounds: list[float] = []
    below: list[int] = [0]
    total = 0.0
    for suffix, labelled, value in samples:
        if suffix == "_bucket":
            bounds.append(float(parse_labels(labelled)[0][1]))
            below.append(int(value))
        elif suffix == "_sum":
            total = float(value)
        else:
            counts = [now - before for before, now in pairwise(below)]
            yield _Histogram(labelled, [each for each in bounds if each < inf], counts, total)
            bounds, below = [], [0]
