"""gRPC through the gateway, with grpcio as client and server: calls of each kind, deadlines, statuses, cancellation."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.client import Client
from tests.support.gateway import wait_until
from tests.support.grpc_world import CODES, DEADLINE, LIMITS, Server, World, grpc_part
from tests.support.http2_peer import CANCEL, INTERNAL_ERROR, RST_STREAM, Http2Client, Http2Origin, Http2Peer, answer
from tests.support.listener_lanes import ListenerLanes, Part, Settings
from tests.support.peer import Unexpected

CALL1 = b"POST /test.Greeter/Unary HTTP/1.1\r\nHost: a.test\r\n%bContent-Length: 2\r\n\r\n%b"
LARGE = 32 * 1024**2


INJECTED = {"fault": {"abort": {"grpc_status": "resource_exhausted"}}}
REFUSALS = [
    ({"basic_auth": {}}, CODES.UNAUTHENTICATED),
    ({"ip": {"deny": ["127.0.0.0/8"]}}, CODES.PERMISSION_DENIED),
    ({"rate_limit": {"limit": 1, "window": "1h"}}, CODES.RESOURCE_EXHAUSTED),
]
ONCE_MORE = {"retries": {"conditions": ["unavailable"], "non_idempotent": True}}
OPENS = {"circuit_breaker": {"min_requests": 5, "window": "1m"}, "retries": {"max": 0}}
OPENS_SOON = {"circuit_breaker": {"min_requests": 2, "window": "1m"}, "retries": {"max": 0}}
TOTAL = {"timeouts": {"total": "1s"}}
OPENS_BY_THREE = {"circuit_breaker": {"min_requests": 3, "window": "1m"}, "retries": {"max": 0}}
HALF_OPENS = {
    "circuit_breaker": {"min_requests": 2, "window": "1m", "open": "50ms", "probes": 1},
    "retries": {"max": 0},
}
BREAKS = {"circuit_breaker": {"min_requests": 2}}
RETRIES = {"retries": {"max": 1, "conditions": ["unavailable"]}}
ONE_METHOD = {"grpc": {"service": "test.Greeter", "methods": ["Unary"]}}
SHARED: list[tuple[int, Settings]] = [
    (14, {}),
    (1, {"route": {"filters": INJECTED}}),
    *((1, {"route": {"filters": filters}}) for filters, _ in REFUSALS),
    (1, {"upstream": ONCE_MORE}),
    (2, {"upstream": OPENS}),
    (1, {"upstream": HALF_OPENS}),
    (1, {"upstream": BREAKS}),
    (1, {"route": ONE_METHOD}),
    (39, {"scripted": {}}),
    (1, {"scripted": TOTAL}),
    (3, {"scripted": OPENS_SOON}),
    (2, {"scripted": RETRIES}),
    (10, {"scripted": OPENS_BY_THREE}),
]
"""Settings, and how many tests have them. `scripted`: settings of the upstream, whose server is the test. A test with
other ones has a gateway of its own."""


def part_of(server: Server, name: str, settings: Settings) -> Part:
    scripted = settings.get("scripted")
    if scripted is None:
        url, upstream, origin, close = server.url, settings.get("upstream", {}), None, int
    else:
        origin = Http2Origin()
        url, upstream, close = origin.url, scripted, origin.__exit__
    return Part(*grpc_part(name, url, upstream, settings.get("route", {}), f"{name}-"), origin, close)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop(0).wait()


@pytest.fixture(scope="module")
def lanes(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListenerLanes]:
    lanes = ListenerLanes(tmp_path_factory.mktemp("lanes"), partial(part_of, server), SHARED, LIMITS)
    yield lanes
    lanes.stop()


@pytest.fixture
def make_own(tmp_path: Path) -> Iterator[Any]:
    """A server and a gateway that are the test's own: it stops one, reads metrics, or needs other settings."""
    with contextlib.ExitStack() as stack:
        yield lambda **more: World(tmp_path, stack, **more)


@pytest.fixture
def make(lanes: ListenerLanes, server: Server) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def made(**settings: Any) -> World:
            lane = lanes.take(settings)
            stack.callback(lane.close)
            return World.in_lane(lane, server, stack)

        yield made


@contextlib.contextmanager
def scripted(make: Any, **upstream: Any) -> Iterator[tuple[World, Http2Origin]]:
    """A gateway before a server that says what the test says."""
    world = make(scripted=upstream)
    yield world, world.gateway.origin


@pytest.fixture
def world(make: Any) -> World:
    return make()  # type: ignore[no-any-return]


def test_a_unary_call_with_metadata_both_ways(world: World) -> None:
    binary = bytes(range(256))
    reply, call = world.unary().with_call(
        b"hello", metadata=(("x-some-bin", binary), ("x-text", "t")), timeout=DEADLINE
    )
    assert reply == b"hello"
    assert dict(call.initial_metadata())["x-initial"] == "i"
    assert dict(call.trailing_metadata())["x-trailing-bin"] == binary
    assert world.greeter.seen[0]["x-text"] == "t"
    record = world.gateway.wait_for_record(path="/test.Greeter/Unary")
    assert (record["status"], record["protocol"], record["fault"]) == (200, "HTTP/2.0", None) or record["fault"] is None


