"""openapi: which requests of an operation pass, and what those that do not are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from fastgw.observe.metrics.families import FilterEvent
from tests.unit.filters.policies.openapi.shop import PET, Shop, document, get, json_body, operation, post

SCALAR = {"type": "integer", "minimum": 1}
LIST = {"type": "array", "items": {"type": "integer"}, "maxItems": 3}
OBJECT = {"type": "object", "properties": {"R": {"type": "integer"}, "G": {"type": "integer"}}, "required": ["R"]}


def parameter(where: str, schema: Any, **more: Any) -> dict[str, Any]:
    return {"name": "p", "in": where, "schema": schema, **({"required": True} if where == "path" else {}), **more}


STYLES = [
    # schema, style, explode, accepted, refused with this keyword
    (SCALAR, "form", True, "p=3", ("p=0", "minimum")),
    (SCALAR, "form", True, "", ("p=x", "type")),
    (SCALAR, "form", True, "p=3&q=1", ("p=3&p=4", "repeated")),
    (LIST, "form", True, "p=1&p=2", ("p=1&p=x", "type")),
    (LIST, "form", False, "p=1,2,3", ("p=1,2,3,4", "maxItems")),
    (LIST, "spaceDelimited", False, "p=1%202+3", ("p=1%20a", "type")),
    (LIST, "pipeDelimited", False, "p=1|2%7C3", ("p=1|a", "type")),
    (OBJECT, "form", True, "R=1&G=2", ("R=x", "type")),
    (OBJECT, "form", False, "p=R,100,G,200", ("p=R,100,G", "style")),
    (OBJECT, "deepObject", True, "p[R]=1&p%5BG%5D=2", ("p[G]=2", "required")),
    (OBJECT, "deepObject", True, "p[R]=1", ("p[R][x]=1", "style")),
    (OBJECT, "deepObject", True, "p=1", ("p[G]=1&p=1", "required")),
    ({"anyOf": [OBJECT, SCALAR]}, "deepObject", True, "p=3", ("p=x", "anyOf")),
    ({"anyOf": [OBJECT, SCALAR]}, "deepObject", True, "p[R]=1", ("p[R]=1&p=3", "repeated")),
    (LIST, "deepObject", True, "p[]=1&p[]=2", ("p[]=1&p[]=x", "type")),
    (LIST, "deepObject", True, "p[0]=1&p%5B1%5D=2", ("p[1]=1&p[0]=2", "type")),
    (LIST, "deepObject", True, "q=1", ("p[0]=1&p[0]=2", "repeated")),
    ({"anyOf": [LIST, OBJECT]}, "deepObject", True, "p[R]=1", ("p[0]=x", "anyOf")),
    ({"anyOf": [LIST, {"type": "object"}]}, "deepObject", True, "p[0]=x", ("p[]=x", "anyOf")),
]


@pytest.mark.parametrize(("schema", "style", "explode", "accepted", "refused"), STYLES)
def test_a_query_parameter_is_read_in_its_style(
    schema: Any, style: str, explode: bool, accepted: str, refused: tuple[str, str], tmp_path: Path
) -> None:
    given = parameter("query", schema, style=style, explode=explode)
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=[given])}}))
    assert shop.sends(get(f"/x?{accepted}")) == 204
    assert shop.sends(get(f"/x?{refused[0]}")) == 400
    assert shop.errors[0][0] == "query"
    assert shop.errors[0][2] == refused[1]


@pytest.mark.parametrize(
    ("schema", "style", "explode", "accepted", "refused"),
    [
        (SCALAR, "simple", False, "5", "a"),
        (LIST, "simple", False, "1,2", "1,a"),
        (OBJECT, "simple", False, "R,1,G,2", "R,1,G"),
        (OBJECT, "simple", True, "R=1,G=2", "R,1"),
        (SCALAR, "label", False, ".5", "5"),
        (LIST, "label", False, ".1,2", ".1,a"),
        (LIST, "label", True, ".1.2", ".1.a"),
        (OBJECT, "label", True, ".R=1.G=2", ".G=2"),
        (SCALAR, "matrix", False, ";p=5", ";q=5"),
        (LIST, "matrix", False, ";p=1,2", ";p=1,a"),
        (LIST, "matrix", True, ";p=1;p=2", ";p=1;q=2"),
        (OBJECT, "matrix", False, ";p=R,1", ";p=R"),
        (OBJECT, "matrix", True, ";R=1;G=2", ";R"),
    ],
)
def test_a_path_parameter_is_read_in_its_style(
    schema: Any, style: str, explode: bool, accepted: str, refused: str, tmp_path: Path
) -> None:
    given = parameter("path", schema, style=style, explode=explode)
    shop = Shop(tmp_path, document({"/x/{p}": {"get": operation(parameters=[given])}}))
    assert shop.sends(get(f"/x/{accepted}")) == 204
    assert shop.sends(get(f"/x/{refused}")) == 400
    assert shop.errors[0][0] == "path"


def test_a_delimiter_that_is_encoded_is_data(tmp_path: Path) -> None:
    names = {"type": "array", "items": {"type": "string"}, "maxItems": 2}
    given = parameter("query", names, explode=False)
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=[given])}}))
    assert shop.sends(get("/x?p=a%2Cb,c")) == 204
    assert shop.sends(get("/x?p=a,b,c")) == 400


@pytest.mark.parametrize(
    ("schema", "explode"),
    [
        ({"type": "string", "minLength": 1}, True),
        (SCALAR, True),
        (LIST, True),
        ({**LIST, "minItems": 1}, False),
    ],
)
def test_a_parameter_may_be_empty_where_the_document_says_so(schema: Any, explode: bool, tmp_path: Path) -> None:
    given = [
        parameter("query", schema, explode=explode, allowEmptyValue=True),
        parameter("query", schema, explode=explode) | {"name": "other"},
    ]
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=given)}}))
    assert [shop.sends(get(f"/x?{query}")) for query in ("p", "p=", "p=a,,b", "other", "other=")] == [
        *(204, 204),
        *(204 if schema.get("type") == "string" else 400, 400, 400),
    ]


def test_headers_and_cookies_are_parameters(tmp_path: Path) -> None:
    given = [
        {"name": "X-Ids", "in": "header", "required": True, "schema": LIST},
        {"name": "session", "in": "cookie", "schema": {"type": "string", "minLength": 3}},
        {"name": "filter", "in": "query", "content": {"application/json": {"schema": OBJECT}}},
        {"name": "Accept", "in": "header", "required": True, "schema": {"enum": ["never"]}},
    ]
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=given)}}))
    assert shop.sends(get("/x", "X-Ids: 1, 2", "Cookie: a=b; session=abc")) == 204
    assert shop.sends(get("/x?filter=%7B%22R%22%3A1%7D", "X-Ids: 1", "X-Ids: 2")) == 204
    assert shop.sends(get("/x?filter={%22R%22:}", "Cookie: session=a")) == 400
    assert shop.errors == [
        ("header", "/X-Ids", "required"),
        ("cookie", "/session", "minLength"),
        ("query", "/filter", "json"),
    ]


def test_a_header_that_services_read_as_a_parameter_is_an_error(tmp_path: Path) -> None:
    given = [{"name": "X-N", "in": "header", "schema": {"type": "integer"}}]
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=given)}}))
    assert shop.sends(get("/x", "X-N: 1", "X-M_: a")) == 204
    for line in ("X_N: 1", "x.n: x"):
        assert shop.sends(get("/x", line)) == 400
        assert shop.errors == [("header", "/X-N", "name")]


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("[" + "1," * 999 + "1]", []),
        ("[" + "1," * 1000 + "1]", [("query", "/p", "maxItems")]),
        ('["' + "," * 2000 + '"]', []),
        ("[" + "[1]," * 499 + "[1]]", []),
        ("[" + "[1]," * 500 + "[1]]", [("query", "/p", "maxItems")]),
        ("{" + ",".join(f'"{place}":{{}}' for place in range(1001)) + "}", [("query", "/p", "maxItems")]),
        ("[" + "1," * 1000 + "]", [("query", "/p", "json")]),
        ("[" + "1e10," * 100 + "1e10]", [("query", "/p", "maxItems")]),
    ],
)
def test_a_parameter_of_json_has_as_many_elements_and_members_as_others(
    text: str, errors: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    given = [{"name": "p", "in": "query", "content": {"application/json": {"schema": {}}}}]
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=given)}}))
    assert shop.sends(get(f"/x?p={quote(text, safe='')}")) == (400 if errors else 204)
    assert not errors or shop.errors == errors


@pytest.mark.parametrize(
    ("given", "cookie", "accepted"),
    [
        ({"schema": {"enum": ["a+b"]}}, "p=a+b", True),
        ({"schema": {"enum": ["a b"]}}, "p=a+b", False),
        ({"schema": {"enum": ["a b"]}}, "p=a%20b", True),
        ({"schema": {"enum": ["a%20b"]}, "style": "cookie"}, "p=a%20b", True),
        ({"schema": {"items": {"enum": ["a+b", "c"]}, "type": "array"}, "explode": False}, "p=a+b,c", True),
        ({"content": {"application/json": {"schema": {"enum": ["a+b"]}}}}, "p=%22a+b%22", True),
    ],
)
def test_a_plus_sign_in_a_cookie_is_one(given: dict[str, Any], cookie: str, accepted: bool, tmp_path: Path) -> None:
    """RFC 6265 section 4.1.1, RFC 6570 section 3.2.1; only forms have it for a space."""
    described = document({"/x": {"get": operation(parameters=[{"name": "p", "in": "cookie", **given}])}})
    shop = Shop(tmp_path, described | {"openapi": "3.2.0"})
    assert shop.sends(get("/x", f"Cookie: {cookie}")) == (204 if accepted else 400)


def test_unknown_query_parameters_are_refused_where_asked_for(tmp_path: Path) -> None:
    key = {"type": "apiKey", "in": "query", "name": "api_key"}
    given = [parameter("query", OBJECT, style="deepObject")]
    described = document(
        {"/x": {"get": operation(parameters=given, security=[{"key": []}])}},
        components={"securitySchemes": {"key": key}},
    )
    keys = {
        "security": {"key": {"key_auth": {"key_names": ["api_key"], "key_in": ["query"]}}},
        "unknown_parameters": "refuse",
    }
    consumers = [{"name": "a", "key_auth": [{"key": "0123456789abcdef0123"}]}]
    shop = Shop(tmp_path, described, keys, consumers=consumers)
    assert shop.sends(get("/x?p[R]=1&api_key=0123456789abcdef0123")) == 204
    assert shop.sends(get("/x?p[R]=1&api_key=0123456789abcdef0123&admin=1")) == 400
    assert shop.errors == [("query", "", "unknown")]
    assert shop.sends(get("/x?p[R]=1")) == 401


def test_a_body_is_what_its_schema_says(tmp_path: Path) -> None:
    described = document(
        {"/pets": {"post": operation(requestBody=json_body({"$ref": "#/components/schemas/Pet"}))}},
        components={"schemas": {"Pet": PET}},
    )
    shop = Shop(tmp_path, described)
    assert shop.sends(post("/pets", b'{"name": "Rex", "nick": null, "friends": [{"name": "a"}]}')) == 204
    assert shop.forwarded.endswith(b'"friends": [{"name": "a"}]}')
    for body, expected in (
        (b'{"nick": 1}', {("body", "/nick", "type"), ("body", "", "required")}),
        (b'{"name": "a", "friends": [{"name": 1}]}', {("body", "/friends/0/name", "type")}),
        (b'{"name": "a", "name": "b"}', {("body", "", "json")}),
        (b'{"name": NaN}', {("body", "", "json")}),
        (b"[" * 2000 + b"]" * 2000, {("body", "", "json")}),
    ):
        assert shop.sends(post("/pets", body)) == 400
        assert set(shop.errors) == expected
        assert shop.forwarded == b""
    assert shop.sends(post("/pets", b"<pet/>", "application/xml")) == 415
    assert shop.sends(post("/pets", b"{}" + b" " * (128 * 1024))) == 413
    assert shop.sends(b"POST /pets HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n") == 400
    assert shop.errors == [("body", "", "required")]
    chunked = b"POST /pets HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert shop.sends(chunked + b"0\r\n\r\n") == 400
    assert shop.errors == [("body", "", "required")]


WITHOUT_BODY = {
    "/x": {"get": operation(), "post": operation(), "delete": operation()},
    "/y": {"get": operation(parameters=[parameter("query", SCALAR)])},
}


@pytest.mark.parametrize("target", ["GET /x", "POST /x", "DELETE /x", "GET /y?p=1"])
@pytest.mark.parametrize("kind", ["", "Content-Type: application/json\r\n"])
def test_an_operation_without_request_body_has_bodies_of_no_type(target: str, kind: str, tmp_path: Path) -> None:
    """Also one whose length is not declared: the upstream gets nothing before that has turned out to be empty."""
    shop = Shop(tmp_path, document(WITHOUT_BODY))
    begin = f"{target} HTTP/1.1\r\nHost: a\r\n{kind}"
    chunked = f"{begin}Transfer-Encoding: chunked\r\n\r\n".encode()
    for refused in (f"{begin}Content-Length: 2\r\n\r\n{{}}".encode(), chunked + b"2\r\n{}\r\n0\r\n\r\n"):
        assert shop.sends(refused) == 415
        assert shop.forwarded == b""
    assert b"A request body is not supported here." in shop.body
    for accepted in (f"{begin}\r\n".encode(), f"{begin}Content-Length: 0\r\n\r\n".encode(), chunked + b"0\r\n\r\n"):
        assert shop.sends(accepted) == 204
        assert shop.forwarded.startswith(target.encode())


def test_a_body_that_an_operation_does_not_have_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    """RFC 9110 section 10.1.1: the answer comes in place of a 100."""
    shop = Shop(tmp_path, document(WITHOUT_BODY))
    lines = "Host: a", "Expect: 100-continue", "Content-Length: 9", "", ""
    assert shop.sends("\r\n".join(["POST /x HTTP/1.1", *lines]).encode()) == 415
    client = shop.plane.client()
    client.sends(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert not shop.plane.pool.waiting  # nothing is forwarded
    client.sends(b"1\r\na\r\n0\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 415 ")
    assert not shop.plane.pool.waiting


def test_requests_without_body_of_an_operation_without_parameters_keep_their_fast_ways(tmp_path: Path) -> None:
    cached = {"x-fastgw": {"filters": {"cache": {}}}}
    shop = Shop(tmp_path, document({"/y": {"get": operation(**cached)}}))
    rules = [rule[0].route for routes in shop.plane.gateway.routes for rule in routes.rules]
    stored = next(each for each in rules if each.name == "GET /y")
    assert stored.chain.ready_answer is not None
    assert stored.chain.allows_fetch


def test_a_body_that_an_operation_does_not_have_is_reported(tmp_path: Path) -> None:
    shop = Shop(tmp_path, document(WITHOUT_BODY), {"validate": "report"})
    assert shop.sends(post("/x", b"{}")) == 204
    assert shop.forwarded.endswith(b"\r\n\r\n{}")
    assert "openapi: refuse 415 unsupported_media_type (expected no body)" in shop.plane.records[-1].shadowed
    assert shop.sends(post("/x", b"")) == 204
    assert not shop.plane.records[-1].shadowed


def test_a_refusal_has_nothing_of_the_request_and_few_errors(tmp_path: Path) -> None:
    described = document(
        {"/x": {"post": operation(requestBody=json_body({"type": "array", "items": {"type": "integer"}}))}}
    )
    shop = Shop(tmp_path, described)
    assert shop.sends(post("/x", b'["hunter2"' + b',"hunter2"' * 5000 + b"]")) == 400
    assert len(shop.errors) == 1
    assert b"hunter2" not in shop.received
    assert shop.sends(post("/x", b'["hunter2"' + b',"hunter2"' * 50 + b"]")) == 400
    assert len(shop.errors) == 10
    assert b"hunter2" not in shop.received


ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 3}}
PUBLIC: dict[str, Any] = {"security": [], "parameters": [ID]}
TEMPLATES = {
    "/items/{id}": {"get": operation(**PUBLIC), "post": operation(**PUBLIC)},
    "/items/{id}:cancel": {"post": operation(parameters=[ID])},
    "/items/{id}.json": {"get": operation(parameters=[ID])},
    "/items/new:cancel": {"post": operation(security=[])},
}
SECURED = {"securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}}}


@pytest.mark.parametrize("unknown_paths", ["refuse", "pass"])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("POST /items/5:cancel", 401),
        ("GET /items/5.json", 401),
        ("HEAD /items/5.json", 401),
        ("POST /items/5", 204),
        ("GET /items/5", 204),
        ("POST /items/new:cancel", 204),
    ],
)
def test_a_template_with_text_in_a_segment_is_not_shadowed_by_a_parameter(
    tmp_path: Path, request_line: str, status: int, order: int, unknown_paths: str
) -> None:
    paths = dict([*TEMPLATES.items()][::order])
    described = document(paths, components=SECURED, security=[{"key": []}])
    settings = {"security": {"key": {"key_auth": {}}}, "unknown_paths": unknown_paths}
    consumers = [{"name": "alice", "key_auth": [{"key": "alices-key-0123456789"}]}]
    shop = Shop(tmp_path, described, settings, consumers=consumers)
    assert shop.sends(f"{request_line} HTTP/1.1\r\nHost: a\r\n\r\n".encode()) == status
    key = "X-Api-Key: alices-key-0123456789"
    assert shop.sends(f"{request_line} HTTP/1.1\r\nHost: a\r\n{key}\r\n\r\n".encode()) == 204


def test_a_parameter_that_is_a_part_of_a_segment_is_validated(tmp_path: Path) -> None:
    shop = Shop(tmp_path, document({"/items/{id}:cancel": {"get": operation(parameters=[ID])}}))
    assert shop.sends(get("/items/123:cancel")) == 204
    assert shop.sends(get("/items/1234:cancel")) == 400
    assert shop.errors == [("path", "/id", "maxLength")]


FORM = {
    "type": "object",
    "required": ["n"],
    "properties": {
        "n": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "at": {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False},
        "file": {"type": "string", "format": "binary"},
    },
}


def test_an_urlencoded_form_is_an_object(tmp_path: Path) -> None:
    kind = "application/x-www-form-urlencoded"
    content = {kind: {"schema": FORM, "encoding": {"tags": {"explode": False}}}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody={"content": content})}}))
    assert shop.sends(post("/x", b"n=1&tags=a,b&at=%7B%22x%22%3A1%7D&other=1", kind)) == 204
    assert shop.sends(post("/x", b"n=1&tags=a,b,c", kind)) == 400
    assert shop.errors == [("body", "/tags", "maxItems")]
    assert shop.sends(post("/x", b"n=1&at=%7B%22y%22%3A1%7D", kind)) == 400
    assert shop.errors == [("body", "/at", "additionalProperties")]
    assert shop.sends(post("/x", b"n=1&n=2", kind)) == 400
    assert shop.errors == [("body", "", "repeated")]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"e[]=1&e[]=2&c=5", 204), (b"e[0]=1&c[gt]=5", 204), (b"e=", 204), (b"e[]=x", 400), (b"e=x", 400), (b"c=x", 400)],
)
def test_a_form_has_arrays_and_other_values_beside_deep_objects(body: bytes, status: int, tmp_path: Path) -> None:
    """As in documents of payment services: `expand[]`, and `created` as a time or a range."""
    deep, kind = {"style": "deepObject", "explode": True}, "application/x-www-form-urlencoded"
    properties = {
        "e": {"anyOf": [LIST, {"enum": [""], "type": "string"}]},
        "c": {"anyOf": [{"type": "object", "properties": {"gt": SCALAR}}, SCALAR]},
    }
    media = {"schema": {"type": "object", "properties": properties}, "encoding": {"e": deep, "c": deep}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody={"content": {kind: media}})}}))
    assert shop.sends(post("/x", body, kind)) == status


def test_a_deep_object_that_may_be_another_value_has_its_name_alone_too(tmp_path: Path) -> None:
    given = parameter("query", {"anyOf": [OBJECT, SCALAR]}, style="deepObject")
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=[given])}}), {"unknown_parameters": "refuse"})
    assert [shop.sends(get(f"/x?{query}")) for query in ("p=3", "p[R]=1", "pp=3")] == [204, 204, 400]


@pytest.mark.parametrize(("body", "most"), [(b"z&" * 999 + b"z", 1), (b"z&" * 1000, 0), (b"a&" * 65_000, 0)])
def test_the_fields_of_a_form_are_counted_before_they_are_read(
    body: bytes, most: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each name is decoded once, whatever the number of properties: 65,500 fields held the event loop for 0.1 s."""
    decoded: list[bytes] = []
    monkeypatch.setattr(
        "fastgw.filters.policies.openapi.parameters.decode_form_text", lambda raw: decoded.append(raw) or raw
    )
    properties = {f"field{number}": {"type": "string"} for number in range(20)}
    kind = "application/x-www-form-urlencoded"
    schema = {"type": "object", "properties": {**properties, "a": {"type": "array", "items": {"type": "string"}}}}
    content = {kind: {"schema": schema}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody={"content": content})}}))
    assert shop.sends(post("/x", body, kind)) == 400
    assert shop.errors == [("body", "", "repeated" if most else "maxItems")]
    assert len(decoded) == 1000 * most


