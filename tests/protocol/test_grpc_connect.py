"""The Connect protocol, bytes in and bytes out: both versions of HTTP in front, grpcio or a hand-made one behind."""

from __future__ import annotations

import contextlib
import gzip
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.grpc_world import DEADLINE, LIMITS, Server, World, grpc_part
from tests.support.http2_peer import CANCEL, INTERNAL_ERROR, Fields, Http2Client, Http2Message, Http2Origin, Http2Peer
from tests.support.listener_lanes import ListenerLanes, Part, Settings
from tests.support.rpc_calls import (
    GRPC,
    OK_STATUS,
    Call,
    Got,
    StreamingCall,
    both,
    call_http1,
    call_http2,
    framed,
    frames_in,
    served,
)

PROTO, JSON, STREAM = b"application/proto", b"application/json", b"application/connect+proto"
VERSION = (b"connect-protocol-version", b"1")


EDITS = {"headers": {"response": {"remove": ["X-Internal"], "set": {"x-set": "2"}}}}
ALLOWED = ["Unary", "test.Greeter/Unary"]
OTHERS = ["Other", "other.Greeter/Unary", "Greeter/Unary"]
"""Methods that calls by GET may have."""


def shared_settings(scripted: Settings) -> list[tuple[int, Settings]]:
    """Settings, and how many tests have them. `scripted`: of an upstream whose server is the test."""
    return [
        (1, {}),
        (1, {"upstream": {**scripted, "health_checks": {"passive": None}}}),
        (4, {"upstream": scripted, "filters": EDITS}),
        (2, {"upstream": scripted, "filters": {"decompress": {}}}),
        (2, {"upstream": {**scripted, "protocol": "http2"}}),
        (2, {"connect": {"message_bytes": "1KiB"}}),
        (2, {"filters": {"basic_auth": {}}}),
        (2, {"connect": {}}),
        (8, {"connect": {"get": ["Unary"]}}),
        *((2, {"connect": {"get": [method]}}) for method in ALLOWED + OTHERS),
    ]


def route_of(settings: Settings) -> dict[str, Any]:
    filters = {"connect_rpc": settings.get("connect", {}), "grpc_web": {}, **settings.get("filters", {})}
    return {"grpc": None, "paths": ["/test.Greeter/*"], "methods": ["GET", "POST"], "filters": filters}


