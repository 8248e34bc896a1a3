"""Responses for filters: the gateway's own replies, the response to a fault, and the response of the upstream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol, final

import cython
import orjson

from fastgw.errors import Fault
from fastgw.http.field_names import Names
from fastgw.http.fields import Fields, folded
from fastgw.http.grammar import IS_TOKEN, IS_VALUE
from fastgw.http.grpc.status import GrpcStatus
from fastgw.http.http1.serializer import names_alike
from fastgw.http.messages import AS_DECLARED, ResponseHead
from fastgw.typed_fields import expose_fields

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange

NO_NAMES: Final[frozenset[bytes]] = frozenset()
NO_CONTENT: Final = frozenset((204, 304))
"""Statuses of responses that never have a body (RFC 9110 section 6.4.1)."""

OWN_WITHOUT_BODY: Final = NO_CONTENT | {205}
"""Statuses of replies without a body: a server sends none with 205 (RFC 9110 section 15.3.6), but its length of 0."""

UNKNOWN: Final = -1
_LENGTH: Final = b"content-length"

ALLOW: Final = (b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
"""The header `Allow` with all methods, for `OPTIONS *`."""


class BodySender(Protocol):
    """The service side of an exchange that is answered with a `ReplyBody`."""

    def start_sending(self) -> None:
        """Send the body by `exchange.response_sink`, after the head, from the next iteration of the event loop on."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...
    def cancel(self) -> None: ...


class ReplyBody:
    """Body of a reply that is streamed: `filters.api.Pieces`, `filters.api.FileRange`. It is sent once."""

    length: int | None
    """Number of bytes; None: unknown until the end."""

    def service(self, exchange: Exchange) -> BodySender:
        """Return the service side of the exchange, which sends it."""
        raise NotImplementedError

    def close(self) -> None:
        """Release its resources, because it is not sent."""
        raise NotImplementedError


@final
class Reply:
    """A response of the gateway itself. `body`: bytes, or a `ReplyBody` that is streamed.

    `fault`: the fault that it reports; None: none (such as for a redirect). `invites`: a challenge to a client without
    credentials, which may continue as an anonymous consumer instead. `grpc_status`: status for calls over another
    protocol, such as gRPC-Web or JSON; None: that of the fault, or of the HTTP status.

    A body for 205 is left out, as for 204 and 304, which are without any content.

    Raises `ValueError` or `TypeError` for a reply that cannot be sent.
    """

    __slots__ = ("body", "fault", "fields", "grpc_status", "invites", "status")

    def __init__(
        self,
        status: int,
        body: bytes | ReplyBody = b"",
        fields: Iterable[tuple[bytes, bytes]] = (),
        fault: Fault | None = None,
        invites: bool = False,
        grpc_status: GrpcStatus | None = None,
    ) -> None:
        if not 200 <= status <= 599:
            raise ValueError(f"a reply with the status {status!r}; expected 200 to 599")
        if not isinstance(body, bytes | ReplyBody):
            raise TypeError(f"a reply with a body of the type {type(body).__name__}; expected bytes or a ReplyBody")
        if status == 205 and body:
            if isinstance(body, ReplyBody):
                body.close()
            body = b""
        self.status, self.body, self.fields, self.fault = int(status), body, tuple(fields), fault
        self.invites, self.grpc_status = invites, grpc_status
        for name, value in self.fields:
            if not (isinstance(name, bytes) and IS_TOKEN(name)):
                raise ValueError(f"a reply with the header name {name!r}; expected a token as bytes")
            if not (isinstance(value, bytes) and IS_VALUE(value)):  # which may be a secret
                raise ValueError(f"a reply with a value of {name!r} that is not bytes, or has a control character")

    def __repr__(self) -> str:
        return f"<Reply {self.status}{' ' + self.fault.label if self.fault else ''}>"


def title_of(fault: Fault) -> str:
    """Return the title in words; protocol names stay in capitals."""
    first, *words = fault.label.split("_")
    return " ".join([first.upper() if first in ("dns", "tls", "waf") else first.capitalize(), *words])


def _document(fault: Fault, detail: str) -> bytes:
    """Return the problem document of a fault."""
    return orjson.dumps(
        {
            "type": f"urn:fastgw:fault:{fault.label}",
            "title": title_of(fault),
            "status": fault.status,
            "detail": detail,
        }
    )


_documents: Final = {fault: _document(fault, fault.detail) for fault in Fault}
_fields: Final = {
    fault: (
        (b"Content-Type", b"application/problem+json"),
        (b"Proxy-Status", b"fastgw; error=%b" % fault.proxy_status.encode()),
    )
    for fault in Fault
}