@pytest.mark.parametrize("count", [1000, 1001])
@pytest.mark.parametrize("where", ["query", "cookie"])
def test_parameters_are_counted_before_they_are_read(where: str, count: int, tmp_path: Path) -> None:
    given = [{"name": "p", "in": where, "schema": {"type": "array", "items": {"type": "string"}}}]
    described = document({"/x": {"get": operation(parameters=given)}}, "3.1.0")
    shop = Shop(tmp_path, described, {"unknown_parameters": "refuse"})
    target, lines = (
        ("/x?" + "&".join(["p"] * count), []) if where == "query" else ("/x", ["Cookie: " + ";".join(["q="] * count)])
    )
    assert shop.sends(get(target, *lines)) == (204 if count == 1000 else 400)
    assert count == 1000 or shop.errors == [(where, "", "maxItems")]


@pytest.mark.parametrize(
    ("number", "count", "fits"), [("1e-300", 100, True), ("1e-300", 101, False), ("0.5", 101, True)]
)
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"in": "query"}, "/x?{many}"),
        ({"in": "query", "explode": False}, "/x?p={many}"),
        ({"in": "header"}, "{many}"),
        ({"in": "query", "explode": False, "schema": {"additionalProperties": {"type": "number"}}}, "/x?p={many}"),
    ],
)
def test_parameters_have_few_numbers_that_take_long_to_compare(
    given: dict[str, Any], text: str, number: str, count: int, fits: bool, tmp_path: Path
) -> None:
    schema = {"type": "array", "items": {"type": "number"}}
    if "schema" in given:
        schema, elements = {"type": "object", **given["schema"]}, [f"a{place},{number}" for place in range(count)]
    else:
        elements = [number] * count
    many = "p=" + "&p=".join(elements) if text == "/x?{many}" else ",".join(elements)
    parameter = {"name": "p", **given, "schema": schema}
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=[parameter])}}))
    sent = text.format(many=many)
    assert shop.sends(get(sent) if sent.startswith("/") else get("/x", f"p: {sent}")) == (204 if fits else 400)
    assert fits or shop.errors == [(given["in"], "/p", "maxItems")]


