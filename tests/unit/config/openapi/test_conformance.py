"""Keys that OpenAPI does not have, and values of another type than it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.table import for_each
from tests.unit.config.openapi.test_expand import KEY, SCHEMES, load, problems
from tests.unit.filters.policies.openapi.shop import document, json_body, operation

ITEM: dict[str, Any] = {"get": operation()}
SCHEMA: dict[str, Any] = {"type": "string"}


def with_operation(**said: Any) -> dict[str, Any]:
    return document({"/a": {"post": operation(**said)}})


def with_parameter(**said: Any) -> dict[str, Any]:
    return with_operation(parameters=[{"name": "n", "in": "query", "schema": SCHEMA} | said])


def with_schema(schema: Any, version: str = "3.0.3") -> dict[str, Any]:
    return document({"/a": {"post": operation(requestBody=json_body(schema))}}, version)


@for_each(
    ("described", "expected"),
    [
        (with_operation(securty=[]), 'post.securty: unknown key; did you mean "security"?'),
        (with_operation(Security=[]), 'post.Security: unknown key; did you mean "security"?'),
        (with_operation(parameter=[]), 'post.parameter: unknown key; did you mean "parameters"?'),
        (with_operation(requestbody={}), 'post.requestbody: unknown key; did you mean "requestBody"?'),
        (with_parameter(shema={}), 'parameters[0].shema: unknown key; did you mean "schema"?'),
        (document({"/a": {**ITEM, "POST": {}}}), 'paths./a.POST: unknown key; did you mean "post"?'),
        (
            document({"/a": {**ITEM, "security": []}}),
            "paths./a.security: unknown key; expected it in document or operation",
        ),
        (document({"/a": {**ITEM, "query": {}}}), "paths./a.query: unknown key; expected `openapi: 3.2.x`"),
        *(
            (document({"/a": {"post": {key: "#/x"}}}), f'{at}: unknown key; did you mean "$ref"?')
            for key, at in (("$Ref", 'post["$Ref"]'), ("ref", "post.ref"), ("$ref ", 'post["$ref "]'))
        ),
        (document({"/a": {"$reff": "#/x"}, "/b": ITEM}), 'a["$reff"]: unknown key; did you mean "$ref"?'),
        (document({"/a": {"get": {"get": operation(security=[])}}}), "get.get: unknown key; expected it in path"),
        (document({"/a": {"get": {"list": operation(security=[])}}}), "a.get.list: unknown key; expected one of"),
        (
            with_operation(requestBody={"content": {"application/json": {"type": "string"}}}),
            "application/json.type: unknown key; expected one of",
        ),
        (document({"/a": ITEM}, securitySchemes={}), None),
        (document({"/a": ITEM}, components={"securityScheme": {}}), 'did you mean "securitySchemes"?'),
        (
            document({"/a": ITEM}, components={"parameters": {"p": {"name": "n", "in": "query"}}}),
            "neither `schema` nor",
        ),
        (with_operation(callbacks={}, responses={"$ref": {}}), 'responses["$ref"]: "$ref"; expected a status'),
        (with_operation(requestBody=json_body({}) | {"required": "a"}), 'required: "a"; expected true or false'),
        (
            with_operation(requestBody=json_body({}) | {"required": "true"}),
            'required: "true" in quotes; expected true or false without quotes',
        ),
        (with_parameter(required="true"), 'parameters[0].required: "true" in quotes'),
        (with_parameter(explode=1), "parameters[0].explode: 1; expected true or false"),
        (with_parameter(schema=SCHEMA, content={"text/plain": {}}), "both `schema` and `content`"),
        (with_operation(parameters=[{"name": "n", "in": "query"}]), "neither `schema` nor `content`; expected one"),
        (document({"/a": ITEM}, servers={"url": "/v1"}), "servers: an object; expected a list"),
        (document({"/a": ITEM}, servers=[{"url": 5}]), "servers[0].url: 5; expected a string"),
        (document({"/a": ITEM}, servers=[{"$ref": "#/paths"}]), "a reference is not followed here"),
        (with_operation(security={}), "post.security: an object; expected a list"),
        (with_schema({"required": "a"}), "schema.required: not valid JSON Schema: `required`"),
        (with_schema({"properties": {"a": {"readOnly": "true"}}}), 'readOnly: "true" in quotes'),
        (with_schema({"nullable": 1}), "schema.nullable: 1; expected true or false"),
    ],
)
def test_what_would_change_the_meaning_is_an_error(
    described: dict[str, Any], expected: str | None, tmp_path: Path
) -> None:
    if expected is None:
        assert load(tmp_path, described).notes
        return
    said = problems(tmp_path, described)
    assert expected in said
    assert said.count("\n") == 0
    assert said.startswith("shop.json:")


@for_each(
    ("described", "expected"),
    [
        (with_operation(produces=[]), ["post.produces: unknown key; expected one of"]),
        (with_operation(sumary="a"), ['post.sumary: unknown key; did you mean "summary"?']),
        (with_operation(summary=5), ["post.summary: 5; expected a string"]),
        (with_operation(deprecated="true"), ['post.deprecated: "true"; expected true or false']),
        (document({"/a": ITEM}, webhooks={"w": {"post": {"Security": []}}}), ["webhooks.w.post.Security: unknown key"]),
        (document({"/a": {**ITEM, "x-a": 1}}, **{"x-b": {}}), []),
        (document({"/a": {n: operation(produces=[]) for n in ("get", "put")}}), ["(and in 1 other place)"]),
        (with_operation(produces=[], auth=[]), ["post.produces: unknown key; ", "post.auth: unknown key; "]),
        (
            document(
                {"/a": {"get": operation(parameters=[{"$ref": "#/components/parameters/n", "required": True}])}},
                components={"parameters": {"n": {"name": "n", "in": "query", "schema": {}}}},
            ),
            ["parameters[0].required: has no effect beside `$ref`"],
        ),
        (with_schema({"other": 1, "x-other": 1}), ["schema.other: unknown keyword, which JSON Schema ignores"]),
        (with_schema({"other": 1, "nullable": True}, "3.1.0"), ["schema.nullable: `nullable` has no effect since"]),
        (
            with_schema({"allOf": [{}], "discriminator": {"propertyName": "a"}}),
            ["schema.discriminator: `discriminator` chooses no schema beside `allOf`"],
        ),
    ],
)
def test_what_is_not_obeyed_is_a_note(described: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    notes = [str(note) for note in load(tmp_path, described).notes]
    assert len(notes) == len(expected)
    assert all(each in note for each, note in zip(expected, notes, strict=True))
    assert all(note.startswith(f"{tmp_path}/shop.json:") for note in notes)


@for_each(
    ("scheme", "filter", "noted"),
    [
        ({"in": "query", "name": "k"}, {}, "`key_auth` does not look where the document has the key: query k"),
        ({"in": "query", "name": "k"}, {"key_in": ["query"], "key_names": ["k"]}, ""),
        ({"in": "query", "name": "K"}, {"key_in": ["query"], "key_names": ["k"]}, "query K"),
        ({"in": "cookie", "name": "k"}, {"key_in": ["header", "cookie"], "key_names": ["a", "k"]}, ""),
        ({"in": "header", "name": "x-api-KEY"}, {}, ""),
        ({"in": "header", "name": "X-Other"}, {}, "header X-Other"),
    ],
)
def test_a_key_that_the_filter_does_not_find_is_noted(
    scheme: dict[str, Any], filter: dict[str, Any], noted: str, tmp_path: Path
) -> None:
    schemes = {"key": {"type": "apiKey", **scheme}, "jwt": SCHEMES["jwt"]}
    described = document({"/a": {"get": operation(security=[{"key": []}])}}, components={"securitySchemes": schemes})
    entry = {"security": {"key": {"key_auth": filter}, **KEY}}
    consumers = [{"name": "a", "key_auth": [{"key": "a-key-of-some-length"}]}]
    notes = [str(note) for note in load(tmp_path, described, entry, consumers=consumers).notes]
    told = [note for note in notes if "routes[0].openapi.security.key" in note and "does not look" in note]
    assert len(told) == bool(noted)
    assert not noted or noted in told[0]
