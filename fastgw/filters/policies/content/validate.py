"""validate: requests are what their JSON Schema says."""

from __future__ import annotations

from asyncio import Task
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache, partial
from typing import Annotated, Any, Final, Literal, TypeVar, final
from urllib.parse import unquote_to_bytes

from msgspec import Meta, json, msgpack

from fastgw.config.base.problems import Path, format_value
from fastgw.config.base.route_patterns import parse_path
from fastgw.config.base.settings_base import InlineSchema, SettingsErrors
from fastgw.config.base.value_types import SchemaFile
from fastgw.config.settings.gateway import Settings
from fastgw.filters.api import (
    BodyHook,
    BodyStage,
    Bounded,
    Duration,
    Env,
    Exchange,
    Fault,
    Filter,
    Hooks,
    Outcome,
    Phase,
    Reply,
    Services,
    Size,
    StageFactory,
    WarningContext,
)
from fastgw.filters.api.coded_bodies import is_coded, refuse_coded_body
from fastgw.filters.api.warning_context import hint_at
from fastgw.filters.policies.content.body_checks import BodyCheck, BodyObserver, EmptyBodyCheck
from fastgw.filters.policies.content.body_validator import BodyValidator
from fastgw.filters.policies.content.declared_headers import DeclaredHeaders
from fastgw.filters.policies.content.helper_checks import Errors, HelperChecks, refusal, summary
from fastgw.filters.policies.content.helper_program import BodyToCheck
from fastgw.filters.policies.content.number_comparisons import TakesLong
from fastgw.filters.policies.content.parameter_pairs import Unreadable, check_count, pairs_in
from fastgw.filters.policies.content.schemas import (
    Parameters,
    SchemaValidator,
    UnusableSchema,
    all_errors,
    compile_header_schema,
    compile_schema,
    errors_of,
    place_in,
    read_schema,
    syntax_error_in,
    validation_error,
)
from fastgw.helper_processes.program import Program
from fastgw.helper_processes.shared_pool import SharedPool
from fastgw.http.charsets import is_utf8
from fastgw.http.json.strict import MOST_INLINE, takes_long
from fastgw.http.percent_encoding import decode_form_text
from fastgw.observe.metrics.families import FilterEvent

T = TypeVar("T")

_MOST_OFFLOADED: Final = 8 * 1024**2
_LONGEST_DEADLINE_S: Final = 30
_PROGRAM: Final = Program(
    name="body validate",
    module="fastgw.filters.policies.content.helper_program",
    deadline_s=_LONGEST_DEADLINE_S,
    queue=16,
    memory_bytes=1024**3,
)


class Schema(Settings):
    """A JSON Schema: exactly one of `schema` and `inline`. Draft 2020-12, or the one that its `$schema` names."""

    schema: SchemaFile | None = None
    """JSON file with the schema. References to other documents are not followed."""
    inline: InlineSchema | None = None
    """The schema itself."""

    def __post_init__(self) -> None:
        if (self.schema is None) == (self.inline is None):
            raise ValueError("expected exactly one of `schema` and `inline`")


class BodySchema(Schema):
    """Schema of bodies, and which bodies are accepted at all."""

    required: bool = True
    """Whether a request without a body is refused."""
    max_bytes: Annotated[Size, Meta(ge=1, le=_MOST_OFFLOADED)] = MOST_INLINE
    """Maximum size of a body, which is held until it is complete. A longer one is answered 413: at once if its length
    is declared. A helper process of each worker checks bodies above 128 KiB, those with more than 16,000 arrays and
    objects, and those with more than 100 numbers such as `1e-30`, or with more than 8,000 comparisons of a number with
    those that `enum` and `const` list: with an `enum` of 10 numbers, 800 short numbers. With more than 128 KiB it
    starts with the worker, otherwise with the first such body. All bodies that are held for filters share 64 MiB on
    the node, without 4 KiB of each (`fastgw_kept_body_bytes`); where none is left, the request is answered 503
    (`overloaded`), or passes unchecked with `mode: report`."""
    deadline: Annotated[Duration, Meta(gt=0, le=_LONGEST_DEADLINE_S)] = 1.0
    """Maximum time for a body in a helper process, including its time in the queue of 16 bodies per worker. Afterwards
    the request is answered 504, or 503 if no process was free. The start of a worker's first process is not included:
    bodies that come before it is ready wait up to 30 s longer, usually less than a second. Meanwhile their memory
    counts (`max_bytes`), and the body of a client that leaves is released."""


