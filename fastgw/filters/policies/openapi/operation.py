"""openapi: requests and responses are what an operation of an OpenAPI document says."""

from __future__ import annotations

from asyncio import Task
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Literal, final
from urllib.parse import unquote_to_bytes

import orjson
from msgspec import msgpack

from fastgw.config.base.settings_base import Json
from fastgw.config.settings.openapi import LONGEST_BODY
from fastgw.config.sources.virtual_files import check_derived
from fastgw.filters.api import (
    BodyHook,
    BodyStage,
    Bounded,
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
)
from fastgw.filters.api.coded_bodies import is_coded, refuse_coded_body
from fastgw.filters.policies.content.body_checks import BodyCheck, BodyObserver, EmptyBodyCheck
from fastgw.filters.policies.content.declared_headers import DeclaredHeaders
from fastgw.filters.policies.content.helper_checks import Errors, HelperChecks, refusal, summary
from fastgw.filters.policies.content.parameter_pairs import Unreadable, check_numbers
from fastgw.filters.policies.content.schemas import converted, validation_error
from fastgw.filters.policies.content.validate import Reports
from fastgw.filters.policies.openapi.bodies import (
    Content,
    OperationSchemas,
    TypedBody,
    errors_in,
)
from fastgw.filters.policies.openapi.helper_program import DEADLINE_S, OperationBody, program_for
from fastgw.filters.policies.openapi.mock import Mock
from fastgw.filters.policies.openapi.parameters import (
    MISSING,
    Pairs,
    Style,
    cookie_pairs,
    json_parameter,
    query_pairs,
)
from fastgw.helper_processes.shared_pool import SharedPool
from fastgw.http.charsets import is_utf8
from fastgw.http.percent_encoding import decode_form_text
from fastgw.json_pointer import pointer_of


class OpenApiOperation(Filter, name="openapi", phase=Phase.VALIDATE):
    """Validate the requests and responses of an operation of an OpenAPI document. Routes of `openapi` have it; write it
    nowhere yourself.

    A request that does not conform is answered 400 (`validation_failed`) with `errors`, as by `validate`; a body of
    another content type, with a content coding or for an operation without `requestBody`, 415; a longer one, 413.
    """

    operation: Json
    """The operation, as it is compiled from the document."""
    schemas: str
    """File with the schemas that the operations share."""
    mode: Literal["enforce", "report", "off"] = "enforce"
    """Validation of requests."""
    max_body: Size = LONGEST_BODY
    """Maximum size of a body that is validated."""

    def __post_init__(self) -> None:
        check_derived(self.schemas)

    def build(self, env: Env) -> Hooks:
        plan = orjson.loads(self.operation)
        document = _document(env, self.schemas)
        mock = Mock(plan["mock"]) if "mock" in plan else None
        hooks: dict[str, Any] = {}
        reports = Reports(env)
        if self.mode == "report" or "responses" in plan:
            hooks["start"] = reports.start
        if mock is not None:
            hooks["reply"] = mock.reply
        if self.mode != "off":
            requests = _Requests(reports, plan, document, self.max_body, only_reports=self.mode == "report")
            if requests.is_needed:
                hooks["request"] = requests.request
            if requests.checks_bodies and self.mode == "enforce":
                hooks["request_body"] = BodyHook(StageFactory(requests.stage), needs=Bounded(self.max_body))
                helper = requests.helper = _helper(env, self.schemas)
                hooks |= {"start": partial(_start, reports, helper), "stop": helper.pool.stop}
            elif requests.checks_bodies:
                hooks["request_body"] = StageFactory(requests.stage, reads_only=True)
            if not requests.has_body:
                if self.mode == "report":
                    hooks["request_body"] = StageFactory(requests.stage_without_body, reads_only=True)
                else:  # the upstream sees no head before an empty body ends
                    factory = StageFactory(requests.stage_without_body)
                    hooks["request_body"] = BodyHook(factory, needs=Bounded(self.max_body))
        if "responses" in plan:
            responses = _Responses(reports, plan["responses"], document.schemas, self.max_body)
            hooks["response_body"] = StageFactory(responses.stage, reads_only=True)
        identifier = plan["id"]
        return Hooks(**hooks, explain=lambda exchange: f"operation {identifier}")


