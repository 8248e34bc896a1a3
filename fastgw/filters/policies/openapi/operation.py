"""openapi: requests and responses are what an operation of an OpenAPI document says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, final

import orjson

from fastgw.config.base.settings_base import Json
from fastgw.config.settings.openapi import LONGEST_BODY
from fastgw.config.sources.virtual_files import check_derived
from fastgw.filters.api import (
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
    Size,
    StageFactory,
)
from fastgw.filters.api.credential_locations import decoded
from fastgw.filters.policies.content.body_checks import BodyCheck, BodyObserver
from fastgw.filters.policies.content.charsets import is_utf8
from fastgw.filters.policies.content.schemas import converted, errors_of, validation_error
from fastgw.filters.policies.content.validate import Reports, refusal, summary
from fastgw.filters.policies.openapi.forms import MultipartForm, UrlencodedForm
from fastgw.filters.policies.openapi.mock import Mock
from fastgw.filters.policies.openapi.parameters import (
    MISSING,
    Style,
    Unreadable,
    cookie_pairs,
    json_value,
    query_pairs,
)
from fastgw.filters.policies.openapi.xml import XmlDocument, xml_element
from fastgw.http.strict_json import InvalidJson, parse_json

if TYPE_CHECKING:
    from jsonschema_rs import Validator

Error = dict[str, str]


class OpenApiOperation(Filter, name="openapi", phase=Phase.VALIDATE):
    """Validate the requests and responses of an operation of an OpenAPI document. Routes of `openapi` have it; write it
    nowhere yourself.

    A request that does not conform is answered 400 (`validation_failed`) with `errors`, as by `validate`; a body of
    another content type, 415; a longer one, 413.
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
        schemas = _Schemas(env, self.schemas)
        mock = Mock(plan["mock"]) if "mock" in plan else None
        hooks: dict[str, Any] = {}
        reports = Reports(env)
        if self.mode == "report" or "responses" in plan:
            hooks["start"] = reports.start
        if mock is not None:
            hooks["reply"] = mock.reply
        if self.mode != "off":
            requests = _Requests(reports, plan, schemas, self.max_body, only_reports=self.mode == "report")
            if requests.is_needed:
                hooks["request"] = requests.request
            if requests.checks_bodies and self.mode == "enforce":
                hooks |= {"request_body": StageFactory(requests.stage), "needs_body": Bounded(self.max_body)}
            elif requests.checks_bodies:
                hooks["request_body"] = StageFactory(requests.stage, reads_only=True)
        if "responses" in plan:
            responses = _Responses(reports, plan["responses"], schemas, self.max_body)
            hooks["response_body"] = StageFactory(responses.stage, reads_only=True)
        identifier = plan["id"]
        return Hooks(**hooks, explain=lambda exchange: f"operation {identifier}")


class _Schemas:
    """The schemas of a document: the definitions that its operations share, compiled together, and others."""

    def __init__(self, env: Env, file: str) -> None:
        self._env = env
        self._file = file
        self._definitions: Validator | None = None

    def validator(self, schema: Any) -> Validator | Definition | None:
        """Return the validator of a schema, which equal schemas share. None: every value is valid."""
        if schema is True or schema == {}:
            return None
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if reference is None:
            return self._env.shared(("openapi", orjson.dumps(schema)), lambda: _compiled(schema))
        if self._definitions is None:
            content = self._env.read(self._file)
            key = "openapi", self._file, self._env.reads[self._file]
            self._definitions = self._env.shared(key, lambda: _compiled(orjson.loads(content)))
        return Definition(self._definitions, reference.rpartition("/")[2])


