"""gRPC-Web, bytes in and bytes out: both versions of HTTP in front, a server of grpcio or a hand-made one behind."""

from __future__ import annotations

import contextlib
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.client import Client
from tests.support.grpc_world import CODES, DEADLINE, LIMITS, Server, World, grpc_part
from tests.support.http2_peer import CANCEL, INTERNAL_ERROR, RST_STREAM, Fields, Http2Origin, Http2Peer
from tests.support.listener_lanes import ListenerLanes, Part, Settings
from tests.support.rpc_calls import (
    GRPC,
    OK_STATUS,
    Call,
    StreamingCall,
    both,
    call_http1,
    call_http2,
    framed,
    frames_in,
    served,
)

WEB, TEXT = b"application/grpc-web+proto", b"application/grpc-web-text+proto"


def made_world(folder: Path, stack: contextlib.ExitStack, **more: Any) -> World:
    filters = {"grpc_web": {}, **more.pop("filters", {})}
    return World(folder, stack, route={"filters": filters}, **more)


EDITS = {"headers": {"response": {"remove": ["X-Internal"], "set": {"x-set": "2"}}}}
RETRIES = {"retries": {"conditions": ["unavailable"], "non_idempotent": True}}
BOTH_EDITED = {"headers": {"request": {"set": {"X-Added": "1"}}, "response": {"set": {"X-Answered": "2"}}}}
DEAD = {"targets": [{"url": "http://127.0.0.1:1"}]}


def shared_settings(scripted: Settings) -> list[tuple[int, Settings]]:
    """Settings, and how many tests have them. `scripted`: of an upstream whose server is the test."""
    return [
        (1 + 26, {}),
        (1, {"upstream": {**scripted, "health_checks": {"passive": None}}}),
        (10, {"upstream": scripted}),
        (2, {"filters": {"basic_auth": {}}}),
        (2, {"upstream": scripted, "filters": EDITS}),
        (2, {"upstream": RETRIES, "filters": BOTH_EDITED}),
        (4, {"upstream": DEAD, "fallback": scripted}),
    ]


def part_of(server: Server, name: str, settings: Settings) -> Part:
    """`fallback`: settings of the upstream that takes over from one that cannot be connected to."""
    route: dict[str, Any] = {"filters": {"grpc_web": {}, **settings.get("filters", {})}}
    if "fallback" in settings:
        route["fallback"] = {"upstream": f"{name}-live", "conditions": ["unreachable"]}
    upstreams, routes = grpc_part(name, server.url, settings.get("upstream", {}), route, f"{name}-")
    if "fallback" in settings:
        upstreams[f"{name}-live"] = {"protocol": "grpc", **settings["fallback"]}
    return Part(upstreams, routes)


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
        yield partial(made_world, tmp_path, stack)


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


@pytest.fixture
def own_world(make: Any) -> World:
    """One for a test that reads the log."""
    return make()  # type: ignore[no-any-return]


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


@pytest.fixture
def own_scripted(make: Any, origin: Http2Origin) -> World:
    """One for a test that reads the log."""
    return make(upstream={"targets": [{"url": origin.url}]})  # type: ignore[no-any-return]


@both
def test_a_unary_call(world: World, call: Call) -> None:
    got = call(
        world, framed(b"hello"), WEB, b"Unary", (b"x-text", b"t"), (b"x-some-bin", b"AAECAw"), (b"x-grpc-web", b"1")
    )
    assert (got.status, got.get(b"content-type"), got.get(b"x-initial")) == (200, WEB, b"i")
    assert got.messages() == [b"hello"]
    trailers = got.trailers()
    assert (trailers[b"grpc-status"], trailers[b"x-trailing-bin"]) == (b"0", b"AAECAw")
    (seen,) = world.greeter.seen
    assert (seen["x-text"], seen["x-some-bin"]) == ("t", b"\0\1\2\3")
    assert "x-grpc-web" not in seen


@both
@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 5, 7, 100])
def test_text_in_pieces_that_are_padded_each(world: World, call: Call, pieces: int) -> None:
    """PROTOCOL-WEB.md: pieces are encoded each by itself, so padding may stand anywhere; so it may in what is sent."""
    whole = framed(b"hello in text")
    body = b"".join(b64encode(whole[at : at + pieces]) for at in range(0, len(whole), pieces))
    got = call(world, body, TEXT)
    assert (got.status, got.get(b"content-type")) == (200, TEXT)
    decoded = got._replace(body=decoded_text(got.body))
    assert (decoded.messages(), decoded.trailers()[b"grpc-status"]) == ([b"hello in text"], b"0")