def _document(env: Env, file: str) -> _Document:
    """Return the objects that the operations of a document share. `file`: with the definitions of its schemas."""
    definitions = env.read(file)
    return env.shared(("openapi", file, env.reads[file]), lambda: _Document(definitions))


def _helper(env: Env, file: str) -> HelperChecks:
    """Return the checks in helper processes, which start with the first body that takes too long."""
    definitions = env.read(file)
    key = "openapi helper", file, env.reads[file]
    pool = env.shared(key, lambda: SharedPool(program_for(definitions)))
    return HelperChecks(pool, "openapi", env.instance, DEADLINE_S, at_once=False)


def _start(reports: Reports, helper: HelperChecks, services: Services) -> None:
    reports.start(services)
    helper.start(services)


@final
class _Document:
    """Objects that the operations of a document share."""

    def __init__(self, definitions: bytes) -> None:
        self.schemas = OperationSchemas(definitions)
        self._parameters: dict[bytes, _Parameter] = {}

    def parameter(self, plan: Mapping[str, Any]) -> _Parameter:
        """Return a parameter, which is one for all operations that have an equal one."""
        key = orjson.dumps(plan)
        known = self._parameters.get(key)
        if known is None:
            known = self._parameters[key] = _Parameter(plan, self.schemas)
        return known


@final
class _Parameter:
    """A parameter of operations."""

    __slots__ = ("_json", "_key", "_listed", "_validator", "allows_empty", "location", "name", "required", "style")

    def __init__(self, plan: Mapping[str, Any], schemas: OperationSchemas) -> None:
        self.name: str = plan["name"]
        self.location: str = plan["in"]
        self.required: bool = plan.get("required", False)
        self.allows_empty: bool = plan.get("empty", False)
        self._json: bool = plan.get("json", False)
        self._key: str = plan.get("key", "")
        self.style = Style(self.name, plan)
        self._validator = schemas.validator(plan.get("schema", True))
        self._listed = schemas.listed(plan.get("schema", True))

    def errors(self, exchange: Exchange, pairs: Pairs) -> Errors:
        """Return the errors of the parameter. `pairs`: names and values of its location."""
        try:
            value = self._value(exchange, pairs)
            if self.style.shape != "scalar":
                check_numbers(value, self._listed)
        except Unreadable as error:
            return [self._error(error.keyword, error.detail)]
        if value is MISSING:
            return [self._error("required", "expected the parameter")] if self.required else []
        if self._validator is None or self._validator.is_valid(value) or (self.allows_empty and self._is_empty(value)):
            return []
        begin = pointer_of((self.name,))
        found = errors_in(self._validator, value, self.location, len(repr(value)))
        return [each | {"pointer": begin + each["pointer"]} for each in found]

    def _is_empty(self, value: Any) -> bool:
        """Whether a value is sent with its name alone."""
        is_list = self.location == "query" and not self._json and self.style.shape == "array"
        return value == "" or (is_list and value in ([], [""]))

    def _value(self, exchange: Exchange, pairs: Pairs) -> Any:
        if self.location == "path":
            raw = exchange.params.get(self._key)
            return MISSING if raw is None else self._read(raw)
        if self.location == "header":
            lines = exchange.values(self.style.name.lower())
            return self._read(b",".join(lines)) if lines else MISSING
        if self.location == "querystring" and self._json:
            return json_parameter(decode_form_text(exchange.query), self._listed) if exchange.query else MISSING
        if self._json:
            values = pairs.get(self.style.name, [])
            if len(values) > 1:
                raise Unreadable("repeated", "expected the parameter once")
            decode = unquote_to_bytes if self.location == "cookie" else decode_form_text
            return json_parameter(decode(values[0]), self._listed) if values else MISSING
        return self.style.from_pairs(pairs)

    def _read(self, raw: bytes) -> Any:
        if self._json:
            return json_parameter(decode_form_text(raw) if self.location == "path" else raw, self._listed)
        if self.location == "header" and self.style.shape == "scalar":
            try:
                return converted(raw.decode(), self.style.types)
            except UnicodeDecodeError:
                raise Unreadable("encoding", "expected UTF-8") from None
        return self.style.from_text(raw)

    def _error(self, keyword: str, detail: str) -> dict[str, str]:
        return {"in": self.location, "pointer": pointer_of((self.name,)), "keyword": keyword, "detail": detail}


