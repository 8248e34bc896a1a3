"""Copies of schemas whose alternatives fail with one error: as valid as the schemas, with the same first error."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from fastgw.filters.policies.content.schema_copies import (
    STEP,
    failed_keyword,
    may_repeat,
    with_one_spelling,
    with_short_errors,
    with_steps,
)
from fastgw.filters.policies.content.schemas import (
    ALL_ERRORS_BYTES,
    MOST_ERRORS,
    STEPS_OF_ALL,
    SchemaValidator,
    Steps,
    UnusableSchema,
    _sizes_in,
    _validator_for,
    compile_header_schema,
    compile_schema,
    errors_of,
)
from tests.support.table import for_each

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


# references

NODE = {"$ref": "#/$defs/node"}
OBJECT = {"type": ["object", "string"]}
OF_NODES = {"type": "object", "properties": {"a": NODE}}
REPEATED: dict[str, Any] = {
    "anyOf": {"anyOf": [{"type": "string"}, OF_NODES | {"required": ["b"]}, OF_NODES]},
    "oneOf": {"oneOf": [{"type": "string"}, OF_NODES | {"required": ["b"]}, OF_NODES]},
    "allOf": OBJECT | {"allOf": [{"properties": {"a": NODE}}], "properties": {"a": NODE}},
    "patternProperties": OBJECT | {"properties": {"a": NODE}, "patternProperties": {"^a": NODE}},
    "two patterns": OBJECT | {"patternProperties": {"^a": NODE, "a$": NODE}},
    "dependentSchemas": OBJECT | {"dependentSchemas": {"a": {"properties": {"a": NODE}}}, "properties": {"a": NODE}},
    "if": OBJECT | {"if": {"properties": {"a": True}}, "then": {"properties": {"a": NODE}}, "properties": {"a": NODE}},
    "not": OBJECT | {"not": {"not": {"properties": {"a": NODE}}}, "properties": {"a": NODE}},
    "beside a reference": OBJECT | {"$ref": "#/$defs/other", "properties": {"a": NODE}},
    "unevaluatedProperties": OBJECT | {"anyOf": [{"properties": {"a": NODE}}, True], "unevaluatedProperties": NODE},
    "$dynamicRef": OBJECT | {"allOf": [{"properties": {"a": {"$dynamicRef": "#n"}}}], "properties": {"a": NODE},
                             "$dynamicAnchor": "n"},
}  # fmt: skip


def nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = {"a": value}
    return value


@for_each("length", [0, LONG])
@for_each("keyword", REPEATED)
def test_a_search_for_errors_has_a_limit_if_each_level_of_a_value_is_checked_twice(keyword: str, length: int) -> None:
    """The errors of a value of 200 levels had 2^200 sequences of references to its inner value."""
    schema = {"$ref": "#/$defs/node", "$defs": {"node": REPEATED[keyword], "other": {"properties": {"a": NODE}}}}
    validator = compile_schema(schema)
    assert validator.is_valid(nested("s", 200))
    for value in (nested(1, 200), nested(1, 14)):
        found = errors_of(validator, value, "body", length)
        assert 1 <= len(found) <= MOST_ERRORS
        assert {each["keyword"] for each in found} <= {"type", "schema", keyword}


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_value_whose_error_is_not_found_within_the_limit_is_invalid_as_a_whole(draft: str) -> None:
    node = {"$ref": "#/definitions/node"}
    member = {"allOf": [{"properties": {"a": node}}], "properties": {"a": node, "w": {"type": "integer"}}}
    schema = {"$schema": draft, "properties": {"t": node}, "definitions": {"node": member}}
    validator = compile_schema(schema)
    whole = {"in": "body", "pointer": "", "keyword": "schema", "detail": "the value does not satisfy the schema"}
    for length in (0, LONG):
        assert errors_of(validator, {"t": {"a": nested("s", 26), "w": "q"}}, "body", length) == [whole]
        (found,) = errors_of(validator, {"t": {"a": nested("s", 3), "w": "q"}}, "body", length)
        assert (found["pointer"], found["keyword"]) == ("/t/w", "type")


@pytest.mark.parametrize("length", [0, LONG])
def test_the_limit_is_one_of_schemas_that_are_not_recursive_too(length: int) -> None:
    """Sixteen levels of definitions that refer to the next one twice are 65,536 sequences of references."""
    levels: dict[str, Any] = {
        f"{level}": {"allOf": [{"$ref": f"#/$defs/{level + 1}"}, {"$ref": f"#/$defs/{level + 1}"}]}
        for level in range(16)
    }
    validator = compile_schema({"$ref": "#/$defs/0", "$defs": {**levels, "16": {"type": "integer"}}})
    (found,) = errors_of(validator, "s", "body", length)
    assert found["keyword"] == "type"
    assert validator._steps is not None
    assert validator._steps.left > -STEPS_OF_ALL


LEAVES: dict[str, tuple[Any, Any]] = {
    "array": ({"items": {"type": "string"}}, ["a"] * 25_000),
    "object": ({"additionalProperties": {"type": "integer"}}, {f"{number:05}": 1 for number in range(10_000)}),
    "names": ({"propertyNames": {"pattern": "^[a-z]*$"}}, {letter * 10_000: 1 for letter in "abcdefghij"}),
    "text": ({"pattern": "^[a-z]*$"}, "a" * 100_000),
    "texts": ({"items": {"pattern": "^[a-z]*$"}}, ["a" * 10_000] * 10),
}


@pytest.mark.parametrize("leaf", LEAVES)
def test_the_limit_counts_the_size_of_what_is_checked_between_two_references(
    leaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leaf of 100 KB without references was checked as many times as one of 10 bytes."""
    of_leaf, value = LEAVES[leaf]
    node = {
        "allOf": [{"properties": {"a": NODE, "leaf": of_leaf}}],
        "properties": {"a": NODE, "w": {"type": "integer"}},
    }
    validator = compile_schema({"$ref": "#/$defs/node", "$defs": {"node": node}})
    followed = []
    take_step = Steps.validate

    def validate(self: Steps, part: Any) -> None:
        take_step(self, part)
        followed.append(part)

    monkeypatch.setattr(Steps, "validate", validate)
    length = 100_000
    assert errors_of(validator, nested({"leaf": value}, 16) | {"w": "q"}, "body", length)[0]["keyword"] == "schema"
    assert 16 <= len(followed) < 128
    (found,) = errors_of(validator, nested({"leaf": value}, 2) | {"w": "q"}, "body", length)
    assert (found["pointer"], found["keyword"]) == ("/w", "type")
    (found,) = errors_of(validator, nested({"leaf": value[:2] if isinstance(value, str) else []}, 8) | {"w": "q"},
                         "body", length)  # fmt: skip
    assert (found["pointer"], found["keyword"]) == ("/w", "type")


