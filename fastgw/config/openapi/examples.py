"""Example responses of operations: those of the document, or made of the schemas."""

from typing import Any, Final

import msgspec

from fastgw.config.base.problems import Path
from fastgw.config.openapi.bodies import response_contents
from fastgw.config.openapi.document import Spec
from fastgw.config.openapi.parameters import is_json
from fastgw.config.openapi.schemas import Schemas, as_reference
from fastgw.http.grammar import IS_TOKEN, IS_VALUE

_MOST_VALUES: Final = 500
"""Maximum number of values in an example that is made."""
_DEEPEST: Final = 8
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
_NOTHING: Final = object()


def examples_of(spec: Spec, schemas: Schemas, operation: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the responses by status, each with headers and examples by content type: pairs of name and text."""
    made: dict[str, Any] = {}
    for status, content, at in response_contents(spec, operation, path):
        types = []
        for content_type in content:
            resolved = spec.resolved(content[content_type], (*at, content_type))
            texts = _texts(spec, schemas, content_type, resolved[0]) if resolved is not None else []
            if texts:
                types.append([content_type, texts])
        made[status] = {"content": types, "headers": _headers(spec, schemas, operation, status, path)}
    return made


def _texts(spec: Spec, schemas: Schemas, content_type: str, media: dict[str, Any]) -> list[list[str]]:
    pairs: list[tuple[str, Any]] = []
    named = media.get("examples")
    for name, each in named.items() if isinstance(named, dict) else ():
        held = schemas.followed(each)
        for key in ("dataValue", "value", "serializedValue"):
            if key in held:
                pairs.append((name, held[key]))
                break
    if "example" in media:
        pairs.insert(0, ("", media["example"]))
    if not pairs and "schema" in media:
        pairs = [("", example_of(schemas, media["schema"]))]
    json = is_json(content_type.partition(";")[0].strip().lower())
    texts = []
    for name, value in pairs:
        if json:
            texts.append([name, msgspec.json.encode(value).decode()])
        elif isinstance(value, str | int | float):
            texts.append([name, str(value)])
    return texts


def _headers(spec: Spec, schemas: Schemas, operation: dict[str, Any], status: str, path: Path) -> list[tuple[str, str]]:
    responses = operation.get("responses", {})
    written = next((each for each in responses if str(each).upper() == status.upper()), status)
    response = schemas.followed(responses.get(written))
    headers = response.get("headers")
    made = []
    for name, each in headers.items() if isinstance(headers, dict) else ():
        held = schemas.followed(each)
        value = held["example"] if "example" in held else example_of(schemas, held.get("schema", {}))
        if name.lower() in _NOT_SENT or not isinstance(value, str | int | float) or isinstance(value, bool):
            continue
        text = str(value)
        if IS_TOKEN(name.encode()) and text.isascii() and IS_VALUE(text.encode()):
            made.append((name, text))
    return made


def example_of(schemas: Schemas, raw: Any) -> Any:
    """Return a value for a schema: its example or default, else a small value of its type. Patterns are not kept."""
    made = _Maker(schemas).value(raw, 0)
    return None if made is _NOTHING else made


class _Maker:
    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._left = _MOST_VALUES

    def value(self, raw: Any, depth: int) -> Any:
        """Return a value; `_NOTHING` where the example would be too large."""
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            return _NOTHING
        schema = self._schemas.followed(raw)
        for key in ("example", "default", "const"):
            if key in schema:
                return schema[key]
        for key in ("examples", "enum"):
            if isinstance(schema.get(key), list) and schema[key]:
                return schema[key][0]
        for key in ("oneOf", "anyOf"):
            listed = schema.get(key)
            if isinstance(listed, list) and listed:
                chosen = self.value(listed[0], depth + 1)
                if not isinstance(chosen, dict):
                    return chosen
                return self._with_members(chosen, schema, depth) | _discriminated(schema, listed[0])
        return self._of_type(schema, depth)

    def _of_type(self, schema: dict[str, Any], depth: int) -> Any:
        listed = schema.get("type")
        types = listed if isinstance(listed, list) else [listed]
        kind = next((each for each in types if each != "null"), "null")
        if "allOf" in schema and kind in (None, "object"):
            return self._combined(schema, depth)
        if kind == "object" or (kind is None and "properties" in schema):
            return self._with_members({}, schema, depth)
        if kind == "array":
            item = self.value(schema.get("items", {}), depth + 1)
            least = schema.get("minItems")
            count = min(least, 20) if isinstance(least, int) and least > 1 else 1
            return [] if item is _NOTHING else [item] * count
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        return {"boolean": True, "string": _text(schema), "null": None}.get(str(kind), {} if kind is None else None)

    def _combined(self, schema: dict[str, Any], depth: int) -> Any:
        made: dict[str, Any] = {}
        parts = schema["allOf"] if isinstance(schema["allOf"], list) else []
        for each in parts:
            held = self.value(each, depth + 1)
            if not isinstance(held, dict):
                return held
            made |= held
        return self._with_members(made, schema, depth)

    def _with_members(self, made: dict[str, Any], schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        for name, each in properties.items() if isinstance(properties, dict) else ():
            if self._schemas.followed(each).get("writeOnly") is True:
                continue
            value = self.value(each, depth + 1)
            if value is not _NOTHING:
                made[name] = value
        return made


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
    least = schema.get("minimum")
    above = schema.get("exclusiveMinimum")
    most = schema.get("maximum")
    step = schema.get("multipleOf")
    value: Any = 0
    if isinstance(least, int | float) and not isinstance(least, bool):
        value = least if above is not True else least + 1
    elif isinstance(above, int | float) and not isinstance(above, bool):
        value = above + 1
    elif isinstance(most, int | float) and most < 0:
        value = most
    if isinstance(step, int) and step > 0 and isinstance(value, int):
        value += -value % step
    return int(value) if whole else value


def _text(schema: dict[str, Any]) -> str:
    text = _TEXTS.get(str(schema.get("format")), "string")
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(least, int) and len(text) < least <= 10_000:
        text += "." * (least - len(text))
    return text[:most] if isinstance(most, int) and most >= 0 else text
