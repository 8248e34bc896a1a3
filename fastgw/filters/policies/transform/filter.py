"""transform: settings of the filter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import orjson
from msgspec import Meta

from fastgw.config.base.problems import Path as Steps
from fastgw.config.base.problems import format_value
from fastgw.config.base.settings_base import Json, SettingsErrors
from fastgw.config.base.value_templates import KnownNames
from fastgw.config.base.value_types import Duration, PlainValue, Size, Statuses
from fastgw.config.settings.gateway import NONE, Route, Settings
from fastgw.filters.api import (
    Env,
    Exchange,
    Filter,
    Hooks,
    Outcome,
    Phase,
    RequestHook,
    Services,
    StageFactory,
    WarningContext,
)
from fastgw.filters.policies.transform.expressions import LONGEST_PROGRAM, check_jsonata
from fastgw.filters.policies.transform.json_mapping import steps_of
from fastgw.filters.policies.transform.values import compile_value, variables_in
from fastgw.filters.policies.transform.xml_reading import compile_xml_input
from fastgw.filters.policies.transform.xml_writing import compile_xml_template
from fastgw.http.json.projection import EACH
from fastgw.http.json.strict import MOST_INLINE
from fastgw.http.json.tree import DEEPEST, is_too_deep

_MOST = 200
_MOST_OFFLOADED = 8 * 1024**2
_LONGEST_DEADLINE_S = 30
_INDEXED = re.compile(r"\[(?:-?\d*|\*)\]$")
_MEDIA_TYPE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*(?:;|$)")
Expression = Annotated[str, Meta(min_length=1, max_length=LONGEST_PROGRAM)]
Path = Annotated[str, Meta(min_length=1, max_length=500)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Paths = Annotated[tuple[Path, ...], Meta(max_length=_MOST)]


class JsonRules(Settings):
    """Rules of a JSON mapping, applied in this order: `wrap`, `allow`, `deny`, `rename`, `move`, `default`, `set`,
    `group`.

    Paths are names separated by dots; `*` is each element of an array, or each member of an object. Values that no
    rule replaces stay as they were written, digit by digit. A path of which a part does not exist matches nothing. A
    body that is neither an object nor an array has no paths; with `allow` it becomes null.
    """

    wrap: Name | None = None
    """Name of the member that holds the body if it is an array. null = an array stays one: paths in it begin with
    `*`."""
    allow: Paths = ()
    """Paths that are kept, each with everything below; all else is removed. Empty = everything is kept."""
    deny: Paths = ()
    """Paths that are removed, also from what is allowed."""
    rename: Annotated[Mapping[Path, Name], Meta(max_length=_MOST)] = NONE
    """New names of members, by their paths. A new name is no path: a dot in it is a part of the name. A member that has
    the new name already is removed."""
    move: Annotated[Mapping[Path, Path], Meta(max_length=_MOST)] = NONE
    """New paths of values, by their paths after `rename`. Each `*` of the new path stands for what the same `*` of the
    old one has matched. Missing objects are created, and arrays where a `*` has matched elements of an array, with an
    empty object or array for each element before that has no value. A value that the new path has already is replaced.
    A value stays where it is if the new path leads through another value, such as a text or null."""
    default: Annotated[Mapping[Path, Json], Meta(max_length=_MOST)] = NONE
    """Values for members that do not exist, by path. Values and missing objects as for `set`."""
    set: Annotated[Mapping[Path, Json], Meta(max_length=_MOST)] = NONE
    """Values of members, by path; missing objects after the last `*` are created. Any JSON value; in strings
    `{variable}` is a value of the request, as in the `headers` filter, and `{{ expression }}` the result of a JMESPath
    expression on the body as it was received. A string that is one expression becomes its result, of whatever type.
    Without a value the member does not change."""
    group: Name | None = None
    """Name of the member that holds the result. null = the result is the body."""

    def __post_init__(self) -> None:
        rules = self.wrap, self.allow, self.deny, self.rename, self.move, self.default, self.set, self.group
        if not any(rules):
            raise ValueError("expected at least one of wrap, allow, deny, rename, move, default, set and group")
        if errors := [*self._errors()]:
            raise SettingsErrors(errors)

    def _errors(self) -> Iterator[tuple[Steps, str]]:
        """Yield the errors, each with the steps to the value. A path with an error of its own is not compared."""
        sound: dict[str, tuple[str, ...]] = {}
        for at, path in self._paths():
            try:
                sound[path] = steps_of(path)
            except ValueError as error:
                yield at, str(error)
        named: dict[tuple[str, ...], str] = {}
        for path, name in self.rename.items():
            if path in sound and (other := named.setdefault((*sound[path][:-1], name), path)) != path:
                wrong = f"`rename` gives two members the same name, as for {format_value(other)}"
                yield ("rename", path), f"{wrong}; expected different names"
        for rule in ("rename", "default", "set"):
            for path in getattr(self, rule):
                if path in sound and sound[path][-1] == EACH:
                    yield (rule, path), f'"{path}" ends with `*`; expected the name of a member at the end'
        for source, destination in self.move.items():
            if source not in sound or destination not in sound:
                continue
            if sound[destination].count(EACH) > sound[source].count(EACH):
                yield ("move", source), f'"{destination}" has more `*` than "{source}"; expected at most as many'
            elif sound[destination][-1] == EACH:
                yield ("move", source), f'"{destination}" ends with `*`; expected the name of a member at the end'
        for rule in ("rename", "move"):
            for path in getattr(self, rule):
                if path in sound and (wrong := self._why_missing(path, sound)):
                    yield (rule, path), wrong

    def _paths(self) -> Iterator[tuple[Steps, str]]:
        """Yield all paths, each with the steps to it."""
        for rule in ("allow", "deny"):
            yield from (((rule, index), path) for index, path in enumerate(getattr(self, rule)))
        for rule in ("rename", "move", "default", "set"):
            yield from (((rule, path), path) for path in getattr(self, rule))
        yield from ((("move", source), path) for source, path in self.move.items())

    def foreign_paths(self, *, names_have_brackets: bool) -> Iterator[str]:
        """Warn about paths in the form of JSONPath and JMESPath: here they are names, which no member has; and about
        values that are moved to where they are.
        """
        for path in dict.fromkeys((*self.allow, *self.deny, *self.rename, *self.move, *self.default, *self.set)):
            steps = steps_of(path)
            indexed = next((step for step in steps if _INDEXED.search(step)), None)
            if steps[0] == "$" and len(steps) > 1:
                yield f"{format_value(path)} begins with a member `$`; paths begin with a name: {path[2:]}"
            elif path.startswith("/"):
                yield f"{format_value(path)} is one name with slashes; a path is written {path[1:].replace('/', '.')}"
            elif indexed is not None and not names_have_brackets:
                yield f"{format_value(path)} has a member `{indexed}`; elements of an array are a step, `*`"
        for path, name in self.rename.items():
            if "." in name:
                wrong = f"{format_value(path)} gets a name with a dot, {format_value(name)}"
                yield f"{wrong}: `rename` takes a name, not a path; `move` takes a path"
        for path, destination in self.move.items():
            if path == destination:
                yield f"`move` of {format_value(path)} has no effect: its new path is the same"

    def _why_missing(self, path: str, sound: Mapping[str, tuple[str, ...]]) -> str:
        """Return why the path of a rule is never there; "": it may be. `sound`: the steps of the valid paths."""
        steps = sound[path]
        hiding = next((each for each in self.deny if each in sound and _covers(sound[each], steps)), None)
        if hiding is not None:
            return f'"{path}" never exists, because `deny` removes "{hiding}"; expected a path that is kept'
        allowed = [sound[each] for each in self.allow if each in sound]
        if path in self.rename and allowed and not any(_paths_overlap(each, steps) for each in allowed):
            return f'"{path}" never exists, because `allow` does not cover it; expected it in `allow`'
        return ""


def _covers(outer: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether each value at a path is removed with those at another one."""
    return len(outer) <= len(path) and all(one in (other, EACH) for one, other in zip(outer, path, strict=False))


