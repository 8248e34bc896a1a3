"""Comparison of two records of the same request: what a client, an upstream or an operator would notice.

Headers that differ between any two requests (`IGNORED`) and values that were masked are left out; whether a header with
such a value is there, how often, and the other parts of the value are compared. A body that was cut is compared as far
as it goes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any, Final, NamedTuple

import orjson

from fastgw.http.field_names import DEBUG_TOKEN
from fastgw.recording.records import MASK, RecordedBody, RecordedCall, RecordedRequest

IGNORED: Final = frozenset(
    (
        # each message has its own
        b"date",
        b"x-request-id",
        b"traceparent",
        b"tracestate",
        b"b3",
        b"x-b3-traceid",
        b"x-b3-spanid",
        b"x-b3-parentspanid",
        b"x-b3-sampled",
        b"server-timing",
        # state of caches and limits, which begin empty
        b"age",
        b"cache-status",
        b"ratelimit",
        b"ratelimit-remaining",
        b"ratelimit-reset",
        b"x-ratelimit-remaining",
        b"x-ratelimit-reset",
        b"retry-after",
        # of the connection, and framing: bodies are compared
        b"via",
        b"connection",
        b"keep-alive",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"te",
        b"alt-svc",
        # times that are left
        b"grpc-timeout",
    )
)
"""Lower-case names of headers that differ between any two requests, or depend on what was before."""
_DEBUGGED: Final = frozenset((DEBUG_TOKEN, DEBUG_TOKEN + b"-story", b"cache-control"))
"""Headers that differ, too, if a request had a debug token."""
STATEFUL: Final = frozenset(
    (
        "rate_limited",
        "quota_exceeded",
        "too_many_at_once",
        "limits_unavailable",
        "auth_unavailable",
        "sessions_unavailable",
        "filter_timeout",
        "fault_injected",
        "overloaded",
        "circuit_open",
        "pool_full",
        "pool_timeout",
        "no_healthy_target",
        "client_left",
        "client_stalled",
        "request_timeout",
        "gateway_stopped",
    )
)
"""Faults that depend on the state of the gateway or on the client: such a recorded response is not compared."""
CACHED: Final = frozenset(("hit", "stale", "revalidated", "collapsed"))
MOST_PATHS: Final = 50
"""Maximum number of differences of one body."""
LATENCY_RATIO: Final = 3.0
LATENCY_S: Final = 0.05
"""A latency differs if it is both so many times and so many seconds more."""
LATENCY_REQUESTS: Final = 20
"""Minimum requests of a route for its latency to be compared: with fewer, the percentile is the slowest single one."""


class Difference(NamedTuple):
    """A difference of one request. `name`: of a header, the JSON path in a body, and so on."""

    where: str
    name: str


def compare(old: RecordedRequest, new: RecordedRequest | None, *, recorded: bool) -> list[Difference]:
    """Return the differences of a request. `new` None: it got no response. `recorded`: `old` is the recording itself,
    with the state that the gateway had then.
    """
    if recorded and (not old.status or old.fault in STATEFUL):
        return []
    if new is None or (not new.status and old.status):
        return [Difference("status", f"{old.status} -> none")]
    found = []
    if old.route != new.route:
        found.append(Difference("route", new.route))
    if old.status != new.status:
        found.append(Difference("status", f"{old.status} -> {new.status}"))
    found += _filters(old, new)
    refusals_differ = old.fault != new.fault
    if not (refusals_differ and old.status != new.status):
        lines, new_lines = _lines(old.response), _lines(new.response)
        is_debugged = DEBUG_TOKEN + b"-story" in {*lines, *new_lines}
        names = _headers(lines, new_lines, _DEBUGGED if is_debugged else ())
        found += (Difference("header", name) for name in names)
        found += (Difference("body", name) for name in _bodies(old, new))
    if not _answers_itself(old) and not _answers_itself(new):
        found += (Difference("upstream", name) for name in _upstream(old.calls, new.calls))
    return [*dict.fromkeys(found)]


def _answers_itself(record: RecordedRequest) -> bool:
    """Whether the gateway has answered without its upstreams: from a cache, or refused by a filter."""
    return record.cache_result in CACHED or (not record.calls and (bool(record.fault) or bool(record.answered_by)))


def _filters(old: RecordedRequest, new: RecordedRequest) -> Iterator[Difference]:
    if old.answered_by != new.answered_by:
        for name in (old.answered_by, new.answered_by):
            if name:
                yield Difference("filters", name)
    elif old.answered_by and old.fault != new.fault:
        yield Difference("filters", old.answered_by)
    if old.shadowed != new.shadowed:
        before, after = set(_decisions(old.shadowed)), set(_decisions(new.shadowed))
        for name in sorted({each.partition(":")[0].strip() for each in before ^ after}):
            yield Difference("filters", name)


def _decisions(shadowed: str) -> list[str]:
    return [each.strip() for each in shadowed.split(";") if each.strip()]


# --- headers ---

Lines = Mapping[bytes, list[bytes]]


def _lines(head: bytes) -> Lines:
    """Return the values of the headers by lower-case name."""
    found: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found.setdefault(name.strip().lower(), []).append(value.strip())
    return found


def _headers(old: Lines, new: Lines, also: Iterable[bytes] = ()) -> Iterator[str]:
    """Yield the names of headers that differ, as they are usually written."""
    for name in sorted({*old, *new} - IGNORED - {*also}):
        before, after = old.get(name, []), new.get(name, [])
        if len(before) != len(after) or not all(map(_agree, before, after)):
            yield "-".join(word.capitalize() for word in name.decode("latin-1").split("-"))


def _agree(old: bytes, new: bytes) -> bool:
    """Whether two values are the same, as far as neither is masked."""
    return old == new or _matches(old, new) or _matches(new, old)


def _matches(masked: bytes, value: bytes) -> bool:
    """Whether a value has the parts of a masked one, in their places."""
    first, *rest = masked.split(MASK)
    if not rest or not value.startswith(first):
        return False
    *between, last = rest
    at = len(first)
    for part in between:
        at = value.find(part, at) + len(part)
        if at < len(part):
            return False
    return len(value) - len(last) >= at and value.endswith(last)


# --- bodies ---


def _bodies(old: RecordedRequest, new: RecordedRequest) -> Iterator[str]:
    if old.response_body.content == new.response_body.content:
        if not old.response_body.is_cut and not new.response_body.is_cut and _trailers(old) != _trailers(new):
            yield "trailers"
        return
    kinds = [b" ".join(_lines(each.response).get(b"content-type", [])) for each in (old, new)]
    yield from body_differences(old.response_body, new.response_body, all(b"json" in kind for kind in kinds))


def _trailers(record: RecordedRequest) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in record.trailers]


def body_differences(old: RecordedBody, new: RecordedBody, is_json: bool) -> Iterator[str]:
    """Yield the JSON paths that differ, or `digest`."""
    if old.content == new.content and old.is_cut == new.is_cut:
        return
    if old.is_cut or new.is_cut:
        common = min(len(old.content), len(new.content))
        if old.content[:common] != new.content[:common]:
            yield "digest"
        return
    if is_json:
        try:
            paths = _paths(orjson.loads(old.content), orjson.loads(new.content), "$")
        except orjson.JSONDecodeError:
            pass
        else:
            yield from list(dict.fromkeys(paths))[:MOST_PATHS]
            return
    yield "digest"


def _paths(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            if key not in old or key not in new:
                yield f"{path}.{key}"
            else:
                yield from _paths(old[key], new[key], f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{path}[]"
        for before, after in zip(old, new, strict=False):
            yield from _paths(before, after, f"{path}[]")
    elif (old != new or type(old) is not type(new)) and not _has_mask(old) and not _has_mask(new):
        yield path


def _has_mask(value: Any) -> bool:
    return isinstance(value, str) and MASK.decode() in value


# --- upstreams ---


def _upstream(old: Sequence[RecordedCall], new: Sequence[RecordedCall]) -> Iterator[str]:
    """Yield what differs in the requests to upstreams. Attempts that were repeated alike count once."""
    before, after = _distinct(old), _distinct(new)
    pairs: list[tuple[RecordedCall, RecordedCall]] = []
    for same in (_same_request, _same_upstream, _any_request):
        for call in [*before]:
            other = next((each for each in after if same(call, each)), None)
            if other is not None:
                pairs.append((call, other))
                before.remove(call)
                after.remove(other)
    for call, other in pairs:
        yield from _call_differences(call, other)
    if before:
        yield "missing"
    if after:
        yield "additional"


def _distinct(calls: Sequence[RecordedCall]) -> list[RecordedCall]:
    sent = [call for call in calls if call.request]
    return [*{(call.upstream, _line(call), call.request_body.content): call for call in sent}.values()]


def _line(call: RecordedCall) -> bytes:
    return call.request[: call.request.find(b"\r\n")]


def _same_request(old: RecordedCall, new: RecordedCall) -> bool:
    return old.upstream == new.upstream and _line(old) == _line(new)


def _same_upstream(old: RecordedCall, new: RecordedCall) -> bool:
    return old.upstream == new.upstream


def _any_request(old: RecordedCall, new: RecordedCall) -> bool:
    return True


def _call_differences(old: RecordedCall, new: RecordedCall) -> Iterator[str]:
    if old.upstream != new.upstream:
        yield "name"
    method, target, *_ = _line(old).split(b" ")
    new_method, new_target, *_ = _line(new).split(b" ")
    if method != new_method:
        yield "method"
    path, _, query = target.partition(b"?")
    new_path, _, new_query = new_target.partition(b"?")
    if path != new_path:
        yield "path"
    if query != new_query:
        yield "query"
    lines, new_lines = _lines(old.request), _lines(new.request)
    hosts = _host(lines, old.target), _host(new_lines, new.target)
    if hosts[0] != hosts[1]:
        yield "host"
    yield from _headers(lines, new_lines, (b"host",))
    if any(body_differences(old.request_body, new.request_body, False)):
        yield "body"


def _host(lines: Lines, target: str) -> bytes:
    """Return the `Host` that was sent; b"": that of the target, which load balancing has selected."""
    host = b"".join(lines.get(b"host", []))
    return b"" if host == target.encode() or host == target.encode().partition(b":")[0] else host


# --- latency ---


def slower(old: Sequence[float], new: Sequence[float]) -> bool:
    """Whether the 95th percentile of a route's latencies is clearly larger."""
    if min(len(old), len(new)) < LATENCY_REQUESTS:
        return False
    before, after = (sorted(each)[ceil(0.95 * len(each)) - 1] for each in (old, new))
    return after > before * LATENCY_RATIO and after > before + LATENCY_S