class Validate(Filter, name="validate", phase=Phase.VALIDATE):
    """Check requests against JSON Schemas: the body, and the parameters in query, path, headers and cookies.
    Needs `fastgw[validate]`.

    A request that does not conform is answered 400 (`validation_failed`) with `errors`: the JSON Pointer, the keyword
    of the schema, and what it expects; nothing of the request's values. A body has to be JSON in UTF-8 with unique
    names in its objects, and have the content type `application/json` or one that ends with `+json`; another one, or
    one with a content coding, is answered 415. Patterns run in linear time: look-around and back-references are
    refused. Formats are checked.

    Parameters form an object with a member for each name, whose text becomes a number or boolean if the schema's
    `properties` say so; a repeated one is an array. There are at most 1000 in a location, with as many comparisons of
    numbers as a body for the event loop. All parameters of query and path are members; of headers (in any case) and
    cookies only those that `properties` name. A header whose name differs from one of these in punctuation only, such
    as `X_Tenant`, does not conform: many servers read it as that one.
    """

    body: BodySchema | None = None
    """Schema of the body. null = bodies are not checked."""
    query: Schema | None = None
    """Schema of the query parameters."""
    path: Schema | None = None
    """Schema of the path parameters."""
    headers: Schema | None = None
    """Schema of the headers."""
    cookies: Schema | None = None
    """Schema of the cookies."""
    response: Schema | None = None
    """Schema of the JSON bodies of successful responses. They always pass; the log has their errors in `shadow`. One
    that is longer than 128 KiB, that a helper process would check as a request (`max_bytes`), or that has a content
    coding is not checked."""
    mode: Literal["enforce", "report"] = "enforce"
    """`report`: the request passes; the log has the errors in `shadow`, and they are counted as decisions in shadow
    mode. A body that is longer than `max_bytes`, or that a helper process would check, passes unchecked."""

    def __post_init__(self) -> None:
        if not any((self.body, self.query, self.path, self.headers, self.cookies, self.response)):
            raise ValueError("expected at least one of `body`, `query`, `path`, `headers`, `cookies` and `response`")
        if self.mode == "report" and self.body is not None and self.body.max_bytes > MOST_INLINE:
            raise ValueError("`mode: report` checks no body above 128 KiB; expected a smaller `max_bytes`")

    def warnings(self, context: WarningContext) -> Iterable[str]:
        """Warn about schemas for what no request has."""
        if self.body is not None and context.without_bodies:
            result = "every request is refused, unless `body.required` is false" if self.body.required else "no effect"
            yield f"`body`: {context.without_bodies} requests have no body: {result}"
        for name in ("query", "path", "headers", "cookies"):
            types = _keyword_in(getattr(self, name), "type")
            if types is not None and types != "object" and "object" not in types:
                said = types if isinstance(types, str) else f"[{', '.join(types)}]"
                yield f"`{name}`: parameters are an object, so no request conforms to `type: {said}`"
        if self.path is not None and (routes := context.reached_routes):
            known = {parameter for route in routes for path in route.paths for parameter in parse_path(path).names}
            yield from _unknown_parameters(self.path, known)

    def _schema_errors(self, env: Env) -> Iterator[tuple[Path, str]]:
        """Yield the errors of all schemas, each with the steps to the value."""
        for name in ("body", "response", "query", "path", "headers", "cookies"):
            schema: Schema | None = getattr(self, name)
            if schema is None:
                continue
            try:
                _compiled(env, schema, compile_header_schema if name == "headers" else compile_schema)
            except UnusableSchema as error:
                for each in all_errors(read_schema((schema.inline or "").encode()), error):
                    said = f"{each.shown}: {each.wrong}" if each.shown else each.wrong
                    yield (name, "inline", *each.path), said
            except ValueError as error:
                yield (name, "inline" if schema.schema is None else "schema"), str(error)

    def build(self, env: Env) -> Hooks:
        try:
            import jsonschema_rs  # noqa: F401
        except ModuleNotFoundError as error:
            raise ValueError("the package jsonschema_rs is missing; pip install 'fastgw[validate]'") from error
        try:
            use = _Validation(env, self)
        except ValueError as error:
            if errors := [*self._schema_errors(env)]:
                raise SettingsErrors(errors) from error
            raise
        body: BodyHook | None = None
        if self.body is not None:
            is_report = self.mode == "report"
            factory = StageFactory(use.request_stage, reads_only=is_report, check_whole=use.check_whole)
            body = BodyHook(factory, needs=None if is_report else Bounded(self.body.max_bytes))
        starts = use.helper is not None or self.mode == "report" or self.response is not None
        return Hooks(
            request=use.request,
            request_body=body,
            response_body=None if self.response is None else StageFactory(use.response_stage, reads_only=True),
            start=use.start if starts else None,
            stop=None if use.helper is None else use.helper.pool.stop,
        )


