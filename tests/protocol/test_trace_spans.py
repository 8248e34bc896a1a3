"""Spans of everything that a request causes, as a collector decodes them, by OpenTelemetry's semantic conventions.

All requests are sent first, to one gateway, and their spans are read when it has stopped: it exports them at its end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.protocol.test_tracing import Collector, attributes
from tests.support.certificates import Certificates, server_tls
from tests.support.gateway import Gateway
from tests.support.grpc_world import CODES, DEADLINE, Greeter
from tests.support.origin import OK, Origin, OriginConnection, Request, close

SPAN = "1234567890123456"
STORED = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nContent-Length: 10\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
BROKEN_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
JSON = b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}'
SERVER, CLIENT, INTERNAL = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_INTERNAL
REQUIRED = {
    SERVER: {"http.request.method", "url.path", "url.scheme"},
    CLIENT: {"http.request.method", "server.address", "url.full"},
    INTERNAL: {"fastgw.filter"},
}
"""Attributes that the conventions require."""
CALLS = {"OK": CODES.OK, "NOT_FOUND": CODES.NOT_FOUND, "UNAVAILABLE": CODES.UNAVAILABLE}


@dataclass
class Scene:
    """One request. `asked`: what it has caused, by service."""

    trace_id: str
    status: Any = None
    asked: dict[str, list[Request]] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)

    def of_kind(self, kind: int) -> list[Span]:
        """Return the spans of a kind, the earliest first."""
        return sorted((span for span in self.spans if span.kind == kind), key=lambda span: span.start_time_unix_nano)

    def only(self, kind: int, **wanted: Any) -> Span:
        """Return the only span with these attributes of `fastgw.`."""
        (found,) = (
            span
            for span in self.of_kind(kind)
            if all(attributes(span).get(f"fastgw.{name}") == value for name, value in wanted.items())
        )
        return found


def parent_of(request: Request) -> str:
    """Return the span that a service got as its parent."""
    value = request.head.get(b"traceparent")
    assert value is not None
    return value.decode().split("-")[2]


class World:
    """A gateway, its services, and a collector."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        authority = Certificates(directory)
        self.collector = Collector()
        stack.callback(self.collector.stop)
        self.services = {
            "one": Origin(),
            "two": Origin(),
            "tls": Origin(tls=server_tls(authority.issue("127.0.0.1"))),
            "local": Origin(str(directory / "service.sock")),
        }
        for service in self.services.values():
            stack.enter_context(service).serve()
        one, two = self.services["one"].url, self.services["two"].url
        self.tls_url, self.urls = self.services["tls"].url, (one, two)
        greeter = grpc.server(futures.ThreadPoolExecutor(4))
        greeter.add_generic_rpc_handlers((Greeter(),))
        port = greeter.add_insecure_port("127.0.0.1:0")
        greeter.start()
        stack.callback(lambda: greeter.stop(0).wait())
        retries = {"conditions": ["connect_failure", "503"], "budget": "100%"}
        asks = {"forward_auth": {"url": f"{two}/check?key=1", "request_headers": None}}
        parts = [{"name": "a", "upstream": "one", "path": "/a"}, {"name": "b", "upstream": "two", "path": "/b"}]
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
            "telemetry": {"traces": {"otlp": {"url": self.collector.url}}},
            "upstreams": {
                "one": {"targets": [one]},
                "two": {"targets": [two]},
                "hedged": {"targets": [one, two], "hedge": {"after": "20ms"}, "retries": {"budget": "100%"}},
                "retried": {"targets": [one], "retries": retries},
                "tls": {
                    "targets": [self.tls_url],
                    "tls": {"ca": authority.ca},
                    "health_checks": {"passive": None},  # no listener: an unsampled attempt has no record
                },
                "based": {"targets": [f"{two}/base"], "health_checks": {"passive": None}},
                "local": {"targets": [self.services["local"].url]},
                "greeter": {"targets": [f"http://127.0.0.1:{port}"], "protocol": "grpc"},
            },
            "routes": [
                *({"name": name, "paths": [f"/{name}"], "upstream": name} for name in ("hedged", "retried", "local")),
                {"name": "tls", "paths": ["/tls"], "upstream": "tls"},
                *(
                    {
                        "name": f"rewritten-{name}",
                        "paths": [f"/{name}/{{id}}"],
                        "upstream": name,
                        "rewrite": "/sent/{id}",
                    }
                    for name in ("one", "based")
                ),
                {
                    "name": "queried",
                    "paths": ["/queried/*"],
                    "upstream": "one",
                    "strip_prefix": "/queried",
                    "filters": {"request_parameters": {"query": {"a": "1"}}},
                },
                {"name": "authorized", "paths": ["/authorized"], "upstream": "one", "filters": asks},
                {
                    "name": "mirrored",
                    "paths": ["/mirrored"],
                    "upstream": "one",
                    "filters": {"mirror": {"upstream": "two"}},
                },
                {"name": "composed", "paths": ["/composed"], "compose": {"parts": parts}},
                {"name": "cached", "paths": ["/cached"], "upstream": "one", "filters": {"cache": {}}},
                {"name": "called", "paths": ["/test.Greeter/*"], "upstream": "greeter", "filters": asks},
            ],
        }
        self.gateway = stack.enter_context(Gateway(config, directory))
        self.scenes: dict[str, Scene] = {}
        self._numbers = count(1)

    def begin(self, name: str, sampled: bool = True) -> tuple[Scene, str]:
        """Return a scene, and the context that its client sends."""
        scene = self.scenes[name] = Scene(f"{next(self._numbers):032x}")
        return scene, f"00-{scene.trace_id}-{SPAN}-{sampled:02x}"

    def send(self, client: Any, name: str, path: str, method: str = "GET", sampled: bool = True) -> Scene:
        scene, context = self.begin(name, sampled)
        client.send(f"{method} {path} HTTP/1.1\r\nHost: a.test\r\ntraceparent: {context}\r\n\r\n".encode())
        return scene

    def get(self, name: str, path: str, method: str = "GET", sampled: bool = True) -> Scene:
        """Send a request and read its response."""
        with self.gateway.connect() as client:
            scene = self.send(client, name, path, method, sampled)
            scene.status = client.read_response(method.encode()).status
        return self.over(scene)

    def over(self, scene: Scene) -> Scene:
        """Keep what the services were asked, and forget their rules."""
        for name, service in self.services.items():
            scene.asked[name] = [*service.requests]
            service.clear()
            service.serve()
        return scene

    def read_spans(self) -> None:
        """Stop the gateway, and read the spans of all scenes."""
        self.gateway.stop()
        spans = self.collector.spans()
        for scene in self.scenes.values():
            scene.spans = [span for span in spans if span.trace_id.hex() == scene.trace_id]


