"""Kinds of values, by their schemas: how the text of a parameter or a form becomes a value."""

from itertools import islice
from typing import Any, Final

from fastgw.config.openapi.schemas import SAME_VALUE, Schemas, text_of

_MOST_STEPS: Final = 200
"""Maximum number of schemas that are looked at for one value."""
_MOST_LEVELS: Final = 2
"""Maximum number of levels of alternatives that are looked at for a value without `type`."""
_MOST_ALTERNATIVES: Final = 50
"""Maximum number of alternatives of a level that are looked at for a value without `type`."""
_MOST_APPLICABLE: Final = 1000
"""Maximum number of schemas about one value that are looked at for members that could be strings."""
_MOST_PATTERNS: Final = 20
"""Maximum number of patterns that the names of members are matched with to find their types: 1000 names of 120 bytes
take 11 to 15 ms."""
_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number"}
"""Types of the values of `enum` and `const`, which stand for those of a schema without `type`."""
_NO_TEXTS: Final = frozenset(("integer", "number", "boolean", "null"))
_OF_TEXTS: Final = frozenset(("minLength", "maxLength", "pattern", "format", "contentEncoding", "contentMediaType"))
_OF_OTHERS: Final = frozenset(("patternProperties", "unevaluatedProperties"))
_COMBINING: Final = ("allOf", "anyOf", "oneOf")
_WITHOUT_CONDITIONS: Final = ("allOf",)
_WITH_CONDITIONS: Final = ("then", "else", "dependentSchemas", "allOf")
_OF_BYTES: Final = frozenset(("string", "array", "null"))


class ValueKind:
    """Types of a value, of its elements, and of its members."""

    def __init__(self) -> None:
        self.types: dict[str, None] = {}
        self.items: dict[str, None] = {}
        self.properties: dict[str, dict[str, None]] = {}
        self.additional: dict[str, None] = {}
        self.is_closed = False
        """Whether the value has no other members than `properties`."""
        self.formats: dict[str, str] = {}
        """Format by member, of the element where the member is an array."""
        self.files: set[str] = set()
        """Members that may be files, or whose elements may be (`may_be_file`)."""
        self.bytes: set[str] = set()
        """Members that are bytes of any kind, or whose elements are, and that nothing else may be."""
        self.arrays: set[str] = set()
        """Members that are arrays; their types are those of the elements."""
        self.likely: dict[str, None] = {}
        """Types that a value without `types` has by `enum`, `const` or keywords beside a reference."""
        self.likely_members: list[dict[str, Any]] = []
        """Kinds that other schemas give to members without types (`_likely_members`)."""

    @property
    def shape(self) -> str:
        """`array`, `object`, or `scalar` for a single text."""
        return "array" if "array" in self.types else "object" if "object" in self.types or self.properties else "scalar"

    def plan(self) -> dict[str, Any]:
        """Return what a parser of texts needs."""
        held: dict[str, Any] = {"shape": self.shape, "types": [*self.types]}
        if self.shape == "scalar" and not self.types:
            held["types"] = [*self.likely]
        if self.shape == "array":
            held["items"] = [*self.items]
        if "object" in (self.shape, *self.types):
            held["properties"] = {name: [*types] for name, types in self.properties.items()}
            held["additional"] = [*self.additional]
            held["likely"] = self.likely_members
            held["closed"] = self.is_closed
        return held


def kind_of(schemas: Schemas, raw: Any) -> ValueKind:
    """Return the kind of the values of a schema: all that one of its alternatives allows. It is not to be changed:
    equal schemas have the same one.
    """
    text = text_of(raw)
    if not text:
        return _kind_of(schemas, raw)
    known = schemas.kinds.get(text)
    if known is None:
        known = schemas.kinds[text] = _kind_of(schemas, raw)
    return known


def _kind_of(schemas: Schemas, raw: Any) -> ValueKind:
    kind = ValueKind()
    combined = combined_schemas(schemas, raw)
    mixed: set[str] = set()
    for each in combined:
        kind.types |= _types(each)
        for item in combined_schemas(schemas, each.get("items")):
            kind.items |= _types(item)
        properties = each.get("properties")
        for name, held in properties.items() if isinstance(properties, dict) else ():
            types = kind.properties.setdefault(name, {})
            for member in combined_schemas(schemas, held):
                own = _types(member)
                types |= own
                if "array" in own:
                    kind.arrays.add(name)
                    for item in combined_schemas(schemas, member.get("items")):
                        types |= _types(item)
                        kind.formats.setdefault(name, str(item.get("format", "")))
                        _note_file(kind, name, item)
                        if not _may_be_with_bytes(item):
                            mixed.add(name)
                if not _may_be_with_bytes(member):
                    mixed.add(name)
                kind.formats[name] = kind.formats.get(name) or str(member.get("format", ""))
                _note_file(kind, name, member)
        if each.get("additionalProperties") is False:
            kind.is_closed = True
        for member in combined_schemas(schemas, each.get("additionalProperties")):
            kind.additional |= _types(member)
    kind.bytes -= mixed
    every = all_schemas(schemas, raw)
    if not kind.types:
        kind.likely = dict.fromkeys(sorted(_unless_text(_likely_types(schemas, raw))))
    kind.likely_members = _likely_members(schemas, raw, combined, every, kind)
    return kind


