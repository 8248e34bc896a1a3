"""Parameters of operations, in the form that requests are checked by."""

import re
from typing import Any, Final

from fastgw.config.base.problems import Path, format_value, shorten
from fastgw.config.openapi.document import Spec
from fastgw.config.openapi.kinds import kind_of
from fastgw.config.openapi.schemas import Schemas

_STYLES: Final[dict[str, tuple[str, ...]]] = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form", "cookie"),
    "querystring": (),
}
"""Styles by location; the first is the default."""
_NOT_PARAMETERS: Final = frozenset(("accept", "content-type", "authorization"))
"""Headers that OpenAPI describes elsewhere: parameters of these names have no effect."""
IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parameter_key(name: str, number: int) -> str:
    """Return the name of a path parameter in the route: its own if patterns can have it. `number`: its place."""
    return name if IDENTIFIER.fullmatch(name) else f"p{number}"


def parameters_of(
    spec: Spec, schemas: Schemas, items: list[tuple[dict[str, Any], Path]], operation: dict[str, Any], path: Path,
    template_names: list[str],
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the parameters of an operation: its own, and those of its path that it does not replace. `items`: of the
    path, with their paths in the document; each replaces parameters of those before it.
    """
    found: dict[tuple[str, str], tuple[dict[str, Any], Path]] = {}
    for holder, holder_path in (*items, (operation, path)):
        own: set[tuple[str, str]] = set()
        for each, at in spec.items(holder, "parameters", holder_path):
            resolved = spec.resolved(each, at)
            if resolved is None:
                continue
            key = _key(spec, *resolved)
            if key is None:
                continue
            if key in own:
                spec.report(at, f"duplicate parameter {format_value(key[1])} in {key[0]}", "expected each once")
            own.add(key)
            found[key] = resolved
    plans = [_plan(spec, schemas, key, *held, template_names) for key, held in found.items()]
    described = {name for where, name in found if where == "path"}
    for name in template_names:
        if name not in described:
            spec.report(
                path, f"the path parameter {format_value(name)} is not described", "expected it in `parameters`"
            )
    return [each for each in plans if each is not None]


def _key(spec: Spec, held: dict[str, Any], path: Path) -> tuple[str, str] | None:
    where, name = held.get("in"), held.get("name")
    if not isinstance(where, str) or where not in _STYLES:
        wrong = "missing" if where is None else shorten(format_value(where))
        spec.report((*path, "in"), wrong, f"expected {', '.join(_STYLES)}")
        return None
    if not isinstance(name, str) or not name:
        spec.report((*path, "name"), "missing" if name is None else "not a name", "expected a string")
        return None
    return where, name.lower() if where == "header" else name


def _plan(
    spec: Spec, schemas: Schemas, key: tuple[str, str], held: dict[str, Any], path: Path, template_names: list[str]
) -> dict[str, Any] | None:
    where, name = key
    if where == "header" and name in _NOT_PARAMETERS:
        return None
    plan: dict[str, Any] = {"in": where, "name": str(held["name"])}
    if where == "path":
        if name not in template_names:
            spec.report((*path, "name"), f"the path has no parameter {format_value(name)}", "expected one of the path")
            return None
        plan["key"] = parameter_key(name, template_names.index(name))
    if held.get("required") is True or where == "path":
        plan["required"] = True
    if held.get("allowEmptyValue") is True:
        plan["empty"] = True
    if "content" in held or where == "querystring":
        return _content(spec, schemas, plan, held, path)
    styles = _STYLES[where]
    style = held.get("style", styles[0])
    if style not in styles:
        spec.report((*path, "style"), shorten(format_value(style)), f"expected {', '.join(styles)} in {where}")
        return None
    raw = held.get("schema", {} if spec.is_3_0 else True)
    kind = kind_of(schemas, raw)
    explode = held.get("explode", style in ("form", "deepObject", "cookie"))
    plan |= {"style": style, "explode": explode is True, **kind.plan()}
    if style == "deepObject" and kind.shape == "scalar":
        expected = "expected `type: object` or `type: array` in the schema"
        schemas.report((*path, "style"), "`deepObject` is for objects and arrays", expected)
        return None
    schema = schemas.schema(raw, (*path, "schema"))
    if schema not in (True, {}, {"type": "string"}):
        plan["schema"] = schema
    return plan


def _content(
    spec: Spec, schemas: Schemas, plan: dict[str, Any], held: dict[str, Any], path: Path
) -> dict[str, Any] | None:
    """Return a parameter whose text is of a content type."""
    content = spec.mapping_at(held, "content", path)
    if len(content) != 1:
        spec.report((*path, "content"), f"{len(content)} content types", "expected exactly one")
        return None
    ((content_type, media),) = content.items()
    at = (*path, "content", content_type)
    raw = spec.mapping(media, at).get("schema", {})
    bare = bare_type(content_type)
    schema = schemas.schema(raw, (*at, "schema"))
    if is_json(bare):
        return plan | {"json": True, "schema": schema}
    if bare == "application/x-www-form-urlencoded" and plan["in"] == "querystring":
        return plan | {
            "style": "form",
            "explode": True,
            **kind_of(schemas, raw).plan(),
            "shape": "object",
            "schema": schema,
        }
    return plan | {"style": "simple", "explode": False, "shape": "scalar", "types": ["string"], "schema": schema}


def bare_type(content_type: str) -> str:
    """Return a media type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_json(bare: str) -> bool:
    return bare == "application/json" or bare.endswith("+json")