_PAIRS: Final[dict[str, Callable[[Exchange], Pairs]]] = {
    "query": lambda exchange: query_pairs(exchange.query),
    "cookie": cookie_pairs,
    "querystring": lambda exchange: query_pairs(exchange.query),
}


@final
class _Requests:
    """Validation of the requests of an operation."""

    def __init__(
        self, reports: Reports, plan: Mapping[str, Any], document: _Document, max_body: int, *, only_reports: bool
    ) -> None:
        self._reports, self._only_reports, self._max_body = reports, only_reports, max_body
        held = [document.parameter(each) for each in plan["parameters"]]
        self._parameters = {
            where: [each for each in held if each.location == where]
            for where in dict.fromkeys(p.location for p in held)
        }
        headers = self._parameters.get("header")
        self._headers = DeclaredHeaders(each.name for each in headers) if headers else None
        self._known: frozenset[bytes] | None = None
        if "known" in plan and "querystring" not in self._parameters:
            self._known = frozenset(name.encode() for name in plan["known"])
        self._locations = [*self._parameters]
        """Locations of which anything is checked."""
        if self._known is not None and "query" not in self._parameters:
            self._locations.append("query")
        body = plan["body"]
        self.has_body = body is not None
        """Whether the operation has request bodies."""
        self._requires_body = body is not None and body["required"]
        content = {} if body is None else body["content"]
        self._content = Content(content, document.schemas)
        self.helper: HelperChecks | None = None
        """Checks of bodies that take too long for the event loop."""
        self.checks_bodies = self._content.checks

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to check before the body."""
        return bool(self._locations) or self.has_body

    def request(self, exchange: Exchange) -> Outcome:
        """Check the parameters, and whether there is a body of the right type."""
        errors: Errors = [] if self._headers is None else self._headers.errors(exchange.head)
        for where in self._locations:
            read = _PAIRS.get(where)
            try:
                pairs = read(exchange) if read is not None else {}
            except Unreadable as error:
                errors.append(validation_error(where, error.keyword, error.detail))
                continue
            for each in self._parameters.get(where, ()):
                errors += each.errors(exchange, pairs)
            if where == "query" and self._has_unknown(pairs):
                errors.append(
                    validation_error("query", "unknown", "expected no other parameters than those of the operation")
                )
        if self.has_body and not errors:
            if not exchange.has_body:
                if self._requires_body:
                    errors.append(validation_error("body", "required", "expected a body"))
            else:
                unsupported = self._refuse_type(exchange)
                if unsupported is not None:
                    return self._answer(exchange, unsupported)
        return self._answer(exchange, refusal(exchange, errors)) if errors else None

    def _refuse_type(self, exchange: Exchange) -> Reply | None:
        """Return the response to a body of a type that the operation does not have, or with a content coding."""
        body = self._body_of(exchange)
        if body is None:
            return exchange.refuse(Fault.UNSUPPORTED_MEDIA_TYPE, why=f"expected {self._content}")
        return refuse_coded_body(exchange) if body.checks else None

    def stage(self, exchange: Exchange) -> BodyStage | None:
        """Return the stage that checks the body; None: bodies of its type are not checked."""
        body = self._body_of(exchange)
        if body is None or not body.checks or is_coded(exchange):
            return None  # with a coding it is reported already
        check = partial(self._check, exchange, body)
        if self._only_reports:
            return BodyObserver(check, self._max_body, exchange.client.held_body_budget.share_of(exchange.client_ip))
        submit = None if self.helper is None else partial(self._submit, exchange, body, self.helper)
        return BodyCheck(check, submit, body.takes_long)

    def stage_without_body(self, exchange: Exchange) -> BodyStage:
        """Return the stage for a request of an operation without bodies."""
        return EmptyBodyCheck(partial(self._refuse_body, exchange))

    def _refuse_body(self, exchange: Exchange) -> Reply | None:
        reply = exchange.refuse(
            Fault.UNSUPPORTED_MEDIA_TYPE, "A request body is not supported here.", why="expected no body"
        )
        return self._answer(exchange, reply)

    def _submit(self, exchange: Exchange, body: TypedBody, helper: HelperChecks, payload: bytes) -> Task[Reply | None]:
        """Check a body in a helper process, and return the future of the response to one that does not conform."""
        content_type = exchange.field(b"content-type") or b""
        return helper.submit(exchange, msgpack.encode(OperationBody(orjson.dumps(body.plan), content_type, payload)))

    def _check(self, exchange: Exchange, body: TypedBody, payload: bytes) -> Reply | None:
        """Return the response to a body that does not conform; in the mode `report` None, once it is noted."""
        if self._only_reports and body.takes_long(payload):
            errors = []
        elif payload:
            errors = body.errors(payload, exchange.field(b"content-type") or b"")
        else:
            errors = [validation_error("body", "required", "expected a body")] if self._requires_body else []
        return self._answer(exchange, refusal(exchange, errors)) if errors else None

    def _body_of(self, exchange: Exchange) -> TypedBody | None:
        lines = exchange.values(b"content-type")
        found = self._content.body_of(lines[0] if len(lines) == 1 else b"")
        return found if found is None or not found.checks or is_utf8(lines[0]) else None

    def _has_unknown(self, pairs: Pairs) -> bool:
        """Whether a query has parameters that it must not have."""
        known, parameters = self._known, self._parameters.get("query", ())
        if known is None or any(each.style.takes_others for each in parameters):
            return False
        return any(name not in known and not any(each.style.takes(name) for each in parameters) for name in pairs)

    def _answer(self, exchange: Exchange, reply: Reply) -> Reply | None:
        """Return the reply; in the mode `report` None, once it is noted."""
        if not self._only_reports:
            return reply
        self._reports.report_request(exchange, reply)
        return None


@final
class _Responses:
    """Validation of the responses of an operation, which are only reported."""

    def __init__(self, reports: Reports, plan: Mapping[str, Any], schemas: OperationSchemas, max_body: int) -> None:
        self._report, self._max_body = reports.report_response, max_body
        self._statuses = {status: Content(content, schemas) for status, content in plan.items()}

    def stage(self, exchange: Exchange) -> BodyStage | None:
        response = exchange.response
        if response is None or response.head is None:
            return None  # the gateway's own
        status = response.status
        content = self._statuses.get(str(status))
        if content is None:
            content = self._statuses.get(f"{status // 100}XX")
        if content is None:
            content = self._statuses.get("default")
        if content is None:
            self._report(exchange, f"response {status} is not in the document")
            return None
        if (
            not content
            or exchange.method == b"HEAD"
            or not response.head.has_body
            or response.values(b"content-encoding")
        ):
            return None
        lines = response.values(b"content-type")
        body = content.body_of(lines[0] if len(lines) == 1 else b"")
        if body is None:
            self._report(exchange, f"response {status} has a content type that is not in the document")
            return None
        if not body.checks:
            return None

        def report(payload: bytes, body: TypedBody = body) -> None:
            errors = body.errors(payload, b"") if payload and not body.takes_long(payload) else []
            if errors:
                self._report(exchange, f"response {status} does not conform ({summary(errors)})")

        return BodyObserver(report, self._max_body, exchange.client.held_body_budget)