FAILURES = {
    "rewritten": ("/one/7?token=hidden&b=1", 0, "/sent/7?token=***&b=1"),
    "rewritten without a record": ("/based/7", 1, "/base/sent/7"),
    "queried": ("/queried/7?b=1", 0, "/7?b=1&a=***"),
}
"""Requests that are answered 503 and not sampled: what is asked, the number of the service, and what it is asked."""


def play_hedge(world: World) -> None:
    over = threading.Event()
    calls = count()

    def answer(connection: OriginConnection) -> None:
        """Answer the second request; the first one waits until all is over."""
        if next(calls):
            connection.send(OK)
        else:
            over.wait(60.0)

    for name in ("one", "two"):
        world.services[name].answer(answer)
    with world.gateway.connect() as client:
        scene = world.send(client, "hedge", "/hedged")
        scene.status = client.read_response(b"GET").status
    over.set()
    world.over(scene)


def play_mirror(world: World) -> None:
    """The copy is answered after the request."""
    answered, sent = threading.Event(), threading.Event()
    world.services["two"].answer(answered, UNAVAILABLE, lambda _: sent.set())
    with world.gateway.connect() as client:
        scene = world.send(client, "mirror", "/mirrored")
        scene.status = client.read_response(b"GET").status
    world.services["two"].wait_for_requests(1)
    answered.set()
    assert sent.wait(60.0)
    world.over(scene)


