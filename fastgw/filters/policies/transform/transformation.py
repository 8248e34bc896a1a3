"""Transformation of the bodies of a route: which bodies, and the stages that change them."""

from __future__ import annotations

from asyncio import Task
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, final

from fastgw.config.base.value_templates import is_known
from fastgw.exchange.body_stages import (
    BodyRefused,
    BodyTooLong,
    PendingOutput,
    WholeBodyStage,
)
from fastgw.exchange.reply import Response
from fastgw.exchange.sent_fields import SentFields
from fastgw.filters.api import BodyStage, Env, Exchange, Fault, Outcome, Reply
from fastgw.filters.api.coded_bodies import CODING, refuse_coded_body
from fastgw.filters.policies.transform.body_types import BodyType, body_type
from fastgw.filters.policies.transform.compiled_change import compile_change
from fastgw.filters.policies.transform.forms import with_content_type
from fastgw.filters.policies.transform.json_mapping import JsonFunction
from fastgw.filters.policies.transform.line_stages import EventStage, LineStage
from fastgw.filters.policies.transform.offloading import OffloadedChange, Transformed
from fastgw.filters.policies.transform.values import (
    IN_STREAM,
    CostlyBody,
    UnmappableBody,
    Variables,
    variable_text,
    variables_in,
)
from fastgw.helper_processes.pool import HelperError
from fastgw.helper_processes.shared_pool import fault_of
from fastgw.http.charsets import is_utf8
from fastgw.http.content_coding.content_encoding import codings_in
from fastgw.http.fields import without_fields
from fastgw.http.json.strict import MOST_INLINE

if TYPE_CHECKING:
    from fastgw.filters.policies.transform.filter import BodyChange, ResponseChange

T = TypeVar("T")

_CONTENT_TYPE: Final = frozenset((b"content-type",))
IDENTITY: Final = SentFields(frozenset((b"accept-encoding",)), b"Accept-Encoding: identity\r\n")
_XML_AT_ONCE: Final = 16 * 1024
"""Bytes of a body from or to XML that are transformed in the event loop."""
_VALIDATORS: Final = frozenset((b"etag", b"last-modified"))
_OF_URL: Final = frozenset(("scheme", "host", "method", "path", "query", "listener", "route"))
"""Variables that requests with the same method and URL have in common, as they have `query.NAME`."""
_PARTIAL: Final = frozenset((206, 226))
_TYPES_WRITTEN: Final = {
    "json": b"application/json",
    "form": b"application/x-www-form-urlencoded",
    "xml": b"application/xml",
}
_NOT_UTF8: Final = "expected XML in UTF-8, by the charset of its content type, too"


@final
class _WholeStage(WholeBodyStage):
    """Stage that replaces a body as a whole: a costly one, or one of more than `at_once` bytes, in a helper process.
    `unavailable`: returns the response if that has not transformed the body; None: the body stays as it is.
    """

    may_wait = True

    def __init__(
        self,
        change: Callable[[bytes], bytes],
        most: int,
        too_long: Callable[[], BaseException],
        refuse: Callable[[UnmappableBody], BaseException],
        submit: Callable[[bytes], Task[Transformed]],
        unavailable: Callable[[HelperError], Reply | None],
        at_once: int,
    ) -> None:
        super().__init__(most)
        self._change, self._too_long, self._refuse = change, too_long, refuse
        self._submit, self._unavailable, self._at_once = submit, unavailable, at_once
        self._body = self._result = b""
        self._task: Task[Transformed] | None = None

    def check_length(self, length: int) -> None:
        try:
            super().check_length(length)
        except BodyTooLong as error:
            raise self._too_long() from error

    def feed(self, payload: bytes) -> bytes:
        try:
            return super().feed(payload)
        except BodyTooLong as error:
            raise self._too_long() from error

    def pending(self) -> PendingOutput | None:
        body = self._body = self.whole()
        if len(body) <= self._at_once:
            try:
                self._result = self._change(body)
                return None
            except CostlyBody:
                pass
            except UnmappableBody as error:
                raise self._refuse(error) from error
        self._task = self._submit(body)
        return self._task

    def end(self) -> bytes:
        body, self._body = self._body, b""
        result = self._result if self._task is None else self._of_helper(self._task, body)
        self.changed = result != body
        return result

    def _of_helper(self, task: Task[Transformed], body: bytes) -> bytes:
        self._task = None
        result = task.result()
        if isinstance(result, bytes):
            return result
        if isinstance(result, UnmappableBody):
            raise self._refuse(result) from result
        reply = self._unavailable(result)
        if reply is not None:
            raise BodyRefused(reply) from result
        return body

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


