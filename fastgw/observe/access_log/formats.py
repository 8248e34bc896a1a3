"""Records as lines of an access log. Pure.

Rule 1: a record is one line of at most `MAX_LINE` bytes with its newline, whatever a peer sent; values that are too
long are cut and end in `CUT`. Rule 2: bytes that are not text, and text that a terminal would obey, show as escapes, so
no peer can end a line or forge one.
Rule 3: a query is masked before anything else is done with it, and so is whatever else may hold one or a URL: path,
`Referer` and `User-Agent`.
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping
from functools import lru_cache
from time import gmtime, strftime
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import orjson

from fastgw.observe.access_log.record import TCP, UDP, Record

MAX_LINE: Final = 4096
"""Most bytes of a line: it is also one atomic write to a pipe (PIPE_BUF)."""
CUT: Final = "..."
ALWAYS_MASKED: Final = (
    *("token", "access_token", "id_token", "refresh_token", "auth_token", "api_token", "id_token_hint", "logout_token"),
    *("jwt", "bearer", "authorization", "auth", "session", "assertion", "client_assertion", "code"),
    *("secret", "client_secret", "password", "passwd", "pwd", "pass", "credential", "credentials"),
    *("key", "api_key", "x-api-key", "secret_key", "private_key"),
    *("sig", "signature", "x-amz-signature", "x-amz-credential", "x-amz-security-token"),
)
ECS_VERSION: Final = "8.11.0"

Mask = Callable[[bytes | None], bytes | None]
"""Replaces the values of secret parameters in a query, or in a URL with one."""
LineFormat = Callable[[Record, Mask], bytes]

# strftime's names of months depend on the locale.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_VERSIONS = {10: "1.0", 11: "1.1", 20: "2"}
_PROTOCOLS = {TCP: "TCP", UDP: "UDP", 10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}
_BETWEEN = re.compile("[-_]+")
_NAME = re.compile(rb"(?:^|[&;?#])([^&;?#=]*)=")
# The same names, of bytes that end in `=`. PERF: 0.30 us for a URL of 64 bytes, 1.40 for `_NAME` (CPython 3.11).
_NAMES_IN_TURN = re.compile(rb"(?>(?:[^&;?#=]*+[&;?#])*)([^&;?#=]*+)=[^&;?#]*+")
# What a URL has within a parameter of another one, where it is encoded, perhaps more than once.
_ENCODED_EQUALS = re.compile(rb"%(?>(?:25)*)3[dD]")
_MOST_DECODED, _LONGEST_NAME = 4, 512  # times that something may have been encoded; bytes of a name then
_USERINFO = re.compile(
    rb"((?::|%(?>(?:25)*)3[aA])(?:/|%(?>(?:25)*)2[fF]){2})"
    rb"(?:[^/?#&\s%]|%(?!(?>(?:25)*)(?:2[fF36]|3[fF])))+(@|%(?>(?:25)*)40)"
)
# Between words of a text, but not around a `=`.
_BETWEEN_WORDS = re.compile(rb"""((?<![=\s])[\s(),"'<>{}|]+(?!\s*=))""")
# PERF: a byte is looked for by its number: `in` with bytes makes and drops a TypeError first, 1,100 instructions each
# time (CPython 3.11, callgrind, micro/observe).
EQUALS: Final = ord("=")
_PERCENT, _AT = ord("%"), ord("@")
_REMEMBERED, _REMEMBERED_LENGTH = 4096, 64  # names of parameters: peers choose them
_NOT_PLAIN = re.compile(rb'[^\x20-\x7e]|["\\]')
# In UTF-8: U+0080-009F (C1), U+2028-202E (ends of lines, direction of text) and U+2066-2069 (direction).
_OBEYED = re.compile(rb"\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


class SecretNames:
    """The parameters of queries whose values are masked: `ALWAYS_MASKED` and those in `redact`.

    Names compare decoded, without case, and whether words in them are joined by `_`, `-` or nothing (`accessToken`). So
    do those in brackets, and before them (`user[password]`, `token[]`). Parameters may begin behind
    `;`, `?` and `#` too, for a query may hold a URL, encoded or not, and some upstreams split at `;`. A masked value
    ends at `&` only: to other upstreams what follows a `;` is still the secret. Of URLs user and password are masked.
    """

    def __init__(self, redact: Iterable[str]) -> None:
        names = [name.casefold() for name in (*ALWAYS_MASKED, *redact)]
        spelt = [_BETWEEN.sub(sign, name) for name in names for sign in ("_", "-", "")]
        self.names = frozenset((*names, *filter(None, spelt)))
        self._harmless: set[bytes] = set()

    def mask(self, query: bytes | None) -> bytes | None:
        """The same query, or URL with a query, with `***` for each secret value.

        Of one that is longer than a line only the beginning is read and kept: more could not be shown, and a peer that
        sends thousands of names would keep the worker busy with them.
        """
        if not query:
            return query
        if len(query) > MAX_LINE:
            query = query[:MAX_LINE] + CUT.encode()
        hides = (_AT in query or _PERCENT in query) and may_hide(query)  # nearly always without a call
        if not hides and self.none_in(query[: query.rfind(b"=") + 1]):
            return query
        return _USERINFO.sub(rb"\1***\2", b"&".join(map(self._masked, query.split(b"&"))))

    def none_in(self, query: bytes) -> bool:
        """Whether it has no parameter, but for those within URLs in it that are encoded (`may_hide`), that is masked.

        `query` ends with a `=`. What stands before that may be the name of a parameter without a value.
        """
        # PERF: nearly all names were seen before, and a set compares them all in one call: 0.4 us for a URL of 64
        # bytes, 2.3 with a cached call for each name (CPython 3.11, micro/observe).
        names = _NAMES_IN_TURN.findall(query)
        return self._harmless.issuperset(names) or self._learn(names)

    def _learn(self, names: list[bytes]) -> bool:
        if any(map(self._is_secret, set(names))):
            return False
        if len(self._harmless) > _REMEMBERED:
            self._harmless.clear()
        self._harmless.update(name for name in names if len(name) <= _REMEMBERED_LENGTH)
        return True

    def _is_secret(self, name: bytes) -> bool:
        if _PERCENT in name or b"+" in name:
            name = _decoded_name(name[-_LONGEST_NAME:].replace(b"+", b" "))
        if b"[" not in name:
            return self._is_masked(name)
        return any(self._is_masked(each.rstrip(b" ]")) for each in name.split(b"[") if each.strip(b" ]"))

    def _is_masked(self, name: bytes) -> bool:
        return name.decode(errors="replace").strip().casefold() in self.names

    def _masked(self, part: bytes) -> bytes:
        ends = [name.end() for name in _NAME.finditer(part) if self._is_secret(name[1])][:1]
        encoded = _ENCODED_EQUALS.search(part)
        if encoded is not None and self._hides_secret(part):
            ends.append(encoded.end())
        return part[: min(ends)] + b"***" if ends else part

    def _hides_secret(self, part: bytes) -> bool:
        """Whether a secret parameter shows when it is decoded, however often it was encoded."""
        for _ in range(_MOST_DECODED):
            # A name before a `=` that is there already was looked at before.
            before, part = part, unquote_to_bytes(part.replace(b"=", b"&"))
            if any(map(self._is_secret, set(map(_last_name, part.split(b"=")[:-1])))):
                return True
            if part == before:
                break
        return False


def _decoded_name(text: bytes) -> bytes:
    """Return the text after the last place where a parameter may begin, once it is decoded."""
    for _ in range(_MOST_DECODED):
        before, text = text, unquote_to_bytes(text)
        if text == before:
            break
    return _last_name(text)


def _last_name(text: bytes) -> bytes:
    """Return the text after the last place where a parameter may begin."""
    return text[max(map(text.rfind, (b"&", b";", b"?", b"#", b"="))) + 1 :]


def may_hide(text: bytes) -> bool:
    """Whether a URL in it may have a user, or parameters that are encoded."""
    return _AT in text or (_PERCENT in text and (b"%3D" in text or b"%3d" in text or b"%25" in text or b"%40" in text))


def masker(redact: Iterable[str]) -> Mask:
    """`SecretNames.mask` of these names."""
    return SecretNames(redact).mask


def json_line(record: Record, mask: Mask) -> bytes:
    """fastgw's own format: every field in every line, null where there is none; rare ones where they say something."""
    fields = _json_fields(record, mask)
    if record.subrequests:
        fields["subrequests"] = record.subrequests
    if record.shadowed:
        fields["shadow"] = record.shadowed
    if record.tunnel:
        fields["websocket"] = record.tunnel
    return _fitted(fields)


def _json_fields(record: Record, mask: Mask) -> dict[str, Any]:
    return {
        "time": _rfc3339(record.ended_date),
        "client": record.client or None,
        "consumer": record.consumer or None,
        "listener": record.listener,
        "route": record.route or None,
        "upstream": record.upstream or None,
        "target": record.target or None,
        "method": _text(record.method) if record.version in _VERSIONS else None,
        "scheme": _text(record.scheme),
        "host": _text(record.host),
        "path": _text(_path(record, mask)),
        "query": _text(mask(record.query)),
        "protocol": _PROTOCOLS[record.version] if not record.connect_protocol else _text(record.connect_protocol),
        "status": record.status,
        "fault": record.fault or None,
        "fault_detail": record.fault_detail or None,
        "request_bytes": record.request_bytes,
        "response_bytes": record.response_bytes,
        "duration_s": round(record.duration_s, 6),
        "upstream_s": round(record.upstream_s, 6) if record.upstream_s >= 0.0 else None,
        "retries": record.retries,
        "request_id": _text(record.request_id),
        "user_agent": _text(_words(record.user_agent, mask)),
        "referer": _text(mask(record.referer)),
    }


JSON_SLOTS: Final[Mapping[str, bytes]] = {
    "time": b'"%b.%03dZ"',
    "client": b'"%b"',
    "consumer": b"%b",
    "host": b'"%b"',
    "path": b'"%b"',
    "query": b"%b",
    "request_bytes": b"%d",
    "response_bytes": b"%d",
    "duration_s": b"%.6f",
    "upstream_s": b"%b",
    "retries": b"%d",
    "request_id": b"%b",
    "user_agent": b"%b",
    "referer": b"%b",
}
"""The fields of a JSON line that differ from request to request, in their order, and how each is put into a template.

What may be null is put in as JSON.
"""


def json_pieces(record: Record, slots: Container[str] = JSON_SLOTS) -> tuple[bytes, ...]:
    """Return the pieces before, between and behind the values of these fields in a line like the one of this record."""
    pieces, piece = [], b"{"
    for name, value in _json_fields(record, _as_it_is).items():
        piece += b'"%b":' % name.encode()
        if name in slots:
            pieces.append(piece)
            piece = b","
        else:
            piece += _json(value).rstrip(b"\n") + b","
    return *pieces, piece.removesuffix(b",") + b"}\n"


def json_template(pieces: tuple[bytes, ...]) -> bytes:
    """A template for `%` with a place for each value of `JSON_SLOTS`; the time takes two, its second and its ms."""
    slots = (*JSON_SLOTS.values(), b"")
    return b"".join(piece.replace(b"%", b"%%") + slot for piece, slot in zip(pieces, slots, strict=True))


def _as_it_is(query: bytes | None) -> bytes | None:
    return query


def ecs_line(record: Record, mask: Mask) -> bytes:
    """Elastic Common Schema, names dotted; ours, which it does not know, under `fastgw.`. Empty fields are left out."""
    is_http = record.version in _VERSIONS
    fields = {
        "@timestamp": _rfc3339(record.ended_date),
        "ecs.version": ECS_VERSION,
        "event.kind": "event",
        "event.category": ["web" if is_http else "network"],
        "event.dataset": "fastgw.access",
        "event.outcome": "success" if record.status < 400 else "failure",
        "event.duration": int(record.duration_s * 1e9),
        "client.address": record.client,
        "user.name": record.consumer,
        "http.version": _VERSIONS.get(record.version),
        "http.request.method": _text(record.method) if is_http else None,
        "http.request.id": _text(record.request_id),
        "http.request.referrer": _text(mask(record.referer)),
        "http.request.body.bytes": record.request_bytes if is_http else None,
        "http.response.status_code": record.status if is_http else None,
        "http.response.body.bytes": record.response_bytes if is_http else None,
        "url.scheme": _text(record.scheme),
        "url.domain": _text(record.host),
        "url.path": _text(_path(record, mask)),
        "url.query": _text(mask(record.query)),
        "user_agent.original": _text(_words(record.user_agent, mask)),
        "error.code": record.fault,
        "error.message": record.fault_detail,
        "fastgw.listener": record.listener,
        "fastgw.route": record.route,
        "fastgw.upstream": record.upstream,
        "fastgw.target": record.target,
        "fastgw.upstream_s": round(record.upstream_s, 6) if record.upstream_s >= 0.0 else None,
        "fastgw.retries": record.retries,
        "fastgw.subrequests": record.subrequests,
        "fastgw.shadow": record.shadowed,
        "fastgw.websocket": record.tunnel,
        "network.transport": None if is_http else _PROTOCOLS[record.version].lower(),
        "source.bytes": None if is_http else record.request_bytes,
        "destination.bytes": None if is_http else record.response_bytes,
        "fastgw.status": None if is_http else record.status,
    }
    return _fitted({name: value for name, value in fields.items() if value not in (None, "")})


def combined_line(record: Record, mask: Mask) -> bytes:
    """Apache's and nginx's `combined`, bytes escaped as nginx does it: `\\x22`."""
    query = mask(record.query)
    path = _path(record, mask) or b""
    request_target = path if query is None else b"%b?%b" % (path, query)
    protocol = _PROTOCOLS[record.version].encode()
    request = b"%b %b %b" % (record.method, request_target, protocol) if record.method else None
    if record.version not in _VERSIONS:
        request = b"%b %b %b" % (record.scheme, record.host or b"-", protocol)
    referer, user_agent = mask(record.referer), _words(record.user_agent, mask)
    client = record.client.encode(errors="backslashreplace")
    consumer = record.consumer.encode(errors="backslashreplace")
    date = _common_date(int(record.ended_date)).encode()
    limit = 2 * MAX_LINE
    while True:  # it ends: with 16 bytes of each value, escaped or not, there is room
        limit //= 2
        line = b'%b - %b [%b] "%b" %d %d "%b" "%b"\n' % (
            _quoted(client, limit),
            _quoted(consumer, limit).replace(b" ", b"\\x20"),
            date,
            _quoted(request, limit),
            record.status,
            record.response_bytes,
            _quoted(referer, limit),
            _quoted(user_agent, limit),
        )
        if len(line) <= MAX_LINE:
            return line


FORMATS: Final[Mapping[str, LineFormat]] = {"json": json_line, "ecs": ecs_line, "combined": combined_line}


def _path(record: Record, mask: Mask) -> bytes | None:
    """Return the path to show: behind the value of a secret parameter nothing of it, as a token may have slashes."""
    path = record.path
    return mask(path) if path and (EQUALS in path or _PERCENT in path or _AT in path) else path


def _words(text: bytes | None, mask: Mask) -> bytes | None:
    """A text that may have URLs and parameters among its words: a value ends with its word."""
    if not text or not (EQUALS in text or ((_AT in text or _PERCENT in text) and may_hide(text))):
        return text
    words = _BETWEEN_WORDS.split(text[: MAX_LINE + 1])
    return b"".join(mask(word) or b"" if EQUALS in word or may_hide(word) else word for word in words)


def _fitted(fields: dict[str, Any]) -> bytes:
    line = _json(fields)
    limit = MAX_LINE
    while len(line) > MAX_LINE:  # it ends: with 16 characters in each field, escaped or not, there is room
        limit //= 2
        line = _json({name: _cut(value, limit) if type(value) is str else value for name, value in fields.items()})
    return line


def _json(fields: Any) -> bytes:
    line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    return line if line.isascii() else _OBEYED.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), line)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def _text(value: bytes | None) -> str | None:
    return value.decode(errors="backslashreplace") if value else None


def _quoted(value: bytes | None, limit: int) -> bytes:
    if not value:
        return b"-"
    if len(value) > limit:
        value = value[: limit - len(CUT)] + CUT.encode()
    return _NOT_PLAIN.sub(lambda byte: b"\\x%02X" % byte[0][0], value)


def _rfc3339(date: float) -> str:
    second, ms = divmod(int(date * 1000), 1000)
    return f"{second_text(second).decode()}.{ms:03d}Z"


@lru_cache(4)  # thousands of lines share a second
def second_text(date: int) -> bytes:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(date)).encode()


@lru_cache(4)
def _common_date(date: int) -> str:
    at = gmtime(date)
    return (
        f"{at.tm_mday:02d}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}:{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} +0000"
    )
