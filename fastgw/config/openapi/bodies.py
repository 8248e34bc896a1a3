"""Bodies of requests and responses, in the form that they are checked by."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from fastgw.config.base.problems import Path, format_value, shorten
from fastgw.config.openapi.document import Spec
from fastgw.config.openapi.kinds import are_bytes, combined_schemas, kind_of, may_be_file
from fastgw.config.openapi.parameters import bare_type, is_json
from fastgw.config.openapi.schemas import Schemas
from fastgw.config.openapi.xml_bodies import MOST_NODES, is_xml, xml_mapping

_STYLES: Final = ("form", "spaceDelimited", "pipeDelimited", "deepObject")
_FORM: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
_IN_RANGES: Final[dict[str, dict[str, str]]] = {
    "*/*": {
        "json": "application/json",
        "xml": "application/xml",
        "form": _FORM,
        "multipart": _MULTIPART,
        "text": "text/plain",
    },
    "application/*": {"json": "application/json", "xml": "application/xml", "form": _FORM},
    "multipart/*": {"multipart": _MULTIPART},
    "text/*": {"json": "text/x+json", "xml": "text/xml", "text": "text/plain"},
}
"""Kinds of bodies in a media range, each with a content type that stands for all of its kind."""
_IN_OTHER_RANGES: Final = {"json": "application/json", "xml": "application/xml"}
"""Kinds in all others, by suffixes such as `+xml`: `image/*` has `image/svg+xml`."""
_CONTENT_TYPE: Final = re.compile(r"[!#-'*+.0-9A-Z^-z|~-]+/[!#-'*+.0-9A-Z^-z|~-]+[ \t]*(?:;[\t -~]*)?").fullmatch


def request_body_of(spec: Spec, schemas: Schemas, operation: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """Return the body of an operation's requests. None: it has none."""
    if "requestBody" not in operation:
        return None
    resolved = spec.resolved(operation["requestBody"], (*path, "requestBody"))
    if resolved is None:
        return None
    held, at = resolved
    content = _content_of(spec, held, at)
    if not content:
        spec.report((*at, "content"), "no content types", "expected at least one", at_key=True)
    made = {bare_type(name): _media(spec, schemas, name, content, (*at, "content"), False) for name in content}
    return {"required": held.get("required") is True, "content": made}


def responses_of(
    spec: Spec, schemas: Schemas, operation: dict[str, Any], path: Path, *, checked: bool
) -> dict[str, Any]:
    """Return the responses of an operation by status, such as `200`, `4XX` or `default`; none unless they are to be
    `checked`."""
    made = {}
    contents = response_contents(spec, operation, path)
    for status, content, at in contents if checked else ():
        made[status] = {bare_type(name): _media(spec, schemas, name, content, at, True) for name in content}
    return made


def response_contents(spec: Spec, operation: dict[str, Any], path: Path) -> list[tuple[str, dict[str, Any], Path]]:
    """Return the content of each response by content type, with its status in upper case."""
    found = []
    for status, each in spec.mapping_at(operation, "responses", path).items():
        if status.startswith("x-"):
            continue
        at = (*path, "responses", status)
        wildcard = len(status) == 3 and status[0] in "12345" and (status[1:].isdigit() or status[1:].upper() == "XX")
        if status != "default" and not wildcard:
            spec.report(at, shorten(format_value(status)), "expected a status such as 200, 4XX or default", at_key=True)
            continue
        resolved = spec.resolved(each, at)
        if resolved is not None:
            held, held_path = resolved
            shown = status if status == "default" else status.upper()
            found.append((shown, _content_of(spec, held, held_path), (*held_path, "content")))
    return found


