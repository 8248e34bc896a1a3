"""JSON for services of gRPC, by the `google.api.http` rules of a descriptor set: with grpcio as the server."""

from __future__ import annotations

import contextlib
import gzip
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest

from tests.support.bookstore import DEADLINE, World, api, compiled, message
from tests.support.commands import ended
from tests.support.gateway import wait_until, write_config
from tests.support.http2_peer import Http2Client, Http2Message, Http2Origin, Http2Peer
from tests.support.listener_lanes import ListenerLane, ListenerLanes, Part, Settings

JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        yield lambda **more: World(tmp_path, stack, **more)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("bookstore"), stack)


@pytest.fixture
def world(shared: World) -> World:
    shared.store.seen.clear()
    shared.store.cancelled.clear()
    shared.store.began.clear()
    return shared


@pytest.fixture(params=["http1", "http2"])
def client(request: pytest.FixtureRequest, world: World) -> Iterator[httpx.Client]:
    with _client(world, request.param) as made:
        made.get("/")  # it knows the windows of HTTP/2 before it sends a body
        yield made


class Scripted(NamedTuple):
    """A lane before a server that says what the test says."""

    gateway: ListenerLane


SCRIPTED = 42
"""How many tests have one, with no settings of their own."""


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListenerLanes]:
    directory = tmp_path_factory.mktemp("lanes")
    descriptors = directory / "api.pb"
    descriptors.write_bytes(api())

    def part_of(name: str, _: Settings) -> Part:
        origin = Http2Origin()
        upstream = {"targets": [{"url": origin.url}], "protocol": "grpc"}
        filters = {"grpc_transcode": {"descriptors": str(descriptors)}}
        return Part({name: upstream}, [{"name": name, "upstream": name, "filters": filters}], origin, origin.__exit__)

    lanes = ListenerLanes(directory, part_of, [(SCRIPTED, {})])
    yield lanes
    lanes.stop()


@contextlib.contextmanager
def scripted(lanes: ListenerLanes) -> Iterator[tuple[Scripted, Http2Origin]]:
    lane = lanes.take({})
    yield Scripted(lane), lane.origin
    lane.close()


def _client(world: World, version: str = "http1") -> httpx.Client:
    is_http2 = version == "http2"
    return httpx.Client(base_url=world.url, http1=not is_http2, http2=is_http2, timeout=DEADLINE)


def test_each_kind_of_rule_leads_to_its_method(world: World, client: httpx.Client) -> None:
    got = client.get("/v1/shelves/7")
    assert (got.status_code, got.json()) == (200, {"name": "shelves/7", "displayName": "Mystery", "size": str(2**53)})
    assert got.headers["content-type"] == "application/json"
    assert client.request("SEARCH", "/v1/shelves/7").json()["name"] == "shelves/7"
    assert client.get("/v1/shelves", params={"page_size": "2"}).json()[1]["name"] == "shelves/1"
    assert client.post("/v1/shelves", params={"request_id": "r"}, json={"name": "n"}).json() == {"name": "n"}
    assert client.patch("/v1/shelves/7", json={"displayName": "d"}).json() == {"name": "shelves/7", "displayName": "d"}
    assert client.put("/v1/all/7", json={"shelf": {"size": 1}}).json() == {"size": "1"}
    assert client.delete("/v1/shelves/7").json() == {}
    assert client.post("/v1/shelves/7:move", json={}).json() == {"text": "shelves/7"}
    assert client.post("/v1/numbers", json=[1, 2]).json() == [1, 2]
    assert client.get("/v1/files/a/b%20c").json() == {"text": "a/b c"}
    names = "GetShelf GetShelf ListShelves CreateShelf UpdateShelf UpdateShelf DeleteShelf MoveShelf Echo Echo"
    assert [each[0] for each in world.store.seen] == names.split()


def test_the_log_has_the_request_of_the_client(world: World) -> None:
    with _client(world) as client:
        client.get("/v1/shelves/log")
    record = world.gateway.wait_for_record(path="/v1/shelves/log")
    shown = {name: record[name] for name in ("method", "status", "upstream", "route", "fault", "retries")}
    assert shown == {
        "method": "GET", "status": 200, "upstream": "u", "route": "bookstore", "fault": None, "retries": 0
    }  # fmt: skip
    assert record["target"].startswith("127.0.0.1:")
    assert record["upstream_s"] > 0


def test_headers_are_metadata_both_ways(world: World, client: httpx.Client) -> None:
    got = client.get("/v1/shelves/7", headers={"x-mine": "m", "cookie": "a=b", "grpc-timeout": "5S", "grpc-other": "x"})
    assert got.headers["x-initial"] == "i"
    assert "x-trailing" not in got.headers
    (_, _, metadata, left) = world.store.seen[0]
    assert (metadata["x-mine"], metadata["cookie"], metadata["x-forwarded-proto"]) == ("m", "a=b", "http")
    assert left is not None
    assert left < 5
    assert not {"accept", "content-length", "grpc-other", "grpc-encoding"} & set(metadata)


def test_trailing_metadata_is_trailers_for_those_who_accept_them(world: World) -> None:
    with Http2Client(world.gateway.address()) as client:
        response = client.exchange([(b"te", b"trailers")], path=b"/v1/shelves/7")
    assert json.loads(response.body)["name"] == "shelves/7"
    assert response.trailers == [(b"x-trailing", b"t")]


CHANGED = {"transform": {"response": {"json": {"set": {"x": "y"}}}}}


@pytest.mark.parametrize("accepts", [[], [(b"te", b"trailers")]], ids=["plain", "trailers"])
def test_another_filter_may_hold_the_response(make: Any, accepts: list[tuple[bytes, bytes]]) -> None:
    world = make(filters=CHANGED)
    with Http2Client(world.gateway.address()) as client:
        response = client.exchange(accepts, path=b"/v1/shelves/7")
    assert (response.status, json.loads(response.body)["x"]) == (200, "y")
    assert response.trailers == ([(b"x-trailing", b"t")] if accepts else [])
    with _client(world) as plain:
        assert plain.get("/v1/watch/a?number=2").text == '{"text":"m","x":"y"}\n{"text":"m","number":1,"x":"y"}\n'


