"""Heads of requests and responses in the terms of RFC 9110: the interface for filters, routing and the log.

`http1.parser` reads them, also those of HTTP/2, which are rendered as text. How a message was framed and its received
bytes (`raw`, `chunked`, `minor`, `connection_named`) concern only the connections and
forwarding, which passes the bytes of one connection on to another.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Protocol, final

from fastgw.http.fields import Fields

AS_DECLARED: Final = -3
"""Marker in place of the length of a body: it is framed as its head declares."""

class Head:
    """Shared parts of request and response heads."""

    DROPPED: ClassVar[frozenset[bytes]]
    """Lower-case names of fields that are hop-by-hop or re-serialized, and never forwarded."""
    raw: Final[bytes]
    """The head as received."""
    http2: Final[bool]
    """Whether it was received by HTTP/2, and rendered as HTTP/1.1 text."""
    made: Final[bool]
    """Whether it is the head of a request that the gateway makes itself."""
    minor: Final[int]
    """The digit after `HTTP/1.`: 0 or 1."""
    version: Final[int]
    """HTTP version times ten: 10, 11 or 20. Of a stand-in also the number of another protocol."""
    length: Final[int]
    """Content-Length; 0 if there is none."""
    chunked: Final[bool]
    body_length: Final[int | None]
    """Bytes of the body as declared; 0: there is none; None: unknown until its end."""
    close: Final[bool]
    """Whether the connection cannot be reused after this message and its response."""
    upgrade: Final[tuple[bytes, ...]]
    """Lower-case protocols that the sender offers to switch to; never h2c, and none with a body."""
    connection_named: Final[tuple[bytes, ...]]
    """Lower-case names of fields that `Connection` makes hop-by-hop, except those that always are."""
    whole: Final[bool]
    """Whether `payload` is not None."""
    payload: Final[bytes | None]
    """The whole body (empty if there is none), if it was received and checked with the head. None: see
    `http1.body.body_reader`."""

    def fields(self) -> Fields:
        """All fields except those that `Connection` names, parsed once. Changes to them are sent.

        The named ones are removed before anything is added: by `Connection` a sender can remove only its own fields.
        """

    def edited(self) -> Fields | None:
        """The fields if one of them was changed, otherwise None: the head can be sent as received."""

    def first(self, name: bytes) -> bytes | None:
        """Return the first value of the field with this lower-case name as in `fields`, without parsing the others."""

    def field(self, name: bytes) -> bytes | None:
        """Alias of `first`, as an exchange calls it."""

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of the field with this lower-case name as in `fields`, in order."""

@final
class RequestHead(Head):
    """A request head that was accepted by the parsers, or stands in for one (`http1.parser.stand_in_head`): then its
    text is made up, and it has no authority.
    """

    KNOWN: ClassVar[frozenset[bytes]]
    """Lower-case names of fields that the gateway processes by rules of their own, including those in `DROPPED`."""
    received_s: float
    """Seconds from the first byte of the head to its end; 0.0 if it came in one read. Set by the connection."""
    connect_protocol: Final[bytes]
    """`:protocol` of an extended CONNECT (RFC 8441), which requests a tunnel; empty: none."""
    method: Final[bytes]
    request_target: Final[bytes]
    """Path and query as sent; the whole URL for absolute-form."""
    scheme: Final[bytes]
    """`http` or `https` of an absolute-form target, otherwise empty."""
    authority: Final[bytes]
    """Host in lower case, its port as sent. Empty only if an HTTP/1.0 request has none."""
    host: Final[bytes]
    """Host in lower case, without port and last dot; an IPv6 address in its brackets."""
    host_as_sent: Final[bytes]
    """Host with its port as sent, without the colon of an empty port, which some servers refuse."""
    raw_path: Final[bytes]
    """The path as sent; `/` if an absolute-form target has none; `*` for asterisk-form; empty for CONNECT."""
    path: Final[bytes]
    """Normal form of the path."""
    path_as_sent: Final[bool]
    """Whether the path was received in its normal form."""
    query: Final[bytes | None]
    """Query after the first `?`; None without a `?`."""
    expects_continue: Final[bool]
    """Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1)."""
    accepts_trailers: Final[bool]
    """Whether the client accepts trailers of a response (`TE: trailers`, RFC 9110 section 10.1.4)."""
    sized: Final[bool]
    """Whether there is a Content-Length."""
    forwarded: Final[bool]
    """Whether it has fields in which proxies send the address of the client."""
    ordinary: Final[bool]
    """Whether the request was received as a whole (`payload`), and is `plain`."""
    plain: Final[bool]
    """Whether only the route of the request is still to be decided, and more of its body may follow.

    It is in origin-form and HTTP/1.1, and all servers interpret its path alike
    (`path_normalization.has_other_readings`). It requires nothing of a proxy except to close the connection
    (`close`), and `Connection` removes no fields.
    """

    def came_by_connect(self, protocol: bytes) -> None:
        """Record that the text was rendered from an extended CONNECT for this protocol."""

    def received_fields(self) -> Fields:
        """Return the fields as received, without later changes."""

    def received_values(self, name: bytes) -> list[bytes]:
        """Return the values of a field as received, even if it was changed since."""

    def received_names(self) -> set[bytes]:
        """Return the names of all fields as received, and those that `Connection` names."""

    def any_line(self, search: Callable[[bytes], object]) -> bool:
        """Whether `search` finds a match in the fields as received: lines `\\nName: value\\r`."""

    def drop_payload(self) -> None:
        """Release the body, which is no longer needed, and keep the head only."""

@final
class ResponseHead(Head):
    """A response head that was accepted by the parsers. `length` and `chunked` are as declared, also if no body
    follows (HEAD, 304) and they describe the response to a GET.
    """

    status: Final[int]
    reason: Final[bytes]
    """Reason phrase; empty in versions that have none."""
    until_close: Final[bool]
    """Whether the body ends with the connection."""
    has_body: Final[bool]
    """False for responses to HEAD, 1xx, 204, 304, and a Content-Length of 0."""
    payload_length: Final[int]
    """Bytes of `payload`; 0 also if it is None."""

class _Values(Protocol):
    def values(self, name: bytes, /) -> Sequence[bytes]: ...

def payload_of(head: RequestHead | ResponseHead) -> bytes | None:
    """Return `payload`; from typed modules by few instructions."""

def first_of(head: RequestHead | ResponseHead, name: bytes) -> bytes | None:
    """Return `first`; from typed modules by few instructions."""

def values_of(head: _Values, name: bytes) -> Sequence[bytes]:
    """Return `values` of a head, or of what stands for one."""

def has_field(head: RequestHead | ResponseHead, name: bytes) -> bool:
    """Whether a head was received with a field of this name, which is in lower case."""
