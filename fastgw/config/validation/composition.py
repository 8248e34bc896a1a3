"""Rules about composed routes: their parts, the order of these, and the variables in their templates."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
from msgspec import structs

from fastgw.config.base import route_patterns as patterns
from fastgw.config.base.part_templates import TemplateVariable, parse_list, parse_pieces, parse_target, variables_in
from fastgw.config.base.problems import Problem, format_value, suggest
from fastgw.config.base.value_templates import KnownNames
from fastgw.config.base.variables import MAP_PREFIX, RESPONSE_PREFIX
from fastgw.config.decoding.decoder import BROKEN
from fastgw.config.decoding.merge import Merged, SourceLocation
from fastgw.config.settings.compose import Compose, Part
from fastgw.config.settings.gateway import Route
from fastgw.config.validation.listener_protocols import upstreams_of_events
from fastgw.config.validation.value_maps import known_maps
from fastgw.http.field_names import HOP_BY_HOP, READ_IN_REQUESTS
from fastgw.http.json.tree import DEEPEST, is_too_deep

Rule = Callable[[Merged], None]
_OWN = (READ_IN_REQUESTS - {b"x-request-id"}) | {b"accept-encoding"}
_OF_RESPONSES = HOP_BY_HOP | frozenset(
    b"age cache-control cache-tag content-encoding content-type date etag expires surrogate-key trailer vary "
    b"x-request-id".split()
)
"""Headers of composed responses, by which clients and caches read them."""
_DEFAULTS: Final = {field.name: field.default for field in structs.fields(Part)}


def composed_routes(merged: Merged) -> None:
    """Check the compositions whose values could be decoded."""
    maps = known_maps(merged)
    for location, route in merged.routes_to_validate():
        compose = route.compose
        if compose is None or compose is BROKEN or _is_broken(compose):
            continue
        at = location.below("compose")
        known = merged.maps["upstreams"]
        for index, part in enumerate(compose.parts):
            if isinstance(part.upstream, str) and part.upstream not in known:
                wrong = f"unknown upstream {format_value(part.upstream)}"
                at.below("parts", index, "upstream").report(wrong, suggest(part.upstream, known), at_key=False)
        if _check_names(compose, at) and _check_order(compose, at):
            parameters = _parameters_of(route.paths)
            for index, part in enumerate(compose.parts):
                _check_part(part, compose, parameters, maps, at.below("parts", index))
        if compose.output == "no-op" and (len(compose.parts) > 1 or compose.static is not None or compose.flatmap):
            at.below("output").report("`no-op` is for a single part as it is", "expected `json`", at_key=False)
        elif compose.output == "no-op":
            _check_untouched(compose.parts[0], at.below("parts", 0))
        _check_passed(compose.headers_to_pass, at)
        if compose.completed_header.lower().encode() in _OF_RESPONSES:
            wrong = f"{format_value(compose.completed_header)} is set by the gateway"
            at.below("completed_header").report(wrong, 'expected a name such as "Fastgw-Completed"', at_key=False)


_RULES = ("for_each", "default", "is_collection", "target", "allow", "deny", "mapping", "group", "flatmap", "error_as")


def notes_on_parts(location: SourceLocation, route: Route) -> Iterator[Problem]:
    """Yield the notes on settings of the parts of a valid route that have no effect."""
    compose = route.compose
    for index, part in enumerate(() if compose is None else compose.parts):
        assert compose is not None
        at = location.below("compose", "parts", index)
        for key, why in _ineffective_in(part, compose, route.methods):
            yield at.below(key).problem(why)
        if part.body is not None and part.method == "GET" and "method" not in at.raw:
            yield at.below("body").problem("it is the body of a GET request: `method` is left out, and GET by default")
        for key, paths in (("target", (part.target or ".",)), ("allow", part.allow), ("deny", part.deny)):
            for path in paths:
                if path != "." and "" in path.split("."):
                    wrong = f"{format_value(path)} has an empty step: it is the path of a member without a name"
                    yield at.below(key).problem(wrong)


def _ineffective_in(part: Part, compose: Compose, methods: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the settings of a part without effect, each with the reason."""
    if part.for_each is None:
        for key in ("concurrency", "max"):
            if getattr(part, key) != _DEFAULTS[key]:
                yield key, "it has no effect without `for_each`"
        if part.wrap != _DEFAULTS["wrap"] and not part.is_collection:
            yield "wrap", "it has no effect: the answer is an object, unless `is_collection` is true"
    for key in ("allow", "deny", "mapping") if part.flatmap else ():
        if getattr(part, key):
            yield key, "it has no effect: `flatmap` is in its place"
    if part.allow and part.deny and not part.flatmap:
        yield "deny", "it has no effect: only the members of `allow` are used"
    decides = "required" if part.required else "all_or_nothing" if compose.all_or_nothing else ""
    if decides and part.default is not None:
        yield "default", f"it has no effect: if the part fails, the response fails (`{decides}`)"
    if part.error_as is not None and (decides or part.default is not None):
        why = f"if the part fails, the response fails (`{decides}`)" if decides else "`default` stands in its place"
        yield "error_as", f"it has no effect: {why}"
    if part.takes_body and methods and {"GET", "HEAD"}.issuperset(methods):
        yield "body", f"it has no effect: {' and '.join(sorted(methods))} requests have no body"


