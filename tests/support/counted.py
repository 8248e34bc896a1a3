"""Counts and JSON lines of finished exchanges as they must be: a model, made from records."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from fastgw.observe.access_log.formats import MAX_LINE, masked_path, masked_words
from fastgw.observe.access_log.record import TCP, UDP, Record
from fastgw.observe.access_log.secret_names import SecretNames
from fastgw.observe.metrics import series_layout as layout
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.observe.metrics.families import BOUNDS_S, CACHE_HITS, CodingOperation, ContentCoding
from fastgw.observe.metrics.series_layout import CELL_LABELS, CellKind


def count(
    counters: ExchangeCounters,
    words: Iterable[int],
    duration_s: float,
    request_bytes: int = 0,
    response_bytes: int = 0,
    upstream_s: float = -1.0,
    retries: int = 0,
) -> None:
    """Count a finished exchange in its words. `upstream_s`: negative if there was no response of an upstream."""
    column = counters.column
    request, row, upstream_row, target_row, server_error, fault = words
    column[request] += 1
    histograms = [(row, duration_s)]
    if upstream_s >= 0.0:
        histograms += [(upstream_row, upstream_s), (target_row, upstream_s)]
        column[server_error] += server_error != 0
    for at, seconds in histograms:
        column[at + bisect_left(BOUNDS_S, seconds)] += 1
        column[at + layout.SUM] += int(seconds * 1e6)
    column[row + layout.ROUTE_REQUEST_BYTES] += request_bytes
    column[row + layout.ROUTE_RESPONSE_BYTES] += response_bytes
    column[upstream_row + layout.UPSTREAM_RETRIES] += retries
    column[fault] += fault != 0


def count_consumer(
    counters: ExchangeCounters,
    name: str,
    status: int,
    duration_s: float,
    request_bytes: int = 0,
    response_bytes: int = 0,
    cache_result: str = "",
) -> None:
    """Count a request of a consumer."""
    column = counters.column
    row = layout.CONSUMERS_AT + counters.consumers.get(name, 0) * layout.CONSUMER_WORDS
    column[row + bisect_left(BOUNDS_S, duration_s)] += 1
    column[row + layout.CONSUMER_REQUEST_BYTES] += request_bytes
    column[row + layout.CONSUMER_RESPONSE_BYTES] += response_bytes
    column[row + layout.CONSUMER_CLASSES + min(status // 100, layout.STATUS_CLASSES - 1)] += 1
    if cache_result:
        column[row + layout.CONSUMER_CACHE + (cache_result in CACHE_HITS)] += 1


def count_content_coding(
    counters: ExchangeCounters, route: str, operation: int, coding: int, bytes_in: int, bytes_out: int
) -> None:
    index = CELL_LABELS[CellKind.CODING_INPUT].index(
        (ContentCoding(coding).name.lower(), CodingOperation(operation).name.lower())
    )
    for kind, count in ((CellKind.CODING_INPUT, bytes_in), (CellKind.CODING_OUTPUT, bytes_out)):
        word = counters.label_word(kind, route, index)
        assert word is not None
        counters.column[word] += count


def count_record(counters: ExchangeCounters, record: Record) -> None:
    """Count all that is known of an exchange."""
    words = counters.series_words(
        record.listener, record.route, record.upstream, record.method, record.status, record.fault, record.target
    )
    numbers = record.request_bytes, record.response_bytes
    count(counters, words, record.duration_s, *numbers, record.upstream_s, record.retries)
    if record.consumer:
        count_consumer(counters, record.consumer, record.status, record.duration_s, *numbers, record.cache)
    if record.cache:
        counters.count_label(CellKind.CACHE, record.route, record.cache)
    if record.grpc_status:
        counters.count_label(CellKind.GRPC, record.route, record.grpc_status)


def fields_of(record: Record, redact: Iterable[str]) -> dict[str, Any]:
    """Return the fields of the JSON line of a record."""
    mask = SecretNames(redact).mask

    def text(value: bytes | None) -> str | None:
        return value.decode(errors="backslashreplace") if value else None

    milliseconds = int(record.ended_date * 1000)
    second = datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    version = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2", TCP: "TCP", UDP: "UDP"}[record.version]
    fields = {
        "time": f"{second}.{milliseconds % 1000:03}Z",
        "client": record.client or None,
        "consumer": record.consumer or None,
        "listener": record.listener,
        "route": record.route or None,
        "upstream": record.upstream or None,
        "target": record.target or None,
        "method": None if record.version in (TCP, UDP) else text(record.method),
        "scheme": text(record.scheme),
        "host": text(record.host),
        "path": text(masked_path(record.path, mask)),
        "query": text(mask(record.query)),
        "protocol": text(record.connect_protocol) or version,
        "status": record.status,
        "fault": record.fault or None,
        "fault_detail": record.fault_detail or None,
        "request_bytes": record.request_bytes,
        "response_bytes": record.response_bytes,
        "duration_s": round(record.duration_s, 6),
        "upstream_s": round(record.upstream_s, 6) if record.upstream_s >= 0.0 else None,
        "retries": record.retries,
        "request_id": text(record.request_id),
        "user_agent": text(masked_words(record.user_agent, mask)),
        "referer": text(mask(record.referer)),
    }
    rare = {
        "cache": record.cache,
        "grpc_status": record.grpc_status,
        "trace_id": text(record.trace_id),
        "span_id": text(record.span_id),
        "subrequests": record.subrequests,
        "shadow": record.shadowed,
    }
    return {**fields, **{name: value for name, value in rare.items() if value}}


def assert_line(line: bytes, record: Record, redact: Iterable[str]) -> None:
    """It has the fields of the record in their order; of one that is too long some are cut."""
    expected, fields = fields_of(record, redact), json.loads(line)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    assert list(fields) == list(expected)
    whole = len(json.dumps(expected, ensure_ascii=False, separators=(",", ":")).encode()) < MAX_LINE - 64
    assert len(line) <= MAX_LINE
    if whole:  # seconds may have some zeros more at their end
        assert fields == expected
