"""OTLP: access log lines as log records, in the protobuf encoding of `opentelemetry.proto`.

The body of a record is the line as it is. Of a line that is a JSON object, the fields are attributes, and time, trace
and span are those of the request; the severity follows the status.
Sources: opentelemetry/proto/logs/v1/logs.proto, collector/logs/v1/logs_service.proto (1.x, stable).
"""

import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import orjson

from fastgw import VERSION
from fastgw.http.grpc.protobuf import field, key_value, rejected_items, resource_of, scope_of, varint
from fastgw.observe.access_log.http_delivery import LineBody
from fastgw.observe.access_log.line_dates import date_ns_in

SEVERITIES: Final = ((500, 17, "ERROR"), (400, 13, "WARN"), (0, 9, "INFO"))
_UNKNOWN: Final = (0, "")
_STATUS: Final = ("status", "http.response.status_code", "_status")
_TRACE, _SPAN = ("trace_id", "trace.id", "_trace_id"), ("span_id", "span.id", "_span_id")
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}").fullmatch
_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}").fullmatch


@final
class OtlpLogBody(LineBody):
    """`ExportLogsServiceRequest`s with one resource and one scope."""

    content_type = "application/x-protobuf"

    def __init__(self, service: str) -> None:
        resource = {"service.name": service, "service.version": VERSION, "host.name": socket.gethostname()}
        self._resource, self._scope = resource_of(resource), scope_of("fastgw.access_log", VERSION)

    def encode(self, lines: Sequence[bytes]) -> bytes:
        now_ns = time.time_ns()
        records = b"".join(field(b"\x12", _record(line, now_ns)) for line in lines)
        return field(b"\x0a", self._resource + field(b"\x12", self._scope + records))

    def count_refused(self, lines: Sequence[bytes], answer: bytes) -> int:
        return min(rejected_items(answer), len(lines))


def _record(line: bytes, now_ns: int) -> bytes:
    """Encode a `LogRecord`, without the tag of its place."""
    try:
        told = orjson.loads(line)
    except ValueError:
        told = None
    fields: Mapping[str, Any] = told if isinstance(told, dict) else {}
    status = _first(fields, _STATUS)
    status = status if isinstance(status, int) else 0
    number, text = next(((number, text) for least, number, text in SEVERITIES if status >= least), _UNKNOWN)
    pieces = [
        b"\x09" + date_ns_in(fields, now_ns).to_bytes(8, "little"),
        b"\x10" + varint(number),
        field(b"\x1a", text.encode()),
        field(b"\x2a", field(b"\x0a", line.decode(errors="replace").encode())),
    ]
    pieces += [field(b"\x32", key_value(name, value)) for name, value in fields.items() if value is not None]
    for tag, names, is_id in ((b"\x4a", _TRACE, _TRACE_ID), (b"\x52", _SPAN, _SPAN_ID)):
        known = _first(fields, names)
        if isinstance(known, str) and is_id(known):
            pieces.append(field(tag, bytes.fromhex(known)))
    pieces.append(b"\x59" + now_ns.to_bytes(8, "little"))
    return b"".join(pieces)


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in fields:
            return fields[name]
    return None