@pytest.mark.parametrize(("number", "fits"), [("0.00001", True), ("1e-05", False)])
def test_numbers_of_a_parameter_that_is_json_are_counted_as_they_are_written(
    number: str, fits: bool, tmp_path: Path
) -> None:
    schema = {"type": "array", "items": {"type": "number"}}
    parameter = {"name": "p", "in": "query", "content": {"application/json": {"schema": schema}}}
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=[parameter])}}))
    assert shop.sends(get(f"/x?p=[{','.join([number] * 101)}]")) == (204 if fits else 400)


@pytest.mark.parametrize(
    ("schema", "text", "keyword"),
    [
        (LIST, b",".join([b"1"] * 1001), "maxItems"),
        (OBJECT, b",".join([b"a"] * 2002), "maxProperties"),
        ({"type": "array", "items": {"type": "integer"}}, b",".join([b"1"] * 1000), None),
    ],
)
def test_the_elements_of_a_value_are_counted_before_they_are_read(
    schema: Any, text: bytes, keyword: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(
        "fastgw.filters.policies.openapi.parameters._text", lambda raw: decoded.append(raw) or raw.decode()
    )
    given = [{"name": "X-P", "in": "header", "schema": schema}]
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=given)}}))
    status = shop.sends(get("/x", f"X-P: {text.decode()}"))
    if keyword is None:
        assert (status, len(decoded)) == (204, 1000)
    else:
        assert (status, shop.errors, decoded) == (400, [("header", "/X-P", keyword)], [])


@pytest.mark.parametrize("shared", [False, True], ids=["in place", "of components"])
def test_the_error_of_a_long_body_is_that_of_its_alternatives(shared: bool, tmp_path: Path) -> None:
    """`test_schema_copies` counts the errors that are made."""
    list_of = [{"type": "array", "items": {"type": each}} for each in ("integer", "string")]
    held: dict[str, Any] = {"type": "object", "properties": {"o": {"oneOf": list_of}}}
    schema = {"$ref": "#/components/schemas/Order"} if shared else held
    described = document(
        {"/x": {"post": operation(requestBody=json_body(schema))}}, components={"schemas": {"Order": held}}
    )
    shop = Shop(tmp_path, described)
    assert shop.sends(post("/x", b'{"o":[' + b"1," * 2000 + b"1]}")) == 204
    assert shop.sends(post("/x", b'{"o":[' + b"1," * 2000 + b'"a"]}')) == 400
    assert shop.errors == [("body", "/o", "oneOf")]