def play_cache(world: World) -> None:
    """The second request comes while the first one is stored, and gets what is there of it."""
    rest = threading.Event()
    world.services["one"].answer(STORED + b"01234", rest, b"56789")
    with world.gateway.connect() as first, world.gateway.connect() as second:
        stored = world.send(first, "stored", "/cached")
        assert first.read_response_head().status == 200
        collapsed = world.send(second, "collapsed", "/cached")
        assert second.read_response_head().status == 200
        rest.set()
        assert [client.read_exactly(10) for client in (first, second)] == [b"0123456789"] * 2
    world.over(stored)
    collapsed.asked = {}
    world.get("hit", "/cached")


def play_broken_off(world: World) -> None:
    world.services["one"].answer(BROKEN_OFF, close)
    with world.gateway.connect() as client:
        scene = world.send(client, "broken off", "/retried")
        client.read_to_end()
    world.over(scene)


def play_calls(world: World) -> None:
    with grpc.insecure_channel(world.gateway.address()) as channel:
        for name, code in CALLS.items():
            scene, context = world.begin(f"call {name}")
            method = "Unary" if code == CODES.OK else "Fail"
            call = channel.unary_unary(f"/test.Greeter/{method}").future(
                name.encode(), metadata=(("traceparent", context),), timeout=DEADLINE
            )
            scene.status = call.code()
            world.over(scene)
        scene, context = world.begin("cancelled call")
        stream = channel.unary_stream("/test.Greeter/Endless")(
            b"", metadata=(("traceparent", context),), timeout=DEADLINE
        )
        assert next(stream)
        stream.cancel()
        scene.status = stream.code()
        world.over(scene)
        scene, context = world.begin("call of an unknown method")
        call = channel.unary_unary("/test.Greeter/Random1").future(b"", metadata=(("traceparent", context),))
        scene.status = call.code()
        world.over(scene)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        world = World(tmp_path_factory.mktemp("spans"), stack)
        play_hedge(world)
        world.services["one"].answer(UNAVAILABLE, times=1)
        world.get("retry", "/retried")
        world.get("authorized", "/authorized?token=hidden")
        for name in ("one", "two"):
            world.services[name].answer(JSON)
        world.get("composed", "/composed")
        world.get("tls", "/tls")
        play_mirror(world)
        world.services["tls"].answer(UNAVAILABLE)
        with world.gateway.connect() as client:
            client.exchange(b"GET /tls HTTP/1.1\r\nHost: a.test\r\n\r\n")  # the next one reuses its connection
        world.get("tls, not sampled", "/tls", sampled=False)
        for name in (*FAILURES, *(f"{each}, reused" for each in FAILURES)):
            for service in ("one", "two"):
                world.services[service].answer(UNAVAILABLE)
            world.get(name, FAILURES[name.partition(",")[0]][0], sampled=False)
        world.get("local", "/local")
        world.get("unknown method", "/retried", "PURGE")
        play_cache(world)
        play_broken_off(world)
        play_calls(world)
        world.read_spans()
        yield world


def test_all_spans_are_of_one_tree_and_have_what_is_required(world: World) -> None:
    for name, scene in world.scenes.items():
        (server,) = scene.of_kind(SERVER)
        assert server.parent_span_id.hex() == SPAN, name
        assert len({span.span_id for span in scene.spans}) == len(scene.spans)
        for span in scene.spans:
            found = attributes(span)
            assert found.keys() >= REQUIRED[span.kind], name
            assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
            assert (span.status.code == Status.STATUS_CODE_ERROR) is ("error.type" in found), name
            assert span is server or span.parent_span_id == server.span_id, name


def test_a_hedge_has_a_span_and_the_attempt_that_lost_is_no_error(world: World) -> None:
    scene = world.scenes["hedge"]
    first, hedge = scene.only(CLIENT, attempt="first"), scene.only(CLIENT, attempt="hedge")
    assert attributes(hedge)["http.request.resend_count"] == 1
    assert "http.request.resend_count" not in attributes(first)
    assert first.start_time_unix_nano < hedge.start_time_unix_nano < first.end_time_unix_nano
    # Which one arrives first, and is kept waiting, is up to the machine.
    (lost,) = (span for span in (first, hedge) if "http.response.status_code" not in attributes(span))
    (won,) = (span for span in (first, hedge) if span is not lost)
    assert scene.status == attributes(won)["http.response.status_code"] == 200
    assert "error.type" not in attributes(lost)  # the gateway has cancelled it
    parents = {parent_of(each) for name in ("one", "two") for each in scene.asked[name]}
    assert parents == {first.span_id.hex(), hedge.span_id.hex()}