class _Direction:
    """Transformation of one direction."""

    def __init__(self, env: Env, change: BodyChange) -> None:
        names = {name for _, value in change.values() for name in variables_in(value)}
        names |= variables_in(change.xml_template)
        self.offloaded = OffloadedChange.build(env, change, frozenset(names))
        self._change = _only_offloaded if change.is_program else compile_change(change)
        has_xml = change.xml is not None or change.xml_template is not None
        self._at_once = 0 if change.is_program else _XML_AT_ONCE if has_xml else MOST_INLINE
        self._passes = change.on_timeout == "pass"
        self._most = change.max_bytes
        self._refuses_others = change.other_types == "refuse"
        self._input = change.input
        self._streams = change.input == "json" and change.output == "json" and not change.is_program
        self._change_line = compile_change(change, IN_STREAM) if self._streams else self._change
        self._has_variables = bool(names)
        self._varies = any(is_known(name) and not name.startswith("query.") for name in names - _OF_URL)
        """Whether requests for one URL may get different bodies. Names that are not known are path parameters."""
        self._type_written = b"" if change.input == change.output else _TYPES_WRITTEN[change.output]
        if change.content_type is not None:
            self._type_written = change.content_type.encode()

    def _takes(self, kind: BodyType) -> bool:
        streamed = kind in (BodyType.LINES, BodyType.EVENTS)
        return kind.value == self._input or (streamed and self._streams)

    def _is_readable(self, kind: BodyType, values: list[bytes]) -> bool:
        """Whether a body of this format is in an encoding that is read. `values`: of its `Content-Type`, whose
        `charset` is that of XML, before what the document declares (RFC 7303 section 3.2); JSON has none.
        """
        return kind is not BodyType.XML or is_utf8(values[0])

    def _stage(
        self,
        exchange: Exchange,
        kind: BodyType,
        too_long: Callable[[], BaseException],
        refuse: Callable[[UnmappableBody], BodyRefused],
        content_type: bytes = b"",
    ) -> BodyStage:
        """Return the stage for a body of this format and, if it is multipart, this content type."""
        if kind is BodyType.LINES or kind is BodyType.EVENTS:
            change = partial(_applied, self._change_line, exchange)
            stage = LineStage if kind is BodyType.LINES else EventStage
            return stage(change, min(self._most, MOST_INLINE), refuse)
        change, submit = partial(_applied, self._change, exchange), partial(self.offloaded.submit, exchange)
        if kind is BodyType.MULTIPART:
            change = partial(_with_type, change, content_type)
            submit = partial(_with_type, submit, content_type)
        return _WholeStage(
            change,
            self._most,
            too_long,
            refuse,
            submit,
            partial(self._unavailable, exchange),
            self._at_once,
        )

    def _unavailable(self, exchange: Exchange, error: HelperError) -> Reply | None:
        """Return the response for a body that no helper process has transformed; None: the body stays as it is."""
        return None if self._passes else exchange.refuse(fault_of(error), why=f"transform: {error}")


def _with_type(take: Callable[[bytes], T], content_type: bytes, body: bytes) -> T:
    return take(with_content_type(content_type, body))


def _applied(change: JsonFunction, exchange: Exchange, body: bytes) -> bytes:
    return change(body, partial(variable_text, exchange))


def _no_variable(name: str) -> str | None:
    raise ValueError(f"{name} is no variable of this change")


def _only_offloaded(body: bytes, variables: Variables) -> bytes:
    """Return an empty body as it is: jq and JSONata run in helper processes only."""
    return body


@final
class RequestTransformation(_Direction):
    """Transformation of request bodies."""

    def request(self, exchange: Exchange) -> Outcome:
        """Refuse bodies that cannot be transformed, as far as the head tells, and send the new content type."""
        if exchange.body_length == 0:
            return None
        values = exchange.values(b"content-type")
        kind = body_type(values)
        if not self._takes(kind):
            if self._refuses_others:
                return exchange.refuse(Fault.UNSUPPORTED_MEDIA_TYPE, why=f"transform: expected {self._input}")
            return None
        if not self._is_readable(kind, values):
            return exchange.refuse(Fault.UNSUPPORTED_MEDIA_TYPE, why=f"transform: {_NOT_UTF8}")
        refusal = refuse_coded_body(exchange)
        if refusal is not None:
            return refusal
        if self._type_written:
            exchange.drop_everywhere(_CONTENT_TYPE)
            exchange.request_added += b"Content-Type: %b\r\n" % self._type_written
        return None

    def stage_for(self, exchange: Exchange) -> BodyStage | None:
        values = exchange.values(b"content-type")
        kind = body_type(values)
        if not self._takes(kind):
            return None
        refuse = partial(self._refused, exchange)
        return self._stage(exchange, kind, partial(self._too_long, exchange), refuse, values[0] if values else b"")

    def explain(self, exchange: Exchange) -> str:
        if exchange.body_length == 0:
            return "the request has no body"
        values = exchange.values(b"content-type")
        kind = body_type(values)
        if not self._takes(kind):
            return f"the request body is not {self._input}: unchanged"
        if not self._is_readable(kind, values):
            return "the request body is not in UTF-8: refused"
        return f"the request body is transformed, up to {self._most} bytes"

    def _too_long(self, exchange: Exchange) -> BodyRefused:
        return BodyRefused(exchange.refuse(Fault.BODY_TOO_LARGE, why=f"transform: more than {self._most} bytes"))

    def _refused(self, exchange: Exchange, error: UnmappableBody) -> BodyRefused:
        detail = f"The request body cannot be processed: {error.detail}."
        return BodyRefused(exchange.refuse(Fault.BAD_REQUEST, detail, why=f"transform: {error}"))


