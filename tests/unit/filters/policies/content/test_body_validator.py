"""The compiled checks of schemas, judged by the reference and by JSON-Schema-Test-Suite."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.filters.policies.content.body_validator import BodyValidator, Errors
from fastgw.filters.policies.content.pattern_automata import automaton_of
from fastgw.filters.policies.content.schemas import MOST_ERRORS, errors_of
from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.strict import parse_json
from tests.support.table import for_each

from .test_schemas import NOT_ASSERTED, SUITE


def checked(validator: BodyValidator, text: bytes) -> Errors | None:
    """Return what the compiled checks find in a text; None: nothing, because it is left to the reference."""
    return None if validator._checks is None else validator._checks.errors(text, MOST_ERRORS)


def keys(errors: Errors) -> Counter[tuple[str, ...]]:
    return Counter(tuple(each.values()) for each in errors)


def all_errors(validator: BodyValidator, value: Any) -> Counter[tuple[str, ...]]:
    """Return all errors of the reference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastgw.filters.policies.content.schemas.MOST_ERRORS", 1_000_000)
        return keys(errors_of(validator.reference, value, "body", 0))


def compare(validator: BodyValidator, text: bytes) -> bool:
    """Compare the errors with those of the reference. Returns whether the compiled checks found them."""
    found = checked(validator, text)
    if found is None:
        return False
    expected = all_errors(validator, parse_json(text))
    assert len(found) == min(expected.total(), MOST_ERRORS), (found, expected)
    assert not keys(found) - expected
    return True


# the suite


@pytest.mark.parametrize("inside", [False, True], ids=["root", "property"])
@pytest.mark.parametrize("draft", SUITE)
def test_the_suite(draft: str, inside: bool) -> None:
    """`inside`: the schema is that of a property, so that the reference judges single values."""
    judged, natively, wrong = 0, 0, []
    for file, schema, tests in SUITE[draft]:
        try:
            validator = BodyValidator(within(schema) if inside else schema)
        except ValueError:
            continue
        for data, valid in tests:
            judged += 1
            text = json.dumps({"x": data} if inside else data).encode()
            found = checked(validator, text)
            if found is None:
                continue
            natively += 1
            moved = inside and file == "ref"  # references to the root
            if (not found) is not valid and not moved and not (draft == "draft2020-12" and file in NOT_ASSERTED):
                wrong.append((file, schema, data))
            compare(validator, text)
    assert wrong == []
    assert natively > judged * 0.35 or draft == "draft4"  # that one is left to the reference


def within(schema: Any) -> Any:
    """Return a schema whose property `x` has this one; definitions stay at the root."""
    if not isinstance(schema, dict):
        return {"properties": {"x": schema}}
    shared = {name: schema[name] for name in ("$schema", "$defs", "definitions") if name in schema}
    return {**shared, "properties": {"x": {name: each for name, each in schema.items() if name not in shared}}}


# random schemas and documents