def _paths_overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether a value may be at both paths, or one below the other."""
    return all(a == b or EACH in (a, b) for a, b in zip(one, other, strict=False))


class XmlValue(Settings):
    """Value in an XML document."""

    path: Path
    """Path from the element around it: names separated by slashes, with prefixes of `namespaces`; `@name` at the end is
    an attribute, and `.` the element itself. A name without a prefix has no namespace."""
    type: Literal["string", "number", "integer", "boolean"] = "string"
    """Type in JSON. A text that is not of the type makes the document invalid; numbers stay as they were written."""
    list: bool = False
    """Whether the value is an array of all that the path matches. Otherwise more than one makes the document
    invalid, and without one the member is missing."""


class XmlObject(XmlValue):
    """Value in an XML document, or an object of such values."""

    fields: Annotated[Mapping[Name, XmlValue], Meta(max_length=_MOST)] = NONE
    """Members of the object. Empty = the value is the text of the element or attribute."""


class XmlField(XmlValue):
    """Value in an XML document, or an object of values and objects."""

    fields: Annotated[Mapping[Name, XmlObject], Meta(max_length=_MOST)] = NONE
    """Members of the object. Empty = the value is the text of the element or attribute."""


class XmlInput(Settings):
    """Mapping of an XML document to a JSON object. A document with a document type declaration (DTD), another encoding
    than UTF-8, more than 5,000 elements or 64 levels is refused. `xsi:nil` is null.
    """

    root: Path
    """Path of the element that becomes the object, from the document element on."""
    fields: Annotated[Mapping[Name, XmlField], Meta(min_length=1, max_length=_MOST)]
    """Members of the object."""
    namespaces: Annotated[Mapping[Name, Name], Meta(max_length=50)] = NONE
    """Namespaces by the prefixes that paths use, whatever those of the document are."""


class BodyChange(Settings):
    """Transformation of the bodies of one direction."""

    input: Literal["json", "form", "multipart", "xml"] = "json"
    """Format of the bodies that are transformed, which their content type tells. `json`: `application/json` and
    `…+json`; also NDJSON and server-sent events, line by line. `form`: `application/x-www-form-urlencoded`, as an
    object of strings; a repeated field is an array. `multipart`: `multipart/form-data`, as `form`; a file is an object
    with `filename`, `content_type` and `content` in Base64. `xml`: `application/xml`, `text/xml` and `…+xml`, by
    `xml`."""
    xml: XmlInput | None = None
    """Mapping of XML to an object, for `input: xml`."""
    json: JsonRules | None = None
    """Mapping of the body."""
    template: Json | None = None
    """The new body, in place of `json`: any JSON value with `{variable}` and `{{ expression }}` in its strings, as for
    `set`. A value that is missing is null."""
    jq: Expression | None = None
    """The new body, in place of `json`: a jq expression with one result; none is null. Runs in a helper process without
    environment, files and network. A body with a number that a double does not hold exactly is refused. Needs
    `fastgw[jq]`."""
    jsonata: Expression | None = None
    """The new body, in place of `json`: a JSONata expression, as for `jq`. Needs `fastgw[jsonata]`."""
    output: Literal["json", "form", "xml"] = "json"
    """Format of the result. `form` is for an object of strings, numbers, booleans and arrays of these, with at most
    1000 fields, as many as `input: form` may have; `xml` needs `xml_template`."""
    xml_template: str | None = None
    """XML document with `{variable}` and `{{ expression }}` in text and in values of attributes, for `output: xml`;
    expressions look at the result of `json` or `template`. An element with the attribute `each`, an expression, is
    repeated for each element of the array; expressions within it look at that element. Values are escaped; a missing
    attribute is left out."""
    content_type: PlainValue | None = None
    """Content type of the result. null = that of `output`; unchanged if it is also the `input`."""
    max_bytes: Annotated[Size, Meta(ge=1, le=_MOST_OFFLOADED)] = MOST_INLINE
    """Maximum size of a body, which is held until it is complete, or of one line or event (at most 128 KiB). A longer
    body of a request is answered 413: at once if its length is declared. With more than 128 KiB each worker has a
    helper process, which transforms bodies above 128 KiB. All bodies that are held for filters share 64 MiB on the
    node, without 4 KiB of each (`fastgw_kept_body_bytes`); where none is left, the request is answered 503
    (`overloaded`)."""
    deadline: Annotated[Duration, Meta(gt=0, le=_LONGEST_DEADLINE_S)] = 1.0
    """Maximum time for a body in a helper process, including its time in the queue of 16 bodies per worker. The start
    of a worker's first process is not included: bodies that come before it is ready wait up to 30 s longer, usually
    less than a second. A process that takes longer than `deadline` is killed and replaced, and bodies in the queue wait
    for the next one. It gets bodies of `jq` and
    `jsonata`, those above 128 KiB, and those that take too long for the event loop: XML above 16 KiB, bodies of
    which more than 400 values are opened one by one, and those for which expressions take more than 1,600 steps."""
    on_timeout: Literal["pass", "refuse"] = "refuse"
    """Result if a helper process has not transformed a body: the deadline has passed, the queue is full, the process
    has ended while it worked on the body, or none starts before the deadline. `refuse`: 504, or 503 if no process was
    free. `pass`: the body does not change. Counted in `fastgw_filter_helper_requests_total`."""
    other_types: Literal["pass", "refuse"] = "pass"
    """Bodies that are not of the format `input`. `pass`: they do not change. `refuse`: a request is answered 415, and a
    response is replaced by a 502."""

    def __post_init__(self) -> None:
        mappings = [name for name in ("json", "template", "jq", "jsonata") if getattr(self, name) is not None]
        if len(mappings) > 1:
            raise ValueError(f"`{mappings[0]}` and `{mappings[1]}` are mutually exclusive")
        if self.on_timeout == "pass" and not (self.input == self.output and self.content_type is None):
            raise ValueError("`on_timeout: pass` is for bodies that keep their content type; expected `refuse`")
        if (self.xml is None) != (self.input != "xml"):
            raise ValueError("`input: xml` and `xml` need each other; expected both or none")
        if (self.xml_template is None) != (self.output != "xml"):
            raise ValueError("`output: xml` and `xml_template` need each other; expected both or none")
        if self.xml is not None:
            compile_xml_input(self.xml)
        if not mappings and self.input == self.output != "xml":
            raise ValueError("expected `json`, `template`, `jq` or `jsonata`")

    @property
    def is_program(self) -> bool:
        """Whether the change is an expression that runs in helper processes only."""
        return self.jq is not None or self.jsonata is not None

    def program_at(self, side: str) -> Steps:
        """Return the steps to the expression that is compiled last; to the change as a whole if there is none."""
        return (side,) if self.jq is None else (side, "jq")

    @property
    def needs_helper(self) -> bool:
        """Whether ordinary bodies need a helper process, which starts with the worker. Otherwise it starts with the
        first body that is too costly for the event loop.
        """
        return self.is_program or self.max_bytes > MOST_INLINE

    def values(self) -> Iterable[tuple[tuple[str, ...], Any]]:
        """Yield the values with variables and expressions, each with its path in the settings."""
        if self.template is not None:
            yield ("template",), orjson.loads(self.template)
        if self.json is not None:
            for rule in ("default", "set"):
                for path, value in getattr(self.json, rule).items():
                    yield ("json", rule, path), orjson.loads(value)


class ResponseChange(BodyChange):
    """Transformation of responses."""

    statuses: Annotated[tuple[Statuses, ...], Meta(min_length=1)] = (range(200, 300),)
    """Status codes of responses that are transformed; others pass unchanged. Faults of the gateway always do."""

    def leaves_redirect(self, route: Route) -> bool:
        """Whether a route answers by a redirect, with a status that is not transformed."""
        status = None if route.redirect is None else route.redirect.status
        return status is not None and not any(status in each for each in self.statuses)


class Transform(Filter, name="transform", phase=Phase.TRANSFORM, order=20):  # type: ignore[literal-required]  # order: ours
    """Transform JSON bodies of requests and responses: select, rename, move and set values, or build a new body from a
    template; also forms and XML (SOAP), from and to JSON. Expressions need `fastgw[transform]`.

    JSON has to be UTF-8 without a byte order mark, with unique names in each object, numbers within the range of a
    double and at most 254 levels. A request with another body is answered 400, a too large one 413, and one with a
    content coding 415 (see `decompress`); a response is replaced by a 502, with the reason in the log. A stream that
    has begun is cut off. Transformed responses are requested without ranges and content codings, and are sent with a
    weak ETag and without digests; if the rules have values that are not in the URL, such as `{header.X-User}`, without
    any ETag and `Last-Modified`. gRPC and tunnels do not change.

    Request bodies are transformed after `validate`. A `cache` on the route stores responses as the upstream sends them,
    and each client gets its own transformation: a store on disk also has what `deny` removes.
    """

    request: BodyChange | None = None
    """Transformation of request bodies. null = they do not change."""
    response: ResponseChange | None = None
    """Transformation of response bodies. null = they do not change."""

    def __post_init__(self) -> None:
        if self.request is None and self.response is None:
            raise ValueError("expected `request` or `response`")

    @property
    def unknown_in_shadow(self) -> str:
        return "" if self.response is None else "bodies of responses"

    def build(self, env: Env) -> Hooks:
        from fastgw.filters.policies.transform.transformation import (
            RequestTransformation,
            ResponseTransformation,
        )

        to_request: RequestTransformation | None = None
        to_response: ResponseTransformation | None = None
        errors: list[tuple[Steps, str]] = []
        if self.request is not None:
            try:
                to_request = RequestTransformation(env, self.request)
            except ValueError as error:
                errors.append((self.request.program_at("request"), str(error)))
        if self.response is not None:
            try:
                to_response = ResponseTransformation(env, self.response)
            except ValueError as error:
                errors.append((self.response.program_at("response"), str(error)))
        if errors:
            raise SettingsErrors(errors)
        steps = [each.request for each in (to_request, to_response) if each is not None]
        first, *second = steps
        offloaded = [each.offloaded for each in (to_request, to_response) if each is not None]

        def start(services: Services) -> None:
            for each in offloaded:
                each.start(services)

        def stop() -> None:
            for each in offloaded:
                each.stop()

        def request(exchange: Exchange) -> Outcome:
            return first(exchange) or (second[0](exchange) if second else None)

        return Hooks(
            request=RequestHook(request if second else first, for_upstream=to_request is None),
            request_body=None if to_request is None else StageFactory(to_request.stage_for),
            response_body=None
            if to_response is None
            else StageFactory(to_response.stage_for, change_whole=to_response.change_whole),
            explain=lambda exchange: "; ".join(
                each.explain(exchange) for each in (to_request, to_response) if each is not None
            ),
            start=start if offloaded else None,
            stop=stop if offloaded else None,
        )

    def unknown_names(self, known: KnownNames) -> Iterable[tuple[tuple[str, ...], str, str]]:
        """Yield the positions of unknown variables and invalid expressions, with the error and the expected form."""
        for side, change in (("request", self.request), ("response", self.response)):
            for steps, value in () if change is None else change.values():
                if is_too_deep(value):
                    yield (side, *steps), "nested too deep", f"expected at most {DEEPEST} levels of objects and lists"
                    continue
                try:
                    compile_value(value, steps[-1])
                except ValueError as error:
                    wrong, _, expected = str(error).removeprefix(f"{steps[-1]}: ").partition("; ")
                    yield (
                        (side, *steps),
                        wrong,
                        expected or "expected a JMESPath expression such as {{ items[0].name }}",
                    )
                    continue
                yield from _unknown_variables((side, *steps), value, known)
            if change is not None and change.jsonata is not None:
                try:
                    check_jsonata(change.jsonata)
                except ValueError as error:
                    wrong, _, expected = str(error).partition("; ")
                    yield (side, "jsonata"), wrong, expected or "expected an expression such as items.name"
            if change is not None and change.xml_template is not None:
                try:
                    compile_xml_template(change.xml_template)
                except ValueError as error:
                    wrong, _, expected = str(error).partition("; ")
                    yield (side, "xml_template"), wrong, expected or "expected a well-formed XML document"
                    continue
                yield from _unknown_variables((side, "xml_template"), change.xml_template, known)

    def warnings(self, context: WarningContext) -> Iterable[str]:
        """Warn about paths of other languages, which match nothing here, and about requests and responses without a
        body.
        """
        routes = context.reached_routes
        if self.request is not None and context.without_bodies:
            yield f"`request` has no effect: {context.without_bodies} requests have no body"
        elif self.request is not None and routes and all(route.files is not None for route in routes):
            yield "`request` has no effect: static files answer GET and HEAD only, whose requests have no body"
        if self.response is not None and routes and all(map(self.response.leaves_redirect, routes)):
            yield "`response` has no effect: redirects have no body"
        for key, change in (("request", self.request), ("response", self.response)):
            if change is not None and change.content_type is not None and not _MEDIA_TYPE.match(change.content_type):
                shown = format_value(change.content_type)
                yield f"`{key}.content_type` is {shown}, which is not a media type such as application/json"
            if change is not None and change.json is not None:
                yield from change.json.foreign_paths(names_have_brackets=change.input in ("form", "multipart"))


def _unknown_variables(
    steps: tuple[str, ...], value: Any, known: KnownNames
) -> Iterable[tuple[tuple[str, ...], str, str]]:
    for name in sorted(variables_in(value)):
        if (problem := known.problem_of(name, in_response=steps[0] == "response")) is not None:
            yield steps, *problem
