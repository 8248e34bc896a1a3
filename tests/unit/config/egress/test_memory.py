"""What thousands of services of the egress role cost a process."""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from types import SimpleNamespace

import pytest

from fastgw.config import Config, load_text
from fastgw.exchange import Route
from fastgw.filters import TYPES
from fastgw.filters.api import Filter
from fastgw.gateway.compiler import compile

SERVICES = 300


def configured(services: int) -> Config:
    credentials = {"type": "oauth2", "token_url": "https://idp.example/token", "client_secret": "s"}
    apps = {
        f"app{number}": {
            "orders": {
                "url": f"https://api.example/{number}/v2",
                "credentials": {**credentials, "client_id": f"client {number}"},
            }
        }
        for number in range(services)
    }
    text = {"version": 1, "listeners": {"main": {"address": "127.0.0.1:0"}}, "egress": {"apps": apps}}
    return load_text(json.dumps(text).encode(), "/gateway.json", TYPES).config


def made(config: Config) -> dict[str, Route]:
    compiled = compile(config, 1).routes_by_name
    return {name: rule[0].route for name, each in compiled.items() for rule in each.rules if rule is not None}


def taken(services: int) -> int:
    """Bytes that the tables take."""
    config = configured(services)
    gc.collect()
    tracemalloc.start()
    try:
        tables = compile(config, 1)
        gc.collect()
        assert len(tables.routes) == services + 1
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.extended
def test_the_tables_of_a_service_take_a_few_kilobytes() -> None:
    """9.7 with CPython 3.11, 11.3 with 3.14; 19.1 when each had sets, counts and filters of its own that are the same
    for all.
    """
    taken(1)  # with what is made once
    each = (taken(2 * SERVICES) - taken(SERVICES)) / SERVICES
    assert each < (11 if sys.version_info < (3, 14) else 12) * 1024


def test_filters_that_may_stand_anywhere_are_one_for_equal_uses() -> None:
    routes = made(configured(2))
    own = [routes[f"egress/app{n}/orders"].chain.links for n in (0, 1)]
    one, other = ({link.use.name: link for link in links if not link.early} for links in own)
    assert {name for name in one if one[name] is other[name]} == {"egress_calls", "target_errors"}
    unknown = {link.use.name: link for link in routes["egress"].chain.links}
    assert unknown["egress_calls"] is not one["egress_calls"]  # it says something else there


@pytest.mark.parametrize("kind", [each for each in TYPES.values() if each.stands_anywhere])
def test_filters_that_may_stand_anywhere_ask_nothing_of_where_they_do(kind: type[Filter]) -> None:
    settings = kind()
    hooks = settings.build(SimpleNamespace(route="any"))  # type: ignore[arg-type]  # nothing else is there to be asked
    assert hash(settings) == hash(kind())
    assert hooks.start is hooks.stop is hooks.finish is None