@pytest.mark.parametrize(("kind", "status"), [("application/json", 415), ("application/octet-stream", 204)])
def test_a_body_with_a_content_coding_is_not_taken_for_its_content(kind: str, status: int, tmp_path: Path) -> None:
    """One that is not checked passes, as a coding changes nothing of that."""
    content = {"application/json": {"schema": {"type": "object"}}, "application/octet-stream": {}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody={"content": content})}}))
    head, mark, body = post("/x", b"{}", kind).partition(b"\r\n\r\n")
    assert shop.sends(head + b"\r\nContent-Encoding: gzip" + mark + body) == status
    assert shop.sends(head + b"\r\nContent-Encoding: identity" + mark + body) == 204


OTHERS = [
    ({"type": "string", "maxLength": 3}, [("x", "ok")], [("x", "long")], "maxLength"),
    ({"type": "string", "maxLength": 3}, [("x", "ok"), ("y", "ok")], [("x", "ok"), ("x", "long")], "repeated"),
    ({"type": "integer"}, [("x", "5")], [("x", "a")], "type"),
    ({"$ref": "#/components/schemas/N"}, [("x", "5")], [("x", "5"), ("x", "6")], "repeated"),
    (
        {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        [("x", "1"), ("x", "2")],
        [("x", "1")] * 3,
        "maxItems",
    ),
    ({"type": "object", "required": ["a"]}, [("x", '{"a": 1}')], [("x", "{}")], "required"),
    (True, [("x", "a")], [("x", "a"), ("x", "a")], "repeated"),
]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=XX"])
@pytest.mark.parametrize(("schema", "accepted", "refused", "keyword"), OTHERS)
def test_members_that_no_property_names_are_read_by_the_schema_of_the_others(
    tmp_path: Path,
    kind: str,
    schema: Any,
    accepted: list[tuple[str, str]],
    refused: list[tuple[str, str]],
    keyword: str,
) -> None:
    content = {
        kind.partition(";")[0]: {
            "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": schema}
        }
    }
    described = document(
        {"/x": {"post": operation(requestBody={"content": content})}},
        components={"schemas": {"N": {"type": "integer"}}},
    )
    shop = Shop(tmp_path, described)

    def body(fields: list[tuple[str, str]]) -> bytes:
        if kind.startswith("multipart"):
            return b"".join(part(name, value.encode()) for name, value in fields) + b"--XX--\r\n"
        return urlencode(fields).encode()

    assert shop.sends(post("/x", body([("n", "1"), *accepted]), kind)) == 204
    assert shop.sends(post("/x", body([("n", "1"), *refused]), kind)) == 400
    assert [each for _, _, each in shop.errors] == [keyword]


N = {"$ref": "#/components/schemas/N"}
S = {"type": "string", "maxLength": 3}
NUMBERS = {"type": "object", "patternProperties": {"^n_": {"type": "integer"}}}
B_BEHIND_A = {"if": {"required": ["a"]}, "then": {"properties": {"b": N}}}
OF_ALL_NAMES: list[tuple[Any, str, str, str]] = [
    # schema of the form, accepted, refused with this keyword
    (NUMBERS, "n_a=5", "n_a=x", "type"),
    ({"$ref": "#/components/schemas/Numbers"}, "n_a=5", "n_a=x", "type"),
    ({"allOf": [{"$ref": "#/components/schemas/Numbers"}]}, "n_a=5", "n_a=x", "type"),
    ({"$ref": "#/components/schemas/Numbers", "properties": {"m": N}}, "n_a=5&m=6", "m=x", "type"),
    ({"patternProperties": {"^n_": {"allOf": [N], "maximum": 5}}}, "n_a=5", "n_a=6", "maximum"),
    ({"patternProperties": {"^n": {"minimum": 5}, "_a": N}}, "n_a=5", "n_a=4", "minimum"),
    ({"patternProperties": {"^n": {"type": "array", "items": N}}}, "n_a=5&n_a=6", "n_a=5&n_a=x", "type"),
    ({"patternProperties": {"^n": {"type": "object", "required": ["x"]}}}, 'n_a={"x":1}', "n_a={}", "required"),
    (NUMBERS | {"additionalProperties": {"type": "string"}}, "n_a=5&b=5", "n_a=x&b=5", "type"),
    (NUMBERS | {"properties": {"n_a": {"minimum": 5}}}, "n_a=5", "n_a=4", "minimum"),
    ({"properties": {"s_a": {}}, "patternProperties": {"^s": {"type": "string"}}}, "s_a=5", "s_a=5&s_a=5", "repeated"),
    ({"patternProperties": {"^s": {"type": "string"}}, "additionalProperties": N}, "s_a=5&b=5", "s_a=5&b=x", "type"),
    ({"allOf": [{"properties": {"b": {"minimum": 5}}}, {"additionalProperties": N}]}, "b=5", "b=4", "minimum"),
    ({"additionalProperties": N | {"minimum": 5}}, "b=5", "b=4", "minimum"),
    ({"properties": {"b": {"$ref": "#/components/schemas/Five", "type": "integer"}}}, "b=5", "b=4", "minimum"),
    ({"unevaluatedProperties": N}, "b=5", "b=x", "unevaluatedProperties"),
    ({"if": {"required": ["a"]}, "then": {"properties": {"b": N}}}, "a=1&b=5", "a=1&b=x", "type"),
    ({"if": {"required": ["a"]}, "else": {"properties": {"b": N}}}, "b=5", "b=x", "type"),
    ({"dependentSchemas": {"a": {"properties": {"b": N}}}}, "a=1&b=5", "a=1&b=x", "type"),
    ({"properties": {"b": {"enum": [1, 2.5, True]}}}, "b=2.5", "b=3", "enum"),
    ({"properties": {"b": {"enum": ["1", 2]}}}, "b=1", "b=2", "enum"),
    ({"properties": {"b": {"anyOf": [{"type": "string"}, {"enum": [1]}]}}}, "b=5", "b=5&b=6", "repeated"),
    (
        {
            "if": {"required": ["a"]},
            "then": {"properties": {"b": N}},
            "else": {"properties": {"b": {"type": "string"}}},
        },
        "b=5",
        "a=1&b=x",
        "type",
    ),
    ({"patternProperties": {"^n": {"minimum": 5}}, "additionalProperties": N}, "n=5", "n=4", "minimum"),
    (
        {"anyOf": [{"patternProperties": {"^n": N | {"maximum": 3}}}, {"additionalProperties": {"type": "string"}}]},
        "n=5",
        "n=5&n=6",
        "repeated",
    ),
    ({"properties": {"b": {"const": True}}}, "b=true", "b=false", "const"),
    (B_BEHIND_A | {"else": {"oneOf": [{"properties": {"b": S}}, {"required": ["c"]}]}}, "b=5", "b=1234", "oneOf"),
    (
        B_BEHIND_A | {"anyOf": [{"required": ["a"]}, {"patternProperties": {"b": {"maxLength": 3}}}]},
        "b=5",
        "b=1234",
        "anyOf",
    ),
    (
        B_BEHIND_A | {"oneOf": [{"required": ["a"]}, {"required": ["c"], "patternProperties": {"^b": S}}]},
        "c=1&b=5",
        "c=1&b=1234",
        "oneOf",
    ),
    (B_BEHIND_A | {"else": {"not": {"properties": {"b": {"maxLength": 3}}}}}, "b=1234", "b=5", "not"),
]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=XX"])
@pytest.mark.parametrize(("schema", "accepted", "refused", "keyword"), OF_ALL_NAMES)
def test_a_member_of_a_form_has_the_type_of_the_schema_that_applies_to_it(
    tmp_path: Path, kind: str, schema: Any, accepted: str, refused: str, keyword: str
) -> None:
    components = {"N": {"type": "integer"}, "Numbers": NUMBERS, "Five": {"minimum": 5}}
    body = {"content": {kind.partition(";")[0]: {"schema": schema}}}
    described = document({"/x": {"post": operation(requestBody=body)}}, "3.1.0", components={"schemas": components})
    shop = Shop(tmp_path, described)
    for fields, status in ((accepted, 204), (refused, 400)):
        parts = [part(*each.split("=", 1)) for each in fields.split("&")]
        sent = b"".join(parts) + b"--XX--" if kind.startswith("multipart") else fields.encode()
        assert shop.sends(post("/x", sent, kind)) == status
    assert [each for _, _, each in shop.errors] == [keyword]


@pytest.mark.parametrize(
    ("style", "explode", "accepted", "refused"),
    [("deepObject", True, "p[n_a]=5", "p[n_a]=x"), ("form", False, "p=n_a,5,n,x", "p=n_a,x")],
)
def test_a_member_of_a_parameter_has_the_type_of_the_pattern_that_it_matches(
    style: str, explode: bool, accepted: str, refused: str, tmp_path: Path
) -> None:
    given = parameter("query", NUMBERS, style=style, explode=explode)
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=[given])}}, "3.1.0"))
    assert shop.sends(get(f"/x?{accepted}")) == 204
    assert shop.sends(get(f"/x?{refused}")) == 400
    assert [each for _, _, each in shop.errors] == ["type"]