def _note_file(kind: ValueKind, name: str, schema: dict[str, Any]) -> None:
    if may_be_file(schema):
        kind.files.add(name)
    if _is_bytes(schema):
        kind.bytes.add(name)


def _likely_members(
    schemas: Schemas, raw: Any, combined: list[dict[str, Any]], every: list[dict[str, Any]], kind: ValueKind
) -> list[dict[str, Any]]:
    """Return what schemas say about members for which `properties` and `additionalProperties` of `combined` have no
    type: the kinds of members by their `names`, by `patterns` (None: any value), and of the `rest`, which are none of
    `known`. `excludes`: who matches a pattern is none of those that `additionalProperties` is about. Nothing, if there
    are more than `_MOST_PATTERNS`.

    A member that could be a string by any other schema, such as an alternative within `else`, is left as it is: as a
    number it would be refused there, or no longer be bounded by `maxLength`.
    """
    sure, ids = {id(each) for each in combined}, {id(each) for each in every}
    if ids <= sure and all(kind.properties.values()) and all(map(_OF_OTHERS.isdisjoint, every)):
        return []
    named = {name for each in (*combined, *every) for name in _dict_at(each, "properties")}
    has_untyped = len(kind.properties) < len(named) or not all(kind.properties.values())
    holders = [each for each in combined if isinstance(each.get("additionalProperties"), dict)]
    all_exclude = all(_dict_at(each, "patternProperties") and id(each) in ids for each in holders)
    excludes = {id(each) for each in holders} if all_exclude else set()
    others = _applicable_schemas(schemas, raw)
    if others is None:
        return []
    found: list[dict[str, Any]] = []
    for each in (*every, *(each for each in others if id(each) not in ids)):
        own = _dict_at(each, "properties")
        likely = _likely_kind if id(each) in ids else _likely_text
        names = {name: likely(schemas, held) for name, held in own.items() if not kind.properties.get(name)}
        patterns = {name: likely(schemas, held) for name, held in _dict_at(each, "patternProperties").items()}
        rest, known = each.get("additionalProperties"), [*own]
        if rest is None:
            rest, known = each.get("unevaluatedProperties"), [*named]
        elif id(each) in sure and not has_untyped:
            rest = None  # `ValueKind.additional` has it
        made: dict[str, Any] = {
            "names": {name: held for name, held in names.items() if held is not None},
            "patterns": patterns,
            "rest": likely(schemas, rest) if isinstance(rest, dict) else None,
            "known": known,
            "excludes": id(each) in excludes,
        }
        has_patterns = made["patterns"] if id(each) in ids else any(patterns.values())
        if made["names"] or has_patterns or made["rest"] is not None:
            found.append(made if made["rest"] is not None else made | {"known": []})
    return found if sum(len(each["patterns"]) for each in found) <= _MOST_PATTERNS else []


def _likely_text(schemas: Schemas, raw: Any) -> dict[str, Any] | None:
    """Return the kind of a member that may be a string. None: it is any value, or no string."""
    kind = _likely_kind(schemas, raw)
    return kind if kind is not None and kind["shape"] == "scalar" and not kind["types"] else None


def _likely_kind(schemas: Schemas, raw: Any) -> dict[str, Any] | None:
    """Return the `shape` and the `types` of a member, of its elements if it is an array. None: it has none. Without
    those of its own members, which could be of the same schema.
    """
    key = id(raw)
    if key not in schemas.likely_kinds:
        schemas.likely_kinds[key] = _likely_kind_of(schemas, raw)
    kind: dict[str, Any] | None = schemas.likely_kinds[key]
    return kind


def _likely_kind_of(schemas: Schemas, raw: Any) -> dict[str, Any] | None:
    types = _likely_types(schemas, raw) - {"null"}
    if not types:
        return None
    if types == {"array"}:
        items: set[str] = set()
        for each in all_schemas(schemas, raw):
            items |= _likely_types(schemas, each.get("items"))
        return {"shape": "array", "types": sorted(_unless_text(items))}
    if types == {"object"}:
        return {"shape": "object", "types": []}
    return {"shape": "scalar", "types": sorted(_unless_text(types))}


def _unless_text(types: set[str]) -> set[str]:
    """Return types, or none if a text that is a number could be a string, too: it is left as it is."""
    return types if types <= _NO_TEXTS else set()


