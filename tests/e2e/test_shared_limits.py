"""Limits of several gateways in a real Redis: exact under load, and no request fails whatever becomes of Redis."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.gateway import Gateway, wait_until
from tests.support.peer import DEADLINE
from tests.support.redis_server import RedisServer

YEAR = "8760h"  # so that nothing comes back during a test
ALGORITHMS = ("token_bucket", "fixed_window", "sliding_window")
LIMIT = 60
STEPS = ("cart", "pay")
CLIENTS = 8  # of each gateway
EACH = 10  # requests of each of these


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def limited(name: str, **settings: Any) -> dict[str, Any]:
    terms = {"limit": LIMIT, "window": YEAR, "key": "host", **settings}
    return {"name": name, "paths": [f"/{name}"], "respond": {"body": "ok"}, "filters": {"rate_limit": terms}}


def called(name: str) -> dict[str, Any]:
    """Return a route of a sequence."""
    steps = {"routes": [*STEPS], "within": YEAR, "key": "host"}
    return {"name": name, "paths": [f"/{name}"], "respond": {}, "filters": {"sequence": steps}}


def config(redis: RedisServer, when_away: str, timeout: str) -> dict[str, Any]:
    """With a limit before routing that is the node's alone, and never reached."""
    return {
        "workers": 2,
        "listeners": {
            "main": {"address": "127.0.0.1:0"},
            "early": {
                "address": "127.0.0.1:0",
                "filters": {"early": {"type": "rate_limit", "limit": 3, "window": YEAR, "scope": "shared"}},
            },
        },
        "status": {"address": "127.0.0.1:0"},
        "state": {"url": redis.url, "when_away": when_away, "timeout": timeout},
        "filters": {"flood": {"type": "rate_limit", "limit": 1_000_000, "window": YEAR, "headers": "none"}},
        "routes": [
            *(limited(name, algorithm=name) for name in ALGORITHMS),
            limited("own", scope="node"),
            limited("many", limit=1_000_000),
            {
                **limited("pair", limit=4),
                "filters": {
                    "wide": {"type": "rate_limit", "limit": 4, "window": YEAR, "key": "host"},
                    "narrow": {"type": "rate_limit", "limit": 1, "window": YEAR, "key": "header:x-key"},
                },
            },
            *(called(name) for name in STEPS),
        ],
        "access_logs": [],
    }