def part_of(server: Server, name: str, settings: Settings) -> Part:
    return Part(*grpc_part(name, server.url, settings.get("upstream", {}), route_of(settings), f"{name}-"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop(0).wait()


@pytest.fixture(scope="module")
def lanes(
    server: Server, shared_origin: Http2Origin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ListenerLanes]:
    kinds = shared_settings({"targets": [{"url": shared_origin.url}]})
    lanes = ListenerLanes(tmp_path_factory.mktemp("lanes"), partial(part_of, server), kinds, LIMITS)
    yield lanes
    lanes.stop()


@pytest.fixture
def make_own(tmp_path: Path) -> Iterator[Any]:
    """For tests that stop the server, or need other settings of the gateway."""
    with contextlib.ExitStack() as stack:
        yield partial(World, tmp_path, stack, route=route_of({}))


@pytest.fixture
def make(lanes: ListenerLanes, server: Server) -> Iterator[Any]:
    """For tests whose settings are among those of lanes."""
    with contextlib.ExitStack() as stack:

        def made(**settings: Any) -> World:
            return World.in_lane(lanes.take(settings), server, stack)

        yield made


@pytest.fixture(scope="module")
def shared_world(lanes: ListenerLanes, server: Server) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World.in_lane(lanes.take({}), server, stack)


@pytest.fixture
def world(shared_world: World) -> World:
    """A gateway before a server; all tests of this file have the same one."""
    shared_world.greeter.forget()
    return shared_world


@pytest.fixture(scope="module")
def shared_origin() -> Iterator[Http2Origin]:
    with Http2Origin() as opened:
        yield opened


@pytest.fixture
def origin(shared_origin: Http2Origin) -> Iterator[Http2Origin]:
    yield shared_origin
    shared_origin.close_connections()


@pytest.fixture(scope="module")
def shared_scripted(lanes: ListenerLanes, server: Server, shared_origin: Http2Origin) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        upstream = {"targets": [{"url": shared_origin.url}], "health_checks": {"passive": None}}
        yield World.in_lane(lanes.take({"upstream": upstream}), server, stack)


@pytest.fixture
def scripted(shared_scripted: World, origin: Http2Origin) -> World:
    """A gateway before a server that says what the test says; all tests of this file have the same one."""
    return shared_scripted


def answering(
    head: Fields = GRPC,
    messages: Sequence[bytes] = (),
    trailers: Fields | None = OK_STATUS,
    got: list[Any] | None = None,
) -> Any:
    """What serves one call like this. `got`: takes the request."""

    def serve(peer: Http2Peer) -> None:
        request = peer.read_message()
        if got is not None:
            got.append(request)
        peer.headers(request.stream, head, end=trailers is None)
        for message in messages:
            peer.data(request.stream, message)
        if trailers is not None:
            peer.headers(request.stream, trailers, end=True)
        peer.wait_until_read()

    return serve


def error_in(got: Got) -> dict[str, Any]:
    assert got.get(b"content-type") == JSON
    error = json.loads(got.body)
    assert isinstance(error, dict)
    return error


# unary calls


@both
def test_a_unary_call(world: World, call: Call) -> None:
    got = call(world, b"hello", PROTO, b"Unary", VERSION, (b"x-text", b"t"), (b"x-some-bin", b"AAECAw"))
    assert (got.status, got.get(b"content-type"), got.body) == (200, PROTO, b"hello")
    assert (got.get(b"x-initial"), got.get(b"trailer-x-trailing-bin")) == (b"i", b"AAECAw")
    assert (got.get(b"grpc-status"), got.get(b"trailer-grpc-status")) == (None, None)
    (seen,) = world.greeter.seen
    assert (seen["x-text"], seen["x-some-bin"]) == ("t", b"\0\1\2\3")
    assert not [name for name in seen if name.startswith("connect-")]


@both
@pytest.mark.parametrize("message", [b"", b"x", bytes(range(256)) * 2_000])
def test_a_message_of_any_length_with_and_without_its_declaration(world: World, call: Call, message: bytes) -> None:
    assert call(world, message, PROTO, b"Unary", VERSION).body == message
    if call is call_http2:
        declared = (b"content-length", b"%d" % len(message))
        assert call(world, message, PROTO, b"Unary", VERSION, declared).body == message


@both
def test_the_call_as_the_server_gets_it(scripted: World, origin: Http2Origin, call: Call) -> None:
    got: list[Any] = []
    with served(origin, answering(messages=[framed(b"{}")], got=got)):
        answer = call(
            scripted,
            b'{"a": 1}',
            b"application/json; charset=utf-8",
            b"Unary",
            VERSION,
            (b"connect-timeout-ms", b"5000"),
        )
    (request,) = got
    assert (request.get(b":method"), request.get(b":path")) == (b"POST", b"/test.Greeter/Unary")
    assert (request.get(b"content-type"), request.get(b"te")) == (b"application/grpc+json", b"trailers")
    assert request.body == framed(b'{"a": 1}')
    left = request.get(b"grpc-timeout") or b""
    assert left.endswith(b"u")
    assert 3_000_000 < int(left[:-1]) <= 5_000_000
    assert (answer.status, answer.get(b"content-type"), answer.body) == (200, JSON, b"{}")


@both
@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        ("NOT_FOUND", 404, "not_found"),
        ("CANCELLED", 499, "canceled"),
        ("INVALID_ARGUMENT", 400, "invalid_argument"),
        ("UNAVAILABLE", 503, "unavailable"),
        ("UNAUTHENTICATED", 401, "unauthenticated"),
    ],
)
def test_statuses_are_errors(world: World, call: Call, code: str, status: int, name: str) -> None:
    got = call(world, code.encode(), PROTO, b"Fail", VERSION)
    assert got.status == status
    assert error_in(got) == {"code": name, "message": "why: 100 % ä"}


