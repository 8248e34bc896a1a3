"""Request and response heads in the terms of RFC 9110: the interface for filters, routing and the log.

A version of the protocol implements them (`http1.parser`). Only that version knows how a message was framed and its
received bytes, and forwarding, which passes the bytes of one connection on to another.
"""

from collections.abc import Callable
from typing import Final, Protocol

from fastgw.http.fields import Fields

AS_DECLARED: Final = -3
"""Marker in place of the length of a body: it is framed as its head declares."""


class Head(Protocol):
    """Common interface of request and response heads."""

    @property
    def version(self) -> int:
        """HTTP version times ten: 10, 11, 20."""

    @property
    def body_length(self) -> int | None:
        """Bytes of the body as declared; 0: there is none; None: unknown until it ends."""

    @property
    def upgrade(self) -> tuple[bytes, ...]:
        """Lower-case protocols that the sender offers to switch to (RFC 9110 section 7.8); never h2c."""

    def fields(self) -> Fields:
        """All fields except those that the sender named as hop-by-hop; changes to them are forwarded."""

    def edited(self) -> Fields | None:
        """Return the fields if one of them was changed. None: the message can be sent with its lines as received, in
        the version in which it was received; heads of other versions always return the fields.
        """

    def first(self, name: bytes) -> bytes | None:
        """Return the first value of the field with this lower-case name. Cheaper than `fields`."""

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of the field with this lower-case name, in order."""


class RequestHead(Head, Protocol):
    """Request head, parsed and validated."""

    @property
    def method(self) -> bytes: ...

    @property
    def scheme(self) -> bytes:
        """`http` or `https` if the request itself states it, otherwise empty."""

    @property
    def authority(self) -> bytes:
        """Host in lower case, its port as sent. Empty only if an HTTP/1.0 request has none."""

    @property
    def host(self) -> bytes:
        """Host in lower case, without port and last dot; an IPv6 address in its brackets."""

    @property
    def host_as_sent(self) -> bytes:
        """Host with its port as sent, without the colon of an empty port, which some servers refuse."""

    @property
    def request_target(self) -> bytes:
        """Path and query as sent; the whole URL for absolute-form."""

    @property
    def raw_path(self) -> bytes:
        """The path as sent."""

    @property
    def path(self) -> bytes:
        """Normal form of the path: decoded and without dot segments."""

    @property
    def path_as_sent(self) -> bool:
        """Whether the path was received in its normal form."""

    @property
    def query(self) -> bytes | None:
        """Query after the first `?`; None without a `?`."""

    @property
    def sized(self) -> bool:
        """Whether the length of the body is declared, also if it is 0 (RFC 9110 section 8.6)."""

    @property
    def received_s(self) -> float:
        """Seconds from the first byte of the head to its end; 0.0 if it came in one read."""

    @property
    def connect_protocol(self) -> bytes:
        """Protocol requested by an extended CONNECT of HTTP/2 (RFC 8441), also in `upgrade`; empty: none."""

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1)."""

    @property
    def accepts_trailers(self) -> bool:
        """Whether the client accepts trailers of a response (`TE: trailers`, RFC 9110 section 10.1.4)."""

    @property
    def payload(self) -> bytes | None:
        """The whole body, if it was received together with the head; None: it was not."""

    @property
    def ordinary(self) -> bool:
        """Whether the request was received as a whole, and only its route is still to be decided."""

    @property
    def forwarded(self) -> bool:
        """Whether it has fields in which proxies send the address of the client."""

    @property
    def made(self) -> bool:
        """Whether the gateway has made the request itself."""

    def field(self, name: bytes) -> bytes | None:
        """Alias of `first`."""

    def received_fields(self) -> Fields:
        """Return the fields as received, without later changes."""

    def received_values(self, name: bytes) -> list[bytes]:
        """Return the values of a field as received, even if it was changed since. `name`: of `READ_IN_REQUESTS`."""

    def received_names(self) -> set[bytes]:
        """Return the names of all fields as received, and of those that the sender declared hop-by-hop."""

    def any_line(self, search: Callable[[bytes], object]) -> bool:
        """Whether `search` finds a match in the fields as received: lines `\\nName: value\\r`."""

    def drop_payload(self) -> None:
        """Release the body, which is no longer needed, and keep the head only."""


class ResponseHead(Head, Protocol):
    """Response head, parsed and validated."""

    @property
    def status(self) -> int: ...

    @property
    def reason(self) -> bytes:
        """Reason phrase; empty in versions that have none."""

    @property
    def has_body(self) -> bool:
        """False for responses to HEAD, 1xx, 204, 304, and a length of 0."""

    @property
    def payload(self) -> bytes | None:
        """The whole body, if it was received together with the head; None: it was not, or there is none."""