@pytest.mark.parametrize("code", ["ABORTED", "UNAVAILABLE", "NOT_FOUND", "INTERNAL"])
def test_the_status_of_the_server_arrives_as_it_is(world: World, code: str) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        world.unary("Fail")(code.encode(), timeout=DEADLINE)
    assert (failed.value.code(), failed.value.details()) == (CODES[code], "why: 100 % ä")


def test_an_injected_fault_is_a_status_for_calls_of_each_kind(make: Any) -> None:
    world = make(route={"filters": INJECTED})
    stream = world.channel.stream_stream("/test.Greeter/Bidi")
    for call in (lambda: world.unary()(b"x", timeout=DEADLINE), lambda: [*stream(iter([b"x"]), timeout=DEADLINE)]):
        with pytest.raises(grpc.RpcError) as failed:
            call()
        message = "This failure was injected for a test."  # as over gRPC-Web and Connect
        assert (failed.value.code(), failed.value.details()) == (CODES.RESOURCE_EXHAUSTED, message)
    assert world.greeter.seen == []


def test_streams_of_either_side_and_of_both(world: World) -> None:
    stream = world.channel.unary_stream("/test.Greeter/ServerStream")
    assert list(stream(b"100", timeout=DEADLINE)) == [b"%d" % n for n in range(100)]
    upload = world.channel.stream_unary("/test.Greeter/ClientStream")
    assert upload(iter([b"x" * 1000] * 100), timeout=DEADLINE) == b"100000"
    sent = threading.Semaphore(1)

    def one_by_one() -> Iterator[bytes]:
        for number in range(20):
            sent.acquire()  # each is sent when the one before was answered
            yield b"%d" % number

    both = world.channel.stream_stream("/test.Greeter/Bidi")
    got = []
    for each in both(one_by_one(), timeout=DEADLINE):
        got.append(each)
        sent.release()
    assert got == [b"<%d>" % n for n in range(20)]


def test_large_messages_are_streamed(world: World) -> None:
    message = b"x" * LARGE
    assert world.unary()(message, timeout=4 * DEADLINE) == message


def test_many_calls_at_once_share_connections(world: World) -> None:
    calls = [world.unary().future(b"%d" % n, timeout=DEADLINE) for n in range(300)]
    assert [call.result() for call in calls] == [b"%d" % n for n in range(300)]


def test_the_deadline_is_passed_on_lessened(world: World) -> None:
    world.unary()(b"", timeout=DEADLINE)
    assert 0 < world.greeter.seen[0]["left"] < DEADLINE + 1  # grpcio counts by the date, which may be set back
    world.unary()(b"")
    assert world.greeter.seen[1]["left"] is None or world.greeter.seen[1]["left"] > 1e9  # as grpcio says it


def test_the_deadline_is_the_routes(make: Any) -> None:
    """A client that does not watch its own deadline is told, and the server as well."""
    with scripted(make) as (world, origin), Http2Client(world.gateway.address()) as client:
        fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"200m")]
        stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
        peer = origin.accept()
        request = peer.read_message()
        left = request.get(b"grpc-timeout") or b""
        assert left.endswith(b"u")
        assert 0 < int(left[:-1]) <= 200_000
        response = client.read_message(stream)
        assert (response.status, response.get(b"grpc-status"), response.body) == (200, b"4", b"")
        assert peer.read_message(request.stream).reset == 8 if request.stream in peer.messages else True


@pytest.mark.parametrize(("delay", "most_left"), [("400ms", 9_800_000), ("300ms", None)])
def test_the_deadline_runs_while_filters_wait(make_own: Any, delay: str, most_left: int | None) -> None:
    """A call of which nothing is left is not sent."""
    with Http2Origin() as origin:
        world = make_own(upstream={"targets": [{"url": origin.url}]}, filters={"fault": {"delay": {"time": delay}}})
        with Http2Client(world.gateway.address()) as client:
            timeout = b"200m" if most_left is None else b"10000m"
            fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", timeout)]
            stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
            if most_left is None:
                assert client.read_message(stream).get(b"grpc-status") == b"4"
                record = world.gateway.wait_for_record(path="/test.Greeter/Unary")
                assert (record["fault"], record["target"]) == ("upstream_timeout", None)
            else:
                left = origin.accept().read_message().get(b"grpc-timeout") or b""
                assert left.endswith(b"u")
                assert int(left[:-1]) <= most_left


def test_a_call_without_any_time_is_not_sent(make_own: Any) -> None:
    """Nor is it once there is a connection for it."""
    with Http2Origin() as origin:
        world = make_own(upstream={"targets": [{"url": origin.url}]})
        with Http2Client(world.gateway.address()) as client:
            fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
            call = {"body": b"\0\0\0\0\0", "method": b"POST"}
            stream = client.ask(fields, path=b"/test.Greeter/First", **call)
            peer = origin.accept()
            answer(peer, [*HEAD, (b"grpc-status", b"0")], b"")
            assert client.read_message(stream).get(b"grpc-status") == b"0"
            for timeout in (b"0S", b"0n", b"00000000H"):
                path = b"/test.Greeter/" + timeout
                response = client.exchange([*fields, (b"grpc-timeout", timeout)], path=path, **call)
                assert (response.status, response.get(b"grpc-status")) == (200, b"4")
                record = world.gateway.wait_for_record(path=path.decode())
                assert (record["fault"], record["target"]) == ("upstream_timeout", None)
            client.ask(fields, path=b"/test.Greeter/Last", **call)
            assert peer.read_message().get(b":path") == b"/test.Greeter/Last"


