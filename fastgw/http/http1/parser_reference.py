"""Reference parser of heads: `parser` decides with it, or with the compiled module, which gives the same results.

Two parsers decide: `read_request` and `read_response`, and llhttp; both must accept the head and agree on whether a
body follows. Only the fields that a proxy has to process are parsed (`known`); the grammar of the others is checked,
and they are forwarded unchanged.
"""

import re
from collections.abc import Callable
from typing import ClassVar, Final, final

from httptools import HttpRequestParser, HttpResponseParser

from fastgw.http.authority import Authority, parse_authority
from fastgw.http.field_names import FORWARDING, HOP_BY_HOP, READ_IN_REQUESTS, WRITTEN_HERE
from fastgw.http.fields import Fields
from fastgw.http.grammar import TOKEN, VALUE, check_fields, elements
from fastgw.http.http1.body import (
    LONGEST_TRAILERS,
    MOST_TRAILERS,
    BodyReader,
    ChunkedReader,
    LengthReader,
    UntilCloseReader,
    plain_payload,
)
from fastgw.http.http1.known_fields import (
    Finder,
    Known,
    check_chunked_alone,
    connection_options,
    content_length,
    joined,
    protocols,
    values_in,
)
from fastgw.http.http1.llhttp import LongLivedParser, SecondParser, check_method, method_for_llhttp
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import has_other_readings, normalize

_BARE_LF: Final = re.compile(rb"\n(?<!\r\n)")


def body_buffer(size: int) -> memoryview:
    """Return a buffer to read bodies into. The bytes have to be taken at once, by `taken`.

    The compiled module returns the memory without a copy and allocates a new buffer; here the bytes are copied.
    """
    return memoryview(bytearray(size))


def leading_bytes(buffer: memoryview, length: int) -> bytes:
    """Return the first bytes of a buffer that was read into."""
    return buffer[:length].tobytes()


def find_head_end(buffer: bytes | bytearray, start: int = 0, begin: int = 0) -> int:
    """Return the index just past the first empty line, or -1 if it was not received yet.

    `begin`: start of the head in `buffer`; `start`: end of earlier searches. Raises `Malformed` at once if a bare LF
    shows that the head is invalid.
    """
    end = buffer.find(b"\r\n\r\n", max(begin, start - 3))
    if end >= 0:
        return end + 4
    if _BARE_LF.search(buffer, max(begin, start)):
        raise Malformed("A line ends with a bare LF.")
    return -1