@both
def test_an_error_has_details_and_metadata(scripted: World, origin: Http2Origin, call: Call) -> None:
    any_of = b"\x0a\x22type.googleapis.com/test.Something\x12\x01\xff"
    details = b64encode(b"\x08\x05\x1a" + bytes((len(any_of),)) + any_of)
    trailers = [(b"grpc-status", b"5"), (b"grpc-status-details-bin", details), (b"x-cost", b"237")]
    with served(origin, answering([*GRPC, (b"x-lead", b"1")], [], trailers)):
        got = call(scripted, b"x", PROTO, b"Unary", VERSION)
    assert (got.status, got.get(b"x-lead"), got.get(b"trailer-x-cost")) == (404, b"1", b"237")
    assert error_in(got) == {"code": "not_found", "details": [{"type": "test.Something", "value": "/w"}]}
    assert got.get(b"trailer-grpc-status-details-bin") is None


@both
def test_trailers_alone_are_an_error(scripted: World, origin: Http2Origin, call: Call) -> None:
    head = [*GRPC, (b"grpc-status", b"8"), (b"grpc-message", b"slow%20down")]
    with served(origin, answering(head, [], None)):
        got = call(scripted, b"x", PROTO, b"Unary", VERSION)
    assert (got.status, error_in(got)) == (429, {"code": "resource_exhausted", "message": "slow down"})


ALONE: Fields = [*GRPC, (b"grpc-status", b"5"), (b"x-kept", b"1"), (b"x-internal", b"secret"), (b"x-set", b"secret")]


@both
def test_headers_that_are_removed_do_not_return_as_metadata(make: Any, origin: Http2Origin, call: Call) -> None:
    """Where a head is all of a response, its metadata are headers over gRPC."""
    world = make(upstream={"targets": [{"url": origin.url}]}, filters=EDITS)
    with served(origin, answering(ALONE, [], None)):
        got = call(world, b"x", PROTO, b"Unary", VERSION)
    assert error_in(got)["code"] == "not_found"
    assert (got.get(b"trailer-x-kept"), got.get(b"x-set")) == (b"1", b"2")
    assert (got.get(b"trailer-x-internal"), got.get(b"trailer-x-set")) == (None, None)


@both
@pytest.mark.parametrize(
    ("head", "messages", "trailers", "status", "code"),
    [
        (GRPC, [], OK_STATUS, 501, "unimplemented"),  # a stream was called as if it were none
        (GRPC, [framed(b"a"), framed(b"b")], OK_STATUS, 501, "unimplemented"),
        (GRPC, [framed(b"abc")[:7]], OK_STATUS, 503, "unavailable"),
        (GRPC, [framed(b"a", 0x80)], OK_STATUS, 503, "unavailable"),
        (GRPC, [framed(b"a", 1)], OK_STATUS, 503, "unavailable"),  # compressed, and nobody knows how
        (GRPC, [b"\0\xff\xff\xff\xff"], OK_STATUS, 503, "unavailable"),
        (GRPC, [framed(b"a")], [(b"x-a", b"1")], 500, "unknown"),
        (GRPC, [framed(b"a")], [(b"grpc-status", b"99")], 500, "unknown"),
        (GRPC, [framed(b"a")], [(b"grpc-status", b"+0")], 500, "unknown"),
        (GRPC, [framed(b"a")], [(b"grpc-status", b"0"), (b"grpc-status", b"0")], 500, "unknown"),
        ([(b":status", b"200"), (b"content-type", b"text/html")], [b"<html>"], None, 500, "unknown"),
        ([(b":status", b"503")], [], None, 503, "unavailable"),
        ([(b":status", b"404"), (b"content-type", b"application/grpc")], [], None, 501, "unimplemented"),
    ],
)
def test_answers_that_are_not_one_message_are_errors(
    scripted: World,
    origin: Http2Origin,
    call: Call,
    head: Fields,
    messages: list[bytes],
    trailers: Fields | None,
    status: int,
    code: str,
) -> None:
    if trailers is None and messages:
        messages, trailers = messages[:0], OK_STATUS
    with served(origin, answering(head, messages, trailers)):
        got = call(scripted, b"x", PROTO, b"Unary", VERSION)
    assert (got.status, error_in(got)["code"]) == (status, code)


