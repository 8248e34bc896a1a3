"""Tracers: where a trace comes from, who is sampled, what is sent on; and spans, as opentelemetry-proto reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from fastgw.config.base.route_patterns import either_slash, parse_path
from fastgw.config.base.value_types import Url
from fastgw.config.settings.telemetry import OtlpExport, Sampling, Traces
from fastgw.errors import Fault
from fastgw.http.grpc.protobuf import rejected_items
from fastgw.http.http1.parser import parse_request
from fastgw.observe.access_log.secret_names import masker
from fastgw.observe.tracing.otlp import OtlpEnvelope
from fastgw.observe.tracing.otlp_encoder import OtlpEncoder
from fastgw.observe.tracing.queue import SpanQueue
from fastgw.observe.tracing.spans import CLIENT, Common, SpanBuilder, TraceSpan
from fastgw.observe.tracing.trace import EndedAttempt, EndedWait
from fastgw.observe.tracing.trace_rate import TraceRate
from fastgw.observe.tracing.tracer import Tracer
from fastgw.observe.tracing.zipkin import ZipkinFormat

ID, SPAN = b"12345678901234567890123456789012", b"1234567890123456"
SENT = b"feedfeedfeedfeed"
EXPORT = OtlpExport(url=Url("http", "collector", 4318))
PATHS = "/a", "/a/*", "/a/b/{id}", "/ä/{id}", "~^/v[0-9]+/", "~^/v1/"


class Routed:
    def __init__(self, *paths: str) -> None:
        self.patterns = [each for path in paths for each in either_slash(parse_path(path))]


@dataclass
class Named:
    name: str


@dataclass
class Answered:
    status: int


@dataclass
class Ended:
    """A finished exchange."""

    head: Any
    trace: Any = None
    route: Any = None
    fault: Any = None
    response: Any = field(default_factory=lambda: Answered(200))
    listener: Any = field(default_factory=lambda: Named("main"))
    scheme: bytes = b"http"
    cache_result: str = ""
    upstream: str = ""
    target: str = ""
    grpc_status: str = ""
    client_ip: str = "192.0.2.7"
    request_id: bytes = b""
    consumer: Any = None
    request_body: Any = None
    request_bytes: int = 0
    response_bytes: int = 0
    why: str = ""
    begun_at: float = 100.0
    upstream_s: float = -1.0


class World:
    """A tracer and what it has queued."""

    def __init__(self, encode: Any = None, **traces: Any) -> None:
        self.queued: list[bytes] = []
        routes = {"user": Routed("/users/{id}"), "two": Routed(*PATHS), "any": Routed()}
        builder = SpanBuilder(encode or OtlpEncoder().encode, masker(()), routes)
        self.tracer = Tracer(Traces(otlp=EXPORT, **traces), 1, builder, self.queued.extend)

    def spans(self) -> list[Span]:
        request = ExportTraceServiceRequest.FromString(
            OtlpEnvelope({"service.name": "a"}, "fastgw", "1").seal(self.queued)
        )
        (resource,) = request.resource_spans
        (scope,) = resource.scope_spans
        return list(scope.spans)


def head_of(*lines: bytes, request_line: bytes = b"GET /users/1 HTTP/1.1") -> Any:
    return parse_request(b"\r\n".join((request_line, b"Host: a.test", *lines, b"", b"")), 100)


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@pytest.mark.parametrize(
    ("line", "parent", "sampled", "flags"),
    [
        (b"traceparent: 00-%b-%b-00" % (ID, SPAN), SPAN, False, 0),
        (b"traceparent: 00-%b-%b-01" % (ID, SPAN), SPAN, True, 1),
        (b"traceparent: 00-%b-%b-03" % (ID, SPAN), SPAN, True, 3),
        (b"traceparent: 00-%b-%b-f2" % (ID, SPAN), SPAN, False, 2),
        (b"traceparent: cc-%b-%b-01-x" % (ID, SPAN), SPAN, True, 1),
    ],
)
def test_a_trace_is_continued(line: bytes, parent: bytes, sampled: bool, flags: int) -> None:
    trace = World(sampling=Sampling(ratio=0.0)).tracer.begin_trace(head_of(line))
    assert (trace.trace_id, trace.parent_id, bool(trace.is_sampled), trace.flags) == (ID, parent, sampled, flags)
    assert len(trace.span_id) == 16
    assert trace.span_id != parent


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (b"traceparent: 00-%b-%b-0A" % (ID, SPAN),),
        (b"traceparent: 00-%b-%b-01" % (ID, b"0" * 16),),
        (b"traceparent: 00-%b-%b-01" % (b"0" * 32, SPAN),),
        (b"traceparent: ff-%b-%b-01" % (ID, SPAN),),
        (b"traceparent: 00-%b-%b-01" % (ID, SPAN),) * 2,
    ],
)
def test_a_trace_begins_with_random_ids(lines: tuple[bytes, ...]) -> None:
    tracer = World().tracer
    traces = [tracer.begin_trace(head_of(*lines)) for _ in range(100)]
    assert len({trace.trace_id for trace in traces} | {ID}) == 101
    assert len({trace.span_id for trace in traces}) == 100
    assert all(trace.parent_id == b"" and trace.flags == 3 and len(trace.trace_id) == 32 for trace in traces)


@pytest.mark.parametrize(("ratio", "fewest", "most"), [(0.0, 0, 0), (0.5, 350, 650), (1.0, 1000, 1000)])
def test_the_ratio_decides_without_a_decision_of_the_caller(ratio: float, fewest: int, most: int) -> None:
    tracer = World(sampling=Sampling(ratio=ratio)).tracer
    head = head_of()
    assert fewest <= sum(tracer.begin_trace(head).is_sampled for _ in range(1000)) <= most


def test_the_ratio_decides_by_the_trace_id_alike_everywhere() -> None:
    line = b"traceparent: 00-" + b"0" * 17 + b"1%014x-" + SPAN + b"-01"
    tracer = World(sampling=Sampling(parent=False, ratio=0.5)).tracer
    low, high = (tracer.begin_trace(head_of(line % tail)) for tail in ((1 << 55) - 1, 1 << 55))
    assert (bool(low.is_sampled), low.flags, bool(high.is_sampled), high.flags) == (True, 1, False, 0)


def test_the_rate_bounds_what_the_ratio_selects() -> None:
    tracer = World(sampling=Sampling(rate=3.0)).tracer
    head = head_of()
    assert 3 <= sum(tracer.begin_trace(head).is_sampled for _ in range(100)) < 100
    assert tracer.begin_trace(head_of(b"traceparent: 00-%b-%b-01" % (ID, SPAN))).is_sampled


def test_a_rate_is_refilled() -> None:
    rate = TraceRate(2.0)
    assert [rate.try_take(10.0) for _ in range(3)] == [True, True, False]
    assert [rate.try_take(10.5) for _ in range(2)] == [True, False]
    assert [rate.try_take(99.0) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("traces", "lines"),
    [
        ({}, b"traceparent: 00-%b-%b-01\r\n" % (ID, SENT)),
        ({"propagation": ("b3",)}, b"b3: %b-%b-1\r\n" % (ID, SENT)),
        (
            {"propagation": ("b3", "tracecontext"), "b3": "multi"},
            b"X-B3-TraceId: %b\r\nX-B3-SpanId: %b\r\nX-B3-Sampled: 1\r\ntraceparent: 00-%b-%b-01\r\n"
            % (ID, SENT, ID, SENT),
        ),
    ],
)
def test_all_formats_are_written(traces: dict[str, Any], lines: bytes) -> None:
    received = b"traceparent: 00-%b-%b-01" if "propagation" not in traces else b"b3: %b-%b-1"
    trace = World(**traces).tracer.begin_trace(head_of(received % (ID, b"9" * 16)))
    dropped, added = trace.rewrite(frozenset((b"a",)), b"A: b\r\n", SENT)
    assert added == b"A: b\r\n" + lines
    assert b"a" in dropped
    assert (b"traceparent" in dropped) == (b"traceparent" in lines)
    assert (b"x-b3-sampled" in dropped) == bool(traces)
    assert trace.rewrite(frozenset(), b"")[1] == lines.replace(SENT, trace.span_id)


@pytest.mark.parametrize(
    ("sampling", "status", "seconds", "kept"),
    [
        ({}, 200, 9.0, False),
        ({}, 500, 0.0, True),
        ({"errors": False}, 500, 0.0, False),
        ({"slower_than": 1.0}, 200, 1.5, True),
        ({"slower_than": 1.0}, 200, 0.5, False),
    ],
)
def test_errors_and_slow_requests_are_kept(sampling: dict[str, Any], status: int, seconds: float, kept: bool) -> None:
    trace = World(sampling=Sampling(ratio=0.0, **sampling)).tracer.begin_trace(head_of())
    assert trace.is_kept(status, seconds) is kept


def test_a_span_that_is_kept_late_is_the_parent_that_the_upstream_was_told() -> None:
    world = World(sampling=Sampling(ratio=0.0))
    trace = world.tracer.begin_trace(head_of())
    _, added = trace.rewrite(frozenset(), b"")
    trace.record(
        Ended(
            head_of(),
            trace,
            upstream="users",
            target="[::1]:9001",
            fault=Fault.UPSTREAM_TIMEOUT,
            response=Answered(504),
        ),
        101.0,
        1_700_000_000.0,
    )
    server, client = world.spans()
    assert added == b"traceparent: 00-%b-%b-02\r\n" % (trace.trace_id, server.span_id.hex().encode())
    assert client.parent_span_id == server.span_id
    assert (client.kind, attributes(client)["server.address"], attributes(client)["server.port"]) == (3, "::1", 9001)
    assert attributes(client)["error.type"] == "upstream_timeout"


def test_what_is_recorded_of_a_request_is_in_its_spans() -> None:
    world = World()
    head = head_of(
        b"User-Agent: test",
        b"traceparent: 00-%b-%b-01" % (ID, SPAN),
        b"tracestate: a=1",
        request_line=b"POST /a/b/1?token=abc HTTP/1.1",
    )
    trace = world.tracer.begin_trace(head)
    attempt = EndedAttempt(
        *(b"a" * 16, "users", "u-1:9001", b"https", "retry", 2, False, 404, ""),
        *(100.25, 100.5, 100.75, 100.875, b"POST /sent?token=abc HTTP/1.1"),
    )
    trace.attempts.append(attempt)
    trace.waits.append(EndedWait("auth", 100.0, 100.25))
    ended = Ended(
        head, trace, Named("two"), request_id=b"id", consumer=Named("alice"), request_bytes=5, response_bytes=300
    )
    trace.record(ended, 101.0, 1_700_000_001.0)
    server, client, wait = world.spans()
    assert {span.trace_id.hex().encode() for span in (server, client, wait)} == {ID}
    assert (server.name, server.trace_state, server.parent_span_id.hex().encode()) == ("POST /a/b/{id}", "a=1", SPAN)
    assert (server.start_time_unix_nano, server.end_time_unix_nano) == (1_700_000_000 * 10**9, 1_700_000_001 * 10**9)
    assert (server.flags, client.flags) == (0x301, 0x101)
    assert attributes(server) == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "server.address": "a.test",
        "server.port": 80,
        "network.protocol.version": "1.1",
        "fastgw.listener": "main",
        "http.response.status_code": 200,
        "http.route": "/a/b/{id}",
        "fastgw.route": "two",
        "url.path": "/a/b/1",
        "client.address": "192.0.2.7",
        "url.query": "token=***",
        "user_agent.original": "test",
        "fastgw.request_id": "id",
        "fastgw.consumer": "alice",
        "http.request.body.size": 5,
        "http.response.body.size": 300,
    }
    assert attributes(client)["url.full"] == "https://u-1:9001/sent?token=***"
    assert attributes(client)["http.request.resend_count"] == 1
    assert attributes(client)["error.type"] == "404"
    assert client.status.code == 2
    steps = [event.time_unix_nano - server.start_time_unix_nano for event in client.events]
    assert [round(step / 1e6) for step in steps] == [500, 750]
    assert (wait.name, wait.kind) == ("filter auth", 1)
    assert round((wait.end_time_unix_nano - wait.start_time_unix_nano) / 1e6) == 250


@pytest.mark.parametrize(
    ("route", "path", "pattern"),
    [
        ("two", b"/a", "/a"),
        ("two", b"/a/", "/a"),
        ("two", b"/%61", "/a"),
        ("two", b"/a/1", "/a/*"),
        ("two", b"/a/b/1", "/a/b/{id}"),
        ("two", b"/a/b/1/2", "/a/*"),
        ("two", b"/x/../a/b/1", "/a/b/{id}"),
        ("two", b"/%c3%a4/1", "/ä/{id}"),
        ("two", b"/v1/x", "~^/v[0-9]+/"),
        ("user", b"/users/1", "/users/{id}"),
        ("user", b"/users/1/", "/users/{id}"),
        ("any", b"/a", None),
        ("gone", b"/a", None),
    ],
)
def test_the_route_of_a_span_is_the_pattern_that_has_matched(route: str, path: bytes, pattern: str | None) -> None:
    world = World()
    head = head_of(request_line=b"GET %b HTTP/1.1" % path)
    for _ in range(2):
        world.tracer.begin_trace(head).record(Ended(head, route=Named(route)), 100.5, 1000.0)
    for span in world.spans():
        assert attributes(span).get("http.route") == pattern
        assert span.name == f"GET {pattern or ''}".rstrip()


def test_zipkin_has_the_same() -> None:
    world = World(ZipkinFormat("edge").encode)
    trace = world.tracer.begin_trace(head_of())
    trace.record(Ended(head_of(), trace, Named("user"), response=Answered(503)), 101.0, 1_700_000_001.0)
    (span,) = map(orjson.loads, world.queued)
    assert span["traceId"] == trace.trace_id.decode()
    assert (span["name"], span["kind"], span["duration"]) == ("get /users/{id}", "SERVER", 1_000_000)
    assert span["tags"]["error"] == "503"
    assert span["localEndpoint"] == {"serviceName": "edge"}


TEXT = st.text(max_size=300)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(TEXT, st.one_of(TEXT, st.integers(0, 2**63 - 1), st.just("x" * 20_000))), max_size=8),
    st.lists(st.tuples(st.integers(0, 2**63), TEXT), max_size=3),
    st.sampled_from([b"", SPAN]),
    st.sampled_from([b"", b"a=1"]),
)
def test_a_span_is_read_back_as_it_was(own: Any, events: Any, parent: bytes, state: bytes) -> None:
    """However long it is."""
    lines = [b"traceparent: 00-%b-%b-01" % (ID, SPAN), *([b"tracestate: " + state] if state else [])]
    trace = World().tracer.begin_trace(head_of(*lines))
    common = Common("name", CLIENT, [("a", "b"), ("c", 300)], True)
    span = TraceSpan(trace, SPAN, parent, bool(parent), 1, 2**60, common, own, events)
    world = World()
    world.queued = [OtlpEncoder().encode(span)]
    (read,) = world.spans()
    assert read == Span(
        trace_id=bytes.fromhex(ID.decode()),
        span_id=bytes.fromhex(SPAN.decode()),
        trace_state=state.decode(),
        parent_span_id=bytes.fromhex(parent.decode()),
        flags=0x301 if parent else 0x101,
        name="name",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=1,
        end_time_unix_nano=2**60,
        attributes=[attribute(*each) for each in (*common.attributes, *own)],
        events=[Span.Event(time_unix_nano=at, name=name) for at, name in events],
        status=Status(code=Status.STATUS_CODE_ERROR),
    )


def attribute(name: str, value: str | int) -> KeyValue:
    text = AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
    return KeyValue(key=name, value=text)


def test_the_queue_is_bounded_and_gives_whole_batches() -> None:
    dropped: list[int] = []
    woken: list[None] = []
    queue = SpanQueue(lambda: woken.append(None), dropped.append, most_bytes=6000)
    for _ in range(700):
        queue.add([b"x" * 10])
    assert (len(queue), sum(dropped), len(woken)) == (600, 100, 1)
    assert [len(queue.pop_batch()) for _ in range(3)] == [512, 88, 0]
    assert queue.bytes == 0


@pytest.mark.parametrize(
    ("response", "rejected"),
    [
        (b"", 0),
        (b"\x0a\x02\x08\x07", 7),
        (b"\x0a\x05\x08\x80\x01\x12\x00", 128),
        (b"\x0a\x05\x08", 0),
        (b"\xff\xff", 0),
    ],
)
def test_rejected_spans_are_read(response: bytes, rejected: int) -> None:
    assert rejected_items(response) == rejected
