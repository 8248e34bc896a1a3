"""What `check` notes of routes that a service's own way of reading paths leads past."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config.settings.gateway import Config
from fastgw.filters import TYPES
from fastgw.gateway.authentication_bypasses import bypasses
from tests.support.generations import load_document
from tests.support.table import for_each

KEYED = {"filters": {"key_auth": {}}}


def noted(*routes: dict[str, Any], **settings: Any) -> dict[str, str]:
    """What is noted, by route."""
    document = {
        "version": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}, "other": {"address": "127.0.0.1:0"}},
        "consumers": [{"name": "a", "key_auth": [{"key": "for-a-0123456789"}]}],
        "upstreams": {
            "site": {"targets": [{"url": "http://127.0.0.1:9"}]},
            "same": {"targets": [{"url": "http://127.0.0.1:9"}]},
            "elsewhere": {"targets": [{"url": "http://127.0.0.1:8"}]},
        },
        "routes": [{"upstream": "site", **route} for route in routes],
        **settings,
    }
    config: Config = load_document(document, TYPES)
    return {where.owner: wrong for where, wrong in bypasses(config)}


def narrow(path: str, **settings: Any) -> dict[str, Any]:
    return {"name": "narrow", "paths": [path], **KEYED, **settings}


def wide(**settings: Any) -> dict[str, Any]:
    return {"name": "wide", "paths": ["/*"], **settings}


def test_it_names_the_paths_the_route_the_servers_and_what_to_do() -> None:
    [told] = noted(narrow("/users/{id}"), wide()).values()
    assert told == (
        '/users/{id}/ and /USERS/{id} are of route "wide", which forwards to the same upstream without key_auth; '
        "servers that ignore trailing slashes (Express) or case (IIS, Express) treat it as /users/{id}: put key_auth "
        "on "
        "the upstream, set `trailing_slash: same`, or make the service distinguish them"
    )


@for_each(
    ("path", "paths"),
    [
        ("/admin/*", "/ADMIN/* is"),
        ("/a/{rest:path}", "/A/{rest} is"),
        ("/admin", "/admin/ and /ADMIN are"),
        ("/admin/", "/admin and /ADMIN/ are"),
        ("/7/{id}", "/7/{id}/ is"),
        ("/items/{id}:cancel", "/items/{id}:cancel/ and /ITEMS/{id}:CANCEL are"),
        ("/v{a}x{b}/7", "/v{a}x{b}/7/ and /V{a}X{b}/7 are"),
        ("/{a}.{b}", "/{a}.{b}/ is"),
        ("/7/*", ""),
        ("/", ""),
        ("~^/admin", ""),
    ],
)
def test_each_kind_of_path(path: str, paths: str) -> None:
    [*told] = noted(narrow(path), wide()).values()
    assert [each.partition(" of route")[0] for each in told] == ([paths] if paths else [])


@pytest.mark.parametrize(
    ("path", "of_wide", "found"),
    [
        ("/items/{id}:cancel", "/items/{id}", "/items/{id}:CANCEL"),
        ("/items/me", "/items/{id}", "/items/ME"),
        ("/items/{id}/cancel", "/{all}/{id}/cancel", "/ITEMS/{id}/cancel"),
        ("/a/{id}:b/c", "/a/{id}/c", "/a/{id}:B/c"),
    ],
)
def test_the_wider_route_may_have_the_text_of_other_segments(path: str, of_wide: str, found: str) -> None:
    [told] = noted(narrow(path), wide(paths=[of_wide])).values()
    assert told.startswith(f'{found} is of route "wide"')
    assert "servers that ignore case (IIS, Express) treat" in told


@for_each(
    "routes",
    [
        [narrow("/admin"), wide(**KEYED)],  # it has the same
        [narrow("/admin"), wide(upstream="elsewhere")],
        [narrow("/admin"), {"name": "wide", "paths": ["/*"], "upstream": None, "respond": {"status": 404}}],
        [narrow("/admin"), wide(hosts=["a.test"])],  # all paths of that host are its own
        [narrow("/admin", listeners=["other"]), wide(listeners=["main"])],
        [narrow("/admin", methods=["POST"]), wide(methods=["GET"])],
        [narrow("/admin"), wide(paths=["/other/*"])],
        [narrow("/admin", filters={"key_auth": {"shadow": True}}), wide()],
        [narrow("/admin", filters={}), wide()],
        [narrow("/admin"), {"name": "any case", "paths": ["/ADMIN"], **KEYED}, narrow("/admin/") | {"name": "n2"}],
        [narrow("/admin", trailing_slash="same"), wide(paths=["/admin/*"])],
    ],
)
def test_where_nothing_is_avoided_nothing_is_noted(routes: list[dict[str, Any]]) -> None:
    assert noted(*routes) == {}


@pytest.mark.parametrize(
    "routes",
    [
        [narrow("/admin", upstream="http://127.0.0.1:9"), wide(upstream="same")],  # one place, three names
        [narrow("/admin", upstream={"site": 1, "elsewhere": 1}), wide(upstream="elsewhere")],
        [narrow("/admin", hosts=["*.a.test"]), wide()],
        [narrow("/admin", headers={"X-A": "1"}, query={"q": "a b"}), wide(headers={"X-A": "1"}, query={"q": "a b"})],
        [narrow("/admin"), wide(methods=["DELETE"])],
        [narrow("/admin"), wide(), {"name": "z", "paths": ["/admin/"], **KEYED}],
        [{**narrow("/admin"), "filters": {"key_auth": {}, "authorize": {"consumers": {"any": ["a"]}}}}, wide(**KEYED)],
    ],
)
def test_where_something_is_it_is(routes: list[dict[str, Any]]) -> None:
    assert set(noted(*routes)) >= {"narrow"}
