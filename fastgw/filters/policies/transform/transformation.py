"""Transformation of the bodies of a route: which bodies, and the stages that change them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, final

from fastgw.exchange.body_stages import BodyRefused, BodyTooLong, WholeBodyStage
from fastgw.filters.api import BodyStage, Exchange, Fault, Outcome, Reply
from fastgw.filters.policies.transform.body_types import BodyType, body_type
from fastgw.filters.policies.transform.forms import form_to_json, json_to_form
from fastgw.filters.policies.transform.json_mapping import JsonFunction, compile_mapping, compile_template
from fastgw.filters.policies.transform.line_stages import EventStage, LineStage
from fastgw.filters.policies.transform.values import UnmappableBody
from fastgw.filters.policies.transform.xml_reading import compile_xml_input
from fastgw.filters.policies.transform.xml_writing import compile_xml_template
from fastgw.http.json_projection import Projection
from fastgw.http.strict_json import InvalidJson

if TYPE_CHECKING:
    from fastgw.filters.policies.transform.filter import BodyChange, ResponseChange

_CODING: Final = b"content-encoding"
_CONTENT_TYPE: Final = frozenset((b"content-type",))
_ACCEPT_ENCODING: Final = frozenset((b"accept-encoding",))
_EVERYTHING: Final = Projection()
_PARTIAL: Final = frozenset((206, 226))
_TYPES_WRITTEN: Final = {
    "json": b"application/json",
    "form": b"application/x-www-form-urlencoded",
    "xml": b"application/xml",
}


def _compiled(change: BodyChange) -> JsonFunction:
    """Return the function from a body to the one that replaces it."""
    if change.json is not None:
        mapped = compile_mapping(change.json)
    elif change.template is not None:
        mapped = compile_template(change.template)
    else:
        mapped = _checked_only
    if change.input == "json" and change.output == "json":
        return mapped
    read = (
        compile_xml_input(change.xml) if change.xml is not None else form_to_json if change.input == "form" else _same
    )
    if change.xml_template is not None:
        build = compile_xml_template(change.xml_template)
        return lambda body, exchange: build(mapped(read(body), exchange), exchange)
    write = json_to_form if change.output == "form" else _same
    return lambda body, exchange: write(mapped(read(body), exchange))


def _checked_only(body: bytes, exchange: Exchange) -> bytes:
    try:
        return _EVERYTHING.apply(body)
    except InvalidJson as error:
        raise UnmappableBody(str(error)) from error


def _same(body: bytes) -> bytes:
    return body


@final
class _WholeStage(WholeBodyStage):
    """Stage that replaces a body as a whole."""

    def __init__(
        self,
        change: Callable[[bytes], bytes],
        most: int,
        too_long: Callable[[], BaseException],
        refuse: Callable[[Exception], BaseException],
    ) -> None:
        super().__init__(most)
        self._change, self._too_long, self._refuse = change, too_long, refuse

    def feed(self, payload: bytes) -> bytes:
        try:
            return super().feed(payload)
        except BodyTooLong as error:
            raise self._too_long() from error

    def end(self) -> bytes:
        body = self.whole()
        try:
            changed = self._change(body)
        except UnmappableBody as error:
            raise self._refuse(error) from error
        self.changed = changed != body
        return changed


class _Direction:
    """Transformation of one direction."""

    def __init__(self, change: BodyChange) -> None:
        self._change = _compiled(change)
        self._most = change.max_bytes
        self._refuses_others = change.other_types == "refuse"
        self._input = change.input
        self._streams = change.input == "json" and change.output == "json"
        self._type_written = b"" if change.input == change.output else _TYPES_WRITTEN[change.output]
        if change.content_type is not None:
            self._type_written = change.content_type.encode()

    def _takes(self, kind: BodyType) -> bool:
        streamed = kind in (BodyType.LINES, BodyType.EVENTS)
        return kind.value == self._input or (streamed and self._streams)

    def _stage(
        self,
        exchange: Exchange,
        kind: BodyType,
        too_long: Callable[[], BaseException],
        refuse: Callable[[Exception], BaseException],
    ) -> BodyStage:
        change = partial(_applied, self._change, exchange)
        if kind is BodyType.LINES:
            return LineStage(change, self._most, refuse)
        if kind is BodyType.EVENTS:
            return EventStage(change, self._most, refuse)
        return _WholeStage(change, self._most, too_long, refuse)


def _applied(change: JsonFunction, exchange: Exchange, body: bytes) -> bytes:
    return change(body, exchange)


@final
class RequestTransformation(_Direction):
    """Transformation of request bodies."""

    def request(self, exchange: Exchange) -> Outcome:
        """Refuse bodies that cannot be transformed, as far as the head tells, and send the new content type."""
        if exchange.body_length == 0:
            return None
        if not self._takes(body_type(exchange.values(b"content-type"))):
            if self._refuses_others:
                return exchange.refuse(Fault.UNSUPPORTED_MEDIA_TYPE, why=f"transform: expected {self._input}")
            return None
        if exchange.values(_CODING) and _CODING not in exchange.request_dropped:
            detail = "A request body with a content coding is not supported here."
            return exchange.refuse(Fault.UNSUPPORTED_MEDIA_TYPE, detail, [(b"Accept-Encoding", b"identity")])
        if self._type_written:
            exchange.drop_everywhere(_CONTENT_TYPE)
            exchange.request_added += b"Content-Type: %b\r\n" % self._type_written
        return None

    def stage_for(self, exchange: Exchange) -> BodyStage | None:
        kind = body_type(exchange.values(b"content-type"))
        if not self._takes(kind):
            return None
        return self._stage(exchange, kind, partial(self._too_long, exchange), partial(self._refused, exchange))

    def explain(self, exchange: Exchange) -> str:
        if exchange.body_length == 0:
            return "the request has no body"
        if not self._takes(body_type(exchange.values(b"content-type"))):
            return f"the request body is not {self._input}: unchanged"
        return f"the request body is transformed, up to {self._most} bytes"

    def _too_long(self, exchange: Exchange) -> BodyRefused:
        return BodyRefused(exchange.refuse(Fault.BODY_TOO_LARGE, why=f"transform: more than {self._most} bytes"))

    def _refused(self, exchange: Exchange, error: Exception) -> BodyRefused:
        detail = "The request body cannot be processed: expected valid content in UTF-8 without duplicate names."
        return BodyRefused(exchange.refuse(Fault.BAD_REQUEST, detail, why=f"transform: {error}"))


@final
class ResponseTransformation(_Direction):
    """Transformation of response bodies."""

    def __init__(self, change: ResponseChange) -> None:
        super().__init__(change)
        self._statuses = frozenset(status for statuses in change.statuses for status in statuses)

    def request(self, exchange: Exchange) -> Outcome:
        """Request a response without a content coding."""
        exchange.drop_everywhere(_ACCEPT_ENCODING)
        exchange.request_added += b"Accept-Encoding: identity\r\n"
        return None

    def stage_for(self, exchange: Exchange) -> BodyStage | None:
        response = exchange.response
        assert response is not None
        if response.status == 304:  # so that its ETag is weak, as that of the transformed response
            return self._stage(
                exchange, BodyType.JSON, partial(self._too_long, exchange), partial(self._refused, exchange)
            )
        if response.status not in self._statuses or response.status == 204:
            return None
        kind = body_type(response.values(b"content-type"))
        refuse = partial(self._refused, exchange)
        if not self._takes(kind):
            return _RefusingStage(refuse, f"expected {self._input}") if self._refuses_others else None
        if response.status in _PARTIAL or response.values(b"content-range"):
            return _RefusingStage(refuse, "a part of the content cannot be transformed")
        if response.values(_CODING):
            return _RefusingStage(refuse, "the response has a content coding, although none was accepted")
        if self._type_written:
            response.dropped |= _CONTENT_TYPE
            response.added += b"Content-Type: %b\r\n" % self._type_written
        return self._stage(exchange, kind, partial(self._too_long, exchange), refuse)

    def explain(self, exchange: Exchange) -> str:
        return f"{self._input} responses are transformed, up to {self._most} bytes"

    def _too_long(self, exchange: Exchange) -> BodyRefused:
        exchange.why = f"transform: the response has more than {self._most} bytes"
        return BodyRefused(_replaced(exchange, Fault.RESPONSE_TOO_LARGE))

    def _refused(self, exchange: Exchange, error: Exception) -> BodyRefused:
        exchange.why = f"transform: {error}"
        return BodyRefused(_replaced(exchange, Fault.UPSTREAM_MALFORMED))


def _replaced(exchange: Exchange, fault: Fault) -> Reply:
    return exchange.refuse(fault, why=exchange.why)


@final
class _RefusingStage(WholeBodyStage):
    """Stage that refuses a body whose first byte comes. An empty body passes."""

    def __init__(self, refuse: Callable[[Exception], BaseException], why: str) -> None:
        super().__init__(0)
        self._refuse, self._why = refuse, why

    def feed(self, payload: bytes) -> bytes:
        raise self._refuse(UnmappableBody(self._why))