def decoded_text(text: bytes) -> bytes:
    """Base64 whose pieces may be padded, group by group: as slow as it is plain."""
    assert len(text) % 4 == 0
    return b"".join(b64decode(text[at : at + 4], validate=True) for at in range(0, len(text), 4))


@both
@pytest.mark.parametrize(
    ("kind", "accept", "answered"),
    [
        (TEXT, b"application/grpc-web-text", TEXT),
        (TEXT, WEB, WEB),
        (TEXT, b"*/*", TEXT),
        (WEB, TEXT, TEXT),
        (WEB, b"text/html, application/grpc-web-text;q=0.9", TEXT),
        (b"application/grpc-web", b"*/*", b"application/grpc-web"),
        (b"APPLICATION/GRPC-WEB-TEXT; charset=utf-8", b"*/*", b"application/grpc-web-text"),
        (b"application/grpc-web+json", b"*/*", b"application/grpc-web+json"),
    ],
)
def test_accept_decides_the_form_of_the_response(
    scripted: World, origin: Http2Origin, call: Call, kind: bytes, accept: bytes, answered: bytes
) -> None:
    body = framed(b"x")
    body = b64encode(body) if b"text" in kind.lower() else body

    def serve(peer: Http2Peer) -> None:
        request = peer.read_message()
        codec = kind.lower().partition(b"+")[2]
        assert request.get(b"content-type") == (b"application/grpc+" + codec if codec else b"application/grpc")
        assert (request.get(b"te"), request.get(b"accept"), request.body) == (b"trailers", None, framed(b"x"))
        peer.headers(request.stream, [GRPC[0], (b"content-type", request.get(b"content-type") or b"")])
        peer.data(request.stream, framed(b"y"))
        peer.headers(request.stream, OK_STATUS, end=True)

    with served(origin, serve):
        got = call(scripted, body, kind, b"Unary", (b"accept", accept))
    assert got.get(b"content-type") == answered
    assert (b64encode(framed(b"y")) if b"text" in answered else framed(b"y")) in got.body


@both
def test_the_status_of_the_server_is_the_last_frame(world: World, call: Call) -> None:
    """Trailers-only answers too: nothing but the frame is there, and it is no header."""
    got = call(world, framed(b"NOT_FOUND"), WEB, b"Fail")
    assert (got.status, got.get(b"grpc-status"), got.messages()) == (200, None, [])
    assert got.trailers() == {b"grpc-status": b"5", b"grpc-message": b"why: 100 %25 %C3%A4"}


@both
def test_gateway_faults_are_frames(make: Any, call: Call) -> None:
    world = make(filters={"basic_auth": {}})
    got = call(world, framed(b"x"))
    assert (got.status, got.get(b"content-type"), got.messages()) == (200, WEB, [])
    assert got.trailers() == {b"grpc-status": b"16", b"grpc-message": b"Authentication is required."}
    assert b"Basic" in (got.get(b"www-authenticate") or b"")
    record = world.gateway.wait_for_record(path="/test.Greeter/Unary")
    assert record["fault"] == "credentials_missing"
    text = call(world, b64encode(framed(b"x")), TEXT)
    assert text._replace(body=decoded_text(text.body)).trailers()[b"grpc-status"] == b"16"


@both
def test_a_server_that_is_away_is_unavailable(make_own: Any, call: Call) -> None:
    own_world = make_own()
    own_world.server.stop(0).wait()
    got = call(own_world, framed(b"x"))
    assert got.trailers() == {b"grpc-status": b"14", b"grpc-message": b"The upstream service is unreachable."}


@both
def test_a_deadline_holds_and_is_passed_on(world: World, call: Call) -> None:
    got = call(world, framed(b""), WEB, b"Wait", (b"grpc-timeout", b"300m"))
    assert got.trailers()[b"grpc-status"] == b"4"
    assert world.greeter.cancelled.wait(DEADLINE)
    assert 0 < world.greeter.seen[0]["left"] <= 0.3
    assert call(world, framed(b""), WEB, b"Wait", (b"grpc-timeout", b"soon")).trailers() == {
        b"grpc-status": b"13",
        b"grpc-message": b"The grpc-timeout header is malformed.",
    }


