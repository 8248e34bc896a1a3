"""`websocket_api`: clients of the library `websockets`, a back end without WebSockets, two workers between them."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from fastgw.http.websocket.frames import PONG, control_frame
from tests.support.client import Client
from tests.support.event_backend import Event, EventBackend
from tests.support.gateway import Gateway, wait_until
from tests.support.http2 import frames
from tests.support.http2.client import Http2Client
from tests.support.peer import DEADLINE

JSON, BYTES = "application/json", "application/octet-stream"
HANDSHAKE = (
    b"Host: a\r\nX-Api-Key: key-of-ann\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
BACK_END = {"Authorization": "Bearer token-of-back-ends"}
EVENTS = {
    "$connect": {"path": "/connect"},
    "$disconnect": {"path": "/disconnect"},
    "$default": {"path": "/bytes", "reply": True},
    "echo": {"path": "/echo", "reply": True},
    "fail": {"path": "/fail", "reply": True},
    "gzip": {"path": "/gzip", "reply": True},
    "held": {"path": "/held", "reply": True},
    "note": {"path": "/note?a=1"},
    "7": {"path": "/echo", "reply": True},
}

SLOW = {"$disconnect": {"path": "/held"}}


@pytest.fixture(scope="module")
def back_end() -> Iterator[EventBackend]:
    with EventBackend() as server:
        yield server


def configuration(back_end: EventBackend) -> dict[str, Any]:
    api = {"upstream": "events", "select": "head.action", "message_bytes": 1000, "routes": EVENTS}
    few = {"upstream": back_end.origin, "routes": {"echo": {"path": "/echo", "reply": True}}}
    key_auth = {"key_auth": {}, "headers": {"request": {"set": {"X-User": "{consumer.name}"}}}}
    return {
        "workers": 2,
        "telemetry": {
            "traces": {"otlp": {"url": f"{back_end.origin}/spans"}, "sampling": {"ratio": 0.0, "errors": False}}
        },
        "admin": {"address": "127.0.0.1:0", "connections_token": "token-of-back-ends"},
        "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
        "consumers": [{"name": "ann", "key_auth": [{"key": "key-of-ann"}]}],
        "upstreams": {"events": {"targets": [back_end.origin]}},
        "routes": [
            {"name": "plain", "paths": ["/plain"], "filters": key_auth, "websocket_api": api},
            {"name": "guarded", "paths": ["/guarded"], "filters": {"websocket": {}, **key_auth}, "websocket_api": api},
            {
                "name": "large",
                "paths": ["/large"],
                "websocket_api": {"upstream": "events", "routes": {"$connect": EVENTS["$connect"]}},
            },
            {"name": "late", "paths": ["/late"], "websocket_api": {**api, "timeout": "100ms"}},
            {"name": "slow", "paths": ["/slow"], "websocket_api": {"upstream": "events", "routes": SLOW}},
            {"name": "few", "paths": ["/few"], "websocket_api": {**few, "connections_url": "http://10.0.0.1:9901"}},
        ],
    }


@pytest.fixture(scope="module")
def gateway(back_end: EventBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(configuration(back_end), tmp_path_factory.mktemp("api")) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def nothing_is_left(back_end: EventBackend) -> Iterator[None]:
    back_end.open.clear()
    yield
    back_end.open.set()
    left = list(back_end.events.queue)
    back_end.events.queue.clear()
    assert left == []


both = pytest.mark.parametrize("path", ["plain", "guarded"])


@contextlib.contextmanager
def opened(
    gateway: Gateway, back_end: EventBackend, path: str, **options: Any
) -> Iterator[tuple[ClientConnection, Event]]:
    """A connection, and the request for its beginning."""
    url = f"ws://{gateway.address()}/{path}?room=5"
    fields = {"X-Api-Key": "key-of-ann", "X-Connection-Id": "mine"}
    with connect(
        url, additional_headers=fields, open_timeout=DEADLINE, close_timeout=DEADLINE, compression=None, **options
    ) as client:
        yield client, back_end.next()


@contextlib.contextmanager
def tunnel(
    gateway: Gateway, path: str, http: str
) -> Iterator[tuple[Callable[[bytes], None], Callable[[bytes], object], Callable[[], None]]]:
    """A connection of which the frames are sent by the first function; the second waits for bytes of the gateway, and
    the third ends it.
    """
    if http == "http1":
        with Client(gateway.address()) as client:
            client.send(b"GET /%b HTTP/1.1\r\n%b" % (path.encode(), HANDSHAKE))
            assert client.read_response_head().status == 101
            yield client.send, client.read_until, client.close
    else:
        with Http2Client(gateway.address()) as over:
            over.begin_plainly()
            pseudo = [*frames.pseudo(b"CONNECT", f"/{path}".encode(), b"a"), (b":protocol", b"websocket")]
            fields = [(b"sec-websocket-version", b"13"), (b"x-api-key", b"key-of-ann")]
            over.send(frames.headers(frames.block(*pseudo, *fields), 1, False))
            yield (
                partial(over.send_piece, 1),
                lambda mark: over.wait(lambda: mark in over.answer(1).body, "a frame"),
                partial(over.send, frames.data(b"", 1)),
            )


def ask(gateway: Gateway, method: str, connection: str, body: bytes = b"", kind: str = JSON) -> tuple[int, Any]:
    """An order of a back end, with the token for connections."""
    admin = http.client.HTTPConnection(gateway.ready["admin"], timeout=DEADLINE)
    fields = {**BACK_END, **({"Content-Type": kind} if body else {})}
    admin.request(method, f"/connections/{connection}", body or None, fields)
    response = admin.getresponse()
    told = json.loads(response.read())
    admin.close()
    return response.status, told


def scraped(gateway: Gateway) -> str:
    """The metrics, as the admin API has them."""
    admin = http.client.HTTPConnection(gateway.ready["admin"], timeout=DEADLINE)
    admin.request("GET", "/metrics", headers=gateway.shown)
    response = admin.getresponse()
    text = response.read().decode()
    admin.close()
    return text


def reloaded(gateway: Gateway) -> int:
    """Reload by the admin API, which answers when all workers have the new configuration. Returns the status."""
    admin = http.client.HTTPConnection(gateway.ready["admin"], timeout=DEADLINE)
    admin.request("POST", "/reload", headers=gateway.shown)
    status = admin.getresponse().status
    admin.close()
    return status


def message(action: Any, **more: Any) -> str:
    return json.dumps({"head": {"action": action}, **more})


@both
def test_a_connection_from_its_beginning_to_its_end(gateway: Gateway, back_end: EventBackend, path: str) -> None:
    counted = re.compile(rf'^fastgw_websocket_messages_total\{{.*route="{path}".*\}} (.*)$', re.MULTILINE)
    before = [float(each) for each in counted.findall(scraped(gateway))] or [0.0, 0.0]
    with opened(gateway, back_end, path) as (client, event):
        assert event.kind == ("CONNECT", "$connect")
        assert event.target == "/connect?room=5"
        assert event.headers.get_all("X-Connection-Id") == [event.connection]  # not the client's
        assert event.headers["X-User"] == "ann"
        assert event.headers["User-Agent"].startswith("Python")
        assert "Sec-WebSocket-Key" not in event.headers
        open_now = f'fastgw_websocket_api_connections{{route="{path}"}} 1'
        wait_until(lambda: open_now in scraped(gateway), "the connection is in the metrics")
        client.send(message("echo", text="ü"))
        echoed = back_end.next()
        assert echoed.kind == ("MESSAGE", "echo")
        assert (echoed.headers["Content-Type"], echoed.headers["X-User"]) == (JSON, "ann")
        assert echoed.connection == event.connection
        assert client.recv(DEADLINE) == message("echo", text="ü")
        client.close(4000, "bye")
        assert (client.close_code, client.close_reason) == (4000, "")
        ended = back_end.next()
        assert ended.kind == ("DISCONNECT", "$disconnect")
        assert (ended.connection, ended.headers["X-Close-Code"]) == (event.connection, "4000")
        record = json.loads(
            gateway.stdout.wait_for(lambda line: b'"connection_id":"%b"' % event.connection.encode() in line)
        )
        said = record["websocket"]
        assert record["status"] == 101
        assert (said["client_messages"], said["upstream_messages"]) == (1, 1)
        assert (said["closed_by"], said["close_code"]) == ("client", 4000)
        assert len(said["connection_id"]) == 24
        assert record["request_bytes"] == len(message("echo", text="ü").encode()) + 6 + 11  # with the close frame
        assert record["response_bytes"] > 0
        after = [str(count + 1) for count in before]
        wait_until(lambda: counted.findall(scraped(gateway)) == after, "a message of each side is counted")
        traces = {each.headers["Traceparent"].split("-")[1] for each in (event, echoed, ended)}
        assert traces == {record["trace_id"]}
        sent = [each.split() for each in record["subrequests"].split(", ")]
        to = back_end.origin.removeprefix("http://")
        assert [each[:3] for each in sent] == [["events", to, "200"]] * 3  # with `$connect` and `$disconnect`


@pytest.mark.parametrize(
    ("sent", "target", "kind"),
    [
        (message("note"), "/note?a=1", JSON),
        (message(7), "/echo", JSON),
        (message("unknown"), "/bytes", JSON),
        (message("$connect"), "/bytes", JSON),
        (message("$disconnect"), "/bytes", JSON),
        (message(True), "/bytes", JSON),
        (message(["echo"]), "/bytes", JSON),
        ('{"head": "echo"}', "/bytes", JSON),
        ("[1]", "/bytes", JSON),
        ("no JSON", "/bytes", "text/plain; charset=utf-8"),
        (b"\x00\xff", "/bytes", BYTES),
    ],
)
def test_a_message_selects_its_request(
    gateway: Gateway, back_end: EventBackend, sent: str | bytes, target: str, kind: str
) -> None:
    """A client cannot name the events of the gateway itself."""
    with opened(gateway, back_end, "plain") as (client, _):
        client.send(sent)
        event = back_end.next()
        assert (event.target, event.headers["Content-Type"]) == (target, kind)
        payload = sent.encode() if isinstance(sent, str) else sent
        assert event.body == payload
        if target == "/bytes":
            assert client.recv(DEADLINE) == b"\x00\xff" + payload
        client.close()
        back_end.next()


@both
def test_the_back_end_refuses_a_connection(gateway: Gateway, back_end: EventBackend, path: str) -> None:
    fields, url = {"X-Api-Key": "key-of-ann"}, f"ws://{gateway.address()}/{path}?deny"
    with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers=fields):
        pass
    response = refused.value.response
    assert (response.status_code, response.body) == (401, b'{"error": "who"}')
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert back_end.next().kind[0] == "CONNECT"


@both
def test_a_client_that_leaves_before_it_is_connected(gateway: Gateway, back_end: EventBackend, path: str) -> None:
    """The back end may have accepted it, so it learns of the end."""
    with Client(gateway.address()) as client:
        client.send(b"GET /%b?hold HTTP/1.1\r\n%b" % (path.encode(), HANDSHAKE))
        event = back_end.next()
    ended = back_end.next()
    assert (ended.kind[0], ended.connection, ended.headers["X-Close-Code"]) == ("DISCONNECT", event.connection, "1006")


def test_a_back_end_that_is_late_learns_that_the_connection_was_not_accepted(
    gateway: Gateway, back_end: EventBackend
) -> None:
    with Client(gateway.address()) as client:
        client.send(b"GET /late?hold HTTP/1.1\r\n%b" % HANDSHAKE)
        event = back_end.next()
        assert client.read_response().status == 504
    ended = back_end.next()
    assert (ended.kind[0], ended.connection, ended.headers["X-Close-Code"]) == ("DISCONNECT", event.connection, "1006")


def test_filters_refuse_before_the_back_end_is_asked(gateway: Gateway) -> None:
    with pytest.raises(InvalidStatus, match="401"), connect(f"ws://{gateway.address()}/plain"):
        pass


def test_the_back_end_selects_the_subprotocol(gateway: Gateway, back_end: EventBackend) -> None:
    with opened(gateway, back_end, "guarded", subprotocols=["chat.v1", "chat.v2"]) as (client, _):
        assert client.subprotocol == "chat.v2"
        client.close()
        back_end.next()


@both
def test_a_failed_request_is_told_to_the_client(gateway: Gateway, back_end: EventBackend, path: str) -> None:
    with opened(gateway, back_end, path) as (client, event):
        client.send(message("fail"))
        back_end.next()
        assert json.loads(client.recv(DEADLINE)) == {
            "message": "Internal server error",
            "connectionId": event.connection,
        }
        client.close(1000)
        back_end.next()
        record = gateway.wait_for_record(route=path, fault_detail="fail: the response has the status 500")
        assert record["websocket"]["failed_messages"] == 1


@both
def test_requests_ask_for_a_response_that_the_gateway_can_read(
    gateway: Gateway, back_end: EventBackend, path: str
) -> None:
    """Neither compressed, nor a part, nor a 304: the client has asked for these, not for the response to an event."""
    with Client(gateway.address()) as client:
        fields = b'Accept-Encoding: gzip\r\nRange: bytes=0-1\r\nIf-None-Match: "a"\r\nIf-Range: "a"\r\nX-Own: 1\r\n'
        client.send(b"GET /%b?deny_in_gzip HTTP/1.1\r\n%b%b" % (path.encode(), fields, HANDSHAKE))
        response = client.read_response()
    headers = back_end.next().headers
    assert headers.get_all("Accept-Encoding") == ["identity"]
    assert headers["X-Own"] == "1"
    assert not {"Range", "If-None-Match", "If-Range"} & set(headers)
    # A service that compresses all the same: the client learns of it.
    assert (response.status, response.get(b"Content-Encoding")) == (403, b"gzip")
    assert gzip.decompress(response.body) == b"no"


@both
def test_a_compressed_reply_is_no_message(gateway: Gateway, back_end: EventBackend, path: str) -> None:
    with opened(gateway, back_end, path) as (client, event):
        client.send(message("gzip"))
        assert back_end.next().headers.get_all("Accept-Encoding") == ["identity"]
        assert json.loads(client.recv(DEADLINE)) == {
            "message": "Internal server error",
            "connectionId": event.connection,
        }
        client.close(1000)
        assert back_end.next().headers.get_all("Accept-Encoding") == ["identity"]
        gateway.wait_for_record(
            route=path, fault_detail="gzip: the response is compressed, although that is not accepted"
        )


def test_a_message_without_a_request_is_refused(gateway: Gateway, back_end: EventBackend) -> None:
    """Neither is there a `$connect` or `$disconnect`: the route has one request only."""
    with connect(f"ws://{gateway.address()}/few", close_timeout=DEADLINE) as client:
        client.send('{"action": "other"}')
        assert json.loads(client.recv(DEADLINE))["message"] == "Forbidden"
        client.send('{"action": "echo"}')
        assert client.recv(DEADLINE) == '{"action": "echo"}'
        assert back_end.next().headers["X-Connections-Url"] == "http://10.0.0.1:9901"


def test_a_message_that_can_be_read_in_two_ways_is_refused(gateway: Gateway, back_end: EventBackend) -> None:
    with opened(gateway, back_end, "plain") as (client, event):
        for text in (
            '{"head": {"action": "echo", "action": "note"}}',
            '{"head": {"action": "echo", "\\u0061ction": "other"}}',
            '{"head": {"action": "note"}, "head": {"action": "echo"}}',
            '{"head": {"action": "echo"}, "data": [{"a": 1, "a": 2}]}',
            # Not all parsers take these for JSON, but those of services may.
            '{"head": {"action": "note"}, "head": {"action": "echo"}, "data": "\\ud800"}',
            '{"head": {"action": "note"}, "head": {"action": "echo"}, "data": 1e400}',
            '{"head": {"action": "echo"}, "data": ' + 400 * "[" + 400 * "]" + "}",
        ):
            client.send(text)
            assert json.loads(client.recv(DEADLINE)) == {"message": "Forbidden", "connectionId": event.connection}
        client.send(same := '{"head": {"action": "echo"}, "data": ["head", {"head": "\\u0022"}]}')
        assert client.recv(DEADLINE) == same
        assert back_end.next().target == "/echo"
        client.close(1000)
        assert back_end.next().target == "/disconnect"


def test_messages_of_a_connection_keep_their_order_and_wait(gateway: Gateway, back_end: EventBackend) -> None:
    """The second message is not sent before the first is answered; many wait without being read."""
    with opened(gateway, back_end, "plain") as (client, _):
        client.send(message("held", n=0))
        assert back_end.next().target == "/held"
        for n in range(1, 60):
            client.send(message("echo", n=n, filler="x" * 500))
        assert ask(gateway, "GET", "A" * 24)[0] == 410  # the gateway serves others meanwhile
        assert back_end.events.empty()
        back_end.open.set()
        assert [json.loads(client.recv(DEADLINE))["n"] for _ in range(60)] == list(range(60))
        client.close()
        assert [back_end.next().kind for _ in range(60)] == [("MESSAGE", "echo")] * 59 + [("DISCONNECT", "$disconnect")]


def test_accepted_messages_are_sent_although_the_client_leaves(gateway: Gateway, back_end: EventBackend) -> None:
    with opened(gateway, back_end, "plain") as (client, _):
        client.send(message("held"))
        client.send(message("note"))
        assert back_end.next().target == "/held"
        client.socket.shutdown(socket.SHUT_RDWR)
        back_end.open.set()
        assert [back_end.next().target for _ in range(2)] == ["/note?a=1", "/disconnect"]


# back ends send messages


@both
def test_back_ends_reach_connections_of_all_workers(gateway: Gateway, back_end: EventBackend, path: str) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(opened(gateway, back_end, path)) for _ in range(8)]
        for client, event in clients:
            check_orders(gateway, back_end, client, event, path)


def check_orders(gateway: Gateway, back_end: EventBackend, client: ClientConnection, event: Event, path: str) -> None:
    assert ask(gateway, "POST", event.connection, '{"ü": 1}'.encode()) == (200, {"done": True})
    assert ask(gateway, "POST", event.connection, b"\x00\xff", BYTES)[0] == 200
    assert client.recv(DEADLINE) == '{"ü": 1}'
    assert client.recv(DEADLINE) == b"\x00\xff"
    status, told = ask(gateway, "GET", event.connection)
    assert (status, told["route"], told["consumer"], told["client"]) == (200, path, "ann", "127.0.0.1")
    assert told["last_active_date"] >= told["connected_date"]
    assert ask(gateway, "DELETE", event.connection)[0] == 200
    with pytest.raises(ConnectionClosed):
        client.recv(DEADLINE)
    assert (client.close_code, client.close_reason) == (1000, "closed by the service")
    assert ask(gateway, "POST", event.connection, b"1")[0] == 410
    assert back_end.next().headers["X-Close-Code"] == "1000"
    line = gateway.stdout.wait_for(lambda line: b'"connection_id":"%b"' % event.connection.encode() in line)
    ended = json.loads(line)["websocket"]
    assert (ended["closed_by"], ended["close_code"]) == ("upstream", 1000)


def test_what_back_ends_may_not_send(gateway: Gateway, back_end: EventBackend) -> None:
    with opened(gateway, back_end, "plain") as (client, event):
        assert ask(gateway, "POST", event.connection, b"x" * 1001)[0] == 413
        assert ask(gateway, "POST", event.connection, b"\xff")[0] == 413
        assert ask(gateway, "POST", event.connection, b"text", "text/plain")[0] == 415
        assert ask(gateway, "POST", event.connection[:-1], b"1")[0] == 410
        assert ask(gateway, "POST", "A" * 24, b"1")[0] == 410
        client.close()
        back_end.next()


@pytest.mark.parametrize(
    ("method", "path", "authorization", "status"),
    [
        ("POST", f"/connections/{'A' * 24}", "Bearer wrong", 401),
        ("POST", f"/connections/{'A' * 24}", "", 401),
        ("GET", "/status", BACK_END["Authorization"], 403),
        ("POST", "/reload", BACK_END["Authorization"], 403),
        ("POST", "/session", BACK_END["Authorization"], 403),
        ("GET", "/connections/../status", BACK_END["Authorization"], 404),
    ],
)
def test_the_token_for_connections_is_for_nothing_else(
    gateway: Gateway, method: str, path: str, authorization: str, status: int
) -> None:
    admin = http.client.HTTPConnection(gateway.ready["admin"], timeout=DEADLINE)
    admin.request(method, path, headers={"Authorization": authorization} if authorization else {})
    assert admin.getresponse().status == status
    admin.close()


def test_a_client_that_does_not_read_gets_no_more(gateway: Gateway, back_end: EventBackend) -> None:
    """What waits for it is bounded by its socket, and the back end is told 429."""
    with Client(gateway.address()) as client:
        client.send(b"GET /large HTTP/1.1\r\n%b" % HANDSHAKE)
        assert client.read_response_head().status == 101
        event = back_end.next()
        admin = http.client.HTTPConnection(gateway.ready["admin"], timeout=DEADLINE)
        statuses = [200]
        while statuses[-1] == 200 and len(statuses) < 1000:
            fields = {**BACK_END, "Content-Type": JSON}
            admin.request("POST", f"/connections/{event.connection}", b"1" * 100_000, fields)
            response = admin.getresponse()
            response.read()
            statuses.append(response.status)
        admin.close()
        assert statuses[-1] == 429


# limits, HTTP/2, and the end


@both
def test_a_message_too_big_closes_the_connection(gateway: Gateway, back_end: EventBackend, path: str) -> None:
    with opened(gateway, back_end, path) as (client, _):
        client.send("x" * 1001)
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
        assert client.close_code == 1009
        assert back_end.next().headers["X-Close-Code"] == "1009"


@pytest.mark.parametrize(
    "asking",
    [
        b"GET /plain HTTP/1.1\r\nHost: a\r\nX-Api-Key: key-of-ann\r\n\r\n",
        b"POST /plain HTTP/1.1\r\nHost: a\r\nX-Api-Key: key-of-ann\r\nContent-Length: 2\r\n\r\nab",
        b"GET /plain HTTP/1.1\r\nHost: a\r\nX-Api-Key: key-of-ann\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /plain HTTP/1.1\r\nHost: a\r\nX-Api-Key: key-of-ann\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n\r\n",
    ],
)
def test_other_requests_are_refused(gateway: Gateway, asking: bytes) -> None:
    with Client(gateway.address()) as client:
        client.send(asking)
        assert client.read_response().status == 400


@both
def test_over_http2(gateway: Gateway, back_end: EventBackend, path: str) -> None:
    """RFC 8441. The frames are made and read by `websockets`, without its transport."""
    protocol = ClientProtocol(parse_uri("ws://a/"), state=State.OPEN)
    with Http2Client(gateway.address()) as client:
        client.begin_plainly()

        def send(end: bool = False) -> None:
            client.send_piece(1, b"".join(protocol.data_to_send()), end)

        pseudo = [*frames.pseudo(b"CONNECT", f"/{path}".encode(), b"a"), (b":protocol", b"websocket")]
        fields = [(b"sec-websocket-version", b"13"), (b"x-api-key", b"key-of-ann")]
        client.send(frames.headers(frames.block(*pseudo, *fields), 1, False))
        event = back_end.next()
        protocol.send_text(message("echo").encode())
        send()
        assert back_end.next().connection == event.connection
        client.wait(lambda: b"echo" in client.answer(1).body, "the reply")
        assert client.answer(1).status == 200
        assert ask(gateway, "POST", event.connection, b'"posted"')[0] == 200
        client.wait(lambda: b"posted" in client.answer(1).body, "the message of the back end")
        protocol.receive_data(client.answer(1).body)
        assert [received.data for received in protocol.events_received()] == [message("echo").encode(), b'"posted"']
        protocol.send_close(1000)
        send(end=True)
        assert back_end.next().headers["X-Close-Code"] == "1000"
        client.wait(lambda: client.answer(1).over, "the end of the stream")


@both
def test_a_drain_closes_and_tells_the_back_end(back_end: EventBackend, tmp_path: Path, path: str) -> None:
    """1001, and `$disconnect` is answered before the worker ends."""
    with Gateway(configuration(back_end), tmp_path) as gateway, opened(gateway, back_end, path) as (client, event):
        gateway.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
        assert client.close_code == 1001
        ended = back_end.next()
        assert (ended.connection, ended.headers["X-Close-Code"]) == (event.connection, "1001")
        gateway.wait()


@both
@pytest.mark.parametrize("http", ["http1", "http2"])
def test_a_drain_waits_for_accepted_messages(back_end: EventBackend, tmp_path: Path, path: str, http: str) -> None:
    """The client's connection ends after `$disconnect`, although both close frames have passed before."""
    with Gateway({**configuration(back_end), "workers": 1}, tmp_path) as gateway, tunnel(gateway, path, http) as client:
        send, received_so_far, end = client
        event = back_end.next()
        protocol = ClientProtocol(parse_uri("ws://a/"), state=State.OPEN)
        protocol.send_text(message("held").encode())
        protocol.send_text(message("note").encode())
        protocol.send_ping(b"in order")
        send(b"".join(protocol.data_to_send()))
        received_so_far(b"in order")
        assert back_end.next().target == "/held"
        gateway.signal(signal.SIGTERM)
        received_so_far(b"shutting down")
        protocol.send_close(1001)
        send(b"".join(protocol.data_to_send()))
        back_end.open.set()
        assert back_end.next().target == "/note?a=1"
        ended = back_end.next()
        assert (ended.connection, ended.headers["X-Close-Code"]) == (event.connection, "1001")
        record = gateway.wait_for_record(route=path)
        assert [each.split()[2] for each in record["subrequests"].split(", ")] == ["200"] * 4
        assert (record["websocket"]["closed_by"], record["websocket"]["close_code"]) == ("gateway", 1001)
        end()  # else the gateway waits for that
        gateway.wait()


