"""Formats of an access log by name, and lines of chosen fields, for which functions are made when the log begins."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from socket import gethostname
from typing import Any, Final

from fastgw.observe.access_log.formats import (
    FIELDS,
    MAX_LINE,
    PROTOCOLS,
    VERSIONS,
    LineFormat,
    Mask,
    Value,
    combined_line,
    common_line,
    cut,
    fitted,
    json_line,
    rfc3339,
)
from fastgw.observe.access_log.log_fields import ChosenField, chosen_field
from fastgw.observe.access_log.record import Record

W3C_FIELDS: Final[Mapping[str, str]] = {
    "client": "c-ip",
    "consumer": "cs-username",
    "listener": "s-sitename",
    "target": "x-target",
    "method": "cs-method",
    "host": "cs-host",
    "path": "cs-uri-stem",
    "query": "cs-uri-query",
    "protocol": "cs-version",
    "status": "sc-status",
    "request_bytes": "cs-bytes",
    "response_bytes": "sc-bytes",
    "duration_s": "time-taken",
    "user_agent": "cs(User-Agent)",
    "referer": "cs(Referer)",
}
"""Names of fields in the W3C Extended Log File Format; those of other fields begin with `x-`."""
_W3C_DEFAULT: Final = ("time", *(name for name in W3C_FIELDS if name not in ("listener", "target")))

ECS_VERSION: Final = "8.11.0"
ECS_FIELDS: Final[Mapping[str, str]] = {
    "time": "@timestamp",
    "client": "client.address",
    "consumer": "user.name",
    "method": "http.request.method",
    "scheme": "url.scheme",
    "host": "url.domain",
    "path": "url.path",
    "query": "url.query",
    "protocol": "http.version",
    "status": "http.response.status_code",
    "fault": "error.code",
    "fault_detail": "error.message",
    "request_bytes": "http.request.body.bytes",
    "response_bytes": "http.response.body.bytes",
    "request_body": "http.request.body.content",
    "response_body": "http.response.body.content",
    "duration_s": "event.duration",
    "request_id": "http.request.id",
    "user_agent": "user_agent.original",
    "referer": "http.request.referrer",
    "trace_id": "trace.id",
    "span_id": "span.id",
}
"""Names of fields in the Elastic Common Schema; those of other fields begin with `fastgw.`, chosen ones with
`labels.`."""

_ECS_DEFAULT: Final = (
    *("duration_s", "client", "consumer", "protocol", "method", "request_id", "referer", "request_bytes", "status"),
    *("response_bytes", "scheme", "host", "path", "query", "user_agent", "fault", "fault_detail", "listener", "route"),
    *("upstream", "target", "upstream_s", "retries", "cache", "grpc_status", "subrequests", "shadow"),
    *("trace_id", "span_id", "websocket"),
)
"""Fields of a line in this schema, in order, after those of the event."""

_GELF_LEVELS: Final = ((500, 3), (400, 4), (0, 6))
_NOT_GELF: Final = re.compile(r"[^\w.-]")
# White space, and control characters of terminals: those of C0 and C1, and those of the direction of text.
_BLANK: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


_ECS_VALUES: Final[Mapping[str, Value]] = {
    "duration_s": lambda record, mask: int(record.duration_s * 1e9),
    "protocol": lambda record, mask: VERSIONS.get(record.version),
}
_EcsColumn = tuple[str, Value]
_ECS_OF_REQUESTS: Final[tuple[_EcsColumn, ...]] = tuple(
    (ECS_FIELDS.get(name, f"fastgw.{name}"), _ECS_VALUES.get(name, FIELDS[name])) for name in _ECS_DEFAULT
)
_ECS_OF_CONNECTIONS: Final[tuple[_EcsColumn, ...]] = (
    *(column for column in _ECS_OF_REQUESTS if not column[0].startswith("http.")),
    ("network.transport", lambda record, mask: PROTOCOLS[record.version].lower()),
    ("source.bytes", FIELDS["request_bytes"]),
    ("destination.bytes", FIELDS["response_bytes"]),
    ("fastgw.status", FIELDS["status"]),
)
"""Columns of connections and sessions, which are no requests."""


def ecs_line(record: Record, mask: Mask) -> bytes:
    """Return a line of Elastic Common Schema with dotted names; fastgw's own are under `fastgw.`. Unset values are left
    out.
    """
    is_http = record.version in VERSIONS
    fields: dict[str, Any] = {
        "@timestamp": rfc3339(record.ended_date),
        "ecs.version": ECS_VERSION,
        "event.kind": "event",
        "event.category": ["web" if is_http else "network"],
        "event.dataset": "fastgw.access",
        "event.outcome": "success" if record.status < 400 else "failure",
    }
    for name, value in _ECS_OF_REQUESTS if is_http else _ECS_OF_CONNECTIONS:
        known = value(record, mask)
        if known or (known is not None and known == 0):  # in this order: a comparison of two types is slow
            fields[name] = known
    return fitted(fields)


@lru_cache(1)
def source_name() -> str:
    """Return the name of this machine, the `host` of GELF."""
    return gethostname() or "fastgw"


def _gelf_format(fields: Iterable[ChosenField]) -> LineFormat:
    """Return the Graylog Extended Log Format, version 1.1, with these fields. Unset values are left out."""
    named = [(_gelf_name(field.name), field.value) for field in fields]

    def line(record: Record, mask: Mask) -> bytes:
        told = (FIELDS[name](record, mask) for name in ("method", "path", "protocol", "status"))
        shown: dict[str, Any] = {
            "version": "1.1",
            "host": source_name(),
            "short_message": " ".join(str(each) for each in told if each is not None),
            "timestamp": int(record.ended_date * 1000) / 1000,
            "level": next(level for least, level in _GELF_LEVELS if record.status >= least),
        }
        for name, value in named:
            known = value(record, mask)
            if known is not None and name != "_time":
                shown[name] = known if isinstance(known, str | int | float) else str(known)
        return fitted(shown)

    return line


def _gelf_name(name: str) -> str:
    return "_id_" if name == "id" else f"_{_NOT_GELF.sub('_', name)}"  # `_id` is reserved


def w3c_directives(fields: Iterable[str]) -> bytes:
    """Return the lines that begin a file in the W3C Extended Log File Format. `fields`: none = the default."""
    names = [column for each in fields or _W3C_DEFAULT for column in _w3c_names(each.partition("=")[0])]
    return f"#Version: 1.0\n#Software: fastgw\n#Fields: {' '.join(names)}\n".encode()


def _w3c_names(name: str) -> tuple[str, ...]:
    if name == "time":
        return "date", "time"
    for prefix, side in (("header.", "cs"), ("response_header.", "sc")):
        if name.startswith(prefix):
            return (f"{side}({name.removeprefix(prefix)})",)
    return (W3C_FIELDS.get(name, f"x-{name}"),)


def _w3c_format(fields: Iterable[ChosenField]) -> LineFormat:
    values = [value for field in fields for value in _w3c_values(field)]

    def line(record: Record, mask: Mask) -> bytes:
        return _fitted_columns([_w3c_text(value(record, mask)) for value in values])

    return line


def _w3c_values(field: ChosenField) -> tuple[Value, ...]:
    if field.name != "time" or not field.is_ours:
        return (field.value,)
    return (
        lambda record, mask: rfc3339(record.ended_date)[:10],
        lambda record, mask: rfc3339(record.ended_date)[11:-1],
    )


def _w3c_text(value: Any) -> str:
    return "-" if value is None or value == "" else _BLANK.sub("+", str(value))


def _fitted_columns(columns: list[str]) -> bytes:
    """Return columns as a line, with the longest of them cut until it fits."""
    limit = MAX_LINE
    while len(line := f"{' '.join(columns)}\n".encode(errors="backslashreplace")) > MAX_LINE:
        limit //= 2
        columns = [cut(column, limit) for column in columns]
    return line


FORMATS: Final[Mapping[str, LineFormat]] = {
    "json": json_line,
    "ecs": ecs_line,
    "gelf": _gelf_format([chosen_field(name, ()) for name in FIELDS]),
    "combined": combined_line,
    "common": common_line,
    "w3c": _w3c_format([chosen_field(name, ()) for name in _W3C_DEFAULT]),
}
"""Formats with their default fields."""
JSON_FORMATS: Final = ("json", "ecs", "gelf")
"""Formats whose lines are JSON objects."""
FIXED: Final = ("combined", "common")
"""Formats without a choice of fields."""


def format_of(name: str, fields: Iterable[str], redact: Iterable[str]) -> LineFormat:
    """Return the format with this name and these fields; none = its own. `redact`: headers that are masked."""
    redact = tuple(redact)
    chosen = [chosen_field(each, redact) for each in fields]
    if not chosen:
        return FORMATS[name]
    if name == "json":
        return lambda record, mask: fitted({field.name: field.value(record, mask) for field in chosen})
    if name == "w3c":
        return _w3c_format(chosen)
    if name == "gelf":
        return _gelf_format(chosen)
    return _ecs_format(chosen)


def _ecs_format(fields: Iterable[ChosenField]) -> LineFormat:
    chosen = [field for field in fields if (field.name, field.is_ours) != ("time", True)]
    named = [
        (_ecs_name(field), _ECS_VALUES.get(field.name, field.value) if field.is_ours else field.value)
        for field in chosen
    ]

    def line(record: Record, mask: Mask) -> bytes:
        shown: dict[str, Any] = {"@timestamp": rfc3339(record.ended_date), "ecs.version": ECS_VERSION}
        for name, value in named:
            known = value(record, mask)
            if known is not None and known != "":
                shown[name] = known
        return fitted(shown)

    return line


def _ecs_name(field: ChosenField) -> str:
    if not field.is_ours:
        return f"labels.{field.name}"
    return ECS_FIELDS.get(field.name, f"fastgw.{field.name}")