@both
def test_compression_passes_both_ways(scripted: World, origin: Http2Origin, call: Call) -> None:
    """The bridge does not compress: what says how is said in the terms of the other protocol."""
    got: list[Any] = []
    zipped = gzip.compress(b"hello")
    head = [*GRPC, (b"grpc-encoding", b"gzip"), (b"grpc-accept-encoding", b"gzip")]
    with served(origin, answering(head, [framed(zipped, 1)], got=got)):
        answer = call(
            scripted, zipped, PROTO, b"Unary", VERSION,
            (b"content-encoding", b"gzip"), (b"accept-encoding", b"gzip, br;q=0, x y, deflate;q=0.5"),
        )  # fmt: skip
    (request,) = got
    assert (request.get(b"grpc-encoding"), request.get(b"content-encoding")) == (b"gzip", None)
    assert (request.get(b"grpc-accept-encoding"), request.body) == (b"gzip,deflate,identity", framed(zipped, 1))
    assert (answer.get(b"content-encoding"), answer.body) == (b"gzip", zipped)
    assert answer.get(b"grpc-encoding") is None


@both
def test_a_message_that_is_decompressed_is_sent_as_such(make: Any, origin: Http2Origin, call: Call) -> None:
    got: list[Any] = []
    world = make(upstream={"targets": [{"url": origin.url}]}, filters={"decompress": {}})
    with served(origin, answering(GRPC, [framed(b"x")], got=got)):
        zipped = gzip.compress(b"hello")
        assert call(world, zipped, PROTO, b"Unary", VERSION, (b"content-encoding", b"gzip")).status == 200
    assert (got[0].get(b"grpc-encoding"), got[0].body) == (None, framed(b"hello"))


@both
@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([(b"connect-protocol-version", b"2")], "Connect-Protocol-Version"),
        ([VERSION, VERSION], "Connect-Protocol-Version"),
        ([VERSION, (b"connect-timeout-ms", b"soon")], "Connect-Timeout-Ms"),
        ([VERSION, (b"connect-timeout-ms", b"12345678901")], "Connect-Timeout-Ms"),
        ([VERSION, (b"connect-timeout-ms", b"1"), (b"connect-timeout-ms", b"2")], "Connect-Timeout-Ms"),
        ([VERSION, (b"content-encoding", b"gzip, br")], "compression"),
        ([VERSION, (b"content-encoding", b"gzip"), (b"content-encoding", b"br")], "compression"),
    ],
)
def test_a_request_that_is_not_one_of_the_protocol_is_refused(
    world: World, call: Call, lines: list[tuple[bytes, bytes]], told: str
) -> None:
    got = call(world, b"x", PROTO, b"Unary", *lines)
    assert (got.status, error_in(got)["code"]) == (400, "invalid_argument")
    assert told in error_in(got)["message"]
    assert not world.greeter.seen


@both
def test_what_is_held_is_bounded(make: Any, call: Call) -> None:
    """A request whose length is declared is not held; a response is."""
    world = make(connect={"message_bytes": "1KiB"})
    assert call(world, b"x" * 1024, PROTO, b"Unary", VERSION).body == b"x" * 1024
    more = [] if call is call_http1 else [(b"content-length", b"1025")]
    got = call(world, b"x" * 1025, PROTO, b"Unary", VERSION, *more)
    assert (got.status, error_in(got)["code"]) == (503, "unavailable")
    assert len(world.greeter.seen) == 2
    with StreamingCall(world, call is call_http2, PROTO, b"Unary", VERSION) as client:
        client.send(b"x" * 1024)
        client.send(b"x", ended=True)
        assert client.read(28) == b'{"code":"resource_exhausted"'
    assert len(world.greeter.seen) == 2


