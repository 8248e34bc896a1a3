"""Kinds of values, by their schemas: how the text of a parameter or a form becomes a value."""

from typing import Any, Final

from fastgw.config.openapi.schemas import Schemas, text_of

_MOST_STEPS: Final = 200
"""Maximum number of schemas that are looked at for one value."""


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
        self.arrays: set[str] = set()
        """Members that are arrays; their types are those of the elements."""

    @property
    def shape(self) -> str:
        """`array`, `object`, or `scalar` for a single text."""
        return "array" if "array" in self.types else "object" if "object" in self.types or self.properties else "scalar"

    def plan(self) -> dict[str, Any]:
        """Return what a parser of texts needs."""
        held: dict[str, Any] = {"shape": self.shape, "types": [*self.types]}
        if self.shape == "array":
            held["items"] = [*self.items]
        if self.shape == "object":
            held["properties"] = {name: [*types] for name, types in self.properties.items()}
            held["additional"] = [*self.additional]
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
                        if may_be_file(item):
                            kind.files.add(name)
                kind.formats[name] = kind.formats.get(name) or str(member.get("format", ""))
                if may_be_file(member):
                    kind.files.add(name)
        if each.get("additionalProperties") is False:
            kind.is_closed = True
        for member in combined_schemas(schemas, each.get("additionalProperties")):
            kind.additional |= _types(member)
    return kind


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
