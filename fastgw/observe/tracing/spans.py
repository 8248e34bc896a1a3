"""Spans of a finished request, with the attributes of OpenTelemetry's stable semantic conventions for HTTP, and those
for gRPC.

A server span for the request; a client span for each attempt at an upstream, also for those of sub-requests; and an
internal span for each filter that the request has waited for. Attributes that are alike for many requests are encoded
once (`Common`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, TypeAlias, final

from fastgw.config.base.route_patterns import PathPattern
from fastgw.errors import Side
from fastgw.http.grpc.calls import is_grpc
from fastgw.http.grpc.status import GrpcStatus
from fastgw.observe.access_log.finished_exchange import CLIENT_LEFT, FinishedExchange, first_byte_at, target_of
from fastgw.observe.access_log.formats import Mask, masked_path, masked_words
from fastgw.observe.metrics.families import METHOD_INDEXES
from fastgw.observe.tracing.trace import EndedAttempt
from fastgw.observe.tracing.tracer import Trace
from fastgw.routing.table import Conditions, Router

Attribute: TypeAlias = tuple[str, str | int]

INTERNAL: Final = 1
SERVER: Final = 2
CLIENT: Final = 3
"""Kinds of spans, with their numbers in OTLP."""
MOST_TEXT: Final = 2048
"""Maximum length of an attribute; longer ones are cut."""
_MOST_COMMON: Final = 8192
_VERSIONS: Final = {10: "1.0", 11: "1.1", 20: "2"}
_PORTS: Final = {b"http": 80, b"https": 443}
HTTP_OK: Final = 200
ERRORS_OF_CLIENTS: Final = 400
"""Responses from this status on are errors for a client."""
_UNIX: Final = "unix:"
_SOCKET_HOST: Final = "localhost"
"""Host in the URL of a target that is a unix socket, as in `Host`."""
_SERVER_ERRORS: Final = frozenset(
    (
        GrpcStatus.UNKNOWN,
        GrpcStatus.DEADLINE_EXCEEDED,
        GrpcStatus.UNIMPLEMENTED,
        GrpcStatus.INTERNAL,
        GrpcStatus.UNAVAILABLE,
        GrpcStatus.DATA_LOSS,
    )
)
"""Statuses that are errors of a server (semantic conventions for gRPC); for a client, all but OK are."""


class Common:
    """Attributes that many spans share. `encoded`: set by the encoder."""

    __slots__ = ("attributes", "encoded", "is_error", "kind", "name")

    def __init__(self, name: str, kind: int, attributes: Sequence[Attribute], is_error: bool) -> None:
        self.name, self.kind, self.attributes, self.is_error = name, kind, attributes, is_error
        self.encoded: bytes | None = None


class TraceSpan(NamedTuple):
    """A finished span. Times are nanoseconds since the epoch; ids are hexadecimal digits."""

    trace: Trace
    span_id: bytes
    parent_id: bytes
    """b"" = it is the root."""
    is_remote: bool
    """Whether its parent is in another process."""
    begun_ns: int
    ended_ns: int
    common: Common
    own: Sequence[Attribute]
    """Further attributes, after the common ones."""
    events: Sequence[tuple[int, str]] = ()


class Routed(Protocol):
    """A route of the configuration."""

    @property
    def patterns(self) -> Sequence[PathPattern]:
        """Path patterns of the route; after each that ignores a trailing slash, the other form of it."""


class _PatternSubject(NamedTuple):
    """A path, as the route table asks for it."""

    path: bytes
    host: bytes = b""
    method: bytes = b""
    query: bytes | None = None

    def values(self, name: bytes) -> list[bytes]:
        return []


class LabelledTarget(Protocol):
    @property
    def label(self) -> str: ...
    @property
    def base_path(self) -> bytes: ...
    @property
    def tls(self) -> object:
        """None: requests are sent without TLS."""


class Targeted(Protocol):
    """An upstream of the configuration."""

    @property
    def targets(self) -> Sequence[LabelledTarget]: ...


class NewIds(Protocol):
    def new_span_id(self) -> bytes: ...


@final
class SpanBuilder:
    """Builds and encodes the spans of requests. `mask`: hides secrets in queries; `templates`: path patterns of the
    routes, by name; `upstreams`: those of the configuration, by name; `sent_target`: returns the request target that
    the route of a request sends to a target.
    """

    def __init__(
        self,
        encode: Callable[[TraceSpan], bytes],
        mask: Mask,
        templates: Mapping[str, Routed],
        upstreams: Mapping[str, Targeted] = MappingProxyType({}),
        sent_target: Callable[[FinishedExchange, LabelledTarget], bytes] = lambda ended, _: target_of(ended.head),
    ) -> None:
        self._encode = encode
        self._mask = mask
        self._templates = templates
        self._upstreams = upstreams
        self._sent_target = sent_target
        self._patterns: dict[str, str | Router[str]] = {}
        self._servers: dict[tuple[object, ...], Common] = {}
        self._clients: dict[tuple[object, ...], Common] = {}
        self._waits: dict[str, Common] = {}

    def use_generation(self, templates: Mapping[str, Routed], upstreams: Mapping[str, Targeted]) -> None:
        """Use the path patterns and upstreams of another generation."""
        self._templates, self._upstreams = templates, upstreams
        self._patterns = {}

    def spans_of(self, ended: FinishedExchange, trace: Trace, now: float, date: float, ids: NewIds) -> list[bytes]:
        """Return the encoded spans of a request that has ended. `now`: monotonic seconds; `date`: epoch seconds."""
        offset = date - now
        begun_ns, ended_ns = int((first_byte_at(ended) + offset) * 1e9), int(date * 1e9)
        call = is_grpc(ended.head) if ended.head.version == 20 else False
        own, common = self._server(ended, call)
        own_span = trace.span_id
        server = TraceSpan(trace, own_span, trace.parent_id, bool(trace.parent_id), begun_ns, ended_ns, common, own)
        spans = [self._encode(server)]
        for each in trace.attempts:
            if each.is_as_received:
                method, _, received = each.request_line.partition(b" ")
                sent = self._target_sent(ended, each.upstream, each.target, received)
                each = each._replace(request_line=b"%b %b" % (method, sent))
            spans.append(self.attempt_span(each, trace, offset, ids))
        if not trace.attempts and ended.target and not trace.is_sampled:
            sent_ns = int((ended.begun_at + offset) * 1e9)  # a head that came slowly is no time of the target
            spans.append(self._encode(self._single(ended, trace, sent_ns, ended_ns, ids, call)))
        for wait in trace.waits:
            common = self._waits.get(wait.name) or self._wait(wait.name)
            times = int((wait.begun_at + offset) * 1e9), int((wait.ended_at + offset) * 1e9)
            spans.append(self._encode(TraceSpan(trace, ids.new_span_id(), own_span, False, *times, common, ())))
        return spans

    def _server(self, ended: FinishedExchange, call: bool) -> tuple[list[Attribute], Common]:
        head, route, fault = ended.head, ended.route, ended.fault
        raw_path = head.raw_path
        name = "" if route is None else route.name
        status = CLIENT_LEFT if ended.response is None else ended.response.status
        pattern = self._pattern_of(name, head.path)
        label = "" if fault is None else fault.label
        key = (
            *(
                head.method,
                name,
                pattern,
                getattr(head, "authority", head.host),
                ended.scheme,
                head.version,
                status,
                label,
            ),
            *(ended.listener.name, ended.cache_result, ended.upstream, ended.grpc_status, call and raw_path),
        )
        common = self._servers.get(key)
        if common is None:
            common = _remember_common(self._servers, key, _server_common(ended, status, label, pattern, call))
        agent, body = head.first(b"user-agent"), ended.request_body
        request_bytes = ended.request_bytes if body is None else body.bytes
        own = _known(
            ("url.path", _text(self._shown(raw_path))),
            ("client.address", ended.client_ip),
            ("url.query", _text(self._mask(head.query) or b"") if head.query else None),
            ("user_agent.original", _text(masked_words(agent, self._mask) or b"") if agent else None),
            ("fastgw.request_id", _text(ended.request_id) if ended.request_id else None),
            ("fastgw.consumer", None if ended.consumer is None else ended.consumer.name),
            ("http.request.body.size", request_bytes or None),
            ("http.response.body.size", ended.response_bytes),
            ("fastgw.fault_detail", ended.why[:MOST_TEXT] or None),
            ("http.request.method_original", _unknown_method(head.method)),
        )
        return own, common

    def _pattern_of(self, route: str, path: bytes) -> str:
        """Return the pattern of a route that its path has matched; "": the route takes any path."""
        found = self._patterns.get(route)
        if found is None:
            routed = self._templates.get(route)
            if routed is None:
                return ""
            found = self._patterns[route] = _table_of(routed.patterns)
        if isinstance(found, str):
            return found
        match = found.find(_PatternSubject(path))
        return "" if match is None else match[0]

    def attempt_span(self, each: EndedAttempt, trace: Trace, offset: float, ids: NewIds) -> bytes:
        """Return the encoded span of an attempt. `offset`: epoch seconds of the monotonic clock's zero."""
        method, target = each.request_line.split(b" ", 2)[:2]
        common = self._client_common(method, target, each)
        own = self._client_own(method, target, each)
        steps = (
            (each.queue_left_at, "fastgw.queue_left"),
            (each.tcp_at, "fastgw.tcp_connected"),
            (each.tls_at, "fastgw.tls_established"),
            (each.connected_at, "fastgw.connection_acquired"),
            (each.head_at, "fastgw.first_byte"),
        )
        events = [(int((at + offset) * 1e9), name) for at, name in steps if at]
        times = int((each.begun_at + offset) * 1e9), int(((each.ended_at or each.begun_at) + offset) * 1e9)
        span_id = each.span_id or ids.new_span_id()
        return self._encode(TraceSpan(trace, span_id, trace.span_id, False, *times, common, own, events))

    def _single(
        self, ended: FinishedExchange, trace: Trace, begun_ns: int, ended_ns: int, ids: NewIds, call: bool
    ) -> TraceSpan:
        """Return the span of the only attempt of a request that was not sampled, from what is known for the log."""
        head_at = ended.begun_at + ended.upstream_s if ended.upstream_s >= 0.0 else 0.0
        status = 0 if ended.response is None or not head_at else ended.response.status
        fault = "" if ended.fault is None or status else ended.fault.label
        target = self._target(ended.upstream, ended.target)
        scheme = b"http" if target is None or target.tls is None else b"https"
        method, path = ended.head.method, self._target_sent(ended, ended.upstream, ended.target, target_of(ended.head))
        each = EndedAttempt(
            *(b"", ended.upstream, ended.target, scheme, "first", 1, True, status, fault, 0.0, 0.0, 0.0, 0.0, b""),
            grpc_status=ended.grpc_status,
            is_call=call,
        )
        common, own = self._client_common(method, path, each), self._client_own(method, path, each)
        return TraceSpan(trace, ids.new_span_id(), trace.span_id, False, begun_ns, ended_ns, common, own)

    def _client_common(self, method: bytes, target: bytes, each: EndedAttempt) -> Common:
        rpc = target.partition(b"?")[0] if each.is_call else b""
        key = (
            *(method, each.upstream, each.target, each.scheme, each.kind, each.number, each.reused, each.status),
            *(each.fault, each.grpc_status, rpc),
        )
        common = self._clients.get(key)
        return common or _remember_common(self._clients, key, _client_common(method, each, rpc))

    def _target(self, upstream: str, label: str) -> LabelledTarget | None:
        found = self._upstreams.get(upstream)
        return None if found is None else next((each for each in found.targets if each.label == label), None)

    def _target_sent(self, ended: FinishedExchange, upstream: str, label: str, received: bytes) -> bytes:
        """Return the request target of an attempt that was not recorded. `received`: that of the client's request."""
        target = self._target(upstream, label)
        return received if target is None else self._sent_target(ended, target)

    def _client_own(self, method: bytes, target: bytes, each: EndedAttempt) -> list[Attribute]:
        return _known(
            ("url.full", self._url(each.scheme, each.target, target)),
            ("http.request.method_original", _unknown_method(method)),
        )

    def _url(self, scheme: bytes, host: str, target: bytes) -> str:
        if host.startswith(_UNIX):
            host = _SOCKET_HOST
        path, mark, query = target.partition(b"?")
        shown = self._shown(path)
        if mark:
            shown += mark + (self._mask(query) or b"")
        return f"{scheme.decode()}://{host}{_text(shown)}"

    def _shown(self, path: bytes) -> bytes:
        return masked_path(path, self._mask) or b""

    def _wait(self, name: str) -> Common:
        common = Common(f"filter {name}", INTERNAL, (("fastgw.filter", name),), False)
        return _remember_common(self._waits, name, common)


