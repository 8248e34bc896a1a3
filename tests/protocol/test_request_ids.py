"""Every request has an id by default: in the log, to the upstream and in the response, whatever way it goes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, Response
from tests.support.faults import assert_fault
from tests.support.gateway import OFF, Gateway
from tests.support.origin import Origin, OriginConnection, Request

MADE = re.compile(rb"[0-9a-f]{32}").fullmatch
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
ASKING = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\nSec-WebSocket-Version: 13\r\n"
OWN = {"own": {"type": "headers", "request": {"set": {"X-Own": "{request_id}"}}}}
PATHS: dict[str, dict[str, Any]] = {
    "fast": {},
    "steps": {"filters": OWN},
    "answers": {"filters": {"own": {"type": "headers", "response": {"set": {"X-Own": "{request_id}"}}}}},
    "off": {"filters": {"request_id": None}},
    "off-full": {"filters": {"request_id": "off", **OWN}},
    "untrusted": {"filters": {"request_id": {"trust_client": False}}},
    "untrusted-full": {"filters": {"request_id": {"trust_client": False}, **OWN}},
    "other": {"filters": {"request_id": {"header": "X-Correlation-Id"}}},
    "hidden": {"filters": {"own": {"type": "headers", "request": {"remove": ["X-Request-Id"]}}}},
}
BOTH = pytest.mark.parametrize("path", ["fast", "steps", "answers"])


class World:
    """A gateway whose configuration says nothing of ids but where a route does, and its upstream."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.origin = Origin()
        routes = [{"name": name, "paths": [f"/{name}/*"], "upstream": "origin", **more} for name, more in PATHS.items()]
        config = {
            "version": 1,
            "workers": 1,
            "access_logs": [{"sink": "stdout", "format": "json"}],
            "listeners": {"main": {"address": "127.0.0.1:0"}, "bare": {"address": "127.0.0.1:0"}},
            "upstreams": {"origin": {"targets": [{"url": self.origin.url}]}},
            "routes": [*routes, {"name": "own", "paths": ["/own"], "respond": {"status": 200, "body": "own"}}],
            **OFF,
            **settings,
        }
        config["listeners"]["bare"]["filters"] = {"request_id": None}
        file = directory / "gateway.json"
        file.write_text(json.dumps(config))
        self.gateway = Gateway(file, directory)

    def close(self) -> None:
        self.gateway.stop()
        self.origin.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("ids"))
    yield made
    made.close()


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with world.gateway.connect() as made:
        yield made
    world.origin.clear()


def asked(path: str, fields: bytes = b"", method: bytes = b"GET") -> bytes:
    return method + f" /{path}/a HTTP/1.1\r\nHost: a.test\r\n".encode() + fields + b"\r\n"


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%b\r\nok"


def exchanged(world: World, client: Client, request: bytes, more: bytes = b"") -> tuple[Request, Response]:
    client.send(request)
    got = world.origin.accept_next().answer(OK % more)
    return got, client.read_response(got.method)


def logged(world: World, request_id: bytes) -> dict[str, Any]:
    return world.gateway.wait_for_record(request_id=request_id.decode())


@BOTH
def test_requests_on_one_connection_have_an_id_each(world: World, client: Client, path: str) -> None:
    """The same in the log, to the upstream and in the response; another one for the next request."""
    seen = set()
    for number in range(3):
        got, response = exchanged(world, client, asked(path, b"X-Number: %d\r\n" % number))
        (request_id,) = got.get_all(b"X-Request-Id")
        assert MADE(request_id)
        assert response.get_all(b"X-Request-Id") == [request_id]
        assert logged(world, request_id)["route"] == path
        assert request_id in (got.get(b"X-Own") or response.get(b"X-Own") or request_id)
        seen.add(request_id)
    assert len(seen) == 3


@BOTH
@pytest.mark.parametrize("sent", [b"mine", b"!~" * 64, b"a"])
def test_a_clients_id_goes_on_as_it_is(world: World, client: Client, path: str, sent: bytes) -> None:
    got, response = exchanged(world, client, asked(path, b"x-request-ID:  %b \r\nX-B: 1\r\n" % sent))
    assert got.get_all(b"X-Request-Id") == response.get_all(b"X-Request-Id") == [sent]
    assert world.gateway.wait_for_record(request_id=sent.decode(), route=path)


@BOTH
@pytest.mark.parametrize("sent", [b"a b", b"\xff", b"1234567\x80", b"", b"i" * 129, b"12345678 2345678"])
def test_what_no_log_should_have_is_replaced(world: World, client: Client, path: str, sent: bytes) -> None:
    """An id has up to 128 visible ASCII characters."""
    got, response = exchanged(world, client, asked(path, b"X-Request-Id: %b\r\n" % sent))
    (request_id,) = got.get_all(b"X-Request-Id")
    assert MADE(request_id)
    assert response.get_all(b"X-Request-Id") == [request_id]


