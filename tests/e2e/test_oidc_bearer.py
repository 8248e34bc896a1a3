"""Access tokens of a real OpenID provider: as oidc, jwt and introspection judge them, while its keys change, and while
it is away."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from fastgw.filters.authentication.jwks import REST_S
from fastgw.filters.outbound.refresh_throttle import AGAIN_S
from tests.e2e.programs import Uvicorn
from tests.e2e.test_oidc import CLIENT_SECRET, SESSION_SECRET, fields, upstream
from tests.support.gateway import Gateway, wait_until
from tests.support.provider import SERVICE, Provider
from tests.support.tokens import signer
from tests.support.visitor import Answer, Visitor
from tests.unit.jose.test_tokens import HOSTILE

SOON = 3 * AGAIN_S  # the provider is asked so seldom once it was asked often
API, OTHER = "https://api.test/", "https://other.test/"
BY_KEYS, BY_ASKING = ("oidc", "jwt", "both"), ("introspection",)


class World(NamedTuple):
    provider: Provider
    gateway: Gateway

    def ask(self, way: str, token: str | None, **more: str) -> Answer:
        if token is not None:
            more["Authorization"] = f"Bearer {token}"
        return Visitor().ask(f"{self.gateway.url()}/{way}", Accept="*/*", **more)

    def statuses(self, token: str, ways: tuple[str, ...] = BY_KEYS) -> dict[str, int]:
        return {way: self.ask(way, token).status for way in ways}


def all_of(status: int, ways: tuple[str, ...] = BY_KEYS) -> dict[str, int]:
    return dict.fromkeys(ways, status)


def configuration(provider: Provider, service: str) -> dict[str, Any]:
    client = {"client_id": SERVICE["client_id"], "client_secret": SERVICE["client_secret"]}
    wanted = {"audiences": [API], "scopes": ["read"]}
    login = {"client_id": "web", "client_secret": CLIENT_SECRET, "session": {"secret": SESSION_SECRET}}
    shown = {"claims_to_headers": {"sub": "X-User"}}
    policies: dict[str, Any] = {
        "oidc": {"oidc": {"issuer": provider.issuer, "bearer": wanted, **shown}},
        "both": {"oidc": {"issuer": provider.issuer, "bearer": wanted, "login": login, **shown}},
        "jwt": {
            "jwt": {
                "issuer": provider.issuer,
                "jwks_uri": f"{provider.issuer}/jwks",
                "algorithms": ["RS256"],
                **wanted,
                **shown,
            }
        },
        "introspection": {
            "introspection": {
                "url": f"{provider.issuer}/token/introspection",
                **client,
                "scopes": ["read"],
                "consumer_claim": "client_id",
                "cache": {"ttl": "10m"},
            }
        },
    }
    return {
        "workers": 2,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "routes": [
            {"name": name, "paths": [f"/{name}"], "upstream": service, "filters": filters}
            for name, filters in policies.items()
        ],
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        Uvicorn(upstream) as service,
        Provider(tmp_path_factory.mktemp("provider"), {"AccessToken": 600, "ClientCredentials": 600}) as provider,
        Gateway(configuration(provider, service.url), tmp_path_factory.mktemp("gateway")) as gateway,
    ):
        yield World(provider, gateway)


def test_who_has_a_token_passes(world: World) -> None:
    token = world.provider.token(API)
    assert world.statuses(token) == all_of(200)
    answer = world.ask("oidc", token, X_User="root")
    assert fields(answer, "x-user") == ["service"]
    assert fields(answer, "authorization") == [f"Bearer {token}"]
    assert world.statuses(world.provider.token(), BY_ASKING) == all_of(200, BY_ASKING)


def test_who_has_none_is_told_what_is_wanted(world: World) -> None:
    for way in ("oidc", "jwt", "introspection"):
        answer = world.ask(way, None)
        assert answer.status == 401
        assert answer.told["type"] == "urn:fastgw:fault:credentials_missing"
        assert answer.fields["WWW-Authenticate"].startswith("Bearer ")
        assert "error" not in answer.fields["WWW-Authenticate"]  # RFC 6750 section 3.1
    challenges = world.ask("both", None).fields.get_all("WWW-Authenticate") or []
    assert [each.split()[0] for each in challenges] == ["Bearer", "Cookie"]


def test_a_browser_may_log_in_where_a_client_may_show_a_token(world: World) -> None:
    url = f"{world.gateway.url()}/both"
    assert Visitor().ask(url).status == 302
    assert Visitor().ask(url, Authorization="Bearer nonsense").status == 401  # whatever it is: it has shown a token
    assert Visitor().ask(url, Authorization=f"Bearer {world.provider.token(API)}").status == 200


def test_a_token_for_somebody_else_is_refused(world: World) -> None:
    assert world.statuses(world.provider.token(OTHER)) == all_of(401)
    assert world.statuses(world.provider.token()) == all_of(401)
    answer = world.ask("oidc", world.provider.token(OTHER))
    assert 'error="invalid_token"' in answer.fields["WWW-Authenticate"]


def test_a_token_that_lacks_a_scope_is_not_enough(world: World) -> None:
    assert world.statuses(world.provider.token(API, scope="write")) == all_of(403)
    answer = world.ask("oidc", world.provider.token(API, scope="write"))
    assert 'error="insufficient_scope"' in answer.fields["WWW-Authenticate"]
    assert world.ask("introspection", world.provider.token(scope="write")).status == 403


def test_a_token_that_is_shown_twice_is_refused(world: World) -> None:
    """Two readers could choose differently. (`http.client` sends one field; so this one is a list.)"""
    token = world.provider.token(API)
    assert world.statuses(f"{token}, Bearer {token}", (*BY_KEYS, *BY_ASKING)) == all_of(401, (*BY_KEYS, *BY_ASKING))


def test_a_token_that_was_revoked_is_refused(world: World) -> None:
    token = world.provider.token()
    world.provider.revoke(token)
    assert world.ask("introspection", token).status == 401


def test_no_good_token_is_refused_while_keys_change(world: World) -> None:
    """Requests run through two changes of the keys, each with the newest token. A worker asks once in `REST_S`."""
    tokens = [world.provider.token(API)]
    refused: list[dict[str, int]] = []
    passed = 0
    over = threading.Event()

    def work() -> None:
        nonlocal passed
        while not over.is_set():
            statuses = world.statuses(tokens[-1], ("oidc", "jwt"))
            passed += 1
            if statuses != all_of(200, ("oidc", "jwt")):
                refused.append(statuses)

    def run_for(seconds: float) -> None:
        until, enough = time.monotonic() + seconds, passed + 8
        wait_until(lambda: time.monotonic() > until and passed > enough, "requests to run", SOON)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            run_for(1.5 * REST_S)
            world.provider.rotate_keys(keep_old=True)
            tokens.append(world.provider.token(API))
        run_for(1.5 * REST_S)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert refused == []
    assert world.statuses(tokens[0]) == all_of(200)


def test_a_key_that_is_withdrawn_takes_its_tokens_with_it(world: World) -> None:
    old = world.provider.token(API)
    assert world.statuses(old) == all_of(200)
    world.provider.rotate_keys(keep_old=False)
    new = world.provider.token(API)
    wait_until(lambda: world.statuses(new) == all_of(200), "the workers to ask again, which they just have", SOON)
    wait_until(lambda: world.statuses(old) == all_of(401), "both workers to hear of it", SOON)


def test_while_the_provider_is_away_who_is_good_passes(world: World) -> None:
    """Known or not yet seen, also on a worker that is born meanwhile; unknown keys and opaque tokens do not."""
    known, unseen = world.provider.token(API), world.provider.token(API)
    opaque, unseen_opaque = world.provider.token(), world.provider.token()
    assert world.statuses(known) == all_of(200)
    for _ in range(20):  # on both workers
        assert world.ask("introspection", opaque).status == 200
    stranger = signer("RS256", "stranger").token({"iss": world.provider.issuer, "aud": API, "scope": "read"}).decode()
    world.provider.stop()
    try:
        assert world.statuses(known) == all_of(200)
        assert world.statuses(unseen) == all_of(200)
        assert world.statuses(stranger) == all_of(401)
        assert world.ask("introspection", opaque).status == 200
        answer = world.ask("introspection", unseen_opaque)
        assert (answer.status, answer.told["type"]) == (503, "urn:fastgw:fault:auth_unavailable")
        oldest = world.gateway.worker_pids[0]
        os.kill(oldest, signal.SIGKILL)
        wait_until(
            lambda: len(world.gateway.worker_pids) == 2 and oldest not in world.gateway.worker_pids, "another worker"
        )
        for _ in range(20):
            assert world.statuses(known) == all_of(200)
    finally:
        world.provider.start()
    wait_until(lambda: world.ask("introspection", unseen_opaque).status == 200, "answers again")
    assert world.statuses(world.provider.token(API)) == all_of(200)


def test_no_hostile_token_passes(world: World) -> None:
    """Last here: those that name unknown keys use up how often the provider is asked for new ones."""
    for name, (token, _) in HOSTILE.items():
        text = token.decode("latin-1")
        if text.isprintable():  # `http.client` sends no others
            assert world.ask("oidc", text).status in (400, 401, 431), name
            assert world.ask("introspection", text).status in (400, 401, 431), name


def test_no_token_is_in_the_log(world: World) -> None:
    token, opaque = world.provider.token(API), world.provider.token()
    world.ask("oidc", token)
    world.ask("introspection", opaque)
    world.ask("oidc", token[:-4] + "AAAA")
    world.ask("jwt", None, X_Last="1", User_Agent="the last")
    world.gateway.wait_for_record(user_agent="the last")
    told = world.gateway.stdout.text() + world.gateway.stderr.text()
    for secret in (*token.split("."), opaque, SERVICE["client_secret"], CLIENT_SECRET, SESSION_SECRET):
        assert str(secret) not in told
