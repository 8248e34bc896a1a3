"""Parser of request and response heads: what they mean, and how the body after them ends (RFC 9112 sections 2 to 6).

An ambiguous head is rejected, not repaired. Two parsers decide: this one, and llhttp (`second_parser`); both must
accept the head and agree on whether a body follows. Only the fields that a proxy has to process are parsed (`known`);
the grammar of the others is checked, and they are forwarded unchanged.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Protocol, Self, final

from fastgw.http.fields import Fields
from fastgw.http.http1.body import BodyReader
from fastgw.http.http1.known_fields import Known
from fastgw.http.messages import RequestHead, ResponseHead

LAST_STATUS: Final = 599
"""Largest status that HTTP defines (RFC 9110 section 15)."""
LAST_TOLERATED_STATUS: Final = 999

class _Head:
    """Shared parts of request and response heads."""

    DROPPED: ClassVar[frozenset[bytes]]
    """Lower-case names of fields that are hop-by-hop or re-serialized, and never forwarded."""
    KNOWN: ClassVar[frozenset[bytes]]
    """Lower-case names of all fields that `known` looks for, including those in `DROPPED`."""

    @property
    def raw(self) -> bytes:
        """The head as received."""

    @property
    def http2(self) -> bool:
        """Whether it was received by HTTP/2, and rendered as HTTP/1.1 text."""

    @property
    def made(self) -> bool:
        """Whether it is the head of a request that the gateway makes itself."""

    @property
    def minor(self) -> int:
        """The digit after `HTTP/1.`: 0 or 1."""

    @property
    def version(self) -> int:
        """HTTP version times ten: 10, 11 or 20."""

    @property
    def fields_start(self) -> int:
        """Offset of the first field line in `raw`."""

    @property
    def length(self) -> int:
        """Content-Length; 0 if there is none."""

    @property
    def chunked(self) -> bool: ...
    @property
    def body_length(self) -> int | None:
        """Bytes of the body as declared; 0: there is none; None: unknown until its end."""

    @property
    def close(self) -> bool:
        """Whether the connection cannot be reused after this message and its response."""

    @property
    def upgrade(self) -> tuple[bytes, ...]:
        """Lower-case protocols that the sender offers to switch to; never h2c, and none with a body."""

    @property
    def connection_named(self) -> tuple[bytes, ...]:
        """Lower-case names of fields that `Connection` makes hop-by-hop, except those that always are."""

    @property
    def whole(self) -> bool:
        """Whether `payload` is not None."""

    @property
    def payload(self) -> bytes | None:
        """The whole body (empty if there is none), if it was received and checked with the head. None: see `body`."""

    @property
    def known(self) -> Known:
        """Lines of the fields in `KNOWN`."""

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

    def copy(self, fields: Fields | None = None) -> Self:
        """Return a copy, whose fields are changed apart from these. It is not forwarded. `fields`: its own ones."""

@final
class Http1RequestHead(_Head):
    """A request head that was accepted by both parsers."""

    received_s: float
    """Seconds from the first byte of the head to its end; 0.0 if it came in one read. Set by the connection."""

    @property
    def connect_protocol(self) -> bytes:
        """`:protocol` of an extended CONNECT (RFC 8441), which requests a tunnel; empty: none."""

    @property
    def method(self) -> bytes: ...
    @property
    def request_target(self) -> bytes: ...
    @property
    def scheme(self) -> bytes:
        """`http` or `https` of an absolute-form target, otherwise empty."""

    @property
    def authority(self) -> bytes:
        """Host in lower case, its port as sent. Empty only if an HTTP/1.0 request has none."""

    @property
    def host(self) -> bytes:
        """Host in lower case, without port and last dot; an IPv6 address in its brackets."""

    @property
    def host_as_sent(self) -> bytes: ...
    @property
    def raw_path(self) -> bytes:
        """The path as sent; `/` if an absolute-form target has none; `*` for asterisk-form; empty for CONNECT."""

    @property
    def path(self) -> bytes:
        """Normal form of the path."""

    @property
    def path_as_sent(self) -> bool:
        """Whether the path was received in its normal form."""

    @property
    def query(self) -> bytes | None:
        """Query after the first `?`; None without a `?`."""

    @property
    def expects_continue(self) -> bool: ...
    @property
    def accepts_trailers(self) -> bool: ...
    @property
    def sized(self) -> bool:
        """Whether there is a Content-Length."""

    @property
    def forwarded(self) -> bool:
        """Whether it has fields in which proxies send the address of the client."""

    @property
    def ordinary(self) -> bool:
        """Whether the request was received as a whole (`payload`), and is `plain`."""

    @property
    def plain(self) -> bool:
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
        """Return the values of a field as received, even if it was changed since. `name`: one of `KNOWN`."""

    def received_names(self) -> set[bytes]:
        """Return the names of all fields as received, and those that `Connection` names."""

    def any_line(self, search: Callable[[bytes], object]) -> bool:
        """Whether `search` finds a match in the fields as received: lines `\\nName: value\\r`."""

    def body(self, longest_trailers: int = ..., most_trailers: int = ...) -> BodyReader:
        """Return the reader for the bytes after the head if `payload` is None. Call it once: it continues the second
        parser.
        """

    def drop_payload(self) -> None:
        """Release the body, which is no longer needed, and keep the head only."""

@final
class Http1ResponseHead(_Head):
    """A response head that was accepted by both parsers. `length` and `chunked` are as declared, also if no body
    follows (HEAD, 304) and they describe the response to a GET.
    """

    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> bytes: ...
    @property
    def until_close(self) -> bool:
        """Whether the body ends with the connection."""

    @property
    def has_body(self) -> bool:
        """False for responses to HEAD, 1xx, 204, 304, and a Content-Length of 0."""

    @property
    def payload_length(self) -> int:
        """Bytes of `payload`; 0 also if it is None."""

    def body(self, longest_trailers: int = ..., most_trailers: int = ...) -> BodyReader:
        """Return the reader for the bytes after the head if `payload` is None. Call it once: it continues the second
        parser.
        """

def body_buffer(size: int) -> memoryview:
    """Return a buffer to read bodies into. The bytes have to be taken at once, by `leading_bytes`, which returns the
    memory without a copy.
    """

def leading_bytes(buffer: memoryview, length: int) -> bytes:
    """Return the first bytes of a buffer that was read into."""

def find_head_end(buffer: bytes | bytearray, start: int = 0, begin: int = 0) -> int:
    """Return the index just past the first empty line, or -1 if it was not received yet.

    `begin`: start of the head in `buffer`; `start`: end of earlier searches. Raises `Malformed` at once if a bare LF
    shows that the head is invalid.
    """

def make_request(method: bytes, target: bytes, authority: bytes, lines: bytes) -> Http1RequestHead:
    """Return the head of a request that the gateway makes itself, which `made_request.build_request` says more of.

    `authority`: b"": there is none. `lines`: valid field lines, without `Host`, with those that frame the body. Raises
    `Malformed`.
    """

def stand_in_head(
    method: bytes,
    host: bytes = b"",
    raw_path: bytes = b"",
    query: bytes | None = None,
    lines: bytes = b"",
    version: int = 11,
) -> Http1RequestHead:
    """Return what is logged as the head of a request that could not be parsed, or of a connection without requests. It
    has no authority but `host`, no path that is routed, and no body.

    `lines`: field lines. `version`: HTTP version times ten, or the number of another protocol. Raises `ValueError` for
    malformed lines.
    """

def parse_request(raw: bytes, max_fields: int = 100) -> Http1RequestHead:
    """Parse and check exactly one request head, from its first byte to its empty line. Raises `Malformed`."""

def read_request(raw: bytes, max_fields: int) -> Http1RequestHead:
    """Parse a request head with the first parser only. Raises `Malformed`."""

def read_http2_request(raw: bytes, max_fields: int, payload: bytes | None) -> Http1RequestHead:
    """Parse a request head that was received by HTTP/2 and rendered; its second parser is nghttp2. Raises `Malformed`.

    nghttp2 accepts any method: those that llhttp rejects over HTTP/1.1 are rejected here.
    `payload`: its body, if all of the request was received. None: its end arrives by HTTP/2 too, also after a declared
    length of 0, which trailers may follow.
    """

def take_request(buffer: memoryview, length: int, max_bytes: int, max_fields: int) -> Http1RequestHead | bytes:
    """Parse the next request of a connection in a buffer, if the buffer holds exactly a head of up to `max_bytes`, or a
    head with its body (`whole`), or with the beginning of a body whose length it declares (`take_begun`).

    Otherwise, and for an invalid request, return the bytes: they have to be processed step by step.
    """

def take_begun(head: Http1RequestHead) -> bytes | None:
    """Return the beginning of the body that `take_request` has received with a head, once. None: there is none, or all
    of the body was received.
    """

def parse_answer(
    received: bytes, end: int, request_method: bytes, max_fields: int = 100, last_status: int = LAST_STATUS
) -> Http1ResponseHead:
    """Parse and check the response head before `end`, and the body after it if it ends where `received` ends.

    Raises `Malformed`, also for a status above `last_status`. See `Http1ResponseHead.payload`.
    """

def read_response(
    raw: bytes, request_method: bytes, max_fields: int, last_status: int = LAST_STATUS
) -> Http1ResponseHead:
    """Parse a response head with the first parser only. Raises `Malformed`."""

def read_http2_response(received: bytes, end: int, request_method: bytes, max_fields: int) -> Http1ResponseHead:
    """Parse a response like `parse_answer` that was received by HTTP/2 and rendered; its second parser is nghttp2.

    Its body is never parsed again. Raises `Malformed`.
    """

def parse_response(raw: bytes, request_method: bytes, max_fields: int = 100) -> Http1ResponseHead:
    """Parse and check exactly one response head, final or interim, of those that the gateway has rendered: it may have
    a status that was tolerated. Raises `Malformed`: the following bytes cannot be parsed then.
    """

def take_answer(
    buffer: memoryview, length: int, request_method: bytes, max_fields: int = 100
) -> Http1ResponseHead | bytes:
    """Parse the response to a request in a buffer, if the buffer holds exactly one final response (`whole`).

    Otherwise, and for an invalid one, return the bytes; also if the buffer is full, because more may follow.
    """

class _Values(Protocol):
    def values(self, name: bytes, /) -> Sequence[bytes]: ...

class _Fields(_Values, Protocol):
    def first(self, name: bytes, /) -> bytes | None: ...

def payload_of(head: Http1RequestHead | Http1ResponseHead) -> bytes | None:
    """Return `payload`; from typed modules by few instructions."""

def first_of(head: _Fields, name: bytes) -> bytes | None:
    """Return `first` of any head."""

def values_of(head: _Values, name: bytes) -> Sequence[bytes]:
    """Return `values` of any head."""

def has_field(head: Http1RequestHead | Http1ResponseHead, name: bytes) -> bool:
    """Whether a head was received with a field of this name, which is in lower case."""