@both
def test_messages_of_a_stream_arrive_one_by_one(scripted: World, origin: Http2Origin, call: Call) -> None:
    """The server sends the next only when the client has the one before; half a message waits for nothing either."""
    with StreamingCall(scripted, call is call_http2, WEB) as client:
        client.send(framed(b"go"), ended=True)
        peer = origin.accept()
        request = peer.read_message()
        peer.headers(request.stream, GRPC)
        for number in range(5):
            message = framed(b"message %d" % number)
            peer.data(request.stream, message[:7])
            assert client.read(7) == message[:7]
            peer.data(request.stream, message[7:])
            assert client.read(len(message) - 7) == message[7:]
        peer.headers(request.stream, [*OK_STATUS, (b"x-a", b"1"), (b"x-a", b"2")], end=True)
        last = framed(b"grpc-status:0\r\nx-a:1, 2\r\n", 0x80)
        assert client.read(len(last)) == last
        assert client.is_whole()


@both
def test_text_of_a_stream_is_padded_behind_messages(scripted: World, origin: Http2Origin, call: Call) -> None:
    with StreamingCall(scripted, call is call_http2, TEXT) as client:
        client.send(b64encode(framed(b"go")), ended=True)
        peer = origin.accept()
        request = peer.read_message()
        peer.headers(request.stream, GRPC)
        for message in (b"a", b"bc", b"def", b""):
            sent = framed(message)
            for at in range(len(sent)):
                peer.data(request.stream, sent[at : at + 1])
            assert client.read(len(b64encode(sent))) == b64encode(sent)
        peer.headers(request.stream, OK_STATUS, end=True)
        last = b64encode(framed(b"grpc-status:0\r\n", 0x80))
        assert client.read(len(last)) == last
        assert client.is_whole()


@both
def test_a_call_streams_to_the_server_as_it_comes(scripted: World, origin: Http2Origin, call: Call) -> None:
    """The request's body is not held: the server has the first message before the client has sent the second."""
    first, second = b64encode(framed(b"first")), b64encode(framed(b"second"))
    with StreamingCall(scripted, call is call_http2, TEXT) as client:
        client.send(first[:5])
        peer = origin.accept()
        request = peer.read_head()
        client.send(first[5:])
        while request.body != framed(b"first"):
            peer.read_frame()
        client.send(second, ended=True)
        assert peer.read_message().body == framed(b"first") + framed(b"second")


BAD = [
    (WEB, framed(b"x", 0x80), b"flags 0x80"),  # trailers, which only responses have
    (WEB, framed(b"x", 0x02), b"flags 0x02"),
    (WEB, b"\0\0\0\0\x05hell", b"ends within a message"),
    (WEB, b"\0\xff\xff\xff\xffx", b"ends within a message"),
    (WEB, b"\0\0\0", b"ends within a message"),
    (TEXT, b"AAAA!AAA", b"not Base64"),
    (TEXT, b"AAAAAAVoZWxsbw=", b"not Base64"),
    (TEXT, b"AAAAAAV=aGVsbG8=", b"not Base64"),
    (TEXT, b"A===", b"not Base64"),
    (TEXT, b"====", b"not Base64"),
    (TEXT, b"AAAA\r\nAAA", b"not Base64"),
    (TEXT, b"AAAAAAVo-_xs", b"not Base64"),
    (TEXT, framed(b"not text at all"), b"not Base64"),
]


@both
@pytest.mark.parametrize(("kind", "body", "told"), BAD)
def test_a_malformed_body_is_refused(own_world: World, call: Call, kind: bytes, body: bytes, told: bytes) -> None:
    got = call(own_world, body, kind)
    if kind == TEXT:
        got = got._replace(body=decoded_text(got.body))
    assert (got.status, got.messages()) == (200, [])
    trailers = got.trailers()
    assert trailers[b"grpc-status"] == b"13"
    assert re.search(told, trailers[b"grpc-message"], re.IGNORECASE)
    assert own_world.gateway.wait_for_record(path="/test.Greeter/Unary")["fault"] == "bad_request"


