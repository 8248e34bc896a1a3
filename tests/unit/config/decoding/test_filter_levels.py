"""Which filters run for a request, and in which order, as it is told and as it is done."""

import json

import pytest

from fastgw import config
from fastgw.config.decoding.filter_levels import running
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile

SET = {"response": {"set": {"X-A": "1"}}}
CONFIG = {
    "version": 1,
    "listeners": {
        "one": {
            "address": "127.0.0.1:0",
            "filters": {"id": {"type": "request_id"}, "shared": {"type": "headers", **SET}},
        },
        "two": {"address": "127.0.0.1:0"},
    },
    "filters": {"size": {"body": "1MiB"}, "shared": {"type": "size", "body": "2MiB"}},
    "upstreams": {
        "u": {"targets": [{"url": "http://a"}], "filters": {"headers": SET, "late": {"type": "size", "body": "1KiB"}}}
    },
    "filter_sets": {"set": {"of_set": {"type": "headers", **SET}, "late": None}},
    "routes": [
        {"name": "all", "paths": ["/a"], "upstream": "u", "use": ["set"], "filters": {"own": {"type": "request_id"}}},
        {"name": "few", "paths": ["/b"], "respond": {}, "filters": {"size": None, "shared": None}},
    ],
}


@pytest.mark.parametrize(
    ("listener", "route", "expected"),
    [
        ("one", 0, ["id", "own", "size", "shared", "headers", "of_set"]),
        ("two", 0, ["own", "size", "shared", "headers", "of_set"]),
        ("one", 1, ["id"]),
        ("two", 1, []),
    ],
)
def test_filters_of_all_levels_in_running_order(listener, route, expected):
    loaded = config.load_text(json.dumps(CONFIG).encode(), "/nowhere/a.json", TYPES).config
    found = running(loaded, listener, loaded.routes[route])
    assert [use.name for use in found] == expected
    gateway = compile(loaded, 1)
    (rule,) = [
        rule
        for rule, name in zip(gateway.routes[route].rules, gateway.tables, strict=True)
        if rule is not None and name == listener
    ]
    assert [link.use for link in rule[0].route.chain.links] == list(found)