def _remember_common(known: dict, key: object, common: Common) -> Common:  # type: ignore[type-arg]  # of several kinds of keys
    if len(known) >= _MOST_COMMON:
        known.clear()
    known[key] = common
    return common


def _server_common(ended: FinishedExchange, status: int, fault: str, pattern: str, call: bool) -> Common:
    head, route = ended.head, ended.route
    method = _method(head.method)
    host, port = _split(getattr(head, "authority", head.host), ended.scheme)
    attributes = _known(
        ("http.request.method", method),
        ("url.scheme", ended.scheme.decode()),
        ("server.address", host),
        ("server.port", port),
        ("network.protocol.version", _VERSIONS.get(head.version, "")),
        ("fastgw.listener", ended.listener.name),
        ("http.response.status_code", None if ended.response is None else status),
        ("http.route", pattern or None),
        ("fastgw.route", None if route is None else route.name),
        ("fastgw.upstream", ended.upstream or None),
        ("fastgw.cache", ended.cache_result or None),
        ("fastgw.fault", fault or None),
    )
    is_error = status >= 500 or _is_broken_off(ended, status)
    name = f"{'HTTP' if method == '_OTHER' else method} {pattern}".rstrip()
    if call:
        is_routed = route is not None
        name, is_error = _add_rpc(
            attributes, head.raw_path, ended.grpc_status, _SERVER_ERRORS, is_error, is_routed=is_routed
        )
    if is_error:
        attributes.append(("error.type", fault or (ended.grpc_status if call and status < 500 else str(status))))
    return Common(name, SERVER, attributes, is_error)