@both
@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_drain_waits_for_clients_that_leave_without_a_close(
    back_end: EventBackend, tmp_path: Path, path: str, how: str
) -> None:
    """Their exchange has ended with them, not so what the back end has to hear."""
    with Gateway({**configuration(back_end), "workers": 1}, tmp_path) as gateway, Client(gateway.address()) as client:
        client.send(b"GET /%b HTTP/1.1\r\n%b" % (path.encode(), HANDSHAKE))
        assert client.read_response_head().status == 101
        event = back_end.next()
        protocol = ClientProtocol(parse_uri("ws://a/"), state=State.OPEN)
        protocol.send_text(message("held").encode())
        protocol.send_text(message("note").encode())
        protocol.send_ping(b"in order")
        client.send(b"".join(protocol.data_to_send()))
        client.read_until(b"in order")
        assert back_end.next().target == "/held"
        gateway.signal(signal.SIGTERM)
        client.read_until(b"shutting down")
        if how == "end":
            client.sock.shutdown(socket.SHUT_WR)
        else:
            client.reset()
        gateway.wait_for_record(route=path)
        back_end.open.set()
        assert back_end.next().target == "/note?a=1"
        ended = back_end.next()
        assert (ended.connection, ended.headers["X-Close-Code"]) == (event.connection, "1001")
        gateway.wait()


