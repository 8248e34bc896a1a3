"""Validators, judged by JSON-Schema-Test-Suite, and schemas that are refused.

`json_schema_test_suite.json.gz` has the required tests of drafts 4 to 2020-12, by draft: file, schema, and pairs of
data and validity. They are from github.com/json-schema-org/JSON-Schema-Test-Suite, commit 44401e0c, MIT License,
Copyright (c) 2012 Julian Berman.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from fastgw.filters.policies.content.body_validator import BodyValidator
from fastgw.filters.policies.content.schemas import (
    MOST_ERRORS,
    Parameters,
    compile_schema,
    errors_of,
    read_schema,
)
from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.strict import parse_json
from fastgw.json_pointer import pointer_of
from tests.support.table import for_each

SUITE: dict[str, list[Any]] = json.loads(
    gzip.decompress(Path(__file__).with_name("json_schema_test_suite.json.gz").read_bytes())
)
NOT_ASSERTED = {"format"}  # formats are checked here; by default the draft has them as annotations


@pytest.mark.parametrize("draft", SUITE)
def test_the_suite(draft: str) -> None:
    """Only what needs other documents is refused, and none of it is fetched."""
    refused, judged, wrong = set(), 0, []
    for file, schema, tests in SUITE[draft]:
        try:
            validator = compile_schema(schema)
        except ValueError as error:
            refused.add((file, "localhost:1234" in str(error.__cause__)))
            continue
        for data, valid in tests:
            judged += 1
            if validator.is_valid(data) is not valid and not (draft == "draft2020-12" and file in NOT_ASSERTED):
                wrong.append((file, schema, data))
    assert wrong == []
    assert refused <= {("refRemote", True), ("dynamicRef", True), ("vocabulary", True)}
    assert judged > 600


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/x.json"},
        {"$ref": "file:///etc/passwd"},
        {"$schema": "http://127.0.0.1:9/draft"},
        {"pattern": "(?=a)"},
        {"pattern": r"(a)\1"},
        {"pattern": "("},
        {"type": "strin"},
        {"minimum": "3"},
    ],
)
def test_schemas_that_are_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        compile_schema(schema)


def test_patterns_and_alternatives_are_bounded() -> None:
    assert not compile_schema({"pattern": "^(a+)+$"}).is_valid("a" * 100_000 + "b")
    assert compile_schema({"uniqueItems": True}).is_valid([{"a": place} for place in range(2000)])


def test_errors_say_where_and_what_and_nothing_of_the_value() -> None:
    schema = {
        "required": ["a/b"],
        "properties": {
            "a/b": {"type": ["string", "null"]},
            "c": {"enum": [1, 2]},
            "d": {"pattern": "^x"},
            "e": {"items": {"maximum": 3}},
        },
        "additionalProperties": False,
    }
    value = {"a/b": 4711, "c": 4711, "d": "secret", "e": [1, 4711], "secret": 1}
    errors = errors_of(compile_schema(schema), value, "body", 0)
    assert {(each["pointer"], each["keyword"]): each["detail"] for each in errors} == {
        ("/a~1b", "type"): "expected type null or string",
        ("/c", "enum"): "expected enum 1 or 2",
        ("/d", "pattern"): "expected pattern ^x",
        ("/e/1", "maximum"): "expected maximum 3",
        ("", "additionalProperties"): "expected no members other than those of the schema",
    }
    assert not {"4711", "secret"} & {*json.dumps(errors).replace('"', " ").split()}
    assert errors_of(compile_schema(schema), {"a/b": None}, "body", 0) == []
    assert errors_of(compile_schema(schema), {}, "body", 0)[0]["detail"] == "expected the member 'a/b'"
    many = errors_of(compile_schema({"items": {"type": "string"}}), [1] * 1000, "body", 0)
    assert len(many) == MOST_ERRORS
    assert pointer_of(["~/", 3]) == "/~0~1/3"


@pytest.mark.parametrize(
    ("schema", "detail"),
    [
        (
            {"enum": [None, False, "a", 1.5, {"b": [True, "\u00e9"]}]},
            'enum null or false or a or 1.5 or {"b": [true, "\u00e9"]}',
        ),
        ({"const": None}, "const null"),
        ({"const": True}, "const true"),
        ({"const": {"a": None}}, 'const {"a": null}'),
        ({"const": [1, None]}, "const [1, null]"),
        ({"maximum": 10**30}, f"maximum {10**30}"),
    ],
)
def test_what_a_schema_expects_is_written_as_json(schema: Any, detail: str) -> None:
    value = 10**31
    assert [each["detail"] for each in errors_of(compile_schema(schema), value, "body", 0)] == [f"expected {detail}"]
    text = json.dumps(value).encode()
    assert [each["detail"] for each in BodyValidator(schema).errors(text)] == [f"expected {detail}"]


@pytest.mark.parametrize("content", [b"{", b"[]", b"7", b'{"a":1,"a":2}', b"\xff"])
def test_a_schema_is_an_object(content: bytes) -> None:
    with pytest.raises(ValueError, match="schema"):
        read_schema(content)


def test_parameters_become_what_their_schema_says() -> None:
    properties = {
        "n": {"type": "integer"},
        "f": {"type": ["number", "null"]},
        "b": {"type": "boolean"},
        "s": {"type": "string"},
        "l": {"type": "array", "items": {"type": "integer"}},
        "x": True,
    }
    value = Parameters({"properties": properties}).value
    assert value({"n": ["12"], "f": ["1.5"], "b": ["true"], "s": ["12"], "l": ["1"], "x": ["1"], "y": ["2"]}) == {
        "n": 12,
        "f": 1.5,
        "b": True,
        "s": "12",
        "l": [1],
        "x": "1",
        "y": "2",
    }
    assert value({"n": ["012"], "f": ["1e999"], "b": ["True"], "l": ["1", "a"], "s": ["a", "b"]}) == {
        "n": "012",
        "f": "1e999",
        "b": "True",
        "l": [1, "a"],
        "s": ["a", "b"],
    }
    assert value({"n": ["9" * 1000]}) == {"n": "9" * 1000}


def test_parameters_become_what_the_schema_says_that_theirs_refers_to() -> None:
    schema = {
        "properties": {
            "n": {"$ref": "#/$defs/n"},
            "l": {"$ref": "#/$defs/l"},
            "o": {"$ref": "#/$defs/a~1b%20c"},
            "s": {"type": "string", "$ref": "#/$defs/n"},
            "circle": {"$ref": "#/$defs/circle"},
            "none": {"$ref": "#/$defs/none/0"},
            "far": {"$ref": "https://x.test/n"},
        },
        "$defs": {
            "n": {"type": "integer"},
            "a/b c": {"$ref": "#/$defs/n"},
            "l": {"type": "array", "items": {"$ref": "#/$defs/n"}},
            "circle": {"$ref": "#/$defs/circle"},
        },
    }
    texts = {name: ["1"] for name in schema["properties"]}
    assert Parameters(schema).value(texts) == {
        "n": 1, "l": [1], "o": 1, "s": "1", "circle": "1", "none": "1", "far": "1",
    }  # fmt: skip


# the text


@for_each(
    "text",
    [
        b"",
        b"{",
        b"[1,]",
        b"NaN",
        b"[Infinity]",
        b"01",
        b'"\n"',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b'{"a":1,"a":1}',
        b'[{"b":{"a":1,"a":{"c":[]}}}]',
        b'{"a":1,"\\u0061":2}',
        b'{"a\\u0022":1,"a\\"":2}',
        b'{"a":"\\u0022\\u0022","b":1,"b":2}',
        b"[" * 100_000,
        b"[" * 200_000 + b"]" * 200_000,
    ],
)
def test_texts_with_no_meaning_or_two(text: bytes) -> None:
    with pytest.raises(InvalidJson):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    [b"{}", b' [1, 2.50, "a\\"b", "\\u0022", {"a": {"a": null}}] ', '{"ä":"ä","\\u00e4x":"/\\/"}'.encode(), b"1e5"],
)
def test_texts_with_one_meaning(text: bytes) -> None:
    assert parse_json(text) == orjson.loads(text)


@pytest.mark.parametrize("levels", [255, 1024])
def test_texts_that_could_not_be_written_again(levels: int) -> None:
    with pytest.raises(InvalidJson, match="nested too deeply"):
        parse_json(b'{"a":' * levels + b"1" + b"}" * levels)
    parse_json(b'{"a":' * 254 + b"1" + b"}" * 254)