def test_a_unary_call_in_one_piece_each_way(make: Any) -> None:
    """Such a call is passed on as it is, and so are its trailers; its status is logged."""
    with scripted(make) as (world, origin), Http2Client(world.gateway.address()) as client:
        fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        timed = [*fields, (b"grpc-timeout", b"90M")]
        for number in range(4):  # the first one opens a connection
            path = b"/test.Greeter/Call%d" % number
            stream = client.ask(timed if number > 1 else fields, b"\0\0\0\0\1a", method=b"POST", path=path)
            if not number:
                peer = origin.accept()
            request = peer.read_message()
            left = request.get(b"grpc-timeout")
            assert left is None if number <= 1 else 5_000_000 < int((left or b"")[:-1]) <= 5_400_000
            assert (request.body, request.get(b"te")) == (b"\0\0\0\0\1a", b"trailers")
            assert request.get(b"content-length") is None
            head = [(b":status", b"200"), (b"content-type", b"application/grpc")]
            peer.headers(request.stream, head, end=False)
            peer.data(request.stream, b"\0\0\0\0\1b", end=False)
            peer.headers(request.stream, [(b"grpc-status", b"5"), (b"x-end", b"e")], end=True)
            response = client.read_message(stream)
            assert (response.status, response.body) == (200, b"\0\0\0\0\1b")
            assert dict(response.trailers) == {b"grpc-status": b"5", b"x-end": b"e"}
            record = world.gateway.wait_for_record(path=path.decode())
            assert (record["grpc_status"], record["fault"]) == ("NOT_FOUND", None)
            assert (record["request_bytes"], record["response_bytes"]) == (6, 6)
        # the deadline of a call that the target does not answer
        stream = client.ask(
            [*fields, (b"grpc-timeout", b"200m")], b"\0\0\0\0\1a", method=b"POST", path=b"/test.Greeter/Late"
        )
        request = peer.read_message()
        assert 0 < int((request.get(b"grpc-timeout") or b"")[:-1]) <= 200_000
        response = client.read_message(stream)
        assert (response.status, response.get(b"grpc-status"), response.body) == (200, b"4", b"")
        record = world.gateway.wait_for_record(path="/test.Greeter/Late")
        assert (record["grpc_status"], record["fault"]) == ("DEADLINE_EXCEEDED", "upstream_timeout")
        assert peer.read_until_frame(RST_STREAM, request.stream).code == 8


def test_a_deadline_in_the_middle_of_a_response_ends_it_with_a_status(make: Any) -> None:
    with scripted(make) as (world, origin):
        with Http2Client(world.gateway.address()) as client:
            fields = [(b"content-type", b"application/grpc+proto"), (b"te", b"trailers"), (b"grpc-timeout", b"300m")]
            stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
            peer = origin.accept()
            request = peer.read_message()
            peer.headers(request.stream, [(b":status", b"200"), (b"content-type", b"application/grpc")])
            peer.data(request.stream, b"\0\0\0\0\1x")
            response = client.read_message(stream)
            assert (response.status, response.body) == (200, b"\0\0\0\0\1x")
            trailers = dict(response.trailers)
            assert (trailers[b"grpc-status"], trailers[b"grpc-message"]) == (
                *(b"4", b"The response was not complete in time."),
            )
        record = world.gateway.wait_for_record(fault="upstream_stalled")
        assert record["fault_detail"] == "grpc-timeout of the call"


def test_the_total_time_in_the_middle_of_a_stream_is_not_called_a_silence_of_the_service(make: Any) -> None:
    with scripted(make, **TOTAL) as (world, origin):
        with Http2Client(world.gateway.address()) as client:
            fields = [(b"content-type", b"application/grpc+proto"), (b"te", b"trailers")]
            stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
            peer = origin.accept()
            request = peer.read_message()
            peer.headers(request.stream, [(b":status", b"200"), (b"content-type", b"application/grpc")])
            peer.data(request.stream, b"\0\0\0\0\1x")
            response = client.read_message(stream)
            trailers = dict(response.trailers)
            assert (trailers[b"grpc-status"], trailers[b"grpc-message"]) == (
                *(b"4", b"The response was not complete in time."),
            )
        record = world.gateway.wait_for_record(fault="upstream_stalled")
        assert record["fault_detail"] == "timeouts.total: 1 s"