def functions_have_upstreams(merged: Merged) -> None:
    """Check that the upstreams of functions exist."""
    for location, route in merged.routes_to_validate():
        function = route.lambda_
        if function is None or function is BROKEN or not isinstance(function.upstream, str):
            continue
        known = merged.maps["upstreams"]
        if function.upstream not in known:
            wrong = f"unknown upstream {format_value(function.upstream)}"
            location.below("lambda", "upstream").report(wrong, suggest(function.upstream, known), at_key=False)


def events_have_upstreams(merged: Merged) -> None:
    """Check that the upstreams of WebSocket APIs exist."""
    known = merged.maps["upstreams"]
    for location, route in merged.routes_to_validate():
        for at, upstream in upstreams_of_events(location, route):
            if isinstance(upstream, str) and upstream not in known:
                at.report(f"unknown upstream {format_value(upstream)}", suggest(upstream, known), at_key=False)


def _check_untouched(part: Part, at: SourceLocation) -> None:
    """Report rules for an answer that is passed on as it arrives."""
    for name in _RULES:
        if getattr(part, name):
            at.below(name).report("`output: no-op` passes the answer on as it is", f"expected no `{name}`")


def _is_broken(compose: Compose) -> bool:
    parts: Any = compose.parts
    if parts is BROKEN or any(getattr(compose, name) is BROKEN for name in compose.__struct_fields__):
        return True
    return any(
        part is BROKEN or any(getattr(part, name) is BROKEN for name in part.__struct_fields__) for part in parts
    )


def _check_names(compose: Compose, at: SourceLocation) -> bool:
    names: set[str] = set()
    for index, part in enumerate(compose.parts):
        if part.name in names:
            wrong = f"{format_value(part.name)} is the name of another part"
            at.below("parts", index, "name").report(wrong, "expected a unique name", at_key=False)
            return False
        names.add(part.name)
    sound = True
    for place, part in enumerate(compose.parts):
        after: tuple[Any, ...] = part.after
        for index, name in enumerate(after):
            if name is BROKEN:
                sound = False
            elif name not in names or name == part.name:
                below = at.below("parts", place, "after", index)
                if name == part.name:
                    below.report("the part waits for itself", "expected the name of another part", at_key=False)
                else:
                    others = [each for each in names if each != part.name]
                    below.report(f"unknown part {format_value(name)}", suggest(name, others), at_key=False)
                sound = False
    return sound


def _check_order(compose: Compose, at: SourceLocation) -> bool:
    """Check that no part waits for itself by way of others."""
    order = compose.order()
    for index, part in enumerate(compose.parts):
        if part.name in _earlier(part.name, order):
            wrong = f"the part waits for itself: {' after '.join((part.name, *order[part.name]))}"
            at.below("parts", index).below("after").report(wrong, "expected parts without a cycle", at_key=False)
            return False
    return True