@both
def test_a_drain_does_not_wait_for_an_answer_that_never_comes(
    back_end: EventBackend, tmp_path: Path, path: str
) -> None:
    """The client is gone: nothing but the time for its `$disconnect` ends the wait, long before that of the drain."""
    settings = {**configuration(back_end), "workers": 1, "timeouts": {"drain": {"requests": "10m"}}}
    with Gateway(settings, tmp_path) as gateway, Client(gateway.address()) as client:
        client.send(b"GET /%b HTTP/1.1\r\n%b" % (path.encode(), HANDSHAKE))
        assert client.read_response_head().status == 101
        assert back_end.next().target == "/connect"
        protocol = ClientProtocol(parse_uri("ws://a/"), state=State.OPEN)
        protocol.send_text(message("held").encode())
        client.send(b"".join(protocol.data_to_send()))
        assert back_end.next().target == "/held"
        client.reset()
        gateway.wait_for_record(route=path)
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        assert back_end.events.empty()  # the answer to the message, which comes later, would have let it go on


def test_a_reload_and_a_worker_that_is_killed(back_end: EventBackend, tmp_path: Path) -> None:
    """A connection follows the new settings of its route; one of a killed worker is gone for back ends."""
    with Gateway(configuration(back_end), tmp_path) as gateway, opened(gateway, back_end, "plain") as (client, event):
        (file,) = tmp_path.glob("*.json")
        file.write_text(file.read_text().replace("/note?a=1", "/note?a=2"))
        gateway.signal(signal.SIGHUP)

        def noted() -> str:
            client.send(message("note"))
            return back_end.next().target

        wait_until(lambda: noted() == "/note?a=2", "the new settings")
        assert ask(gateway, "POST", event.connection, b'"there"')[0] == 200
        assert client.recv(DEADLINE) == '"there"'
        for worker in gateway.worker_pids:
            os.kill(worker, signal.SIGKILL)
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
        assert ask(gateway, "POST", event.connection, b'"there"')[0] == 410
        ended = back_end.next()
        assert ended.kind == ("DISCONNECT", "$disconnect")
        assert (ended.connection, ended.headers["X-Close-Code"]) == (event.connection, "1006")
        assert ended.headers["X-User"] == "ann"
        assert ended.headers["Traceparent"].split("-")[1] == event.headers["Traceparent"].split("-")[1]
        gateway.stderr.wait_for(lambda line: b"of a worker that has ended: $disconnect sent for 1" in line)