NAMES = ["a", "b", "c~/", "\u00e9", "required"]
TEXTS = ["", "a", "b1", "ab", "abc", "\u00e9", "\U0001f600", "a\n", "a\\", '"', "A-1", "null"]
NUMBERS = [
    "0", "-0", "1", "2", "3", "6", "-1", "1.0", "1e0", "1.5", "1e2", "0.1", "5e-1", "-1e-400", "1e300",
    "999999999999999", "9999999999999999", "9007199254740992", "9007199254740993", "100000000000000000",
    "-9223372036854775809", "18446744073709551616", "123456789012345678901234567890",
]  # fmt: skip
PATTERNS = [
    "", "^$", "^a", "b$", "a|b", "^[a-z]+$", "^(a|b)[0-9]?$", "^.$", "\\d", "^\\w{1,3}$", "^\\S*$", "\\p{L}", "^a.*",
]  # fmt: skip
numbers = st.sampled_from([0, 1, 2, 3, -1, 1.5, 1.0, 100, 2**53, 2**53 - 1, 0.1, 1e300, 2**63])
counts = st.integers(0, 3)
scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(TEXTS), numbers)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=5,
)
TYPES = ["null", "boolean", "string", "number", "integer", "array", "object"]
types = st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, max_size=4, unique=True)


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    members = st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": types,
            "enum": st.lists(values, min_size=1, max_size=4, unique_by=repr),
            "const": values,
            "minimum": numbers,
            "maximum": numbers,
            "exclusiveMinimum": numbers,
            "exclusiveMaximum": numbers,
            "multipleOf": st.sampled_from([1, 2, 3, 7, 0.1, 1.5]),
            "minLength": counts,
            "maxLength": counts,
            "minItems": counts,
            "maxItems": counts,
            "minProperties": counts,
            "maxProperties": counts,
            "pattern": st.sampled_from(PATTERNS),
            "required": st.lists(st.sampled_from(NAMES), max_size=3, unique=True),
            "properties": members,
            "additionalProperties": inner,
            "items": inner,
            "title": st.just("a title"),
        },
    )