def test_a_retry_has_a_span_and_its_request_is_no_error(world: World) -> None:
    scene = world.scenes["retry"]
    first, retry = scene.only(CLIENT, attempt="first"), scene.only(CLIENT, attempt="retry")
    assert scene.status == attributes(retry)["http.response.status_code"] == 200
    assert attributes(first)["http.response.status_code"] == 503
    assert attributes(first)["error.type"] == "503"
    assert attributes(retry)["http.request.resend_count"] == 1
    assert first.end_time_unix_nano <= retry.start_time_unix_nano
    assert "error.type" not in attributes(scene.only(SERVER))
    assert [parent_of(each) for each in scene.asked["one"]] == [first.span_id.hex(), retry.span_id.hex()]


def test_a_filter_that_waits_has_a_span_and_so_has_the_service_that_it_asks(world: World) -> None:
    scene = world.scenes["authorized"]
    wait = scene.only(INTERNAL)
    assert wait.name == "filter forward_auth"
    check, forwarded = scene.of_kind(CLIENT)
    assert attributes(check)["url.full"] == f"{world.urls[1]}/check?key=***"
    assert attributes(check)["http.response.status_code"] == 200
    assert [event.name for event in check.events][-2:] == ["fastgw.connection_acquired", "fastgw.first_byte"]
    assert attributes(forwarded)["url.full"] == f"{world.urls[0]}/authorized?token=***"
    assert wait.start_time_unix_nano <= check.start_time_unix_nano
    assert check.end_time_unix_nano <= wait.end_time_unix_nano <= forwarded.start_time_unix_nano
    (asked,) = scene.asked["two"]
    assert parent_of(asked) == check.span_id.hex()  # not the client's
    assert len(asked.head.get_all(b"traceparent")) == 1


def test_each_part_of_a_composed_response_has_a_span(world: World) -> None:
    scene = world.scenes["composed"]
    parts = {attributes(span)["url.full"]: span.span_id.hex() for span in scene.of_kind(CLIENT)}
    assert scene.status == 200
    assert parts == {
        f"{url}/{part}": parent_of(scene.asked[name][0])
        for url, part, name in zip(world.urls, "ab", ("one", "two"), strict=True)
    }


def test_the_copy_for_a_mirror_has_a_span_although_it_ends_after_the_request(world: World) -> None:
    scene = world.scenes["mirror"]
    copy = scene.only(CLIENT, upstream="two")
    assert parent_of(scene.asked["two"][0]) == copy.span_id.hex()
    assert attributes(copy)["http.response.status_code"] == 503
    assert copy.end_time_unix_nano > scene.only(SERVER).end_time_unix_nano
    assert "error.type" not in attributes(scene.only(SERVER))


@pytest.mark.parametrize(("name", "result", "fetches"), [("stored", "miss", 1), ("collapsed", "collapsed", 0)])
def test_only_what_the_cache_has_fetched_has_a_client_span(world: World, name: str, result: str, fetches: int) -> None:
    scene = world.scenes[name]
    assert attributes(scene.only(SERVER))["fastgw.cache"] == result
    assert len(scene.of_kind(CLIENT)) == fetches


def test_a_hit_has_a_server_span_alone(world: World) -> None:
    (server,) = world.scenes["hit"].spans
    assert attributes(server)["fastgw.cache"] == "hit"
    assert attributes(server)["http.response.status_code"] == 200


def test_a_new_connection_over_tls_shows_its_steps(world: World) -> None:
    span = world.scenes["tls"].only(CLIENT)
    found = attributes(span)
    assert found["url.full"] == f"{world.tls_url}/tls"
    assert (found["server.address"], found["server.port"]) == ("127.0.0.1", world.services["tls"].port)
    steps = ["tcp_connected", "tls_established", "connection_acquired", "first_byte"]
    assert [event.name for event in span.events] == [f"fastgw.{step}" for step in steps]
    times = [span.start_time_unix_nano, *(event.time_unix_nano for event in span.events), span.end_time_unix_nano]
    assert times == sorted(times)


