"""Operations of an OpenAPI document: methods, paths as patterns of routes, names, security and extensions."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from fastgw.config.base.problems import Path, format_value, shorten
from fastgw.config.base.value_types import parse_route_name
from fastgw.config.decoding.decoder import BROKEN, Structure
from fastgw.config.openapi.bodies import request_body_of, responses_of
from fastgw.config.openapi.document import Spec
from fastgw.config.openapi.grammar import METHODS
from fastgw.config.openapi.parameters import parameter_key, parameters_of
from fastgw.config.openapi.schemas import Schemas
from fastgw.config.settings.openapi import Mode, OperationExtension, ResponseMode

_TEMPLATE: Final = re.compile(r"\{([^{}/]+)\}")
_BRACE: Final = re.compile(r"[{}]")
_NOT_PATH: Final = {"?": "query", "#": "fragment"}
"""Components of a URI after the path, by their delimiters."""
_NOT_IN_PATHS: Final = re.compile(r"[?#]")
_WRITTEN_OTHERWISE: Final = re.compile(r"[{}*?#]|%(?![0-9A-Fa-f]{2})")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
EXTENSION: Final = "x-fastgw"


class Modes(NamedTuple):
    """How requests and responses of an operation are validated."""

    requests: Mode
    responses: ResponseMode


@dataclass
class ApiOperation:
    """An operation of a document."""

    method: str
    template: str
    """Path as in the document."""
    pattern: str
    """Path as in a route, with the base path."""
    path: Path
    """Path of the operation in the document."""
    name: str
    """`operationId` of the operation, or method and path."""
    mode: Mode
    """Validation of requests."""
    operation: dict[str, Any]
    """The operation as written."""
    parameters: list[dict[str, Any]]
    body: dict[str, Any] | None
    responses: dict[str, Any]
    security: list[dict[str, list[str]]]
    """Alternatives, each with the scopes of the schemes that it combines; none: public."""
    extension: dict[str, Any]
    """Settings of `x-fastgw`, by name."""
    filter_paths: dict[str, Path] = field(default_factory=dict)
    """Path in the document of each filter of the extension."""


def operations_of(
    spec: Spec, schemas: Schemas, base_path: str | None, modes: Callable[[str, str, dict[str, Any]], Modes]
) -> list[ApiOperation]:
    """Return the operations of a document; their errors are reported. `modes`: of an operation by its name, its method
    and path, and the settings of its `x-fastgw`.
    """
    found: list[ApiOperation] = []
    paths = spec.mapping_at(spec.value, "paths", ())
    if "paths" not in spec.value and spec.is_3_0:
        spec.report(("paths",), "missing", "expected the paths of the API", at_key=True)
    outer = _extension(spec, spec.value, ())
    shapes: dict[tuple[str, str], Path] = {}
    for template, item in paths.items():
        at: Path = ("paths", template)
        if template.startswith("x-"):
            continue
        if not template.startswith("/"):
            spec.report(
                at, f"{shorten(format_value(template))} does not start with a slash", "expected a path", at_key=True
            )
            continue
        if _BRACE.search(_TEMPLATE.sub("", template)):
            wrong = f"{shorten(format_value(template))} has a brace that is no part of a parameter"
            spec.report(at, wrong, "expected parameters such as {id}", at_key=True)
            continue
        if (odd := _NOT_IN_PATHS.search(template)) is not None:
            wrong = f"`{odd[0]}` is matched literally: no request with a {_NOT_PATH[odd[0]]} matches this path"
            spec.note(at, wrong, "expected a path alone; `parameters` of an operation describe its query")
        parts = _parts(spec, item, at)
        extensions = [_extension(spec, *part) for part in parts]
        held = [(number, *made) for number, part in enumerate(parts) for made in _in_item(spec, *part)]
        held.sort(key=lambda each: each[1] != "HEAD")  # of all parts: see `METHODS`
        for nearest, method, operation, path in held:
            key = method, _TEMPLATE.sub("{}", template)
            if shapes.get(key) == at:
                wrong = f"{method} is in the path and in what its `$ref` leads to"
                spec.report(path, wrong, "expected it once", at_key=True)
                continue
            if key in shapes:
                wrong = f"{method} {template} matches the same requests as {shapes[key][1]}"
                spec.report(at, wrong, "expected each path once", at_key=True)
                continue
            shapes[key] = at
            # all parts count for an operation; where two say different things, the one that has the operation does
            order = [*(n for n in reversed(range(len(parts))) if n != nearest), nearest]
            holders = (operation, path), parts[nearest], *parts, (spec.value, ())
            having = next((each for each in holders if "servers" in each[0]), (spec.value, ()))
            base = _base_of(spec, *having) if base_path is None else base_path
            names = _TEMPLATE.findall(template)
            if len(set(names)) < len(names):
                spec.report(
                    at, f"{shorten(format_value(template))} has a parameter twice", "expected it once", at_key=True
                )
                continue
            extension, filter_paths = _merged(
                (outer, *(extensions[n] for n in order), _extension(spec, operation, path))
            )
            security, security_path = _security(operation, path, spec)
            name = operation.get("operationId")
            if isinstance(name, str) and name:
                try:
                    parse_route_name(name)
                except ValueError as error:
                    spec.report((*path, "operationId"), str(error), "expected a name without control characters")
                    continue
            place = f"{method} {template}"
            name = name if isinstance(name, str) and name else place
            mode = modes(name, place, extension)
            schemas.operation = None if mode.requests == "off" else name
            parameters = parameters_of(spec, schemas, [parts[n] for n in order], operation, path, names)
            body = request_body_of(spec, schemas, operation, path)
            schemas.operation = name
            found.append(
                ApiOperation(
                    method=method,
                    template=template,
                    pattern=literal(base.rstrip("/")) + pattern_of(template, names),
                    path=path,
                    name=name,
                    mode=mode.requests,
                    operation=operation,
                    parameters=parameters,
                    body=body,
                    responses=responses_of(spec, schemas, operation, path, checked=mode.responses != "off"),
                    security=_requirements(spec, security, security_path),
                    extension=extension,
                    filter_paths=filter_paths,
                )
            )
    return found


def _parts(spec: Spec, item: Any, path: Path) -> list[tuple[dict[str, Any], Path]]:
    """Return what is said about a path: the item, and those that it refers to, which apply beside it. None of it, with
    a problem: there are no such items.
    """
    if spec.resolved(item, path) is None:
        return []
    parts = [(item, path)]
    while "$ref" in item and (found := spec.target(item["$ref"], path)) is not None:
        item, path = found
        parts.append(found)
    return parts


def _in_item(spec: Spec, item: dict[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any], Path]]:
    """Yield the operations of a path by method."""
    methods = (*METHODS, "query") if spec.is_3_2 else METHODS
    for method in methods:
        if method in item and (found := _operation(spec, item[method], (*path, method))) is not None:
            yield method.upper(), *found
    more = spec.mapping_at(item, "additionalOperations", path)
    for method, operation in more.items():
        at = (*path, "additionalOperations", method)
        if not _TOKEN.fullmatch(method) or method.lower() in methods:
            spec.report(at, shorten(format_value(method)), "expected a method that has no key of its own", at_key=True)
            continue
        if (found := _operation(spec, operation, at)) is not None:
            yield method, *found


def _operation(spec: Spec, value: Any, path: Path) -> tuple[dict[str, Any], Path] | None:
    """Return an operation, and where it is written. None, with a problem: it is nowhere, or in two places."""
    beside = [key for key in value if key != "$ref"] if isinstance(value, dict) and "$ref" in value else []
    if beside:
        wrong = f"{format_value(beside[0])} is beside the `$ref` of an operation, where nothing counts"
        spec.report((*path, beside[0]), wrong, "expected it in the operation that `$ref` leads to", at_key=True)
        return None
    return spec.resolved(value, path)


def pattern_of(path: str, names: list[str]) -> str:
    """Return the pattern of a route for a path with parameters, whole segments or parts of them."""
    keys = {name: parameter_key(name, number) for number, name in enumerate(names)}
    pieces = _TEMPLATE.split(path)
    return "".join(literal(piece) if n % 2 == 0 else f"{{{keys[piece]}}}" for n, piece in enumerate(pieces))


def literal(text: str) -> str:
    """Return text that is taken literally: routes write some characters in another way."""
    return _WRITTEN_OTHERWISE.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _base_of(spec: Spec, holder: dict[str, Any], path: Path) -> str:
    """Return the path of the first server, with the defaults of its variables; "" = none."""
    if path not in spec.base_paths:
        spec.base_paths[path] = _read_base(spec, holder, path)
    return spec.base_paths[path]


def _read_base(spec: Spec, holder: dict[str, Any], path: Path) -> str:
    servers = holder.get("servers")
    first = servers[0] if isinstance(servers, list) and servers else None
    url = first.get("url") if isinstance(first, dict) else None
    if not isinstance(url, str):
        return ""
    variables = first.get("variables") if isinstance(first, dict) else None

    def default(found: re.Match[str]) -> str:
        held = variables.get(found[1]) if isinstance(variables, dict) else None
        return str(held.get("default", "")) if isinstance(held, dict) else ""

    at = (*path, "servers", 0, "url")
    try:
        base = urlsplit(_TEMPLATE.sub(default, url)).path.rstrip("/")
    except ValueError:
        spec.report(at, shorten(format_value(url)), "expected a URL")
        return ""
    if not base.startswith("/") and base:
        wrong = f"{shorten(format_value(url))} is relative to the location of the document, which is unknown"
        spec.report(at, wrong, "expected a URL or a path such as /v1; `base_path` in the configuration replaces it")
        return ""
    return base


def base_path_of(spec: Spec, base_path: str | None) -> str:
    """Return the path before the paths of a document; "" = none."""
    return (_base_of(spec, spec.value, ()) if base_path is None else base_path).rstrip("/")


def _security(operation: dict[str, Any], path: Path, spec: Spec) -> tuple[Any, Path]:
    if "security" in operation:
        return operation["security"], (*path, "security")
    return spec.value.get("security", []), ("security",)


def _requirements(spec: Spec, value: Any, path: Path) -> list[dict[str, list[str]]]:
    made: list[dict[str, list[str]]] = []
    for each, at in spec.items({"security": value}, "security", path[:-1]):
        held = spec.mapping(each, at)
        made.append({name: [str(one) for one, _ in spec.items(held, name, at)] for name in held})
    return made


def published(value: Any) -> Any:
    """Return a document, or a part of it, without `x-fastgw`, whose filters may have secrets. It is left out wherever
    it stands: references may lead to a path anywhere in the document.
    """
    if isinstance(value, dict):
        return {key: published(each) for key, each in value.items() if key != EXTENSION}
    return [published(each) for each in value] if isinstance(value, list) else value


Extension = tuple[OperationExtension, dict[str, Any], Path]


def _extension(spec: Spec, holder: dict[str, Any], path: Path) -> Extension | None:
    """Return `x-fastgw` of a document, a path or an operation."""
    if EXTENSION not in holder:
        return None
    at = (*path, EXTENSION)
    reading, local = spec.origin(at)
    held = Structure(OperationExtension).read(holder[EXTENSION], local, reading)
    return None if held is BROKEN else (held, holder[EXTENSION], at)


def _merged(extensions: tuple[Extension | None, ...]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return the settings of several extensions, the outermost first, and the paths of their filters."""
    settings: dict[str, Any] = {}
    filters: dict[str, Any] = {}
    paths: dict[str, Path] = {}
    for each in extensions:
        if each is None:
            continue
        held, written, at = each
        settings |= {name: getattr(held, name) for name in written if name in held.__struct_fields__}
        for name, use in held.filters.items():
            filters[name] = use
            paths[name] = (*at, "filters", name)
    return settings | {"filters": filters}, paths