def problem(fault: Fault, detail: str | None = None, fields: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
    """The response to a fault: RFC 9457 `application/problem+json`, with the reason in `Proxy-Status` (RFC 9209).

    `detail` is sent to the client in place of the fault's own: never put an address or a header value in it.
    """
    body = _document(fault, detail) if detail else _documents[fault]
    lines = (*_fields[fault], *fields) if fields else _fields[fault]
    if fault.status in (429, 503) and not any(name.lower() == b"retry-after" for name, _ in lines):
        lines = (*lines, (b"Retry-After", b"1"))
    return Reply(fault.status, body, lines, fault)


def extended(reply: Reply, members: Mapping[str, object]) -> Reply:
    """Add members to a problem (RFC 9457 section 3.2), at least one, and return it."""
    body = reply.body
    assert isinstance(body, bytes)
    reply.body = b"%b,%b" % (body[:-1], orjson.dumps(members)[1:])
    return reply


class EncodedForms(Protocol):
    """Forms of a stored response with content codings. `form`: name of a coding with its parameters."""

    def find(self, form: bytes) -> bytes | None:
        """Return the body in this form; None: it is not stored."""

    def store(self, form: bytes, body: bytes) -> None:
        """Store the body in this form, if there is space for it."""


# As many as there are at once on a busy worker, so that their memory is used again.
@cython.freelist(64)
@cython.cclass
class Response:
    """The final response for the response steps: the upstream's (`head` is set), or one of the gateway.

    A step may set another `status`, which is sent, logged and counted. The body does not change, so the status has to
    allow one: from 200 to 599, and not 204 or 304 if there is a body.
    """

    def __init__(
        self,
        status: int,
        head: ResponseHead | None,
        added: bytes = b"",
        dropped: frozenset[bytes] = NO_NAMES,
        body_length: int = AS_DECLARED,
        fields: Fields | None = None,
    ) -> None:
        self.status = status
        self.head = head
        self.added = added
        """Serialized lines that are sent after the fields."""
        self.dropped = dropped
        """Lower-case names of fields that are not sent."""
        self.body_length = body_length
        """Bytes of the body that is sent; `UNKNOWN`: known at its end; `AS_DECLARED`: as the head declares."""
        self._fields = fields
        self.whole_bytes = UNKNOWN
        """Bytes of the body before the body hooks, if all of it has come with the head; otherwise `UNKNOWN`."""
        self.encoded_forms: EncodedForms | None = None
        """Forms of a complete response from a cache with content codings, stored beside it; None: it is not from one,
        or a filter has changed its body. Only to be used when a stage is made: they are those of the body that it gets.
        """
        self.is_held = False
        """Whether a stage before the one that is made takes the whole body, so that the next ones get it in one piece,
        and the head is sent after their end."""

    def __repr__(self) -> str:
        return f"<Response {self.status}>"

    @property
    def headers(self) -> Fields:
        """The header fields of the response, to read and to change. Parsed on first use."""
        fields = self._fields
        if fields is None:
            fields = self._fields = Fields() if self.head is None else self.head.fields()
        return fields

    @property
    def is_as_received(self) -> bool:
        """Whether it is one of the upstream whose header was not parsed, so that it is sent as it was received, with
        `added` and without `dropped`.
        """
        return self.head is not None and self._fields is None

    @property
    def has_lines_only(self) -> bool:
        """Whether it is one of the gateway that has no header fields but the lines in `added`."""
        return self.head is None and self._fields is None

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of the field with this lower-case name. Cheaper than `headers`, which parses all fields."""
        if self._fields is not None or self.head is None:
            return self.headers.get_all(name)
        return self.head.values(name)

    def reader(self) -> Callable[[bytes], list[bytes]]:
        """Return a function that does what `values` does until the response is changed, for several look-ups."""
        return self.values if self._fields is not None or self.head is None else self.head.values

    def sent_fields(self) -> list[tuple[bytes, bytes]]:
        """Return the header fields that are sent, without those that the client's side adds. A `Content-Length` is
        there if the upstream has sent one. It is that of the body that is sent, and is left out if filters change the
        body and its length is not known.
        """
        dropped = names_alike(self.dropped)
        kept = [line for line in self.headers if folded(line[0]) not in dropped]
        length = self.body_length
        if length != AS_DECLARED:
            kept = [
                (name, b"%d" % length) if folded(name) == _LENGTH else (name, value)
                for name, value in kept
                if length >= 0 or folded(name) != _LENGTH
            ]
        return kept + list(fields_in(self.added))

    def sent_values(self, name: bytes) -> list[bytes]:
        """Return all values of the field with this lower-case name in `sent_fields`. Cheaper, as `values` is."""
        received = [] if self.dropped and folded(name) in names_alike(self.dropped) else self.values(name)
        if received and name == _LENGTH and self.body_length != AS_DECLARED:
            received = [b"%d" % self.body_length] if self.body_length >= 0 else []
        return [*received, *(Fields.parse(self.added, 0).get_all(name) if self.added else ())]

    def may_become(self, before: int, method: bytes) -> bool:
        """Whether it can be sent with the new status in place of `before`. `method`: the request's."""
        status, head = self.status, self.head
        if type(status) is not int or not 200 <= status <= 599 or before == 101:
            return False
        if status not in NO_CONTENT:
            return True
        # A complete body of the gateway is left out.
        return self.body_length == AS_DECLARED or method == b"HEAD" if head is None else not head.has_body


def received_response(head: ResponseHead, added: bytes, dropped: Names) -> Response:
    """Return the response of an upstream. PERF: 300 instructions less than by `Response` (CPython 3.11, callgrind)."""
    response: Response = Response.__new__(Response)
    response.status, response.head, response.added, response.dropped = head.status, head, added, dropped
    response.body_length, response.whole_bytes, response.is_held = AS_DECLARED, UNKNOWN, False
    response._fields = response.encoded_forms = None
    return response


def fields_in(lines: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fields of serialized header lines."""
    for line in lines.split(b"\r\n"):
        if line:
            name, _, value = line.partition(b":")
            yield name, value.strip()


def own_response(reply: Reply) -> Response:
    return Response(reply.status, None, fields=Fields.of_checked(reply.fields))


def body_at_once(reply: Reply) -> bytes:
    """Return the body of a reply that has to be sent at once: empty for a streamed one."""
    if isinstance(reply.body, bytes):
        return reply.body
    reply.body.close()
    return b""


expose_fields(Response)
