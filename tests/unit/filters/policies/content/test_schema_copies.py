"""Copies of schemas whose alternatives fail with one error: as valid as the schemas, with the same first error."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from fastgw.filters.policies.content.schema_copies import failed_keyword, with_one_spelling, with_short_errors
from fastgw.filters.policies.content.schemas import (
    ALL_ERRORS_BYTES,
    SchemaValidator,
    UnusableSchema,
    compile_header_schema,
    compile_schema,
    errors_of,
)

from .test_schemas import SUITE

LISTS = [
    {"items": {"type": "integer"}},
    {"items": {"type": "string"}},
    {"items": {"required": ["a"], "type": "object"}},
]
LONG = ALL_ERRORS_BYTES + 1
DRAFTS = [
    "https://json-schema.org/draft/2020-12/schema",
    "http://json-schema.org/draft-07/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-04/schema#",
]


def first_error(validator: Any, value: Any) -> Any:
    """Return the first error of a validator; None: the value is valid."""
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        return error
    return None


def errors_within(error: Any) -> int:
    """Return the number of errors that were made for one: it, and those of its alternatives."""
    return 1 + sum(errors_within(each) for branch in getattr(error.kind, "context", ()) for each in branch)


@pytest.mark.parametrize("draft", SUITE)
def test_the_suite(draft: str) -> None:
    """The first error of a long value is one that all errors of the value have, and its alternatives have none."""
    judged, unlocated = 0, 0
    for _, schema, tests in SUITE[draft]:
        try:
            validator = compile_schema(schema)
        except ValueError:
            continue
        for data, _ in tests:
            if validator.is_valid(data):
                assert errors_of(validator, data, "body", LONG) == [], (schema, data)
                continue
            judged += 1
            (found,) = errors_of(validator, data, "body", LONG)
            if found["keyword"] == "schema":
                unlocated += 1
            else:
                assert found in errors_of(validator, data, "body", 0), (schema, data)
    assert judged > 250
    assert unlocated <= 2  # references to an alternative


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("shared", [False, True], ids=["in place", "by reference"])
def test_the_error_of_a_long_value_has_none_for_each_element_of_each_alternative(
    draft: str, keyword: str, shared: bool
) -> None:
    """So that a refusal costs no more than an acceptance: there were 60,000 errors for 30,000 elements."""
    held: dict[str, Any] = {keyword: LISTS}
    definitions = {"list": held}
    inner = {"$ref": "#/definitions/list"} if shared else held
    schema = {"$schema": draft, "definitions": definitions, "type": "object", "properties": {"o": inner}}
    validator = compile_schema(schema)
    value = {"o": ["a"] * 2000 + [1]}
    (error,) = validator.errors(value, LONG)
    assert errors_within(error) == 1
    assert list(error.instance_path) == ["o"]
    assert errors_of(validator, value, "body", LONG) == [
        {"in": "body", "pointer": "/o", "keyword": keyword, "detail": f"the value does not satisfy `{keyword}`"}
    ]
    assert errors_of(validator, {"o": ["a"] * 2000}, "body", LONG) == []


def test_an_inner_error_of_a_copy_is_that_of_the_schema() -> None:
    schema = {
        "anyOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"required": ["b"]}],
        "unevaluatedProperties": False,
        "properties": {"c": {"maxLength": 3}, "anyOf": {"enum": [{"anyOf": [False]}]}},
    }
    validator = compile_schema(schema)
    for value, pointer, keyword in (
        ({"a": 1, "c": "abcd"}, "/c", "maxLength"),
        ({"a": 1, "d": 1}, "", "unevaluatedProperties"),
        ({"b": 1, "a": "x"}, "", "unevaluatedProperties"),
        ({"c": "abc"}, "", "anyOf"),
        ({"a": 1, "anyOf": 1}, "/anyOf", "enum"),
    ):
        (found,) = errors_of(validator, value, "body", LONG)
        assert (found["pointer"], found["keyword"]) == (pointer, keyword)
    assert errors_of(validator, {"a": 1, "c": "abc", "anyOf": {"anyOf": [False]}}, "body", LONG) == []


def test_a_schema_with_a_reference_to_an_alternative_has_no_location_of_an_error_in_a_long_value() -> None:
    """The copy has the alternatives in another place."""
    validator = SchemaValidator({"properties": {"a": {"anyOf": LISTS}, "b": {"$ref": "#/properties/a/anyOf/0"}}})
    assert errors_of(validator, {"b": ["x"]}, "body", 0)[0]["pointer"] == "/b/0"
    assert errors_of(validator, {"b": ["x"]}, "body", LONG) == [
        {"in": "body", "pointer": "", "keyword": "schema", "detail": "the value does not satisfy the schema"}
    ]


def test_a_schema_without_alternatives_has_no_copy() -> None:
    schema = {"properties": {"anyOf": {"const": {"oneOf": [1]}}}, "dependentRequired": {"oneOf": ["a"]}}
    assert with_short_errors(schema, has_if=True) is schema


def test_a_not_of_the_schema_stays_one() -> None:
    error = first_error(compile_schema({"not": {"anyOf": [True]}})._first, 1)
    assert failed_keyword(error.kind) == "not"


def test_names_of_headers_are_spelled_as_in_properties() -> None:
    schema = {
        "properties": {"X-Tenant": {"type": "string"}, "X-B": True},
        "required": ["x-tenant"],
        "dependentRequired": {"x-b": ["X-TENANT"], "other": ["x-b"]},
        "if": {"properties": {"x-B": {"const": "required"}}, "required": ["X-b"]},
        "then": {"anyOf": [{"required": ["x-tenant"]}]},
    }
    assert with_one_spelling(schema) == {
        "properties": {"X-Tenant": {"type": "string"}, "X-B": True},
        "required": ["X-Tenant"],
        "dependentRequired": {"X-B": ["X-Tenant"], "other": ["X-B"]},
        "if": {"properties": {"X-B": {"const": "required"}}, "required": ["X-B"]},
        "then": {"anyOf": [{"required": ["X-Tenant"]}]},
    }
    assert with_one_spelling(True) is True


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"X-A": {"maxLength": 2}, "x-a": {"pattern": "^a"}}},
        {"properties": {"X-A": {}}, "dependentRequired": {"X-A": ["b"], "x-a": ["c"]}},
        {"properties": {"X-A": {}}, "allOf": [{"properties": {"x-a": {}, "X-a": {}}}]},
    ],
)
def test_a_header_in_two_spellings_is_an_error(schema: Any) -> None:
    """One of two schemas would not count."""
    with pytest.raises(UnusableSchema, match="has one header in two spellings; expected each header once"):
        compile_header_schema(schema)


def test_a_header_that_is_required_twice_is_required_once() -> None:
    assert with_one_spelling({"properties": {"X-A": {}}, "required": ["X-A", "x-a"]})["required"] == ["X-A"]
    compile_header_schema({"properties": {"X-A": {}}, "required": ["X-A", "x-a"]})
