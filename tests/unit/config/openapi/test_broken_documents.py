"""OpenAPI documents with values of any type anywhere: they are loaded, or each problem has its position."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgw import config
from tests.unit.config.loading.test_broken_values import Steps, with_value
from tests.unit.config.openapi.test_expand import KEY, SCHEMES, load
from tests.unit.filters.policies.openapi.shop import document, json_body, operation

PET = {
    "type": "object",
    "required": ["id", "name"],
    "properties": {"id": {"type": "integer", "readOnly": True}, "name": {"enum": ["a"], "default": "a"}},
    "discriminator": {"propertyName": "name", "mapping": {"a": "#/components/schemas/Cat"}},
    "anyOf": [{"$ref": "#/components/schemas/Cat"}],
    "xml": {"name": "pet"},
}
FORM = {"schema": {"allOf": [{"properties": {"m": {"type": "object"}}}], "properties": {"n": {"type": "array"}}}}
DOCUMENT = document(
    {
        "/pets/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}],
            "post": operation(
                operationId="add",
                tags=["pets"],
                security=[{"jwt": []}],
                parameters=[
                    {"name": "q", "in": "query", "style": "form", "explode": True, "schema": {"type": "array"}},
                    {"name": "X-C", "in": "header", "content": {"application/json": {"schema": {"minimum": 1}}}},
                ],
                requestBody={
                    "required": True,
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Pet"}},
                        "application/xml": {"schema": PET},
                        "application/x-www-form-urlencoded": FORM | {"encoding": {"n": {"style": "form"}}},
                    },
                },
                responses={
                    "200": {
                        "description": "ok",
                        "headers": {"X-N": {"schema": {"type": "integer"}, "example": 1}},
                        "content": {"application/json": {"schema": PET, "examples": {"one": {"value": {"id": 1}}}}},
                    }
                },
            ),
        }
    },
    "3.1.0",
    components={
        "securitySchemes": {"jwt": SCHEMES["jwt"]},
        "schemas": {"Pet": PET, "Cat": {"type": "object", "additionalProperties": {"type": ["string", "null"]}}},
    },
    servers=[{"url": "/{v}", "variables": {"v": {"default": "v1"}}}],
)
ENTRY = {"security": KEY, "mock": True, "docs": "/docs", "responses": "report", "unknown_parameters": "refuse"}


def places(value: Any, steps: Steps = ()) -> Iterator[Steps]:
    if steps:
        yield steps
    for step, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(each, (*steps, step))


def positions_missing(folder: Path, described: dict[str, Any]) -> list[str]:
    try:
        load(folder, described, ENTRY)
    except config.ConfigError as error:
        return [str(each) for each in error.problems if not each.line or "Broken" in str(each)]
    return []


def test_the_document_is_valid(tmp_path):
    load(tmp_path, DOCUMENT, ENTRY)


@pytest.mark.parametrize("value", [[["x"]], {"x": [5]}, [{}], 5, None], ids=repr)
def test_a_value_of_another_type_anywhere_is_reported_with_its_position(tmp_path, value):
    tried = [*places(DOCUMENT)]
    assert len(tried) > 100
    for steps in tried:
        assert not positions_missing(tmp_path, with_value(DOCUMENT, steps, value)), steps


@pytest.mark.parametrize("default", ["{x}", "*", {"x": [5]}])
def test_the_path_of_a_server_has_no_parameters(tmp_path, default):
    """Those of a server are replaced by their defaults, and what is left is literal."""
    described = document({"/a/{id}": DOCUMENT["paths"]["/pets/{id}"]}, "3.1.0")
    described["components"] = DOCUMENT["components"]
    described["servers"] = [{"url": "/{v}", "variables": {"v": {"default": default}}}]
    made = load(tmp_path, described, {"security": KEY, "unknown_paths": "pass"}).config.routes
    base = str(default).replace("{", "%7B").replace("}", "%7D").replace("*", "%2A")
    assert [each.paths for each in made] == [(f"/{base}/a/{{id}}",), (f"/{base}/*",)]


@pytest.mark.parametrize("name", [["path"], {"path": 1}, None, 5])
def test_the_place_of_a_parameter_is_a_name(tmp_path, name):
    described = document({"/a": {"get": operation(parameters=[{"name": "id", "in": name}])}})
    with pytest.raises(config.ConfigError, match=r"paths\./a\.get\.parameters") as caught:
        load(tmp_path, described)
    assert "expected path, query, header, cookie, querystring" in str(caught.value)


def test_an_element_of_required_that_is_no_name_is_reported_beside_a_member_that_is_not_required(tmp_path):
    schema = {"required": ["id", ["name"]], "properties": {"id": {"readOnly": True}}}
    described = document({"/a": {"post": operation(requestBody=json_body(schema))}})
    with pytest.raises(config.ConfigError, match=r"schema\.required\[1\]: not valid JSON Schema: `required`"):
        load(tmp_path, described)


@pytest.mark.parametrize(
    ("content_type", "schema"),
    [
        ("application/x-www-form-urlencoded", FORM["schema"] | {"properties": [1]}),
        ("application/xml", {"$ref": 5, "type": "object"}),
    ],
)
def test_a_schema_of_a_form_or_of_xml_that_is_none_is_reported_with_its_position(tmp_path, content_type, schema):
    body = {"content": {content_type: {"schema": schema}}}
    described = document({"/a": {"post": operation(requestBody=body)}})
    with pytest.raises(config.ConfigError, match=r"post\.requestBody\.content"):
        load(tmp_path, described)
    assert not positions_missing(tmp_path, described)