def test_all_events_have_the_origin_that_a_trusted_proxy_reports(back_end: EventBackend, tmp_path: Path) -> None:
    """Also the one that another worker sends for a worker that was killed."""
    config = configuration(back_end)
    config["listeners"]["main"]["trusted_proxies"] = ["127.0.0.0/8"]
    told = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/shop"}
    shown = {"X-Api-Key": "key-of-ann", **told}
    with Gateway(config, tmp_path) as gateway:
        url = f"ws://{gateway.address()}/plain"
        with connect(url, additional_headers=shown, open_timeout=DEADLINE, compression=None) as client:
            events = [back_end.next()]
            client.send(message("echo"))
            events.append(back_end.next())
            assert client.recv(DEADLINE) == message("echo")
            for worker in gateway.worker_pids:
                os.kill(worker, signal.SIGKILL)
            with pytest.raises(ConnectionClosed):
                client.recv(DEADLINE)
            events.append(back_end.next())
        gateway.stderr.wait_for(lambda line: b"of a worker that has ended: $disconnect sent for 1" in line)
    assert [event.kind[0] for event in events] == ["CONNECT", "MESSAGE", "DISCONNECT"]
    for event in events:
        assert event.headers.get_all("X-Forwarded-For") == ["203.0.113.9, 127.0.0.1"]
        assert event.headers.get_all("X-Forwarded-Proto") == ["https"]
        assert event.headers.get_all("X-Forwarded-Port") == [url.rpartition(":")[2].partition("/")[0]]
        assert event.headers.get_all("X-Forwarded-Prefix") == ["/shop"]
        assert event.headers.get_all("X-Real-IP") == ["203.0.113.9"]


