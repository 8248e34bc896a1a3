"""Purges of a store that two workers share, by the admin API and by `fastgw purge`."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.client import Response
from tests.support.commands import ended
from tests.support.gateway import Gateway, wait_until
from tests.support.own_ports import own_port
from tests.support.redis_server import RedisServer
from tests.support.threaded import Threaded

TAGS: Final = {"/red": "red all", "/blue": "blue,all"}


class Counting(BaseHTTPRequestHandler):
    """An origin whose answers say how often it was asked."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    numbers = itertools.count(1)

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        body = b"%d" % next(self.numbers)
        self.send_response(200)
        self.send_header("Cache-Control", "max-age=600")
        self.send_header("ETag", '"a"')
        self.send_header("Vary", "Accept-Language")
        self.send_header("Surrogate-Key", TAGS.get(self.path.partition("?")[0], ""))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


KEY_QUERIES = {"none": "none", "only": {"only": ["id"]}, "except": {"except": ["utm_*"]}}


class Front:
    """The gateway in front of it."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self._gateway, self._folder = gateway, folder

    def ask(self, target: str, language: str = "en", method: str = "GET", more: str = "") -> Response:
        client = self._gateway.connect()
        try:
            head = f"{method} {target} HTTP/1.1\r\nHost: a.test\r\nAccept-Language: {language}\r\n{more}\r\n"
            return client.exchange(head.encode())
        finally:
            client.close()

    def is_stored(self, target: str, language: str = "en") -> bool:
        """Whether a response is stored; asks for it, so it is stored afterwards."""
        return b"fastgw; hit" in (self.ask(target, language).get(b"Cache-Status") or b"")

    def post(self, body: Any) -> httpx.Response:
        url = f"http://{self._gateway.ready['admin']}/cache/purge"
        return httpx.post(url, json=body, headers=self._gateway.shown, timeout=60.0, trust_env=False)

    def kill_control(self) -> None:
        os.kill(self._gateway.control_pid, signal.SIGKILL)

    def purge(self, *arguments: str) -> Any:
        admin = self._gateway.ready["admin"], self._gateway.ready["token_file"]
        options = ("--admin", admin[0], "--token-file", admin[1])
        return ended("purge", *arguments, *options, directory=self._folder)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def config(redis: RedisServer) -> Iterator[dict[str, Any]]:
    """The configuration of nodes that share a Redis."""
    with Threaded(Counting, None) as origin:
        origin.begin()
        yield {
            "workers": 2,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "admin": {"address": "127.0.0.1:0"},
            "access_logs": [],
            "caches": {"other": {"memory": "1MiB"}, "shared": {"redis": True}},
            "state": {"url": redis.url},
            "routes": [
                {
                    "name": "all",
                    "upstream": origin.origin,
                    "filters": {"cache": {"purge_method": {"allow": ["127.0.0.0/8"]}}},
                },
                *(
                    {
                        "name": name,
                        "paths": [f"/{name}"],
                        "upstream": origin.origin,
                        "filters": {"cache": {"key": {"query": query}}},
                    }
                    for name, query in KEY_QUERIES.items()
                ),
                {
                    "name": "shared",
                    "paths": ["/shared/*"],
                    "upstream": origin.origin,
                    "filters": {"cache": {"store": "shared"}},
                },
            ],
        }


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Iterator[tuple[Front, Front]]:
    folder, other = (tmp_path_factory.mktemp(name) for name in ("node", "other"))
    port = own_port()  # it is part of the key
    first, second = ({"listeners": {"main": {"address": f"127.0.0.{node}:{port}"}}} for node in (1, 2))
    with Gateway({**config, **first}, folder) as one, Gateway({**config, **second, "workers": 1}, other) as two:
        yield Front(one, folder), Front(two, other)


@pytest.fixture(scope="module")
def front(nodes: tuple[Front, Front]) -> Front:
    return nodes[0]


@pytest.mark.landing
@pytest.mark.parametrize(
    ("body", "purged"),
    [
        ({"url": "http://a.test/red"}, ["/red"]),
        ({"url": "http://A.TEST:80/%72ed"}, ["/red"]),
        ({"url": "http://a.test:8080/red"}, ["/red"]),
        ({"prefix": "http://a.test/red"}, ["/red", "/red?a=1"]),
        ({"prefix": "http://a.test:8080/red"}, ["/red", "/red?a=1"]),
        ({"tags": ["red"]}, ["/red", "/red?a=1"]),
        ({"tags": ["blue", "none"]}, ["/blue"]),
        ({"tags": ["all"]}, ["/red", "/red?a=1", "/blue"]),
        ({"all": True}, ["/red", "/red?a=1", "/blue", "/plain"]),
        ({"url": "http://b.test/red"}, []),
        ({"all": True, "store": "other"}, []),
    ],
)
def test_a_purge_removes_what_it_names_with_all_variants(front: Front, body: Any, purged: list[str]) -> None:
    targets = ["/red", "/red?a=1", "/blue", "/plain"]
    for target, language in itertools.product(targets, ("en", "de")):
        front.ask(target, language)
    told = front.post(body)
    assert told.status_code == 200
    assert (told.json()["objects"] >= 2 * len(purged)) is True
    found = [(target, front.is_stored(target, each)) for target, each in itertools.product(targets, ("en", "de"))]
    assert [target for target, is_stored in found if not is_stored] == [t for t in targets for _ in "ab" if t in purged]


@pytest.mark.parametrize(
    ("target", "other"),
    [("/none?x=1", "/red"), ("/only?id=1&y=2", "/only?id=2&y=2"), ("/except?utm_a=1&b=2", "/except?utm_a=1&b=3")],
)
def test_a_purge_of_a_url_reaches_what_is_stored_without_parts_of_its_query(
    front: Front, target: str, other: str
) -> None:
    """`url` is the URL as clients see it, also where `key.query` leaves parameters out of the key."""
    front.ask(target)
    front.ask(other)
    assert front.is_stored(target)
    told = front.post({"url": f"http://a.test{target}"})
    assert told.json()["objects"] > 0
    assert not front.is_stored(target)
    assert front.is_stored(other)


@pytest.mark.landing
def test_the_method_purges_for_those_who_may(front: Front) -> None:
    for language in ("en", "de"):
        front.ask("/method", language)
    told = front.ask("/method", method="PURGE", more="Fastgw-Soft-Purge: 1\r\n")
    assert (told.status, json.loads(told.body)["objects"] >= 2) == (200, True)
    assert told.get(b"Cache-Status") == b"fastgw; detail=purge"
    assert b"fwd=stale" in (front.ask("/method").get(b"Cache-Status") or b"")
    assert front.is_stored("/method")
    told = front.ask("/method", method="PURGE")
    assert (told.status, json.loads(told.body)["objects"] >= 2) == (200, True)
    assert not front.is_stored("/method")


@pytest.mark.landing
@pytest.mark.parametrize("how", ["api", "method"])
def test_a_purge_reaches_the_other_node(nodes: tuple[Front, Front], how: str) -> None:
    one, two = nodes
    wait_until(lambda: one.post({"tags": ["none"]}).json()["reach"] == "shared", "Redis", 60.0)
    two.ask(f"/{how}")
    wait_until(lambda: two.is_stored(f"/{how}"), "earlier purges to have passed", 60.0)
    if how == "api":
        assert one.post({"url": f"http://a.test/{how}"}).status_code == 200
    else:
        assert one.ask(f"/{how}", method="PURGE").status == 200
    wait_until(lambda: not two.is_stored(f"/{how}"), "the purge to reach the other node", 60.0)


def test_a_purge_by_the_method_outlives_the_control_process(nodes: tuple[Front, Front]) -> None:
    """It is announced once there is a control process again."""
    one, two = nodes
    wait_until(lambda: two.is_stored("/outlives"), "earlier purges to have passed", 60.0)
    one.kill_control()
    assert one.ask("/outlives", method="PURGE").status == 200
    wait_until(lambda: not two.is_stored("/outlives"), "the purge to reach the other node", 60.0)


@pytest.mark.landing
def test_a_soft_purge_makes_stale(front: Front) -> None:
    front.ask("/soft")
    assert front.is_stored("/soft")
    assert front.post({"url": "http://a.test/soft", "soft": True}).json()["objects"] >= 1
    assert b"fwd=stale" in (front.ask("/soft").get(b"Cache-Status") or b"")
    assert front.is_stored("/soft")


@pytest.mark.landing
def test_a_url_is_purged_as_clients_see_it_and_what_meets_nothing_fails(config: dict[str, Any], tmp_path: Path) -> None:
    """Of a node alone, whose memory is all there is."""
    alone = {key: value for key, value in config.items() if key not in ("state", "caches")}
    with Gateway({**alone, "routes": [config["routes"][0]]}, tmp_path) as gateway:
        front = Front(gateway, tmp_path)
        url = f"{gateway.url()}/red"
        for how in ("--url", "--prefix"):
            httpx.get(url, trust_env=False)
            assert [front.purge(how, url).exit_code for _ in range(2)] == [0, 1]
        assert "fastgw: nothing was purged" in front.purge("--all").stderr


@pytest.mark.landing
def test_the_command_purges_too(front: Front) -> None:
    front.ask("/blue")
    told = front.purge("--tag", "blue", "--tag", "none")
    assert (told.exit_code, told.stdout.startswith("purged: ")) == (0, True)
    assert not front.is_stored("/blue")
    assert json.loads(front.purge("--all", "--soft", "--format", "json").stdout)["objects"] >= 1
    assert front.purge("--url", "/red").exit_code == 2
    told = front.purge()
    assert (told.exit_code, "--url, --prefix, --tag and --all" in told.stderr) == (2, True)
    assert front.purge("--all", "--store", "missing").exit_code == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"url": "/red"}, 400),
        ({"all": True, "url": "http://a.test/"}, 400),
        ({"tags": "red"}, 400),
        ({"every": True}, 400),
        ({"all": True, "store": "missing"}, 404),
    ],
)
def test_what_is_no_purge_is_refused(front: Front, body: Any, status: int) -> None:
    assert front.post(body).status_code == status


@pytest.mark.landing
def test_nodes_share_responses_in_redis(nodes: tuple[Front, Front]) -> None:
    """What one node has fetched, the other one has; after a purge neither has it."""
    one, two = nodes
    wait_until(lambda: one.post({"tags": ["none"]}).json()["reach"] == "shared", "Redis", 60.0)

    def is_shared(target: str) -> bool:
        body = one.ask(target).body
        return two.ask(target).body == body

    numbers = itertools.count()
    wait_until(lambda: is_shared(f"/shared/{next(numbers)}"), "both nodes to have connected to Redis", 60.0)
    one.ask("/shared/last")
    before = two.ask("/shared/last").body
    assert one.post({"url": "http://a.test/shared/last", "store": "shared"}).status_code == 200
    wait_until(lambda: two.ask("/shared/last").body != before, "the purge to reach the other node", 60.0)
    assert one.ask("/shared/last").body != before


def test_a_purge_outlives_a_killed_redis_and_a_killed_control_process(
    nodes: tuple[Front, Front], redis: RedisServer
) -> None:
    """The response says that it has reached this node alone; the other one follows when Redis is back."""
    one, two = nodes
    wait_until(lambda: two.is_stored("/killed"), "earlier purges to have passed", 60.0)
    redis.stop()
    wait_until(lambda: one.post({"url": "http://a.test/killed"}).json()["reach"] == "away", "the outage", 60.0)
    one.kill_control()
    assert two.is_stored("/killed")
    redis.start()
    wait_until(lambda: not two.is_stored("/killed"), "the purge to reach the other node", 60.0)


def test_a_purge_outlives_a_gateway_that_is_killed_in_an_outage_of_redis(
    nodes: tuple[Front, Front], redis: RedisServer, config: dict[str, Any], tmp_path: Path
) -> None:
    """The next gateway with this state directory announces it."""
    state = tmp_path / "state"
    state.mkdir()
    config, environment = {**config, "workers": 1}, {"STATE_DIRECTORY": str(state)}
    other = nodes[1]
    third = Gateway(config, tmp_path, environment=environment)
    try:
        wait_until(lambda: other.is_stored("/outage"), "earlier purges to have passed", 60.0)
        redis.stop()
        answer = Front(third, tmp_path).post({"url": "http://a.test/outage"}).json()
        assert (answer["reach"], (state / "purges").exists()) == ("away", True)
    finally:
        third.kill()
    assert other.is_stored("/outage")
    with Gateway(config, tmp_path, environment=environment):
        redis.start()
        wait_until(lambda: not other.is_stored("/outage"), "the purge to reach the other node", 60.0)
        wait_until(lambda: not (state / "purges").exists(), "the file to be removed", 60.0)