def test_a_failure_over_tls_that_was_not_sampled_has_the_url_of_its_target(world: World) -> None:
    found = attributes(world.scenes["tls, not sampled"].only(CLIENT))
    assert (found["url.full"], found["error.type"]) == (f"{world.tls_url}/tls", "503")


@pytest.mark.parametrize("reused", ["", ", reused"])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_that_was_not_sampled_has_the_url_that_its_service_was_asked(
    world: World, name: str, reused: str
) -> None:
    _, service, path = FAILURES[name]
    assert attributes(world.scenes[f"{name}{reused}"].only(CLIENT))["url.full"] == world.urls[service] + path


def test_a_unix_socket_is_an_address_without_a_port(world: World) -> None:
    found = attributes(world.scenes["local"].only(CLIENT))
    assert found["server.address"] == world.services["local"].authority
    assert found["url.full"] == "http://localhost/local"
    assert "server.port" not in found


def test_an_unknown_method_is_kept_on_both_spans(world: World) -> None:
    for span in world.scenes["unknown method"].spans:
        found = attributes(span)
        assert (found["http.request.method"], found["http.request.method_original"]) == ("_OTHER", "PURGE")
        assert span.name.split()[0] == "HTTP"


def test_a_response_that_breaks_off_is_an_error_although_its_status_is_200(world: World) -> None:
    scene = world.scenes["broken off"]
    for span in (scene.only(SERVER), scene.only(CLIENT)):
        found = attributes(span)
        assert found["http.response.status_code"] == 200
        assert found["error.type"] == "upstream_incomplete"


@pytest.mark.parametrize("name", CALLS)
def test_a_call_has_the_attributes_of_rpc(world: World, name: str) -> None:
    """Which statuses are errors differs between the sides: NOT_FOUND is one of the client only."""
    scene, code = world.scenes[f"call {name}"], CALLS[name]
    assert scene.status == code
    server, client = scene.only(SERVER), scene.only(CLIENT, upstream="greeter")
    method = "Unary" if name == "OK" else "Fail"
    for span in (server, client):
        found = attributes(span)
        assert span.name == f"test.Greeter/{method}"
        assert (found["rpc.system.name"], found["rpc.method"]) == ("grpc", f"test.Greeter/{method}")
        assert found["rpc.response.status_code"] == name
        assert not {"rpc.system", "rpc.service", "rpc.grpc.status_code"} & {*found}  # the names up to version 1.37
    assert attributes(server).get("error.type") == (name if name == "UNAVAILABLE" else None)
    assert attributes(client).get("error.type") == (None if name == "OK" else name)


def test_a_call_that_its_client_cancels_has_the_response_that_had_begun(world: World) -> None:
    scene = world.scenes["cancelled call"]
    assert scene.status == CODES.CANCELLED
    client = scene.only(CLIENT, upstream="greeter")
    assert attributes(client)["http.response.status_code"] == 200
    assert client.events[-1].name == "fastgw.first_byte"


def test_a_method_that_the_service_does_not_know_is_no_name_of_a_span(world: World) -> None:
    """Clients choose it: they would make as many names as they like."""
    scene = world.scenes["call of an unknown method"]
    assert scene.status == CODES.UNIMPLEMENTED
    for span in (scene.only(SERVER), scene.only(CLIENT, upstream="greeter")):
        found = attributes(span)
        assert span.name == "grpc"
        assert (found["rpc.method"], found["rpc.method_original"]) == ("_OTHER", "test.Greeter/Random1")
        assert found["rpc.response.status_code"] == found["error.type"] == "UNIMPLEMENTED"


def test_what_a_call_makes_a_filter_ask_is_no_call(world: World) -> None:
    scene = world.scenes["call OK"]
    (check,) = (span for span in scene.of_kind(CLIENT) if "fastgw.upstream" not in attributes(span))
    assert check.name == "GET"
    assert not [name for name in attributes(check) if name.startswith("rpc.")]