def _unknown_parameters(schema: Schema, known: Collection[str]) -> Iterator[str]:
    """Warn about parameters in a schema for the path that no path has."""
    required = [name for name in _keyword_in(schema, "required") or () if name not in known]
    for name in required:
        yield f"`path` requires {format_value(name)}, which no path here has: no request conforms{hint_at(name, known)}"
    for name in _keyword_in(schema, "properties") or ():
        if name not in known and name not in required:
            wrong = f"`path` has the property {format_value(name)}, which no path here has"
            yield f"{wrong}: it is never checked{hint_at(name, known)}"


def _keyword_in(schema: Schema | None, name: str) -> Any:
    """Return a keyword at the top of a schema that is in the configuration itself; None: it is not there."""
    made = None if schema is None or schema.inline is None else json.decode(schema.inline)
    return made.get(name) if isinstance(made, dict) else None


@final
class _Validation:
    """Validation of the requests of a route."""

    __slots__ = ("_body", "_headers", "_most", "_parameters", "_reports", "_requires_body",
                 "_response", "_schema", "helper", "reports")  # fmt: skip

    def __init__(self, env: Env, settings: Validate) -> None:
        self.reports = Reports(env)
        self._reports = settings.mode == "report"
        body = settings.body
        self._body = None if body is None else _compiled(env, body, BodyValidator)[0]
        self._schema = b"" if body is None else _text_of(env, body)
        self.helper: HelperChecks | None = None
        """Checks of bodies that take too long for the event loop."""
        if body is not None and not self._reports:
            pool = env.shared(_PROGRAM, lambda: SharedPool(_PROGRAM))
            at_once = body.max_bytes > MOST_INLINE
            self.helper = HelperChecks(pool, "validate", env.instance, body.deadline, at_once=at_once)
        response = settings.response
        self._response = None if response is None else _compiled(env, response, BodyValidator)[0]
        self._most = MOST_INLINE if settings.body is None else settings.body.max_bytes
        self._requires_body = settings.body is not None and settings.body.required
        self._headers: DeclaredHeaders | None = None
        self._parameters: list[tuple[str, SchemaValidator, Parameters, Reader]] = []
        for location, schema in (
            ("query", settings.query),
            ("path", settings.path),
            ("header", settings.headers),
            ("cookie", settings.cookies),
        ):
            if schema is not None:
                compile_named = compile_header_schema if location == "header" else compile_schema
                validator, content = _compiled(env, schema, compile_named)
                parameters = Parameters(content)
                self._parameters.append((location, validator, parameters, _READERS[location]))
                if location == "header":
                    self._headers = DeclaredHeaders(parameters.names)

    def request(self, exchange: Exchange) -> Outcome:
        """Check the parameters, and whether there is a body of the right type."""
        errors: Errors = [] if self._headers is None else self._headers.errors(exchange.head)
        for location, validator, parameters, read in self._parameters:
            errors += _parameter_errors(exchange, location, validator, parameters, read)
        if self._body is not None and not errors:
            if not exchange.has_body:
                if self._requires_body:
                    errors.append(validation_error("body", "required", "expected a body"))
            elif exchange.body_length is not None:  # else it may turn out to be empty: see `request_stage`
                return self._check_type(exchange)
        return self._answer(exchange, refusal(exchange, errors)) if errors else None

    def request_stage(self, exchange: Exchange) -> BodyStage | None:
        """Return the stage that checks the body."""
        check = partial(self._check, exchange)
        if not _has_json(exchange) or is_coded(exchange):
            if exchange.body_length is not None:
                return None  # reported already
            return EmptyBodyCheck(partial(self._check_type, exchange), partial(check, b""))
        if self._reports:
            return BodyObserver(check, self._most, exchange.client.held_body_budget.share_of(exchange.client_ip))
        return BodyCheck(check, None if self.helper is None else partial(self._submit, exchange, self.helper))

    def check_whole(self, exchange: Exchange, payload: bytes) -> Reply | BodyStage | None:
        """Check a body that is complete."""
        is_known = exchange.body_length is not None and not self._reports  # the request step has looked at its type
        if takes_long(payload) or not (is_known or (_has_json(exchange) and not is_coded(exchange))):
            return self.request_stage(exchange)
        if len(payload) > self._most:
            return None  # in the mode `report`
        try:
            return self._check(exchange, payload)
        except TakesLong:
            return self.request_stage(exchange)

    def start(self, services: Services) -> None:
        self.reports.start(services)
        if self.helper is not None:
            self.helper.start(services)

    def _submit(self, exchange: Exchange, helper: HelperChecks, payload: bytes) -> Task[Reply | None]:
        """Check a body in a helper process, and return the future of the response to one that does not conform."""
        return helper.submit(exchange, msgpack.encode(BodyToCheck(self._schema, payload)))

    def _check(self, exchange: Exchange, payload: bytes) -> Reply | None:
        """Return the response to a body that does not conform. Raises `TakesLong`, unless it is only reported."""
        assert self._body is not None
        if not payload:
            errors = [validation_error("body", "required", "expected a body")] if self._requires_body else []
        elif self._reports:
            errors = _errors_to_report(self._body, payload)
        else:
            errors = self._body.errors(payload)
        return self._answer(exchange, refusal(exchange, errors)) if errors else None

    def _check_type(self, exchange: Exchange) -> Reply | None:
        """Return the response to a body of another type, or with a content coding."""
        unsupported = _refuse_type(exchange)
        return None if unsupported is None else self._answer(exchange, unsupported)

    def response_stage(self, exchange: Exchange) -> BodyStage | None:
        """Return the stage that checks the response; None: it is not one of the service, or not JSON."""
        response = exchange.response
        if response is None or response.head is None or not 200 <= response.status < 300:
            return None
        lines = response.values(b"content-type")
        if not response.head.has_body or response.values(b"content-encoding") or len(lines) != 1:
            return None
        if not _is_json(lines[0]):
            return None
        return BodyObserver(partial(self._check_response, exchange), MOST_INLINE, exchange.client.held_body_budget)

    def _check_response(self, exchange: Exchange, payload: bytes) -> None:
        assert self._response is not None
        errors = _errors_to_report(self._response, payload) if payload else []
        if errors:
            self.reports.report_response(exchange, f"response does not conform ({summary(errors)})")

    def _answer(self, exchange: Exchange, reply: Reply) -> Reply | None:
        """Return the reply; in the mode `report` None, once it is noted."""
        if not self._reports:
            return reply
        self.reports.report_request(exchange, reply)
        return None


