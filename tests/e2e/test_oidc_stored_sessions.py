"""Sessions that are too large for cookies: two nodes keep them in one Redis."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.test_oidc_lies import OURS, SCRIPT, World, policy, tokens
from tests.support.gateway import Gateway, wait_until
from tests.support.liar import Liar
from tests.support.redis_server import RedisServer
from tests.support.tokens import key_set
from tests.support.visitor import Answer, Visitor

LARGE = "planted-claim " * 2_000
BACK_CHANNEL = "http://schemas.openid.net/event/backchannel-logout"


class Nodes(NamedTuple):
    one: World
    other: World
    redis: RedisServer

    def records(self) -> list[bytes]:
        """Return the names of the stored sessions."""
        return [name for name in self.redis.names() if b":session:" in name and b":of:" not in name]

    def login(self, visitor: Visitor, name: str = "plain", filling: str = LARGE, **more: Any) -> Answer:
        callback, claims = self.one.begun(visitor, name)
        self.one.says(tokens(OURS.token(claims | {"filling": filling, "sid": "s-1"}), **more), name=name)
        return visitor.ask(callback)

    def statuses(self, visitor: Visitor, name: str = "plain") -> tuple[int, int]:
        """Return the statuses of a page on both nodes."""
        cookies = visitor.cookies[self.one.gateway.address()]
        visitor.cookies[self.other.gateway.address()] = cookies  # a load balancer stands before them
        return visitor.ask(self.one.url(name), **SCRIPT).status, visitor.ask(self.other.url(name), **SCRIPT).status

    @contextmanager
    def without_redis(self) -> Iterator[None]:
        """It answers nothing, but forgets nothing."""
        os.kill(self.redis.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.redis.pid, signal.SIGCONT)


@contextmanager
def nodes_with(tmp_path_factory: pytest.TempPathFactory, timeout: str) -> Iterator[Nodes]:
    """Run two nodes that wait for Redis as long as `timeout`."""
    with Liar() as liar, RedisServer(tmp_path_factory.mktemp("redis")) as redis:
        names: dict[str, dict[str, Any]] = {
            "plain": {"backchannel_logout": "/plain/ended"},
            "short": {"session": {"secret": "s" * 32, "cookie": "session_short", "idle": "4s"}},
            "fresh": {},
        }
        policies = {name: policy(liar.describes(name, key_set(OURS)), name, **more) for name, more in names.items()}
        settings = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "state": {"url": redis.url, "timeout": timeout},
            "routes": [
                {"name": name, "paths": [f"/{name}/*"], "respond": {"body": "in"}, "filters": {"oidc": each}}
                for name, each in policies.items()
            ],
        }
        with (
            Gateway(settings, tmp_path_factory.mktemp("one")) as one,
            Gateway(settings, tmp_path_factory.mktemp("other")) as other,
        ):
            yield Nodes(World(liar, one, liar, Path()), World(liar, other, liar, Path()), redis)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes_with(tmp_path_factory, "1s") as nodes:
        yield nodes


@pytest.fixture(autouse=True)
def nothing_stored(nodes: Nodes) -> None:
    for record in nodes.records():
        nodes.redis.ask("DEL", record)


@pytest.mark.landing
def test_a_session_that_fits_no_cookie_is_stored_for_all_nodes(nodes: Nodes) -> None:
    visitor = Visitor()
    arrived = nodes.login(visitor)
    assert arrived.status == 303
    [kept] = [line for line in arrived.cookies if "Max-Age=0" not in line]
    assert len(kept) < 400
    assert nodes.statuses(visitor) == (200, 200)
    [record] = nodes.records()
    stored = nodes.redis.ask("GET", record)
    assert len(stored) > len(LARGE)
    assert b"planted" not in stored
    assert OURS.token({})[:20] not in stored
    assert 0 < int(nodes.redis.ask("PTTL", record)[1:]) <= 8 * 3600 * 1000
    forged = Visitor()
    forged.cookies[nodes.one.gateway.address()] = {"session_plain": "1~" + record.decode().rpartition(":")[2]}
    assert nodes.statuses(forged) == (401, 401)
    assert visitor.ask(f"{nodes.one.url()}/logout").status == 303
    wait_until(lambda: not nodes.records(), "the end of the stored session")


@pytest.mark.landing
def test_while_redis_is_away_nobody_is_logged_out(nodes: Nodes) -> None:
    """Sessions in cookies go on and begin; those that are stored are answered 503 where they are not cached."""
    small, large, late = Visitor(), Visitor(), Visitor()
    assert nodes.login(large).status == 303
    assert large.ask(nodes.one.url(), **SCRIPT).status == 200
    with nodes.without_redis():
        assert nodes.login(small, filling="").status == 303
        assert nodes.statuses(small) == (200, 200)
        assert nodes.statuses(large) == (200, 503)
        arrived = large.ask(nodes.other.url())
        assert arrived.told["type"] == "urn:fastgw:fault:sessions_unavailable"
        assert not arrived.cookies
        assert nodes.login(late).told["type"] == "urn:fastgw:fault:sessions_unavailable"
    wait_until(lambda: nodes.statuses(large) == (200, 200), "the other node to use Redis again")
    wait_until(lambda: nodes.login(late).status == 303, "the first node to use Redis again")


def test_a_back_channel_logout_deletes_what_is_stored(nodes: Nodes) -> None:
    visitor = Visitor()
    assert nodes.login(visitor).status == 303
    assert nodes.statuses(visitor) == (200, 200)
    now = int(time.time())
    claims = {"iss": f"{nodes.one.liar.url}/plain", "aud": "web", "iat": now, "exp": now + 60, "jti": "j-1"}
    claims |= {"sid": "s-1", "events": {BACK_CHANNEL: {}}}
    token = OURS.token(claims, {"typ": "logout+jwt"}).decode()
    assert visitor.ask(f"{nodes.other.url()}/ended", form={"logout_token": token}).status == 200
    wait_until(lambda: not nodes.records(), "the end of the stored session")
    wait_until(lambda: nodes.statuses(visitor) == (401, 401), "the end of the session on both nodes")


def test_use_renews_the_ticket_alone(nodes: Nodes) -> None:
    visitor = Visitor()
    assert nodes.login(visitor, "short").status == 303
    [record] = nodes.records()
    wait_until(lambda: bool(visitor.ask(nodes.one.url("short"), **SCRIPT).cookies), "a cookie with a newer date")
    assert nodes.statuses(visitor, "short") == (200, 200)
    assert nodes.records() == [record]


def test_a_refreshed_session_is_stored_anew(nodes: Nodes) -> None:
    visitor = Visitor()
    assert nodes.login(visitor, "fresh", expires_in=1, refresh_token="first").status == 303
    [former] = nodes.records()
    wait_until(lambda: bool(visitor.ask(nodes.one.url("fresh"), **SCRIPT).cookies), "a refresh")
    assert nodes.statuses(visitor, "fresh") == (200, 200)
    records = nodes.records()
    assert former in records
    assert len(records) == 2
    assert int(nodes.redis.ask("PTTL", former)[1:]) <= 120_000


def test_requests_do_not_wait_until_another_one_has_stored_the_refreshed_session(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A page asks for much at once: one request refreshes and stores the session, the others go on with it."""
    with nodes_with(tmp_path_factory, "30s") as nodes, ThreadPoolExecutor(1) as pool:
        visitor, other = Visitor(), Visitor()
        assert nodes.login(visitor, "fresh", expires_in=1, refresh_token="at once").status == 303
        other.cookies = deepcopy(visitor.cookies)
        assert visitor.ask(nodes.one.url("fresh"), **SCRIPT).status == 200
        nodes.one.liar.asked.clear()

        def asks_until_refreshed() -> list[str]:
            while True:
                answer = visitor.ask(nodes.one.url("fresh"), **SCRIPT)
                if nodes.one.asked("fresh"):
                    return answer.cookies

        with nodes.without_redis():
            refreshing = pool.submit(asks_until_refreshed)
            wait_until(lambda: bool(nodes.one.asked("fresh")), "a refresh")
            for _ in range(50):
                assert other.ask(nodes.one.url("fresh"), **SCRIPT).status == 200
            assert not refreshing.done()
        assert refreshing.result()
        assert len(nodes.records()) == 2


def test_a_session_that_is_refreshed_while_redis_is_away_is_stored_later(nodes: Nodes) -> None:
    visitor = Visitor()
    assert nodes.login(visitor, "fresh", expires_in=1, refresh_token="while away").status == 303
    assert visitor.ask(nodes.one.url("fresh"), **SCRIPT).status == 200
    nodes.one.liar.asked.clear()
    seen: list[Answer] = []

    def asks_until(fact: Callable[[], bool]) -> bool:
        seen.append(visitor.ask(nodes.one.url("fresh"), **SCRIPT))
        return fact()

    with nodes.without_redis():
        wait_until(lambda: asks_until(lambda: bool(nodes.one.asked("fresh"))), "a refresh")
    assert not any(answer.cookies for answer in seen)
    wait_until(lambda: asks_until(lambda: bool(seen[-1].cookies)), "the refreshed session to be stored")
    assert {answer.status for answer in seen} == {200}
    assert nodes.statuses(visitor, "fresh") == (200, 200)
