"""Expands `routes: [{openapi: …}]` into ordinary routes, before the rules are checked.

Each operation becomes a route that is named by its `operationId`, with the filter `openapi`, which validates its
requests; `security` becomes the filters that the entry names for the schemes. The settings of that filter, and a
derived file with the definitions that all operations share, have everything that workers need: no worker reads the
document.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from fastgw.config.base.problems import Path, format_value, suggest
from fastgw.config.base.route_patterns import parse_path
from fastgw.config.decoding.decoder import BROKEN, Reading
from fastgw.config.decoding.merge import Derived, Merged, SourceLocation
from fastgw.config.openapi.check import check_schemas
from fastgw.config.openapi.conformance import check_parts
from fastgw.config.openapi.document import Spec
from fastgw.config.openapi.examples import examples_of
from fastgw.config.openapi.files import SUFFIXES
from fastgw.config.openapi.operations import ApiOperation, Modes, base_path_of, literal, operations_of, published
from fastgw.config.openapi.page import page
from fastgw.config.openapi.schemas import Schemas, whole
from fastgw.config.settings.gateway import FilterUse, Respond, Route
from fastgw.config.settings.openapi import OpenApiRoutes
from fastgw.config.sources.documents import Document
from fastgw.config.sources.extension_packages import type_called
from fastgw.config.sources.files import Files
from fastgw.config.sources.virtual_files import openapi_name

FILTER: Final = "openapi"
"""Type, and name, of the filter of each operation."""
DOCUMENTATION: Final = "openapi_document"
"""Type, and name, of the filter that serves the documentation."""
_OWN: Final = ("use", "timeout", "timeouts", "retries")
"""Settings of an entry that its routes have, and that `x-fastgw` may replace."""
_OF_UPSTREAM: Final = ("timeouts", "retries")
"""Settings among them that have no effect without an upstream."""
_SHARED: Final = ("listeners", "hosts", "priority")


def expand_openapi(merged: Merged, filter_types: Mapping[str, type], files: Files) -> list[Reading]:
    """Replace the entries for OpenAPI documents by the routes that they stand for. Returns how the documents were read,
    with their problems."""
    listed = merged.lists.get("routes", [])
    if not any(isinstance(each, OpenApiRoutes) for _, each in listed):
        return []
    names: set[Any] = {each.name for _, each in listed if isinstance(each, Route)}
    readings: list[Reading] = []
    uses: dict[str, int] = {}
    routes: list[tuple[SourceLocation, Any]] = []
    for location, each in listed:
        if not isinstance(each, OpenApiRoutes):
            routes.append((location, each))
            continue
        settings: Any = each.openapi
        if settings is BROKEN or settings.file is BROKEN:
            continue
        source = location.reading.document
        suffix = "" if settings.file.lower().endswith(SUFFIXES) else ".yaml"
        read = partial(files.read, settings.file)
        quotes = source.trusted and source.quotes  # a remote user may name any file
        document = Document(settings.file, read, suffix=suffix, trusted=source.trusted, quotes=quotes)
        reading = Reading(document, filter_types, files, [*document.problems])
        readings.append(reading)
        uses[settings.file] = number = uses.get(settings.file, 0) + 1
        if document.value is not None:
            expansion = _Expansion(location, each, reading, filter_types, files, str(each.name or number), names)
            first = len(routes)
            routes += expansion.routes()
            readings += expansion.file_readings
            merged.openapi_entries.append((first, len(routes) - first, each))
    merged.lists["routes"] = routes
    return readings


@dataclass
class _Expansion:
    """Expansion of one entry."""

    location: SourceLocation
    entry: OpenApiRoutes
    reading: Reading
    filter_types: Mapping[str, type]
    files: Files
    key: str
    """Name of the entry among those of the same document."""
    names: set[str]
    """Names of routes that are taken."""
    unmapped: set[str] = field(default_factory=set)
    """Security schemes without a filter, each reported once."""
    file_readings: list[Reading] = field(default_factory=list)
    """The other files of the document as they were read."""

    def routes(self) -> Iterator[tuple[SourceLocation, Route]]:
        """Yield the routes."""
        settings = self.entry.openapi
        spec = Spec(self.reading)
        if not spec.is_supported:
            return
        check_parts(spec)
        self.file_readings += spec.files.readings.values()
        schemas = Schemas(spec)
        base = self._base_path()
        operations = operations_of(spec, schemas, base, self._modes)
        schemas.report_cycles()
        if not operations and not spec.problem_count:
            spec.report((), "no operations", "expected `paths` with at least one")
        if any(each.mode != "off" or each.responses for each in operations):
            try:
                check_schemas(spec, schemas)
            except ModuleNotFoundError:
                self.location.below("openapi").report(
                    "the package jsonschema_rs is missing", "pip install 'fastgw[validate]'"
                )
                return
        schemas.report_problems()
        definitions = openapi_name(settings.file, self.key, "schemas.json")
        self.files.derive(definitions, msgspec.json.encode(whole(schemas)))
        schemes = _schemes(spec)
        self._check_entry(spec, schemes, operations)
        for each in operations:
            yield self._route(spec, schemas, each, definitions, schemes)
        if settings.unknown_paths == "pass" and settings.upstream is not None:
            yield self._of_entry("upstream"), self._made("other-paths", f"{literal(base_path_of(spec, base))}/*")
        if settings.docs is not None:
            yield from self._documentation(settings.docs, spec, operations, schemas)

    def _check_entry(self, spec: Spec, schemes: Mapping[str, Any], operations: list[ApiOperation]) -> None:
        """Report settings of the entry that have no effect on this document."""
        settings = self.entry.openapi
        for name, use in settings.security.items():
            at = self.location.below("openapi", "security", name)
            if name not in schemes:
                at.report(f"the document has no security scheme {format_value(name)}", suggest(name, schemes))
            elif isinstance(use, FilterUse) and (place := _place_of_key(spec, name, schemes)) is not None:
                places = use.settings.credential_places()
                if places and not places.has(*place):
                    wrong = f"`{use.type}` does not look where the document has the key: {' '.join(place)}"
                    at.reading.note(at.path, wrong, "expected the settings of the filter to name it")
        known = {name for each in operations for name in (each.name, f"{each.method} {each.template}")}
        for name in settings.operations:
            if name not in known:
                at = self.location.below("openapi", "operations", name)
                at.report(f"the document has no operation {format_value(name)}", suggest(name, known))
        if settings.upstream is not None:
            return
        for key in ("strip_prefix", *_OF_UPSTREAM):
            if getattr(self.entry, key) is not None:
                self.location.below(key).report("has no effect without an upstream", "expected `openapi.upstream`")
        if settings.responses != "off":
            at = self.location.below("openapi", "responses")
            at.report("has no effect without an upstream", "expected `upstream`, or `responses: off`")
        if settings.unknown_paths == "pass":
            at = self.location.below("openapi", "unknown_paths")
            at.report("`unknown_paths: pass` needs an upstream", "expected `upstream`, or `unknown_paths: refuse`")

    def _base_path(self) -> str | None:
        base = self.entry.openapi.base_path
        if base is not None and (not base.startswith("/") or "{" in base or "*" in base):
            at = self.location.below("openapi", "base_path")
            at.report(format_value(base), "expected a path such as /v1, or / for none", at_key=False)
            return "/"
        return base

    def _modes(self, name: str, place: str, extension: dict[str, Any]) -> Modes:
        """Return how an operation is validated. `place`: its method and path."""
        settings = self.entry.openapi
        said = extension.get("validate")
        if not settings.operations:
            return Modes(settings.validate if said is None else said, settings.responses)
        own = [settings.operations[key] for key in dict.fromkeys((name, place)) if key in settings.operations]
        requests = (*(each.validate for each in own), said, settings.validate)
        responses = (*(each.responses for each in own), settings.responses)
        return Modes(_first_said(requests), _first_said(responses))

    # routes

    def _route(
        self, spec: Spec, schemas: Schemas, each: ApiOperation, definitions: str, schemes: Mapping[str, Any]
    ) -> tuple[SourceLocation, Route]:
        settings, extension = self.entry.openapi, each.extension
        mocks = extension.get("mock")
        mocked = settings.mock if mocks is None else mocks
        filters: dict[str, Any] = {**self.entry.filters}
        filters |= extension["filters"]
        filters |= self._security(spec, each, schemes)
        if each.mode != "off" or each.responses or mocked:
            filters[FILTER] = self._use(FILTER, self._settings(spec, schemas, each, definitions, mocked))
        at = SourceLocation(*spec.origin(each.path))
        if settings.upstream is None and not mocked:
            self.location.below("openapi").report(
                f"no upstream for {each.method} {each.template}", "expected `upstream`, or `mock: true`", at_key=True
            )
            mocked = True
        parts = partial(self._parts, spec, at, each)
        action = "respond" if mocked else "upstream"
        location = Derived(self.location.reading, self.location.path, parts, MappingProxyType({action: {}}))
        own = {name: extension[name] for name in _OWN if extension.get(name) is not None}
        return location, self._made(
            each.name, each.pattern, mocked=mocked, methods=(each.method,), filters=MappingProxyType(filters), **own
        )

    def _made(self, name: str, pattern: str, *, mocked: bool = False, **said: Any) -> Route:
        settings: dict[str, Any] = {key: getattr(self.entry, key) for key in (*_SHARED, *_OWN)}
        settings = {key: value for key, value in settings.items() if value is not BROKEN}
        settings["filters"] = self.entry.filters
        if mocked:
            settings["respond"] = Respond(status=200)
            for key in _OF_UPSTREAM:
                settings.pop(key, None)
                said.pop(key, None)
        else:
            settings["upstream"] = self.entry.openapi.upstream
            settings["strip_prefix"] = self.entry.strip_prefix
        return Route(name=self._unique(name), paths=(pattern,), **{**settings, **said})

    def _unique(self, name: str) -> str:
        """Return the name of a route: the prefix and the name, with a number if it is taken."""
        name = f"{self.entry.name}.{name}" if self.entry.name else name
        unique, number = name, 2
        while unique in self.names:
            unique, number = f"{name}-{number}", number + 1
        self.names.add(unique)
        return unique

    def _of_entry(self, action: str) -> SourceLocation:
        shown: dict[Path, SourceLocation] = {(action,): self.location.below("openapi", action)}
        return Derived(self.location.reading, self.location.path, lambda: shown, MappingProxyType({action: {}}))

    def _parts(self, spec: Spec, at: SourceLocation, each: ApiOperation) -> Mapping[Path, SourceLocation]:
        """Return the positions of what a route is made of."""
        parts: dict[Path, SourceLocation] = {
            (key,): self.location.below(key) for key in (*_SHARED, *_OWN, "strip_prefix", "filters")
        }
        parts |= {("upstream",): self.location.below("openapi", "upstream"), ("name",): at, ("paths",): at}
        parts |= {("methods", 0): at}
        parts |= {("filters", name): SourceLocation(*spec.origin(path)) for name, path in each.filter_paths.items()}
        schemes = [name for one in each.security for name in one]
        parts |= {("filters", _filter_of(name)): self.location.below("openapi", "security", name) for name in schemes}
        parts[("filters", FILTER)] = parts[("filters", "security")] = at
        return parts

    def _settings(
        self, spec: Spec, schemas: Schemas, each: ApiOperation, definitions: str, mocked: bool
    ) -> dict[str, Any]:
        settings = self.entry.openapi
        plan: dict[str, Any] = {"id": each.name}
        if each.mode != "off":
            plan |= {"parameters": each.parameters, "body": each.body}
            if settings.unknown_parameters == "refuse":
                plan["known"] = _api_keys(spec, each)
        if each.responses:
            plan["responses"] = each.responses
        if mocked:
            plan["mock"] = examples_of(spec, schemas, each.operation, each.path)
        return {
            "operation": msgspec.json.encode(plan).decode(),
            "schemas": definitions,
            "mode": each.mode,
            "max_body": settings.max_body,
        }

    def _use(self, name: str, said: Mapping[str, Any]) -> FilterUse:
        return FilterUse(name=name, type=name, settings=type_called(name, self.filter_types)(**said))

    # security

    def _security(self, spec: Spec, each: ApiOperation, schemes: Mapping[str, Any]) -> dict[str, FilterUse]:
        """Return the filters for the security requirements of an operation; none: it is public."""
        ways = [way for way in each.security if way]
        filters: list[list[FilterUse]] = []
        for way in ways:
            held = [self._scheme(spec, each, name, scopes, schemes) for name, scopes in way.items()]
            filters.append([use for use in held if use is not None])
        if not ways or any(not held for held in filters):  # without a filter: the problem is reported
            return {}
        optional = len(ways) < len(each.security)
        if len(filters) == 1 and not optional:
            return {_filter_of(use.name): replace(use, name=_filter_of(use.name)) for use in filters[0]}
        try:
            any_of = tuple(self._together([replace(use, name=use.type) for use in held]) for held in filters)
            auth = type_called("auth", self.filter_types)(
                any_of=any_of, **({"anonymous": "anonymous"} if optional else {})
            )
        except ValueError as error:
            wrong, _, expected = str(error).partition("; ")
            spec.report((*each.path, "security"), wrong, expected)
            return {}
        return {"security": FilterUse(name="security", type="auth", settings=auth)}

    def _together(self, held: list[FilterUse]) -> FilterUse:
        """Return the filter for the schemes of one alternative, all of which are required."""
        if len(held) == 1:
            return held[0]
        return FilterUse(
            name="all_of", type="all_of", settings=type_called("all_of", self.filter_types)(methods=tuple(held))
        )

    def _scheme(
        self, spec: Spec, each: ApiOperation, name: str, scopes: list[str], schemes: Mapping[str, Any]
    ) -> FilterUse | None:
        """Return the filter for a security scheme, named by the scheme."""
        at = (*each.path, "security") if "security" in each.operation else ("security",)
        if name not in schemes:
            spec.report(
                at, f"unknown security scheme {format_value(name)}", "expected one of components.securitySchemes"
            )
            return None
        use: FilterUse | None = self.entry.openapi.security.get(name)
        if use is None:
            if name not in self.unmapped:
                self.unmapped.add(name)
                wrong = f"no filter for the security scheme {format_value(name)} of the document"
                expected = f"expected `security: {{{name}: {{TYPE: …}}}}`, a filter that authenticates"
                self.location.below("openapi").report(wrong, expected, at_key=True)
            return None
        if not isinstance(use, FilterUse):  # reported where it is decoded
            return None
        if scopes:
            if not hasattr(use.settings, "scopes"):
                wrong = f"the scheme {format_value(name)} has scopes, which the filter `{use.type}` does not check"
                spec.report(at, wrong, "expected a filter with `scopes`, such as jwt")
                return None
            use = replace(
                use, settings=replace(use.settings, scopes=tuple(dict.fromkeys((*use.settings.scopes, *scopes))))
            )
        return replace(use, name=name)

    # documentation

    def _documentation(
        self, path: str, spec: Spec, operations: list[ApiOperation], schemas: Schemas
    ) -> Iterator[tuple[SourceLocation, Route]]:
        at = self.location.below("openapi", "docs")
        path = path.rstrip("/") or path
        try:
            is_plain = not parse_path(path).names and "*" not in path and not path.startswith("~") and path != "/"
        except ValueError:
            is_plain = False
        if not is_plain:
            at.report(format_value(path), "expected a path such as /docs", at_key=False)
            return
        shown = published(spec.files.referred_value())
        document = msgspec.json.encode(shown)
        html = page(shown, operations, schemas, f"{path.rpartition('/')[2]}/openapi.json").encode()
        for name, kind, content_type, content, route_path in (
            ("docs", "docs.html", "text/html; charset=utf-8", html, path),
            ("docs.json", "openapi.json", "application/json", document, f"{path}/openapi.json"),
        ):
            file = openapi_name(self.entry.openapi.file, self.key, kind)
            self.files.derive(file, content)
            use = self._use(DOCUMENTATION, {"file": file, "content_type": content_type})
            shared = {key: value for key in _SHARED if (value := getattr(self.entry, key)) is not BROKEN}
            route = Route(
                name=self._unique(name),
                paths=(route_path,),
                methods=("GET",),
                respond=Respond(status=200),
                filters=MappingProxyType({DOCUMENTATION: use}),
                **shared,
            )
            yield Derived(at.reading, at.path, made=MappingProxyType({"respond": {}})), route


def _first_said(modes: Iterable[Any]) -> Any:
    return next(each for each in modes if each is not None)


def _filter_of(scheme: str) -> str:
    """Return the name of the filter for a security scheme."""
    return scheme if scheme.startswith("security.") else f"security.{scheme}"


def _schemes(spec: Spec) -> Mapping[str, Any]:
    components = spec.mapping_at(spec.value, "components", ())
    return spec.mapping_at(components, "securitySchemes", ("components",))


def _place_of_key(spec: Spec, name: str, schemes: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return where clients send the key of a security scheme: `header`, `query` or `cookie`, and its name there. None:
    it is no key.
    """
    found = spec.resolved(schemes[name], ("components", "securitySchemes", name))
    where, its_name = (found[0].get("in"), found[0].get("name")) if found is not None else (None, None)
    is_place = where in ("header", "query", "cookie") and isinstance(its_name, str)
    return (str(where), str(its_name)) if is_place else None


def _api_keys(spec: Spec, each: ApiOperation) -> list[str]:
    """Return the query parameters with keys of clients: the operation has them although they are no `parameters`."""
    schemes = _schemes(spec)
    places = [_place_of_key(spec, name, schemes) for one in each.security for name in one if name in schemes]
    return [place[1] for place in places if place is not None and place[0] == "query"]