def part(name: str, content: bytes | str, *lines: bytes) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    fields = b"".join(b"\r\n" + line for line in lines)
    return b'--XX\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name.encode(), fields, content)


def file_part(name: bytes, content: bytes, kind: bytes) -> bytes:
    head = b'--XX\r\nContent-Disposition: form-data; name="%b"; filename="a.png"\r\nContent-Type: %b\r\n\r\n' % (
        name,
        kind,
    )
    return head + content + b"\r\n"


def test_a_multipart_form_is_an_object(tmp_path: Path) -> None:
    content = {"multipart/form-data": {"schema": FORM, "encoding": {"file": {"contentType": "image/png, image/*"}}}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody={"content": content})}}))
    kind = "multipart/form-data; boundary=XX"
    good = part("n", b"1") + part("tags", b"a") + part("tags", b"b") + part("at", b'{"x": 1}')
    assert shop.sends(post("/x", good + file_part(b"file", b"\x89PNG\r\n", b"image/gif") + b"--XX--\r\n", kind)) == 204
    for body, expected in (
        (part("n", b"a") + b"--XX--", ("body", "/n", "type")),
        (part("n", b"1") + file_part(b"file", b"x", b"text/html") + b"--XX--", ("body", "", "contentType")),
        (part("n", b"1") + file_part(b"file", b"x", b";x") + b"--XX--", ("body", "", "contentType")),
        (part("n", b"1") + file_part(b"file", b"x", b"image/") + b"--XX--", ("body", "", "contentType")),
        (part("n", b"1") + part("file", b"x") + b"--XX--", ("body", "", "contentType")),
        (part("n", b"1") + part("n", b"1") + b"--XX--", ("body", "", "repeated")),
        (part("n", b"1"), ("body", "", "multipart")),
        (part("n", b"1") + b"--XX--\r\nmore", ("body", "", "multipart")),
        (b"--XX\r\nContent-Disposition: form-data\r\n\r\n1\r\n--XX--", ("body", "", "multipart")),
        (part("n", b"1", b"Content-Transfer-Encoding: base64") + b"--XX--", ("body", "", "multipart")),
        (b"--XX\r\nA:1\r\n\r\n\r\n" * 300 + b"--XX--", ("body", "", "multipart")),
    ):
        assert shop.sends(post("/x", body, kind)) == 400
        assert shop.errors == [expected]
    assert shop.sends(post("/x", good + b"--XX--", "multipart/form-data; boundary=a; boundary=XX")) == 400


SHORT: dict[str, Any] = {"type": "string", "maxLength": 3}
BYTES: dict[str, Any] = {"type": "string", "format": "binary"}
BASE64: dict[str, Any] = {"type": "string", "contentEncoding": "base64"}
IMAGE: dict[str, Any] = {"type": "string", "contentMediaType": "image/png"}


@pytest.mark.parametrize(
    ("schema", "encoded_as", "kind", "content", "keyword"),
    [
        (SHORT, None, b"text/plain", b"abc", ""),
        (SHORT, None, b"text/plain", b"abcd", "maxLength"),
        (SHORT, None, b"text/plain; charset=utf-7", b"abc", "encoding"),
        (SHORT, None, b"text/plain", b"\xff", "encoding"),
        (SHORT, None, b"application/octet-stream", b"abc", "contentType"),
        (SHORT, None, b"text/html", b"abc", "contentType"),
        (SHORT, None, b"application/json", b'"abcd"', "maxLength"),
        (SHORT, "text/csv", b"text/csv", b"abc", ""),
        (SHORT, "text/csv", b"text/csv", b"abcd", "maxLength"),
        (SHORT, "text/csv, image/*", b"image/png", b"\x89PNG", ""),
        ({"type": "array", "items": SHORT}, None, b"text/plain", b"abcd", "maxLength"),
        ({"type": "integer"}, None, b"text/plain", b"a", "type"),
        ({"type": "object", "maxProperties": 0}, None, b"application/json", b'{"a": 1}', "maxProperties"),
        (
            {"type": "string", "contentMediaType": "text/html", "maxLength": 3},
            None,
            b"text/plain",
            b"abcd",
            "maxLength",
        ),
        (BYTES, None, b"image/png", b"\x89PNG", ""),
        ({"type": "array", "items": BYTES}, None, b"image/png", b"\x89PNG", ""),
        ({"anyOf": [BYTES, {"type": "null"}]}, None, b"image/png", b"\x89PNG", ""),
        ({}, None, b"image/png", b"\x89PNG", ""),
        ({"anyOf": [{}, {"type": "null"}]}, None, b"image/png", b"\x89PNG", ""),
        ({"type": "array"}, None, b"image/png", b"\x89PNG", ""),
        ({"type": "array", "items": {}}, None, b"image/png", b"\x89PNG", ""),
        ({"type": "array", "items": True}, None, b"image/png", b"\x89PNG", ""),
        ({"type": ["array", "null"], "items": {}}, None, b"image/png", b"\x89PNG", ""),
        ({"type": "array", "items": {"type": ["string", "null"]}}, None, b"image/png", b"\x89PNG", "contentType"),
        ({"type": "null"}, None, b"text/plain", b"a", "type"),
        (BYTES, None, b"application/json", b"{", ""),
        ({"type": "array", "items": BYTES}, None, b"application/ld+json", b"{", ""),
        ({"anyOf": [BYTES, {"type": "null"}]}, None, b"application/json", b"{", ""),
        (BYTES, "application/json", b"application/json", b"\xff", ""),
        (BYTES, "image/png", b"application/json", b"{", "contentType"),
        ({"type": "string", "contentMediaType": "application/json"}, None, b"application/json", b"\xff", ""),
        (IMAGE, None, b"application/json", b"{", ""),
        (BASE64, None, b"application/json", b"{", "json"),
        ({"anyOf": [BYTES, {"type": "integer"}]}, None, b"application/json", b"5", ""),
        ({"anyOf": [BYTES, {"minimum": 3}]}, None, b"application/json", b"{", "json"),
        ({"type": "array", "items": BYTES}, "application/json", b"application/json", b"{", "json"),
        ({}, None, b"application/json", b"{", "json"),
        ({"anyOf": [BYTES, {"type": "object"}]}, None, b"application/json", b"{", "json"),
        (BASE64, None, b"image/png", b"\x89PNG", ""),
        (IMAGE, None, b"image/png", b"\x89PNG", ""),
        ({"type": "array", "items": IMAGE}, None, b"image/png", b"\x89PNG", ""),
    ],
)
def test_the_schema_decides_whether_a_part_is_a_file_and_no_file_name(
    tmp_path: Path,
    schema: dict[str, Any],
    encoded_as: str | None,
    kind: bytes,
    content: bytes,
    keyword: str,
) -> None:
    """Otherwise a client could pass by the schema of a text with a file name."""
    media: list[dict[str, Any]] = [{"schema": {"type": "object", "properties": {"a": schema}}}]
    if encoded_as is None:
        media.append({"schema": {"type": "object", "additionalProperties": schema}})
    else:
        media[0]["encoding"] = {"a": {"contentType": encoded_as}}
    sent = post("/x", file_part(b"a", content, kind) + b"--XX--", "multipart/form-data; boundary=XX")
    for each in media:
        body = {"content": {"multipart/form-data": each}}
        shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody=body)}}, "3.1.0"))
        assert shop.sends(sent) == (400 if keyword else 204)
        assert not keyword or [named for _, _, named in shop.errors] == [keyword]


@pytest.mark.parametrize("more", [{}, {"additionalProperties": {"type": "integer"}}])
def test_a_part_whose_name_matches_a_pattern_is_utf8(more: dict[str, Any], tmp_path: Path) -> None:
    """A service could read another text than the one that was checked."""
    schema = {"type": "object", "patternProperties": {"^s": {"type": "string", "maxLength": 5}}, **more}
    body = {"content": {"multipart/form-data": {"schema": schema}}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody=body)}}, "3.1.0"))
    for charset, status in ((b"utf-8", 204), (b"utf-7", 400)):
        sent = part("s", "+AHE-", b"Content-Type: text/plain; charset=" + charset) + b"--XX--"
        assert shop.sends(post("/x", sent, "multipart/form-data; boundary=XX")) == status
    assert [each for _, _, each in shop.errors] == ["encoding"]


def test_a_text_stays_one_where_a_schema_of_others_is_a_number(tmp_path: Path) -> None:
    """By the alternative that has its name it is a string."""
    alternatives = [{"required": ["a"], "properties": {"a": {}}, "patternProperties": {"^s": S}}]
    schema = {"unevaluatedProperties": {"type": "integer"}, "oneOf": alternatives}
    body = {"content": {"application/x-www-form-urlencoded": {"schema": schema}}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody=body)}}, "3.1.0"))
    sent = (b"a=1&s=5", b"a=1&s=1234", b"a=1&b=5", b"a=1&b=x")
    assert [shop.sends(post("/x", each, "application/x-www-form-urlencoded")) for each in sent] == [204, 400, 204, 400]