@both
def test_a_malformed_piece_ends_a_call_that_is_in_flight(own_scripted: World, origin: Http2Origin, call: Call) -> None:
    """The server is told by a reset, the client by a status behind the messages that it has."""
    with StreamingCall(own_scripted, call is call_http2, WEB) as client:
        client.send(framed(b"a"))
        peer = origin.accept()
        request = peer.read_head()
        peer.headers(request.stream, GRPC)
        peer.data(request.stream, framed(b"b"))
        assert client.read(6) == framed(b"b")
        client.send(framed(b"c", 0x80))
        assert peer.read_message(request.stream).reset == CANCEL
        last = framed(b"grpc-status:13\r\ngrpc-message:A message has the flags 0x80.\r\n", 0x80)
        assert client.read(len(last)) == last
        assert client.is_whole()
    assert own_scripted.gateway.wait_for_record(path="/test.Greeter/ServerStream")["fault"] == "bad_request"


@both
def test_a_response_that_breaks_off_ends_with_a_status(own_scripted: World, origin: Http2Origin, call: Call) -> None:
    with StreamingCall(own_scripted, call is call_http2, WEB) as client:
        client.send(framed(b"a"), ended=True)
        peer = origin.accept()
        request = peer.read_message()
        peer.headers(request.stream, GRPC)
        peer.data(request.stream, framed(b"b"))
        assert client.read(6) == framed(b"b")
        peer.rst(request.stream, INTERNAL_ERROR)
        last = client.read(5)
        assert (last[0], b"grpc-status:13\r\n" in client.read(int.from_bytes(last[1:], "big"))) == (0x80, True)
        assert client.is_whole()
    record = own_scripted.gateway.wait_for_record(path="/test.Greeter/ServerStream")
    assert record["fault"] in ("connection_lost", "upstream_incomplete")


@both
def test_within_a_message_nothing_but_a_broken_response_is_true(
    scripted: World, origin: Http2Origin, call: Call
) -> None:
    """A frame of trailers there would be read as bytes of the message."""
    with StreamingCall(scripted, call is call_http2, WEB) as client:
        client.send(framed(b"a"), ended=True)
        peer = origin.accept()
        request = peer.read_message()
        peer.headers(request.stream, GRPC)
        peer.data(request.stream, framed(b"message")[:8])
        assert client.read(8) == framed(b"message")[:8]
        peer.rst(request.stream, INTERNAL_ERROR)
        assert not client.is_whole()


@both
@pytest.mark.parametrize(
    ("sent", "whole"), [(framed(b"x", 0x80), True), (framed(b"x", 0x04), True), (framed(b"xyz")[:7], False)]
)
def test_frames_of_the_server_that_are_none_are_not_passed_on(
    own_scripted: World, origin: Http2Origin, call: Call, sent: bytes, whole: bool
) -> None:
    """A server, or what it was told to send, could forge trailers otherwise."""
    with StreamingCall(own_scripted, call is call_http2, WEB) as client:
        client.send(framed(b"a"), ended=True)
        peer = origin.accept()
        request = peer.read_message()
        peer.headers(request.stream, GRPC)
        peer.data(request.stream, sent)
        peer.headers(request.stream, OK_STATUS, end=True)
        if whole:
            last = client.read(5)
            assert (last[0], b"grpc-status:14\r\n" in client.read(int.from_bytes(last[1:], "big"))) == (0x80, True)
        assert client.is_whole() is whole
    fault = own_scripted.gateway.wait_for_record(path="/test.Greeter/ServerStream")["fault"]
    assert fault == ("upstream_malformed" if whole else "upstream_incomplete")


@both
@pytest.mark.parametrize(
    ("head", "code"),
    [
        ([(b":status", b"503"), (b"content-type", b"text/html")], b"14"),
        ([(b":status", b"404")], b"12"),
        ([(b":status", b"429")], b"14"),
        ([(b":status", b"200"), (b"content-type", b"text/html")], b"2"),
        ([(b":status", b"418")], b"2"),
    ],
)
def test_an_answer_that_is_not_grpc_becomes_a_status(
    scripted: World, origin: Http2Origin, call: Call, head: Fields, code: bytes
) -> None:
    def serve(peer: Http2Peer) -> None:
        request = peer.read_message()
        peer.headers(request.stream, head)
        peer.data(request.stream, b"<html>grpc-status: 0", end=True)
        peer.wait_until_read()

    with served(origin, serve):
        got = call(scripted, framed(b"x"))
    assert (got.status, got.get(b"content-type"), got.messages()) == (200, WEB, [])
    assert got.trailers()[b"grpc-status"] == code