def test_sizes_are_those_of_all_values_in_an_object_or_array() -> None:
    inner: list[Any] = [1, None, "x" * 17]
    value = {"a": inner, "b" * 9: "x", "c": {}}
    assert _sizes_in(value) == {id(inner): 1 + 3 + 2, id(value["c"]): 1, id(value): 1 + 3 + 1 + 6 + 1}
    assert _sizes_in("text") == {}
    deep: Any = nested(1, 100_000)
    assert _sizes_in(deep)[id(deep)] == 200_000
    while isinstance(deep, dict):  # without the recursion of its deallocation
        deep = deep.pop("a")


def test_within_the_limit_all_errors_of_a_short_value_are_found() -> None:
    schema = {
        "$ref": "#/$defs/item",
        "$defs": {
            "base": {"properties": {"id": {"type": "integer"}, "parent": {"$ref": "#/$defs/item"}}},
            "item": {"allOf": [{"$ref": "#/$defs/base"}], "properties": {"parts": {"items": {"$ref": "#/$defs/item"}}}},
        },
    }
    value = {"id": "a", "parent": {"id": "b"}, "parts": [{"id": "c"}, {"id": 1}, {"parts": [{"id": "d"}]}]}
    found = errors_of(compile_schema(schema), value, "body", 0)
    assert {each["pointer"] for each in found} == {"/id", "/parent/id", "/parts/0/id", "/parts/2/parts/0/id"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (
            {"properties": {"a": {"$ref": "#"}, "b": {"items": {"$ref": "#"}}}, "additionalProperties": {"$ref": "#"}},
            False,
        ),
        ({"allOf": [{"anyOf": [{"not": {"if": True}}]}]}, False),
        ({"$ref": "#/definitions/a", "definitions": {"a": {"type": "object"}}}, False),
        ({"properties": {"a": {"$ref": "#"}}, "patternProperties": {"a": {"$ref": "#"}}}, True),
        ({"$ref": "#/$defs/a", "properties": {"b": {"$ref": "#"}}}, True),
        ({"items": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}, True),
        ({"items": {"$dynamicRef": "#a"}}, True),
        (True, False),
    ],
)
def test_only_a_schema_that_may_check_a_value_twice_needs_the_limit(schema: Any, expected: bool) -> None:
    assert may_repeat(schema) is expected


@pytest.mark.parametrize("draft", SUITE)
def test_a_copy_that_counts_references_has_the_same_valid_values(draft: str) -> None:
    has_if = draft not in ("draft4", "draft6")
    judged = 0
    for _, schema, tests in SUITE[draft]:
        try:
            validator = compile_schema(schema)
            copy = with_steps(schema, has_if=has_if, keeps_siblings=has_if and draft != "draft7")
            steps = Steps()
            counted = _validator_for(copy, {STEP: steps})
        except (ValueError, jsonschema_rs.ReferencingError):
            continue
        for data, _ in tests:
            steps.left = 10_000
            assert counted.is_valid(data) is validator.is_valid(data), (schema, data)
            judged += steps.left < 10_000
    assert judged >= 50


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"$ref": "#/default"}], "default": {"allOf": [{"properties": {"a": {"$ref": "#/default"}}}]}},
        {
            "allOf": [{"$ref": "#/$defs/a"}],
            "$defs": {"a": {"$schema": DRAFTS[1], "$id": "a", "allOf": [{"$ref": "#"}]}},
        },
    ],
)
def test_a_schema_whose_references_cannot_be_counted_has_no_location_of_an_error(schema: Any) -> None:
    with pytest.raises(ValueError, match="may be"):
        with_steps(schema, has_if=True, keeps_siblings=True)
    validator = compile_schema(schema | {"type": "object"})
    assert [each["keyword"] for each in errors_of(validator, 1, "body", 0)] == ["schema"]


# names in any case


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
