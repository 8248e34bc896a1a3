"""Traces: context in headers, spans as a collector decodes them, and collectors in trouble."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_service
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_service_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.gateway import Gateway, wait_until
from tests.support.origin import Origin
from tests.support.telemetry import Collector as Receiver

ID, SPAN = "12345678901234567890123456789012", "1234567890123456"


class Collector(Receiver):
    def spans(self) -> list[Span]:
        return [span for _, fields, body in [*self.bodies] for span in decoded(body, fields)]


def decoded(body: bytes, fields: dict[str, str]) -> list[Span]:
    if fields.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    request = service.ExportTraceServiceRequest.FromString(body)
    return spans_of(request)


def spans_of(request: service.ExportTraceServiceRequest) -> list[Span]:
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def configuration(origin: Origin, export: dict[str, Any], **traces: Any) -> dict[str, Any]:
    closed = {"targets": ["http://127.0.0.1:1"], "retries": {"max": 1}}
    return {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "status": {"address": "127.0.0.1:0"},
        "telemetry": {"traces": {**export, **traces}},
        "upstreams": {
            "users": {"targets": [origin.url]},
            "closed": closed,
            "narrow": {"targets": [origin.url], "pool": {"max_connections": 1}},
        },
        "routes": [
            {"name": "user", "paths": ["/users/{id}"], "upstream": "users"},
            {"name": "filtered", "paths": ["/filtered"], "upstream": "users", "filters": {"cors": {"origins": ["*"]}}},
            {"name": "cached", "paths": ["/cached/*"], "upstream": "users", "filters": {"cache": {}}},
            {"name": "cached_failure", "paths": ["/cached_failure"], "upstream": "closed", "filters": {"cache": {}}},
            {"name": "broken", "paths": ["/broken"], "upstream": "closed"},
            {"name": "narrow", "paths": ["/narrow"], "upstream": "narrow"},
            {"name": "here", "paths": ["/here"], "respond": {"body": "ok"}},
        ],
    }


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    found = Origin()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def gateway(origin: Origin, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = configuration(
        origin,
        {"otlp": {"url": collector.url, "compression": "gzip", "headers": {"X-Key": "s3cret"}}},
        propagation=["tracecontext", "b3"],
        server_timing=True,
    )
    running = Gateway(config, tmp_path_factory.mktemp("traces"))
    yield running
    running.stop()


def exchanged(gateway: Gateway, origin: Origin, path: str = "/users/1", *lines: str) -> dict[str, list[str]]:
    """Send a request; return the headers that the upstream got, by lower-case name."""
    client = gateway.connect()
    try:
        fields = "".join(f"{line}\r\n" for line in lines)
        client.send(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n".encode())
        upstream = origin.accept_next()
        got = upstream.answer()
        client.read_response(b"GET")
        found: dict[str, list[str]] = {}
        for name, value in got.head.lines:
            found.setdefault(name.decode().lower(), []).append(value.decode())
        return found
    finally:
        client.close()
        origin.clear()


def kept(collector: Collector, trace_id: str, count: int) -> list[Span]:
    """Wait for the spans of a trace."""

    def found() -> list[Span]:
        return [span for span in collector.spans() if span.trace_id.hex() == trace_id]

    wait_until(lambda: len(found()) >= count, f"{count} spans", 60.0)
    return found()


@pytest.mark.parametrize("path", ["/users/1", "/filtered"])
def test_a_trace_is_continued_by_one_header_of_its_own(gateway, origin, path):
    got = exchanged(
        gateway,
        origin,
        path,
        f"TraceParent: 00-{ID}-{SPAN}-00",
        "tracestate: a=1",
        "tracestate: b=2",
        f"b3: {ID}-{SPAN}-1",
        "X-B3-TraceId: 1",
    )
    assert len(got["traceparent"]) == 1
    version, trace_id, span_id, flags = got["traceparent"][0].split("-")
    assert (version, trace_id, flags) == ("00", ID, "00")
    assert span_id != SPAN
    assert got["tracestate"] == ["a=1,b=2"]
    assert got["b3"] == [f"{ID}-{span_id}-0"]
    assert "x-b3-traceid" not in got


@pytest.mark.parametrize("path", ["/users/1", "/filtered"])
@pytest.mark.parametrize(
    "lines",
    [
        (),
        (f"traceparent: ff-{ID}-{SPAN}-01", "tracestate: a=1"),
        (f"traceparent: 00-{ID}-{SPAN}-01", f"traceparent: 00-{ID}-{SPAN}-01", "tracestate: a=1"),
        (f"traceparent: 00-{'0' * 32}-{SPAN}-01",),
        (f"TRACEPARENT: 00-{ID.replace('1', 'A')}-{SPAN}-01",),
    ],
)
def test_without_a_valid_context_a_trace_begins(gateway, origin, path, lines):
    got = exchanged(gateway, origin, path, *lines)
    assert len(got["traceparent"]) == 1
    assert got["traceparent"][0].startswith("00-")
    assert got["traceparent"][0].endswith("-03")
    assert ID not in got["traceparent"][0]
    assert "tracestate" not in got


TRACEPARENT = f"traceparent: 00-{ID}-{SPAN}-00"
KEY = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
VALUE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in ",=")
MEMBERS = [f"bar{number:02}={number:02}" for number in range(1, 34)]
CONTINUED = [
    "TraceParent: 00-{}-{}-01",
    "TrAcEpArEnT: 00-{}-{}-01",
    "TRACEPARENT: 00-{}-{}-01",
    "traceparent: cc-{}-{}-01",
    "traceparent: cc-{}-{}-01-what-the-future-will-be-like",
    "traceparent:  00-{}-{}-01",
    "traceparent: \t00-{}-{}-01",
    "traceparent: 00-{}-{}-01 ",
    "traceparent: 00-{}-{}-01\t",
    "traceparent: \t 00-{}-{}-01 \t",
    "traceparent: 00-{}-{}-02",
]
BEGUN = [
    "trace-parent: 00-{}-{}-01",
    "trace.parent: 00-{}-{}-01",
    "traceparent: 00-{}-{}-01.",
    "traceparent: 00-{}-{}-01-what-the-future-will-be-like",
    "traceparent: cc-{}-{}-01.what-the-future-will-be-like",
    "traceparent: ff-{}-{}-01",
    "traceparent: .0-{}-{}-01",
    "traceparent: 0.-{}-{}-01",
    "traceparent: 000-{}-{}-01",
    "traceparent: 0000-{}-{}-01",
    "traceparent: 0-{}-{}-01",
    f"traceparent: 00-{'0' * 32}-{SPAN}-01",
    f"traceparent: 00-.{ID[1:]}-{SPAN}-01",
    f"traceparent: 00-{ID[:-1]}.-{SPAN}-01",
    f"traceparent: 00-{ID}3-{SPAN}-01",
    f"traceparent: 00-{ID[:-1]}-{SPAN}-01",
    f"traceparent: 00-{ID}-{'0' * 16}-01",
    f"traceparent: 00-{ID}-.{SPAN[1:]}-01",
    f"traceparent: 00-{ID}-{SPAN[:-1]}.-01",
    f"traceparent: 00-{ID}-{SPAN}7-01",
    f"traceparent: 00-{ID}-{SPAN[:-1]}-01",
    "traceparent: 00-{}-{}-.0",
    "traceparent: 00-{}-{}-0.",
    "traceparent: 00-{}-{}-001",
    "traceparent: 00-{}-{}-1",
    "traceparent: 00-{}-{}-01\r\ntraceparent: 00-{}-{}-01",
]
STATES = [
    (["tracestate: foo=1,bar=2"], "foo=1,bar=2"),
    (["trace-state: foo=1"], None),
    (["trace.state: foo=1"], None),
    (["TraceState: foo=1"], "foo=1"),
    (["TrAcEsTaTe: foo=1"], "foo=1"),
    (["TRACESTATE: foo=1"], "foo=1"),
    (["tracestate: "], None),
    (["tracestate: foo=1", "tracestate: "], "foo=1"),
    (["tracestate: ", "tracestate: foo=1"], "foo=1"),
    (
        ["tracestate: foo=1,bar=2", "tracestate: rojo=1,congo=2", "tracestate: baz=3"],
        "foo=1,bar=2,rojo=1,congo=2,baz=3",
    ),
    (["tracestate: foo=1,foo=1"], "foo=1"),
    (["tracestate: foo=1,foo=2"], "foo=1"),
    (["tracestate: foo=1", "tracestate: foo=1"], "foo=1"),
    (["tracestate: foo=1", "tracestate: foo=2"], "foo=1"),
    ([f"tracestate: {KEY}={VALUE}"], f"{KEY}={VALUE}"),
    ([f"tracestate: {KEY}@a-z0-9_-*/={VALUE}"], f"{KEY}@a-z0-9_-*/={VALUE}"),
    (["tracestate: foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
    (["tracestate: foo=1\t \t,\t \tbar=2,\t \tbaz=3"], "foo=1,bar=2,baz=3"),
    (["tracestate:  foo=1"], "foo=1"),
    (["tracestate: \tfoo=1"], "foo=1"),
    (["tracestate: foo=1 "], "foo=1"),
    (["tracestate: foo=1\t"], "foo=1"),
    (["tracestate: \t foo=1 \t"], "foo=1"),
    (["tracestate: foo =1"], None),
    (["tracestate: FOO=1"], None),
    (["tracestate: foo.bar=1"], None),
    (["tracestate: foo@=1,bar=2"], "foo@=1,bar=2"),
    (["tracestate: @foo=1,bar=2"], None),
    (["tracestate: foo@@bar=1,bar=2"], "foo@@bar=1,bar=2"),
    (["tracestate: foo@bar@baz=1,bar=2"], "foo@bar@baz=1,bar=2"),
    ([f"tracestate: {','.join(MEMBERS[:20])}", f"tracestate: {','.join(MEMBERS[20:32])}"], ",".join(MEMBERS[:32])),
    ([f"tracestate: {','.join(MEMBERS[:20])}", f"tracestate: {','.join(MEMBERS[20:])}"], None),
    (["tracestate: foo=1", f"tracestate: {'z' * 256}=1"], f"foo=1,{'z' * 256}=1"),
    (["tracestate: foo=1", f"tracestate: {'z' * 257}=1"], None),
    (["tracestate: foo=1", f"tracestate: {'t' * 241}@{'v' * 14}=1"], f"foo=1,{'t' * 241}@{'v' * 14}=1"),
    (["tracestate: foo=1", f"tracestate: {'t' * 242}@v=1"], f"foo=1,{'t' * 242}@v=1"),
    (["tracestate: foo=1", f"tracestate: t@{'v' * 15}=1"], f"foo=1,t@{'v' * 15}=1"),
    (["tracestate: foo=bar=baz"], None),
    (["tracestate: foo=,bar=3"], None),
]
"""Lines of a request, and the `tracestate` that its upstream gets. The cases of the W3C's harness (w3c/trace-context,
levels 1 and 2, strict), but for requests that cause several: those are in `test_trace_spans.py`.
"""


def sent_context(gateway: Gateway, origin: Origin, *lines: str) -> tuple[str, str, str, list[str]]:
    """Return trace, parent and flags of the only `traceparent` that the upstream gets, and its `tracestate`."""
    got = exchanged(gateway, origin, "/users/1", *lines)
    (line,) = got["traceparent"]
    version, trace_id, parent_id, flags = line.split("-")
    assert [len(each) for each in (version, trace_id, parent_id, flags)] == [2, 32, 16, 2]
    assert version == "00"
    assert int(trace_id, 16)
    assert int(parent_id, 16)
    return trace_id, parent_id, flags, got.get("tracestate", [])


@pytest.mark.parametrize("line", CONTINUED)
def test_the_harness_of_the_w3c_continues_a_trace(gateway, origin, line):
    trace_id, parent_id, flags, _ = sent_context(gateway, origin, line.format(ID, SPAN))
    assert trace_id == ID
    assert parent_id != SPAN
    assert flags == line.format(ID, SPAN).split("-")[3][:2]


@pytest.mark.parametrize("line", BEGUN)
def test_the_harness_of_the_w3c_has_a_trace_begun(gateway, origin, line):
    trace_id, _, _, state = sent_context(gateway, origin, line.format(ID, SPAN, ID, SPAN), "tracestate: foo=1")
    assert trace_id not in (ID, f"{ID}3"[1:])
    assert state == []


@pytest.mark.parametrize(("lines", "state"), STATES)
def test_the_harness_of_the_w3c_passes_a_state_on(gateway, origin, lines, state):
    trace_id, _, _, got = sent_context(gateway, origin, TRACEPARENT, *lines)
    assert trace_id == ID
    assert got == ([] if state is None else [state])


def test_spans_are_what_a_collector_decodes(gateway, origin, collector):
    trace_id = "a" * 32
    got = exchanged(
        gateway, origin, "/users/7?token=hidden&a=1", f"traceparent: 00-{trace_id}-{SPAN}-01", "User-Agent: test"
    )
    spans = kept(collector, trace_id, 2)
    (server,) = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    (client,) = [span for span in spans if span.kind == Span.SPAN_KIND_CLIENT]
    assert server.name == "GET /users/{id}"
    assert server.parent_span_id.hex() == SPAN
    assert client.parent_span_id == server.span_id
    assert got["traceparent"] == [f"00-{trace_id}-{client.span_id.hex()}-01"]
    found = attributes(server)
    assert found["http.request.method"] == "GET"
    assert found["http.route"] == "/users/{id}"
    assert found["url.path"] == "/users/7"
    assert found["url.query"] == "token=***&a=1"
    assert found["url.scheme"] == "http"
    assert found["server.address"] == "a.test"
    assert found["http.response.status_code"] == 200
    assert found["network.protocol.version"] == "1.1"
    assert found["user_agent.original"] == "test"
    assert "error.type" not in found
    found = attributes(client)
    assert found["url.full"] == f"{origin.url}/users/7?token=***&a=1"
    names = [event.name for event in client.events]
    new = [] if found["fastgw.connection_reused"] == "true" else ["fastgw.tcp_connected"]
    assert names == [*new, "fastgw.connection_acquired", "fastgw.first_byte"]
    assert server.start_time_unix_nano <= client.start_time_unix_nano <= client.end_time_unix_nano
    record = gateway.wait_for_record(path="/users/7")
    assert (record["trace_id"], record["span_id"]) == (trace_id, server.span_id.hex())
    path, fields, _ = collector.bodies[0]
    assert path == "/v1/traces"
    assert (fields["Content-Type"], fields["X-Key"]) == ("application/x-protobuf", "s3cret")


def test_a_span_shows_how_long_its_request_was_in_the_queue_of_the_pool(gateway, origin, collector):
    trace_ids = ["8" * 32, "9" * 32]
    clients = [gateway.connect() for _ in trace_ids]
    for place, (client, trace_id) in enumerate(zip(clients, trace_ids, strict=True)):
        client.send(f"GET /narrow HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{trace_id}-{SPAN}-01\r\n\r\n".encode())
        wait_until(lambda wanted=place: gateway.sum_of("fastgw_pool_waits_total") == wanted, f"{place} queued")
    upstream = origin.accept_next()
    answered_ns = time.time_ns()
    for client in clients:
        upstream.answer()
        client.read_response(b"GET")
        client.close()
    origin.clear()
    at_once, queued = (
        next(span for span in kept(collector, trace_id, 2) if span.kind == Span.SPAN_KIND_CLIENT)
        for trace_id in trace_ids
    )
    steps = ["fastgw.connection_acquired", "fastgw.first_byte"]
    assert [event.name for event in at_once.events] == ["fastgw.tcp_connected", *steps]
    assert [event.name for event in queued.events] == ["fastgw.queue_left", *steps]
    begun_ns, left_ns = queued.start_time_unix_nano, queued.events[0].time_unix_nano
    assert begun_ns < answered_ns <= left_ns <= queued.events[1].time_unix_nano


def test_a_failure_has_a_span_for_each_attempt_although_it_is_not_sampled(gateway, collector):
    trace_id = "b" * 32
    client = gateway.connect()
    client.send(f"GET /broken HTTP/1.1\r\nHost: a.test\r\ntraceparent: 00-{trace_id}-{SPAN}-00\r\n\r\n".encode())
    response = client.read_response(b"GET")
    client.close()
    spans = kept(collector, trace_id, 3)
    assert [value for name, value in response.head.lines if name.lower() == b"server-timing"] == [
        f'trace;desc="00-{trace_id}-{spans[0].span_id.hex()}-00"'.encode()
    ]
    server, first, retry = spans
    assert attributes(server)["error.type"] == "connect_refused"
    assert server.status.code == 2
    assert attributes(first)["fastgw.attempt"] == "first"
    assert attributes(retry)["fastgw.attempt"] == "retry"
    assert attributes(retry)["http.request.resend_count"] == 1
    assert {attributes(each)["error.type"] for each in (first, retry)} == {"connect_refused"}


CHUNKED = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        pytest.param("/users/2", CHUNKED, id="no-cache"),
        pytest.param("/cached/whole", WHOLE, id="whole"),
        pytest.param("/cached/chunked", CHUNKED, id="chunked"),
        pytest.param("/cached_failure", b"", id="failure"),
    ],
)
def test_a_response_tells_the_trace_once_and_a_hit_its_own(gateway, origin, path, answer):
    client = gateway.connect()
    try:
        for first in ("ce", "ec"):
            trace_id = first * 16
            parent = f"traceparent: 00-{trace_id}-{SPAN}-00"
            client.send(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n{parent}\r\n\r\n".encode())
            if answer and (first == "ce" or not path.startswith("/cached")):
                upstream = origin.accept_next()
                upstream.answer(answer)
            response = client.read_response(b"GET")
            (told,) = [value for name, value in response.head.lines if name.lower() == b"server-timing"]
            assert told.startswith(f'trace;desc="00-{trace_id}-'.encode())
    finally:
        client.close()
        origin.clear()


def test_an_unknown_method_and_a_404_are_no_errors_of_the_server(gateway, collector):
    trace_id = "c" * 32
    client = gateway.connect()
    client.send(f"PROPFIND /none HTTP/1.1\r\nHost: a.test\r\ntraceparent: 00-{trace_id}-{SPAN}-01\r\n\r\n".encode())
    client.read_response(b"PROPFIND")
    client.close()
    (server,) = kept(collector, trace_id, 1)
    found = attributes(server)
    assert found["http.request.method"] == "_OTHER"
    assert found["http.request.method_original"] == "PROPFIND"
    assert found["http.response.status_code"] == 404
    assert "error.type" not in found
    assert server.status.code == 0


@pytest.mark.parametrize("answers", [[(503, {})], [(429, {"Retry-After": "1"})]], ids=["503", "429"])
def test_a_batch_that_is_not_accepted_is_sent_again(gateway, origin, collector, answers):
    trace_id = {503: "d", 429: "e"}[answers[0][0]] * 32
    collector.answers += answers
    exchanged(gateway, origin, "/users/1", f"traceparent: 00-{trace_id}-{SPAN}-01")
    assert len(kept(collector, trace_id, 2)) == 2
    assert not collector.answers


def test_what_is_queued_is_exported_over_grpc_before_the_gateway_ends(origin, tmp_path):
    """The worker is stopped before the interval of a batch is over. Its access log goes to the same collector."""
    received: list[service.ExportTraceServiceRequest] = []
    logged: list[logs_service.ExportLogsServiceRequest] = []

    class Service(service_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            received.append(request)
            return service.ExportTraceServiceResponse()

    class Logs(logs_service_grpc.LogsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            logged.append(request)
            return logs_service.ExportLogsServiceResponse()

    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        service_grpc.add_TraceServiceServicer_to_server(Service(), server)
        logs_service_grpc.add_LogsServiceServicer_to_server(Logs(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        export = {"otlp": {"url": f"http://127.0.0.1:{port}", "protocol": "grpc"}}
        running = Gateway(configuration(origin, export) | {"access_logs": [{"sink": export}]}, tmp_path)
        try:
            got = exchanged(running, origin)
        finally:
            running.stop()
        server.stop(None).wait()
    trace_id = got["traceparent"][0].split("-")[1]
    spans = [span for request in received for span in spans_of(request)]
    assert [span.trace_id.hex() for span in spans] == [trace_id] * 2
    (record,) = [
        record for request in logged for each in request.resource_logs for record in each.scope_logs[0].log_records
    ]
    assert (record.trace_id.hex(), record.span_id) == (trace_id, spans[0].span_id)


def test_zipkin_gets_json(origin, collector, tmp_path):
    running = Gateway(configuration(origin, {"zipkin": {"url": f"{collector.url}/api/v2/spans"}}), tmp_path)
    try:
        got = exchanged(running, origin)
    finally:
        running.stop()
    body = next(body for path, _, body in collector.bodies if path == "/api/v2/spans")
    server, client = json.loads(body)
    assert (server["kind"], client["kind"]) == ("SERVER", "CLIENT")
    assert client["parentId"] == server["id"]
    assert server["traceId"] == got["traceparent"][0].split("-")[1]
    assert server["tags"]["http.route"] == "/users/{id}"