class _Head:
    """Shared parts of request and response heads."""

    __slots__ = (
        "_fields",
        "_known",
        "_second_parser",
        "chunked",
        "close",
        "connect_protocol",
        "connection_named",
        "fields_start",
        "http2",
        "length",
        "minor",
        "payload",
        "raw",
        "upgrade",
    )

    DROPPED: ClassVar[frozenset[bytes]]
    """Lower-case names of fields that are hop-by-hop or re-serialized, and never forwarded."""
    KNOWN: ClassVar[frozenset[bytes]]
    """Lower-case names of all fields that `known` looks for, including those in `DROPPED`."""

    raw: bytes
    http2: bool
    """Whether it was received by HTTP/2, and rendered as HTTP/1.1 text."""
    connect_protocol: bytes
    """`:protocol` of an extended CONNECT (RFC 8441), which requests a tunnel; empty: none."""
    minor: int
    """The digit after `HTTP/1.`: 0 or 1."""
    fields_start: int
    """Offset of the first field line in `raw`."""
    length: int
    """Content-Length; 0 if there is none."""
    chunked: bool
    close: bool
    """Whether the connection cannot be reused after this message and its response."""
    upgrade: tuple[bytes, ...]
    """Lower-case protocols that the sender offers to switch to; never h2c, and none with a body."""
    connection_named: tuple[bytes, ...]
    """Lower-case names of fields that `Connection` makes hop-by-hop, except those that always are."""
    payload: bytes | None
    """The whole body (empty if there is none), if it was received and checked with the head. None: see `body`."""

    _FINDER: ClassVar[Finder]
    _fields: Fields | None
    _second_parser: SecondParser | None
    _known: Known | None

    @property
    def whole(self) -> bool:
        """Whether `payload` is not None."""
        return self.payload is not None

    @property
    def version(self) -> int:
        """HTTP version times ten: 10, 11 or 20."""
        return 20 if self.http2 else 10 + self.minor

    def came_by_http2(self) -> None:
        """Record that the text was rendered from HTTP/2."""
        self.http2 = True

    def came_by_connect(self, protocol: bytes) -> None:
        """Record that the text was rendered from an extended CONNECT for this protocol."""
        self.connect_protocol = protocol

    @property
    def body_length(self) -> int | None:
        """Bytes of the body as declared; 0: there is none; None: unknown until its end."""
        return None if self.chunked else self.length

    @property
    def known(self) -> Known:
        """Lines of the fields in `KNOWN`."""
        if self._known is None:
            self._known = self._FINDER.find(self.raw, self.fields_start)
        return self._known

    @known.setter
    def known(self, known: Known) -> None:
        self._known = known

    def fields(self) -> Fields:
        """All fields except those that `Connection` names, parsed once. Changes to them are sent.

        The named ones are removed before anything is added: by `Connection` a sender can remove only its own fields.
        """
        if self._fields is None:
            self._fields = Fields.parse(self.raw, self.fields_start, self.connection_named)
        return self._fields

    def edited(self) -> Fields | None:
        """The fields if one of them was changed, otherwise None: the head can be sent as received."""
        return self._fields if self._fields is not None and self._fields.changed else None

    def first(self, name: bytes) -> bytes | None:
        """Return the first value of the field with this lower-case name as in `fields`, without parsing the others."""
        if self._fields is not None:
            return self._fields.get(name)
        if self._known is not None:
            if name in self.connection_named:
                return None
            if name in self.KNOWN:
                lines = self._known.get(name)
                return lines[0][2] if lines else None
        return next(values_in(self.raw, name, self.fields_start - 1), None)

    field = first
    """Alias of `first`, as an exchange calls it."""

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of the field with this lower-case name as in `fields`, in order."""
        if self._fields is not None:
            return self._fields.get_all(name)
        if name in self.connection_named:
            return []
        if self._known is not None and name in self.KNOWN:
            return [value for _, _, value in self._known.get(name, ())]
        return [*values_in(self.raw, name, self.fields_start - 1)]


_EXTRAORDINARY: Final = frozenset(b"expect max-forwards te transfer-encoding upgrade".split())
_EXTRAORDINARY_BY_HTTP2: Final = _EXTRAORDINARY - {b"te", b"transfer-encoding"}
"""The same over HTTP/2: it frames the body, and `TE` is allowed, which every gRPC call has."""
_ANSWERED_HERE: Final = frozenset((b"OPTIONS", b"TRACE"))
"""Methods of requests that the gateway answers itself, or may answer: a preflight for another route."""


@final
class Http1RequestHead(_Head):
    """A request head that was accepted by both parsers."""

    __slots__ = (
        "accepts_trailers",
        "authority",
        "expects_continue",
        "host",
        "host_as_sent",
        "method",
        "ordinary",
        "path",
        "query",
        "raw_path",
        "received_s",
        "request_target",
        "scheme",
        "sized",
    )

    DROPPED = WRITTEN_HERE
    KNOWN = READ_IN_REQUESTS
    _FINDER = Finder(KNOWN, refuse_twins=True)

    method: bytes
    request_target: bytes
    scheme: bytes
    """`http` or `https` of an absolute-form target, otherwise empty."""
    authority: bytes
    """Host in lower case, its port as sent. Empty only if an HTTP/1.0 request has none."""
    host: bytes
    """Host in lower case, without port and last dot; an IPv6 address in its brackets."""
    host_as_sent: bytes
    raw_path: bytes
    """The path as sent; `/` if an absolute-form target has none; `*` for asterisk-form; empty for CONNECT."""
    path: bytes
    """Normal form of the path."""
    query: bytes | None
    """Query after the first `?`; None without a `?`."""
    expects_continue: bool
    accepts_trailers: bool
    sized: bool
    """Whether there is a Content-Length."""
    received_s: float
    """Seconds from the first byte of the head to its end; 0.0 if it came in one read. Set by the connection."""
    ordinary: bool
    """Whether the request was received as a whole (`payload`), and only its route is still to be decided.

    It is in origin-form and HTTP/1.1, and all servers interpret its path alike
    (`path_normalization.has_other_readings`). It requires nothing of a proxy (`_EXTRAORDINARY`, `_ANSWERED_HERE`)
    except to close the connection (`close`), and `Connection` removes no fields.
    """

    @property
    def path_as_sent(self) -> bool:
        """Whether the path was received in its normal form."""
        return self.raw_path == self.path

    @property
    def forwarded(self) -> bool:
        """Whether it has fields in which proxies send the address of the client."""
        return not FORWARDING.isdisjoint(self.known)

    def received_fields(self) -> Fields:
        """Return the fields as received, without later changes."""
        return Fields.parse(self.raw, self.fields_start, self.connection_named)

    def received_values(self, name: bytes) -> list[bytes]:
        """Return the values of a field as received, even if it was changed since. `name`: one of `KNOWN`."""
        return [value for _, _, value in self.known.get(name, ())]

    def received_names(self) -> set[bytes]:
        """Return the names of all fields as received, and those that `Connection` names."""
        return {*self.connection_named, *(name for name, _ in Fields.parse(self.raw, self.fields_start))}

    def any_line(self, search: Callable[[bytes], object]) -> bool:
        """Whether `search` finds a match in the fields as received: lines `\\nName: value\\r`."""
        return search(self.raw) is not None

    def body(self, longest_trailers: int = LONGEST_TRAILERS, most_trailers: int = MOST_TRAILERS) -> BodyReader:
        """Return the reader for the bytes after the head if `payload` is None. Call it once: it continues the second
        parser.
        """
        if self.chunked:
            assert self._second_parser is not None
            return ChunkedReader(self._second_parser, longest_trailers, most_trailers)
        return LengthReader(self.length, self._second_parser)

    def drop_payload(self) -> None:
        """Release the body, which is no longer needed, and keep the head only."""
        self.payload = None
        self.ordinary = False

    def __repr__(self) -> str:
        return f"<Http1RequestHead {self.method.decode('ascii')}, {_framing_text(self)}>"


@final
class Http1ResponseHead(_Head):
    """A response head that was accepted by both parsers. `length` and `chunked` are as declared, also if no body
    follows (HEAD, 304) and they describe the response to a GET.
    """

    __slots__ = ("has_body", "reason", "status", "until_close")

    DROPPED = HOP_BY_HOP
    KNOWN = DROPPED | frozenset(b"date server trailer via x-request-id".split())
    _FINDER = Finder(KNOWN, refuse_twins=False)

    status: int
    reason: bytes
    until_close: bool
    """Whether the body ends with the connection."""
    has_body: bool
    """False for responses to HEAD, 1xx, 204, 304, and a Content-Length of 0."""

    @property
    def body_length(self) -> int | None:
        """Bytes of the body as declared; 0: there is none; None: unknown until its end."""
        return None if self.chunked or self.until_close else self.length

    @property
    def payload_length(self) -> int:
        """Bytes of `payload`; 0 also if it is None."""
        return len(self.payload or b"")

    def body(self, longest_trailers: int = LONGEST_TRAILERS, most_trailers: int = MOST_TRAILERS) -> BodyReader:
        """Return the reader for the bytes after the head if `payload` is None. Call it once: it continues the second
        parser.
        """
        if not self.has_body:
            return LengthReader(0, None)
        assert self._second_parser is not None
        if self.chunked:
            return ChunkedReader(self._second_parser, longest_trailers, most_trailers)
        if self.until_close:
            return UntilCloseReader(self._second_parser)
        return LengthReader(self.length, self._second_parser)

    def __repr__(self) -> str:
        return f"<Http1ResponseHead {self.status}, {_framing_text(self)}>"


def _framing_text(head: _Head) -> str:
    return "chunked" if head.chunked else f"length {head.length}"


# --- requests ---

_LONGEST_METHOD: Final = 32

_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb"{1,%d}+) ([!\"$-~]++) HTTP/1\.([01])\r\n" % _LONGEST_METHOD)
_OTHER_VERSION: Final = re.compile(TOKEN + rb"{1,%d}+ [!\"$-~]++ HTTP/[0-9]\.[0-9]\r\n" % _LONGEST_METHOD)
_ABSOLUTE_FORM: Final = re.compile(rb"(https?)://([^/?]*+)(.*)", re.IGNORECASE)
_LONG_LIVED: Final = LongLivedParser(HttpRequestParser)


def parse_request(raw: bytes, max_fields: int = 100) -> Http1RequestHead:
    """Parse and check exactly one request head, from its first byte to its empty line. Raises `Malformed`."""
    return _parsed_again(read_request(raw, max_fields), raw)


def read_http2_request(raw: bytes, max_fields: int, payload: bytes | None) -> Http1RequestHead:
    """Parse a request head that was received by HTTP/2 and rendered; its second parser is nghttp2. Raises `Malformed`.

    nghttp2 accepts any method: those that llhttp rejects over HTTP/1.1 are rejected here.
    `payload`: its body, if all of the request was received. None: its end arrives by HTTP/2 too, also after a declared
    length of 0, which trailers may follow.
    """
    head = read_request(raw, max_fields)
    check_method(head.method)
    head.came_by_http2()
    head.payload = payload if payload is None or head.length or head.chunked else b""
    head.ordinary = (
        head.payload is not None
        and _is_ordinary(head, _EXTRAORDINARY_BY_HTTP2)
        and (b"te" not in head.known or head.accepts_trailers)
    )
    return head


def _parsed_again(head: Http1RequestHead, received: bytes) -> Http1RequestHead:
    """Parse the head again with llhttp, and its body if the bytes after the head are exactly its body."""
    method = method_for_llhttp(head.method)
    if not head.length and not head.chunked:
        head.payload = b""
        raw = head.raw
        _second_request_parser(head).head(raw if method is head.method else method + raw[len(head.method) :])
        return head
    end = len(head.raw)
    message = _as_llhttp_takes_it(head)
    if method is not head.method:
        message = method + message[len(head.method) :]
    if not head.chunked and head.length == len(received) - end:
        head.payload = received[end:]
        _second_request_parser(head).whole(received if message is head.raw else message + head.payload)
    else:
        head.ordinary = False
        head._second_parser = SecondParser(HttpRequestParser)
        head._second_parser.head(message, body_follows=True)
    return head


def _second_request_parser(head: Http1RequestHead) -> LongLivedParser:
    """Return the second parser for a message that was received as a whole. After a message that closes the connection
    llhttp cannot be used again.
    """
    return LongLivedParser(HttpRequestParser) if head.close else _LONG_LIVED


def read_request(raw: bytes, max_fields: int) -> Http1RequestHead:
    """Parse a request head with the first parser only. Raises `Malformed`."""
    line = _REQUEST_LINE.match(raw)
    if line is None:
        if _OTHER_VERSION.match(raw):
            raise Malformed("The HTTP version is neither HTTP/1.0 nor HTTP/1.1.", 505)
        if raw.startswith((b"\r\n", b"\n")):  # the connection has ignored one, as RFC 9112 section 2.2 asks for
            raise Malformed("The request line is malformed: there is an empty line before the request line.")
        raise Malformed("The request line is malformed.")
    head = Http1RequestHead()
    head.received_s = 0.0
    head.http2 = False
    head.connect_protocol = b""
    head.raw = raw
    head._fields = head._second_parser = head.payload = None
    head.method, target, minor = line.groups()
    head.request_target = target
    head.minor = 1 if minor == b"1" else 0
    head.fields_start = start = line.end()
    check_fields(raw, start, max_fields)
    head.known = known = head._FINDER.find(raw, start)

    host = _one_host(known, head.minor)
    head.host_as_sent = known[b"host"][0][2].removesuffix(b":") if host else b""
    head.authority = host.text if host else b""
    head.host = host.host if host else b""
    if target.startswith(b"/") and head.method != b"CONNECT":
        head.scheme = b""
        head.raw_path, mark, query = target.partition(b"?")
        head.query = query if mark else None
        head.path = normalize(head.raw_path)
    else:
        _read_other_target(head, target, host)

    closing, keep_alive, upgrading, head.connection_named = connection_options(known)
    head.close = closing or (head.minor == 0 and not keep_alive) or head.method == b"CONNECT"
    head.sized = b"content-length" in known
    head.length, head.chunked = _request_framing(head)
    head.upgrade = ()
    if b"upgrade" in known and upgrading and head.minor == 1 and not head.length and not head.chunked:
        head.upgrade = protocols(known)
    head.accepts_trailers = b"te" in known and b"trailers" in elements(joined(known, b"te"))
    head.expects_continue = b"expect" in known and _expects_continue(head)
    head.ordinary = _is_ordinary(head, _EXTRAORDINARY)
    return head


def _is_ordinary(head: Http1RequestHead, extraordinary: frozenset[bytes]) -> bool:
    """Whether a head is ordinary, as far as its body is not concerned (`Http1RequestHead.ordinary`)."""
    return (
        head.minor == 1
        and head.request_target.startswith(b"/")
        and head.method not in _ANSWERED_HERE
        and not head.connection_named
        and head.known.keys().isdisjoint(extraordinary)
        and not has_other_readings(head.raw_path)
    )


def _one_host(known: Known, minor: int) -> Authority | None:
    """Return the only Host (RFC 9112 section 3.2); None if an HTTP/1.0 request has none."""
    hosts = known.get(b"host")
    if hosts is None:
        if minor:
            raise Malformed("The Host header is missing.")
        return None
    if len(hosts) > 1:
        raise Malformed("There is more than one Host header.")
    return parse_authority(hosts[0][2])


def _read_other_target(head: Http1RequestHead, target: bytes, host: Authority | None) -> None:
    """Parse a target that is not in origin-form (RFC 9112 sections 3.2.2 to 3.2.4)."""
    head.scheme = b""
    head.query = None
    if head.method == b"CONNECT":
        authority = parse_authority(target)
        if authority.port is None or authority != host:
            raise Malformed("The target of CONNECT is not host:port, or differs from the Host header.")
        head.raw_path = head.path = b""
    elif target == b"*":
        if head.method != b"OPTIONS":
            raise Malformed("The request target * is allowed for OPTIONS only.")
        head.raw_path = head.path = b"*"
    else:
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        if absolute is None:
            raise Malformed("The request target is malformed.")
        scheme, authority_text, path_and_query = absolute.groups()
        head.scheme = scheme.lower()
        if host is None or not parse_authority(authority_text).same_as(host, head.scheme):
            raise Malformed("The Host header and the request target name different hosts.")
        raw_path, mark, query = path_and_query.partition(b"?")
        head.query = query if mark else None
        if not path_and_query and head.method == b"OPTIONS":
            head.raw_path = head.path = b"*"  # the form to forward (RFC 9112 section 3.2.4)
        else:
            head.raw_path = raw_path or b"/"
            head.path = normalize(head.raw_path)


def _request_framing(head: Http1RequestHead) -> tuple[int, bool]:
    """Length and whether chunked (RFC 9112 section 6.3)."""
    known = head.known
    if b"transfer-encoding" in known:
        if b"content-length" in known:
            raise Malformed("Transfer-Encoding and Content-Length are mutually exclusive.")
        codings = elements(joined(known, b"transfer-encoding"))
        if head.minor == 0:
            raise Malformed("Transfer-Encoding is not allowed in HTTP/1.0.")
        if codings[-1:] == [b"chunked"] and len(codings) > 1 and codings.count(b"chunked") == 1:
            raise Malformed("The only supported transfer coding is chunked.", 501)
        check_chunked_alone(known)
        framing = 0, True
    elif b"content-length" in known:
        framing = content_length(known), False
    else:
        return 0, False
    if head.method == b"CONNECT":
        raise Malformed("A CONNECT request cannot have a body.")
    return framing


def _expects_continue(head: Http1RequestHead) -> bool:
    """Parse `Expect` (RFC 9110 section 10.1.1): it is ignored with HTTP/1.0, and so is any other value, as by peers."""
    return head.minor == 1 and elements(joined(head.known, b"expect")) == [b"100-continue"]


def _as_llhttp_takes_it(head: Http1RequestHead | Http1ResponseHead) -> bytes:
    """Return the head for llhttp, without two things that it interprets differently from the RFCs.

    It treats an offer to upgrade as the end of HTTP, although the body of the request comes first; and it refuses the
    legal white space after `chunked`. `read_request` and `read_response` have handled both.
    """
    raw = head.raw
    if not head.chunked and b"upgrade" not in head.known:
        return raw
    edits = [] if head.upgrade else [(start, end, b"") for start, end, _ in head.known.get(b"upgrade", ())]
    edits += [
        (start, end, b"Transfer-Encoding: chunked\r\n")
        for start, end, _ in head.known.get(b"transfer-encoding", ())
        if raw[end - 3] in b" \t"
    ]
    for start, end, line in sorted(edits, reverse=True):
        raw = raw[:start] + line + raw[end:]
    return raw


def take_request(buffer: memoryview, length: int, max_bytes: int, max_fields: int) -> Http1RequestHead | bytes:
    """Parse the next request of a connection in a buffer, if the buffer holds exactly a head of up to `max_bytes`, or a
    head with its body (`whole`).

    Otherwise, and for an invalid request, return the bytes: they have to be processed step by step.
    """
    received = buffer[:length].tobytes()
    end = received.find(b"\r\n\r\n") + 4
    if not 4 <= end <= max_bytes:
        return received
    try:
        head = read_request(received[:end], max_fields)
        if end == length or (head.length == length - end and not head.chunked):
            return _parsed_again(head, received)
    except Malformed:
        pass
    return received


# --- responses ---

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: (" + VALUE + rb"*+))?\r\n")
LAST_STATUS: Final = 599
"""Largest status that HTTP defines (RFC 9110 section 15)."""
LAST_TOLERATED_STATUS: Final = 999
_LONG_LIVED_FOR_RESPONSES: Final = LongLivedParser(HttpResponseParser)


def parse_response(raw: bytes, request_method: bytes, max_fields: int = 100) -> Http1ResponseHead:
    """Parse and check exactly one response head, final or interim, of those that the gateway has rendered: it may have
    a status that was tolerated. Raises `Malformed`: the following bytes cannot be parsed then.
    """
    return parse_answer(raw, len(raw), request_method, max_fields, LAST_TOLERATED_STATUS)


def parse_answer(
    received: bytes, end: int, request_method: bytes, max_fields: int = 100, last_status: int = LAST_STATUS
) -> Http1ResponseHead:
    """Parse and check the response head before `end`, and the body after it if it ends where `received` ends.

    Raises `Malformed`, also for a status above `last_status`. See `Http1ResponseHead.payload`.
    """
    head = read_response(received[:end], request_method, max_fields, last_status)
    head.payload = _whole_payload(head, received)
    _parse_response_again(head, received, request_method)
    return head


def read_http2_response(received: bytes, end: int, request_method: bytes, max_fields: int) -> Http1ResponseHead:
    """Parse a response like `parse_answer` that was received by HTTP/2 and rendered; its second parser is nghttp2.

    Its body is never parsed again. Raises `Malformed`.
    """
    head = read_response(received[:end], request_method, max_fields)
    head.payload = _whole_payload(head, received)
    head.came_by_http2()
    return head


def _whole_payload(head: Http1ResponseHead, received: bytes) -> bytes | None:
    """Return the body, if it ends where `received` ends."""
    end = len(head.raw)
    if not head.has_body:
        return b"" if len(received) == end else None
    if head.chunked:
        return plain_payload(received, end)
    return received[end:] if not head.until_close and head.length == len(received) - end else None


def _parse_response_again(head: Http1ResponseHead, received: bytes, request_method: bytes) -> None:
    """Parse the head again with llhttp, and `payload`, if that is not None."""
    message = _as_llhttp_takes_it(head)
    if request_method == b"HEAD":
        SecondParser(HttpResponseParser).head(message, body_follows=None)
    elif not head.has_body:
        _second_response_parser(head).head(message)
    elif head.payload is not None:
        _second_response_parser(head).whole(received if message is head.raw else message + received[len(head.raw) :])
    else:
        head._second_parser = SecondParser(HttpResponseParser)
        head._second_parser.head(message, body_follows=True)


def _second_response_parser(head: Http1ResponseHead) -> LongLivedParser:
    """Return the second parser for a message that was received as a whole. After a message that closes the connection
    or switches protocols llhttp cannot be used again.
    """
    return LongLivedParser(HttpResponseParser) if head.close or head.upgrade else _LONG_LIVED_FOR_RESPONSES


def read_response(
    raw: bytes, request_method: bytes, max_fields: int, last_status: int = LAST_STATUS
) -> Http1ResponseHead:
    """Parse a response head with the first parser only. Raises `Malformed`."""
    line = _STATUS_LINE.match(raw)
    if line is None or int(line[2]) > last_status:
        raise Malformed("The status line is malformed.")
    head = Http1ResponseHead()
    head.http2 = False
    head.connect_protocol = b""
    head.raw = raw
    head._fields = head._second_parser = head.payload = None
    minor, status_text, reason = line.groups()
    head.minor = 1 if minor == b"1" else 0
    head.status = status = int(status_text)
    head.reason = reason or b""
    head.fields_start = start = line.end()
    check_fields(raw, start, max_fields)
    head.known = known = head._FINDER.find(raw, start)

    closing, keep_alive, upgrading, head.connection_named = connection_options(known)
    head.close = closing or (head.minor == 0 and not keep_alive)
    head.upgrade = protocols(known) if status == 101 and upgrading else ()
    if status == 101 and not head.upgrade:
        raise Malformed("A 101 response has no Upgrade header.")
    head.chunked = b"transfer-encoding" in known
    if head.chunked:
        if b"content-length" in known:
            raise Malformed("Transfer-Encoding and Content-Length are mutually exclusive.")
        if head.minor == 0:
            raise Malformed("Transfer-Encoding is not allowed in HTTP/1.0.")
        check_chunked_alone(known)
    head.length = content_length(known) if b"content-length" in known else 0
    _settle_response_body(head, request_method)
    return head


def _settle_response_body(head: Http1ResponseHead, request_method: bytes) -> None:
    """Determine the framing of the body (RFC 9112 section 6.3). 205 is no exception: its body is forwarded as
    framed.
    """
    declared = head.chunked or head.length > 0
    head.has_body = head.until_close = False
    if head.status < 200:
        if declared:
            raise Malformed("An interim (1xx) response has a body.")  # it could also be the final response
    elif head.status == 204:
        head.close = head.close or declared  # the following bytes belong to no request
    elif request_method != b"HEAD" and head.status != 304:
        head.until_close = not head.chunked and b"content-length" not in head.known
        head.has_body = declared or head.until_close
        head.close = head.close or head.until_close


def take_answer(
    buffer: memoryview, length: int, request_method: bytes, max_fields: int = 100
) -> Http1ResponseHead | bytes:
    """Parse the response to a request in a buffer, if the buffer holds exactly one final response (`whole`).

    Otherwise, and for an invalid one, return the bytes; also if the buffer is full, because more may follow.
    """
    received = buffer[:length].tobytes()
    end = received.find(b"\r\n\r\n") + 4
    if length == len(buffer) or end < 4:
        return received
    try:
        head = read_response(received[:end], request_method, max_fields)
        head.payload = _whole_payload(head, received)
        if head.whole and head.status >= 200:
            _parse_response_again(head, received, request_method)
            return head
    except Malformed:
        pass
    return received
