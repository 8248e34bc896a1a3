"""Schemas as plans for the compiled checks: what is checked in the text itself, and which values the reference judges.

A plan is made for drafts 6 to 2020-12. Kinds of values that a keyword other than the known ones concerns are
*delegated*: their texts are cut out, and a validator of the reference judges them by the sub-schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, final

from fastgw.filters.policies.content.pattern_automata import Automaton, automaton_of
from fastgw.json_pointer import unescaped

NULL, BOOLEAN, STRING, NUMBER, INTEGER, ARRAY, OBJECT = (1 << bit for bit in range(7))
"""Kinds of values, as bits. `INTEGER` is one of types alone: the kind of every number is `NUMBER`."""
EVERY: Final = NULL | BOOLEAN | STRING | NUMBER | ARRAY | OBJECT
TYPES: Final = {
    "null": NULL,
    "boolean": BOOLEAN,
    "string": STRING,
    "number": NUMBER,
    "integer": INTEGER,
    "array": ARRAY,
    "object": OBJECT,
}
ANY: Final = -1
"""Number of the node that every value conforms to."""
MOST_NODES: Final = 4096
MOST_DELEGATES: Final = 256
MOST_DEFINITIONS: Final = 2048
"""Definitions that are compiled once more, for each delegate that refers to any of them, as the schema is loaded."""
MOST_REQUIRED: Final = 64
_EXACT: Final = 2**53
"""Integers below are doubles, too."""
_LARGEST_COUNT: Final = 2**31 - 1

_DRAFTS: Final = {
    "https://json-schema.org/draft/2020-12/schema": 2020,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "http://json-schema.org/draft-07/schema": 7,
    "http://json-schema.org/draft-06/schema": 6,
}
_ANNOTATIONS: Final = frozenset(
    ("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated",
     "readOnly", "writeOnly", "example", "nullable", "discriminator", "xml", "externalDocs", "then", "else",
     "minContains", "maxContains")
)  # fmt: skip
"""Keywords that check nothing: annotations, `then` and such without `if`, and those of OpenAPI."""
_KINDS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("format", "contentEncoding", "contentMediaType", "contentSchema"), STRING),
    **dict.fromkeys(
        ("contains", "prefixItems", "additionalItems", "unevaluatedItems"),
        ARRAY,
    ),
    **dict.fromkeys(
        (
            "patternProperties",
            "propertyNames",
            "dependencies",
            "dependentRequired",
            "dependentSchemas",
            "unevaluatedProperties",
        ),
        OBJECT,
    ),
}
"""Keywords that are left to the reference, and the kinds of values that they concern; of others it is every kind."""
_NAMED: Final = frozenset(("$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"))
"""Keywords that give a part of a schema another meaning in another place."""
_LOCAL: Final = re.compile(r"#(?:/[A-Za-z0-9_.$~-]+)*")
_OF_DEFINITIONS: Final = re.compile(r"#/(?:\$defs|definitions)/")
_LIMITS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_COUNTS: Final = {
    "minLength": STRING,
    "maxLength": STRING,
    "minItems": ARRAY,
    "maxItems": ARRAY,
    "minProperties": OBJECT,
    "maxProperties": OBJECT,
}
KEYWORDS: Final = ("type", "enum", "const", "pattern", "multipleOf", *_LIMITS, *_COUNTS, "required",
                   "additionalProperties", "falseSchema")  # fmt: skip
"""Keywords of errors that the compiled checks find, in the order of their numbers there."""


class Choices(NamedTuple):
    """Values of `enum` or `const`."""

    keyword: str
    strings: tuple[str, ...]
    integers: tuple[int, ...]
    constants: int
    """`NULL`, and 1 << 7 for `false`, 1 << 8 for `true`."""


FALSE, TRUE = 1 << 7, 1 << 8


@final
class SchemaNode:
    """Checks of a value: a sub-schema."""

    __slots__ = ("additional", "choices", "counts", "delegated", "details", "is_closed", "is_false", "items", "limits",
                 "members", "multiple_of", "pattern", "schema", "types")  # fmt: skip

    def __init__(self, schema: Any) -> None:
        self.schema: Any = schema
        """Sub-schema by which the reference judges the delegated values, and numbers and strings that it has to."""
        self.types = EVERY
        self.delegated = 0
        """Kinds of values that the reference judges."""
        self.is_false = False
        self.choices: list[Choices] = []
        self.limits: list[tuple[str, float]] = []
        self.multiple_of = 0
        self.counts: dict[str, int] = {}
        self.pattern: Automaton | None = None
        self.members: list[tuple[str, int, bool]] = []
        """Name, number of the node, and whether it is required. Node `ANY - 1`: as other members."""
        self.additional = ANY
        """Number of the node of other members."""
        self.is_closed = False
        """Whether other members are errors."""
        self.items = ANY
        self.details: dict[str, tuple[str, str]] = {}
        """Keyword and detail of errors, by keyword; those of `required` by keyword and name."""


AS_OTHERS: Final = ANY - 1


class _NoPlan(Exception):
    """A schema is left to the reference as a whole."""


Expected = Callable[[str, Any], str]
"""Returns what a schema expects: keyword, and its value as the reference tells it."""


def plan_of(schema: Any, expected: Expected) -> list[SchemaNode] | None:
    """Return the nodes of a schema, the root first; None: it is left to the reference, which costs no more."""
    try:
        return _Planner(schema, expected).nodes
    except (_NoPlan, RecursionError):
        return None


@final
class _Planner:
    def __init__(self, root: Any, expected: Expected) -> None:
        if not isinstance(root, dict):
            raise _NoPlan
        draft = root.get("$schema", "https://json-schema.org/draft/2020-12/schema")
        found = _DRAFTS.get(draft.removesuffix("#") if isinstance(draft, str) else "")
        if found is None:
            raise _NoPlan
        self._root, self._draft, self._expected = root, found, expected
        references = list(_references(root, is_root=True))
        self._can_delegate = all(_OF_DEFINITIONS.match(each) for each in references)
        self._shared = {name: root[name] for name in ("$schema", "$defs", "definitions") if name in root}
        self._delegates = self._definitions = 0
        self.nodes: list[SchemaNode] = []
        self._numbers: dict[int, int] = {}
        """Numbers of the nodes by the identity of their schema, which the root keeps alive."""
        if self._node(root) != 0 or self.nodes[0].delegated & (ARRAY | OBJECT):
            raise _NoPlan

    def _node(self, schema: Any) -> int:
        """Return the number of the node of a sub-schema."""
        schema = self._referred(schema)
        if schema is True or schema == {}:
            return ANY
        number = self._numbers.get(id(schema))
        if number is not None and schema is not False:
            return number
        number = len(self.nodes)
        if number == MOST_NODES:
            raise _NoPlan
        self._numbers[id(schema)] = number
        node = SchemaNode(schema)
        self.nodes.append(node)
        if schema is False:
            node.is_false = True
            self._add_detail(node, "falseSchema", None)
            return number
        if not isinstance(schema, dict):
            raise _NoPlan
        node.delegated = self._delegated_by(schema)
        if node.delegated != EVERY:
            self._fill(node, schema)
        if node.delegated:
            node.types |= node.delegated
            self._delegates += 1
            if self._delegates > MOST_DELEGATES:
                raise _NoPlan
        node.schema = self._sub_schema(schema) if node.delegated else self._scalars(schema)
        return number

    def _referred(self, schema: Any) -> Any:
        """Return the schema that a reference without other keywords leads to."""
        for _ in range(32):
            if not isinstance(schema, dict) or "$ref" not in schema:
                return schema
            if self._draft > 7 and any(name != "$ref" and not _is_annotation(name) for name in schema):
                return schema
            schema = self._target(schema["$ref"])
        raise _NoPlan

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not _LOCAL.fullmatch(reference):
            raise _NoPlan
        held = self._root
        for step in reference.split("/")[1:]:
            name = unescaped(step)
            if not isinstance(held, dict) or name not in held:
                raise _NoPlan
            held = held[name]
        return held

    def _sub_schema(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        made = {name: value for name, value in schema.items() if name not in ("$id", "$defs", "definitions")}
        if any(True for _ in _references(made, is_root=True)):
            self._definitions += sum(len(self._shared.get(name, ())) for name in ("$defs", "definitions"))
            if not self._can_delegate or self._definitions > MOST_DEFINITIONS:
                raise _NoPlan
            return made | self._shared
        return made | {name: value for name, value in self._shared.items() if name == "$schema"}

    def _scalars(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return a sub-schema as far as it concerns numbers and strings."""
        made = {name: value for name, value in schema.items() if name in _OF_SCALARS}
        return made | {name: value for name, value in self._shared.items() if name == "$schema"}

    def _delegated_by(self, schema: Mapping[str, Any]) -> int:
        """Return the kinds of values that keywords concern which are left to the reference."""
        kinds = 0
        for name, value in schema.items():
            if name in _CHECKED:
                kinds |= self._delegated_value(name, value)
            elif name == "uniqueItems":
                kinds |= ARRAY if value else 0
            elif not _is_annotation(name):
                kinds |= _KINDS.get(name, EVERY)
        return kinds

    def _delegated_value(self, name: str, value: Any) -> int:
        """Return the kinds for which a known keyword is left to the reference because of its value."""
        if name in _COUNTS:
            return _COUNTS[name] if not 0 <= value <= _LARGEST_COUNT else 0
        if name in _LIMITS:
            return 0 if _is_exact(value) else NUMBER
        if name == "multipleOf":
            return 0 if type(value) is int and 0 < value <= _LARGEST_COUNT else NUMBER
        if name == "pattern":
            return STRING if _automaton(value) is None else 0
        if name in ("enum", "const"):
            return EVERY if any(map(_is_unusual, value if name == "enum" else [value])) else 0
        if name == "items":
            return ARRAY if isinstance(value, list) else 0
        return OBJECT if name == "required" and len(value) > MOST_REQUIRED else 0

    def _fill(self, node: SchemaNode, schema: Mapping[str, Any]) -> None:
        for name in schema.keys() & _CHECKED:
            value = schema[name]
            if name == "type":
                types = [value] if isinstance(value, str) else value
                node.types = sum({TYPES[each] for each in types})
                ordered = sorted(types, key=_ORDER_OF_TYPES.index)
                self._add_detail(node, name, ordered)
            elif name in ("enum", "const"):
                node.choices.append(_choices(name, value if name == "enum" else [value]))
                self._add_detail(node, name, value)
            elif name in _LIMITS and not node.delegated & NUMBER:
                node.limits.append((name, float(value)))
                self._add_detail(node, name, value)
            elif name == "multipleOf" and not node.delegated & NUMBER:
                node.multiple_of = value
                self._add_detail(node, name, value)
            elif name in _COUNTS and not node.delegated & _COUNTS[name]:
                node.counts[name] = int(value)
                self._add_detail(node, name, int(value))
            elif name == "pattern" and not node.delegated & STRING:
                node.pattern = _automaton(value)
                self._add_detail(node, name, value)
            elif name == "items" and not node.delegated & ARRAY:
                node.items = self._node(value)
        if not node.delegated & OBJECT:
            self._fill_members(node, schema)

    def _add_detail(self, node: SchemaNode, keyword: str, value: Any) -> None:
        node.details[keyword] = keyword, self._expected(keyword, value)

    def _fill_members(self, node: SchemaNode, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        others = schema.get("additionalProperties", True)
        if others is False and "properties" in schema:
            node.is_closed = True
            self._add_detail(node, "additionalProperties", None)
        elif others is False:
            node.is_closed = True
            node.details["additionalProperties"] = "falseSchema", self._expected("falseSchema", None)
        else:
            node.additional = self._node(others)
        for name in required:
            node.details[f"required {name}"] = "required", self._expected("required", name)
        members = [(name, self._node(each), name in required) for name, each in properties.items()]
        members += [(name, AS_OTHERS, True) for name in required if name not in properties]
        if len(members) > MOST_REQUIRED:
            members.sort(key=lambda member: not member[2])
        node.members = members


_CHECKED: Final = frozenset(
    ("type", "enum", "const", "pattern", "multipleOf", "required", "properties", "additionalProperties", "items",
     *_LIMITS, *_COUNTS)
)  # fmt: skip
_ORDER_OF_TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")
"""Order in which the reference tells types."""
_OF_SCALARS: Final = frozenset(
    ("type", "enum", "const", "pattern", "multipleOf", "minLength", "maxLength", "$schema", *_LIMITS)
)


def _is_annotation(name: str) -> bool:
    return name in _ANNOTATIONS or name.startswith("x-")


def _is_exact(value: Any) -> bool:
    return bool(abs(value) < _EXACT)


def _is_unusual(value: Any) -> bool:
    """Whether the compiled checks do not compare with a value, or the reference tells it in another form."""
    return isinstance(value, float | list | dict) or (type(value) is int and not _is_exact(value))


def _choices(keyword: str, values: Iterable[Any]) -> Choices:
    constants = 0
    for value in values:
        constants |= NULL if value is None else TRUE if value is True else FALSE if value is False else 0
    return Choices(
        keyword,
        tuple(value for value in values if isinstance(value, str)),
        tuple(value for value in values if type(value) is int),
        constants,
    )


def _references(value: Any, *, is_root: bool = False) -> Iterator[str]:
    """Yield the references anywhere in a schema. Raises `_NoPlan` if a part of it has another base, draft or a name."""
    if isinstance(value, dict):
        for name, member in value.items():
            if name in _NAMED or (name in ("$id", "$schema") and isinstance(member, str) and not is_root):
                raise _NoPlan
            if name == "$ref" and isinstance(member, str):
                yield member
            yield from _references(member)
    elif isinstance(value, list):
        for member in value:
            yield from _references(member)


@lru_cache(1024)
def _automaton(pattern: str) -> Automaton | None:
    return automaton_of(pattern)