@final
class Reports:
    """Reports of messages that pass although they do not conform: in the log, in the counts of shadow mode, and by
    route."""

    __slots__ = ("_count", "_instance", "_route")

    def __init__(self, env: Env) -> None:
        self._instance, self._route = env.instance, env.route or ""
        self._count: Callable[[str, str], None] = _not_counted

    def start(self, services: Services) -> None:
        """Count from now on."""
        self._count = services.count_validation

    def report_request(self, exchange: Exchange, refused: Reply) -> None:
        """Report a request that would be answered with `refused`."""
        label = "" if refused.fault is None else f" {refused.fault.label}"
        self._report(exchange, "request", f"refuse {refused.status}{label} ({exchange.why})")
        exchange.why = ""

    def report_response(self, exchange: Exchange, text: str) -> None:
        """Report a response."""
        self._report(exchange, "response", text)

    def _report(self, exchange: Exchange, message: str, text: str) -> None:
        behind = f"; {exchange.shadowed}" if exchange.shadowed else ""
        exchange.shadowed = f"{self._instance}: {text}{behind}"
        exchange.client.counts.count_shadow_decision(exchange, self._instance, FilterEvent.ANSWER)
        self._count(self._route, message)


def _not_counted(route: str, message: str) -> None:
    """Stand in for the counts of a worker, for `explain` and tests."""