def _earlier(name: str, order: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Return all parts that come before this one."""
    found: set[str] = set()
    left = [*order[name]]
    while left:
        each = left.pop()
        if each not in found:
            found.add(each)
            left += order[each]
    return found


def _check_part(part: Part, compose: Compose, parameters: frozenset[str], maps: KnownNames, at: SourceLocation) -> None:
    if part.body is not None and not part.takes_body and is_too_deep(orjson.loads(part.body)):
        expected = f"expected at most {DEEPEST} levels of objects and lists"
        at.below("body").report("nested too deep", expected, at_key=False)
        return
    earlier = _earlier(part.name, compose.order())
    for below, variable in _variables_of(part, at):
        name = f"{{{variable.name}}}"
        if variable.part and variable.part not in earlier:
            wrong = f"{name} is in the answer of a part that this one does not wait for"
            below.report(wrong, f"expected `after: [{variable.part}]`", at_key=False)
        elif variable.is_item and part.for_each is None:
            below.report(f"{name} is the element of a list", "expected `for_each`", at_key=False)
        elif variable.parameter and variable.parameter not in parameters:
            wrong = f"not every path of this route has the parameter {format_value(variable.parameter)}"
            hint = suggest(variable.parameter, parameters) if parameters else "expected paths that have it"
            below.report(wrong, hint, at_key=False)
        elif variable.name.startswith((MAP_PREFIX, RESPONSE_PREFIX)) and (
            problem := maps.with_parameters(parameters).problem_of(variable.name)
        ):
            below.report(*problem, at_key=False)
    if part.default is not None and not part.default.startswith("{"):
        at.below("default").report("the default is no object", "expected one such as {}", at_key=False)
    for name in re.findall(r"\{([^{}]*)\}", part.error_as or ""):
        if name != "name":
            at.below("error_as").report(f"unknown variable {{{name}}}", "expected {name}", at_key=False)
    for name in part.headers:
        if name.lower().encode() in _OWN:
            at.below("headers", name).report(f"{format_value(name)} is set by the gateway", at_key=False)
    _check_passed(part.headers_to_pass, at)


def _check_passed(names: Iterable[str], at: SourceLocation) -> None:
    for index, name in enumerate(names):
        if name.lower().encode() in _OWN:
            wrong = f"{format_value(name)} is set by the gateway"
            at.below("headers_to_pass", index).report(wrong, at_key=False)
        elif name == "*":
            expected = "expected the names of the headers"
            at.below("headers_to_pass", index).report("`*` is not a header", expected, at_key=False)


def _variables_of(part: Part, at: SourceLocation) -> Iterator[tuple[SourceLocation, TemplateVariable]]:
    """Yield the variables in the templates of a part; errors are reported."""
    for below, parse, text in _templates_of(part, at):
        try:
            parsed: Any = parse(text)
        except ValueError as error:
            wrong, _, expected = str(error).rpartition("; ")
            below.report(wrong or expected, expected if wrong else "", at_key=False)
            continue
        for variable in (parsed,) if isinstance(parsed, TemplateVariable) else variables_in(parsed):
            yield below, variable


def _templates_of(part: Part, at: SourceLocation) -> Iterator[tuple[SourceLocation, Callable[[str], Any], str]]:
    yield at.below("path"), parse_target, part.path
    headers: Mapping[str, Any] = part.headers
    for name, text in headers.items():
        if text is not BROKEN:
            yield at.below("headers", name), parse_pieces, text
    if part.for_each is not None:
        yield at.below("for_each"), parse_list, part.for_each
    if part.body is not None and not part.takes_body:
        for text in _texts_in(orjson.loads(part.body)):
            yield at.below("body"), parse_pieces, text


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(each)


def _parameters_of(paths: Any) -> frozenset[str]:
    """Return the parameters that every path has."""
    held = []
    for path in () if paths is BROKEN else paths:
        with suppress(ValueError, TypeError):
            held.append(patterns.parse_path(path).names)
    return frozenset.intersection(*held) if held else frozenset()