@BOTH
def test_of_several_ids_the_first_one_goes_on_alone(world: World, client: Client, path: str) -> None:
    """Or two readers of one request would call it by two names."""
    got, response = exchanged(world, client, asked(path, b"X-Request-Id: a\r\nX-B: 1\r\nX-Request-Id: b\r\n"))
    assert got.get_all(b"X-Request-Id") == response.get_all(b"X-Request-Id") == [b"a"]
    assert got.get(b"X-B") == b"1"


@BOTH
def test_an_upstreams_own_id_does_not_reach_the_client(world: World, client: Client, path: str) -> None:
    """The client could not find its request in the log by it."""
    got, response = exchanged(world, client, asked(path), b"x-request-id: other\r\nX-B: 1\r\nX-Request-Id: more\r\n")
    assert response.get_all(b"X-Request-Id") == got.get_all(b"X-Request-Id")
    assert response.get(b"X-B") == b"1"


@pytest.mark.parametrize("path", ["fast", "steps"])
def test_each_attempt_has_the_same_id(world: World, client: Client, path: str) -> None:
    """A reused connection breaks, and the request is sent again: it is one request."""
    first, _ = exchanged(world, client, asked(path))
    client.send(asked(path, b"X-Again: 1\r\n"))
    upstream = world.origin.accept_next()
    broken = upstream.read_request()
    upstream.close()
    got = world.origin.accept_next().answer(OK % b"")
    response = client.read_response()
    (request_id,) = got.get_all(b"X-Request-Id")
    assert request_id == broken.get(b"X-Request-Id") == response.get(b"X-Request-Id") != first.get(b"X-Request-Id")
    assert logged(world, request_id)["retries"] == 1


@pytest.mark.parametrize("path", ["fast", "steps"])
def test_a_body_that_comes_in_pieces_belongs_to_the_same_id(world: World, client: Client, path: str) -> None:
    """The head of the response and its body come apart."""
    client.send(asked(path, b"Transfer-Encoding: chunked\r\n", b"POST"))
    upstream = world.origin.accept_next()
    request_id = upstream.read_request_head().get(b"X-Request-Id")
    assert request_id is not None
    assert MADE(request_id)
    client.send(b"2\r\nab\r\n0\r\n\r\n")
    assert upstream.read_chunked()[0] == b"ab"
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
    upstream.send(b"ab")
    upstream.send(b"cd")
    response = client.read_response(b"POST")
    assert (response.body, response.get(b"X-Request-Id")) == (b"abcd", request_id)


def test_a_head_request_has_one(world: World, client: Client) -> None:
    client.send(asked("fast", method=b"HEAD"))
    got = world.origin.accept_next().answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    assert client.read_response(b"HEAD").get(b"X-Request-Id") == got.get(b"X-Request-Id") is not None


@pytest.mark.parametrize("path", ["fast", "steps"])
def test_a_tunnel_has_one(world: World, client: Client, path: str) -> None:
    """The 101 has it, and its record when the tunnel is over."""
    client.send(asked(path, ASKING))
    upstream: OriginConnection = world.origin.accept_next()
    got = upstream.answer(SWITCHED.replace(b"\r\n\r\n", b"\r\nX-Request-Id: theirs\r\n\r\n"))
    (request_id,) = got.get_all(b"X-Request-Id")
    response = client.read_response()
    assert (response.status, response.get_all(b"X-Request-Id")) == (101, [request_id])
    upstream.close()
    client.close()
    assert logged(world, request_id)["status"] == 101


def test_answers_of_the_gateways_own_have_one(world: World, client: Client) -> None:
    response = client.exchange(b"GET /own HTTP/1.1\r\nHost: a\r\n\r\n")
    (request_id,) = response.get_all(b"X-Request-Id")
    assert MADE(request_id)
    assert logged(world, request_id)["route"] == "own"
    kept = client.exchange(b"GET /own HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine-1\r\n\r\n")
    assert kept.get_all(b"X-Request-Id") == [b"mine-1"]
    assert logged(world, b"mine-1")["route"] == "own"


