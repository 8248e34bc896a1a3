"""What `check` notes of routes whose authentication other requests do not meet on their way to the same upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastgw.config import load
from fastgw.config.loading.locate_filter import locate
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
    return {where.owner: str(wrong) for where, wrong in bypasses(config)}


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


@for_each(
    ("of_narrow", "of_wide", "shown"),
    [
        # a condition that the other request does not meet
        ({"methods": ["GET", "POST"]}, {}, "DELETE /admin/x goes by"),
        ({"methods": ["GET", "POST"]}, {"methods": ["GET", "PUT"]}, "PUT /admin/x goes by"),
        ({"methods": ["POST"]}, {"methods": ["GET", "DELETE"]}, "DELETE /admin/x goes by"),
        ({"methods": ["GET"], "paths": ["/u/{id}"]}, {}, "DELETE /u/x goes by"),
        ({"methods": ["GET"], "paths": ["~^/admin(/|$)"]}, {"paths": ["~^/"]}, "DELETE /admin/ goes by"),
        ({"methods": ["GET"], "paths": ["~^/v[0-9]+/(a|b)$"]}, {"paths": ["~^/"]}, "DELETE /v0/a goes by"),
        ({"methods": ["GET"], "paths": ["~\\.php$"]}, {"paths": ["~^/"]}, "DELETE /.php goes by"),
        ({"paths": ["~^/u/[^/]{2,}$"]}, {"paths": ["/app/*"], "strip_prefix": "/app"}, "GET /app/u/xx goes by"),
        ({"methods": ["GET"], "paths": None}, {"paths": None}, "DELETE /x goes by"),
        ({"hosts": ["admin.test"]}, {}, "GET /admin/x for another host goes by"),
        ({"headers": {"X-A": "1"}}, {}, "GET /admin/x without x-a goes by"),
        ({"headers": {"X-A": {"prefix": "v2"}}}, {}, "GET /admin/x without x-a goes by"),
        ({"headers": {"X-A": {"present": False}}}, {}, "GET /admin/x with x-a goes by"),
        ({"cookies": {"c": {"regex": "^on"}}}, {}, "GET /admin/x without cookie goes by"),
        ({"query": {"q": "a"}}, {}, "GET /admin/x with another query goes by"),
        ({"clients": ["10.0.0.0/8"]}, {}, "GET /admin/x from another address, such as 192.0.2.1 goes by"),
        ({"methods": ["GET"], "hosts": ["a.test"]}, {}, "DELETE /admin/x, GET /admin/x for another host go by"),
        # a condition of the other route, which goes first
        ({}, {"hosts": ["a.test"]}, "GET /admin/x for the host a.test goes by"),
        ({}, {"hosts": ["*.a.test"]}, "GET /admin/x for the host any.a.test goes by"),
        ({}, {"headers": {"X-A": "1"}, "priority": 1}, "GET /admin/x with x-a goes by"),
        ({}, {"headers": {"X-A": {"regex": "^[a-z]+$"}}, "priority": 1}, "GET /admin/x with x-a goes by"),
        ({"hosts": ["a.test"], "paths": ["/*"]}, {"hosts": ["b.test"]}, "GET /x for the host b.test goes by"),
        # another path, which is rewritten to the same one
        ({}, {"paths": ["/app/*"], "strip_prefix": "/app"}, "GET /app/admin/x goes by"),
        ({}, {"paths": ["/app/*"], "strip_prefix": "/app", "methods": ["PUT"]}, "PUT /app/admin/x goes by"),
        ({}, {"paths": ["/a/{rest:path}"], "rewrite": "/{rest}"}, "GET /a/admin/x goes by"),
        ({"paths": ["/admin"]}, {"paths": ["/open"], "rewrite": "/admin"}, "GET /open goes by"),
        ({"paths": ["/s/admin"]}, {"add_prefix": "/s"}, "GET /admin goes by"),
        ({"strip_prefix": "/admin"}, {}, "GET /x goes by"),
        (
            {},
            {"paths": ["/p/*"], "strip_prefix": "/p", "upstream": "elsewhere", "fallback": {"upstream": "same"}},
            "GET /p/admin/x goes by",
        ),
        ({"strip_prefix": "/admin"}, {"paths": ["/pub/*"], "strip_prefix": "/pub"}, "GET /pub/x goes by"),
        ({"upstream": "http://127.0.0.1:9/base"}, {}, "GET /base/admin/x goes by"),
        ({"paths": ["/base/admin"]}, {"upstream": "http://127.0.0.1:9/base"}, "GET /admin goes by"),
        ({}, {"upstream": None, "variants": [{"upstream": "same"}, {"upstream": "elsewhere"}], "hosts": ["h.test"]},
         "GET /admin/x for the host h.test goes by"),
    ],
)  # fmt: skip
def test_it_names_a_request_that_reaches_the_same_path_by_another_route(
    of_narrow: dict[str, Any], of_wide: dict[str, Any], shown: str
) -> None:
    routes = [narrow("/admin/*") | of_narrow, wide(**of_wide)]
    told = noted(*({key: each for key, each in route.items() if key != "paths" or each} for route in routes))["narrow"]
    assert told.startswith(f'{shown} route "wide"'), told


@for_each(
    "routes",
    [
        [narrow("/7/*"), wide()],  # no request for /7/x matches it
        [narrow("/api/*", methods=["GET"]), wide(paths=["/api/health"])],  # a narrower one
        [narrow("/api/*"), wide(paths=["/open"], rewrite="/api/health")],
        [narrow("/7/*"), wide(paths=["/app/*"], strip_prefix="/app", add_prefix="/app")],
        [narrow("/7/*", methods=["POST", "DELETE"]), wide(paths=["/7/*"], methods=["GET"])],
        [narrow("/7/*", methods=["POST", "DELETE"]), wide(methods=["GET"])],  # anybody may read
        [narrow("/7/*", methods=["GET"]), wide(paths=["/7/*"], methods=["POST"])],  # it names them
        [narrow("/7/*", methods=["GET"]), wide(methods=["OPTIONS"])],
        [narrow("/7/*"), wide(paths=["/7/*"], headers={"X-A": "1"})],
        [narrow("/7/*"), wide(paths=["/7/*"], hosts=["a.test"])],
        [narrow("/7/*"), wide(clients=["10.0.0.0/8"], priority=1)],  # a trusted network
        [narrow("/7/*", upstream="elsewhere", fallback={"upstream": "site"}), wide()],  # it is no substitute for it
        [
            narrow("/*", hosts=["a.test"], host_header="preserve"),
            wide(hosts=["b.test"], host_header="preserve"),
        ],
        [narrow("/7/*", methods=["GET"]), wide(filters={"key_auth": None})],  # it is meant
        [narrow("/7/*", clients=["0.0.0.0/0", "::/0"]), wide()],
        [  # each tenant has its own key
            narrow("/7/*", strip_prefix="/7"),
            wide(paths=["/8/*"], strip_prefix="/8", filters={"key_auth": {"key_names": ["X-B"]}}),
        ],
        [narrow("/7/*", methods=["GET"]), wide(rewrite="/other")],  # another path is sent
        [narrow("/7/*", methods=["GET"]), wide(upstream=None, redirect={"to": "https://a.test/"})],
        [narrow("/7/*", rewrite="/{claim.tenant}", methods=["GET"]), wide()],  # the filters decide
    ],
)
def test_a_route_that_is_meant_to_be_public_is_none(routes: list[dict[str, Any]]) -> None:
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


def test_both_routes_are_named_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "gw.yaml"
    file.write_text(
        "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\nroutes:\n"
        "  - {name: a, paths: [/a], methods: [GET], upstream: 'http://127.0.0.1:9', filters: {key_auth: {}}}\n"
        "  - {name: b, paths: ['/*'], upstream: 'http://127.0.0.1:9'}\n"
    )
    loaded = load(str(file), TYPES)
    [note] = locate(loaded, TYPES, bypasses(loaded.config))
    assert (note.line, note.path) == (4, "routes[0].paths")
    assert f'route "b" ({file}:5)' in note.wrong


def test_routes_that_are_meant_hide_no_other_one() -> None:
    aliases = [
        {"name": f"a{n}", "paths": [f"/a{n}/*"], "strip_prefix": f"/a{n}", "clients": ["10.0.0.0/8"]} for n in range(9)
    ]
    told = noted(narrow("/7/*"), *aliases, wide(paths=["/y/*"], strip_prefix="/y"))
    assert told["narrow"].startswith("GET /y/7/x goes by")
