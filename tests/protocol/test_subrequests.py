"""Sub-requests to origins that do not behave, on real sockets: who asks is told, and nothing is left of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastgw
from tests.support.client import Client
from tests.support.extension import install
from tests.support.gateway import OFF, Gateway
from tests.support.origin import OK, Origin, OriginConnection, close, read_rest, reset

FILTER = '''
"""A filter of a test."""

import asyncio
import json
from collections.abc import Iterable

from fastgw.filters.api import Env, Exchange, Filter, Hooks, Phase, Reply, SubrequestFailed, subrequest


class Asks(Filter, name="asks", phase=Phase.AUTHORIZE):
    """Answer with what `v` says."""

    upstream: str

    def upstream_names(self) -> Iterable[tuple[str, str]]:
        return (("upstream", self.upstream),)

    def build(self, env: Env) -> Hooks:
        given = []

        async def pieces(count: int):
            for _ in range(count):
                yield b"x" * 10_000

        def told(found) -> dict:
            if isinstance(found, SubrequestFailed):
                return {"fault": found.fault.label, "why": found.why}
            trailers = [[name.decode(), value.decode()] for name, value in found.trailers]
            return {"status": found.status, "length": len(found.body), "trailers": trailers}

        async def request(exchange: Exchange) -> Reply | None:
            upstream = given[0].upstreams(self.upstream)
            kind = exchange.path.split(b"/")[1]
            asked = {"target": b"/" + exchange.path.split(b"/", 2)[2], "timeout": 1.5, "most": 100_000}
            if kind == b"many":
                found = await asyncio.gather(*(subrequest(exchange, upstream, **asked) for _ in range(32)))
            elif kind == b"own":
                found = [await subrequest(exchange, upstream, method=b"PUT", body=exchange.request_body, **asked)]
            elif kind == b"twice":
                await subrequest(exchange, upstream, method=b"PUT", body=exchange.request_body, **asked)
                return None
            elif kind == b"pieces":
                if b"good" in asked["target"]:
                    asked["timeout"] = 30.0  # 5 MB, on a busy machine
                found = [await subrequest(exchange, upstream, method=b"PUT", body=pieces(500), **asked)]
            else:
                found = [await subrequest(exchange, upstream, **asked)]
            return Reply(200, json.dumps([told(each) for each in found]).encode())

        return Hooks(request=request, start=given.append)
'''
CREDENTIALS = {"credentials": {"basic": {"username": "ann", "password": "secret"}}}
LINE = b"\r\nAuthorization: Basic YW5uOnNlY3JldA==\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n"


def flood(connection: OriginConnection) -> None:
    """Interim responses without end."""
    try:
        for _ in range(100_000):
            connection.sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 10)
    except OSError:
        pass


def pour(connection: OriginConnection) -> None:
    """A body without end."""
    try:
        for _ in range(10_000):
            connection.sock.sendall(b"x" * 65_536)
    except OSError:
        pass


def drip(connection: OriginConnection) -> None:
    """A byte now and then, for longer than anybody waits."""
    try:
        for _ in range(60):
            connection.sock.sendall(b"x")
            time.sleep(0.05)
    except OSError:
        pass


HOSTILE: dict[str, tuple[tuple[Any, ...], set[str]]] = {
    "closed at once": ((close,), {"connection_lost"}),
    "reset at once": ((reset,), {"connection_lost"}),
    "half a head": ((HEAD[:9], close), {"connection_lost", "upstream_malformed"}),
    "half a head and a reset": ((HEAD[:9], reset), {"connection_lost", "upstream_malformed"}),
    "nonsense": ((b"\x16\x03\x01nonsense\r\n\r\n", read_rest), {"upstream_malformed"}),
    "a head without end": ((HEAD + b"X-A: " + b"a" * 300_000, read_rest), {"upstream_malformed"}),
    "truncated": ((HEAD + b"Content-Length: 9\r\n\r\nok", close), {"upstream_incomplete"}),
    "truncated by a reset": ((HEAD + b"Content-Length: 9\r\n\r\nok", reset), {"upstream_incomplete"}),
    "a chunk truncated": ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\nok", close), {"upstream_incomplete"}),
    "no last chunk": ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", reset), {"upstream_incomplete"}),
    "chunks of nonsense": (
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nok", read_rest),
        {"upstream_malformed", "upstream_incomplete"},
    ),
    "more than may be": ((HEAD + b"Content-Length: 100001\r\n\r\n", pour), {"response_too_large"}),
    "more than may be, until the end": ((HEAD + b"\r\n", pour), {"response_too_large"}),
    "interim responses without end": ((flood,), {"upstream_malformed", "upstream_timeout"}),
    "an upgrade": (
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", read_rest),
        {"upgrade_unexpected", "upstream_malformed"},
    ),
    "silence": ((read_rest,), {"upstream_timeout"}),
    "silence in a body": ((HEAD + b"Content-Length: 9\r\n\r\nok", read_rest), {"upstream_timeout"}),
    "a byte now and then": ((HEAD + b"Content-Length: 9999\r\n\r\n", drip), {"upstream_timeout"}),
}


class Place:
    def __init__(self, folder: Path, asked: Origin, own: Origin) -> None:
        install(folder, "asks", {"asks.py": FILTER}, {"asks": "asks:Asks"})
        self.asked = asked
        settings = {
            "extensions": ["asks"],
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {
                "u": {"targets": [{"url": own.url}]},
                "v": {
                    "targets": [{"url": asked.url}],
                    "retries": {"max": 0},
                    "pool": {"max_connections": 2},  # so that one that was not given back is missed
                    "filters": CREDENTIALS,
                },
            },
            "routes": [{"name": "all", "upstream": "u", "filters": {"asks": {"upstream": "v"}}}],
            "access_logs": [{"sink": "stdout"}],
            **OFF,
        }
        environment = {"PYTHONPATH": f"{folder}:{Path(fastgw.__file__).parents[1]}"}
        self.gateway = Gateway(settings, folder, environment=environment)

    def get(self, path: str, body: bytes | None = None) -> Any:
        with self.gateway.connect() as client:
            return self.on(client, path, body)

    @staticmethod
    def on(client: Client, path: str, body: bytes | None = None) -> Any:
        head = b"GET" if body is None else b"POST"
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        client.send(b"%b %b HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % (head, path.encode(), length) + (body or b""))
        response = client.read_response()
        assert response.status == 200, response
        return json.loads(response.body)

    def assert_nothing_is_left(self) -> None:
        """Of two connections none is missed: what takes all of them at once is answered."""
        found = self.get("/many/good")
        assert [each["status"] for each in found] == [200] * 32


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("subrequests")
    with Origin() as asked, Origin() as own:
        asked.answer(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n", path=b"/trailers")
        asked.answer(b"HTTP/1.1 103 Early Hints\r\n\r\n", OK, path=b"/interim")
        asked.answer(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno", path=b"/refused")
        for number, (steps, _) in enumerate(HOSTILE.values()):
            asked.answer(*steps, path=b"/hostile-%d" % number, whole=False)
        own.serve()
        asked.serve()
        made = Place(folder, asked, own)
        with made.gateway:
            yield made


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_origin_is_a_fault_and_leaves_nothing_behind(place: Place, what: str) -> None:
    number, (_, faults) = list(HOSTILE).index(what), HOSTILE[what]
    for _ in range(3):  # more often than there are connections
        (found,) = place.get(f"/ask/hostile-{number}")
        assert found.get("fault") in faults, found
    place.assert_nothing_is_left()


def test_trailers_and_interim_responses(place: Place) -> None:
    assert place.get("/ask/trailers") == [{"status": 200, "length": 2, "trailers": [["X-Sum", "1"]]}]
    assert place.get("/ask/interim") == [{"status": 200, "length": 2, "trailers": []}]
    place.assert_nothing_is_left()


def test_credentials_are_shown_and_a_401_is_tried_once_more(place: Place) -> None:
    before = len(place.asked.requests)
    assert place.get("/ask/refused") == [{"status": 401, "length": 2, "trailers": []}]
    sent = place.asked.requests[before:]
    assert [each.request_target for each in sent] == [b"/refused"] * 2
    assert all(LINE in each.head.raw for each in sent)
    place.assert_nothing_is_left()


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_the_clients_body_comes_to_the_origin_as_it_is(place: Place, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    assert place.get("/own/good", body) == [{"status": 200, "length": 2, "trailers": []}]
    assert place.asked.requests[-1].body == body
    assert place.asked.requests[-1].method == b"PUT"
    place.assert_nothing_is_left()


def test_a_body_in_pieces_comes_to_the_origin_as_it_is(place: Place) -> None:
    assert place.get("/pieces/good") == [{"status": 200, "length": 2, "trailers": []}]
    assert place.asked.requests[-1].body == b"x" * 5_000_000
    place.assert_nothing_is_left()


def test_a_body_that_was_sent_elsewhere_is_not_sent_to_the_routes_upstream(place: Place) -> None:
    with place.gateway.connect() as client:
        client.send(b"POST /twice/good HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nab")
        assert client.read_response().status == 500
    place.assert_nothing_is_left()


@pytest.mark.parametrize("path", ["/ask/hostile-15", "/own/hostile-15", "/pieces/hostile-15", "/many/hostile-15"])
def test_a_client_that_leaves_takes_them_along(place: Place, path: str) -> None:
    assert list(HOSTILE)[15] == "silence"
    for _ in range(3):
        before = len(place.asked.connections)
        with place.gateway.connect() as client:
            client.send(b"POST %b HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nab" % path.encode())
            deadline = time.monotonic() + 10
            while len(place.asked.connections) == before and time.monotonic() < deadline:
                time.sleep(0.01)
            client.reset()
    place.assert_nothing_is_left()


def test_the_line_of_the_request_has_them(place: Place) -> None:
    place.get("/ask/trailers?of=the-log")
    record = place.gateway.wait_for_record(query="of=the-log")
    (told,) = record["subrequests"].split(", ")
    upstream, target, status, seconds = told.split(" ")
    assert (upstream, target, status) == ("v", place.asked.authority, "200")
    assert 0.0 < float(seconds) < 60.0
    assert record["upstream"] is None
