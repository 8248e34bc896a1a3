"""all_of: every method has to accept the client, and the first that does not decides."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import pytest

from fastgw.config.settings.gateway import Config
from fastgw.exchange import Exchange
from fastgw.explain import as_text, explain
from fastgw.filters import TYPES
from fastgw.filters.api import Consumer, Env, Fault, Filter, Hooks, Outcome, Phase, Reply
from fastgw.gateway.compiler import compile as compile_tables
from fastgw.gateway.tables import CompileError
from fastgw.testing import ConfigError
from tests.support.generations import load_with_files
from tests.support.memory import SERVICE, Plane

ALICE = {"name": "alice", "key_auth": [{"key": "k" * 32}], "basic_auth": [{"username": "al", "password": "p" * 32}]}
BOB = {"name": "bob", "key_auth": [{"key": "b" * 32}]}
KEY, PASSWORD = b"X-Api-Key: " + b"k" * 32, b"Authorization: Basic " + base64.b64encode(b"al:" + b"p" * 32)
BOTH = [{"key_auth": {}}, {"basic_auth": {}}]


class Slow(Filter, name="slow", phase=Phase.AUTHENTICATE):
    """A method that waits."""

    accepts: bool = True

    def build(self, env: Env) -> Hooks:
        async def wait(exchange: Exchange) -> Reply | None:
            await asyncio.sleep(0)
            exchange.consumer = Consumer("slow")
            return None if self.accepts else exchange.refuse(Fault.CREDENTIALS_INVALID, why="slow")

        def request(exchange: Exchange) -> Outcome:
            return wait(exchange)

        return Hooks(request=request)


class LoadedPlane(Plane):
    def _load(self, settings: Mapping[str, Any]) -> Config:
        loaded = load_with_files({**SERVICE, "consumers": [ALICE, BOB], **settings}, {**TYPES, "slow": Slow})
        self.files = loaded.captured
        return loaded.config


def outcome_of(filters: dict[str, Any], *lines: bytes) -> tuple[int, str]:
    """Return the status (200: the upstream got it) and the consumer."""

    async def ask() -> tuple[int, str]:
        plane = LoadedPlane({"filters": filters})
        client = plane.client()
        client.sends(b"GET / HTTP/1.1\r\nHost: a.test\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n")
        for _ in range(20):
            await asyncio.sleep(0)
        if plane.pool.waiting:
            plane.connects().sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return int(client.received.split(b" ", 2)[1]), plane.records[0].consumer

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        ((KEY, PASSWORD), (200, "alice")),
        ((KEY,), (401, "alice")),
        ((PASSWORD,), (401, "")),
        ((), (401, "")),
        ((KEY, PASSWORD[:-4] + b"AAAA"), (401, "alice")),
    ],
)
def test_every_method_has_to_accept(lines: tuple[bytes, ...], outcome: tuple[int, str]) -> None:
    assert outcome_of({"all_of": {"methods": BOTH}}, *lines)[0] == outcome[0]


@pytest.mark.parametrize(
    ("lines", "status"),
    [((KEY, PASSWORD), 200), ((b"X-Api-Key: " + b"b" * 32,), 401), ((b"X-Other: " + b"b" * 32,), 200), ((), 401)],
)
def test_it_is_one_alternative_of_auth(lines: tuple[bytes, ...], status: int) -> None:
    alternatives = [{"all_of": {"methods": BOTH}}, {"key_auth": {"key_names": ["X-Other"]}}]
    assert outcome_of({"auth": {"any_of": alternatives}}, *lines)[0] == status


def test_an_alternative_that_is_met_in_part_leaves_nothing() -> None:
    """The key of the first alternative has named alice; the second one decides."""
    alternatives = [{"all_of": {"methods": BOTH}}, {"key_auth": {"key_names": ["X-Other"]}}]
    assert outcome_of({"auth": {"any_of": alternatives}}, KEY, b"X-Other: " + b"b" * 32) == (200, "bob")


@pytest.mark.parametrize(
    ("methods", "outcome"),
    [
        ([{"slow": {}}, {"key_auth": {}}], (200, "alice")),
        ([{"key_auth": {}}, {"slow": {}}], (200, "slow")),
        ([{"slow": {}}, {"slow": {}}], (200, "slow")),
        ([{"slow": {}}, {"basic_auth": {}}], (401, "slow")),
        ([{"slow": {"accepts": False}}, {"key_auth": {}}], (401, "slow")),
        ([{"basic_auth": {}}, {"slow": {}}], (401, "")),
    ],
)
def test_methods_that_wait(methods: list[dict[str, Any]], outcome: tuple[int, str]) -> None:
    """The last method names the consumer."""
    assert outcome_of({"all_of": {"methods": methods}}, KEY) == outcome


def test_it_is_explained() -> None:
    loaded = load_with_files({**SERVICE, "consumers": [ALICE], "filters": {"all_of": {"methods": BOTH}}}, TYPES)
    tables = compile_tables(loaded.config, 1, loaded.captured)
    told = as_text(explain(tables, "GET", "http://a/", [KEY.decode(), PASSWORD.decode()]))
    assert "all_of → pass (consumer alice)" in told


@pytest.mark.parametrize(
    ("methods", "error", "wrong"),
    [
        ([{"key_auth": {}}], ConfigError, "methods: a list of 1; expected at least 2"),
        ([{"key_auth": {}}, {"auth": {"any_of": [{"key_auth": {}}]}}], ConfigError, "within `all_of` is not allowed"),
        ([{"key_auth": {}}, {"cors": {}}], ConfigError, "cors"),
        ([{"key_auth": {}}, {"hmac": {}}], CompileError, "`hmac` does more than to look at the head of a request"),
    ],
)
def test_what_it_cannot_hold(methods: list[dict[str, Any]], error: type[Exception], wrong: str) -> None:
    with pytest.raises(error, match=wrong):
        LoadedPlane({"filters": {"all_of": {"methods": methods}}})
