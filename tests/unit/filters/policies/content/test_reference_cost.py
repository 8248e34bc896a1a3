"""Cost of checks by the reference: bodies whose numbers take too long for the event loop are known by their texts."""

from typing import Any

import orjson
import pytest

from fastgw.filters.policies.content.body_validator import BodyValidator
from fastgw.filters.policies.content.reference_cost import (
    Comparisons,
    CostlyCheck,
    ReferenceCost,
    comparisons_by_name,
    comparisons_in,
)
from fastgw.filters.policies.openapi.bodies import OperationSchemas, TypedBody

CONTAINS: Any = {"type": "array", "contains": {"const": 5}}
PRICES: Any = {"type": "array", "items": {"type": "number", "multipleOf": 0.01}}
UNIQUE: Any = {"type": "array", "uniqueItems": True}
NUMBERS: Any = {"type": "array", "items": {"type": "number"}}


def array(value: str, size: int = 128 * 1024) -> bytes:
    return b"[%b]" % b",".join([value.encode()] * ((size - 1) // (len(value) + 1)))


def of_validate(schema: Any) -> Any:
    return BodyValidator(schema).errors


def of_openapi(schema: Any) -> Any:
    definitions = {"$id": "urn:fastgw:openapi", "$defs": {"1": schema}, "properties": {"1": {"$ref": "#/$defs/1"}}}
    plan = {"kind": "json", "schema": {"$ref": "urn:fastgw:openapi#/$defs/1"}}
    body = TypedBody(plan, OperationSchemas(orjson.dumps(definitions)))
    return lambda payload, **options: body.errors(payload, b"application/json", **options)


COSTLY = [
    (CONTAINS, array("1e308"), "contains"),
    (CONTAINS, array("1e308", 8000), "contains"),
    (CONTAINS, array("-1.5E-308", 8000), "contains"),
    (CONTAINS, array("12.34"), "contains"),
    (CONTAINS | {"items": {"not": {"const": 6}}}, b"[5," + array("1e308")[1:], ""),
    (CONTAINS, array("7"), "contains"),
    (CONTAINS, array('{"a":1}', 100_000), "contains"),
    (PRICES, array("12.34"), ""),
    (PRICES, array("1e308"), ""),
    (PRICES, array("12345678901234567890"), ""),
    (UNIQUE, array("1e308"), "uniqueItems"),
    ({"items": {"anyOf": [{"const": 0.5}, {"minimum": 3}]}}, array("7", 20_000), ""),
]


@pytest.mark.parametrize("errors_of", [of_validate, of_openapi])
@pytest.mark.parametrize(("schema", "body", "keyword"), COSTLY)
def test_a_body_that_takes_the_reference_too_long_is_not_checked_in_the_event_loop(
    schema: Any, body: bytes, keyword: str, errors_of: Any
) -> None:
    """From 8 KB on, whether it conforms or not: one that conforms, too, has all its numbers compared."""
    errors = errors_of(schema)
    with pytest.raises(CostlyCheck):
        errors(body, at_once=True)
    assert [each["keyword"] for each in errors(body)] == ([keyword] if keyword else [])  # in a helper process


@pytest.mark.parametrize("errors_of", [of_validate, of_openapi])
@pytest.mark.parametrize(
    ("schema", "body"),
    [
        (NUMBERS, array("0.0123456789", 20_000)),  # an embedding
        (NUMBERS, array("12.34", 100_000)),
        (UNIQUE, array('{"id":"e04ee0e0-0e0e-4e4e-1e1e-123e456e789e"}', 10_000)),
        (CONTAINS, array('"12345678901234567890"', 10_000)),
        (CONTAINS, array('"2026-01-01T00:00:00.000Z"', 10_000)),
        (CONTAINS, array("12.34", 1000)),
        (PRICES, array("12.34", 2000)),
    ],
)
def test_ordinary_bodies_are_checked_there(schema: Any, body: bytes, errors_of: Any) -> None:
    errors = errors_of(schema)
    assert errors(body, at_once=True) == errors(body)


@pytest.mark.twin
def test_compiled_checks_have_no_such_limit() -> None:
    """Their errors copy nothing, and their numbers are doubles."""
    validator = BodyValidator({"type": "array", "items": {"type": "number", "minimum": 5, "maximum": 1e3}})
    assert [each["keyword"] for each in validator.errors(array("1e308"), at_once=True)] == ["maximum"]
    assert validator.errors(array("12.34"), at_once=True) == []


@pytest.mark.parametrize("between", [b",", b", ", b",\n\t", b" , "])
@pytest.mark.parametrize("number", [b"1e308", b"1E308", b"-1.5e-308", b"1.5E+308", b"12345678901234567", b"-0.5e1"])
def test_numbers_are_found_in_every_form(number: bytes, between: bytes) -> None:
    cost = ReferenceCost(Comparisons(1, 0))
    for text in (b"[%b]" % between.join([number] * 100), b'{"a":%b}' % b',"a":'.join([number] * 100)):
        assert cost.exceeds_turn(text, with_error=True)


def test_comparisons_are_those_of_one_number() -> None:
    assert comparisons_in(True) == Comparisons(0, 0)
    assert comparisons_in({"enum": ["a", True, None], "minimum": 5, "maxLength": 3}) == Comparisons(0, 0)
    assert comparisons_in({"enum": [1, 2, 0.5], "multipleOf": 0.01, "maximum": 1.5}) == Comparisons(5, 3)
    assert comparisons_in({"anyOf": [{"const": 1}, {"not": {"const": 2**60}}]}) == Comparisons(2, 1)
    assert comparisons_in({"properties": {"a": {"const": 1}, "b": {"enum": [1, 2]}}}) == Comparisons(2, 0)


def test_a_definition_has_the_comparisons_of_those_that_it_refers_to() -> None:
    def to(name: str) -> Any:
        return {"properties": {"x": {"$ref": f"urn:fastgw:openapi#/$defs/{name}"}}}

    definitions = {"1": to("2"), "2": to("3") | {"const": 1}, "3": to("1") | {"enum": [0.5, 1]}, "4": to("4")}
    most = Comparisons(2, 1)
    assert comparisons_by_name(definitions) == {"1": most, "2": most, "3": most, "4": Comparisons(0, 0)}