def test_plain_grpc_passes_on_the_same_route(world: World) -> None:
    call = world.channel.unary_unary("/bookstore.v1.Bookstore/GetShelf")
    raw, made = call.with_call(message("GetShelfRequest")(name="plain").SerializeToString(), timeout=DEADLINE)
    assert message("Shelf").FromString(raw).name == "plain"
    assert dict(made.trailing_metadata())["x-trailing"] == "t"


@pytest.mark.parametrize(
    ("method", "path", "status", "type", "allow"),
    [
        ("GET", "/v1/nothing", 404, "route_not_found", None),
        ("POST", "/bookstore.v1.Bookstore/Hidden", 404, "route_not_found", None),  # no rule, and no `auto_mapping`
        ("PUT", "/v1/shelves", 405, "method_not_allowed", "GET, HEAD, POST"),
        ("GET", "/v1/all/7", 405, "method_not_allowed", "PUT"),
        ("GET", "/v1/shelves/", 404, "route_not_found", None),
    ],
)
def test_other_paths_and_methods_are_not_found(
    client: httpx.Client, method: str, path: str, status: int, type: str, allow: str | None
) -> None:
    got = client.request(method, path)
    assert (got.status_code, got.headers["content-type"]) == (status, "application/problem+json")
    assert got.json()["type"] == f"urn:fastgw:fault:{type}"
    assert got.headers.get("allow") == allow


def test_head_is_answered_like_get(world: World, client: httpx.Client) -> None:
    got = client.head("/v1/shelves/7")
    assert (got.status_code, got.content) == (200, b"")
    assert int(got.headers["content-length"]) == len(client.get("/v1/shelves/7").content)
    got = client.head("/v1/watch/endless")
    assert (got.status_code, got.headers["content-type"], got.content) == (200, "application/x-ndjson", b"")
    assert world.store.cancelled.wait(DEADLINE)


# errors


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *(("CANCELLED", 499), ("UNKNOWN", 500), ("INVALID_ARGUMENT", 400), ("DEADLINE_EXCEEDED", 504)),
        *(("NOT_FOUND", 404), ("ALREADY_EXISTS", 409), ("PERMISSION_DENIED", 403), ("RESOURCE_EXHAUSTED", 429)),
        *(("FAILED_PRECONDITION", 400), ("ABORTED", 409), ("OUT_OF_RANGE", 400), ("UNIMPLEMENTED", 501)),
        *(("INTERNAL", 500), ("UNAVAILABLE", 503), ("DATA_LOSS", 500), ("UNAUTHENTICATED", 401)),
    ],
)
def test_each_status_has_its_http_status(client: httpx.Client, code: str, status: int) -> None:
    got = client.post("/v1/echo", json={"text": f"fail:{code}"})
    number = grpc.StatusCode[code].value[0]
    assert (got.status_code, got.headers["content-type"]) == (status, "application/problem+json")
    assert got.headers["grpc-status"] == str(number)
    assert got.json() == {
        "type": f"urn:fastgw:grpc:{code.lower()}",
        "title": code.lower().replace("_", " ").capitalize(),
        "status": status,
        "detail": "why: 100 % ä",
        "code": number,
        "message": "why: 100 % ä",
        "details": [],
    }
    assert ("www-authenticate" in got.headers) == (status == 401)


def test_details_are_json_if_their_type_is_known(client: httpx.Client) -> None:
    got = client.post("/v1/echo", json={"text": "details:NOT_FOUND"})
    assert (got.status_code, got.json()["message"]) == (404, "with details")
    assert got.json()["details"] == [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "WHY", "domain": "bookstore.example"},
        {"@type": "type.googleapis.com/no.such.Type", "value": "AQI="},
    ]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "The JSON is malformed"),
        (b'{"text": "a", "text": "b"}', 'The JSON has the key "text" twice in one object.'),
        (b'{"number": 1e99}', '"1e99" is not an integer of 64 bits, for "number".'),
        (b'{"text": 5}', 'Expected a string for "text".'),
        (b'{"nothing": 1}', 'Message type "bookstore.v1.Everything" has no field named "nothing"'),
        (b"[" * 100_000, "The JSON is nested too deeply."),
        (b'{"value": ' + b"[" * 5000 + b"]" * 5000 + b"}", ""),
        (b'{"text": "' + b"x" * 10_000 + b'", "number": "x"}', '"x" is not a number'),  # converted in the thread
    ],
)
def test_json_that_is_no_message_never_reaches_the_server(
    world: World, client: httpx.Client, body: bytes, detail: str
) -> None:
    got = client.post("/v1/echo", content=body, headers=JSON)
    assert got.status_code == 400
    assert got.json()["type"] == "urn:fastgw:fault:bad_request"
    assert got.json()["detail"].startswith(detail)
    assert "['" not in got.json()["detail"]  # no list of Python
    assert client.get("/v1/echo", params={"flag": "1"}).status_code == 400
    assert client.get("/v1/echo", params={"nothing": "1"}).status_code == 400
    assert not world.store.seen


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "application/merge-patch+json"}, 200),
        ({}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/x-ndjson"}, 415),  # this method takes one message
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
    ],
)
def test_bodies_have_to_say_that_they_are_json(client: httpx.Client, headers: dict[str, str], status: int) -> None:
    got = client.post("/v1/echo", content=b"{}", headers=headers)
    assert got.status_code == status
    if status == 415:
        assert got.json()["type"] == "urn:fastgw:fault:unsupported_media_type"


def test_a_body_that_is_decompressed_has_no_content_coding(make: Any) -> None:
    world = make(filters={"decompress": {}})
    with _client(world) as client:
        coded = {**JSON, "content-encoding": "gzip"}
        got = client.post("/v1/echo", content=gzip.compress(b'{"text": "a"}'), headers=coded)
        assert (got.status_code, got.json()) == (200, {"text": "a"})