def test_a_late_head_takes_nothing_else_from_the_deadline(make: Any) -> None:
    """The call waits with the head of a stream: its deadline stays the same moment."""
    with scripted(make) as (world, origin), Http2Client(world.gateway.address()) as client:
        fields = [(b"content-type", b"application/grpc+proto"), (b"te", b"trailers"), (b"grpc-timeout", b"4S")]
        begun = time.monotonic()
        stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
        peer = origin.accept()
        request = peer.read_message()
        wait_until(lambda: time.monotonic() > begun + 2.5, "more than half of the time")
        peer.headers(request.stream, [(b":status", b"200"), (b"content-type", b"application/grpc")], end=False)
        peer.data(request.stream, b"\0\0\0\0\1x", end=False)
        response = client.read_message(stream)
        assert dict(response.trailers)[b"grpc-status"] == b"4"
        assert time.monotonic() > begun + 3.5


@pytest.mark.parametrize(
    ("code", "status", "why"),
    [
        (0, b"13", "reset: NO_ERROR"),
        (INTERNAL_ERROR, b"13", "reset: INTERNAL_ERROR"),
        (3, b"13", "reset: FLOW_CONTROL_ERROR"),
        (CANCEL, b"1", "reset: CANCEL"),
        (11, b"8", "reset: ENHANCE_YOUR_CALM"),
        (12, b"7", "reset: INADEQUATE_SECURITY"),
        (99, b"13", "reset: 99"),
    ],
)
def test_a_reset_has_the_status_of_its_code(make: Any, code: int, status: bytes, why: str) -> None:
    """After "gRPC over HTTP2": UNAVAILABLE would invite the client to repeat a call that the server has processed."""
    with scripted(make) as (world, origin), Http2Client(world.gateway.address()) as client:
        fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"1H")]
        peer = None
        for begins in (False, True):
            path = b"/test.Greeter/%b" % (b"Begun" if begins else b"Unary")
            stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=path)
            peer = peer or origin.accept()
            asked = peer.read_message().stream
            if begins:
                peer.headers(asked, HEAD)
                client.read_head(stream)
            peer.rst(asked, code)
            assert status_of(client.read_message(stream)) == status
            record = world.gateway.wait_for_record(path=path.decode())
            assert (record["fault"], record["fault_detail"]) == (
                *("upstream_incomplete" if begins else "connection_lost", why),
            )


def test_a_reset_by_a_fallback_has_the_status_of_its_code(make_own: Any) -> None:
    """The reason in the log is that of the first upstream."""
    with Http2Origin() as origin:
        upstreams = {
            "u": {"targets": [{"url": "http://127.0.0.1:1"}], "protocol": "grpc"},
            "b": {"targets": [{"url": origin.url}], "protocol": "grpc"},
        }
        fallback = {"upstream": "b", "conditions": ["unreachable"]}
        world = make_own(upstreams=upstreams, route={"fallback": fallback})
        fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        with Http2Client(world.gateway.address()) as client:
            stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
            peer = origin.accept()
            peer.rst(peer.read_message().stream, INTERNAL_ERROR)
            assert status_of(client.read_message(stream)) == b"13"


def test_a_reply_as_fallback_has_its_own_status_after_a_reset(make_own: Any) -> None:
    with Http2Origin() as origin:
        upstreams = {"u": {"targets": [{"url": origin.url}], "protocol": "grpc"}}
        fallback = {"respond": {"status": 429}, "conditions": ["broken"]}
        world = make_own(upstreams=upstreams, route={"fallback": fallback})
        fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        with Http2Client(world.gateway.address()) as client:
            stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
            peer = origin.accept()
            peer.rst(peer.read_message().stream, INTERNAL_ERROR)
            assert status_of(client.read_message(stream)) == b"8"


@pytest.mark.parametrize("value", [b"1", b"x", b"-1S", b"123456789S", b"1 S"])
def test_a_deadline_that_cannot_be_read_is_refused(make: Any, value: bytes) -> None:
    with scripted(make) as (world, _), Http2Client(world.gateway.address()) as client:
        fields = [(b"content-type", b"application/grpc"), (b"grpc-timeout", value)]
        response = client.exchange(fields, b"", method=b"POST", path=b"/test.Greeter/Unary")
        assert (response.status, response.get(b"grpc-status")) == (200, b"13")


def test_a_cancelled_call_is_cancelled_at_the_server(world: World) -> None:
    call = world.unary("Wait").future(b"", timeout=DEADLINE)
    while not world.greeter.seen:
        assert not call.done()
    call.cancel()
    assert world.greeter.cancelled.wait(DEADLINE)


def test_a_cancelled_stream_is_cancelled_at_the_server(world: World) -> None:
    responses = world.channel.unary_stream("/test.Greeter/Endless")(b"", timeout=DEADLINE)
    next(responses)
    responses.cancel()
    assert world.greeter.cancelled.wait(DEADLINE)


def test_no_route_is_unimplemented(world: World) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        world.unary(service="other.Service")(b"", timeout=DEADLINE)
    assert failed.value.code() is CODES.UNIMPLEMENTED


def test_a_server_that_is_away_is_unavailable(make_own: Any) -> None:
    world = make_own()
    world.server.stop(0).wait()
    with pytest.raises(grpc.RpcError) as failed:
        world.unary()(b"", timeout=DEADLINE)
    assert failed.value.code() is CODES.UNAVAILABLE
    assert failed.value.details() == "The upstream service is unreachable."


