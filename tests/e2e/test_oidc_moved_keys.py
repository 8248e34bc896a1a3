"""Keys of an OpenID provider that moves them: its metadata names another URL together with new keys."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastgw.filters.outbound.refresh_throttle import BURST
from tests.support.gateway import Gateway, wait_until
from tests.support.liar import Liar
from tests.support.tokens import key_set, signer
from tests.support.visitor import Visitor

OLD, NEW, STRANGER = (signer("RS256", name) for name in ("old", "new", "stranger"))
METADATA, KEYS, MOVED = "/idp/.well-known/openid-configuration", "/idp/keys", "/idp/moved"


class World(NamedTuple):
    provider: Liar
    gateway: Gateway

    def status(self, name: str, by: Any) -> int:
        """Send a token of the issuer."""
        claims = {"iss": f"{self.provider.url}/{name}"}
        token = by.token(claims).decode()
        return Visitor().ask(f"{self.gateway.url()}/", Accept="*/*", Authorization=f"Bearer {token}").status

    def asked(self, path: str) -> int:
        return sum(each == path for each, _ in self.provider.asked)

    def move(self, status: int, keys: bytes) -> None:
        """Publish the new keys at another URL. `status`, `keys`: what is found at the previous one."""
        self.provider.describes("idp", b"", jwks_uri=f"{self.provider.url}{MOVED}")
        self.provider.says[KEYS] = status, keys
        self.provider.says[MOVED] = 200, key_set(NEW)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Liar() as provider:
        filters = {"oidc": {"issuer": provider.describes("idp", key_set(OLD)), "bearer": {"audiences": ["api"]}}}
        configuration = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "routes": [{"name": "a", "paths": ["/*"], "respond": {"body": "in"}, "filters": filters}],
        }
        with Gateway(configuration, tmp_path) as gateway:
            world = World(provider, gateway)
            wait_until(lambda: world.status("idp", OLD) == 200, "the first keys")
            yield world


@pytest.mark.parametrize(
    ("status", "keys"), [(200, key_set(OLD)), (404, b""), (200, key_set(STRANGER))], ids=["stays", "gone", "others"]
)
def test_the_first_token_with_a_new_key_finds_keys_that_have_moved(world: World, status: int, keys: bytes) -> None:
    world.move(status, keys)
    assert world.status("idp", NEW) == 200
    assert world.status("idp", OLD) == 401  # it is not published any more


def test_tokens_with_unknown_keys_do_not_have_the_metadata_fetched_each_time(world: World) -> None:
    before = world.asked(METADATA)
    assert {world.status("idp", STRANGER) for _ in range(20)} == {401}
    assert world.asked(METADATA) - before <= BURST + 1
    assert world.asked(KEYS) == world.asked(METADATA)


@pytest.mark.landing
def test_keys_rotate_while_the_metadata_are_invalid(world: World) -> None:
    world.provider.says[METADATA] = 200, json.dumps({"issuer": "https://another.example"}).encode()
    world.provider.says[KEYS] = 200, key_set(NEW)
    assert world.status("idp", NEW) == 200


def test_keys_rotate_while_the_metadata_hang(world: World) -> None:
    """New keys do not wait until the metadata are given up."""
    held = world.provider.holds[METADATA] = threading.Event()
    try:
        world.provider.says[KEYS] = 200, key_set(NEW)
        assert world.status("idp", NEW) == 200
        assert "metadata of" not in world.gateway.stderr.text()
    finally:
        held.set()