def rarely(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return schemas that are left to the reference in part."""
    lists = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        *(st.fixed_dictionaries({name: lists}) for name in ("oneOf", "anyOf", "allOf")),
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries({"format": st.sampled_from(["date", "uuid", "ipv4"])}),
        st.fixed_dictionaries({"patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, max_size=2)}),
        st.fixed_dictionaries({"uniqueItems": st.booleans(), "items": inner}),
        st.fixed_dictionaries({"$ref": st.sampled_from(["#/$defs/one", "#/$defs/other"])}),
    )


schemas = st.recursive(
    st.booleans() | keywords(st.booleans()),
    lambda inner: st.one_of(keywords(inner), keywords(inner), keywords(inner), rarely(inner)),
    max_leaves=8,
)
roots = st.builds(
    lambda schema, one, other, draft: schema | {"$defs": {"one": one, "other": other}} | draft,
    keywords(schemas),
    keywords(schemas),
    schemas,
    st.sampled_from([{}, {}, {"$schema": "http://json-schema.org/draft-07/schema#"}]),
)


@st.composite
def texts_of(draw: st.DrawFn, depth: int = 0) -> str:
    """Return a JSON text: with white space, escape sequences, unusual numbers, and sometimes duplicate names."""
    space = draw(st.sampled_from(["", "", "", " ", "\n\t"]))
    kind = draw(st.integers(0, 5 if depth < 4 else 3))
    if kind == 0:
        return space + draw(st.sampled_from(["null", "true", "false"]))
    if kind == 1:
        return space + draw(st.sampled_from(NUMBERS))
    if kind < 4:
        return space + written(draw, draw(st.sampled_from(TEXTS))) + space
    inner = draw(st.lists(texts_of(depth + 1), max_size=4))
    if kind == 4:
        return f"[{space}{','.join(inner)}{space}]"
    names = draw(st.permutations(NAMES)) if draw(st.integers(0, 9)) else ["a", "a", "b", "c~/"]
    members = [f"{written(draw, name)}{space}:{each}" for name, each in zip(names, inner, strict=False)]
    return f"{space}{{{space}{','.join(members)}{space}}}"


def written(draw: st.DrawFn, text: str) -> str:
    if draw(st.integers(0, 4)):
        return json.dumps(text, ensure_ascii=draw(st.booleans()))
    units = memoryview(text.encode("utf-16-be"))
    return '"' + "".join(f"\\u{units[at]:02x}{units[at + 1]:02X}" for at in range(0, len(units), 2)) + '"'


@settings(max_examples=400, deadline=None)
@given(roots, st.lists(texts_of(), min_size=1, max_size=8))
def test_errors_are_those_of_the_reference(schema: Any, documents: list[str]) -> None:
    """A text that the reference does not read as JSON is left to it."""
    validator = BodyValidator(schema)
    for document in documents:
        text = document.encode()
        try:
            parse_json(text)
        except InvalidJson:
            assert checked(validator, text) is None
        else:
            compare(validator, text)


@pytest.mark.parametrize(("count", "is_left"), [(256, False), (257, True)])
def test_a_text_with_many_values_for_the_reference_is_left_to_it_as_a_whole(count: int, is_left: bool) -> None:
    """One by one they take longer than together."""
    validator = BodyValidator({"type": "array", "items": {"type": "string", "format": "email"}})
    text = json.dumps(["a@b.example"] * count).encode()
    assert (checked(validator, text) is None) is is_left
    assert validator.errors(text) == []


# patterns

atoms = st.sampled_from(
    [
        "a",
        "b",
        "1",
        "-",
        "[ab]",
        "[^a]",
        "[a-c1]",
        "[-a]",
        "[a-]",
        "[\\w.-]",
        "\\d",
        "\\w",
        "\\s",
        "\\S",
        "\\.",
        ".",
        "\\n",
        "_",
    ]
)
bodies = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("({}{}|{})".format, st.sampled_from(["", "?:"]), inner, inner | st.just("")),
        st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "{2,3}"])),
        st.builds("{}|{}".format, inner, inner),
    ),
    max_leaves=8,
)
patterns = st.builds("{}{}{}".format, st.sampled_from(["", "^"]), bodies, st.sampled_from(["", "$"]))


@settings(max_examples=300, deadline=None)
@given(patterns, st.lists(st.text("aabbc1d-._ \n\r\x1c\x85\u00e9", max_size=8), min_size=8, max_size=8))
def test_patterns_match_what_the_reference_matches(pattern: str, texts: list[str]) -> None:
    assert compare(BodyValidator({"type": "array", "items": {"pattern": pattern}}), json.dumps(texts).encode())


@pytest.mark.parametrize(
    "pattern",
    [
        "^[a-z]{2}[0-9]+$",
        "^[A-Za-z0-9_-]{1,64}$",
        "^\\d{4}-\\d{2}-\\d{2}$",
        "^(en|de|fr)(-[A-Z]{2})?$",
        "^#[0-9a-fA-F]{6}$",
        ".",
    ],
)
def test_common_patterns_have_an_automaton(pattern: str) -> None:
    assert automaton_of(pattern) is not None


@for_each(
    "pattern",
    ["\\bab", "\\p{L}", "\\u0041", "(?i)a", "[[a]]", "[a&&b]", "[a--b]", "[]a]", "a**", "a+?", "a{", "a{2", "a{3,2}",
     "^a|b", "a|b$", "a^b", "a$b", "\u00e9", "\\x41", "\\cA", "[\\b]", "(?<n>a)", "(a|b)*a(a|b){9}", "a" * 600,
     "((((((((((((((((((((((a" + ")" * 22],
)  # fmt: skip
def test_patterns_that_others_may_read_differently_have_none(pattern: str) -> None:
    """Nor those whose automaton would be large."""
    assert automaton_of(pattern) is None


# unusual texts

TREE = {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"type": "integer"}}, "additionalProperties": False}


@pytest.mark.parametrize(("levels", "is_left"), [(1, False), (253, False), (254, True), (300, True), (100_000, True)])
def test_nested_texts(levels: int, is_left: bool) -> None:
    """The reference refuses more than 254 levels."""
    validator = BodyValidator(TREE)
    text = b'{"a":' * levels + b'{"b":""}' + b"}" * levels
    assert (checked(validator, text) is None) is is_left
    (error,) = validator.errors(text)
    assert (error["keyword"], error["pointer"]) == (("type", "/a" * levels + "/b") if levels < 254 else ("json", ""))


WIDE = {f"n{number}": {"type": "integer"} for number in range(100)}
WIDE_TEXT = ",".join(f'"n{number}":{number}' for number in range(100)).encode()


@for_each(
    ("schema", "text"),
    [
        ({"properties": {"a": True}}, b'{"a":1,"a":1}'),
        ({"properties": {"a": True}}, b'{"a":1,"\\u0061":1}'),
        ({"properties": {"a": True}}, b'{"b":1,"\\u0062":1}'),
        ({"properties": {"a": {"type": "object"}}}, b'{"a":{"b":1,"b":1}}'),
        ({"properties": {"a": {"type": "string"}}}, b'{"a":"\xff"}'),
        ({"properties": {"a": {"type": "string"}}}, b'{"a":"\\ud800"}'),
        ({"properties": WIDE}, b"{%b,%b}" % (WIDE_TEXT, b'"n99":1')),
        ({"properties": WIDE}, b"{%b,%b}" % (WIDE_TEXT, b'"n0":1')),
        ({"type": "object"}, b"{} {}"),
        ({"type": "object"}, b""),
        ({"type": "object"}, b" "),
        ({"type": "object"}, b'{"a":1'),
        ({"type": "array", "items": {"minimum": 1}}, b"[1,01]"),
        ({"type": "array", "items": {"minimum": 1}}, b"[1,]"),
        ({"type": "array", "items": {"minimum": 1}}, b"[1e999]"),
    ],
)
def test_texts_that_are_no_strict_json(schema: Any, text: bytes) -> None:
    validator = BodyValidator(schema)
    assert checked(validator, text) is None
    assert [each["keyword"] for each in validator.errors(text)] == ["json"]


def test_many_members_and_many_required() -> None:
    schema = {
        "properties": WIDE,
        "required": [f"n{number}" for number in range(40, 100)],
        "additionalProperties": False,
    }
    validator = BodyValidator(schema)
    assert validator.errors(b"{%b}" % WIDE_TEXT) == []
    for text in (b"{%b}" % WIDE_TEXT.replace(b'"n70":70,', b""), b'{%b,"x":[]}' % WIDE_TEXT.replace(b":99", b":[]")):
        assert compare(validator, text)


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": {"type": "integer"}}},
        {"properties": {"a": {"$anchor": "a"}, "b": {"$ref": "#a"}}},
        {"properties": {"a": {"$id": "https://a.example/a", "type": "string"}}},
        {"properties": {"a": {"$schema": "http://json-schema.org/draft-04/schema#", "type": "string"}}},
        {"$dynamicAnchor": "a", "properties": {"a": {"$dynamicRef": "#a"}}},
        {"oneOf": [{"type": "object"}, {"type": "null"}]},
        {"properties": {"a": {"anyOf": [{"$ref": "#/properties/b"}]}, "b": {"type": "null"}}},
        True,
    ],
)
def test_schemas_that_are_left_to_the_reference(schema: Any) -> None:
    assert checked(BodyValidator(schema), b"{}") is None


def test_a_tree_has_values_for_the_reference() -> None:
    """They refer to nothing, although the schema refers to its root."""
    schema = {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"type": "string", "format": "date"}}}
    validator = BodyValidator(schema)
    for text in (b'{"a":{"a":{"b":"2026-11-25"}}}', b'{"a":{"b":"x","a":1},"b":1}'):
        assert compare(validator, text)


@pytest.mark.parametrize(("count", "is_left"), [(10, False), (100, True)])
def test_definitions_are_not_compiled_very_often(count: int, is_left: bool) -> None:
    definitions = {f"d{number}": {"type": "string"} for number in range(count)}
    properties = {name: {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]} for name in definitions}
    validator = BodyValidator({"$defs": definitions, "properties": properties})
    assert (checked(validator, b"{}") is None) is is_left
    assert [each["pointer"] for each in validator.errors(b'{"d0":null,"d1":"","d2":1}')] == ["/d2"]


def test_a_longer_text_has_one_error() -> None:
    validator = BodyValidator({"type": "array", "items": {"type": "string"}})
    assert [len(validator.errors(json.dumps([1] * count).encode())) for count in (5, 50, 5000)] == [5, 10, 1]