def test_members_could_be_strings_where_schemas_are_too_many_to_look_at(tmp_path: Path) -> None:
    text = {"properties": {"b": S}}
    otherwise: dict[str, Any] = {"oneOf": [*({"required": [f"m{each}"]} for each in range(1000)), text]}
    schema = {"if": {"required": ["a"]}, "then": {"properties": {"b": {"type": "integer"}}}, "else": otherwise}
    body = {"content": {"application/x-www-form-urlencoded": {"schema": schema}}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody=body)}}, "3.1.0"))
    assert shop.sends(post("/x", b"b=5", "application/x-www-form-urlencoded")) == 204


def test_a_part_without_a_content_type_is_a_text(tmp_path: Path) -> None:
    """RFC 7578 section 4.4."""
    encoding = {"tags": {"contentType": "text/plain"}}
    content = {"multipart/form-data": {"schema": FORM, "encoding": encoding}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody={"content": content})}}))
    body = part("n", b"1") + part("tags", b"a") + b"--XX--"
    assert shop.sends(post("/x", body, "multipart/form-data; boundary=XX")) == 204


@pytest.mark.parametrize(
    "member",
    [
        {"$ref": "#/components/schemas/Id"},
        {"allOf": [{"$ref": "#/components/schemas/Id"}], "description": "in 3.0 nothing may be beside a reference"},
        {"allOf": [{"allOf": [{"type": "string"}, {"readOnly": True}]}]},
    ],
)
def test_a_member_that_is_read_only_by_any_of_its_schemas_is_not_required(
    member: dict[str, Any], tmp_path: Path
) -> None:
    schema = {"type": "object", "required": ["id", "name"], "properties": {"id": member, "name": {}}}
    described = document(
        {"/x": {"post": operation(requestBody=json_body(schema))}},
        components={"schemas": {"Id": {"type": "string", "readOnly": True}}},
    )
    shop = Shop(tmp_path, described)
    assert shop.sends(post("/x", b'{"name": 1}')) == 204
    assert shop.sends(post("/x", b'{"id": "a"}')) == 400


@pytest.mark.parametrize(
    ("said", "more", "value", "status"),
    [
        ({"in": "header", "schema": LIST | {"minItems": 1}}, ("p:",), "", 400),
        ({"in": "query", "content": {"application/json": {"schema": LIST | {"minItems": 1}}}}, (), "?p=[]", 400),
        ({"in": "query", "schema": LIST | {"minItems": 1}, "explode": False}, (), "?p=", 204),
    ],
)
def test_only_what_is_sent_with_its_name_alone_in_a_query_is_empty(
    said: dict[str, Any], more: tuple[str, ...], value: str, status: int, tmp_path: Path
) -> None:
    given = {"name": "p", "allowEmptyValue": True, **said}
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=[given])}}))
    assert shop.sends(get(f"/x{value}", *more)) == status


def test_members_beside_a_reference_of_3_0_do_not_count(tmp_path: Path) -> None:
    beside = {"$ref": "#/components/schemas/Id", "properties": {"id": {"readOnly": True}}}
    described = document(
        {"/x": {"post": operation(requestBody=json_body({"allOf": [beside, {"required": ["id"]}]}))}},
        components={"schemas": {"Id": {"type": "object"}}},
    )
    assert Shop(tmp_path, described).sends(post("/x", b"{}")) == 400


def test_members_are_read_only_in_all_of_many_schemas(tmp_path: Path) -> None:
    """References are not counted as schemas of their own, and equal ones are looked at once."""
    names = [f"m{number}" for number in range(120)]
    schemas = {name: {"properties": {name: {"type": "string", "readOnly": True}}} for name in names}
    listed = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    described = document(
        {"/x": {"post": operation(requestBody=json_body({"required": names, "allOf": listed}))}},
        components={"schemas": schemas},
    )
    assert Shop(tmp_path, described).sends(post("/x", b"{}")) == 204


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=XX"])
@pytest.mark.parametrize(("number", "status"), [(20, 204), (21, 400)])
def test_names_are_matched_with_a_bounded_number_of_patterns(
    kind: str, number: int, status: int, tmp_path: Path
) -> None:
    patterns = {f"^n{each}_": {"type": "integer"} for each in range(number)}
    body = {"content": {kind.partition(";")[0]: {"schema": {"type": "object", "patternProperties": patterns}}}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody=body)}}, "3.1.0"))
    sent = part("n1_a", "5") + b"--XX--" if kind.startswith("multipart") else b"n1_a=5"
    assert shop.sends(post("/x", sent, kind)) == status


def test_a_member_that_is_a_list_by_one_schema_only_is_no_error_of_the_gateway(tmp_path: Path) -> None:
    schema = {"properties": {"b": {"type": "object"}}, "additionalProperties": {"type": "array"}}
    media = {"schema": schema, "encoding": {"b": {"style": "deepObject"}}}
    body = {"content": {"application/x-www-form-urlencoded": media}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody=body)}}))
    assert shop.sends(post("/x", b"b[a]=1&b=2", "application/x-www-form-urlencoded")) == 400
    assert [each for _, _, each in shop.errors] == ["repeated"]


def test_the_discriminator_chooses_the_schema(tmp_path: Path) -> None:
    schemas = {
        "Cat": {"type": "object", "properties": {"kind": {}, "lives": {"type": "integer"}}, "required": ["lives"]},
        "Dog": {"type": "object", "properties": {"kind": {}, "bark": {"type": "string"}}},
        "Animal": {
            "oneOf": [{"$ref": "#/components/schemas/Cat"}, {"$ref": "#/components/schemas/Dog"}],
            "discriminator": {"propertyName": "kind", "mapping": {"c": "#/components/schemas/Cat", "d": "Dog"}},
        },
    }
    described = document(
        {"/x": {"post": operation(requestBody=json_body({"$ref": "#/components/schemas/Animal"}))}},
        components={"schemas": schemas},
    )
    shop = Shop(tmp_path, described)
    assert shop.sends(post("/x", b'{"kind": "c", "lives": 9}')) == 204
    assert shop.sends(post("/x", b'{"kind": "Dog", "lives": 9}')) == 204  # both schemas fit, which oneOf refuses
    assert shop.sends(post("/x", b'{"kind": "c", "bark": "x"}')) == 400
    assert shop.errors == [("body", "", "required")]
    assert shop.sends(post("/x", b'{"kind": "x"}')) == 400
    assert ("body", "/kind", "enum") in shop.errors
    assert shop.sends(post("/x", b'{"lives": 9}')) == 400


@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
def test_a_value_in_the_mapping_of_a_discriminator_is_not_the_name_of_a_schema(version: str, tmp_path: Path) -> None:
    schemas = {
        "Cat": {"type": "object", "required": ["lives"]},
        "Dog": {"type": "object", "required": ["bark"]},
        "Animal": {
            "oneOf": [{"$ref": "#/components/schemas/Cat"}, {"$ref": "#/components/schemas/Dog"}],
            "discriminator": {"propertyName": "kind", "mapping": {"Cat": "Dog", "c": "Cat"}},
        },
    }
    animal = json_body({"$ref": "#/components/schemas/Animal"})
    described = document({"/x": {"post": operation(requestBody=animal)}}, version, components={"schemas": schemas})
    shop = Shop(tmp_path, described)
    assert shop.sends(post("/x", b'{"kind": "Cat", "bark": 1}')) == 204
    assert shop.sends(post("/x", b'{"kind": "Cat", "lives": 1}')) == 400
    assert shop.sends(post("/x", b'{"kind": "c", "lives": 1}')) == 204
    assert shop.sends(post("/x", b'{"kind": "Dog", "bark": 1}')) == 204


@pytest.mark.parametrize(
    ("version", "value", "accepted"),
    [
        ("3.2.0", {"k": "A", "a": 1}, True),
        ("3.2.0", {"k": "A", "b": 1}, False),
        ("3.2.0", {"k": "zz", "b": 1}, True),
        ("3.2.0", {"k": "zz", "a": 1}, False),
        ("3.2.0", {"b": 1}, True),
        ("3.2.0", {"a": 1}, False),
        ("3.2.0", {"k": "B", "a": 1}, False),
        ("3.2.0", [], False),
        ("3.1.1", {"k": "zz", "b": 1}, False),  # which has no `defaultMapping`
    ],
)
@pytest.mark.parametrize("default", ["B", "#/components/schemas/B"])
def test_the_default_of_a_discriminator_is_for_other_values_and_for_none(
    default: str, version: str, value: Any, accepted: bool, tmp_path: Path
) -> None:
    """OpenAPI 3.2 section 4.25: absent, or without an explicit or implicit mapping."""
    animal = {
        "oneOf": [{"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/B"}],
        "discriminator": {"propertyName": "k", "defaultMapping": default},
    }
    schemas = {name: {"type": "object", "required": [name.lower()]} for name in ("A", "B")}
    described = document(
        {"/x": {"post": operation(requestBody=json_body(animal))}}, version, components={"schemas": schemas}
    )
    shop = Shop(tmp_path, described)
    assert shop.sends(post("/x", json.dumps(value).encode())) == (204 if accepted else 400)