def _content_of(spec: Spec, held: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the content by content type, which mocks send as it is written."""
    content = spec.mapping_at(held, "content", path)
    for name in content:
        if _CONTENT_TYPE(name) is None:
            at = *path, "content", name
            spec.report(
                at, shorten(format_value(name)), "expected a content type such as application/json", at_key=True
            )
    return content


def _media(
    spec: Spec, schemas: Schemas, name: str, content: dict[str, Any], path: Path, response: bool
) -> dict[str, Any]:
    """Return how bodies of a content type are checked; `any`: not at all."""
    at = (*path, name)
    resolved = spec.resolved(content[name], at)
    if resolved is None:
        return {"kind": "any"}
    held, at = resolved
    bare = bare_type(name)
    if "schema" not in held:
        return {"kind": "json" if is_json(bare) else "xml" if is_xml(bare) else "any"}
    raw, schema_path = held["schema"], (*at, "schema")
    schema = schemas.schema(raw, schema_path, response)
    made = partial(_typed, spec, schemas, held, at, schema, response=response)
    if not bare.endswith("/*"):
        return made(bare)
    return {"kind": "any"} if schema in (True, {}) else _range(schemas, raw, bare, made)


def _typed(
    spec: Spec, schemas: Schemas, held: dict[str, Any], path: Path, schema: Any, bare: str, *,
    response: bool, in_range: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return how bodies of a content type are checked by a schema. `held`: with the schema as it is written."""
    raw = held["schema"]
    if is_json(bare):
        return {"kind": "json", "schema": schema}
    if is_xml(bare) and (mapping := xml_mapping(schemas, raw)) is not None:
        if len(mapping["nodes"]) <= MOST_NODES:
            return {"kind": "xml", "schema": schema, "xml": mapping}
        if not in_range:
            wrong = f"a mapping of XML with more than {MOST_NODES} values"
            schemas.report((*path, "schema"), wrong, "expected a smaller schema")
        return {"kind": "xml"}  # a range says nothing about whether there is any XML at all
    if bare in (_FORM, _MULTIPART) and not response:
        fields = _fields(spec, schemas, held, raw, path, is_form=bare == _FORM)
        return {
            "kind": "form" if bare == _FORM else "multipart",
            "schema": schema,
            "fields": fields,
            "others": _other_fields(schemas, raw),
            "likely": kind_of(schemas, raw).likely_members,
        }
    if bare.startswith("text/") and schemas.followed(raw).get("format") != "binary":
        return {"kind": "text", "schema": schema, **kind_of(schemas, raw).plan()}
    return {"kind": "any"}


def _range(schemas: Schemas, raw: Any, bare: str, made: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Return how bodies of a media range are checked: by the kind of the content type that is sent. `made`: returns how
    those of one content type are.
    """
    if schemas.followed(raw).get("format") == "binary":
        return {"kind": "any"}
    kind = kind_of(schemas, raw)
    kinds = {}
    for name, content_type in _IN_RANGES.get(bare, _IN_OTHER_RANGES).items():
        if name in ("form", "multipart") and kind.shape == "scalar" and kind.types:
            continue  # it is about the text as a whole, as for XML
        plan = made(content_type, in_range=True)
        if plan["kind"] != "any":
            kinds[name] = plan
    return {"kind": "range", "kinds": kinds} if kinds else {"kind": "any"}


def _fields(
    spec: Spec, schemas: Schemas, held: dict[str, Any], raw: Any, path: Path, *, is_form: bool
) -> dict[str, Any]:
    """Return the members of a form by name."""
    kind = kind_of(schemas, raw)
    encoding = spec.mapping_at(held, "encoding", path)
    fields: dict[str, Any] = {}
    for name, types in kind.properties.items():
        at = (*path, "encoding", name)
        own = spec.mapping(encoding[name], at) if name in encoding else {}
        field: dict[str, Any] = {"types": [each for each in types if each != "array"]}
        field["shape"] = "array" if name in kind.arrays else "object" if "object" in types else "scalar"
        content_type = own.get("contentType")
        if isinstance(content_type, str):
            field["content_types"] = [bare_type(each) for each in content_type.split(",")]
        style = own.get("style")
        if style is not None and style not in _STYLES:
            spec.report((*at, "style"), shorten(format_value(style)), f"expected {', '.join(_STYLES)}")
        if is_form:
            field["style"] = style if style in _STYLES else "form"
            field["explode"] = own.get("explode", field["style"] in ("form", "deepObject")) is True
            field["json"] = style is None and _is_json_field(field)
        else:
            field["bytes"] = name in kind.bytes
            is_file = field["bytes"] and field["shape"] != "array"
            field["json"] = not is_file and _is_json_field(field)
            field["binary"] = kind.formats.get(name) == "binary" or not set(types) - {"array", "null"}
            field["file"] = field["binary"] or name in kind.files
        if field["shape"] == "object" and not field["json"]:
            properties = schemas.followed(raw).get("properties")
            field |= kind_of(schemas, properties.get(name) if isinstance(properties, dict) else None).plan()
        fields[name] = field
    return fields


def _other_fields(schemas: Schemas, raw: Any) -> dict[str, Any] | None:
    """Return the members of a form that are no properties. None: their values have no schema."""
    held = [each.get("additionalProperties") for each in combined_schemas(schemas, raw)]
    others = [each for each in held if isinstance(each, dict)]
    if not others:
        return None
    kind = kind_of(schemas, {"anyOf": others})
    types = [*(kind.items if kind.shape == "array" else kind.types)]
    combined = combined_schemas(schemas, {"anyOf": others})
    items = [item for each in combined for item in combined_schemas(schemas, each.get("items"))]
    return {
        "shape": kind.shape,
        "types": types,
        "json": "object" in (kind.shape, *types),
        "binary": any(each.get("format") == "binary" for each in combined),
        "bytes": are_bytes(combined, items),
        "file": not set(types) - {"null"} or any(map(may_be_file, (*combined, *items))),
    }


def _is_json_field(field: dict[str, Any]) -> bool:
    """Whether the text of a member is JSON: so are objects, unless the document names another content type."""
    types = field.get("content_types")
    if types is not None:
        return any(is_json(each) for each in types)
    return bool(field["shape"] == "object" or "object" in field["types"])