def _is_broken_off(ended: FinishedExchange, status: int) -> bool:
    """Whether a response has begun well and did not arrive whole, and not because of the client."""
    return status < ERRORS_OF_CLIENTS and ended.fault is not None and ended.fault.side is not Side.DOWNSTREAM


def _client_common(method: bytes, each: EndedAttempt, rpc: bytes) -> Common:
    shown = _method(method)
    is_socket = each.target.startswith(_UNIX)
    host, _, port = (each.target.removeprefix(_UNIX), "", "") if is_socket else each.target.rpartition(":")
    # The attempt has the outcome of a call for health checks, such as 503; a call that has a status was answered 200.
    status = HTTP_OK if each.status and rpc and each.grpc_status else each.status
    attributes = _known(
        ("http.request.method", shown),
        ("server.address", (host or each.target).strip("[]")),
        ("fastgw.attempt", each.kind),
        ("fastgw.connection_reused", str(each.reused).lower()),
        ("fastgw.upstream", each.upstream or None),
        ("server.port", int(port) if port.isdecimal() else None),
        ("http.request.resend_count", each.number - 1 if each.number > 1 else None),
        ("http.response.status_code", status or None),
    )
    is_error = status >= ERRORS_OF_CLIENTS or bool(each.fault)
    name = "HTTP" if shown == "_OTHER" else shown
    if rpc:
        errors = frozenset(GrpcStatus) - {GrpcStatus.OK}
        name, is_error = _add_rpc(attributes, rpc, each.grpc_status, errors, is_error)
    if is_error:
        of_call = each.grpc_status if rpc and status < ERRORS_OF_CLIENTS else str(status)
        attributes.append(("error.type", each.fault or of_call))
    return Common(name, CLIENT, attributes, is_error)