def reload_with(gateway: Gateway, directory: Path, limits: dict[str, Any] | None) -> None:
    """Reload with these settings of the filter `websocket`; None: without it."""
    (file,) = directory.glob("*.json")
    settings = json.loads(file.read_text())
    (guarded,) = [route for route in settings["routes"] if route["name"] == "guarded"]
    guarded["filters"].pop("websocket", None)
    if limits is not None:
        guarded["filters"]["websocket"] = limits
    file.write_text(json.dumps(settings))
    assert reloaded(gateway) == 200


def test_limits_of_the_filter_that_change(back_end: EventBackend, tmp_path: Path) -> None:
    """Open connections have the filter's new limits, also if it had none, and none if the filter is gone."""
    settings = configuration(back_end)
    (guarded,) = [route for route in settings["routes"] if route["name"] == "guarded"]
    guarded["websocket_api"] = {**guarded["websocket_api"], "message_bytes": 5000}

    def echo(text: str) -> Any:
        client.send(message("echo", text=text))
        assert back_end.next().target == "/echo"
        return json.loads(client.recv(DEADLINE))["text"]

    with Gateway(settings, tmp_path) as gateway, opened(gateway, back_end, "guarded") as (client, _):
        reload_with(gateway, tmp_path, {"message_bytes": 3000, "rate": "1/h", "total": "1h", "ping": "1h"})
        assert echo("y" * 2000) == "y" * 2000
        reload_with(gateway, tmp_path, {"message_bytes": 4000})
        assert echo("y" * 3500) == "y" * 3500
        reload_with(gateway, tmp_path, None)
        assert echo("y" * 4500) == "y" * 4500
        reload_with(gateway, tmp_path, {"message_bytes": 2000})
        client.send("z" * 2001)
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
        assert client.close_code == 1009
        assert back_end.next().headers["X-Close-Code"] == "1009"


