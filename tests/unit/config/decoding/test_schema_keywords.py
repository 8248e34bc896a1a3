"""Misspelt keywords of JSON Schemas, which the standard ignores: notes with position and the keyword that is meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastgw import config
from fastgw.config.base.problems import MOST_HINTS, begin_hints
from fastgw.config.base.schema_keywords import MOST_MISSPELT, misspelt_keywords
from fastgw.filters import TYPES
from tests.unit.filters.policies.openapi.shop import document, json_body, operation

IGNORED = "unknown keyword, which JSON Schema ignores; did you mean"


@pytest.fixture(autouse=True)
def _a_reading_of_its_own() -> None:
    begin_hints()


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"requierd": ["a"]}, [(("requierd",), "required")]),
        ({"propertes": {"a": {"tpye": "x"}}}, [(("propertes",), "properties"), (("propertes", "a", "tpye"), "type")]),
        ({"min_length": 3}, [(("min_length",), "minLength")]),
        ({"additionalproperties": False}, [(("additionalproperties",), "additionalProperties")]),
        ({"allOf": [{}, {"patern": "a"}]}, [(("allOf", 1, "patern"), "pattern")]),
        ({"items": {"enumm": [1]}}, [(("items", "enumm"), "enum")]),
        ({"$defs": {"requierd": {"maxmum": 3}}}, [(("$defs", "requierd", "maxmum"), "maximum")]),
    ],
)  # fmt: skip
def test_a_keyword_similar_to_a_known_one_is_misspelt(schema: Any, found: list[Any]) -> None:
    assert list(misspelt_keywords(schema)) == found


@pytest.mark.parametrize(
    "schema",
    [
        {"x-requierd": ["a"], "unit": "kg", "tsType": "A", "anyRequired": ["a"], "nullable": True},
        {"properties": {"requierd": {}, "tpye": {}}},  # names of members
        {"enum": [{"requierd": ["a"]}], "const": {"tpye": "a"}, "default": {"tpye": "a"}, "examples": [{"tpye": 1}]},
        {"note": "about this", "typ": 3, "maxmum": "high", "patern": True},  # `not`, `type`, … have no such values
        {"q" * 100_000: 1},
        True,
        None,
    ],
)
def test_other_vocabularies_names_of_members_and_values_are_left_alone(schema: Any) -> None:
    assert not list(misspelt_keywords(schema))


def test_a_schema_full_of_misspelt_keywords_has_a_bounded_number_of_notes() -> None:
    many = {"allOf": [{"requierd": ["a"]}] * (MOST_MISSPELT + 5)}
    assert len(list(misspelt_keywords(many))) == MOST_MISSPELT
    begin_hints()
    strange = {f"a{number}": number for number in range(MOST_HINTS)}
    assert not list(misspelt_keywords({**strange, "requierd": ["a"]}))  # no hints are left


def notes(folder: Path, routes: list[dict[str, Any]]) -> list[str]:
    whole = {"version": 1, "listeners": {"main": {"address": "127.0.0.1:0"}}, "routes": routes}
    file = folder / "gateway.json"
    file.write_text(json.dumps(whole, indent=1))
    return [str(each).replace(f"{folder}/", "") for each in config.load(str(file), TYPES).notes]


def test_schemas_of_validate_have_notes_inline_and_in_their_files(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text('{"type": "object",\n "requierd": ["a"]}')
    checks = {"body": {"schema": "order.json"}, "query": {"inline": {"propertes": {}}}}
    route = {"name": "r", "respond": {"status": 200}, "filters": {"validate": checks}}
    of_file, inline = notes(tmp_path, [route])
    assert of_file == f'order.json:2:2: {IGNORED} "required"?'  # nothing of a file that a setting names is shown
    assert inline == f'gateway.json:21:8: routes[0].filters.validate.query.inline.propertes: {IGNORED} "properties"?'


@pytest.mark.parametrize(("schema", "shown"), [({"type": "object"}, "an object"), (True, "true")])
def test_a_schema_in_place_of_the_name_of_its_file_is_told_where_to_write_it(
    tmp_path: Path, schema: Any, shown: str
) -> None:
    route = {"name": "r", "respond": {"status": 200}, "filters": {"validate": {"body": {"schema": schema}}}}
    with pytest.raises(config.ConfigError) as refused:
        notes(tmp_path, [route])
    expected = "expected the name of a file; write a schema as `inline`"
    assert f"routes[0].filters.validate.body.schema: {shown}; {expected}" in str(refused.value)


def test_schemas_of_openapi_documents_have_notes(tmp_path: Path) -> None:
    body = json_body({"$ref": "#/components/schemas/A"})
    held = {"A": {"type": "object", "requierd": ["a"], "example": {"requierd": 1}, "x-tpye": "a"}}
    described = document({"/a": {"post": operation(requestBody=body)}}, components={"schemas": held})
    (tmp_path / "shop.json").write_text(json.dumps(described))
    (note,) = notes(tmp_path, [{"openapi": {"file": "shop.json", "upstream": "http://127.0.0.1:9"}}])
    assert note.endswith(f'components.schemas.A.requierd: {IGNORED} "required"?')


def test_equal_schemas_of_openapi_documents_have_a_note_each(tmp_path: Path) -> None:
    """Also one that was read before, by another reference to it."""
    shared = {"name": "p", "in": "query", "schema": {"type": "string", "maxLenght": 5}}
    by_reference = {"parameters": [{"$ref": "#/components/parameters/P"}], "responses": {"200": {"description": "ok"}}}
    paths = {
        "/a": {"get": by_reference},
        "/b": {"get": by_reference},
        "/c": {"get": {**by_reference, "parameters": [{**shared}]}},
    }
    (tmp_path / "shop.json").write_text(json.dumps(document(paths, components={"parameters": {"P": shared}})))
    found = notes(tmp_path, [{"openapi": {"file": "shop.json", "upstream": "http://127.0.0.1:9"}}])
    assert [each.partition(": ")[2].partition(": ")[0] for each in found] == [
        "paths./c.get.parameters[0].schema.maxLenght",
        "components.parameters.P.schema.maxLenght",
    ]
