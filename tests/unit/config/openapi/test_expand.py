"""routes: [{openapi: …}]: the routes of a document, and what is wrong with documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastgw import config
from fastgw.config import Loaded
from fastgw.filters import TYPES
from tests.unit.filters.policies.openapi.shop import document, json_body, operation

SCHEMES = {
    "jwt": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-Key"},
    "basic": {"type": "http", "scheme": "basic"},
}
IDP = "https://idp.example"
KEY = {"jwt": {"jwt": {"jwks_uri": f"{IDP}/keys", "issuer": IDP, "audiences": ["a"], "algorithms": ["RS256"]}}}


def load(folder: Path, described: dict[str, Any] | str, entry: dict[str, Any] | None = None, **more: Any) -> Loaded:
    name = "shop.yaml" if isinstance(described, str) else "shop.json"
    (folder / name).write_text(described if isinstance(described, str) else json.dumps(described, indent=1))
    settings = {"file": name, "upstream": "http://127.0.0.1:9", **(entry or {})}
    whole = {
        "version": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "routes": [*more.pop("before", ()), {"openapi": settings, **more.pop("around", {})}],
        **more,
    }
    file = folder / "gateway.json"
    file.write_text(json.dumps(whole))
    return config.load(str(file), TYPES)


def problems(folder: Path, described: dict[str, Any] | str, entry: dict[str, Any] | None = None, **more: Any) -> str:
    with pytest.raises(config.ConfigError) as caught:
        load(folder, described, entry, **more)
    return str(caught.value).replace(f"{folder}/", "")


def test_operations_become_routes_with_names_of_their_own(tmp_path: Path) -> None:
    described = document(
        {
            "/a": {"get": operation(operationId="list"), "post": operation()},
            "/b/{x-id}": {
                "get": operation(
                    operationId="list",
                    parameters=[{"name": "x-id", "in": "path", "required": True, "schema": {"type": "string"}}],
                )
            },
        }
    )
    before = [{"name": "shop.list", "paths": ["/old"], "respond": {"status": 200}}]
    around = {"name": "shop", "hosts": ["shop.example"], "timeout": "5s"}
    loaded = load(tmp_path, described, {"base_path": "/v1", "unknown_paths": "pass"}, before=before, around=around)
    assert [(each.name, each.methods, each.paths) for each in loaded.config.routes[1:]] == [
        ("shop.list-2", ("GET",), ("/v1/a",)),
        ("shop.POST /a", ("POST",), ("/v1/a",)),
        ("shop.list-3", ("GET",), ("/v1/b/{p0}",)),
        ("shop.other-paths", (), ("/v1/*",)),
    ]
    assert all(each.hosts == ("shop.example",) and each.timeout == 5 for each in loaded.config.routes[1:])


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/{b}?acl", "/{b}%3Facl"),
        ("/{b}/{k}#acl", "/{b}/{k}%23acl"),
        ("/a/{b}%", "/a/{b}%25"),
        ("/a/{b}%2Fc*", "/a/{b}%2Fc%2A"),
    ],
)
def test_paths_are_literal_but_for_their_parameters(path: str, pattern: str, tmp_path: Path) -> None:
    """Some published documents have queries and fragments in paths: no request has one, but the others are served."""
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {}} for name in "bk" if f"{{{name}}}" in path
    ]
    described = document({path: {"get": operation(parameters=parameters)}, "/plain": {"get": operation()}})
    loaded = load(tmp_path, described)
    odd, plain = loaded.config.routes
    assert (odd.paths, plain.paths) == ((pattern,), ("/plain",))
    notes = [str(note) for note in loaded.notes if "is matched literally" in str(note)]
    assert len(notes) == ("?" in path or "#" in path)
    assert all(note.startswith(f"{tmp_path}/shop.json:8:3: ") for note in notes)


def test_openapi_3_2_has_more_methods(tmp_path: Path) -> None:
    item = {"query": operation(operationId="q"), "additionalOperations": {"PURGE": operation(operationId="p")}}
    loaded = load(tmp_path, document({"/a": item}, "3.2.0"))
    assert [(each.name, each.methods) for each in loaded.config.routes] == [("q", ("QUERY",)), ("p", ("PURGE",))]


def test_extensions_add_up_and_the_operation_wins(tmp_path: Path) -> None:
    limit = {"rate_limit": {"limit": 5, "window": "1s"}}
    described = document(
        {
            "/a": {
                "x-fastgw": {"timeout": "2s"},
                "get": operation(**{"x-fastgw": {"timeout": "1s", "validate": "off"}}),
                "put": operation(),
            }
        },
        **{"x-fastgw": {"filters": limit, "timeout": "9s"}},
    )
    put, get = load(tmp_path, described, around={"filters": {"size": {"body": "1MiB"}}}).config.routes[::-1]
    assert (get.timeout, put.timeout) == (1, 2)
    assert set(get.filters) == {"size", "rate_limit"}
    assert set(put.filters) == {"size", "rate_limit", "openapi"}


def test_security_becomes_filters(tmp_path: Path) -> None:
    described = document(
        {
            "/a": {"get": operation(), "put": operation(security=[])},
            "/b": {
                "get": operation(security=[{"jwt": ["read"]}]),
                "put": operation(security=[{"key": []}, {"basic": []}]),
                "post": operation(security=[{}, {"key": []}]),
                "patch": operation(security=[{"jwt": [], "key": []}]),
                "delete": operation(security=[{"key": [], "basic": []}, {"jwt": []}]),
            },
        },
        components={"securitySchemes": SCHEMES},
        security=[{"key": []}],
    )
    entry = {"security": {**KEY, "key": {"key_auth": {}}, "basic": {"basic_auth": {}}}}
    routes = {each.name: each.filters for each in load(tmp_path, described, entry).config.routes}
    assert [*routes["GET /a"]] == ["security.key", "openapi"]
    assert [*routes["PUT /a"]] == ["openapi"]
    use = routes["GET /b"]["security.jwt"]
    assert use is not None
    assert use.settings.scopes == ("read",)
    one = routes["PUT /b"]["security"]
    assert one is not None
    assert ([each.type for each in one.settings.any_of], one.settings.anonymous) == (
        ["key_auth", "basic_auth"],
        "reject",
    )
    optional = routes["POST /b"]["security"]
    assert optional is not None
    assert optional.settings.anonymous == "anonymous"
    assert [*routes["PATCH /b"]] == ["security.jwt", "security.key", "openapi"]
    several = routes["DELETE /b"]["security"]
    assert several is not None
    first, second = several.settings.any_of
    assert ([each.type for each in first.settings.methods], second.type) == (["key_auth", "basic_auth"], "jwt")


def test_security_that_nothing_implements_is_an_error(tmp_path: Path) -> None:
    def said(security: Any, entry: dict[str, Any] | None = None) -> str:
        described = document({"/a": {"get": operation(security=security)}}, components={"securitySchemes": SCHEMES})
        return problems(tmp_path, described, entry)

    assert 'no filter for the security scheme "key"' in said([{"key": []}])
    assert "expected `security: {key: {TYPE: …}}`" in said([{"key": []}])
    assert 'unknown security scheme "other"' in said([{"other": []}])
    keys = {"security": {"key": {"key_auth": {}}, "basic": {"basic_auth": {}}}}
    assert "has scopes, which the filter `key_auth` does not check" in said([{"key": ["admin"]}], keys)
    assert "no filter for the security scheme" in said([{}, {"jwt": []}], keys)


def schema(value: Any, version: str = "3.1.0", **components: Any) -> dict[str, Any]:
    body = operation(requestBody=json_body(value))
    return document({"/a": {"post": body}}, version, components={"schemas": components})


LOOP = {"$ref": "#/components/schemas/A"}


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        (
            schema({"$ref": "other.yaml#/A"}),
            '"other.yaml" cannot be read: No such file or directory; expected a reference',
        ),
        (schema({"$ref": "http://127.0.0.1:9/a.json"}), "references to other documents are not followed"),
        (schema({"$ref": "file:///etc/passwd"}), "references to other documents are not followed"),
        (schema({"$ref": "/etc/passwd"}), "references to other documents are not followed"),
        (schema({"$ref": "../shop.json"}), '"../shop.json" is outside the folder of the document'),
        (schema({"$ref": "a/../..%2Fshop.json"}), "is outside the folder of the document"),
        (schema({"$ref": "shop.json#/paths/b"}), '"shop.json#/paths/b" does not exist'),
        (document({"/a": {"get": {"$ref": "#/nowhere"}}}), '"#/nowhere" does not exist'),
        (
            document({"/a": {"get": {"$ref": "#/x-a", "security": []}}}, **{"x-a": operation()}),
            '"security" is beside the `$ref` of an operation',
        ),
        (schema(LOOP), '"#/components/schemas/A" does not exist'),
        (schema(LOOP, A=LOOP), "the schema refers to itself"),
        (schema(LOOP, A={"allOf": [{"$ref": "#/components/schemas/B"}]}, B={"not": LOOP}), "refers to itself"),
        (schema({"$dynamicRef": "#a"}), "`$dynamicRef` is not supported"),
        (schema({"$id": "http://a.example/"}), "`$id` is not supported"),
        (schema({"type": "strin"}), "not valid JSON Schema: `type`"),
        (schema(LOOP, A={"type": "string", "pattern": "(?=a)b"}), "takes more than linear time"),
        (schema({"pattern": "(a"}), "the pattern is not valid"),
        (schema({"oneOf": []}), "no schemas; expected a non-empty list"),
        (schema(True, "3.0.0"), "expected a schema, an object"),
        (schema({"type": "file"}, "3.0.0"), "`file` is a type of Swagger 2.0"),
        ({"swagger": "2.0", "paths": {}}, "Swagger 2.0 is not supported"),
        ({"openapi": "4.0.0", "paths": {}}, 'version "4.0.0"'),
        (document({}), "no operations"),
        (document({"a": {}}), "does not start with a slash"),
        *(
            (document({path: {"get": operation()}}), "has a brace that is no part of a parameter")
            for path in ("/a/{id", "/a/id}", "/a/{}", "/a/{b/c}", "/a/{{id}}")
        ),
        *(
            (
                schema({"discriminator": {"propertyName": "k", "mapping": {"a": meant}}, **more}, A={"type": "object"}),
                '"#/components/schemas/Nope" does not exist; expected the name of a schema of this document',
            )
            for meant in ("Nope", "#/components/schemas/Nope")
            for more in ({}, {"oneOf": [{"type": "object"}]}, {"oneOf": [LOOP]}, {"anyOf": [LOOP, {"type": "null"}]})
        ),
        (
            schema({"discriminator": {"propertyName": "k", "defaultMapping": "Nope"}, "oneOf": [{}]}, "3.2.0"),
            '"#/components/schemas/Nope" does not exist',
        ),
        (document({"/{a}": {"get": operation()}}), 'the path parameter "a" is not described'),
        (
            document({"/a": {"get": operation(parameters=[{"name": "a", "in": "body"}])}}),
            "expected path, query, header",
        ),
        (
            document(
                {"/a": {"get": operation(parameters=[{"name": "a", "in": "query", "style": "label", "schema": {}}])}}
            ),
            "expected form, spaceDelimited, pipeDelimited, deepObject in query",
        ),
        (document({"/a/{x}": {"get": operation()}, "/a/{y}": {"get": operation()}}), "matches the same requests as"),
        (document({"/a": {"get": {"responses": {"2000": {}}}}}), "expected a status such as 200"),
        *(
            (
                document({"/a": {"get": {"responses": {"200": {"content": {name: {}}}}}}}),
                "expected a content type such as",
            )
            for name in ("json", "text/plain\r\nX: y", "text/plän", "a/b c", "")
        ),
        (
            document({"/a": {"post": operation(requestBody={"content": {"json": {}}})}}),
            "expected a content type such as",
        ),
        (document({"/a": {"$ref": "#/paths/~1a"}}), "the reference leads back to itself"),
        (document({"/a": {"get": operation(**{"x-fastgw": {"filter": {}}})}}), 'did you mean "filters"?'),
    ],
)
def test_what_is_wrong_is_told_with_its_line(described: dict[str, Any], expected: str, tmp_path: Path) -> None:
    said = problems(tmp_path, described)
    assert expected in said
    assert said.startswith("shop.json:")


def test_a_path_has_operations_beside_those_that_it_refers_to(tmp_path: Path) -> None:
    """They may be in both; what is said twice is not defined (OpenAPI 3.0, 3.1, Path Item Object)."""
    number = {"name": "n", "in": "path", "required": True, "schema": {"type": "integer"}}
    shared = {"get": operation(operationId="read"), "servers": [{"url": "/shared"}], "parameters": [number]}
    paths: dict[str, Any] = {
        "/a/{n}": {"$ref": "#/components/pathItems/one", "post": operation(operationId="write")},
    }
    items = {"one": {"$ref": "#/components/pathItems/two", "put": operation(operationId="put")}, "two": shared}
    described = document(paths, "3.1.0", components={"pathItems": items})
    loaded = load(tmp_path, described)
    made = {each.name: (each.methods, each.paths) for each in loaded.config.routes}
    assert made == {
        "read": (("GET",), ("/shared/a/{n}",)),
        "write": (("POST",), ("/shared/a/{n}",)),
        "put": (("PUT",), ("/shared/a/{n}",)),
    }
    paths["/a/{n}"]["get"] = operation()
    assert "GET is in the path and in what its `$ref` leads to" in problems(tmp_path, described)


def test_all_that_is_said_about_a_path_counts_for_its_operations(tmp_path: Path) -> None:
    """Whatever is beside a reference, none of the filters and parameters that it leads to is left out."""
    limit = {"rate_limit": {"limit": 5, "window": "1s"}}
    n = {"name": "n", "in": "path", "required": True, "schema": {"type": "integer"}}
    a, b = ({"name": each, "in": "query", "schema": {"type": "integer"}} for each in "ab")
    shared = {
        "get": operation(operationId="read"),
        "x-fastgw": {"filters": limit, "timeout": "1s"},
        "parameters": [n, a],
    }
    beside = {
        "post": operation(operationId="write"),
        "x-fastgw": {"filters": {"size": {"body": "1MiB"}}, "timeout": "2s"},
        "parameters": [{**a, "schema": {"type": "string"}}, b],
    }
    paths = {"/a/{n}": {"$ref": "#/components/pathItems/one", **beside}}
    items = {"one": {"$ref": "#/components/pathItems/two"}, "two": shared}
    loaded = load(tmp_path, document(paths, "3.1.0", components={"pathItems": items}))
    made = {each.name: each for each in loaded.config.routes}
    for name, timeout, types in (("read", 1, ["integer"]), ("write", 2, ["string"])):
        assert set(made[name].filters) == {"rate_limit", "size", "openapi"}
        assert made[name].timeout == timeout
        operation_of = json.loads(made[name].filters["openapi"].settings.operation)
        assert {each["name"]: each["types"] for each in operation_of["parameters"]} == {
            "n": ["integer"],
            "a": types,
            "b": ["integer"],
        }


def test_a_method_that_is_always_rejected_is_told_with_its_line(tmp_path: Path) -> None:
    described = document({"/a": {"get": operation(), "trace": operation()}})
    assert "paths./a.trace: TRACE is always rejected" in problems(tmp_path, described)
    described = document({"/a": {"additionalOperations": {"copy": operation()}}}, "3.2.0")
    said = problems(tmp_path, described)
    assert said.startswith("shop.json:")
    assert "paths./a.additionalOperations.copy: copy is always rejected" in said


@pytest.mark.parametrize("url", ["v1", "./v1", "../v1", ".", "{base}/v1", "http://["])
def test_a_server_whose_path_is_unknown_is_one_problem(url: str, tmp_path: Path) -> None:
    servers = [{"url": url, "variables": {"base": {"default": "api"}}}]
    described = document({"/a": {"get": operation()}, "/b": {"get": operation()}}, servers=servers)
    expected = "expected a URL" if "[" in url else "is relative to the location of the document"
    said = problems(tmp_path, described, {"unknown_paths": "pass"})
    assert said.count("servers[0].url") == 1
    assert expected in said
    assert "paths./" not in said
    described = document({"/a": {"get": operation(servers=servers), "post": operation()}})
    assert "paths./a.get.servers[0].url" in problems(tmp_path, described)


def test_the_line_is_that_of_the_document(tmp_path: Path) -> None:
    text = """\
