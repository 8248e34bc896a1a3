"""Access log formats: functions from a record to a line. No I/O.

Rule 1: a record is one line of at most `MAX_LINE` bytes, newline included, whatever a peer sent; longer values are
truncated and end in `CUT`. Rule 2: bytes that are not text and control characters of terminals are escaped, so no peer
can end or forge a line. Rule 3: secrets are masked first, in the query and wherever else a query or URL may be: path,
`Referer` and `User-Agent`.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from time import gmtime, strftime
from typing import Any, Final

import orjson

from fastgw.observe.access_log.record import TCP, UDP, Record
from fastgw.observe.access_log.secret_names import may_hide

MAX_LINE: Final = 4096
"""Maximum length of a line in bytes: a write of this size to a pipe is atomic (PIPE_BUF)."""
CUT: Final = "..."

Mask = Callable[[bytes | None], bytes | None]
"""Function that masks the values of secret parameters in a query, or in a URL with a query."""
Value = Callable[[Record, Mask], Any]
"""Function that returns the value of a field: a text, a number, an object or None."""
LineFormat = Callable[[Record, Mask], bytes]

# The month names of strftime depend on the locale.
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
VERSIONS = {10: "1.0", 11: "1.1", 20: "2"}
PROTOCOLS = {TCP: "TCP", UDP: "UDP", 10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}
# Separators of words in a text, except around a `=`. It reads each character a constant number of times.
BETWEEN_WORDS: Final = re.compile(rb"""((?<![=\s])(?>(?:[(),"'<>{}|](?!\s*+=)|\s++(?!=))+))""")
# PERF: bytes are searched for by number: `in` with a bytes object raises a TypeError internally first, 1,100
# instructions each time (CPython 3.11, callgrind, micro/observe).
EQUALS: Final = ord("=")
_PERCENT, _AT = ord("%"), ord("@")
_NOT_PLAIN = re.compile(rb'[^\x20-\x7e]|["\\]')
_PLAIN: Final = bytes(byte for byte in range(256) if not _NOT_PLAIN.match(bytes([byte])))
_MILLISECONDS: Final = tuple(f".{ms:03d}Z" for ms in range(1000))
# In UTF-8: U+0080-009F (C1), U+2028-202E (line separators, text direction) and U+2066-2069 (text direction).
_OBEYED = re.compile(rb"\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


JSON_SLOTS: Final = (
    *("time", "client", "consumer", "route", "host", "path", "query", "fault_detail", "request_bytes"),
    *("response_bytes", "duration_s", "upstream_s", "retries", "request_id", "user_agent", "referer"),
)
"""Keys of a JSON line whose values differ between requests of a kind, in order."""


def json_pieces(record: Record) -> tuple[bytes, ...]:
    """Return the parts of the record's line before, between and after the values of `JSON_SLOTS`."""
    pieces, piece = [], b"{"
    for name in _COMMON:
        piece += b'"%b":' % name.encode()
        if name in JSON_SLOTS:
            pieces.append(piece)
            piece = b","
        else:
            piece += _json(FIELDS[name](record, _as_it_is)).rstrip(b"\n") + b","
    return *pieces, piece.removesuffix(b",") + b"}\n"


def _as_it_is(query: bytes | None) -> bytes | None:
    return query


def combined_line(record: Record, mask: Mask) -> bytes:
    """Return a line of Apache's and nginx's `combined` format, escaped as in nginx: `\\x22`."""
    return _common_line(record, mask, (mask(record.referer), masked_words(record.user_agent, mask)))


def common_line(record: Record, mask: Mask) -> bytes:
    """Return a line of the Common Log Format (NCSA): `combined` without `Referer` and `User-Agent`."""
    return _common_line(record, mask, ())


def _common_line(record: Record, mask: Mask, quoted: tuple[bytes | None, ...]) -> bytes:
    query = mask(record.query)
    path = masked_path(record.path, mask) or b""
    request_target = path if query is None else b"%b?%b" % (path, query)
    protocol = PROTOCOLS[record.version].encode()
    request = b"%b %b %b" % (record.method, request_target, protocol) if record.method else None
    if record.version not in VERSIONS:
        request = b"%b %b %b" % (record.scheme, record.host or b"-", protocol)
    client = record.client.encode(errors="backslashreplace")
    consumer = record.consumer.encode(errors="backslashreplace")
    date = _common_date(int(record.ended_date))
    limit = 2 * MAX_LINE
    while True:  # terminates: with 16 bytes of each value, escaped or not, the line fits
        limit //= 2
        line = b'%b - %b [%b] "%b" %d %d' % (
            _quoted(client, limit),
            _quoted(consumer, limit).replace(b" ", b"\\x20"),
            date,
            _quoted(request, limit),
            record.status,
            record.response_bytes,
        )
        for value in quoted:
            line += b' "' + _quoted(value, limit) + b'"'
        line += b"\n"
        if len(line) <= MAX_LINE:
            return line


def masked_path(path: bytes, mask: Mask) -> bytes | None:
    """Return the path to show. It is cut at the value of a secret parameter, because tokens may contain slashes."""
    return mask(path) if path and (EQUALS in path or _PERCENT in path or _AT in path) else path


def masked_words(text: bytes | None, mask: Mask) -> bytes | None:
    """Return a text with masked URLs and parameters: a value ends with its word."""
    if not text or not (EQUALS in text or ((_AT in text or _PERCENT in text) and may_hide(text))):
        return text
    words = BETWEEN_WORDS.split(text[: MAX_LINE + 1])
    return b"".join(mask(word) or b"" if EQUALS in word or may_hide(word) else word for word in words)


def fitted(fields: dict[str, Any]) -> bytes:
    line = _json(fields)
    limit = MAX_LINE
    while len(line) > MAX_LINE:  # terminates: with 16 characters of each value, escaped or not, the line fits
        limit //= 2
        line = _json({name: cut(value, limit) if type(value) is str else value for name, value in fields.items()})
    return line


def _json(fields: Any) -> bytes:
    line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    return line if line.isascii() else _OBEYED.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), line)


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def text_of(value: bytes | None) -> str | None:
    if not value:
        return None
    try:
        return value.decode()  # PERF: a third faster than with `errors` (CPython 3.11, micro/observe).
    except UnicodeDecodeError:
        return value.decode(errors="backslashreplace")


def micros(seconds: float) -> float:
    """Return the seconds rounded to microseconds, as `round` does."""
    # PERF: `round` takes twice as long: it works on the decimal digits, which only matter in the middle between two
    # microseconds (CPython 3.11, micro/observe).
    if 0.0 <= seconds < 1e6:
        micros = seconds * 1e6
        below = int(micros)
        rest = micros - below
        if rest < 0.499:
            return below / 1e6
        if rest > 0.501:
            return (below + 1) / 1e6
    return round(seconds, 6)


def _quoted(value: bytes | None, limit: int) -> bytes:
    if not value:
        return b"-"
    if len(value) > limit:
        value = value[: limit - len(CUT)] + CUT.encode()
    # PERF: nearly all values are plain: a tenth of the time of the pattern (CPython 3.11, timeit, 110 bytes).
    if not value.translate(None, _PLAIN):
        return value
    return _NOT_PLAIN.sub(lambda byte: b"\\x%02X" % byte[0][0], value)


def rfc3339(date: float) -> str:
    second, ms = divmod(int(date * 1000), 1000)
    return _second(second) + _MILLISECONDS[ms]


@lru_cache(4)
def _second(date: int) -> str:
    return second_text(date).decode()


@lru_cache(4)  # cached: thousands of lines share a second
def second_text(date: int) -> bytes:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(date)).encode()


@lru_cache(4)
def _common_date(date: int) -> bytes:
    at = gmtime(date)
    return (
        f"{at.tm_mday:02d}/{MONTHS[at.tm_mon - 1]}/{at.tm_year}:{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} +0000"
    ).encode()


FIELDS: Final[Mapping[str, Value]] = {
    "time": lambda record, mask: rfc3339(record.ended_date),
    "client": lambda record, mask: record.client or None,
    "consumer": lambda record, mask: record.consumer or None,
    "listener": lambda record, mask: record.listener,
    "route": lambda record, mask: record.route or None,
    "upstream": lambda record, mask: record.upstream or None,
    "target": lambda record, mask: record.target or None,
    "method": lambda record, mask: text_of(record.method) if record.version in VERSIONS else None,
    "scheme": lambda record, mask: text_of(record.scheme),
    "host": lambda record, mask: text_of(record.host),
    "path": lambda record, mask: text_of(masked_path(record.path, mask)),
    "query": lambda record, mask: text_of(mask(record.query)),
    "protocol": lambda record, mask: text_of(record.connect_protocol) or PROTOCOLS[record.version],
    "status": lambda record, mask: record.status,
    "fault": lambda record, mask: record.fault or None,
    "fault_detail": lambda record, mask: record.fault_detail or None,
    "request_bytes": lambda record, mask: record.request_bytes,
    "response_bytes": lambda record, mask: record.response_bytes,
    "duration_s": lambda record, mask: micros(record.duration_s),
    "upstream_s": lambda record, mask: micros(record.upstream_s) if record.upstream_s >= 0.0 else None,
    "retries": lambda record, mask: record.retries,
    "request_id": lambda record, mask: text_of(record.request_id),
    "user_agent": lambda record, mask: text_of(masked_words(record.user_agent, mask)),
    "referer": lambda record, mask: text_of(mask(record.referer)),
    "cache": lambda record, mask: record.cache or None,
    "grpc_status": lambda record, mask: record.grpc_status or None,
    "trace_id": lambda record, mask: text_of(record.trace_id),
    "span_id": lambda record, mask: text_of(record.span_id),
    "subrequests": lambda record, mask: record.subrequests or None,
    "shadow": lambda record, mask: record.shadowed or None,
    "websocket": lambda record, mask: record.tunnel,
}
"""The fields of `json`, by name, with the values that they have there."""

_RARE: Final = ("cache", "grpc_status", "trace_id", "span_id", "subrequests", "shadow", "websocket")
_COMMON: Final = tuple(name for name in FIELDS if name not in _RARE)
_COLUMNS: Final = tuple((name, value, name in _RARE) for name, value in FIELDS.items())


def json_line(record: Record, mask: Mask) -> bytes:
    """Return a line in fastgw's own JSON format. Common keys are in every line, null if unset; rare ones only if
    set.
    """
    fields = {}
    for name, value, is_rare in _COLUMNS:
        known = value(record, mask)
        if known or not is_rare:
            fields[name] = known
    return fitted(fields)