@pytest.mark.parametrize("limits", [{"idle": "100ms"}, {"total": "100ms"}])
def test_times_of_the_filter_that_change(back_end: EventBackend, tmp_path: Path, limits: dict[str, Any]) -> None:
    """Open connections have them too: `total` counts from their beginning."""
    with (
        Gateway(configuration(back_end), tmp_path) as gateway,
        opened(gateway, back_end, "guarded") as (client, _),
    ):
        reload_with(gateway, tmp_path, limits)
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
        assert client.close_code == 1001
        assert back_end.next().headers["X-Close-Code"] == "1001"


def test_a_client_that_waits_for_a_slow_service_misses_no_ping(back_end: EventBackend, tmp_path: Path) -> None:
    """Its answers come behind messages that are not read yet. Another connection shows that pings are due meanwhile."""
    settings = configuration(back_end)
    guarded = next(route for route in settings["routes"] if route["name"] == "guarded")
    guarded["filters"]["websocket"] = {"ping": "500ms"}
    with Gateway({**settings, "workers": 1}, tmp_path) as gateway:
        with opened(gateway, back_end, "guarded") as (client, event):
            client.send(message("held"))
            for _ in range(40):
                client.send(message("note"))
            assert back_end.next().target == "/held"
            with Client(gateway.address()) as other:
                other.send(b"GET /guarded HTTP/1.1\r\n%b" % HANDSHAKE)
                assert other.read_response_head().status == 101
                assert back_end.next().target == "/connect"
                for _ in range(4):
                    other.read_until(b"\x89\x08")
                    other.send(control_frame(PONG, other.read_exactly(8), masked=True))
            assert back_end.next().kind[0] == "DISCONNECT"
            back_end.open.set()
            assert client.recv(DEADLINE) == message("held")
            assert {back_end.next().target for _ in range(40)} == {"/note?a=1"}
        ended = back_end.next()
        assert (ended.connection, ended.headers["X-Close-Code"]) == (event.connection, "1000")