@pytest.mark.parametrize(("filters", "code"), REFUSALS)
def test_refusals_of_filters_are_statuses(make: Any, filters: dict[str, Any], code: Any) -> None:
    world = make(route={"filters": filters})
    with contextlib.suppress(grpc.RpcError):
        world.unary()(b"", timeout=DEADLINE)
    with pytest.raises(grpc.RpcError) as failed:
        world.unary()(b"", timeout=DEADLINE)
    assert failed.value.code() is code


def test_a_status_may_be_retried(make: Any) -> None:
    world = make(upstream=ONCE_MORE)
    assert world.unary("FailOnce")(b"", timeout=DEADLINE) == b"again"
    assert world.gateway.wait_for_record(path="/test.Greeter/FailOnce")["retries"] == 1


def test_the_log_and_the_metrics_have_the_status(make_own: Any) -> None:
    world = make_own(status={"address": "127.0.0.1:0"})
    world.unary()(b"x", timeout=DEADLINE)
    assert world.gateway.wait_for_record(path="/test.Greeter/Unary")["grpc_status"] == "OK"
    assert world.unary("Fail").future(b"NOT_FOUND", timeout=DEADLINE).exception() is not None
    assert world.gateway.wait_for_record(path="/test.Greeter/Fail")["grpc_status"] == "NOT_FOUND"
    assert world.unary("Nothing", "test.None").future(b"", timeout=DEADLINE).exception() is not None
    record = world.gateway.wait_for_record(path="/test.None/Nothing")
    assert (record["status"], record["grpc_status"]) == (404, "UNIMPLEMENTED")
    with Client(world.gateway.ready["status"]) as client:
        text = client.exchange(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").body.decode()
    assert set(re.findall(r"^fastgw_grpc_calls_total(.*)$", text, re.MULTILINE)) == {
        '{grpc_status="OK",route="greeter"} 1.0',
        '{grpc_status="NOT_FOUND",route="greeter"} 1.0',
        '{grpc_status="UNIMPLEMENTED",route="_none"} 1.0',
    }


@pytest.mark.parametrize("code", ["UNAVAILABLE", "NOT_FOUND"])
def test_outliers_are_told_by_their_status(make: Any, code: str) -> None:
    """The circuit of the whole opens by statuses for which the server is to blame, and by no others."""
    world = make(upstream=OPENS)
    errors = [world.unary("Fail").future(code.encode(), timeout=DEADLINE).exception() for _ in range(10)]
    opened = any("circuit" in str(error.details()) for error in errors)
    assert opened is (code == "UNAVAILABLE")


def test_deadlines_of_callers_do_not_open_the_circuit(make: Any) -> None:
    """A caller without patience says nothing about the server, neither by its own deadline nor by the server's word."""
    with scripted(make, **OPENS_SOON) as (world, origin):
        fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"50m")]
        with Http2Client(world.gateway.address()) as client:
            peer = None
            for _ in range(4):
                stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
                peer = peer or origin.accept()
                response = client.read_message(stream)
                assert response.get(b"grpc-status") == b"4"
        for record in (world.gateway.wait_for_record(fault="upstream_timeout") for _ in range(4)):
            assert record["target"] == origin.address


def late_call(
    client: Http2Client, peer: Http2Peer | None, origin: Http2Origin, begins: bool
) -> tuple[int, Http2Peer, int]:
    """Send a call, on a connection that is there, and wait until its time is up for the server, which notices that
    before the gateway does. Return its stream at both sides. `begins`: whether the response has begun.
    """
    fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    if peer is None:
        stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
        peer = origin.accept()
        peer.headers(peer.read_message().stream, [*HEAD, (b"grpc-status", b"0")], end=True)
        assert client.read_message(stream).get(b"grpc-status") == b"0"
    fields.append((b"grpc-timeout", b"300m"))
    stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
    asked = peer.read_head().stream
    begun = time.monotonic()  # the gateway's time has begun before
    if begins:
        peer.headers(asked, HEAD)
        peer.data(asked, b"\0\0\0\0\1x")
    wait_until(lambda: time.monotonic() > begun + 0.285, "the end of the time, but for some milliseconds")
    return stream, peer, asked


@pytest.mark.parametrize("begins", [False, True])
def test_a_reset_at_the_deadline_is_the_callers(make: Any, begins: bool) -> None:
    """A server may notice the end first, and cancels the call (grpc-java): that is no failure of it."""
    with scripted(make, **OPENS_SOON) as (world, origin), Http2Client(world.gateway.address()) as client:
        peer = None
        for _ in range(4):
            stream, peer, asked = late_call(client, peer, origin, begins)
            peer.rst(asked, CANCEL)
            peer.messages.clear()
            assert status_of(client.read_message(stream)) == b"4"