def test_messages_are_bounded_both_ways(make: Any) -> None:
    world = make(transcode={"message_bytes": 1000})
    with _client(world) as client:
        exact = b'{"text": "' + b"x" * (1000 - 12) + b'"}'
        assert client.post("/v1/echo", content=exact, headers=JSON).status_code == 200
        assert client.post("/v1/echo", content=exact + b" ", headers=JSON).status_code == 413
        large = {"text": "large", "number": 1000 - 11}
        got = client.post("/v1/echo", json=large)
        assert (got.status_code, len(got.content)) == (200, 1000)
        for number in (1000 - 10, 998):  # too long as JSON, and as Protobuf
            got = client.post("/v1/echo", json={**large, "number": number})
            assert (got.status_code, got.json()["type"]) == (502, "urn:fastgw:fault:response_too_large")
        line = b'{"text": "' + b"x" * 1000 + b'"}'
        got = client.post("/v1/sum", content=b'{"number": 1}\n' + line, headers=LINES)
        assert (got.status_code, got.json()["type"]) == (413, "urn:fastgw:fault:body_too_large")


def test_large_messages_are_converted_as_well(world: World, client: httpx.Client) -> None:
    sent = {"numbers": list(range(20_000)), "text": "ä" * 100_000}
    assert client.post("/v1/echo", json=sent).json() == sent


# streams


def test_a_streamed_response_arrives_line_by_line(world: World, client: httpx.Client) -> None:
    world.store.go_on.release()
    with client.stream("GET", "/v1/watch/step", params={"number": "3"}) as got:
        assert (got.status_code, got.headers["content-type"]) == (200, "application/x-ndjson")
        read = []
        for line in got.iter_lines():
            read.append(json.loads(line))
            world.store.go_on.release()  # the next one is sent once this was read
    world.store.go_on.acquire(blocking=False)
    assert read == [{"text": "m"}, {"text": "m", "number": 1}, {"text": "m", "number": 2}]


def test_a_stream_of_nothing_is_empty(client: httpx.Client) -> None:
    got = client.get("/v1/watch/x")
    assert (got.status_code, got.headers["content-type"], got.content) == (200, "application/x-ndjson", b"")


def test_a_stream_that_fails_at_once_has_a_status(client: httpx.Client) -> None:
    assert client.get("/v1/watch/fail:NOT_FOUND").status_code == 404


def test_a_stream_that_fails_later_says_so_in_its_last_line(world: World, client: httpx.Client) -> None:
    got = client.get("/v1/watch/late", params={"number": "2"})
    lines = [json.loads(line) for line in got.text.splitlines()]
    assert [line.get("text") for line in lines] == ["m", "m", None]
    assert (lines[2]["error"]["code"], lines[2]["error"]["details"][0]["reason"]) == (10, "WHY")