def test_a_connection_that_a_limit_closes_is_gone_for_back_ends(back_end: EventBackend, tmp_path: Path) -> None:
    """Also while its client is within a frame: what is sent to it then is dropped."""
    settings = configuration(back_end)
    guarded = next(route for route in settings["routes"] if route["name"] == "guarded")
    guarded["filters"]["websocket"] = {"idle": "300ms"}
    with Gateway({**settings, "workers": 1}, tmp_path) as gateway, Client(gateway.address()) as client:
        client.send(b"GET /guarded HTTP/1.1\r\n%b" % HANDSHAKE)
        assert client.read_response_head().status == 101
        event = back_end.next()
        client.send(b"\x82\x84\0\0\0\0ha")
        client.read_until(b"idle")
        assert ask(gateway, "POST", event.connection, b'"there"')[0] == 410
        assert ask(gateway, "DELETE", event.connection)[0] == 410
        client.send(b"lf")
        assert back_end.next().body == b"half"
        assert back_end.next().headers["X-Close-Code"] == "1001"


def test_the_log_has_the_code_of_the_close_frame_that_was_sent_before_a_limit(
    back_end: EventBackend, tmp_path: Path
) -> None:
    """The filter closes too, while the client is within the message that was too big: no other close frame follows."""
    settings = configuration(back_end)
    guarded = next(route for route in settings["routes"] if route["name"] == "guarded")
    guarded["filters"]["websocket"] = {"idle": "300ms", "close_timeout": "1s"}
    with Gateway({**settings, "workers": 1}, tmp_path) as gateway, Client(gateway.address()) as client:
        client.send(b"GET /guarded HTTP/1.1\r\n%b" % HANDSHAKE)
        assert client.read_response_head().status == 101
        assert back_end.next().target == "/connect"
        protocol = ClientProtocol(parse_uri("ws://a/"), state=State.OPEN)
        protocol.send_text(message("held").encode())
        client.send(b"".join(protocol.data_to_send()) + b"\x82\xfe\x10\0\0\0\0\0half")
        client.read_until(b"\x03\xf1message too big")
        assert back_end.next().target == "/held"
        said = gateway.wait_for_record(route="guarded")["websocket"]
        assert (said["closed_by"], said["close_code"]) == ("gateway", 1009)
        back_end.open.set()
        assert back_end.next().headers["X-Close-Code"] == "1009"


