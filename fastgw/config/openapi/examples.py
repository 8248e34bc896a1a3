"""Example responses of operations: those of the document, or made of the schemas."""

from typing import Any, Final, TypeGuard

import msgspec

from fastgw.config.base.problems import Path
from fastgw.config.openapi.bodies import response_contents
from fastgw.config.openapi.document import Spec
from fastgw.config.openapi.parameters import is_json
from fastgw.config.openapi.schemas import Schemas, as_reference
from fastgw.http.grammar import IS_TOKEN, IS_VALUE

_MOST_VALUES: Final = 500
"""Number of values in an example that is made, above which it gets only those that its schema requires."""
_DEEPEST: Final = 8
"""Number of levels, above which it gets only those, too."""
_MOST_REQUIRED: Final = 5000
"""Maximum number of values that are made for an example, with those of alternatives that have none."""
_DEEPEST_REQUIRED: Final = 64
_MOST_COMBINED: Final = 200
"""Maximum number of schemas that `allOf` combines in one."""
_OF_OBJECTS: Final = frozenset(("properties", "oneOf", "anyOf"))
"""Keywords of schemas whose examples are made one by one, and then combined."""
_TEXTS: Final = {
    "date-time": "2024-01-01T00:00:00Z",
    "date": "2024-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "user@example.com",
    "idn-email": "user@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uri-reference": "/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "idn-hostname": "example.com",
    "iri": "https://example.com/",
    "iri-reference": "/",
    "uri-template": "/",
    "relative-json-pointer": "0",
    "byte": "",
    "json-pointer": "",
    "regex": "",
}
_NOT_SENT: Final = frozenset(
    (
        "connection",
        "content-length",
        "content-type",
        "date",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""Headers of a response that are not taken from examples."""
_OF_RANGES: Final = {
    "*/*": "application/json",
    "application/*": "application/json",
    "application/*+json": "application/json",
    "text/*": "text/plain",
}
"""Content types of the examples of media ranges."""
_MOST_NUMBER: Final = 1e30
"""Maximum magnitude of bounds that numbers keep."""
_NOTHING: Final = object()


def examples_of(spec: Spec, schemas: Schemas, operation: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the responses by status, each with headers and examples by content type: pairs of name and text."""
    made: dict[str, Any] = {}
    for status, content, at in response_contents(spec, operation, path):
        types = []
        keys: dict[str | None, str] = {}
        for key in sorted(content, key=lambda key: key.count("*")):
            keys.setdefault(_sent_type(key), key)  # the most specific one
        for key in content:
            resolved = spec.resolved(content[key], (*at, key))
            content_type = _sent_type(key)
            if resolved is None or content_type is None or keys[content_type] != key:
                continue
            texts = _texts(schemas, content_type, resolved[0])
            if texts:
                types.append([content_type, texts])
        made[status] = {"content": types, "headers": _headers(spec, schemas, operation, status, path)}
    return made


def _sent_type(key: str) -> str | None:
    """Return the content type of the responses under a key. None: a range without a type that has an example."""
    bare, mark, rest = key.partition(";")
    if "/*" not in bare:
        return key
    sent = _OF_RANGES.get(bare.strip().lower())
    return None if sent is None else f"{sent}{mark}{rest}"


def _texts(schemas: Schemas, content_type: str, media: dict[str, Any]) -> list[list[str]]:
    """Return the examples of a content type: pairs of name and text."""
    json = is_json(content_type.partition(";")[0].strip().lower())
    texts = []
    for name, value, is_serialized in _examples(schemas, media):
        if json and not is_serialized:
            texts.append([name, msgspec.json.encode(value).decode()])
        elif isinstance(value, str | int | float):
            texts.append([name, _plain(value)])
    return texts


def _examples(schemas: Schemas, media: dict[str, Any]) -> list[tuple[str, Any, bool]]:
    """Return the examples of a content type or header: as written, else one of the schema. Each has its name, its value
    and whether that is the text that is sent.
    """
    found: list[tuple[str, Any, bool]] = []
    if "example" in media:
        found.append(("", media["example"], False))
    named = media.get("examples")
    for name, each in named.items() if isinstance(named, dict) else ():
        held = schemas.followed(each)
        for key in ("serializedValue", "dataValue", "value"):
            if key in held:
                found.append((name, held[key], key == "serializedValue" and isinstance(held[key], str)))
                break
    if not found and "schema" in media:
        found = [("", example_of(schemas, media["schema"]), False)]
    return found


def _plain(value: Any) -> str:
    """Return a value as the text that parameters and headers have for it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _headers(spec: Spec, schemas: Schemas, operation: dict[str, Any], status: str, path: Path) -> list[tuple[str, str]]:
    responses = operation.get("responses", {})
    written = next((each for each in responses if str(each).upper() == status.upper()), status)
    response = schemas.followed(responses.get(written))
    headers = response.get("headers")
    made = []
    for name, each in headers.items() if isinstance(headers, dict) else ():
        held = schemas.followed(each)
        text = _header_text(schemas, held)
        if text is None or name.lower() in _NOT_SENT:
            continue
        if IS_TOKEN(name.encode()) and text.isascii() and IS_VALUE(text.encode()):
            made.append((name, text))
    return made


def _header_text(schemas: Schemas, header: dict[str, Any]) -> str | None:
    """Return the value of a header, in the style `simple` or of its content type. None: it has none."""
    content = header.get("content")
    if isinstance(content, dict) and content:
        content_type, media = next(iter(content.items()))
        texts = _texts(schemas, content_type, schemas.followed(media))
        return texts[0][1] if texts else None
    examples = _examples(schemas, header)
    value = examples[0][1] if examples else None
    mark = "=" if header.get("explode") is True else ","
    parts = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if not parts or not all(isinstance(each, str | int | float) for each in parts):
        return None
    written = [_plain(each) for each in parts]
    return ",".join(map(f"{{}}{mark}{{}}".format, value, written) if isinstance(value, dict) else written)


def example_of(schemas: Schemas, raw: Any) -> Any:
    """Return a value for a schema: its example or default, else a small value of its type. Patterns are not kept."""
    made = _Maker(schemas).value(raw, 0)
    return None if made is _NOTHING else made


class _Maker:
    """Maker of one example. A schema that refers to itself has no value within its own: members that lead back to it
    are left out, so that the example is finite if the schema has a finite value at all.
    """

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._made = 0
        self._begun: set[int] = set()
        """Identities of the schemas around the value that is made."""

    def value(self, raw: Any, depth: int) -> Any:
        """Return a value; `_NOTHING` if there is none, or it would be too large."""
        self._made += 1
        if depth > _DEEPEST_REQUIRED or self._made > _MOST_REQUIRED:
            return _NOTHING
        # A reference with keywords beside it is another schema than the one it leads to, which it combines with them.
        written = raw if self._schemas.has_keywords_beside(raw) else self._schemas.followed(raw)
        schema = self._combined_in(self._with_reference(raw))
        for key in ("example", "default", "const"):
            if key in schema:
                return schema[key]
        for key in ("examples", "enum"):
            if isinstance(schema.get(key), list) and schema[key]:
                return schema[key][0]
        made = _NOTHING
        if id(written) not in self._begun:
            self._begun.add(id(written))
            made = self._of_schema(schema, depth)
            self._begun.remove(id(written))
        return None if made is _NOTHING and _takes_null(schema) else made

    def _of_schema(self, schema: dict[str, Any], depth: int) -> Any:
        for key in ("oneOf", "anyOf"):
            listed = schema.get(key)
            if isinstance(listed, list) and listed:
                branch, chosen = self._first_of(listed, depth)
                made = self._with_members(chosen, schema, depth) if isinstance(chosen, dict) else chosen
                return made | _discriminated(schema, branch) if isinstance(made, dict) else made
        return self._of_type(schema, depth)

    def _is_full(self, depth: int) -> bool:
        """Whether values at this level are left out unless they are required."""
        return depth > _DEEPEST or self._made > _MOST_VALUES

    def _of_type(self, schema: dict[str, Any], depth: int) -> Any:
        kind = next((each for each in _types(schema) if each != "null"), "null")
        if "allOf" in schema and kind in (None, "object"):
            return self._combined(schema, depth)
        if kind == "object" or (kind is None and "properties" in schema):
            return self._with_members({}, schema, depth)
        if kind == "array":
            return self._elements(schema, depth)
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        return {"boolean": True, "string": _text(schema), "null": None}.get(str(kind), {} if kind is None else None)

    def _with_reference(self, raw: Any) -> dict[str, Any]:
        """Return the schema that is meant: since OpenAPI 3.1 a reference may have other keywords beside it."""
        if self._schemas.has_keywords_beside(raw):
            beside = {key: each for key, each in raw.items() if key != "$ref"}
            listed = beside.get("allOf")
            return beside | {"allOf": [{"$ref": raw["$ref"]}, *(listed if isinstance(listed, list) else ())]}
        return self._schemas.followed(raw)

    def _combined_in(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return a schema with the keywords of those in `allOf`, if they are about a value that is no object."""
        if not isinstance(schema.get("allOf"), list):
            return schema
        held: list[dict[str, Any]] = []
        waiting: list[Any] = [schema]
        while waiting and len(held) < _MOST_COMBINED:
            held.append(self._with_reference(waiting.pop(0)))
            listed = held[-1].get("allOf")
            waiting += listed if isinstance(listed, list) else ()
        if any(not each.keys().isdisjoint(_OF_OBJECTS) or "object" in _types(each) for each in held):
            return schema
        merged: dict[str, Any] = {}
        for each in reversed(held):
            merged |= each
        merged.pop("allOf", None)
        return merged

    def _first_of(self, listed: list[Any], depth: int) -> tuple[Any, Any]:
        """Return the first alternative that has an example, and this; null only if there is no other."""
        chosen: tuple[Any, Any] = listed[0], _NOTHING
        for each in listed:
            value = self.value(each, depth + 1)
            if value is not _NOTHING and (value is not None or chosen[1] is _NOTHING):
                chosen = each, value
            if value is not _NOTHING and value is not None:
                break
        return chosen

    def _elements(self, schema: dict[str, Any], depth: int) -> Any:
        first = schema.get("prefixItems")
        least, most = schema.get("minItems"), schema.get("maxItems")
        required = min(least, 20) if isinstance(least, int) else 0
        made: list[Any] = []
        for each in first if isinstance(first, list) else ():
            value = self.value(each, depth + 1)
            if value is _NOTHING:
                return made if len(made) >= required else _NOTHING
            made.append(value)
        count = required if self._is_full(depth + 1) else max(required, 1)
        if len(made) < count and schema.get("items") is not False:
            value = self.value(schema.get("items", {}), depth + 1)
            if value is not _NOTHING:
                made += [value] * (count - len(made))
            elif len(made) < required:
                return _NOTHING
        return made[:most] if isinstance(most, int) and most >= 0 else made

    def _combined(self, schema: dict[str, Any], depth: int) -> Any:
        made: dict[str, Any] = {}
        parts = schema["allOf"] if isinstance(schema["allOf"], list) else []
        for each in parts:
            held = self.value(each, depth + 1)
            if not isinstance(held, dict):
                return held
            made |= held
        return self._with_members(made, schema, depth)

    def _with_members(self, made: dict[str, Any], schema: dict[str, Any], depth: int) -> Any:
        properties, required = schema.get("properties"), schema.get("required")
        for name, each in properties.items() if isinstance(properties, dict) else ():
            if True in (self._with_reference(each).get("writeOnly"), self._schemas.followed(each).get("writeOnly")):
                continue
            is_required = isinstance(required, list) and name in required
            if self._is_full(depth + 1) and not is_required:
                continue
            value = self.value(each, depth + 1)
            if value is not _NOTHING:
                made[name] = value
            elif is_required:
                return _NOTHING
        return made


def _types(schema: dict[str, Any]) -> list[Any]:
    listed = schema.get("type")
    return listed if isinstance(listed, list) else [listed]


def _takes_null(schema: dict[str, Any]) -> bool:
    return "null" in _types(schema) or schema.get("nullable") is True


def _discriminated(schema: dict[str, Any], chosen: Any) -> dict[str, str]:
    """Return the member that tells which of several schemas was chosen; none without a discriminator."""
    said = schema.get("discriminator")
    name = said.get("propertyName") if isinstance(said, dict) else None
    reference = chosen.get("$ref") if isinstance(chosen, dict) else None
    if not isinstance(name, str) or not isinstance(reference, str):
        return {}
    mapping = said.get("mapping") if isinstance(said, dict) else None
    values = mapping.items() if isinstance(mapping, dict) else ()
    return {
        name: next((value for value, meant in values if as_reference(meant) == reference), reference.rpartition("/")[2])
    }


def _number(schema: dict[str, Any], *, whole: bool) -> Any:
    """Return a number within the bounds: the lowest, else 0, else the highest."""
    low, above = _bound(schema, "minimum", "exclusiveMinimum")
    high, below = _bound(schema, "maximum", "exclusiveMaximum")
    given = schema.get("multipleOf")
    step: Any = given if _is_number(given) and given >= 1 / _MOST_NUMBER else 1 if whole else None
    numbers: list[Any] = [0]
    if low is not None:
        first = low if step is None else -(-low // step) * step
        numbers = [first, first + (step or 1), *numbers]
    if high is not None:
        last = high if step is None else high // step * step
        numbers += [last, last - (step or 1)]
    if low is not None and high is not None:
        numbers.append((low + high) / 2)
    for each in numbers:
        if (
            (low is None or each > low or (each == low and not above))
            and (high is None or each < high or (each == high and not below))
            and not (whole and each != int(each))
        ):
            return int(each) if whole else each
    return 0


def _bound(schema: dict[str, Any], inclusive: str, exclusive: str) -> tuple[Any, bool]:
    """Return a bound, None without one, and whether it is itself excluded: in OpenAPI 3.0 a flag says so."""
    bound, other = schema.get(inclusive), schema.get(exclusive)
    if _is_number(other):
        return other, True
    return (bound, other is True) if _is_number(bound) else (None, False)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST_NUMBER


def _text(schema: dict[str, Any]) -> str:
    text = _TEXTS.get(str(schema.get("format")), "string")
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(least, int) and len(text) < least <= 10_000:
        text += "." * (least - len(text))
    return text[:most] if isinstance(most, int) and most >= 0 else text