@both
@pytest.mark.parametrize("length", [2**32, 2**40])
def test_a_length_that_no_message_can_have_is_refused_at_the_head(make_own: Any, call: Call, length: int) -> None:
    """Over HTTP/2 the connection goes on."""
    world = make_own(limits={"body_bytes": 2**63 - 1})
    declared = (b"content-length", b"%d" % length)
    if call is call_http2:
        with Http2Client(world.gateway.address()) as client:
            head = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/test.Greeter/Unary")]
            head += [(b":authority", b"a.test"), (b"content-type", PROTO), VERSION]
            client.messages[1], client.messages[3] = Http2Message(1), Http2Message(3)
            client.headers(1, [*head, declared])
            client.data(1, b"abc", end=False)
            refused = client.read_message(1)
            client.headers(3, head)
            client.data(3, b"abc", end=True)
            assert client.read_message(3).body == b"abc"
        status, body = refused.status, refused.body
    else:
        with contextlib.closing(Client(world.gateway.address())) as plain:
            plain.send(
                b"POST /test.Greeter/Unary HTTP/1.1\r\nHost: a.test\r\nContent-Type: %b\r\n%b: %b\r\n%b: %b\r\n\r\n"
                % (PROTO, *VERSION, *declared)
            )
            response = plain.read_response()
        status, body = response.status, response.body
    assert (status, json.loads(body)["code"]) == (429, "resource_exhausted")
    assert "4294967295 bytes" in json.loads(body)["message"]


@both
@pytest.mark.parametrize("kind", [PROTO, STREAM])
@pytest.mark.parametrize("lines", [[b"gzip, br"], [b"gzip", b"br"], [b""]])
def test_an_answer_with_more_than_one_compression_is_an_error(
    scripted: World, origin: Http2Origin, call: Call, kind: bytes, lines: list[bytes]
) -> None:
    head = [*GRPC, *((b"grpc-encoding", line) for line in lines)]
    with served(origin, answering(head, [framed(b"x", 1)])):
        got = call(scripted, framed(b"x") if kind == STREAM else b"x", kind, b"Unary", VERSION)
    assert (got.get(b"content-encoding"), got.get(b"connect-content-encoding")) == (None, None)
    if kind == STREAM:
        ((flags, last),) = frames_in(got.body)
        assert (got.status, flags, json.loads(last)["error"]["code"]) == (200, 2, "internal")
    else:
        assert (got.status, error_in(got)["code"]) == (500, "internal")


@both
def test_gateway_faults_are_errors(make: Any, call: Call) -> None:
    world = make(filters={"basic_auth": {}})
    got = call(world, b"x", PROTO, b"Unary", VERSION)
    assert (got.status, error_in(got)) == (401, {"code": "unauthenticated", "message": "Authentication is required."})
    assert b"Basic" in (got.get(b"www-authenticate") or b"")
    stream = call(world, framed(b"x"), STREAM)
    assert (stream.status, stream.get(b"content-type")) == (200, STREAM)
    ((flags, last),) = frames_in(stream.body)
    assert (flags, json.loads(last)["error"]["code"]) == (2, "unauthenticated")


@both
def test_a_server_that_is_away_is_unavailable(make_own: Any, call: Call) -> None:
    own_world = make_own()
    own_world.server.stop(0).wait()
    got = call(own_world, b"x", PROTO, b"Unary", VERSION)
    assert (got.status, error_in(got)["code"]) == (503, "unavailable")