def _compiled(schema: Any) -> Validator:
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(
            schema,
            offline=True,
            validate_formats=True,
            pattern_options=jsonschema_rs.RegexOptions(),
            mask="",
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise ValueError(str(error).partition("\n")[0]) from error


@final
class Definition:
    """Validator of one of the definitions that are compiled together."""

    # PERF: 10,000 operations with 1,000 definitions that refer to each other are compiled in 0.1 s; each by itself in
    # 45 (CPython 3.11, jsonschema-rs 0.60).
    __slots__ = ("_all", "_number")

    def __init__(self, all_of_them: Validator, number: str) -> None:
        self._all, self._number = all_of_them, number

    def is_valid(self, value: Any) -> bool:
        return self._all.is_valid({self._number: value})

    def errors(self, value: Any, location: str, length: int) -> list[Error]:
        """Return the first errors (`content.schemas.errors_of`)."""
        found = errors_of(self._all, {self._number: value}, location, length)
        begin = f"/{self._number}"
        return [each | {"pointer": each["pointer"].removeprefix(begin)} for each in found]


def _found(validator: Validator | Definition, value: Any, location: str, length: int = 0) -> list[Error]:
    if isinstance(validator, Definition):
        return validator.errors(value, location, length)
    return errors_of(validator, value, location, length)


@final
class _Parameter:
    """A parameter of an operation."""

    __slots__ = ("_json", "_key", "_validator", "allows_empty", "location", "name", "required", "style")

    def __init__(self, plan: Mapping[str, Any], schemas: _Schemas) -> None:
        self.name: str = plan["name"]
        self.location: str = plan["in"]
        self.required: bool = plan.get("required", False)
        self.allows_empty: bool = plan.get("empty", False)
        self._json: bool = plan.get("json", False)
        self._key: str = plan.get("key", "")
        self.style = Style(self.name, plan)
        self._validator = schemas.validator(plan.get("schema", True))

    def errors(self, exchange: Exchange, pairs: list[tuple[bytes, bytes]]) -> list[Error]:
        """Return the errors of the parameter. `pairs`: names and values of its location."""
        try:
            value = self._value(exchange, pairs)
        except Unreadable as error:
            return [self._error(error.keyword, error.detail)]
        if value is MISSING:
            return [self._error("required", "expected the parameter")] if self.required else []
        if self._validator is None or self._validator.is_valid(value) or (self.allows_empty and value == ""):
            return []
        begin = _pointer(self.name)
        found = _found(self._validator, value, self.location)
        return [each | {"pointer": begin + each["pointer"]} for each in found]

    def _value(self, exchange: Exchange, pairs: list[tuple[bytes, bytes]]) -> Any:
        if self.location == "path":
            raw = exchange.params.get(self._key)
            return MISSING if raw is None else self._read(raw)
        if self.location == "header":
            lines = exchange.values(self.style.name.lower())
            return self._read(b",".join(lines)) if lines else MISSING
        if self.location == "querystring" and self._json:
            return json_value(decoded(exchange.query)) if exchange.query else MISSING
        if self._json:
            values = [value for name, value in pairs if name == self.style.name]
            if len(values) > 1:
                raise Unreadable("repeated", "expected the parameter once")
            return json_value(decoded(values[0])) if values else MISSING
        return self.style.from_pairs(pairs)

    def _read(self, raw: bytes) -> Any:
        if self._json:
            return json_value(decoded(raw) if self.location == "path" else raw)
        if self.location == "header" and self.style.shape == "scalar":
            try:
                return converted(raw.decode(), self.style.types)
            except UnicodeDecodeError:
                raise Unreadable("encoding", "expected UTF-8") from None
        return self.style.from_text(raw)

    def _error(self, keyword: str, detail: str) -> Error:
        return {"in": self.location, "pointer": _pointer(self.name), "keyword": keyword, "detail": detail}


def _pointer(name: str) -> str:
    return f"/{name.replace('~', '~0').replace('/', '~1')}"


_PAIRS: Final[dict[str, Callable[[Exchange], list[tuple[bytes, bytes]]]]] = {
    "query": lambda exchange: query_pairs(exchange.query),
    "cookie": cookie_pairs,
    "querystring": lambda exchange: query_pairs(exchange.query),
}


@final
class _Requests:
    """Validation of the requests of an operation."""

    def __init__(
        self, reports: Reports, plan: Mapping[str, Any], schemas: _Schemas, max_body: int, *, only_reports: bool
    ) -> None:
        self._reports, self._only_reports, self._max_body = reports, only_reports, max_body
        held = [_Parameter(each, schemas) for each in plan["parameters"]]
        self._parameters = {
            where: [each for each in held if each.location == where]
            for where in dict.fromkeys(p.location for p in held)
        }
        self._known: frozenset[bytes] | None = None
        if "known" in plan and "querystring" not in self._parameters:
            self._known = frozenset(name.encode() for name in plan["known"])
        body = plan["body"]
        self._has_body = body is not None
        self._requires_body = body is not None and body["required"]
        content = {} if body is None else body["content"]
        self._types = {name: _Body(each, schemas) for name, each in content.items()}
        self.checks_bodies = any(each.checks for each in self._types.values())

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to check before the body."""
        return bool(self._parameters) or self._known is not None or self._has_body

    def request(self, exchange: Exchange) -> Outcome:
        """Check the parameters, and whether there is a body of the right type."""
        errors: list[Error] = []
        for where, parameters in self._parameters.items():
            read = _PAIRS.get(where)
            pairs = read(exchange) if read is not None else []
            for each in parameters:
                errors += each.errors(exchange, pairs)
        if self._known is not None and exchange.query and self._has_unknown(exchange):
            errors.append(
                validation_error("query", "unknown", "expected no other parameters than those of the operation")
            )
        if self._has_body and not errors:
            if exchange.request_body is None and exchange.body_length == 0:
                if self._requires_body:
                    errors.append(validation_error("body", "required", "expected a body"))
            elif self._body_of(exchange) is None:
                why = f"expected {' or '.join(self._types)}"
                return self._answer(exchange, exchange.refuse(Fault.UNSUPPORTED_MEDIA_TYPE, why=why))
        return self._answer(exchange, refusal(exchange, errors)) if errors else None

    def stage(self, exchange: Exchange) -> BodyStage | None:
        """Return the stage that checks the body; None: bodies of its type are not checked."""
        body = self._body_of(exchange)
        if body is None or not body.checks:
            return None
        check = partial(self._check, exchange, body)
        return BodyObserver(check, self._max_body) if self._only_reports else BodyCheck(check)

    def _check(self, exchange: Exchange, body: _Body, payload: bytes) -> Reply | None:
        """Return the response to a body that does not conform; in the mode `report` None, once it is noted."""
        if payload:
            errors = body.errors(payload, exchange.field(b"content-type") or b"")
        else:
            errors = [validation_error("body", "required", "expected a body")] if self._requires_body else []
        return self._answer(exchange, refusal(exchange, errors)) if errors else None

    def _body_of(self, exchange: Exchange) -> _Body | None:
        lines = exchange.values(b"content-type")
        found = _of_type(self._types, lines[0] if len(lines) == 1 else b"")
        return found if found is None or not found.checks or is_utf8(lines[0]) else None

    def _has_unknown(self, exchange: Exchange) -> bool:
        parameters = self._parameters.get("query", ())
        if any(each.style.takes_others for each in parameters):
            return False
        known = self._known or frozenset()
        return any(
            name not in known and not any(each.style.takes(name) for each in parameters)
            for name, _ in query_pairs(exchange.query)
        )

    def _answer(self, exchange: Exchange, reply: Reply) -> Reply | None:
        """Return the reply; in the mode `report` None, once it is noted."""
        if not self._only_reports:
            return reply
        self._reports.report_request(exchange, reply)
        return None


@final
class _Body:
    """Bodies of one content type."""

    def __init__(self, plan: Mapping[str, Any], schemas: _Schemas) -> None:
        self._kind: str = plan["kind"]
        self._validator = schemas.validator(plan.get("schema", True))
        self._form = UrlencodedForm(plan["fields"]) if self._kind == "form" else None
        self._multipart = MultipartForm(plan["fields"]) if self._kind == "multipart" else None
        self._xml = XmlDocument(plan["xml"]) if "xml" in plan else None
        self._types: tuple[str, ...] = tuple(plan.get("types", ()))
        self.checks = self._kind != "any"
        """Whether anything about such bodies is checked."""

    def errors(self, payload: bytes, content_type: bytes) -> list[Error]:
        try:
            value = self._value(payload, content_type)
        except InvalidJson as error:
            return [validation_error("body", "json", str(error))]
        except Unreadable as error:
            return [validation_error("body", error.keyword, error.detail)]
        if self._validator is None or self._validator.is_valid(value):
            return []
        return _found(self._validator, value, "body", len(payload))

    def _value(self, payload: bytes, content_type: bytes) -> Any:
        if self._kind == "json":
            return parse_json(payload)
        if self._form is not None:
            return self._form.value(payload)
        if self._multipart is not None:
            return self._multipart.value(payload, content_type)
        if self._kind == "any":
            return None
        if self._kind == "xml":
            return xml_element(payload) if self._xml is None else self._xml.value(payload)
        try:
            return converted(payload.decode(), self._types)
        except UnicodeDecodeError:
            raise Unreadable("encoding", "expected UTF-8") from None


def _of_type(types: Mapping[str, _Body], content_type: bytes) -> _Body | None:
    """Return the bodies of a content type: of exactly this one, of a range such as `image/*`, or of `*/*`."""
    bare = content_type.partition(b";")[0].strip().lower().decode("latin-1")
    found = types.get(bare)
    if found is None and bare:
        found = types.get(f"{bare.partition('/')[0]}/*") or types.get("*/*")
    return found


@final
class _Responses:
    """Validation of the responses of an operation, which are only reported."""

    def __init__(self, reports: Reports, plan: Mapping[str, Any], schemas: _Schemas, max_body: int) -> None:
        self._report, self._max_body = reports.report_response, max_body
        self._statuses = {
            status: {name: _Body(each, schemas) for name, each in content.items()} for status, content in plan.items()
        }

    def stage(self, exchange: Exchange) -> BodyStage | None:
        response = exchange.response
        if response is None or response.head is None:
            return None  # the gateway's own
        status = response.status
        types = self._statuses.get(str(status))
        if types is None:
            types = self._statuses.get(f"{status // 100}XX")
        if types is None:
            types = self._statuses.get("default")
        if types is None:
            self._report(exchange, f"response {status} is not in the document")
            return None
        if (
            not types
            or exchange.method == b"HEAD"
            or not response.head.has_body
            or response.values(b"content-encoding")
        ):
            return None
        lines = response.values(b"content-type")
        body = _of_type(types, lines[0] if len(lines) == 1 else b"")
        if body is None:
            self._report(exchange, f"response {status} has a content type that is not in the document")
            return None
        if not body.checks:
            return None

        def report(payload: bytes, body: _Body = body) -> None:
            errors = body.errors(payload, b"") if payload else []
            if errors:
                self._report(exchange, f"response {status} does not conform ({summary(errors)})")

        return BodyObserver(report, self._max_body)
