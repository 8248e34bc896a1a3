"""A Redis of `state` that cannot be used: who starts with it is told, and who runs without it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import admin, post
from tests.support.client import Client
from tests.support.forked import FASTGW, ran
from tests.support.gateway import Gateway, wait_until, write_config
from tests.support.redis_server import RedisServer

REFUSED = "it is a node of a Redis Cluster, which is not supported"
ALONE = "limits count on each gateway on its own until it is reachable again"


def config(url: str, **state: str) -> dict[str, Any]:
    return {
        "version": 1,
        "workers": 2,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "status": {"address": "127.0.0.1:0"},
        "admin": {"address": "127.0.0.1:0"},
        "state": {"url": url, "timeout": "5s", **state},
        "routes": [{"name": "a", "respond": {}, "filters": {"rate_limit": {"limit": 2, "window": "1h"}}}],
        "access_logs": [],
    }


def readiness(gateway: Gateway) -> tuple[int, list[str]]:
    with Client(gateway.ready["status"]) as client:
        answer = client.exchange(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
    return answer.status, answer.body.decode().splitlines()


@pytest.mark.landing
def test_a_start_and_a_reload_with_a_cluster_are_refused_at_the_url(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", is_cluster=True) as redis:
        ended = ran([FASTGW, "run", str(write_config(config(redis.url), tmp_path))])
        assert ended.returncode == 3
        assert f"state.url: {REFUSED}" in ended.stderr
        assert "expected the URL of a Redis without `cluster-enabled`" in ended.stderr
        assert "the secret" not in ended.stderr
        settings = config(redis.url)
        state = settings.pop("state")
        with Gateway(settings, tmp_path) as gateway:
            told = post(gateway, {**settings, "state": state})
            assert told.status == 422
            assert REFUSED in told.json["problems"][0]["wrong"]


@pytest.mark.landing
@pytest.mark.parametrize(
    ("when_away", "effect", "statuses"),
    [
        ("local", ALONE, [200, 200, 429]),
        ("refuse", "requests whose limits need it are answered 503 until it is reachable again", [503] * 3),
    ],
)
def test_one_that_has_become_a_cluster_counts_as_away_and_is_shown_until_it_is_none(
    tmp_path: Path, when_away: str, effect: str, statuses: list[int]
) -> None:
    (tmp_path / "redis").mkdir()
    with (
        RedisServer(tmp_path / "redis") as redis,
        Gateway(config(redis.url, when_away=when_away), tmp_path) as gateway,
        gateway.connect() as client,
    ):

        def shown() -> Any:
            return admin(gateway, "GET /status").json["shared_state"]

        def asked() -> list[int]:
            return [client.exchange(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").status for _ in range(3)]

        server = f"127.0.0.1:{redis.port}"
        usable = {"server": server, "is_up": True, "reason": "", "effect": ""}
        wait_until(lambda: shown() == usable, "Redis to be used")
        assert (readiness(gateway), asked()) == ((200, ["ready"]), [200, 200, 429])
        redis.stop()
        redis.is_cluster = True
        redis.start()
        wait_until(lambda: shown()["reason"].startswith(REFUSED), "the reason")
        wait_until(lambda: gateway.sum_of("fastgw_state_up") == 0, "the workers to see it")
        line = f"the Redis of `state` at {server} is unreachable: {shown()['reason']}; {effect}"
        assert (shown()["is_up"], shown()["effect"]) == (False, effect)
        assert readiness(gateway) == (200, ["ready", line])
        where = ["--admin", gateway.ready["admin"], "--token-file", gateway.ready["token_file"]]
        assert line in " ".join(ran([FASTGW, "status", *where]).stdout.split())
        assert asked() == statuses
        redis.stop()
        redis.is_cluster = False
        redis.start()
        wait_until(lambda: shown() == usable, "Redis to be used again")
        wait_until(lambda: gateway.sum_of("fastgw_state_up") == 1, "the workers to use it again")
        assert (readiness(gateway), asked()) == ((200, ["ready"]), [200, 200, 429])