def test_a_limit_of_messages_that_changes(back_end: EventBackend, tmp_path: Path) -> None:
    """It is that of open connections at once, in both directions."""
    with Gateway(configuration(back_end), tmp_path) as gateway, opened(gateway, back_end, "plain") as (client, event):
        (file,) = tmp_path.glob("*.json")
        file.write_text(file.read_text().replace('"message_bytes": 1000', '"message_bytes": 3000'))
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: ask(gateway, "POST", event.connection, b"x" * 2000)[0] == 200, "the new limit")
        assert client.recv(DEADLINE) == "x" * 2000
        client.send(message("echo", text="y" * 2000))
        assert len(client.recv(DEADLINE)) > 2000
        client.send("z" * 3001)
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
        assert client.close_code == 1009
        back_end.next()
        assert back_end.next().headers["X-Close-Code"] == "1009"
        gateway.wait_for_record(route="plain")


def test_a_worker_is_killed_before_the_back_end_has_decided(back_end: EventBackend, tmp_path: Path) -> None:
    """It may have accepted the connection, so it learns of the end. Nothing is sent for connections that have ended."""
    with Gateway({**configuration(back_end), "workers": 1}, tmp_path) as gateway:
        with opened(gateway, back_end, "plain"):
            pass
        assert back_end.next().kind[0] == "DISCONNECT"
        with Client(gateway.address()) as client:
            client.send(b"GET /plain?deny HTTP/1.1\r\n%b" % HANDSHAKE)
            assert client.read_response().status == 401
            assert back_end.next().kind[0] == "CONNECT"
            client.send(b"GET /plain?hold HTTP/1.1\r\n%b" % HANDSHAKE)
            event = back_end.next()
            os.kill(gateway.worker_pids[0], signal.SIGKILL)
            ended = back_end.next()
            assert (ended.kind[0], ended.connection) == ("DISCONNECT", event.connection)
            assert ended.headers["X-Close-Code"] == "1006"
        gateway.stderr.wait_for(lambda line: b"of a worker that has ended: $disconnect sent for 1" in line)


def test_the_worker_that_sends_for_others_is_killed_as_well(back_end: EventBackend, tmp_path: Path) -> None:
    """At least once: what was not answered is sent again, by the next worker, for each of many connections."""
    with Gateway({**configuration(back_end), "workers": 1}, tmp_path) as gateway, contextlib.ExitStack() as clients:
        for _ in range(20):
            client = clients.enter_context(Client(gateway.address()))
            client.send(b"GET /slow HTTP/1.1\r\n%b" % HANDSHAKE)
            assert client.read_response_head().status == 101
        (worker,) = gateway.worker_pids
        os.kill(worker, signal.SIGKILL)
        unanswered = {back_end.next().connection for _ in range(16)}
        assert len(unanswered) == 16
        (worker,) = gateway.worker_pids
        os.kill(worker, signal.SIGKILL)
        again = {back_end.next().connection for _ in range(16)}
        back_end.open.set()
        again |= {back_end.next().connection for _ in range(4)}
        assert (len(again), again > unanswered) == (20, True)
        gateway.stderr.wait_for(lambda line: b"of a worker that has ended: $disconnect sent for 20" in line)


@both
def test_a_client_that_ends_without_a_close_gets_none(gateway: Gateway, back_end: EventBackend, path: str) -> None:
    with Client(gateway.address()) as client:
        client.send(b"GET /%b HTTP/1.1\r\n%b" % (path.encode(), HANDSHAKE))
        assert client.read_response_head().status == 101
        connection = back_end.next().connection
        client.sock.shutdown(socket.SHUT_WR)
        client.assert_ended()
    assert back_end.next().headers["X-Close-Code"] == "1006"
    line = gateway.stdout.wait_for(lambda line: b'"connection_id":"%b"' % connection.encode() in line)
    ended = json.loads(line)["websocket"]
    assert (ended["closed_by"], ended["close_code"]) == ("client", 1006)


@both
def test_a_route_that_is_gone_closes_its_connections(back_end: EventBackend, tmp_path: Path, path: str) -> None:
    """Those that only listen, too. It is the gateway that closes them, also for the filter `websocket`."""
    with Gateway(configuration(back_end), tmp_path) as gateway, opened(gateway, back_end, path) as (client, _):
        (file,) = tmp_path.glob("*.json")
        file.write_text(file.read_text().replace(f'"/{path}"', '"/other"'))
        gateway.signal(signal.SIGHUP)
        with pytest.raises(ConnectionClosed):
            client.recv(DEADLINE)
        assert (client.close_code, client.close_reason) == (1001, "the route is gone")
        record = gateway.wait_for_record(route=path, status=101)["websocket"]
        assert (record["closed_by"], record["close_code"]) == ("gateway", 1001)
        counted = re.compile(r'^fastgw_websocket_closes_total\{.*by="gateway",code="1001".*\} 1\.0$', re.MULTILINE)
        wait_until(lambda: counted.search(scraped(gateway)) is not None, "the end to be counted")
        assert back_end.next().kind[0] == "DISCONNECT"
