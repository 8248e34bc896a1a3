"""Request and response heads in the terms of RFC 9110: what filters, routing and the log know of a message.

A version of the protocol implements them (`http1.parser`). How a message was framed, and the bytes that it came in, are
known to that version, and to forwarding, which passes the bytes of one connection on to another.
"""

from collections.abc import Callable
from typing import Final, Protocol

from fastgw.http.fields import Fields

AS_DECLARED: Final = -3
"""Marker in place of the length of a body: it is framed as its head declares it."""


class Head(Protocol):
    """The part that both kinds of messages have."""

    @property
    def version(self) -> int:
        """HTTP version times ten: 10, 11, 20."""

    @property
    def body_length(self) -> int | None:
        """Bytes of the body as declared; 0: there is none; None: only its end tells."""

    @property
    def upgrade(self) -> tuple[bytes, ...]:
        """Lower-case protocols that the sender would switch to (RFC 9110 section 7.8); never h2c."""

    def fields(self) -> Fields:
        """All fields but those for the next peer that the sender named; to read, and to change what will be sent."""

    def edited(self) -> Fields | None:
        """Return the fields when one of them was changed. None: the message can be sent with its lines as they came,
        by the version that it came in; heads of other versions always return them.
        """

    def first(self, name: bytes) -> bytes | None:
        """Return the first value of the field with this lower-case name. Cheaper than `fields`."""

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of the field with this lower-case name, in order."""


class RequestHead(Head, Protocol):
    """The head of a request that was parsed and judged."""

    @property
    def method(self) -> bytes: ...

    @property
    def scheme(self) -> bytes:
        """`http` or `https` where the request names it itself, else empty."""

    @property
    def authority(self) -> bytes:
        """Host in lower case, its port as sent. Empty only when an HTTP/1.0 client sent none."""

    @property
    def host(self) -> bytes:
        """Host in lower case, without port and last dot; an IPv6 address in its brackets."""

    @property
    def host_as_sent(self) -> bytes: ...

    @property
    def request_target(self) -> bytes:
        """Path and query as sent; the whole URL where a client sent that."""

    @property
    def raw_path(self) -> bytes:
        """The path as sent."""

    @property
    def path(self) -> bytes:
        """Normal form of the path: decoded and without dot segments."""

    @property
    def path_as_sent(self) -> bool:
        """Whether the path came in its normal form."""

    @property
    def query(self) -> bytes | None:
        """Query after the first `?`; None when there is no `?`."""

    @property
    def sized(self) -> bool:
        """Whether the length of the body is declared, also where that is 0 (RFC 9110 section 8.6)."""

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1)."""

    @property
    def accepts_trailers(self) -> bool:
        """Whether the client takes trailers of a response (`TE: trailers`, RFC 9110 section 10.1.4)."""

    @property
    def ordinary(self) -> bool:
        """Whether all of the request is here, and nothing is left to decide but the route."""

    @property
    def forwarded(self) -> bool:
        """Whether it came with fields in which proxies tell who asked."""

    def field(self, name: bytes) -> bytes | None:
        """Alias of `first`."""

    def received_fields(self) -> Fields:
        """Return the fields as `fields` had them at first, without what was changed since."""

    def received_values(self, name: bytes) -> list[bytes]:
        """Return the values of a field as received, also where it was changed since. `name`: of `READ_IN_REQUESTS`."""

    def received_names(self) -> set[bytes]:
        """Return the names of all fields as received, and those that the sender declared as for the next peer only."""

    def any_line(self, search: Callable[[bytes], object]) -> bool:
        """Whether `search` finds something in the fields as they were received: lines `\\nName: value\\r`."""

    def drop_payload(self) -> None:
        """Hold the head alone from here on: nobody will ask for the body again."""


class ResponseHead(Head, Protocol):
    """The head of a response that was parsed and judged."""

    @property
    def status(self) -> int: ...

    @property
    def reason(self) -> bytes:
        """Reason phrase; empty in versions that have none."""

    @property
    def has_body(self) -> bool:
        """False for answers to HEAD, 1xx, 204, 304, and a length of 0."""

    @property
    def payload(self) -> bytes | None:
        """The whole body, where it came together with the head; None: it came otherwise, or there is none."""