def test_a_reset_at_once_is_not_at_a_short_deadline(make: Any) -> None:
    """Otherwise every failure of calls with little time would be the caller's, and the breaker would never open."""
    fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"100m")]
    with scripted(make) as (world, origin), Http2Client(world.gateway.address()) as client:

        def reset_all() -> None:
            for _ in range(100):  # a call that has no time for its connection gives it up
                with contextlib.suppress(OSError, Unexpected):
                    peer = origin.accept()
                    while True:
                        peer.rst(peer.read_head().stream, CANCEL)
                        peer.messages.clear()

        threading.Thread(target=reset_all, daemon=True).start()
        ask = partial(client.exchange, fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
        # The clock of deadlines is up to 50 ms behind, and on a busy machine a reset may take long.
        assert any(status_of(ask()) == b"1" for _ in range(100))


@pytest.mark.parametrize("begins", [False, True])
def test_a_connection_that_ends_at_the_deadline_is_not_lost(make: Any, begins: bool) -> None:
    with scripted(make) as (world, origin), Http2Client(world.gateway.address()) as client:
        stream, peer, _ = late_call(client, None, origin, begins)
        peer.close()
        assert status_of(client.read_message(stream)) == b"4"


def status_of(response: Any) -> bytes | None:
    return response.get(b"grpc-status") or dict(response.trailers).get(b"grpc-status")


def test_the_deadline_of_a_caller_may_end_while_the_gateway_connects(make: Any) -> None:
    """The call has exceeded its deadline: its target is not UNAVAILABLE, as it is when connecting takes too long."""
    with scripted(make) as (world, _):  # which never answers the preface of HTTP/2
        fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"50m")]
        with Http2Client(world.gateway.address()) as client:
            stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
            assert client.read_message(stream).get(b"grpc-status") == b"4"


def test_a_half_open_breaker_is_closed_by_the_first_message_of_a_stream(make: Any) -> None:
    world = make(upstream=HALF_OPENS)
    while "circuit" not in str(world.unary("Fail").future(b"UNAVAILABLE", timeout=DEADLINE).exception().details()):
        pass
    endless = world.channel.unary_stream("/test.Greeter/Endless")
    message = b""
    while not message:  # until the breaker is half-open
        stream = endless(b"", timeout=DEADLINE)
        with contextlib.suppress(grpc.RpcError):
            message = next(stream)
    assert world.unary()(b"x", timeout=DEADLINE) == b"x"
    stream.cancel()


def test_health_is_asked_by_its_protocol(make_own: Any) -> None:
    world = make_own(
        upstream={
            "health_checks": {"active": {"type": "grpc", "service": "test.Greeter", "interval": "50ms"}},
            "load_balancing": {"panic_threshold": "0%"},
        }
    )
    world.health.set("test.Greeter", health_pb2.HealthCheckResponse.NOT_SERVING)
    until = threading.Event()
    for _ in range(200):
        error = world.unary().future(b"", timeout=DEADLINE).exception()
        if error is not None:
            break
        until.wait(0.05)
    else:
        pytest.fail("it is still asked")
    assert error.code() is CODES.UNAVAILABLE
    world.health.set("test.Greeter", health_pb2.HealthCheckResponse.SERVING)
    for _ in range(200):
        with contextlib.suppress(grpc.RpcError):
            assert world.unary()(b"back", timeout=DEADLINE) == b"back"
            return
        until.wait(0.05)
    pytest.fail("it is not asked again")


def test_health_and_reflection_pass(world: World) -> None:
    world.health.set("", health_pb2.HealthCheckResponse.SERVING)
    stub = health_pb2_grpc.HealthStub(world.channel)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE).status == 1
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (told,) = reflection_pb2_grpc.ServerReflectionStub(world.channel).ServerReflectionInfo(
        iter([asked]), timeout=DEADLINE
    )
    assert "test.Greeter" in [each.name for each in told.list_services_response.service]


def test_a_route_for_one_method_has_no_other(make: Any) -> None:
    world = make(route=ONE_METHOD)
    assert world.unary()(b"x", timeout=DEADLINE) == b"x"
    with pytest.raises(grpc.RpcError) as failed:
        world.unary("Fail")(b"", timeout=DEADLINE)
    assert failed.value.code() is CODES.UNIMPLEMENTED


def test_a_request_that_is_no_call_is_answered_as_ever(make: Any) -> None:
    world = make()
    with Http2Client(world.gateway.address()) as client:
        response = client.exchange(method=b"GET", path=b"/nowhere")
        assert (response.status, response.get(b"content-type")) == (404, b"application/problem+json")


TYPES = [None, b"application/json", b"application/grpc-web", b"application/grpc-web+proto", b"application/grpcx", b"x"]


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_no_call_is_not_sent(make: Any, kind: bytes | None) -> None:
    """The server would reset the stream, which would count against it: anybody could open the circuit breaker."""
    with scripted(make) as (world, origin):
        fields = [] if kind is None else [(b"content-type", kind)]
        with Http2Client(world.gateway.address()) as client:
            response = client.exchange(fields, b"{}", method=b"POST", path=b"/test.Greeter/Unary")
        assert_refused(response, origin)
        record = world.gateway.wait_for_record(path="/test.Greeter/Unary")
        assert (record["status"], record["fault"]) == (415, "unsupported_media_type")
        with Client(world.gateway.address()) as client1:
            typed = b"" if kind is None else b"Content-Type: %b\r\n" % kind
            assert_refused(client1.exchange(CALL1 % (typed, b"{}")), origin)


