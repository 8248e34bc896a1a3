"""A filter that would send what the cache leaves out, because one client could choose what others get, is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.gateway.tables import CompileError
from tests.support.memory import Plane
from tests.support.table import for_each

EXCEPT: dict[str, Any] = {"key": {"query": {"except": ["utm_*"]}}}


def plane_with(
    value: Any, cache: dict[str, Any] | None, where: str = "set", route: dict[str, Any] | None = None, **maps: str
) -> Plane:
    """Start a gateway whose filter `headers` sends this value as `X-Lang`."""
    tables = {name: {"source": source, "values": {"a": "b"}} for name, source in maps.items()}
    headers = {"request": {where: {"X-Lang": value}}}
    filters = {"headers": headers} if cache is None else {"headers": headers, "cache": cache}
    return Plane(
        {
            "upstreams": {"u": {"targets": ["http://127.0.0.1:1"]}},
            "maps": tables,
            "routes": [{"name": "r", "paths": ["/{id}"], "upstream": "u", "filters": filters, **(route or {})}],
        }
    )


@for_each("where", ["set", "add", "replace", "set_if_absent"])
@for_each(
    ("value", "cache", "named"),
    [
        ("{query.utm_lang}", EXCEPT, "query.utm_lang"),
        ("at {path}, {query.utm_lang}", EXCEPT, "query.utm_lang"),
        ("{query}", EXCEPT, "query"),
        ("{query.id}", {"key": {"query": "none"}}, "query.id"),
        ("{query.id}", {"key": {"query": {"only": ["page"]}}}, "query.id"),
        ("{map.lang}", EXCEPT, "query.utm_lang"),
        ("{header.X-Forwarded-Host}", {}, "header.X-Forwarded-Host"),
        ("{header.x-original-url}", {"key": {"headers": ["X-Host"]}}, "header.x-original-url"),
        ("{header.Range}", {}, "header.Range"),
        ("{map.host}", {}, "header.X-Host"),
    ],
)
def test_a_value_that_is_not_in_the_key_is_refused(value: str, cache: dict[str, Any], named: str, where: str) -> None:
    expected = rf"route: filter headers: request\.{where}\.X-Lang: {{{named}}} is not in the key .* of route `r`"
    with pytest.raises(CompileError, match=expected):
        plane_with(value, cache, where, lang="{query.utm_lang}", host="{header.X-Host}")


@for_each(
    "edits, where",
    [
        ({"rename": {"X-Host": "X-Lang"}}, "rename.X-Host"),
        ({"set_if_absent": {"X-Host": "a"}}, "set_if_absent.X-Host"),
        ({"replace": {"X-Host": "a"}}, "replace.X-Host"),
    ],
)
def test_whether_a_header_is_there_is_a_value_too(edits: dict[str, Any], where: str) -> None:
    expected = rf"route: filter headers: request\.{where}: {{header.X-Host}} is not in the key"
    filters: dict[str, Any] = {"headers": {"request": edits}, "cache": {}}
    with pytest.raises(CompileError, match=expected):
        Plane({"routes": [{"name": "r", "upstream": "http://127.0.0.1:1", "filters": filters}]})
    filters["cache"] = {"key": {"headers": ["X-Host", "X-Lang"]}}
    Plane({"routes": [{"name": "r", "upstream": "http://127.0.0.1:1", "filters": filters}]})


@for_each(
    ("value", "cache", "route"),
    [
        ("{query.utm_lang}", None, {}),
        ("{query.utm_lang}", {}, {}),
        ("{query}", {}, {}),
        ("{query.page}", EXCEPT, {}),
        ("{query.page}", {"key": {"query": {"only": ["page"]}}}, {}),
        ("{query.utm_lang}", {"key": {"query": {"except": ["utm_*"]}, "headers": ["x-lang"]}}, {}),
        ("{header.X-Forwarded-Host}", {"key": {"headers": ["X-Forwarded-Host"]}}, {}),
        ("{header.Accept-Language} {path} {id} {cookie.a}", EXCEPT, {}),
        ("{query.utm_lang}", {**EXCEPT, "shadow": True}, {}),
        ("{query.utm_lang}", EXCEPT, {"methods": ["POST"]}),
        ("{query.utm_lang}", {**EXCEPT, "methods": ["HEAD"]}, {}),
        ("{query.utm_lang}", EXCEPT, {"upstream": None, "respond": {"status": 200}}),
    ],
)
def test_a_value_that_changes_nothing_for_others_is_sent(
    value: str, cache: dict[str, Any] | None, route: dict[str, Any]
) -> None:
    plane_with(value, cache, route=route)


def test_a_filter_of_the_gateway_is_refused_for_the_route_that_has_the_cache() -> None:
    headers = {"request": {"set": {"X-Lang": "{query.utm_lang}"}}}
    routes = [
        {"name": name, "paths": [f"/{name}"], "upstream": "u", "filters": filters}
        for name, filters in (("plain", {}), ("cached", {"cache": EXCEPT}))
    ]
    config = {
        "upstreams": {"u": {"targets": ["http://127.0.0.1:1"]}},
        "filters": {"headers": headers},
        "routes": routes,
    }
    with pytest.raises(CompileError, match=r"gateway: filter headers: request\.set\.X-Lang: .* of route `cached`"):
        Plane(config)


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        ({"set": {"X-Host": "{host}"}}, {"set": {"X-Lang": "{header.X-Host}"}}, False),
        ({"set": {"X-Lang": "{header.X-Host}"}}, {"set": {"X-Host": "{host}"}}, True),
        ({"set": {"X-Lang": "{query.utm_lang}"}}, {"remove": ["x-lang"]}, False),
        ({"set": {"X-Lang": "{query.utm_lang}"}}, {"set": {"X-Lang": "en"}}, False),
        ({"set": {"X-Lang": "{query.utm_lang}"}}, {"add": {"X-Lang": "en"}}, True),
        ({"remove": ["X-Lang"]}, {"set": {"X-Lang": "{query.utm_lang}"}}, True),
        ({"set": {"Authorization": "Bearer {query.utm_token}"}}, {}, False),
    ],
)
def test_filters_that_come_after_each_other(first: dict[str, Any], second: dict[str, Any], refused: bool) -> None:
    filters = {
        "first": {"type": "headers", "request": first},
        "second": {"type": "headers", "request": second},
        "cache": EXCEPT,
    }
    document = {
        "upstreams": {"u": {"targets": ["http://127.0.0.1:1"]}},
        "routes": [{"name": "r", "paths": ["/{id}"], "upstream": "u", "filters": filters}],
    }
    if refused:
        with pytest.raises(CompileError, match="is not in the key"):
            Plane(document)
    else:
        Plane(document)