OF_A: dict[str, Any] = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
OF_PARTS = 'multipart/form-data; boundary="b"'


@pytest.mark.parametrize(
    ("key", "kind", "accepted", "refused"),
    [
        ("*/*", "application/json", b'{"a":1}', b"{}"),
        ("application/*", "application/json", b'{"a":1}', b"{}"),
        ("application/*", "application/problem+json", b'{"a":1}', b'{"a":"x"}'),
        ("application/*+json", "application/problem+json", b'{"a":1}', b'{"a":"x"}'),
        ("*/*", "application/x-www-form-urlencoded", b"a=1", b"b=1"),
        ("application/*", "application/x-www-form-urlencoded", b"a=1", b"a=x"),
        ("*/*", "application/xml", b"<x><a>1</a></x>", b"<x/>"),
        ("application/*", "application/soap+xml", b"<x><a>1</a></x>", b"<x><a>b</a></x>"),
        ("text/*", "text/xml", b"<x><a>1</a></x>", b"<x/>"),
        ("*/*", OF_PARTS, b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--', b"--b--"),
        ("multipart/*", OF_PARTS, b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--', b"--b--"),
        ("*/*", "application/octet-stream", b"anything", None),
        ("multipart/*", "multipart/mixed", b"anything", None),
        ("application/*", "text/plain", None, b"a"),
        ("*/*", "text/plain", None, b"an object is no text"),
    ],
)
def test_the_schema_of_a_media_range_is_that_of_the_types_in_it(
    key: str, kind: str, accepted: bytes | None, refused: bytes | None, tmp_path: Path
) -> None:
    """By the type that was sent, as if the document had it."""
    body = {"required": True, "content": {key: {"schema": OF_A}}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody=body)}}))
    if accepted is not None:
        assert shop.sends(post("/x", accepted, kind)) == 204
    if refused is not None:
        assert shop.sends(post("/x", refused, kind)) == (
            415 if key == "application/*" and kind == "text/plain" else 400
        )


def test_the_most_specific_content_type_is_that_of_a_body(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "*/*": {"schema": {"type": "object", "required": ["any"]}},
        "application/*": {"schema": {"type": "object", "required": ["range"]}},
        "application/*+json": {"schema": {"type": "object", "required": ["suffix"]}},
        "application/json": {"schema": {"type": "object", "required": ["exact"]}},
    }
    body = {"required": True, "content": content}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody=body)}}))
    for kind, required in (
        ("application/json; charset=utf-8", "exact"),
        ("application/a+json", "suffix"),
        ("application/x-www-form-urlencoded", "range"),
        ("text/a+json", "any"),
    ):
        text = urlencode({required: 1}) if "form" in kind else json.dumps({required: 1})
        assert shop.sends(post("/x", text.encode(), kind)) == 204, kind
        others = ["any", "range", "suffix", "exact"]
        others.remove(required)
        text = urlencode(dict.fromkeys(others, 1)) if "form" in kind else json.dumps(dict.fromkeys(others, 1))
        assert shop.sends(post("/x", text.encode(), kind)) == 400, kind


@pytest.mark.parametrize("media", [{}, {"schema": {}}, {"schema": {"type": "string", "format": "binary"}}])
def test_a_media_range_without_a_schema_of_values_is_for_bodies_of_any_kind(
    media: dict[str, Any], tmp_path: Path
) -> None:
    """Uploads: they are streamed, so that `max_body` does not hold for them."""
    body = {"required": True, "content": {"*/*": media}}
    shop = Shop(tmp_path, document({"/x": {"post": operation(requestBody=body)}}), {"max_body": 100})
    for kind in ("application/json", "text/plain", "image/png"):
        assert shop.sends(post("/x", b"{" * 200, kind)) == 204


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("schema", [OF_A, {"required": ["a"], "properties": {"a": {"type": "integer"}}}])
def test_the_whole_query_is_what_its_schema_says(schema: Any, required: bool, tmp_path: Path) -> None:
    """`in: querystring` of OpenAPI 3.2."""
    media = {"schema": {**schema, "additionalProperties": False}}
    content = {"application/x-www-form-urlencoded": media}
    given = {"name": "all", "in": "querystring", "required": required, "content": content}
    described = document({"/x": {"get": operation(parameters=[given])}}, "3.2.0")
    shop = Shop(tmp_path, described, {"unknown_parameters": "refuse"})
    assert shop.sends(get("/x?a=1")) == 204
    assert shop.sends(get("/x")) == (400 if required else 204)
    assert shop.sends(get("/x?a=1&b=2")) == 400
    assert shop.errors == [("querystring", "/all", "additionalProperties")]
    assert shop.sends(get("/x?b=2")) == 400
    assert shop.sends(get("/x?a=x")) == 400
    assert shop.errors == [("querystring", "/all/a", "type")]
    media["schema"] = schema
    shop = Shop(tmp_path, described)
    assert shop.sends(get("/x?a=1&b=2")) == 204


def test_schemas_of_3_0_and_3_1_are_those_of_their_version(tmp_path: Path) -> None:
    old = {
        "type": "object",
        "properties": {
            "a": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
            "b": {"nullable": True, "allOf": [{"$ref": "#/components/schemas/B"}]},
            "c": {"type": "string", "nullable": True, "enum": ["x"]},
            "d": {"type": "integer", "format": "int32"},
            "e": {"type": "string", "format": "byte"},
            "f": {"type": "string", "format": "date-time"},
        },
    }
    new = {
        "type": "object",
        "properties": {
            "a": {"type": "number", "exclusiveMinimum": 0},
            "b": {"$ref": "#/components/schemas/B", "maxProperties": 1},
            "c": {"type": ["string", "null"], "const": "x"},
            "d": {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
        },
        "patternProperties": {"^x-": True},
        "unevaluatedProperties": False,
    }
    shared = {"schemas": {"B": {"type": "object"}}}

    def paths(schema: Any) -> dict[str, Any]:
        return {"/x": {"post": operation(requestBody=json_body(schema))}}

    shop = Shop(tmp_path, document(paths(old), components=shared))
    good: list[Any] = [{"a": 1}, {"b": None}, {"b": {}}, {"c": "x"}, {"d": 2**31 - 1}, {"e": "YQ=="}]
    bad: list[Any] = [{"a": 0}, {"b": 1}, {"c": None}, {"d": 2**31}, {"e": "Y"}, {"f": "today"}]
    for value in good:
        assert shop.sends(post("/x", json.dumps(value).encode())) == 204, value
    for value in bad:
        assert shop.sends(post("/x", json.dumps(value).encode())) == 400, value
    shop = Shop(tmp_path, document(paths(new), "3.1.0", components=shared))
    for value in [{"a": 1}, {"b": {"q": 1}}, {"c": "x"}, {"d": [1]}, {"x-a": 1}]:
        assert shop.sends(post("/x", json.dumps(value).encode())) == 204, value
    for value in [{"a": 0}, {"b": {"q": 1, "r": 2}}, {"c": "y"}, {"d": [1, 2]}, {"d": ["a"]}, {"z": 1}]:
        assert shop.sends(post("/x", json.dumps(value).encode())) == 400, value


def test_report_lets_pass_and_tells_the_log(tmp_path: Path) -> None:
    described = document(
        {
            "/x": {
                "post": operation(
                    requestBody=json_body({"type": "object"}), parameters=[parameter("query", SCALAR, required=True)]
                )
            }
        }
    )
    shop = Shop(tmp_path, described, {"validate": "report"})
    assert shop.sends(post("/x?p=a", b"[1]")) == 204
    assert shop.forwarded.endswith(b"[1]")
    shadowed = shop.plane.records[-1].shadowed
    assert "openapi: refuse 400 validation_failed (query /p: type)" in shadowed
    assert "openapi: refuse 400 validation_failed (body -: type)" in shadowed
    assert shop.plane.observer.filters == [("openapi", FilterEvent.ANSWER)] * 2
    assert shop.sends(post("/x?p=1", b"{}" + b" " * 200_000)) == 204


@pytest.mark.parametrize(("objects", "reports"), [(15_999, True), (16_000, False)])
def test_bodies_of_very_many_arrays_and_objects_are_not_checked_to_be_reported(
    objects: int, reports: bool, tmp_path: Path
) -> None:
    """What makes their values takes longer than the event loop may wait."""
    body = b"[" + b",".join([b"{}"] * objects) + b"]"
    content = {"application/json": {"schema": {"type": "object"}}}
    described = document(
        {
            "/x": {
                "post": operation(
                    requestBody={"content": content}, responses={"200": {"description": "", "content": content}}
                )
            }
        }
    )
    shop = Shop(tmp_path, described, {"validate": "report", "responses": "report"})
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    assert shop.sends(post("/x", body), answer) == 200
    shadowed = shop.plane.records[-1].shadowed
    assert ("refuse 400" in shadowed, "response 200 does not conform" in shadowed) == (reports, reports)


@pytest.mark.parametrize(("numbers", "reports"), [(100, True), (101, False)])
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
def test_numbers_with_exponents_are_not_checked_to_be_reported(
    kind: str, numbers: int, reports: bool, tmp_path: Path
) -> None:
    array = b"[" + b",".join([b"1e-30"] * numbers) + b"]"
    body = array if kind == "application/json" else b"n=" + array
    never = {"type": "array", "maxItems": 2}
    schema = never if kind == "application/json" else {"type": "object", "properties": {"n": never}}
    content = {kind: {"schema": schema, "encoding": {"n": {"contentType": "application/json"}}}}
    answers = {"200": {"description": "", "content": {"application/json": {"schema": never}}}}
    described = document({"/x": {"post": operation(requestBody={"content": content}, responses=answers)}})
    shop = Shop(tmp_path, described, {"validate": "report", "responses": "report"})
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(array), array)
    assert shop.sends(post("/x", body, kind), answer) == 200
    shadowed = shop.plane.records[-1].shadowed
    assert ("refuse 400" in shadowed, "response 200 does not conform" in shadowed) == (reports, reports)