@both
def test_a_call_whose_credentials_are_refused_is_sent_again(make_own: Any, call: Call) -> None:
    credentials = {"credentials": {"basic": {"username": "u", "password": "p"}}}

    def serve(peer: Http2Peer) -> None:
        refused = peer.read_message()
        peer.headers(refused.stream, [(b":status", b"401")], end=True)
        again = peer.read_message()
        assert (again.body, again.get(b"authorization")) == (refused.body, b"Basic dTpw")
        peer.headers(again.stream, [*GRPC, (b"grpc-status", b"0")], end=True)
        peer.wait_until_read()

    with Http2Origin() as origin:
        world = make_own(upstream={"targets": [{"url": origin.url}]}, filters=credentials)
        with served(origin, serve):
            got = call(world, framed(b"x"))
    assert got.trailers() == {b"grpc-status": b"0"}


@both
def test_headers_that_are_removed_do_not_return_as_trailers(make: Any, origin: Http2Origin, call: Call) -> None:
    """Where a head is all of a response, its metadata are headers over gRPC."""
    world = make(upstream={"targets": [{"url": origin.url}]}, filters=EDITS)
    secrets = [(b"x-internal", b"secret"), (b"x-set", b"secret")]

    def serve(peer: Http2Peer) -> None:
        request = peer.read_message()
        peer.headers(request.stream, [*GRPC, (b"grpc-status", b"5"), (b"x-kept", b"1"), *secrets], end=True)
        peer.wait_until_read()

    with served(origin, serve):
        got = call(world, framed(b"x"))
    assert got.trailers() == {b"grpc-status": b"5", b"x-kept": b"1"}
    assert got.get(b"x-set") == b"2"


@both
@pytest.mark.parametrize("statuses", [[], [b"x"], [b"-1"], [b"+0"], [b"0x0"], [b"0", b"0"], [b"0", b"5"], [b"0" * 11]])
def test_no_status_is_none_that_is_well(
    scripted: World, origin: Http2Origin, call: Call, statuses: list[bytes]
) -> None:
    """Nor is one that browsers would read as each likes."""

    def serve(peer: Http2Peer) -> None:
        request = peer.read_message()
        peer.headers(request.stream, GRPC)
        peer.data(request.stream, framed(b"x"), end=not statuses)
        if statuses:
            peer.headers(request.stream, [(b"grpc-status", value) for value in statuses], end=True)
        peer.wait_until_read()

    with served(origin, serve):
        got = call(scripted, framed(b"x"))
    assert (got.messages(), got.trailers()[b"grpc-status"]) == ([b"x"], b"2")


@both
def test_compressed_messages_pass_as_they_are(scripted: World, origin: Http2Origin, call: Call) -> None:
    def serve(peer: Http2Peer) -> None:
        request = peer.read_message()
        assert (request.get(b"grpc-encoding"), request.body) == (b"gzip", framed(b"zipped", 1))
        peer.headers(request.stream, [*GRPC, (b"grpc-encoding", b"gzip")])
        peer.data(request.stream, framed(b"too", 1))
        peer.headers(request.stream, OK_STATUS, end=True)

    with served(origin, serve):
        got = call(scripted, framed(b"zipped", 1), WEB, b"Unary", (b"grpc-encoding", b"gzip"))
    assert (got.get(b"grpc-encoding"), frames_in(got.body)[0]) == (b"gzip", (1, b"too"))


@both
def test_a_large_message_passes_both_ways(world: World, call: Call) -> None:
    message = bytes(range(256)) * 3_000
    got = call(world, framed(message))
    assert got.messages() == [message]
    text = call(world, b64encode(framed(message)), TEXT)
    assert text._replace(body=decoded_text(text.body)).messages() == [message]


@both
def test_the_limit_of_bodies_holds(make_own: Any, origin: Http2Origin, call: Call) -> None:
    world = make_own(upstream={"targets": [{"url": origin.url}]}, limits={"body_bytes": "1KiB"})
    with StreamingCall(world, call is call_http2, WEB) as client:
        client.send(framed(b"x" * 1020)[:1024])
        peer = origin.accept()
        request = peer.read_head()
        client.send(b"x", ended=True)
        last = client.read(5)
        assert b"grpc-status:8\r\n" in client.read(int.from_bytes(last[1:], "big"))
        assert peer.read_message(request.stream).reset == CANCEL