def _add_rpc(
    attributes: list[Attribute],
    path: bytes,
    status: str,
    errors: Iterable[GrpcStatus],
    is_error: bool,
    *,
    is_routed: bool = True,
) -> tuple[str, bool]:
    """Add the attributes of a gRPC call. Returns the name of its span, and whether it has failed.

    Clients choose the path, so the method that no route has, or that the server does not know, is `_OTHER`.
    """
    method = _text(path).strip("/")
    known = GrpcStatus.__members__.get(status)
    attributes.append(("rpc.system.name", "grpc"))
    if is_routed and known is not GrpcStatus.UNIMPLEMENTED:
        attributes.append(("rpc.method", method))
        name = method
    else:
        attributes += (("rpc.method", "_OTHER"), ("rpc.method_original", method))
        name = "grpc"
    if known is not None:
        attributes.append(("rpc.response.status_code", known.name))
        is_error = known in errors
    return name, is_error


def _method(method: bytes) -> str:
    return method.decode() if method in METHOD_INDEXES else "_OTHER"


def _split(authority: bytes, scheme: bytes) -> tuple[str, int]:
    """Return host and port of an authority."""
    host, colon, port = _text(authority).rpartition(":")
    if colon and port.isdecimal():
        return host.strip("[]"), int(port)
    return _text(authority).strip("[]"), _PORTS.get(scheme, 0)


def _unknown_method(method: bytes) -> str | None:
    return None if method in METHOD_INDEXES else _text(method)


def _known(*attributes: tuple[str, str | int | None]) -> list[Attribute]:
    """Return the attributes that have a value."""
    return [(name, value) for name, value in attributes if value is not None]


def _table_of(patterns: Sequence[PathPattern]) -> str | Router[str]:
    """Return the table that finds the pattern of a path as the route table does, or the only pattern."""
    text = ""
    rules: list[tuple[Conditions, str]] = []
    for pattern in patterns:
        if pattern.written:
            text = pattern.text
        rules.append((Conditions(paths=(pattern,)), text))
    return text if all(each == text for _, each in rules) else Router(rules)


def _text(value: bytes) -> str:
    return value[:MOST_TEXT].decode(errors="backslashreplace")
