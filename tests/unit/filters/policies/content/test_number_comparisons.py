"""Texts with many numbers that are compared with those of a schema: their check takes too long for the event loop."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.filters.policies.content._schema_checks import count_comparisons
from fastgw.filters.policies.content.body_validator import BodyValidator
from fastgw.filters.policies.content.number_comparisons import (
    CHARACTERS_PER_COST,
    EXPONENT_COST,
    MOST_COMPARISONS,
    MOST_EXPONENTS,
    TakesLong,
    form_takes_long_to_check,
    numbers_listed,
    parameters_take_long_to_check,
    takes_long_to_check,
    xml_takes_long_to_check,
)
from tests.support.table import for_each

PIECES = ["e", "E", "1", "25", "-", "+", ".", ",", "[", '"', "\\", "a"]


@for_each(
    ("element", "counts"),
    [
        (b"1e10", True),
        (b"-1.5E+10", True),
        (b'{"a": 1E-99}', True),
        (b"1e9", False),
        (b"100", False),
        (b'"1e10"', False),
        (b'"\\"1e10"', False),
        (b'"\\\\",1e10', True),
        (b'"3e45a0b1-4e12-11ee-be56-0242ac120002"', False),
        (b'{"1e10": 1}', False),
    ],
)
def test_numbers_with_an_exponent(element: bytes, counts: bool) -> None:
    def text(count: int) -> bytes:
        return b"[" + b",".join([element] * count) + b"]"

    assert takes_long_to_check(text(MOST_EXPONENTS + 1), 0) is counts
    assert not takes_long_to_check(text(MOST_EXPONENTS), 0)


@pytest.mark.parametrize("element", [b"1e10", b"1e-10", b"1%65%2D10", b"1E%2b10", b'"1e10"'])
def test_numbers_in_forms(element: bytes) -> None:
    assert form_takes_long_to_check(b"n=[" + b",".join([element] * (MOST_EXPONENTS + 1)) + b"]", 0)
    assert not form_takes_long_to_check(b"n=[" + b",".join([element] * MOST_EXPONENTS) + b"]", 0)


@for_each(
    ("element", "comparisons"),
    [
        (b"7", 1),
        (b"-1.5", 1),
        (b"12345.25", 2),
        (b"1e9", 1),
        (b"0." + b"0" * 290 + b"1", 37),
        (b'"7"', 0),
        (b"null", 0),
    ],
)
@for_each("listed", [0, 1, 100])
def test_numbers_that_are_compared(element: bytes, comparisons: int, listed: int) -> None:
    def text(count: int) -> bytes:
        return b"[" + b",".join([element] * count) + b"]"

    fit = MOST_COMPARISONS // (comparisons * listed) if comparisons * listed else 400
    assert not takes_long_to_check(text(fit), listed)
    assert takes_long_to_check(text(fit + 1), listed) is (comparisons * listed > 0)


_NUMBER = re.compile(rb'"[^"\\]*+(?:\\.?[^"\\]*+)*"?|([0-9][0-9.]*)(?:[eE][+-]?([0-9]{2})?[0-9]*)?', re.DOTALL)


def counted(text: bytes, listed: int, most: int) -> int:
    """Count plainly: numbers outside of strings, until there are more than `most`."""
    found = 0
    for match in _NUMBER.finditer(text):
        if match[1] is not None:
            cost = listed * (1 + len(match[1]) // CHARACTERS_PER_COST)
            found += cost if match[2] is None else EXPONENT_COST * max(listed, 1)
            if found > most:
                break
    return found


@given(st.lists(st.sampled_from(PIECES)), st.integers(0, 3), st.sampled_from((0, 1, 80, 20000)))
def test_comparisons_are_counted_as_plainly(pieces: list[str], listed: int, most: int) -> None:
    text = "".join(pieces).encode()
    assert count_comparisons(text, listed, most) == counted(text, listed, most)


ENUM = {"enum": [each + 0.5 for each in range(100)]}
TREE = {"properties": {"value": ENUM, "inner": {"items": {"$ref": "#"}}}}


def defined(**schemas: Any) -> Any:
    return {"$defs": schemas}


@for_each(
    ("schema", "listed"),
    [
        (True, 0),
        ({"type": "array", "maxItems": 2, "items": {"minLength": 2, "minimum": 1}}, 0),
        ({"enum": [1, [2, 3], {"a": 4}, "5", True, None]}, 2),
        ({"properties": {"a": {"const": 1}, "b": {"enum": [1, 2]}}}, 2),
        ({"prefixItems": [{"const": 1}, ENUM], "items": {"const": 1}, "contains": {"const": 2}}, 101),
        ({"anyOf": [ENUM, {"const": 1}], "not": {"const": 2}}, 102),
        ({"const": 1, "allOf": [{"items": {"const": 1}}, {"items": {"const": 2}}]}, 2),
        (defined(a=ENUM) | {"contains": {"$ref": "#/$defs/a"}, "items": {"$ref": "#/$defs/a"}}, 200),
        (TREE, 100),
        (defined(a={"const": 1, "items": {"$ref": "#/$defs/b"}}, b={"allOf": [{"$ref": "#/$defs/a"}]})
         | {"contains": {"$ref": "#/$defs/b"}}, 1),
        (defined(a={"$anchor": "a", "const": 1}, b={"const": 2, "minimum": 3}) | {"items": {"$ref": "#a"}}, 2),
        (defined(a={"$id": "urn:a", "enum": [1, 2]}) | {"contains": {"$ref": "urn:a"}}, 2),
        (defined(a={"$id": "urn:a", "$defs": {"b": {"const": 1}}}) | {"contains": {"$ref": "urn:a#/$defs/b"}}, 1),
        ({"$id": "urn:r", "properties": {"a": {"$ref": "urn:r#/$defs/b"}}} | defined(a=ENUM, b={"const": 1}), 1),
        (defined(a={}, default={"$id": "urn:d", "$defs": {"a": ENUM}, "items": {"$ref": "#/$defs/a"}})
         | {"items": {"$ref": "#/$defs/default"}}, 100),
        (defined(a={"anyOf": [{"enum": [0, 1]}, {"items": {"$ref": "#/$defs/a"}},
                              {"additionalProperties": {"$ref": "#/$defs/a"}}]}) | {"items": {"$ref": "#/$defs/a"}}, 2),
        ({"properties": {"a": {"const": 1}}, "additionalProperties": {"$ref": "#"}}, 1),
        ({"patternProperties": {"a": {"const": 1}, "b": {"const": 2}}, "properties": {"a": {"const": 3}}}, 3),
        (defined(a=ENUM, b={"examples": [{"id": "x"}]}) | {"items": {"$ref": "#/$defs/b"}}, 0),
        (defined(a={"items": {"$ref": "#/$defs/b"}}, b={"anyOf": [ENUM, {"type": "number"}, {"$ref": "#/$defs/a"}]})
         | {"properties": {"rows": {"$ref": "#/$defs/a"}}}, 100),
        (defined(b={"anyOf": [ENUM, {"type": "number"}, {"$ref": "#/$defs/a"}]}, a={"items": {"$ref": "#/$defs/b"}})
         | {"properties": {"rows": {"$ref": "#/$defs/b"}}}, 100),
        ({"const": 1, "items": {"$ref": "#"}, "contains": {"$ref": "#"}}, MOST_COMPARISONS),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "definitions": {"a": {"id": "urn:a", "enum": [1]}},
          "items": {"$ref": "urn:a"}}, 1),
        ({"enum": [*range(10000)]}, MOST_COMPARISONS),
    ],
)  # fmt: skip
def test_numbers_that_a_schema_lists(schema: Any, listed: int) -> None:
    assert numbers_listed(schema, [schema, False]) == [listed, 0]


def test_numbers_that_a_schema_with_many_references_lists() -> None:
    names = [f"#/$defs/{number}" for number in range(300)]
    chain = {str(number): {"items": {"$ref": f"#/$defs/{number + 1}"}} for number in range(300)}
    assert numbers_listed({"$defs": chain | {"300": ENUM}}, [{"$ref": names[0]}]) == [100]
    ring = {str(number): {"const": 1, "items": {"$ref": f"#/$defs/{(number + 1) % 300}"}} for number in range(300)}
    assert numbers_listed({"$defs": ring}, [{"$ref": names[0]}, {"$ref": names[150]}]) == [1, 1]
    meshed = {"anyOf": [{"const": 1}, *({"$ref": name} for name in names)]}
    assert numbers_listed({"$defs": dict.fromkeys(map(str, range(300)), meshed)}, [meshed]) == [MOST_COMPARISONS]
    anchored = {str(number): {"$anchor": f"a{number}", "const": 1} for number in range(3000)}
    refers = {"anyOf": [{"$ref": f"#a{number}"} for number in range(3000)]}
    assert numbers_listed({"$defs": anchored}, [refers]) == [MOST_COMPARISONS]


@pytest.mark.parametrize(
    "piece", [b"<a>1e-300</a>", b"<a b='1e10'/>", b"<a>1&#101;-300</a>", b"<a>1<![CDATA[e-300]]></a>"]
)
def test_numbers_in_xml(piece: bytes) -> None:
    assert xml_takes_long_to_check(b"<r>" + piece * (MOST_EXPONENTS + 1) + b"</r>", 0)
    assert not xml_takes_long_to_check(b"<r>" + piece * MOST_EXPONENTS + b"</r>", 0)


@pytest.mark.parametrize(
    "piece", [b"<a>3e45a0b1-4e12</a>", b"<a>2026-11-28T10:00:00</a>", b"<a>caf&#233;</a>", b"<a>7</a>"]
)
def test_xml_that_takes_no_longer(piece: bytes) -> None:
    assert not xml_takes_long_to_check(b"<r>" + piece * 1000 + b"</r>", 0)


@pytest.mark.parametrize(
    ("value", "listed", "takes_long"),
    [
        ([1] * 1000, 0, False),
        ([1e-300] * 100, 0, False),
        ({"a": [1e-300] * 100, "b": 1e-300}, 0, True),
        ([299.99] * 26, 300, False),
        ([299.99] * 27, 300, True),
        (["299.99"] * 1000, 300, False),
        (7, 300, False),
    ],
)
def test_numbers_of_parameters(value: Any, listed: int, takes_long: bool) -> None:
    assert parameters_take_long_to_check(value, listed) is takes_long


@pytest.mark.parametrize(
    ("schema", "element"),
    [
        ({"contains": ENUM}, b"1"),
        ({"contains": ENUM}, b"99.5"),
        ({"items": {"anyOf": [ENUM, {"const": 1}]}}, b"1"),
        ({"items": ENUM}, b"99.5"),
    ],
)
def test_only_a_helper_process_compares_many_numbers_with_many_of_a_schema(schema: Any, element: bytes) -> None:
    validator = BodyValidator(schema)
    assert isinstance(validator.errors(b"[%b]" % element), list)
    with pytest.raises(TakesLong):
        validator.errors(b"[" + b",".join([element] * 20_000) + b"]")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {"contains": {"const": 2}},
        {"items": {"anyOf": [{"enum": [1, 2]}, {"type": "number"}]}},
        {"items": {"multipleOf": 0.3}},
        {"items": {"minimum": 2}},
        {"not": {"const": [1]}},
    ],
)
def test_only_a_helper_process_checks_many_of_them_by_the_reference(schema: Any) -> None:
    """Compiled checks take no longer for them, and may decide."""
    many = b"[" + b",".join([b"1e-300"] * (MOST_EXPONENTS + 1)) + b"]"
    expected = BodyValidator(schema, at_once=False).errors(many)
    try:
        found = BodyValidator(schema).errors(many)
    except TakesLong:
        return
    assert found == expected


def test_a_part_of_a_schema_that_is_left_to_the_reference_takes_long_too() -> None:
    schema = {"properties": {"a": {"contains": {"const": 2}}, "b": {"type": "string"}}}
    numbers = b",".join([b"1e-300"] * (MOST_EXPONENTS + 1))
    with pytest.raises(TakesLong):
        BodyValidator(schema).errors(b'{"a":[%b]}' % numbers)
    assert BodyValidator(schema, at_once=False).errors(b'{"a":[%b]}' % numbers)[0]["pointer"] == "/a"
    assert BodyValidator(schema).errors(b'{"a":[2]}') == []