def test_a_length_above_the_limit_is_refused_before_a_route_is_known(make_own: Any) -> None:
    """So it is answered as over HTTP: clients of gRPC-Web know what 413 means."""
    world = make_own(limits={"body_bytes": "1KiB"})
    assert call_http1(world, framed(b"x" * 1019)).messages() == [b"x" * 1019]
    assert call_http1(world, framed(b"x" * 1020)).status == 413


def test_plain_grpc_passes_on_the_same_route(world: World) -> None:
    assert world.unary()(b"plain", timeout=DEADLINE) == b"plain"
    with pytest.raises(grpc.RpcError) as failed:
        world.unary("Fail")(b"NOT_FOUND", timeout=DEADLINE)
    assert failed.value.code() is CODES.NOT_FOUND


@both
def test_pages_of_other_origins_with_cors(make_own: Any, call: Call) -> None:
    """The preflight is answered; responses and faults have the headers that the page reads them by."""
    cors = {
        "origins": ["https://app.example"],
        "headers": ["Content-Type", "X-Grpc-Web", "X-User-Agent", "Grpc-Timeout"],
        "expose": ["X-Initial"],
    }
    world = make_own(filters={"cors": cors})
    origin_line = (b"origin", b"https://app.example")
    with contextlib.closing(Client(world.gateway.address())) as client:
        client.send(
            b"OPTIONS /test.Greeter/Unary HTTP/1.1\r\nHost: a.test\r\nOrigin: https://app.example\r\n"
            b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-grpc-web,content-type\r\n\r\n"
        )
        preflight = client.read_response(b"OPTIONS")
    assert preflight.status == 204
    assert b"X-Grpc-Web" in (preflight.get(b"access-control-allow-headers") or b"")
    for method, message in ((b"Unary", b"x"), (b"Fail", b"ABORTED")):
        got = call(world, framed(message), WEB, method, origin_line)
        assert got.get(b"access-control-allow-origin") == b"https://app.example"
        assert got.get(b"access-control-expose-headers") == b"X-Initial"
    world.server.stop(0).wait()
    assert call(world, framed(b"x"), WEB, b"Unary", origin_line).get(b"access-control-allow-origin") is not None


@both
def test_a_client_that_leaves_cancels_the_call(scripted: World, origin: Http2Origin, call: Call) -> None:
    with StreamingCall(scripted, call is call_http2, WEB) as client:
        client.send(framed(b"a"), ended=True)
        peer = origin.accept()
        request = peer.read_message()
        peer.headers(request.stream, GRPC)
        peer.data(request.stream, framed(b"b"))
        client.read(6)
    assert peer.read_until_frame(RST_STREAM, request.stream).code == CANCEL


@both
def test_retries_and_fields_of_the_route_apply(make: Any, call: Call) -> None:
    world = make(upstream=RETRIES, filters=BOTH_EDITED)
    got = call(world, framed(b""), WEB, b"FailOnce")
    assert (got.messages(), got.get(b"x-answered")) == ([b"again"], b"2")
    record = world.gateway.wait_for_record(path="/test.Greeter/FailOnce")
    assert (record["retries"], record["status"], record["method"]) == (1, 200, "POST")
    call(world, framed(b""))
    assert world.greeter.seen[-1]["x-added"] == "1"


@both
@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_fallback_takes_over(make: Any, origin: Http2Origin, call: Call, in_pieces: bool) -> None:
    """The other upstream gets the whole call, what had come of it before as well."""
    world = make(upstream=DEAD, fallback={"targets": [{"url": origin.url}]})
    if not in_pieces:

        def serve(peer: Http2Peer) -> None:
            request = peer.read_message()
            assert request.body == framed(b"x")
            peer.headers(request.stream, GRPC)
            peer.data(request.stream, framed(b"y"))
            peer.headers(request.stream, OK_STATUS, end=True)

        with served(origin, serve):
            assert call(world, framed(b"x")).messages() == [b"y"]
        return
    with StreamingCall(world, call is call_http2, TEXT) as client:
        client.send(b64encode(framed(b"first"))[:6])
        peer = origin.accept()
        client.send(b64encode(framed(b"first"))[6:], ended=True)
        assert peer.read_message().body == framed(b"first")
