"""Settings of the filter `cache`: what `check` refuses and warns of, and what `explain` says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw import config
from fastgw.config import ConfigError
from fastgw.explain import explain
from fastgw.filters import TYPES
from fastgw.filters.lint.warnings import warnings_of
from fastgw.filters.policies.cache.filter import Cache
from fastgw.filters.policies.cache.ready_answers import ReadyMemory
from fastgw.gateway.compiler import compile as compile_tables
from tests.support.generations import load_document
from tests.support.memory import SERVICE


def document(**settings: Any) -> dict[str, Any]:
    return {**SERVICE, "filters": {"cache": settings}}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"store": "mian"}, 'unknown cache store "mian"; did you mean "main"?'),
        ({"methods": ["GET", "PUT"]}, "methods: expected GET, HEAD and POST"),
        ({"key": {"query": {}}}, "expected either `only` or `except`"),
        ({"key": {"query": {"only": ["a"], "except": ["b"]}}}, "expected either `only` or `except`"),
        ({"key": {"headers": ["X-Real-IP"]}}, "headers: X-Real-IP is written by the gateway for each client"),
        ({"ttl_by_status": {"99": "1s"}}, 'expected a status code such as "404"'),
    ],
)
def test_what_is_wrong_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load_text(json.dumps(document(**settings)).encode(), "/test.json", TYPES)
    assert problem in str(caught.value)


DISK = {"path": "/var/cache/a", "size": "1GiB"}


@pytest.mark.parametrize(
    ("stores", "problem"),
    [
        ({"main": {"disk": {"path": "/var/cache/a", "size": "1MiB"}}}, "`size` is less than 16MiB"),
        (
            {"main": {"disk": {**DISK, "size": "32MiB"}}},
            "disk.size: 32MiB is less than `max_object`; expected at least 64MiB",
        ),
        ({"main": {"disk": {"size": "1GiB"}}}, "caches.main.disk.path: missing"),
        ({"main": {"disk": DISK}, "b": {"disk": {**DISK, "path": "/var/../var/cache/a"}}}, "has the same directory"),
        ({"main": {"redis": True}}, "there is no `state`"),
    ],
)
def test_wrong_stores_are_refused(stores: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load_text(json.dumps({**document(), "caches": stores}).encode(), "/test.json", TYPES)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "protocol", "warnings"),
    [
        ({}, "http1", []),
        ({}, "grpc", ["all upstreams behind it speak gRPC, whose responses are not cached"]),
        (
            {"vary_by": ["consumer"]},
            "http1",
            ["`vary_by: [consumer]` has no effect: no filter before it authenticates clients"],
        ),
    ],
)
def test_what_has_no_effect_is_told(settings: dict[str, Any], protocol: str, warnings: list[str]) -> None:
    given = document(**settings)
    given["upstreams"] = {"u": {"targets": [{"url": "http://127.0.0.1:9"}], "protocol": protocol}}
    assert [warning for _, warning in warnings_of(load_document(given, TYPES))] == warnings


@pytest.mark.parametrize(
    ("action", "warnings"),
    [
        ({"respond": {"body": "x"}}, 1),
        ({"redirect": {"to": "/x"}}, 1),
        ({"compose": {"parts": [{"name": "a", "upstream": "u", "path": "/"}]}}, 0),
    ],
)
def test_a_route_that_answers_by_itself_has_nothing_to_cache(action: dict[str, Any], warnings: int) -> None:
    given = {**document(), "routes": [{"name": "all", **action}]}
    found = [warning for _, warning in warnings_of(load_document(given, TYPES))]
    assert (
        found
        == ["responses of `files`, `respond` and `redirect` are not cached: the filter has no effect here"] * warnings
    )


@pytest.mark.parametrize(
    ("settings", "method", "told"),
    [
        (
            {},
            "GET",
            "store main, key http://a.test/x?a=1&b=2; fresh for as long as the response says; "
            "stale up to 1h if no target can be reached",
        ),
        (
            {"ttl": "90s", "ttl_by_status": {"404": "10s", "410": "1h"}, "stale_when_unreachable": "1s"},
            "GET",
            "; fresh for as long as the response says, else 90s, 10s for 404, 1h for 410",
        ),
        (
            {"override_ttl": "5m", "stale_while_revalidate": "10s", "stale_if_error": "1m"},
            "GET",
            "; fresh for 5m, whatever the response says (at most 5m, if `ttl` is not for its status); "
            "stale up to 10s while it is validated; "
            "stale up to 1m on errors of the upstream; stale up to 1h if no target can be reached",
        ),
        ({"key": {"query": "none", "headers": ["X-A"]}, "vary_by": ["consumer"]}, "GET", "/x + x-a + consumer"),
        ({}, "POST", "forwards POST past the cache; a success removes what is stored for its URL"),
        ({"bypass": {"header": "X-B"}}, "GET", "forwards it past the cache: it has x-b"),
        ({"ttl": "900ms", "ttl_by_status": {"404": "1100ms"}}, "GET", ", else 1s, 2s for 404"),
        ({"purge_method": {"allow": ["127.0.0.1"]}}, "PURGE", "answers 200 and purges the URL"),
        ({"purge_method": {"allow": ["127.0.0.2"]}}, "PURGE", "answers 403: "),
    ],
)
def test_explain_says_the_key_and_what_passes_the_cache(settings: dict[str, Any], method: str, told: str) -> None:
    gateway = compile_tables(load_document(document(**settings), TYPES), 1)
    explained = explain(gateway, method, "http://a.test/x?a=1&b=2", ["X-B: 1"])
    assert any(told in step.decision for step in (*explained.early, *explained.filters)), explained


def test_explain_shows_no_request_to_the_upstream_where_a_purge_is_answered() -> None:
    gateway = compile_tables(load_document(document(purge_method={"allow": ["127.0.0.1"]}), TYPES), 1)
    assert explain(gateway, "PURGE", "http://a.test/x", []).sends == ()
    assert explain(gateway, "GET", "http://a.test/x", []).sends


def test_explain_says_that_own_responses_are_not_cached() -> None:
    given = {**document(ttl="1m"), "routes": [{"name": "all", "respond": {"body": "x"}}]}
    explained = explain(compile_tables(load_document(given, TYPES), 1), "GET", "http://a.test/x", [])
    told = "has no effect: responses of `files`, `respond` and `redirect` are not cached"
    assert any(told in step.decision for step in (*explained.early, *explained.filters)), explained


@pytest.mark.parametrize("duration", [0.2, 1.0])
def test_a_part_of_a_second_counts_as_one(duration: float) -> None:
    names = ("ttl", "override_ttl", "stale_while_revalidate", "stale_if_error", "stale_when_unreachable")
    filter_ = Cache(**dict.fromkeys(names, duration), ttl_by_status={"404": duration})
    storing = filter_._compiled(ReadyMemory()).storing_of(None, is_authenticated=False)
    assert {getattr(storing, name) for name in names} == {1}
    assert storing.ttl_by_status == {404: 1}


SAYS_FRESH = "; fresh for as long as the response says"


@pytest.mark.parametrize(
    ("method", "field", "told"),
    [
        ("GET", 'If-Match: "a"', "forwards it past the cache: it has if-match"),
        ("GET", "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT", "the cache: it has if-unmodified-since"),
        ("GET", "Authorization: Bearer a", "s-maxage or must-revalidate, as the request has Authorization; fresh for"),
        ("GET", "Cookie: a=1", "; stores only what states its freshness itself, as the request has cookies; fresh"),
        ("GET", "Cache-Control: no-store", "; stores nothing, as the request says no-store" + SAYS_FRESH),
        ("GET", "Cache-Control: only-if-cached", "; answers 504 unless a response is stored, as the request says"),
        ("HEAD", "X-B: 1", "; stores only responses to GET" + SAYS_FRESH),
    ],
)
def test_explain_says_what_a_request_requires_of_the_cache(method: str, field: str, told: str) -> None:
    gateway = compile_tables(load_document(document(), TYPES), 1)
    explained = explain(gateway, method, "http://a.test/x", [field])
    assert any(told in step.decision for step in explained.filters), explained


def test_explain_says_that_a_client_with_credentials_of_its_own_shares_nothing_with_the_gateway() -> None:
    filters = {"cache": {}, "credentials": {"bearer": "of-the-gateway", "access_token_header": "X-Token"}}
    gateway = compile_tables(load_document({**document(), "filters": filters}, TYPES), 1)
    own = " (the client's own credentials: it shares no stored response with requests that have the gateway's)"
    for fields, told in ([], "would send Authorization: ***"), (["X-Token: a"], f"Authorization: ***{own}"):
        explained = explain(gateway, "GET", "http://a.test/x", fields)
        assert explained.filters[-1].decision.endswith(told), explained


def test_explain_says_the_tiers_of_the_store() -> None:
    more = {"caches": {"main": {"disk": DISK, "redis": True}}, "state": {"url": "redis://127.0.0.1:1"}}
    gateway = compile_tables(load_document({**document(), **more}, TYPES), 1)
    explained = explain(gateway, "GET", "http://a.test/x", [])
    assert any("store main (memory, disk, Redis), key" in step.decision for step in explained.filters), explained
