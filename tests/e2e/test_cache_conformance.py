"""The conformance suite for HTTP caches (http-tests/cache-tests), through a gateway with two workers.

A case that fails is run again, few at a time: some need an answer within a second of the one before, as the suite
counts in seconds of its own clock. What fails three times has failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from tests.support.cache_suite.server import SuiteServer, run_cases
from tests.support.gateway import Gateway

AT_ONCE: Final = 60
"""Cases in flight in the first run: each sleeps for three seconds after most of its requests."""
AGAIN_AT_ONCE: Final = 12

GIVEN_UP: Final = {
    # required
    "headers-store-Transfer-Encoding": "a response with an unknown transfer coding is refused with 502",
    "headers-store-Set-Cookie": "cookies are not stored unless `store_set_cookie` is set",
    # optimal
    "other-set-cookie": "cookies are not stored unless `store_set_cookie` is set",
    "method-POST": "only responses to GET are stored",
    "partial-store-partial-reuse-partial": "parts are not stored",
    "partial-store-partial-reuse-partial-byterange": "parts are not stored",
    "partial-store-partial-reuse-partial-absent": "parts are not stored",
    "partial-store-partial-reuse-partial-suffix": "parts are not stored",
    "conditional-lm-fresh-no-lm": "without `Last-Modified` a response may be younger than that of the client",
    "partial-store-partial-complete": "parts are not stored",
    "vary-normalise-lang-order": "the order of languages may mean a preference",
    "vary-normalise-lang-select": "languages are chosen by the upstream",
}
"""Cases that do not pass, and why."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Any]]:
    """Cases by their name, after up to three runs: `kind`, `depends_on`, and `failure`, None if there was none."""
    with SuiteServer() as server:
        config = {
            "workers": 2,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "access_logs": [],
            "upstreams": {"suite": {"targets": [server.url]}},
            "routes": [
                {"name": "cases", "paths": ["/test/*"], "upstream": "suite", "filters": {"cache": {}}},
                {"name": "engine", "paths": ["/*"], "upstream": "suite"},
            ],
        }
        with Gateway(config, tmp_path_factory.mktemp("cache-suite")) as gateway:
            cases = run_cases(gateway.url(), AT_ONCE)
            for _ in range(2):
                failed = [name for name, case in cases.items() if case["failure"] and name not in GIVEN_UP]
                if failed:
                    cases |= run_cases(gateway.url(), AGAIN_AT_ONCE, failed)
            yield cases


def passes(cases: Mapping[str, Any], name: str) -> bool:
    """Whether a case passes, and those that it depends on."""
    return cases[name]["failure"] is None and all(passes(cases, each) for each in cases[name]["depends_on"])


@pytest.mark.parametrize(("kind", "least", "of"), [("required", 158, 160), ("optimal", 95, 105)])
def test_the_cache_conforms(results: Mapping[str, Any], kind: str, least: int, of: int) -> None:
    names = [name for name, case in results.items() if case["kind"] == kind]
    failed = {name: results[name]["failure"] for name in names if not passes(results, name)}
    unexpected = {name: why for name, why in failed.items() if name not in GIVEN_UP}
    assert unexpected == {}
    assert (len(names), len(names) - len(failed) >= least) == (of, True), failed


def test_every_case_that_is_given_up_still_fails(results: Mapping[str, Any]) -> None:
    assert [name for name in GIVEN_UP if passes(results, name)] == []