@both
def test_the_deadline_holds(world: World, call: Call) -> None:
    got = call(world, b"", PROTO, b"Wait", VERSION, (b"connect-timeout-ms", b"300"))
    assert (got.status, error_in(got)["code"]) == (504, "deadline_exceeded")
    assert world.greeter.cancelled.wait(DEADLINE)


@both
def test_others_pass_unchanged(make: Any, origin: Http2Origin, call: Call) -> None:
    """Without the version it is not said to be a call: an upstream of HTTP/2 gets the request as it is."""
    world = make(upstream={"targets": [{"url": origin.url}], "protocol": "http2"})
    got: list[Any] = []
    head = [(b":status", b"201"), (b"content-type", JSON)]
    with served(origin, answering(head, [b"{}"], [(b"x-t", b"1")], got=got)):
        answer = call(world, b'{"a": 1}', JSON)
    assert (got[0].get(b"content-type"), got[0].body) == (JSON, b'{"a": 1}')
    assert (answer.status, answer.body) == (201, b"{}")


def test_grpc_and_grpc_web_pass_on_the_same_route(world: World) -> None:
    assert world.unary()(b"plain", timeout=DEADLINE) == b"plain"
    assert call_http1(world, framed(b"web")).messages() == [b"web"]


# calls by GET


def get(world: World, query: bytes, call: Call, method: bytes = b"Unary") -> Got:
    target = b"/test.Greeter/%b?%b" % (method, query)
    if call is call_http2:
        with Http2Client(world.gateway.address()) as client:
            got = client.exchange(method=b"GET", path=target)
            return Got(got.status, got.fields, got.body)
    with contextlib.closing(Client(world.gateway.address())) as plain:
        plain.send(b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % target)
        response = plain.read_response()
        return Got(response.status, list(response.head.lines), response.body)


@both
@pytest.mark.parametrize("allowed", ALLOWED)
def test_a_call_by_get(make: Any, call: Call, allowed: str) -> None:
    world = make(connect={"get": [allowed]})
    message = urlsafe_b64encode(b"\0\xff\xfe").rstrip(b"=")
    got = get(world, b"connect=v1&base64=1&encoding=proto&message=" + message, call)
    assert (got.status, got.get(b"content-type"), got.body) == (200, PROTO, b"\0\xff\xfe")
    assert get(world, b"connect=v1&encoding=proto&message=a%20b", call).body == b"a b"
    assert get(world, b"connect=v1&encoding=proto&message=", call).body == b""
    record = world.gateway.wait_for_record(path="/test.Greeter/Unary")
    assert record["method"] == "GET"


@both
@pytest.mark.parametrize("allowed", [None, *([method] for method in OTHERS)])
def test_methods_that_are_not_named_are_never_called_by_get(make: Any, call: Call, allowed: list[str] | None) -> None:
    world = make(connect={"get": allowed} if allowed else {})
    got = get(world, b"connect=v1&encoding=proto&message=x", call)
    assert (got.status, got.get(b"allow"), error_in(got)["code"]) == (405, b"POST", "unimplemented")
    assert not world.greeter.seen


@both
@pytest.mark.parametrize(
    "query",
    [b"message=x", b"encoding=proto", b"message=x&message=y&encoding=proto", b"message=!&base64=1&encoding=proto"],
)
def test_a_query_that_is_no_call_is_refused(make: Any, call: Call, query: bytes) -> None:
    world = make(connect={"get": ["Unary"]})
    got = get(world, b"connect=v1&" + query, call)
    assert (got.status, error_in(got)["code"]) == (400, "invalid_argument")
    assert not world.greeter.seen


# streams


def end_of(client: StreamingCall) -> Any:
    prefix = client.read(5)
    assert prefix[0] == 2
    last = json.loads(client.read(int.from_bytes(prefix[1:], "big")))
    assert client.is_whole()
    return last