def test_a_call_over_http1_is_not_sent(make: Any) -> None:
    with scripted(make) as (world, origin):
        for more in (b"", b"Connection: TE\r\nTE: trailers\r\n"):
            with Client(world.gateway.address()) as client:
                response = client.exchange(CALL1 % (b"Content-Type: application/grpc\r\n" + more, b"\0\0"))
            assert b"HTTP/2" in response.body
            assert_refused(response, origin)


@pytest.mark.parametrize("method", [b"GET", b"PUT"])
def test_a_call_with_another_method_than_post_is_not_sent(make_own: Any, method: bytes) -> None:
    with Http2Origin() as origin:
        routes = [{"name": "all", "paths": ["/*"], "upstream": "u"}]
        world = make_own(upstream={"targets": [{"url": origin.url}]}, routes=routes)
        with Http2Client(world.gateway.address()) as client:
            body = None if method == b"GET" else b"\0\0\0\0\0"
            response = client.exchange([(b"content-type", b"application/grpc")], body, method=method, path=b"/a/b")
        assert (response.status, response.get(b"grpc-status"), response.get(b"allow")) == (405, None, b"POST")
        assert response.get(b"content-type") == b"application/problem+json"
        assert origin.none_waits()


def test_metadata_above_the_limit_is_a_status(make: Any) -> None:
    """Its head is not served; the beginning says that it is a call."""
    world = make()
    with pytest.raises(grpc.RpcError) as failed:
        world.unary()(b"x", timeout=DEADLINE, metadata=[(f"x-{number}", "a" * 4000) for number in range(10)])
    assert failed.value.code() is CODES.RESOURCE_EXHAUSTED
    assert not world.greeter.seen
    record = world.gateway.wait_for_record(path="/test.Greeter/Unary")
    assert (record["method"], record["status"], record["fault"]) == ("POST", 431, "head_too_large")
    assert record["grpc_status"] == "RESOURCE_EXHAUSTED"


def test_what_is_no_call_does_not_open_the_breaker(make: Any) -> None:
    world = make(upstream=BREAKS)
    with Http2Client(world.gateway.address()) as client:
        for _ in range(10):
            assert client.exchange([], b"{}", method=b"POST", path=b"/test.Greeter/Unary").status == 415
    assert world.unary()(b"hello", timeout=DEADLINE) == b"hello"


@pytest.mark.parametrize("kind", [b"application/grpc", b"application/grpc+x", b"Application/GRPC ; a=b"])
@pytest.mark.parametrize("te", [[], [(b"te", b"trailers")]])
def test_a_call_always_says_that_trailers_are_accepted(make: Any, kind: bytes, te: list[tuple[bytes, bytes]]) -> None:
    """Servers reset calls that do not."""
    with scripted(make) as (world, origin), Http2Client(world.gateway.address()) as client:
        fields = [(b"content-type", kind), *te]
        stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
        only = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"0")]
        request = answer(origin.accept(), only, b"")
        assert [value for name, value in request.fields if name == b"te"] == [b"trailers"]
        assert client.read_message(stream).get(b"grpc-status") == b"0"


INVALID = [[b"x"], [b""], [b"-1"], [b"+0"], [b"0x0"], [b"0", b"0"], [b"5", b"0"], [b"00000000000"]]
MORE = [(b"grpc-message", b"m"), (b"grpc-status-details-bin", b"CAU"), (b"x-end", b"e")]


@pytest.mark.parametrize("is_alone", [True, False])
def test_an_invalid_status_is_unknown(make: Any, is_alone: bool) -> None:
    """The specification of gRPC has `1*DIGIT`, and UNKNOWN for all else: so no two clients read it in different ways.
    A number that is none of gRPC's statuses is left to them. Alone, and beside a filter."""
    with scripted(make, **RETRIES) as (world, origin):
        head = [(b":status", b"200"), (b"content-type", b"application/grpc")]
        with Http2Client(world.gateway.address()) as client:
            peer = None
            for number, statuses in enumerate([[b"0"], *INVALID, [b"17"], [b"007"]]):
                path = b"/test.Greeter/Call%d" % number
                fields = [(b"content-type", b"application/grpc")]
                stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=path)
                peer = peer or origin.accept()
                request = peer.read_message()
                sent = [*((b"grpc-status", value) for value in statuses), *MORE]
                if is_alone:
                    peer.headers(request.stream, [*head, *sent], end=True)
                else:
                    peer.headers(request.stream, head)
                    peer.data(request.stream, b"\0\0\0\0\0")
                    peer.headers(request.stream, sent, end=True)
                response = client.read_message(stream)
                got = response.fields if is_alone else response.trailers
                shown = [line for line in got if line[0].startswith(b"grpc-") or line[0] == b"x-end"]
                if statuses in INVALID:
                    which = b"more than one" if len(statuses) > 1 else b"an invalid"
                    told = b"The upstream service has sent %b status." % which
                    assert sorted(shown) == [(b"grpc-message", told), (b"grpc-status", b"2"), (b"x-end", b"e")]
                    record = world.gateway.wait_for_record(path=path.decode())
                    assert (record["grpc_status"], record["fault_detail"]) == ("UNKNOWN", told.decode())
                else:
                    assert sorted(shown) == sorted(sent)


HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(
    "metadata", [[(b"x-%d" % n, b"v") for n in range(99)], [(b"info-bin", b"QUJD" * 4000)]], ids=["many", "long"]
)
def test_the_metadata_of_a_status_is_limited_as_that_of_a_head(
    make: Any, is_whole: bool, metadata: list[tuple[bytes, bytes]]
) -> None:
    """The server has processed the call: a caller that is told UNAVAILABLE would send it once more."""
    with scripted(make) as (world, origin), Http2Client(world.gateway.address()) as client:
        fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
        peer = origin.accept()
        asked = peer.read_message().stream
        trailers = [(b"grpc-status", b"0"), *metadata]
        peer.headers(asked, HEAD)
        if not is_whole:
            client.read_head(stream)
        peer.data(asked, b"\0\0\0\0\0")
        peer.headers(asked, trailers, end=True)
        response = client.read_message(stream)
        assert (response.status, response.body, response.trailers) == (200, b"\0\0\0\0\0", trailers)


def blamed_calls(make: Any) -> Iterator[tuple[World, Http2Client, Http2Peer, int, int, str]]:
    """Yield calls that the test answers: world, client and server, its stream at both, and its path. After three, the
    circuit is open.
    """
    with scripted(make, **OPENS_BY_THREE) as (world, origin):
        fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        with Http2Client(world.gateway.address()) as client:
            peer = None
            for number in range(3):
                path = f"/test.Greeter/Call{number}"
                stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=path.encode())
                peer = peer or origin.accept()
                yield world, client, peer, stream, peer.read_message().stream, path
            response = client.exchange(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/More")
            assert (response.get(b"grpc-status"), origin.none_waits()) == (b"14", True)


def test_the_log_has_the_status_of_a_call_that_is_reset_within_its_declared_length(make: Any) -> None:
    """No status can follow so short a body: the caller gets a reset, which stands for INTERNAL."""
    with scripted(make) as (world, origin), Http2Client(world.gateway.address()) as client:
        fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Short")
        peer = origin.accept()
        asked = peer.read_message().stream
        peer.headers(asked, [*HEAD, (b"content-length", b"10")])
        assert client.read_head(stream).get(b"content-length") == b"10"
        peer.data(asked, b"12345", end=True)
        assert client.read_message(stream).reset == INTERNAL_ERROR
        record = world.gateway.wait_for_record(path="/test.Greeter/Short")
        assert (record["fault"], record["grpc_status"]) == ("upstream_malformed", "INTERNAL")


@pytest.mark.parametrize("message", [b"", b"\0\0\0\0\1b"])
@pytest.mark.parametrize("trailers", [[], [(b"x-end", b"e")]])
@pytest.mark.parametrize("is_at_once", [True, False])
def test_a_missing_status_is_unknown(
    make: Any, message: bytes, trailers: list[tuple[bytes, bytes]], is_at_once: bool
) -> None:
    """As for clients of gRPC: it is logged and counted, and the target is to blame. The response stays as it is."""
    for world, client, peer, stream, asked, path in blamed_calls(make):
        peer.headers(asked, HEAD, end=is_at_once and not message and not trailers)
        if not is_at_once:
            client.read_head(stream)
        if message:
            peer.data(asked, message, end=not trailers)
        elif not trailers and not is_at_once:
            peer.data(asked, b"", end=True)
        if trailers:
            peer.headers(asked, trailers, end=True)
        response = client.read_message(stream)
        assert (response.status, response.body, list(response.trailers)) == (200, message, trailers)
        assert response.get(b"grpc-status") is None
        record = world.gateway.wait_for_record(path=path)
        assert (record["status"], record["grpc_status"], record["fault"]) == (200, "UNKNOWN", None)


@pytest.mark.parametrize("body", [b"", b"busy"])
def test_an_http_status_stands_for_that_of_the_call(make: Any, body: bytes) -> None:
    """A proxy before the server, for example, answers so: the target is to blame for 503, with a body or without."""
    for world, client, peer, stream, asked, path in blamed_calls(make):
        peer.headers(asked, [(b":status", b"503")], end=not body)
        if body:
            client.read_head(stream)
            peer.data(asked, body, end=True)
        response = client.read_message(stream)
        assert (response.status, response.body) == (503, body)
        assert world.gateway.wait_for_record(path=path)["status"] == 503


def assert_refused(response: Any, origin: Http2Origin) -> None:
    assert (response.status, response.get(b"content-type")) == (415, b"application/problem+json")
    assert origin.none_waits()


def test_a_response_of_trailers_alone_is_not_changed(make: Any) -> None:
    with scripted(make) as (world, origin), Http2Client(world.gateway.address()) as client:
        fields = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        stream = client.ask(fields, b"\0\0\0\0\0", method=b"POST", path=b"/test.Greeter/Unary")
        peer = origin.accept()
        only = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"9")]
        request = answer(peer, only, b"")
        assert request.get(b"te") == b"trailers"
        response = client.read_message(stream)
        assert (response.get(b"grpc-status"), response.get(b"content-length")) == (b"9", None)