def test_a_stream_with_a_message_that_is_none_breaks_off(client: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/v1/watch/garbage?number=1")


def test_many_messages_come_in_order(client: httpx.Client) -> None:
    """Some are converted on the loop, and some in the thread."""
    got = client.get("/v1/watch/x", params={"number": "5000"})
    assert [json.loads(line).get("number", 0) for line in got.iter_lines()] == list(range(5000))


def test_a_client_that_does_not_read_stops_the_server(world: World) -> None:
    """Flow control reaches through the conversion: what was sent at last stays the same, and is not all of it."""
    with Http2Client(world.gateway.address()) as client:
        stream = client.ask(path=b"/v1/watch/endless")
        client.read_head(stream)
        sent = -1
        while sent != world.store.yielded:  # grpcio goes on as long as its window allows
            sent = world.store.yielded
            assert not world.store.cancelled.wait(0.3)
        assert sent < 20_000  # of 1 KB each
        client.rst(stream, 8)
        assert world.store.cancelled.wait(DEADLINE)


def test_a_streamed_request_is_lines(world: World, client: httpx.Client) -> None:
    def lines() -> Iterator[bytes]:
        for number in range(100):
            whole = b'{"number": %d}\r\n\n' % number
            yield whole[:7]
            yield whole[7:]

    got = client.post("/v1/sum", content=lines(), headers=LINES)
    assert (got.status_code, got.json()) == (200, {"number": sum(range(100))})
    assert client.post("/v1/sum", content=b'{"number": 5}', headers=JSON).json() == {"number": 5}
    assert client.post("/v1/sum").json() == {}


def test_a_line_that_is_no_message_ends_the_call(world: World, client: httpx.Client) -> None:
    got = client.post("/v1/sum", content=b'{"number": 1}\n{"number": }\n', headers=LINES)
    assert got.status_code == 400
    assert got.json()["detail"].startswith("The JSON is malformed")


def test_a_server_that_answers_before_the_end_of_the_request(world: World, client: httpx.Client) -> None:
    def lines() -> Iterator[bytes]:
        yield b'{"text": "fail:ABORTED"}\n'
        for _ in range(20):
            yield b'{"number": 1}\n'

    assert client.post("/v1/sum", content=lines(), headers=LINES).status_code == 409


def test_both_sides_of_a_stream_go_on_over_http_2(world: World) -> None:
    with Http2Client(world.gateway.address()) as client:
        stream = 1
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/v1/chat"), (b":authority", b"a.test")]
        client.headers(stream, [*fields, (b"content-type", b"application/x-ndjson")])
        client.messages[stream] = told = Http2Message(stream)
        for number in range(1, 4):  # each is sent once the one before was answered
            client.data(stream, b'{"number": %d}\n' % number)
            while told.body.count(b"\n") < number:
                client.read_frame()
        client.data(stream, b"", end=True)
        got = client.read_message(stream)
    assert got.status == 200
    assert [json.loads(line)["number"] for line in got.body.splitlines()] == [1, 2, 3]


def test_both_sides_of_a_stream_go_on_over_http_1(world: World) -> None:
    def chunk(number: int) -> bytes:
        line = b'{"number": %d}\n' % number
        return b"%x\r\n%b\r\n" % (len(line), line)

    with world.gateway.connect() as client:
        client.send(b"POST /v1/chat HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\n")
        client.send(b"Transfer-Encoding: chunked\r\n\r\n" + chunk(1))
        assert client.read_response_head().status == 200
        for number in range(1, 4):
            assert client.read_until(b"}\n\r\n").endswith(b'{"number":%d}\n\r\n' % number)
            client.send(chunk(number + 1) if number < 3 else b"0\r\n\r\n")
        assert client.read_until(b"0\r\n\r\n") == b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "fault", "code"),
    [(b'{"number": }\n', "bad_request", 3), (b'{"text": "%b"}\n' % (b"x" * 1000), "body_too_large", 8)],
    ids=["malformed", "too long"],
)
@pytest.mark.parametrize("http", ["http1", "http2"])
def test_a_line_that_fails_after_the_response_has_begun_ends_it_with_a_line(
    make: Any, line: bytes, fault: str, code: int, http: str
) -> None:
    """The response is complete, and the call is cancelled although the client goes on with its request."""
    world, first = make(transcode={"message_bytes": 1000}), b'{"number": 1}\n'
    if http == "http1":
        with world.gateway.connect() as client:
            client.send(b"POST /v1/chat HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n")
            client.send(b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(b"%x\r\n%b\r\n" % (len(first), first))
            head = client.read_response_head()
            body = client.read_chunk()
            client.send(b"%x\r\n%b\r\n" % (len(line), line))
            body += client.read_chunk()
            assert client.read_chunk() == b""
            status, trailers = head.status, [(name.lower(), value) for name, value in client.read_trailers()]
    else:
        with Http2Client(world.gateway.address()) as over:
            fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/v1/chat"), (b":authority", b"a")]
            over.headers(1, [*fields, (b"content-type", b"application/x-ndjson"), (b"te", b"trailers")])
            over.messages[1] = told = Http2Message(1)
            over.data(1, first)
            while not told.body:
                over.read_frame()
            over.data(1, line)
            got = over.read_message(1)
            status, body, trailers = got.status, got.body, got.trailers
    lines = [json.loads(each) for each in body.splitlines()]
    assert (status, lines[0], len(lines)) == (200, {"number": 1}, 2)
    assert lines[1]["error"]["code"] == code
    assert trailers == [(b"grpc-status", b"%d" % code)]
    assert world.store.cancelled.wait(DEADLINE)
    record = world.gateway.wait_for_record(path="/v1/chat")
    assert (record["status"], record["fault"], record["fault_detail"]) == (200, fault, lines[1]["error"]["detail"])


def test_bodies_of_any_type_pass_as_they_are(client: httpx.Client) -> None:
    got = client.get("/v1/downloads/x")
    assert (got.headers["content-type"], got.content) == ("image/png", b"\x89PNG\0x")
    got = client.get("/v1/streams/x")
    assert (got.headers["content-type"], got.content) == ("text/csv", b"one\ntwo")
    got = client.post("/v1/uploads/x", content=b"\xff\0", headers={"content-type": "image/gif"})
    assert got.json() == {"text": "image/gif", "data": "/wA="}


@pytest.mark.parametrize(
    "body",
    [b"  line1 \r\nline2\n\n\0\xff  ", b"\n\n", b"", bytes(range(256)) * 10_000],
    ids=["lines", "newlines", "empty", "large"],
)
def test_a_body_of_any_type_is_a_stream_of_pieces(world: World, client: httpx.Client, body: bytes) -> None:
    """All of its bytes arrive, in messages that are not too long, and the first one has its type."""
    got = client.post("/v1/streams", content=body, headers={"content-type": "image/png"})
    messages = [each[1] for each in world.store.seen]
    assert got.status_code == 200
    assert b"".join(each.data for each in messages) == body
    assert [each.content_type for each in messages] == ["image/png", *[""] * (len(messages) - 1)]
    assert got.json()["number"] == len(messages)
    assert all(each.ByteSize() <= 1024 * 1024 for each in messages)


def test_a_stream_of_any_type_is_passed_on_as_it_arrives(lanes: ListenerLanes) -> None:
    with scripted(lanes) as (world, origin), Http2Client(world.gateway.address()) as client:
        stream = client.next
        client.next += 2
        head = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/v1/streams")]
        client.headers(stream, [*head, (b"content-type", b"text/csv")])
        client.data(stream, b"one\n")
        expected = framed(message("google.api.HttpBody")(content_type="text/csv", data=b"one\n"))
        peer = origin.accept()
        while (call := peer.read_head()).body != expected:
            peer.read_frame()
        client.data(stream, b" two", end=True)
        assert peer.read_message(call.stream).body == expected + framed(message("google.api.HttpBody")(data=b" two"))


def test_the_coding_of_a_body_of_any_type_is_passed_on_in_responses_only(make: Any) -> None:
    """In a request it would describe frames that have no coding, at filters after this one as well."""
    world = make(filters={"compress": {"min_bytes": 1}})
    with _client(world) as client:
        got = client.get("/v1/downloads/coded:x", headers={"accept-encoding": "gzip, br"})
        assert (got.headers["content-encoding"], got.content) == ("gzip", b"x" * 2000)
        assert got.headers["content-digest"] == "sha-256=:AA==:"
        got = client.get("/v1/downloads/coded:failed", headers={"accept-encoding": "identity"})
        assert (got.status_code, got.json()["message"]) == (404, "failed")
        assert not {"content-encoding", "content-digest"} & set(got.headers)
        for path, name in (("/v1/uploads/x", "Upload"), ("/v1/streams", "UploadStream")):
            headers = {"content-type": "text/plain", "content-digest": "sha-256=:AA==:", "content-language": "de"}
            assert client.post(path, content=b"y", headers=headers).status_code == 200
            called, _, metadata, _ = world.store.seen[-1]
            assert (called, metadata["content-language"], "content-digest" in metadata) == (name, "de", False)
            coded = {"content-type": "text/plain", "content-encoding": "gzip"}
            seen = len(world.store.seen)
            assert client.post(path, content=gzip.compress(b"y"), headers=coded).status_code == 415
            assert len(world.store.seen) == seen


def test_a_body_of_any_type_that_was_decompressed_has_no_coding(make: Any) -> None:
    world = make(filters={"decompress": {}})
    headers = {"content-type": "text/plain", "content-encoding": "gzip", "content-digest": "sha-256=:AA==:"}
    with _client(world) as client:
        got = client.post("/v1/uploads/x", content=gzip.compress(b"y"), headers=headers)
    assert got.json() == {"text": "text/plain", "data": "eQ=="}
    assert not {"content-encoding", "content-digest"} & set(world.store.seen[-1][2])


# time, and ends


def test_the_deadline_is_the_clients(world: World, client: httpx.Client) -> None:
    got = client.post("/v1/echo", json={"text": "wait"}, headers={"grpc-timeout": "300m"})
    assert (got.status_code, got.json()["type"]) in (
        (504, "urn:fastgw:fault:upstream_timeout"),
        (504, "urn:fastgw:grpc:deadline_exceeded"),  # the server was faster
    )
    assert world.store.cancelled.wait(DEADLINE)
    assert client.get("/v1/shelves/7", headers={"grpc-timeout": "soon"}).status_code == 400


def test_the_deadline_is_that_of_conversions_too(world: World, client: httpx.Client) -> None:
    """This body is converted for seconds, and then too long as Protobuf."""
    body = b'{"value": [%b[]]}' % (b"[]," * 349_000)
    got = client.post("/v1/echo", content=body, headers={**JSON, "grpc-timeout": "300m"})
    assert (got.status_code, got.json()["type"]) == (504, "urn:fastgw:fault:filter_timeout")
    assert client.post("/v1/echo", json={"text": "x" * 6000}).status_code == 200  # it does not wait for that
    assert [each[0] for each in world.store.seen] == ["Echo"]


def test_the_timeout_of_the_route_applies(make: Any) -> None:
    world = make(route={"timeout": "300ms"})
    with _client(world) as client:
        got = client.post("/v1/echo", json={"text": "wait"})
        assert got.status_code == 504
    assert world.store.cancelled.wait(DEADLINE)


def test_a_client_that_leaves_cancels_the_call(world: World) -> None:
    with world.gateway.connect() as client:
        body = b'{"text": "wait"}'
        client.send(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
        client.send(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        assert world.store.began.wait(DEADLINE)
    assert world.store.cancelled.wait(DEADLINE)
    record = world.gateway.wait_for_record(status=499)
    assert (record["upstream"], record["route"]) == ("u", "bookstore")


def test_a_server_that_is_away_is_a_fault_of_the_gateway(make: Any) -> None:
    world = make(upstream={"retries": {"max": 0}})
    world.server.stop(0).wait()
    with _client(world) as client:
        got = client.get("/v1/shelves/7")
        assert (got.status_code, got.json()["type"]) == (502, "urn:fastgw:fault:connect_refused")
        assert "proxy-status" in got.headers


def test_calls_are_retried_as_the_upstream_says(make: Any) -> None:
    with Http2Origin() as origin:
        retries = {"conditions": ["unavailable"], "non_idempotent": True}
        world = make(upstream={"targets": [{"url": origin.url}], "retries": retries})
        with Http2Client(world.gateway.address()) as client:
            stream = client.ask(path=b"/v1/shelves/7")
            peer = origin.accept()
            first = peer.read_message()
            peer.headers(first.stream, [(b":status", b"200"), *GRPC, (b"grpc-status", b"14")], end=True)
            second = peer.read_message()
            assert second.body == first.body
            _answer(peer, second.stream, framed(message("Shelf")(name="again")))
            assert json.loads(client.read_message(stream).body) == {"name": "again"}
        assert world.gateway.wait_for_record(path="/v1/shelves/7")["retries"] == 1


def test_a_fallback_answers_in_place_of_an_upstream_that_is_away(make: Any) -> None:
    fallback = {"conditions": ["unreachable"], "respond": {"status": 200, "body": "instead"}}
    world = make(route={"fallback": fallback}, upstream={"retries": {"max": 0}})
    world.server.stop(0).wait()
    with _client(world) as client:
        assert client.get("/v1/shelves/7").text == "instead"


# hostile servers

GRPC = [(b"content-type", b"application/grpc")]
OK = [(b"grpc-status", b"0")]


def framed(made: Any, flags: int = 0) -> bytes:
    content = made if isinstance(made, bytes) else made.SerializeToString()
    return struct.pack(">BI", flags, len(content)) + content


def _answer(peer: Http2Peer, stream: int, body: bytes, trailers: Any = OK, head: Any = ()) -> None:
    peer.headers(stream, [(b":status", b"200"), *GRPC, *head])
    if body:
        peer.data(stream, body)
    peer.headers(stream, trailers, end=True)


SHELF = framed(b"\x0a\x01n")


@pytest.mark.parametrize(
    ("body", "trailers", "fault"),
    [
        (b"\0\0\0\0\5ab", OK, "upstream_malformed"),  # the message ends before its end
        (b"\0\0", OK, "upstream_malformed"),
        (b"", OK, "upstream_malformed"),  # OK, and no message
        (SHELF + SHELF, OK, "upstream_malformed"),
        (framed(b"\xff\xff"), OK, "upstream_malformed"),
        (framed(b"\x0a\x01n", 1), OK, "upstream_malformed"),  # compressed, without a `grpc-encoding`
        (framed(b"\x0a\x01n", 2), OK, "upstream_malformed"),
        (b"\0\xff\xff\xff\xff", OK, "response_too_large"),
        (SHELF, [(b"x-other", b"1")], "upstream_malformed"),  # no status
    ],
)
def test_a_response_that_lies_is_a_502(lanes: ListenerLanes, body: bytes, trailers: Any, fault: str) -> None:
    with scripted(lanes) as (world, origin):
        with Http2Client(world.gateway.address()) as client:
            stream = client.ask(path=b"/v1/shelves/7")
            peer = origin.accept()
            _answer(peer, peer.read_message().stream, body, trailers)
            response = client.read_message(stream)
        assert (response.status, json.loads(response.body)["type"]) == (502, f"urn:fastgw:fault:{fault}")
        assert world.gateway.wait_for_record(path="/v1/shelves/7")["fault"] == fault


GZIPPED = gzip.compress(b"\x0a\x01n")


@pytest.mark.parametrize(
    ("encodings", "body", "answered"),
    [
        ([b"gzip"], framed(GZIPPED, 1), {"name": "n"}),
        ([b"GZIP"], framed(GZIPPED, 1), {"name": "n"}),
        ([b"deflate"], framed(zlib.compress(b"\x0a\x01n"), 1), {"name": "n"}),
        ([b"gzip"], SHELF, {"name": "n"}),  # this message is not compressed
        ([b"gzip"], framed(gzip.compress(b""), 1), {}),
        ([b"gzip"], framed(b"", 1), "upstream_malformed"),
        ([b"gzip"], framed(GZIPPED[:-1], 1), "upstream_malformed"),
        ([b"gzip"], framed(GZIPPED + b"x", 1), "upstream_malformed"),
        ([b"gzip"], framed(b"\x0a\x01n", 1), "upstream_malformed"),
        ([b"gzip"], framed(gzip.compress(b"\xff\xff"), 1), "upstream_malformed"),
        ([b"gzip"], framed(gzip.compress(bytes(1024 * 1024 + 1)), 1), "response_too_large"),
        ([b"identity"], framed(GZIPPED, 1), "upstream_malformed"),
        ([b"snappy"], framed(GZIPPED, 1), "upstream_malformed"),
        ([b"gzip", b"gzip"], framed(GZIPPED, 1), "upstream_malformed"),
    ],
    ids=range(14),
)
def test_compressed_messages_are_decompressed(
    lanes: ListenerLanes, encodings: list[bytes], body: bytes, answered: Any
) -> None:
    with scripted(lanes) as (world, origin), Http2Client(world.gateway.address()) as client:
        stream = client.ask(path=b"/v1/shelves/7")
        peer = origin.accept()
        asked = peer.read_message()
        assert asked.get(b"grpc-accept-encoding") == b"identity"
        _answer(peer, asked.stream, body, head=[(b"grpc-encoding", encoding) for encoding in encodings])
        response = client.read_message(stream)
        told = json.loads(response.body)
        if isinstance(answered, str):
            assert (response.status, told["type"]) == (502, f"urn:fastgw:fault:{answered}")
        else:
            assert (response.status, told, response.get(b"grpc-encoding")) == (200, answered, None)


def test_a_server_that_compresses_by_default(make: Any) -> None:
    """grpcio does not look at what the client accepts."""
    world = make(compression=grpc.Compression.Gzip)
    text = "x" * 10_000
    with _client(world) as client:
        assert client.post("/v1/echo", json={"text": text}).json() == {"text": text}
        lines = client.get("/v1/watch/x", params={"number": "50"}).text.splitlines()
    assert [json.loads(line).get("number", 0) for line in lines] == list(range(50))


@pytest.mark.parametrize(
    ("head", "status", "type"),
    [
        ([(b":status", b"200"), (b"content-type", b"text/html")], 502, "urn:fastgw:fault:upstream_malformed"),
        ([(b":status", b"200"), *GRPC], 502, "urn:fastgw:fault:upstream_malformed"),
        ([(b":status", b"200"), *GRPC, (b"grpc-status", b"x")], 500, "urn:fastgw:grpc:unknown"),
        ([(b":status", b"200"), *GRPC, (b"grpc-status", b"99")], 500, "urn:fastgw:grpc:unknown"),
        ([(b":status", b"401")], 401, "urn:fastgw:grpc:unauthenticated"),
        ([(b":status", b"503"), (b"content-type", b"text/html")], 503, "urn:fastgw:grpc:unavailable"),
        ([(b":status", b"503"), *GRPC, *OK], 503, "urn:fastgw:grpc:unavailable"),
        ([(b":status", b"200"), *GRPC, *OK, (b"grpc-status", b"5")], 500, "urn:fastgw:grpc:unknown"),
        ([(b":status", b"200"), *GRPC, (b"grpc-status", b"5"), (b"grpc-message", b"%zz%C3")], 404, "not_found"),
        (
            [(b":status", b"200"), *GRPC, (b"grpc-status", b"5"), (b"grpc-status-details-bin", b"%%%")],
            404,
            "urn:fastgw:grpc:not_found",
        ),
    ],
)
def test_a_response_without_a_body(lanes: ListenerLanes, head: Any, status: int, type: str) -> None:
    with scripted(lanes) as (world, origin):
        with Http2Client(world.gateway.address()) as client:
            stream = client.ask(path=b"/v1/shelves/7")
            peer = origin.accept()
            peer.headers(peer.read_message().stream, head, end=True)
            response = client.read_message(stream)
        assert response.status == status
        assert json.loads(response.body)["type"].endswith(type)
        if ":fault:" not in type:
            record = world.gateway.wait_for_record(path="/v1/shelves/7")
            assert record["grpc_status"] == type.rpartition(":")[2].upper()


@pytest.mark.parametrize("statuses", [[b"0", b"0"], [b"5", b"0"], [b"+0"]])
def test_an_invalid_status_after_a_message_is_unknown(lanes: ListenerLanes, statuses: list[bytes]) -> None:
    with scripted(lanes) as (world, origin):
        with Http2Client(world.gateway.address()) as client:
            stream = client.ask(path=b"/v1/shelves/7")
            peer = origin.accept()
            _answer(peer, peer.read_message().stream, SHELF, [(b"grpc-status", value) for value in statuses])
            response = client.read_message(stream)
        assert (response.status, json.loads(response.body)["type"]) == (500, "urn:fastgw:grpc:unknown")


def test_a_stream_that_breaks_off_is_not_taken_for_whole(lanes: ListenerLanes) -> None:
    with scripted(lanes) as (world, origin):
        with Http2Client(world.gateway.address()) as client:
            stream = client.ask(path=b"/v1/watch/x")
            peer = origin.accept()
            number = peer.read_message().stream
            peer.headers(number, [(b":status", b"200"), *GRPC])
            peer.data(number, framed(message("Everything")(number=1)))
            client.read_head(stream)
            peer.rst(number, 2)
            response = client.read_message(stream)
        assert response.body == b'{"number":1}\n'
        assert response.reset is not None


@pytest.mark.parametrize("accepts", [[], [(b"te", b"trailers")]], ids=["plain", "trailers"])
@pytest.mark.parametrize(
    ("end", "trailers"),
    [
        ([(b"grpc-status", b"0"), (b"x-trailing", b"t")], [(b"x-trailing", b"t")]),
        ([(b"grpc-status", b"5")], [(b"grpc-status", b"5")]),
    ],
    ids=["OK", "failed"],
)
def test_trailers_of_a_stream_are_for_those_who_accept_them(
    lanes: ListenerLanes, end: Any, trailers: Any, accepts: list[tuple[bytes, bytes]]
) -> None:
    with scripted(lanes) as (world, origin):
        with Http2Client(world.gateway.address()) as client, world.gateway.connect() as old:
            stream = client.ask(accepts, path=b"/v1/watch/x")
            peer = origin.accept()
            streamed = framed(message("Everything")(number=1))
            _answer(peer, peer.read_message().stream, streamed, end)
            response = client.read_message(stream)
            old.send(b"GET /v1/watch/x HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % (b"TE: trailers\r\n" if accepts else b""))
            _answer(peer, peer.read_message().stream, streamed, end)
            old_response = old.read_response()
        assert response.body == old_response.body
        assert response.body.startswith(b'{"number":1}\n')
        assert response.trailers == old_response.trailers == (trailers if accepts else [])


@pytest.mark.parametrize(
    ("timeouts", "headers"),
    [({"total": "1s"}, []), ({"idle": "1s"}, []), ({}, [(b"grpc-timeout", b"1S")])],
    ids=["total", "idle", "call"],
)
def test_a_stream_that_is_late_says_so_in_its_last_line(
    make: Any, timeouts: dict[str, str], headers: list[tuple[bytes, bytes]]
) -> None:
    with Http2Origin() as origin:
        world = make(upstream={"targets": [{"url": origin.url}], "timeouts": timeouts})
        with Http2Client(world.gateway.address()) as client:
            stream = client.ask(headers, path=b"/v1/watch/x")
            peer = origin.accept()
            number = peer.read_message().stream
            peer.headers(number, [(b":status", b"200"), *GRPC])
            peer.data(number, framed(message("Everything")(number=1)))
            response = client.read_message(stream)
        assert (response.status, response.reset) == (200, None)
        lines = [json.loads(line) for line in response.body.splitlines()]
        assert (lines[0], len(lines)) == ({"number": 1}, 2)
        error = lines[1]["error"]
        assert (error["type"], error["code"], error["status"]) == ("urn:fastgw:grpc:deadline_exceeded", 4, 504)
        record = world.gateway.wait_for_record(path="/v1/watch/x")
        assert (record["fault"], record["grpc_status"]) == ("upstream_stalled", "DEADLINE_EXCEEDED")


def test_a_stream_of_bytes_that_is_late_breaks_off(make: Any) -> None:
    with Http2Origin() as origin:
        world = make(upstream={"targets": [{"url": origin.url}], "timeouts": {"total": "1s"}})
        with Http2Client(world.gateway.address()) as client:
            stream = client.ask(path=b"/v1/streams/x")
            peer = origin.accept()
            number = peer.read_message().stream
            peer.headers(number, [(b":status", b"200"), *GRPC])
            peer.data(number, framed(message("google.api.HttpBody")(content_type="text/csv", data=b"a")))
            response = client.read_message(stream)
        assert response.body == b"a"
        assert response.reset is not None


@pytest.mark.parametrize(
    ("protocol", "path", "content_type"),
    [
        ("grpc", b"/bookstore.v1.Bookstore/CreateShelf", b"application/grpc"),
        ("http2", b"/v1/shelves", b"application/json"),
    ],
)
def test_a_copy_is_a_call_where_the_other_upstream_speaks_grpc(
    make: Any, protocol: str, path: bytes, content_type: bytes
) -> None:
    sent = b'{"displayName":"d"}'
    with Http2Origin() as origin:
        other = {"targets": [{"url": origin.url}], "protocol": protocol}
        world = make(upstreams={"m": other}, filters={"mirror": {"upstream": "m"}})
        with _client(world) as client:
            answered = client.post("/v1/shelves", content=sent, headers=JSON)
        assert answered.json() == {"displayName": "d"}
        peer = origin.accept()
        copy = peer.read_message()
        assert (copy.get(b":path"), copy.get(b"content-type")) == (path, content_type)
        call = framed(message("CreateShelfRequest")(shelf={"display_name": "d"}))
        assert copy.body == (call if protocol == "grpc" else sent)


def test_an_injected_status_is_answered_like_one_of_the_upstream(make: Any) -> None:
    world = make(filters={"fault": {"by_client": True}}, route={"paths": ["/*"]})
    with _client(world) as client:
        for code, status, name in ((8, 429, "resource_exhausted"), (16, 401, "unauthenticated")):
            got = client.get("/v1/shelves/7", headers={"x-fastgw-fault-grpc": str(code)})
            assert (got.status_code, got.headers["content-type"]) == (status, "application/problem+json")
            assert (got.headers["grpc-status"], got.headers.get("www-authenticate")) == (
                str(code),
                "Bearer" if code == 16 else None,
            )
            assert (got.json()["type"], got.json()["code"]) == (f"urn:fastgw:grpc:{name}", code)
            record = world.gateway.wait_for_record(path="/v1/shelves/7", status=status)
            assert (record["fault"], record["grpc_status"]) == ("fault_injected", name.upper())
        assert client.get("/v1/shelves/7").status_code == 200
        assert client.get("/v1/shelves/7", headers={"x-fastgw-fault-abort": "418"}).text == "fault filter abort"
    assert [each[0] for each in world.store.seen] == ["GetShelf"]


@pytest.mark.parametrize(("status", "answered"), [(b"0", 200), (b"5", 502)])
def test_another_filter_may_hold_a_streamed_response(make: Any, status: bytes, answered: int) -> None:
    """Its messages are pieces of one JSON text: a stream of `google.api.HttpBody`."""
    with Http2Origin() as origin:
        world = make(upstream={"targets": [{"url": origin.url}]}, filters=CHANGED)
        with Http2Client(world.gateway.address()) as client:
            stream = client.ask(path=b"/v1/streams/a")
            peer = origin.accept()
            number = peer.read_message().stream
            peer.headers(number, [(b":status", b"200"), *GRPC])
            for piece in (b'{"a":', b"1}"):
                peer.data(number, framed(message("google.api.HttpBody")(content_type="application/json", data=piece)))
            peer.headers(number, [(b"grpc-status", status)], end=True)
            response = client.read_message(stream)
        assert response.status == answered
        body = json.loads(response.body)
        if answered == 200:
            assert body == {"a": 1, "x": "y"}
        else:
            assert body["type"] == "urn:fastgw:fault:upstream_incomplete"


# settings


def test_settings_change_what_is_read_and_written(make: Any) -> None:
    world = make(
        transcode={
            "auto_mapping": True,
            "preserve_proto_field_names": True,
            "always_print_primitive_fields": True,
            "always_print_enums_as_ints": True,
            "unknown_fields": "ignore",
            "services": ["bookstore.v1.Bookstore"],
        }
    )
    with _client(world) as client:
        assert client.get("/v1/shelves/7").json()["display_name"] == "Mystery"
        got = client.post("/bookstore.v1.Bookstore/Hidden", json={"color": "RED", "nothing": 1}).json()
        assert (got["color"], got["text"], got["long_number"]) == (1, "", "0")


def test_the_path_is_that_of_the_upstream(make: Any) -> None:
    world = make(route={"paths": ["/api/*"], "strip_prefix": "/api"})
    with _client(world) as client:
        assert client.get("/api/v1/shelves/7").json()["name"] == "shelves/7"
        assert client.get("/v1/shelves/7").status_code == 404


def test_other_filters_see_the_request_and_the_response_of_the_client(make: Any) -> None:
    world = make(
        filters={
            "request_id": {},
            "headers": {"request": {"set": {"X-Added": "yes"}}, "response": {"set": {"X-Seen": "yes"}}},
            "key_auth": {"key_names": ["api_key"], "key_in": ["query"], "hide_credentials": True},
        },
        consumers=[{"name": "alice", "key_auth": [{"key": "a" * 32}]}],
    )
    with _client(world) as client:
        assert client.get("/v1/shelves/7").status_code == 401
        got = client.get("/v1/shelves/7", params={"api_key": "a" * 32})
        assert (got.status_code, got.headers["x-seen"]) == (200, "yes")
        assert client.get("/v1/nothing", params={"api_key": "a" * 32}).headers["x-seen"] == "yes"
    metadata = world.store.seen[0][2]
    assert metadata["x-added"] == "yes"
    assert metadata["x-request-id"] == got.headers["x-request-id"]


def test_a_new_descriptor_set_is_used_after_a_reload(make: Any, tmp_path: Path) -> None:
    world = make(admin={"address": "127.0.0.1:0"})
    with _client(world) as client:
        assert client.get("/v2/shelf").status_code == 404
        text = (Path(__file__).parents[1] / "support" / "protos" / "bookstore.proto").read_text()
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "bookstore.proto").write_text(text.replace("/v1/shelves", "/v2/shelf"))
        world.descriptors.write_bytes(compiled(tmp_path / "new", "bookstore.proto"))
        wait_until(lambda: client.get("/v2/shelf").status_code == 200, "the new rules are in force")
        world.descriptors.write_bytes(b"broken")
        world.gateway.stderr.wait_for(lambda line: b"is not a descriptor set" in line)
        assert client.get("/v2/shelf").status_code == 200


def test_check_names_what_is_wrong_with_the_descriptors(tmp_path: Path) -> None:
    file = tmp_path / "api.pb"
    route = {"name": "r", "upstream": "u", "filters": {"grpc_transcode": {"descriptors": str(file)}}}
    upstream = {"targets": [{"url": "http://127.0.0.1:1"}], "protocol": "grpc"}
    listeners = {"main": {"address": "127.0.0.1:0"}}
    config = write_config(
        {"version": 1, "listeners": listeners, "upstreams": {"u": upstream}, "routes": [route]}, tmp_path
    )
    file.write_bytes(b"syntax = 'proto3';")
    told = ended("check", str(config), directory=tmp_path)
    assert told.exit_code == 1
    assert f"{file}: this is not a descriptor set; make it with protoc --include_imports" in told.output
    file.write_bytes(api())
    assert ended("check", str(config), directory=tmp_path).exit_code == 0


def test_check_notes_an_upstream_that_does_not_speak_grpc(tmp_path: Path) -> None:
    (tmp_path / "api.pb").write_bytes(api())
    file = tmp_path / "gw.yaml"
    file.write_text(
        "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\n"
        "upstreams: {u: {targets: ['http://127.0.0.1:1']}}\n"
        "routes: [{name: r, upstream: u, filters: {grpc_transcode: {descriptors: api.pb}}}]\n"
    )
    told = ended("check", str(file), directory=tmp_path)
    note = 'routes[0].filters.grpc_transcode: upstream "u" has another protocol than `grpc`: its requests are not'
    assert note in told.output
    assert told.exit_code == 0


def test_check_names_the_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "api.pb").write_bytes(api())
    file = tmp_path / "gw.yaml"
    file.write_text(
        "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\n"
        "upstreams: {u: {targets: ['http://127.0.0.1:1'], protocol: grpc}}\n"
        "routes: [{name: r, upstream: u, filters: {grpc_transcode: {descriptors: api.pb}}}]\n"
    )
    for name in [each for each in sys.modules if each.startswith("fastgw.filters.policies.grpc_transcode.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    told = ended("check", str(file), directory=tmp_path)
    assert told.exit_code == 1
    assert "the package protobuf is missing; pip install 'fastgw[grpc]'" in told.output


def test_explain_names_the_call(tmp_path: Path) -> None:
    (tmp_path / "api.pb").write_bytes(api())
    route = {"name": "r", "upstream": "u", "filters": {"grpc_transcode": {"descriptors": str(tmp_path / "api.pb")}}}
    upstream = {"targets": [{"url": "http://127.0.0.1:1"}], "protocol": "grpc"}
    listeners = {"main": {"address": "127.0.0.1:0"}}
    config = write_config(
        {"version": 1, "listeners": listeners, "upstreams": {"u": upstream}, "routes": [route]}, tmp_path
    )
    told = ended("explain", str(config), "GET", "http://127.0.0.1/v1/shelves/7", directory=tmp_path)
    assert "a call of bookstore.v1.Bookstore/GetShelf, by GET /v1/{name=shelves/*}" in told.output
    sends = next(line for line in told.output.splitlines() if line.startswith("sends"))
    assert sends.split(None, 1)[1].startswith(
        ":method: POST · :scheme: http · :path: /bookstore.v1.Bookstore/GetShelf · :authority: 127.0.0.1 · "
    )
    assert "content-type: application/grpc" in sends
    url = "http://127.0.0.1/v1/echo?" + "&".join(["numbers=1e2"] * 100)  # too many to be converted on a loop
    told = ended("explain", str(config), "GET", url, directory=tmp_path)
    assert ":path: /bookstore.v1.Bookstore/Echo" in told.output
    told = ended("explain", str(config), "GET", "http://127.0.0.1/v1/nothing", directory=tmp_path)
    assert "answers 404" in told.output