@both
def test_a_stream_of_messages_each_way(world: World, call: Call) -> None:
    with StreamingCall(world, call is call_http2, STREAM, b"Bidi", VERSION) as client:
        for number in range(5):
            client.send(framed(b"%d" % number))
            assert client.read(8) == framed(b"<%d>" % number)
        client.send(framed(b"last"), ended=True)
        assert client.read(11) == framed(b"<last>")
        assert end_of(client) == {}


@both
def test_headers_that_are_removed_do_not_return_in_the_last_frame(make: Any, origin: Http2Origin, call: Call) -> None:
    world = make(upstream={"targets": [{"url": origin.url}]}, filters=EDITS)
    with StreamingCall(world, call is call_http2, STREAM, b"X") as client:
        client.send(framed(b"go"), ended=True)
        peer = origin.accept()
        peer.headers(peer.read_message().stream, ALONE, end=True)
        assert end_of(client) == {"error": {"code": "not_found"}, "metadata": {"x-kept": ["1"]}}


@both
def test_a_stream_ends_with_its_error_and_metadata(scripted: World, origin: Http2Origin, call: Call) -> None:
    with StreamingCall(scripted, call is call_http2, STREAM, b"X", (b"connect-accept-encoding", b"gzip")) as client:
        client.send(framed(b"go"), ended=True)
        peer = origin.accept()
        request = peer.read_message()
        assert (request.get(b"content-type"), request.get(b"grpc-accept-encoding")) == (GRPC[1][1], b"gzip,identity")
        peer.headers(request.stream, [*GRPC, (b"grpc-encoding", b"gzip")])
        peer.data(request.stream, framed(b"zipped", 1))
        assert client.read(11) == framed(b"zipped", 1)
        assert client.head().get(b"connect-content-encoding") == b"gzip"
        trailers = [(b"grpc-status", b"10"), (b"grpc-message", b"no"), (b"x-a", b"1"), (b"x-a", b"2")]
        peer.headers(request.stream, trailers, end=True)
        assert end_of(client) == {"error": {"code": "aborted", "message": "no"}, "metadata": {"x-a": ["1", "2"]}}


@both
@pytest.mark.parametrize("flags", [0x02, 0x80, 0x04])
def test_frames_that_a_request_cannot_have_end_the_call(
    scripted: World, origin: Http2Origin, call: Call, flags: int
) -> None:
    with StreamingCall(scripted, call is call_http2, STREAM) as client:
        client.send(framed(b"a"))
        peer = origin.accept()
        request = peer.read_head()
        peer.headers(request.stream, GRPC)
        peer.data(request.stream, framed(b"b"))
        assert client.read(6) == framed(b"b")
        client.send(framed(b"c", flags))
        assert peer.read_message(request.stream).reset == CANCEL
        assert end_of(client)["error"]["code"] == "invalid_argument"


@both
def test_frames_of_the_server_that_are_none_are_not_passed_on(scripted: World, origin: Http2Origin, call: Call) -> None:
    """A server could end the stream for its client otherwise, and go on."""
    with StreamingCall(scripted, call is call_http2, STREAM) as client:
        client.send(framed(b"a"), ended=True)
        peer = origin.accept()
        request = peer.read_message()
        peer.headers(request.stream, GRPC)
        peer.data(request.stream, framed(b"{}", 0x02))
        assert end_of(client)["error"]["code"] == "unavailable"


@both
@pytest.mark.parametrize("whole", [True, False])
def test_a_stream_that_breaks_off_ends_with_an_error(
    scripted: World, origin: Http2Origin, call: Call, whole: bool
) -> None:
    with StreamingCall(scripted, call is call_http2, STREAM) as client:
        client.send(framed(b"a"), ended=True)
        peer = origin.accept()
        request = peer.read_message()
        peer.headers(request.stream, GRPC)
        sent = framed(b"message") if whole else framed(b"message")[:8]
        peer.data(request.stream, sent)
        assert client.read(len(sent)) == sent
        peer.rst(request.stream, INTERNAL_ERROR)
        if whole:
            assert end_of(client)["error"]["code"] == "internal"
        else:
            assert not client.is_whole()
