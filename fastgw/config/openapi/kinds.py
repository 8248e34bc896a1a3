"""Kinds of values, by their schemas: how the text of a parameter or a form becomes a value."""

from typing import Any, Final

from fastgw.config.openapi.schemas import Schemas, text_of

_MOST_STEPS: Final = 200
"""Maximum number of schemas that are looked at for one value."""
_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
"""Types of the values of `enum` and `const`, which stand for those of a schema without `type`."""


class ValueKind:
    """Types of a value, of its elements, and of its members."""

    def __init__(self) -> None:
        self.types: dict[str, None] = {}
        self.items: dict[str, None] = {}
        self.properties: dict[str, dict[str, None]] = {}
        self.others: list[dict[str, Any]] = []
        """Members beside the `properties` of each combined schema: the `names` of these, the kinds of members whose
        names match one of `patterns`, and the kind of the `rest` (None: no schema). A kind has the `types`, of the
        elements if its `shape` is `array`, and how they are sent: as `json`, `bytes`, `binary`, `file`.
        """
        self.is_closed = False
        """Whether the value has no other members than `properties`."""
        self.formats: dict[str, str] = {}
        """Format by member, of the element where the member is an array."""
        self.files: set[str] = set()
        """Members that may be files, or whose elements may be (`may_be_file`)."""
        self.bytes: set[str] = set()
        """Members that are bytes of any kind, or whose elements are (`_is_bytes`)."""
        self.arrays: set[str] = set()
        """Members that are arrays; their types are those of the elements."""

    @property
    def shape(self) -> str:
        """`array`, `object`, or `scalar` for a single text."""
        return "array" if "array" in self.types else "object" if "object" in self.types or self.properties else "scalar"

    def note_file(self, name: str, schema: dict[str, Any]) -> None:
        """Note what a schema of a member, or of its elements, says about files."""
        if may_be_file(schema):
            self.files.add(name)
        if _is_bytes(schema):
            self.bytes.add(name)

    def plan(self) -> dict[str, Any]:
        """Return what a parser of texts needs."""
        held: dict[str, Any] = {"shape": self.shape, "types": [*self.types]}
        if self.shape == "array":
            held["items"] = [*self.items]
        if "object" in (self.shape, *self.types):
            held["properties"] = {name: [*types] for name, types in self.properties.items()}
            held["others"] = self.others
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
    for each in combined_schemas(schemas, raw):
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
                        kind.note_file(name, item)
                kind.formats[name] = kind.formats.get(name) or str(member.get("format", ""))
                kind.note_file(name, member)
        if each.get("additionalProperties") is False:
            kind.is_closed = True
        kind.others += _others(schemas, each)
    return kind


def _others(schemas: Schemas, schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what one schema says about members that its `properties` do not name: one element, or none."""
    patterns, properties = schema.get("patternProperties"), schema.get("properties")
    rest = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
    found = {name: _member(schemas, raw) for name, raw in patterns.items()} if isinstance(patterns, dict) else {}
    if not found and not isinstance(rest, dict):
        return []
    names = [*properties] if isinstance(properties, dict) else []
    return [{"names": names, "patterns": found, "rest": _member(schemas, rest) if isinstance(rest, dict) else None}]


def _member(schemas: Schemas, raw: Any) -> dict[str, Any]:
    """Return the kind of a member (`ValueKind.others`), without those of its own members: they could be of the same."""
    combined = combined_schemas(schemas, raw)
    items = [item for each in combined for item in combined_schemas(schemas, each.get("items"))]
    types = [name for each in combined for name in _types(each)]
    has_members = any(isinstance(each.get("properties"), dict) and each["properties"] for each in combined)
    shape = "array" if "array" in types else "object" if "object" in types or has_members else "scalar"
    own = dict.fromkeys([name for each in items for name in _types(each)] if shape == "array" else types)
    return {
        "shape": shape,
        "types": [*own],
        "json": "object" in (shape, *own),
        "bytes": any(map(_is_bytes, (*combined, *items))),
        "binary": any(each.get("format") == "binary" for each in (*combined, *items)),
        "file": not own.keys() - {"null"} or any(map(may_be_file, (*combined, *items))),
    }


def combined_schemas(schemas: Schemas, raw: Any) -> list[dict[str, Any]]:
    """Return the schemas that are combined in one, itself included."""
    found: list[dict[str, Any]] = []
    waiting = [raw]
    met: set[int] = set()
    while waiting and len(found) < _MOST_STEPS:
        each = waiting.pop()
        if not isinstance(each, dict) or not each or id(each) in met:
            continue
        met.add(id(each))
        reference = each.get("$ref")
        if isinstance(reference, str):
            waiting.append(schemas.looked_up(reference))
            if not schemas.has_keywords_beside(each):
                continue
        found.append(each)
        dependent = each.get("dependentSchemas")
        waiting += (each.get("then"), each.get("else"), *(dependent.values() if isinstance(dependent, dict) else ()))
        for key in ("allOf", "anyOf", "oneOf"):
            listed = each.get(key)
            waiting += listed if isinstance(listed, list) else ()
    return found


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


def _types(schema: dict[str, Any]) -> dict[str, None]:
    held = schema.get("type")
    listed = held if isinstance(held, list) else [held]
    types = {each: None for each in listed if isinstance(each, str)}
    enum = schema.get("enum")
    constants = [*(enum if isinstance(enum, list) else ()), schema.get("const")]
    for name in (_TYPES.get(type(each)) for each in constants):
        if name is not None and (name == "string" or held is None):
            types.setdefault(name)
    return types