def _likely_types(schemas: Schemas, raw: Any, depth: int = 0) -> set[str]:
    """Return the types of a value, also by keywords beside a reference, and by `enum`, `const` and keywords of texts
    without `type`. Empty: any. Alternatives count if all of them have types.
    """
    key = id(raw), depth
    if depth and key in schemas.likely_types:
        return schemas.likely_types[key]
    types: set[str] = set()
    for each in all_schemas(schemas, raw, with_conditions=False):
        types |= _own_types(each)
        for listed in (each.get("anyOf"), each.get("oneOf")):
            if isinstance(listed, list) and len(listed) <= _MOST_ALTERNATIVES and depth < _MOST_LEVELS:
                below = [_likely_types(schemas, alternative, depth + 1) for alternative in listed]
                types |= set().union(*below) if all(below) else set()
    if depth:  # else the schema could be none of the document
        schemas.likely_types[key] = types
    return types


def _dict_at(schema: dict[str, Any], key: str) -> dict[str, Any]:
    held = schema.get(key)
    return held if isinstance(held, dict) else {}


def combined_schemas(schemas: Schemas, raw: Any) -> list[dict[str, Any]]:
    """Return the schemas that are combined in one, itself included."""
    found: list[dict[str, Any]] = []
    waiting = [raw]
    met: set[int] = set()
    while waiting and len(met) < _MOST_STEPS:
        each = schemas.followed(waiting.pop())
        if not each or id(each) in met:
            continue
        met.add(id(each))
        found.append(each)
        for key in _COMBINING:
            listed = each.get(key)
            waiting += listed if isinstance(listed, list) else ()
    return found


def all_schemas(schemas: Schemas, raw: Any, *, with_conditions: bool = True) -> list[dict[str, Any]]:
    """Return the schemas that all apply with one, by `allOf` and by a reference with keywords beside it. With
    conditions: those of `then`, `else` and `dependentSchemas`, too.
    """
    applied = filter(None, schemas.applied(raw, _WITH_CONDITIONS if with_conditions else _WITHOUT_CONDITIONS))
    return [each for each in islice(applied, _MOST_STEPS) if not schemas.is_reference(each)]


def _applicable_schemas(schemas: Schemas, raw: Any) -> list[dict[str, Any]] | None:
    """Return all schemas that may apply to the same value, whatever decides about it. None: they are too many."""
    found = [*islice(schemas.applied(raw, SAME_VALUE), _MOST_APPLICABLE + 1)]
    return None if len(found) > _MOST_APPLICABLE else [each for each in found if not schemas.is_reference(each)]


def may_be_file(schema: dict[str, Any]) -> bool:
    """Whether a schema is about bytes: `format: binary` of OpenAPI 3.0, and the keywords of content since 3.1. A text
    with a media type of texts is a text.
    """
    media_type = schema.get("contentMediaType")
    return (
        schema.get("format") == "binary"
        or "contentEncoding" in schema
        or (isinstance(media_type, str) and not media_type.startswith("text/"))
    )


def _is_bytes(schema: dict[str, Any]) -> bool:
    """Whether a schema is about bytes as they are, whatever media type a part has: JSON, too."""
    return may_be_file(schema) and "contentEncoding" not in schema


def are_bytes(combined: list[dict[str, Any]], items: list[dict[str, Any]]) -> bool:
    """Whether the combined schemas of a value, or those of its elements, are about bytes and nothing else."""
    every = [*combined, *items]
    return any(map(_is_bytes, every)) and all(map(_may_be_with_bytes, every))


def _may_be_with_bytes(schema: dict[str, Any]) -> bool:
    """Whether a schema is about bytes as well, or about nothing that JSON in their place could be."""
    types = _types(schema).keys()
    has_meaning = types or _is_bytes(schema) or any(key in schema for key in _COMBINING)
    return bool(has_meaning) and types <= _OF_BYTES


def _types(schema: dict[str, Any]) -> dict[str, None]:
    held = schema.get("type")
    listed = held if isinstance(held, list) else [held]
    types = {each: None for each in listed if isinstance(each, str)}
    for value in _constants(schema):
        if isinstance(value, str):
            types.setdefault("string")
    return types


def _constants(schema: dict[str, Any]) -> list[Any]:
    enum = schema.get("enum")
    return [*(enum if isinstance(enum, list) else ()), schema.get("const")]


def _own_types(schema: dict[str, Any]) -> set[str]:
    """Return the types of a schema, without `type` those of what it lists, or of a text that it is about."""
    if schema.get("type") is not None:
        return {*_types(schema)}
    if not _OF_TEXTS.isdisjoint(schema):
        return {"string"}
    return {name for each in _constants(schema) if (name := _TYPES.get(type(each))) is not None}
