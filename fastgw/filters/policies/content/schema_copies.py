"""Copies of JSON Schemas in which sub-schemas are replaced: for short errors, for a limit of the references that are
followed, and for names in any case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

_MAPS: Final = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependentRequired", "dependencies",
     "schemas")
)  # fmt: skip
"""Keywords whose members are schemas, or lists, with any names; `schemas` is that of `components` in OpenAPI."""
_VALUES: Final = frozenset(("const", "enum", "default", "example", "examples"))
"""Keywords whose values are no schemas."""
_ALTERNATIVES: Final = ("anyOf", "oneOf")
_MARK: Final = "fastgw:alternatives"
"""Keyword, unknown to JSON Schema, whose value is the name of the one that has failed."""
STEP: Final = "fastgw:step"
"""Keyword, unknown to JSON Schema, that fails once the limit of the references that are followed is reached."""
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_BESIDE_REFERENCE: Final = frozenset(("$schema", "$defs", "definitions"))
"""Keywords that count beside a `$ref` in drafts 4 to 7."""
_PARTS: Final = frozenset(("properties", "additionalProperties", "items", "prefixItems", "additionalItems"))
"""Keywords whose sub-schemas are of different parts of a value: in one schema, they check each part once."""
_BRANCHES: Final = frozenset(
    ("allOf", "anyOf", "oneOf", "not", "if", "contains", "patternProperties", "dependencies", "dependentSchemas",
     "unevaluatedProperties", "unevaluatedItems")
)  # fmt: skip
"""Keywords whose sub-schemas may check what another keyword of the schema checks too."""

Change = Callable[[dict[str, Any]], dict[str, Any]]


def _replaced(schema: Any, change: Change) -> Any:
    """Return a copy of a schema in which `change` has replaced each sub-schema, the inner ones first."""
    if isinstance(schema, list):
        return [_replaced(each, change) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {}
    for name, held in schema.items():
        if name in _VALUES:
            made[name] = held
        elif name in _MAPS and isinstance(held, dict):
            made[name] = {key: _replaced(each, change) for key, each in held.items()}
        else:
            made[name] = _replaced(held, change)
    return change(made)


# errors of alternatives


def with_short_errors(schema: Any, *, has_if: bool) -> Any:
    """Return a schema that is equivalent but whose `anyOf` and `oneOf` fail with one error each; itself if it has none.

    jsonschema-rs adds the errors of all alternatives to theirs, an object for each element that fails. In the copy the
    alternatives are in a place where only their validity matters. References to an alternative lead to nothing there.
    `has_if`: whether the draft has `if`, which keeps what `unevaluatedProperties` needs to know, unlike `not`.
    """
    copy = _replaced(schema, partial(_with_guards, has_if=has_if))
    return schema if copy == schema else copy


def _with_guards(schema: dict[str, Any], *, has_if: bool) -> dict[str, Any]:
    guards = []
    for keyword in _ALTERNATIVES:
        if isinstance(schema.get(keyword), list):
            held = {keyword: schema.pop(keyword)}
            guards.append(
                {"if": held, "else": {"not": {_MARK: keyword}}}
                if has_if
                else {"not": {"not": held, _MARK: keyword}}  # of drafts 4 and 6
            )
    return schema | {"allOf": [*schema.get("allOf", ()), *guards]} if guards else schema


def failed_keyword(kind: Any) -> str:
    """Return the keyword of an error as the schema has it, also if the error is of a copy `with_short_errors`."""
    name: str = kind.name
    schema = kind.schema if name == "not" else None
    return str(schema[_MARK]) if isinstance(schema, dict) and _MARK in schema else name


# references


def may_repeat(schema: Any) -> bool:
    """Whether several sequences of references may lead to one part of a value. Their number is multiplied by each level
    of the value if the schema is recursive, otherwise by each level of the schema.
    """
    refers = branches = False
    for each in _objects(schema):
        branches = branches or not each.keys().isdisjoint(_BRANCHES)
        references = _references_of(each)
        if references:
            refers = True
            is_alone = references.keys() == {"$ref"} and each.keys().isdisjoint(_PARTS)
            branches = branches or not is_alone or not references["$ref"].startswith("#")
    return refers and branches


def with_steps(schema: Any, *, has_if: bool, keeps_siblings: bool) -> Any:
    """Return a schema in which each reference is behind the keyword `STEP`. Raises `ValueError` if one cannot be.

    When the keyword fails, the reference is not followed. `has_if`: whether the draft has `if`; without it the failure
    is an error of the value, which ends nothing but a search for the first error. `keeps_siblings`: whether the draft
    has keywords beside `$ref`.
    """
    changed = 0

    def with_step(held: dict[str, Any]) -> dict[str, Any]:
        nonlocal changed
        references = _references_of(held)
        if not references:
            return held
        changed += 1
        guards = [{"if": {STEP: True}, "then": references}] if has_if else [{STEP: True}, references]
        if not keeps_siblings:
            return {name: held[name] for name in _BESIDE_REFERENCE & held.keys()} | {"allOf": guards}
        others = {name: value for name, value in held.items() if name not in references}
        return others | {"allOf": [*held.get("allOf", ()), *guards]}

    copy = _replaced(schema, with_step)
    if changed != sum(1 for each in _objects(schema) if _references_of(each)):
        raise ValueError("a value, such as that of `default`, has a reference, and may be used as a schema")
    if any(isinstance(each.get("$schema"), str) for each in _objects(schema) if each is not schema):
        raise ValueError("a part of the schema may be of another draft")
    return copy


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects in a schema: sub-schemas, and what is none."""
    left = [schema]
    while left:
        held = left.pop()
        if isinstance(held, dict):
            yield held
            left += held.values()
        elif isinstance(held, list):
            left += held


def _references_of(schema: dict[str, Any]) -> dict[str, str]:
    return {name: schema[name] for name in _REFERENCES if isinstance(schema.get(name), str)}


# names in any case


def with_one_spelling(schema: Any) -> Any:
    """Return a schema of headers in which each name is spelled as in `properties`, whatever its case elsewhere; not in
    the patterns of `patternProperties` and `propertyNames`. Raises `ValueError` where it has two spellings.
    """
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return schema
    return _replaced(schema, partial(_spelled, {name.lower(): name for name in properties}))


def _spelled(names: Mapping[str, str], schema: dict[str, Any]) -> dict[str, Any]:
    def spelled(held: Any) -> Any:
        if isinstance(held, list):
            return [spelled(each) for each in held]
        return names.get(held.lower(), held) if isinstance(held, str) else held

    made = dict(schema)
    if isinstance(made.get("required"), list):
        made["required"] = list(dict.fromkeys(spelled(made["required"])))
    for keyword in ("properties", "dependentRequired", "dependentSchemas", "dependencies"):
        if isinstance(made.get(keyword), dict):
            made[keyword] = held_by = {}
            for name, held in schema[keyword].items():
                if spelled(name) in held_by:
                    raise ValueError(f"`{keyword}` has one header in two spellings; expected each header once")
                held_by[spelled(name)] = spelled(held)
    return made