def ask(client: Client, path: str) -> int:
    return client.exchange(f"GET /{path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode()).status


def load(gateways: list[Gateway], path: str) -> Counter[int]:
    """So many requests at a time, on connections of their own."""
    counts: Counter[int] = Counter()

    def play(gateway: Gateway) -> None:
        with gateway.connect() as client:
            statuses = [ask(client, path) for _ in range(EACH)]
        with lock:
            counts.update(statuses)

    lock = threading.Lock()
    threads = [threading.Thread(target=play, args=(gateway,)) for gateway in gateways for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert counts.total() == len(threads) * EACH
    return counts


def away(gateway: Gateway) -> int:
    """How many requests were decided on without Redis."""
    return told(gateway, rb'fastgw_filter_away_total\{filter="rate_limit"\}')


def told(gateway: Gateway, series: bytes) -> int:
    with Client(gateway.ready["status"]) as client:
        answer = client.exchange(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    found = re.search(rb"(?m)^%b (\d+)" % series, answer.body)
    assert found, answer.body
    return int(found[1])


@pytest.mark.landing
def test_two_gateways_admit_exactly_one_limit(redis: RedisServer, tmp_path: Path) -> None:
    redis.ask("FLUSHALL")
    with ExitStack() as running:
        gateways = []
        for name in "ab":
            (tmp_path / name).mkdir()
            gateways.append(running.enter_context(Gateway(config(redis, "refuse", "30s"), tmp_path / name)))
        many = len(gateways) * CLIENTS * EACH
        for algorithm in ALGORITHMS:
            assert load(gateways, algorithm) == {200: LIMIT, 429: many - LIMIT}
        assert load(gateways, "own") == {200: 2 * LIMIT, 429: many - 2 * LIMIT}
        assert [away(gateway) for gateway in gateways] == [0, 0]
        assert len(redis.names()) == len(ALGORITHMS)
        with ExitStack() as clients:
            one, other = (clients.enter_context(gateway.connect()) for gateway in gateways)
            assert [ask(one, "pay"), ask(other, "pay"), ask(one, "cart")] == [403, 403, 200]
            wait_until(lambda: ask(other, "pay") == 200, "the other gateway to know the call")
        connections = redis.ask("CLIENT", "LIST").count(b"user=") - 1  # but for who asks
        assert connections <= 2 * (2 + 2)  # of each worker, and of each control: for revocations, and for purges


@pytest.mark.landing
def test_what_one_limit_refuses_costs_the_others_nothing_and_limits_before_routing_may_be_shared(
    redis: RedisServer, tmp_path: Path
) -> None:
    redis.ask("FLUSHALL")
    with Gateway(config(redis, "refuse", "30s"), tmp_path) as gateway:

        def asks(client: Client, path: str, key: int) -> tuple[int, list[bytes]]:
            answer = client.exchange(f"GET /{path} HTTP/1.1\r\nHost: a.test\r\nX-Key: {key}\r\n\r\n".encode())
            return answer.status, re.findall(rb"(?im)^ratelimit: (.*?);t", answer.head.raw)

        with gateway.connect() as client:
            told = [asks(client, "pair", key) for key in (1, 1, 1, 1, 2, 3, 4, 5)]
        assert [status for status, _ in told] == [200, 429, 429, 429, 200, 200, 200, 429]
        assert told[0][1] == told[1][1] == [b'"narrow";r=0']
        assert told[-1][1] == [b'"wide";r=0']
        with gateway.connect("early") as client:
            assert [asks(client, "many", 0)[0] for _ in range(5)] == [200] * 3 + [429] * 2


class Asking:
    """Clients that never stop asking, and what they were answered."""

    def __init__(self, gateway: Gateway, number: int = 4) -> None:
        self.statuses: Counter[int] = Counter()
        self._is_over = False
        self._gateway = gateway
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._play) for _ in range(number)]

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()

    def more(self, count: int = 100) -> None:
        """Wait for so many answers."""
        until = self.statuses.total() + count
        wait_until(lambda: self.statuses.total() >= until, "answers")

    def _play(self) -> None:
        while not self._is_over:
            with self._gateway.connect() as client:  # on either worker
                for _ in range(5):
                    status = ask(client, "many")
                    with self._lock:
                        self.statuses[status] += 1


@pytest.mark.parametrize("when_away", ["local", "refuse"])
def test_redis_stops_is_paused_and_comes_back_empty_under_load(
    redis: RedisServer, tmp_path: Path, when_away: str
) -> None:
    """Nobody's connection breaks and nobody is answered anything else; what goes by Redis does so again by itself."""
    with Gateway(config(redis, when_away, "300ms"), tmp_path) as gateway, Asking(gateway) as asking:
        asking.more()

        def goes_without() -> bool:
            before, count = away(gateway), asking.statuses.total()
            asking.more()
            return away(gateway) - before >= (asking.statuses.total() - count) // 2 > 0

        def goes_by_redis() -> bool:
            before = away(gateway)
            asking.more()
            return away(gateway) == before

        wait_until(goes_by_redis, "Redis to be asked")
        for trouble in ("stopped", "paused"):
            if trouble == "stopped":
                redis.stop()
            else:
                os.kill(redis.pid, signal.SIGSTOP)
            try:
                wait_until(goes_without, f"Redis to be known as away ({trouble})")
                wait_until(lambda: told(gateway, b"fastgw_state_up") == 0, f"that to be told ({trouble})")
            finally:
                if trouble == "stopped":
                    redis.start()
                else:
                    os.kill(redis.pid, signal.SIGCONT)
            wait_until(goes_by_redis, f"Redis to be asked again ({trouble})")
            wait_until(lambda: told(gateway, b"fastgw_state_up") == 1, f"that to be told again ({trouble})")
        assert any(b":limit:" in name for name in redis.names())
        # It is told once it has stayed for a while.
        gateway.stderr.wait_for(lambda line: b"limits: the Redis" in line and b"is reachable again" in line)
    if when_away == "local":
        assert set(asking.statuses) == {200}
    else:
        assert set(asking.statuses) == {200, 503}
    lines = [line for line in gateway.stderr.text().split("\n") if "limits: the Redis" in line]
    again = sum("is reachable again" in line for line in lines)
    assert again > 0
    assert len(lines) - again <= again + 2  # one of each in turn, in each worker