@final
class ResponseTransformation(_Direction):
    """Transformation of response bodies."""

    def __init__(self, env: Env, change: ResponseChange) -> None:
        super().__init__(env, change)
        self._statuses = frozenset(status for statuses in change.statuses for status in statuses)

    def request(self, exchange: Exchange) -> Outcome:
        """Request a response without a content coding, in place of an earlier filter's `Accept-Encoding`."""
        exchange.drop_everywhere(IDENTITY.dropped)
        added = exchange.request_added
        exchange.request_added = (without_fields(added, IDENTITY.dropped) if added else b"") + IDENTITY.added
        return None

    def change_whole(self, exchange: Exchange, response: Response, body: bytes) -> bytes | BodyStage | None:
        """Return the transformed body of a response that is complete; or what `stage_for` returns."""
        if response.status not in self._statuses:
            return None
        values = response.reader()
        types = values(b"content-type")
        kind = body_type(types)
        if not self._refuses_others and not self._takes(kind):
            return None
        is_whole = kind.value == self._input and kind is not BodyType.MULTIPART and response.status not in _PARTIAL
        is_whole = is_whole and self._is_readable(kind, types)
        is_short = not self._has_variables and len(body) <= min(self._at_once, self._most)
        if is_whole and is_short and not (values(b"content-range") or codings_in(values(CODING))):
            try:
                # PERF: 20 us of CPU less than by a stage (CPython 3.11, micro/content).
                changed = self._change(body, _no_variable)
            except (CostlyBody, UnmappableBody):  # for a helper process, or refused
                pass
            else:
                self._describe(response)
                return None if changed == body else changed
        return self.stage_for(exchange)

    def stage_for(self, exchange: Exchange) -> BodyStage | None:
        response = exchange.response
        assert response is not None
        if response.status == 304:  # so that its ETag is weak, as that of the transformed response
            self._hide_validators(response)
            return self._stage(
                exchange, BodyType.JSON, partial(self._too_long, exchange), partial(self._refused, exchange)
            )
        if response.status not in self._statuses or response.status == 204:
            return None
        values = response.values(b"content-type")
        kind = body_type(values)
        refuse = partial(self._refused, exchange)
        if not self._takes(kind):
            return _RefusingStage(refuse, f"expected {self._input}") if self._refuses_others else None
        if not self._is_readable(kind, values):
            return _RefusingStage(refuse, _NOT_UTF8)
        if response.status in _PARTIAL or response.values(b"content-range"):
            return _RefusingStage(refuse, "a part of the content cannot be transformed")
        if codings_in(response.values(CODING)):
            return _RefusingStage(refuse, "the response has a content coding, although none was accepted")
        self._describe(response)
        return self._stage(exchange, kind, partial(self._too_long, exchange), refuse, values[0] if values else b"")

    def _describe(self, response: Response) -> None:
        """Give a response the headers of its transformed body."""
        self._hide_validators(response)
        if self._type_written:
            response.dropped |= _CONTENT_TYPE
            response.added += b"Content-Type: %b\r\n" % self._type_written

    def _hide_validators(self, response: Response) -> None:
        """Drop the validators of a body that differs with the client: they would confirm another one by a 304."""
        if self._varies:
            response.dropped |= _VALIDATORS

    def explain(self, exchange: Exchange) -> str:
        return f"{self._input} responses are transformed, up to {self._most} bytes"

    def _too_long(self, exchange: Exchange) -> BodyRefused:
        exchange.why = f"transform: the response has more than {self._most} bytes"
        return BodyRefused(_replaced(exchange, Fault.RESPONSE_TOO_LARGE))

    def _refused(self, exchange: Exchange, error: UnmappableBody) -> BodyRefused:
        exchange.why = f"transform: {error}"
        return BodyRefused(_replaced(exchange, Fault.UPSTREAM_MALFORMED))


def _replaced(exchange: Exchange, fault: Fault) -> Reply:
    return exchange.refuse(fault, why=exchange.why)


@final
class _RefusingStage(WholeBodyStage):
    """Stage that refuses a body whose first byte comes. An empty body passes."""

    def __init__(self, refuse: Callable[[UnmappableBody], BaseException], why: str) -> None:
        super().__init__(0)
        self._refuse, self._why = refuse, why

    def feed(self, payload: bytes) -> bytes:
        raise self._refuse(UnmappableBody(self._why))