openapi: 3.0.3
info: {title: a, version: "1"}
paths:
  /a:
    get:
      parameters:
        - {name: n, in: query, schema: {type: integer, pattern: "(?!a)"}}
      responses: {200: {description: ok}}
"""
    assert problems(tmp_path, text).startswith("shop.yaml:7:65: paths./a.get.parameters[0].schema.pattern: the pattern")
    assert "shop.yaml:4:3" in problems(tmp_path, text.replace("/a:", "<<:"))


def test_equal_schemas_are_reported_wherever_they_are(tmp_path: Path) -> None:
    def item(bad: dict[str, Any]) -> dict[str, Any]:
        return {"get": operation(parameters=[{"name": "n", "in": "query", "schema": bad}])}

    for bad, wrong in (
        ({"type": "string", "pattern": "(?!a)"}, "the pattern is not valid"),  # by the library, in one go
        ({"type": "string", "$id": "urn:a"}, "`$id` is not supported"),  # while it is made
    ):
        said = problems(tmp_path, document({"/a": item(bad), "/b": item({**bad})})).splitlines()
        reported = [line.partition(" paths.")[2] for line in said if wrong in line]
        assert [each[:2] for each in reported] == ["/a", "/b"]


def test_schemas_that_are_equal_in_python_alone_are_not_the_same(tmp_path: Path) -> None:
    given = [{"name": name, "in": "query", "schema": {"const": value}} for name, value in (("a", 1), ("b", True))]
    described = document({"/a": {"get": operation(parameters=given)}}, "3.1.0")
    (route,) = load(tmp_path, described).config.routes
    assert '"const":1}' in route.filters["openapi"].settings.operation
    assert '"const":true}' in route.filters["openapi"].settings.operation


def test_an_operation_id_with_a_control_character(tmp_path: Path) -> None:
    said = problems(tmp_path, document({"/a": {"get": operation(operationId="\x1b[2J")}}))
    assert "paths./a.get.operationId: the control character U+001B in a name; expected a name without" in said


def test_bombs_are_refused_and_cycles_are_not(tmp_path: Path) -> None:
    levels = "\n".join(f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9))
    assert "aliases that repeat more than" in problems(
        tmp_path, f"openapi: 3.1.0\nx-a:\n  - &a0 [1]\n{levels}\npaths: {{}}\n"
    )
    chain = {
        f"S{n}": {"properties": {k: {"$ref": f"#/components/schemas/S{n + 1}"} for k in "abcdef"}} for n in range(40)
    }
    chain["S40"] = {"properties": {"again": {"$ref": "#/components/schemas/S0"}}}
    load(tmp_path, schema({"$ref": "#/components/schemas/S0"}, **chain))
    deep: Any = {}
    for _ in range(200):
        deep = {"not": deep}
    said = problems(tmp_path, schema(deep))
    assert "nested" in said


def test_the_entry_is_checked(tmp_path: Path) -> None:
    good = document({"/a": {"get": operation()}})
    assert "no upstream for GET /a; expected `upstream`, or `mock: true`" in problems(
        tmp_path, good, {"upstream": None}
    )
    assert 'unknown upstream "shop"' in problems(tmp_path, good, {"upstream": "shop"})
    assert "expected a path such as /docs" in problems(tmp_path, good, {"docs": "docs"})
    assert "expected a path such as /v1" in problems(tmp_path, good, {"base_path": "v1"})
    assert "unknown key" in problems(tmp_path, good, {"validation": True})
    assert "`unknown_paths: pass` needs an upstream" in problems(
        tmp_path, good, {"upstream": None, "mock": True, "unknown_paths": "pass"}
    )
    mocked = {"upstream": None, "mock": True}
    assert "has no effect without an upstream" in problems(tmp_path, good, mocked, around={"strip_prefix": "/v1"})
    assert "has no effect without an upstream" in problems(tmp_path, good, mocked, around={"retries": {"max": 1}})
    assert "has no effect without an upstream" in problems(tmp_path, good, {**mocked, "responses": "report"})
    assert 'the document has no security scheme "key"' in problems(tmp_path, good, {"security": {"key": {"jwt": {}}}})
    assert "unknown filter set" in problems(tmp_path, good, around={"use": ["a"]})


def test_a_changed_document_is_read_again_from_what_was_captured(tmp_path: Path) -> None:
    loaded = load(tmp_path, document({"/a": {"get": operation(operationId="a")}}), {"docs": "/docs"})
    again = config.load_sources(loaded.sources, loaded.captured, TYPES)
    assert again.config == loaded.config
    assert again.captured == loaded.captured


@pytest.mark.parametrize(
    ("own", "entry", "noted"),
    [
        ({}, {"mock": True}, "`mock` answers all operations; with `mock: false` requests"),
        ({}, {}, ""),
        ({}, {"mock": True, "upstream": None}, ""),
        ({}, {"mock": True, "unknown_paths": "pass"}, ""),
        ({"x-fastgw": {"mock": False}}, {"mock": True}, ""),
        (
            {"x-fastgw": {"mock": True}},
            {},
            "`x-fastgw: {mock: true}` answers all operations; with `x-fastgw: {mock: false}` requests",
        ),
    ],
)
def test_an_upstream_beside_mocks_that_gets_no_requests_is_noted(
    own: dict[str, Any], entry: dict[str, Any], noted: str, tmp_path: Path
) -> None:
    loaded = load(tmp_path, document({"/a": {"get": operation(**own)}}), entry)
    told = [str(each) for each in loaded.notes if each.path == "routes[0].openapi.upstream"]
    assert len(told) == bool(noted)
    assert not noted or f"it gets no requests: {noted} are sent to it" in told[0]
