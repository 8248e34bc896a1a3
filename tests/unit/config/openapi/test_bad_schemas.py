"""Schemas that cannot be compiled: they are named with the operations that use them, which can be left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.table import for_each
from tests.unit.config.openapi.test_expand import load, problems
from tests.unit.filters.policies.openapi.shop import Shop, document, json_body, operation, post

BAD: dict[str, Any] = {"type": "string", "pattern": "(?=a)b"}
REFERENCE = {"$ref": "#/components/schemas/Outer"}
COMPONENTS = {"schemas": {"Outer": {"properties": {"a": {"$ref": "#/components/schemas/Inner"}}}, "Inner": BAD}}


def described(first: Any, second: Any = None, **more: Any) -> dict[str, Any]:
    """A document with an operation that takes a schema, and another that takes and answers one."""
    answer = {"200": {"description": "ok", "content": {"application/json": {"schema": second or {}}}}}
    others = operation(requestBody=json_body(second or {}), responses=answer, operationId="change", **more)
    paths = {"/a": {"post": operation(requestBody=json_body(first)), "put": others}}
    return document(paths, "3.1.0", components=COMPONENTS)


@for_each(
    ("document", "entry", "expected"),
    [
        (described(BAD), {}, '`operations: {"POST /a": {validate: off}}`'),
        (described({"$id": "urn:a"}), {}, '`operations: {"POST /a": {validate: off}}`'),
        (described({"type": "strin"}), {}, '`operations: {"POST /a": {validate: off}}`'),
        (described({"$ref": "#/nowhere"}), {}, '`operations: {"POST /a": {validate: off}}`'),
        (described(REFERENCE), {}, '`operations: {"POST /a": {validate: off}}`'),
        (
            described(REFERENCE, REFERENCE),
            {},
            '`operations: {"POST /a": {validate: off}}` and the same for 1 other operation',
        ),
        (
            described({}, REFERENCE, **{"x-fastgw": {"validate": "off"}}),
            {"responses": "report"},
            '`operations: {"change": {responses: off}}`',
        ),
        (
            described({}, BAD),
            {"responses": "report", "operations": {"change": {"responses": "off"}}},
            '`operations: {"change": {validate: off}}`',
        ),
    ],
)
def test_a_schema_that_cannot_be_compiled_is_named_with_what_leaves_it_out(
    document: dict[str, Any], entry: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    said = problems(tmp_path, document, entry)
    assert said.endswith(f", or {expected}")
    assert said.count("\n") == 0
    assert said.startswith("shop.json:")


@for_each(
    ("document", "entry"),
    [
        (described(BAD, REFERENCE), {"validate": "off"}),
        (described({"type": "strin"}), {"validate": "off"}),
        (described({"$ref": "#/nowhere"}), {"validate": "off", "docs": "/docs"}),
        (described(BAD), {"validate": "off", "responses": "report"}),
        (described({}, BAD, **{"x-fastgw": {"validate": "off"}}), {}),
        (described(BAD, BAD), {"operations": {"POST /a": {"validate": "off"}, "change": {"validate": "off"}}}),
        (
            described({}, REFERENCE),
            {"responses": "report", "operations": {"change": {"validate": "off"}, "PUT /a": {"responses": "off"}}},
        ),
        (described({"$recursiveAnchor": True, "items": {"$recursiveRef": "#"}, "$other": {}, "other": 1}), {}),
    ],
)
def test_a_document_with_a_schema_that_nothing_needs_is_loaded(
    document: dict[str, Any], entry: dict[str, Any], tmp_path: Path
) -> None:
    loaded = load(tmp_path, document, entry)
    assert [each.name for each in loaded.config.routes][:2] == ["change", "POST /a"]
    assert not [str(note) for note in loaded.notes]


def test_an_operation_that_is_left_out_takes_everything_and_the_others_do_not(tmp_path: Path) -> None:
    entry = {"operations": {"POST /a": {"validate": "off"}, "change": {"validate": "enforce"}}}
    more = {"x-fastgw": {"validate": "off"}}
    shop = Shop(tmp_path, described(REFERENCE, {"type": "object", "required": ["b"]}, **more), entry)
    wrong = post("/a", json.dumps({"a": 5}).encode())
    assert shop.sends(wrong) == 204
    assert shop.sends(wrong.replace(b"POST", b"PUT")) == 400


def test_an_operation_that_the_document_does_not_have_is_an_error(tmp_path: Path) -> None:
    said = problems(tmp_path, described({}), {"operations": {"chnge": {"validate": "off"}}})
    assert "gateway.json:1:" in said
    assert 'openapi.operations.chnge: the document has no operation "chnge"; did you mean "change"?' in said