@pytest.mark.parametrize("media", [{}, {"example": {"a": 1}}])
def test_a_media_type_without_a_schema(media: dict[str, Any], tmp_path: Path) -> None:
    content = {"application/json": media, "application/problem+json": media}
    answers = {"200": {"description": "", "content": content}}
    described = document({"/x": {"post": operation(requestBody={"content": content}, responses=answers)}})
    shop = Shop(tmp_path, described)
    assert shop.sends(post("/x", b"[1]")) == 204
    assert shop.sends(post("/x", b"[1")) == 400


def test_responses_that_do_not_conform_are_reported(tmp_path: Path) -> None:
    responses = {
        "200": {"description": "", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}},
        "4XX": {"description": ""},
    }
    described = document({"/x": {"get": operation(responses=responses)}}, components={"schemas": {"Pet": PET}})
    shop = Shop(tmp_path, described, {"responses": "report"})

    def reported(status: int, body: bytes, kind: bytes = b"application/json") -> str:
        head = b'HTTP/1.1 %d OK\r\nConnection: close\r\nETag: "a"\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n' % (
            status,
            kind,
            len(body),
        )
        assert shop.sends(get("/x"), head + body) == status
        assert shop.body == body
        assert b'ETag: "a"' in shop.received
        return shop.plane.records[-1].shadowed

    assert reported(200, b'{"id": 1, "name": "a"}') == ""
    assert reported(404, b"gone", b"text/plain") == ""
    assert "openapi: response 200 does not conform (body -: required)" in reported(200, b'{"name": "a"}')
    assert "response 200 does not conform" in reported(200, b'{"id": 1, "name": "a", "secret"')
    assert "response 500 is not in the document" in reported(500, b"{}")
    assert "content type that is not in the document" in reported(200, b"a", b"text/html")


def test_responses_of_a_media_range_are_reported(tmp_path: Path) -> None:
    responses = {"200": {"description": "", "content": {"*/*": {"schema": OF_A}}}}
    shop = Shop(tmp_path, document({"/x": {"get": operation(responses=responses)}}), {"responses": "report"})
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
    for kind, good, bad in (
        (b"application/json", b'{"a":1}', b"{}"),
        (b"application/xml", b"<x><a>1</a></x>", b"<x/>"),
    ):
        assert shop.sends(get("/x"), head % (kind, len(good), good)) == 200
        assert shop.plane.records[-1].shadowed == ""
        assert shop.sends(get("/x"), head % (kind, len(bad), bad)) == 200
        assert "response 200 does not conform" in shop.plane.records[-1].shadowed


def test_concrete_paths_come_before_templates_and_heads_are_gets(tmp_path: Path) -> None:
    given = [parameter("path", {"type": "integer"})]
    described = document(
        {
            "/pets/{p}": {"get": operation(parameters=given, operationId="one")},
            "/pets/mine": {"get": operation(operationId="mine"), "head": operation(operationId="head")},
            "/pets/{p}.{q}": {"get": operation(parameters=[*given, {**given[0], "name": "q"}], operationId="dotted")},
        },
        servers=[{"url": "https://{host}/{base}", "variables": {"base": {"default": "v1"}}}],
    )
    shop = Shop(tmp_path, described)
    for target, name in (("/v1/pets/mine", "mine"), ("/v1/pets/7", "one")):
        assert shop.sends(get(target)) == 204
        assert shop.plane.records[-1].route == name
    assert shop.sends(b"HEAD /v1/pets/mine HTTP/1.1\r\nHost: a\r\n\r\n") == 204
    assert shop.plane.records[-1].route == "head"
    assert shop.sends(b"HEAD /v1/pets/7 HTTP/1.1\r\nHost: a\r\n\r\n") == 204
    assert shop.sends(get("/v1/pets/a")) == 400
    assert shop.sends(get("/pets/7")) == 404
    assert shop.sends(b"DELETE /v1/pets/7 HTTP/1.1\r\nHost: a\r\n\r\n") == 405


def test_a_head_that_a_path_refers_to_is_not_answered_by_the_get_beside_the_reference(tmp_path: Path) -> None:
    given = [parameter("query", {"type": "integer"}) | {"required": True}]
    paths = {"/a": {"$ref": "#/components/pathItems/one", "get": operation(operationId="get")}}
    items = {"one": {"head": operation(operationId="head", parameters=given)}}
    shop = Shop(tmp_path, document(paths, "3.1.0", components={"pathItems": items}))
    assert shop.sends(b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n") == 400
    assert shop.plane.records[-1].route == "head"
    assert shop.sends(get("/a")) == 204


def test_a_reload_takes_the_new_document(tmp_path: Path) -> None:
    def described(most: int, pattern: str) -> dict[str, Any]:
        limit = {"name": "n", "in": "query", "schema": {"type": "integer", "maximum": most}}
        return document(
            {
                "/a": {"get": operation(parameters=[limit])},
                "/b": {"post": operation(requestBody=json_body({"$ref": "#/components/schemas/B"}))},
            },
            components={"schemas": {"B": {"type": "string", "pattern": pattern}}},
        )

    shop = Shop(tmp_path, described(5, "^a"))
    assert (shop.sends(get("/a?n=9")), shop.sends(post("/b", b'"b"'))) == (400, 400)
    shop.file.write_text(json.dumps(described(5, "^b")))  # only a schema that operations share
    shop.plane.adopts({"routes": [{"openapi": shop.settings}]})
    assert (shop.sends(get("/a?n=9")), shop.sends(post("/b", b'"b"'))) == (400, 204)
    shop.file.write_text(json.dumps(described(9, "^b")))
    shop.plane.adopts({"routes": [{"openapi": shop.settings}]})
    assert (shop.sends(get("/a?n=9")), shop.sends(post("/b", b'"a"'))) == (204, 400)


def test_a_pattern_cannot_take_exponential_time(tmp_path: Path) -> None:
    given = parameter("query", {"type": "string", "pattern": "^(a+)+$"})
    shop = Shop(tmp_path, document({"/x": {"get": operation(parameters=[given])}}))
    assert shop.sends(get(f"/x?p={'a' * 4000}!")) == 400


def test_parameters_of_two_operations_are_told_apart_by_all_that_they_differ_in(tmp_path: Path) -> None:
    """Equal ones are one in memory."""
    given = parameter("query", LIST)
    paths = {
        "/a": {"get": operation(parameters=[given])},
        "/b": {"get": operation(parameters=[{**given}])},
        "/c": {"get": operation(parameters=[{**given, "explode": False}])},
        "/d": {"get": operation(parameters=[{**given, "required": True}])},
        "/e": {"get": operation(parameters=[{**given, "schema": {**LIST, "maxItems": 1}}])},
    }
    shop = Shop(tmp_path, document(paths))
    answers = {query: [shop.sends(get(f"/{each}{query}")) for each in "abcde"] for query in ("", "?p=1&p=2", "?p=1,2")}
    assert answers == {
        "": [204, 204, 204, 400, 204],
        "?p=1&p=2": [204, 204, 400, 204, 400],
        "?p=1,2": [400, 400, 204, 400, 400],
    }
