"""Revocation: what was good, and remembered as such, is refused on all workers and nodes, whatever happens to them."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.admin_calls import JSON, admin, is_served, read
from tests.e2e.test_reload import Reloadable
from tests.protocol.test_introspection import Server
from tests.support.gateway import Gateway, wait_until
from tests.support.provider import Provider
from tests.support.redis_server import PASSWORD, RedisServer
from tests.support.tokens import key_set, signer
from tests.support.visitor import Visitor

ISSUER = "https://idp.example"
KEY = signer("ES256", "one")
SECRET = "planted-secret-of-the-client"
OPAQUE = "an-opaque-token-that-is-planted"
LONG = 90.0


class World(NamedTuple):
    provider: Provider
    server: Server
    gateway: Reloadable

    def logged_in(self) -> Visitor:
        visitor = Visitor()
        assert visitor.follow(self.gateway.url("login"), "ann").status == 200
        return visitor


def settings(directory: Path, server: Server, provider: Provider, client_id: str = "web") -> dict[str, Any]:
    keys = directory / "keys.json"
    keys.write_bytes(key_set(KEY))
    jwt = {"issuer": ISSUER, "audiences": ["api"], "algorithms": ["ES256"], "jwks_file": str(keys), "leeway": "10s"}
    asked = {"url": f"{server.origin.url}/asked", "client_id": "gateway", "client_secret": SECRET}
    login = {
        "client_id": client_id,
        "client_secret": SECRET,
        "session": {"secret": f"{SECRET} of all sessions"},
        "backchannel_logout": "/oauth2/elsewhere",
    }
    filters = {
        "main": {"jwt": jwt},
        "opaque": {"introspection": asked},
        "login": {"oidc": {"issuer": provider.issuer, "login": login}},
    }
    return {
        "listeners": {name: {"address": "127.0.0.1:0"} for name in filters},
        "routes": [
            {"name": name, "listeners": [name], "respond": {"body": "in"}, "filters": each}
            for name, each in filters.items()
        ],
    }


def register(provider: Provider, client_id: str, *gateways: Gateway) -> None:
    provider.add_client(
        client_id,
        client_secret=SECRET,
        redirect_uris=[f"{gateway.url('login')}/oauth2/callback" for gateway in gateways],
        post_logout_redirect_uris=[f"{gateway.url('login')}/" for gateway in gateways],
        backchannel_logout_uri=f"{gateways[0].url('login')}/oauth2/elsewhere",
        backchannel_logout_session_required=True,
    )


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with Provider(tmp_path_factory.mktemp("provider")) as provider:
        yield provider


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.origin.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, provider: Provider, server: Server) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("gateway")
    with Reloadable(settings(directory, server, provider), directory) as gateway:
        register(provider, "web", gateway)
        yield World(provider, server, gateway)


def asked(gateway: Gateway, fields: bytes, listener: str = "main") -> int:
    with gateway.connect(listener) as client:
        return client.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n").status


def everywhere(gateway: Gateway, fields: bytes, listener: str = "main") -> set[int]:
    """What connections get that the kernel spreads over both workers."""
    return {asked(gateway, fields, listener) for _ in range(12)}


def is_refused(gateway: Gateway, fields: bytes, listener: str = "main") -> None:
    """Before long, and then everywhere."""
    wait_until(lambda: asked(gateway, fields, listener) == 401, "the refusal")
    wait_until(lambda: everywhere(gateway, fields, listener) == {401}, "the refusal on all workers")
    assert everywhere(gateway, fields, listener) == {401}


def bearer(token: bytes | str) -> bytes:
    return b"Authorization: Bearer %b\r\n" % (token if isinstance(token, bytes) else token.encode())


def token(**claims: Any) -> bytes:
    return KEY.token({"iss": ISSUER, "aud": "api", **claims})


def copied(gateway: Gateway, visitor: Visitor) -> bytes:
    """The cookies that somebody else has taken from a browser, who asks as a script does."""
    cookies = "; ".join(f"{name}={value}" for name, value in visitor.cookies[gateway.address("login")].items())
    return f"Cookie: {cookies}\r\n".encode()


def revoke(gateway: Reloadable, **what: Any) -> dict[str, Any]:
    told = admin(gateway, "POST /revocations", json.dumps(what), JSON)
    assert told.status == 200, told.body
    answer: dict[str, Any] = told.json
    return answer


def kill(gateway: Gateway, pid: int) -> None:
    """And wait for the one that takes its place."""
    before = set(gateway.child_pids)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(set(gateway.child_pids) - before) == 1 and pid not in gateway.child_pids, "another", LONG)


def test_who_logs_out_is_out_in_every_copy_of_the_cookie(world: World) -> None:
    gateway, visitor, other = world.gateway, world.logged_in(), world.logged_in()
    taken, others = copied(gateway, visitor), copied(gateway, other)
    assert everywhere(gateway, taken, "login") == {200}
    assert visitor.ask(gateway.url("login") + "/oauth2/logout").status == 303
    is_refused(gateway, taken, "login")
    assert everywhere(gateway, others, "login") == {200}
    recent = read(gateway, "/revocations")["recent"][0]
    assert (recent["kind"], recent["issuer"], recent["subject"]) == ("session", world.provider.issuer, "ann")


def test_who_logs_out_at_the_provider_is_out_here(world: World) -> None:
    """OpenID Connect Back-Channel Logout 1.0: the provider tells of it, and of this session alone."""
    gateway, visitor, other = world.gateway, world.logged_in(), world.logged_in()
    assert everywhere(gateway, copied(gateway, visitor), "login") == {200}
    page = visitor.ask(world.provider.issuer + "/session/end")
    token = re.search(r'name="xsrf" value="([^"]+)"', page.body.decode())
    assert token is not None
    visitor.ask(world.provider.issuer + "/session/end/confirm", form={"xsrf": token[1], "logout": "yes"})
    is_refused(gateway, copied(gateway, visitor), "login")
    assert everywhere(gateway, copied(gateway, other), "login") == {200}


def test_a_token_is_refused_although_it_is_remembered(world: World) -> None:
    gateway = world.gateway
    one, two = token(sub="ann", jti="1"), token(sub="ann", jti="2")
    for each in (one, two):
        assert everywhere(gateway, bearer(each)) == {200}
    assert revoke(gateway, issuer=ISSUER, jti="1")["reach"] == "node"
    is_refused(gateway, bearer(one))
    assert everywhere(gateway, bearer(two)) == {200}
    revoke(gateway, token=two.decode())
    is_refused(gateway, bearer(two))


def test_all_tokens_of_somebody_are_refused_but_for_those_that_are_issued_later(world: World) -> None:
    gateway, now = world.gateway, time.time()
    before, undated, bobs = token(sub="ann", iat=now - 60), token(sub="ann", iat=None), token(sub="bob", iat=now - 60)
    visitor = world.logged_in()
    for each in (before, undated, bobs):
        assert everywhere(gateway, bearer(each)) == {200}
    revoke(gateway, issuer=ISSUER, subject="ann")
    is_refused(gateway, bearer(before))
    is_refused(gateway, bearer(undated))
    assert everywhere(gateway, bearer(bobs)) == {200}
    assert everywhere(gateway, bearer(token(sub="ann", iat=time.time() + 2))) == {200}
    assert everywhere(gateway, copied(gateway, visitor), "login") == {200}  # of another issuer
    revoke(gateway, issuer=world.provider.issuer, subject="ann")
    is_refused(gateway, copied(gateway, visitor), "login")
    assert everywhere(gateway, copied(gateway, world.logged_in()), "login") == {200}


def test_an_opaque_token_is_refused_and_nowhere_told(world: World) -> None:
    gateway, server = world.gateway, world.server
    other = server.knows("another", iss=ISSUER, sub="carl", jti="of-another")
    shown = server.knows(OPAQUE, sub="carl", exp=time.time() + 600)
    for each in (shown, other):
        assert everywhere(gateway, each, "opaque") == {200}
    revoke(gateway, token=OPAQUE)
    is_refused(gateway, shown, "opaque")
    assert everywhere(gateway, other, "opaque") == {200}
    revoke(gateway, issuer=ISSUER, jti="of-another")
    is_refused(gateway, other, "opaque")
    told = admin(gateway, "GET /revocations").body
    assert OPAQUE.encode() not in told
    assert OPAQUE not in gateway.stderr.text()
    assert json.loads(told)["count"] >= 2


def test_deaths_reloads_and_an_upgrade_take_nothing_back(world: World) -> None:
    gateway, one, visitor = world.gateway, token(jti="kept"), world.logged_in()
    session = copied(gateway, visitor)
    assert everywhere(gateway, bearer(one)) == {200}
    assert everywhere(gateway, session, "login") == {200}
    revoke(gateway, issuer=ISSUER, jti="kept")
    visitor.ask(gateway.url("login") + "/oauth2/logout")
    is_refused(gateway, bearer(one))
    is_refused(gateway, session, "login")
    count = read(gateway, "/revocations")["count"]
    for pid in gateway.worker_pids[:1]:
        kill(gateway, pid)
    kill(gateway, gateway.control_pid)
    wait_until(lambda: is_served(gateway), "control", LONG)
    assert everywhere(gateway, bearer(one)) == everywhere(gateway, session, "login") == {401}
    told = read(gateway, "/revocations")
    assert told["count"] == count
    assert {each["jti"] for each in told["recent"]} >= {"kept"}
    gateway.change(limits={"header_count": 99})
    gateway.reload()
    assert everywhere(gateway, bearer(one)) == everywhere(gateway, session, "login") == {401}
    before = set(gateway.worker_pids)
    gateway.signal(signal.SIGUSR2)
    gateway.stderr.wait_for(lambda line: b"all 2 workers are new" in line, LONG)
    wait_until(lambda: not before & set(gateway.worker_pids), "the end of the old workers", LONG)
    assert everywhere(gateway, bearer(one)) == everywhere(gateway, session, "login") == {401}
    wait_until(lambda: is_served(gateway), "control", LONG)
    assert read(gateway, "/revocations")["count"] == count


def test_nodes_share_what_is_revoked_and_catch_up_when_redis_was_away(
    tmp_path: Path, provider: Provider, server: Server
) -> None:
    with RedisServer(tmp_path) as redis:
        shared = {**settings(tmp_path, server, provider, "nodes"), "state": {"url": redis.url}}
        (tmp_path / "other").mkdir()
        with Reloadable(shared, tmp_path) as one, Reloadable(shared, tmp_path / "other") as two:
            register(provider, "nodes", one, two)
            for gateway in (one, two):
                wait_until(lambda: read(gateway, "/revocations")["reach"] == "shared", "Redis")  # noqa: B023 (at once)
            visitor = Visitor()
            assert visitor.follow(one.url("login"), "ann").status == 200
            session, first, second = copied(one, visitor), token(jti="first"), token(jti="second")
            for gateway in (one, two):
                assert everywhere(gateway, session, "login") == everywhere(gateway, bearer(first)) == {200}
                assert everywhere(gateway, bearer(second)) == {200}
            assert revoke(one, issuer=ISSUER, jti="first")["reach"] == "shared"
            visitor.ask(one.url("login") + "/oauth2/logout")
            is_refused(two, bearer(first))
            is_refused(two, session, "login")
            assert {each["jti"] for each in read(two, "/revocations")["recent"]} >= {"first"}
            redis.stop()
            for gateway in (one, two):
                gateway.stderr.wait_for(lambda line: b"is unreachable: " in line)
                wait_until(lambda: read(gateway, "/revocations")["reach"] == "away", "control")  # noqa: B023 (at once)
            assert revoke(one, issuer=ISSUER, jti="second")["reach"] == "away"
            is_refused(one, bearer(second))
            assert everywhere(two, bearer(second)) == {200}
            assert everywhere(two, bearer(first)) == {401}
            redis.start()  # it has forgotten everything
            is_refused(two, bearer(second))
            kill(two, two.control_pid)
            third = token(jti="third")
            assert everywhere(one, bearer(third)) == {200}
            wait_until(lambda: is_served(two), "control", LONG)
            revoke(two, issuer=ISSUER, jti="third")
            is_refused(one, bearer(third))
            for gateway in (one, two):
                text = gateway.stderr.text()
                assert re.findall(
                    r"revocations: the Redis at 127\.0\.0\.1:\d+ is reachable again; the lists are merged", text
                )
                assert PASSWORD not in text
                assert PASSWORD.replace(" ", "%20") not in text