def _errors_to_report(validator: BodyValidator, payload: bytes) -> Errors:
    """Return the errors of a body that passes in any case: none if its check takes too long for the event loop."""
    try:
        return [] if takes_long(payload) else validator.errors(payload)
    except TakesLong:
        return []


def _refuse_type(exchange: Exchange) -> Reply | None:
    """Return the response to a body that is not JSON, or has a content coding."""
    if not _has_json(exchange):
        return exchange.refuse(Fault.UNSUPPORTED_MEDIA_TYPE, why="expected JSON")
    return refuse_coded_body(exchange)


def _text_of(env: Env, schema: Schema) -> bytes:
    return (schema.inline or "").encode() if schema.schema is None else env.read(schema.schema)


def _compiled(env: Env, schema: Schema, make: Callable[[Any], T]) -> tuple[T, Any]:
    """Return a validator, which equal schemas share, and the schema. Raises `ValueError`, with nothing of a file."""
    if schema.schema is None:
        content = (schema.inline or "").encode()
        read = read_schema(content)
        return env.shared(("validate", make, content), lambda: make(read)), read
    content = env.read(schema.schema)
    try:
        read = read_schema(content)
    except ValueError as error:
        where = syntax_error_in(content)
        raise ValueError(f"{schema.schema}:{where}" if where else f"{schema.schema}: {error}") from error
    try:
        return env.shared(("validate", make, content), lambda: make(read)), read
    except UnusableSchema as error:
        raise ValueError(f"{schema.schema}:{place_in(content, error)}: {error.wrong}") from error


def _parameter_errors(
    exchange: Exchange, location: str, validator: SchemaValidator, parameters: Parameters, read: Reader
) -> Errors:
    pairs: dict[str, list[str]] = {}
    try:
        for name, text in read(exchange, parameters.names):
            pairs.setdefault(name.decode(), []).append(text.decode())
        value = parameters.value(pairs)
    except UnicodeDecodeError:
        return [validation_error(location, "encoding", "expected UTF-8")]
    except Unreadable as error:
        return [validation_error(location, error.keyword, error.detail)]
    return [] if validator.is_valid(value) else errors_of(validator, value, location, len(repr(value)))


def _has_json(exchange: Exchange) -> bool:
    """Whether the body of a request is JSON in UTF-8 to every reader."""
    types = exchange.values(b"content-type")
    return len(types) == 1 and _is_json_in_utf8(types[0])


@lru_cache(256)
def _is_json_in_utf8(content_type: bytes) -> bool:
    """Cached, because clients send few content types."""
    return _is_json(content_type) and is_utf8(content_type)


def _is_json(content_type: bytes | None) -> bool:
    """Whether a content type is JSON (RFC 6839 section 3.1)."""
    kind = (content_type or b"").partition(b";")[0].strip().lower()
    return kind == b"application/json" or kind.endswith(b"+json")


# the parameters of each location

Reader = Callable[[Exchange, tuple[str, ...]], Iterable[tuple[bytes, bytes]]]


def _of_query(exchange: Exchange, names: tuple[str, ...]) -> Iterable[tuple[bytes, bytes]]:
    for pair in pairs_in(exchange.query or b"", b"&", "parameters"):
        name, _, value = pair.partition(b"=")
        yield decode_form_text(name), decode_form_text(value)


def _of_path(exchange: Exchange, names: tuple[str, ...]) -> Iterable[tuple[bytes, bytes]]:
    return ((name.encode(), unquote_to_bytes(value)) for name, value in exchange.params.items())


def _of_headers(exchange: Exchange, names: tuple[str, ...]) -> Iterable[tuple[bytes, bytes]]:
    lines = [(name.encode(), value) for name in names for value in exchange.values(name.lower().encode())]
    check_count(len(lines), "header lines")
    return lines


def _of_cookies(exchange: Exchange, names: tuple[str, ...]) -> Iterable[tuple[bytes, bytes]]:
    wanted = {name.encode() for name in names}
    for pair in pairs_in(b";".join(exchange.values(b"cookie")), b";", "cookies"):
        name, _, value = pair.partition(b"=")
        if name.strip() in wanted:
            yield name.strip(), value.strip()


_READERS: Final[dict[str, Reader]] = {
    "query": _of_query,
    "path": _of_path,
    "header": _of_headers,
    "cookie": _of_cookies,
}