def test_refusals_have_one(world: World, client: Client) -> None:
    """No route, then a head that cannot be read."""
    response = client.exchange(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine-2\r\n\r\n")
    assert_fault(response, "route_not_found")
    assert response.get_all(b"X-Request-Id") == [b"mine-2"]
    unread = client.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine-3\r\nContent-Length: x\r\n\r\n")
    assert_fault(unread, "bad_request")
    (request_id,) = unread.get_all(b"X-Request-Id")
    assert MADE(request_id)
    assert logged(world, request_id)["fault"] == "bad_request"


def test_an_upstream_that_fails_gives_an_answer_with_the_id_it_was_sent(world: World, client: Client) -> None:
    client.send(asked("fast", b"Content-Length: 0\r\n", b"POST"))
    upstream = world.origin.accept_next()
    request_id = upstream.read_request().get(b"X-Request-Id")
    upstream.close()
    response = client.read_response(b"POST")
    assert_fault(response, "connection_lost")
    assert response.get(b"X-Request-Id") == request_id


@pytest.mark.parametrize("path", ["off", "off-full"])
def test_a_route_may_have_none(world: World, client: Client, path: str) -> None:
    """`request_id: null`, or `off`: the header goes through both ways as any other."""
    got, response = exchanged(world, client, asked(path))
    assert got.get_all(b"X-Request-Id") == response.get_all(b"X-Request-Id") == []
    fields = b"X-Request-Id: a\r\nX-Request-Id: b\r\n"
    got, response = exchanged(world, client, asked(path, fields), b"X-Request-Id: theirs\r\n")
    assert got.get_all(b"X-Request-Id") == [b"a", b"b"]
    assert response.get_all(b"X-Request-Id") == [b"theirs"]
    assert world.gateway.wait_for_record(route=path)["request_id"] is None


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS"])
def test_a_listener_may_have_none(world: World, method: bytes) -> None:
    with world.gateway.connect("bare") as client:
        got, response = exchanged(world, client, asked("fast", method=method))
        assert got.get_all(b"X-Request-Id") == response.get_all(b"X-Request-Id") == []
        assert client.exchange(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").get_all(b"X-Request-Id") == []
        got, response = exchanged(world, client, asked("untrusted", b"X-Request-Id: a\r\n", method))
        assert got.get_all(b"X-Request-Id") == response.get_all(b"X-Request-Id") != [b"a"]


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS"])
@pytest.mark.parametrize("path", ["untrusted", "untrusted-full"])
def test_a_route_may_distrust_its_clients(world: World, client: Client, path: str, method: bytes) -> None:
    """Also where the request was known by the client's id before its route was found."""
    got, response = exchanged(world, client, asked(path, b"X-Request-Id: forged\r\n", method))
    (request_id,) = got.get_all(b"X-Request-Id")
    assert MADE(request_id)
    assert response.get_all(b"X-Request-Id") == [request_id]


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS"])
def test_a_route_may_have_another_header_for_it(world: World, client: Client, method: bytes) -> None:
    fields = b"X-Correlation-Id: c-1\r\nX-Correlation_Id: c-2\r\n"
    got, response = exchanged(world, client, asked("other", fields, method), b"x-correlation-id: theirs\r\n")
    assert got.get_all(b"X-Correlation-Id") == response.get_all(b"X-Correlation-Id") == [b"c-1"]
    assert b"X-Correlation_Id" not in got
    assert got.get_all(b"X-Request-Id") == response.get_all(b"X-Request-Id") == []
    assert logged(world, b"c-1")["route"] == "other"


def test_a_configuration_may_spell_the_usual_header_otherwise(tmp_path: Path) -> None:
    """It is the same one: a route that has none, or another, sends none of it, also where one was given before."""
    world = World(tmp_path, filters={"request_id": {"header": "x-request-id"}})
    with world.gateway.connect() as client:
        for method in (b"GET", b"OPTIONS"):
            for path, sent in ("fast", 1), ("steps", 1), ("untrusted", 1), ("off", 0), ("off-full", 0), ("other", 0):
                got, response = exchanged(world, client, asked(path, method=method))
                ids = got.get_all(b"X-Request-Id")
                assert (path, len(ids)) == (path, sent)
                assert response.get_all(b"X-Request-Id") == ids
    world.close()


def test_filters_may_keep_it_from_the_upstream(world: World, client: Client) -> None:
    for fields in (b"", b"X-Request-Id: mine-4\r\n"):
        got, response = exchanged(world, client, asked("hidden", fields))
        assert got.get_all(b"X-Request-Id") == []
        assert response.get(b"X-Request-Id")


def test_each_worker_and_its_successor_has_ids_of_its_own(tmp_path: Path) -> None:
    """Processes are forked: none may go on with random bytes that another one has, too."""
    world = World(tmp_path, workers=3)
    seen: list[bytes | None] = []
    for _ in range(60):
        with world.gateway.connect() as client:
            seen.append(client.exchange(b"GET /own HTTP/1.1\r\nHost: a\r\n\r\n").get(b"X-Request-Id"))
    assert None not in seen
    assert len(set(seen)) == len(seen)
    world.close()
