# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Parser of heads, in one pass.

Values with a grammar of their own that are seldom anything but usual (`Connection`, a host with
capital letters) are parsed by plain Python if they are.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.limits cimport INT_MAX
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcmp

from fastgw.http.http1.body cimport BodyBuffer, plain_payload
from fastgw.http.http1.second_parser cimport UNKNOWN, SecondParser
from fastgw.http.messages cimport (
    CONNECTION, CONTENT_LENGTH, DIGIT, EXPECT, HOST, HOST_NAME, MAX_FORWARDS, PLAIN_PATH, TARGET, TE, TOKEN,
    TRANSFER_ENCODING, UPGRADE, Head, Line, RequestHead, ResponseHead, Span, all_values, bit_of, cut, cut_off_payload,
    has_one_line, kinds, line_end, line_of, payload_of, read_fields,
)

import re

from httptools import HttpRequestParser, HttpResponseParser

from fastgw.http.authority import parse_authority
from fastgw.http.fields import Fields
from fastgw.http.grammar import TOKEN as _TOKEN
from fastgw.http.grammar import check_fields
from fastgw.http.http1.known_fields import connection_options, members, protocols
from fastgw.http.http1.methods import method_for_llhttp
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import has_other_readings, normalize

LAST_STATUS = 599
LAST_TOLERATED_STATUS = 999

cdef extern from "../_bytes.h" nogil:
    const uint8_t* segments_end(const uint8_t* at, const uint8_t* end)
    const uint8_t* target_end(const uint8_t* at, const uint8_t* end)
    bint is_name(const uint8_t* token, const uint8_t* name, size_t length)
    const uint8_t* value_end(const uint8_t* at, const uint8_t* end)
    const uint8_t* empty_line_end(const uint8_t* at, const uint8_t* end)


cdef bint _refuse_fields(Head head, Py_ssize_t end, int max_fields) except -1:
    """Raise the `Malformed` that says what is wrong with the lines of a head before `end`."""
    check_fields(head.source[:end], head.first_line, max_fields)
    raise AssertionError("fields that were refused are well-formed")


cdef inline bint _is(const uint8_t* text, Span span, const char* word, Py_ssize_t length) noexcept nogil:
    """Whether a value equals this lower-case word, ignoring case."""
    return span.length == length and is_name(text + span.start, <const uint8_t*>word, length)


cdef bint _settle_connection(Head head) except -1:
    """Determine `close` and the names that `Connection` lists. Returns whether it lists `Upgrade`."""
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef Span value
    cdef bint keep_alive = False
    if head.names & bit_of(CONNECTION):
        value = line_of(head, bit_of(CONNECTION)).value
        head.close = _is(text, value, b"close", 5)
        keep_alive = not head.close and _is(text, value, b"keep-alive", 10)
        if head.repeated & bit_of(CONNECTION) or not (head.close or keep_alive):
            return _read_connection_options(head)
    if not head.minor and not keep_alive:
        head.close = True
    return False


cdef bint _read_connection_options(Head head) except -1:
    head.close, keep_alive, upgrading, named = connection_options(all_values(head, b"connection"))
    if not head.minor and not keep_alive:
        head.close = True
    if named:
        head.connection_named = named
        head._fields = Fields.parse(head.raw, head.first_line, named)
    return upgrading


cdef int _settle_framing(Head head, bint request) except -1:
    """Determine `length` and `chunked` (RFC 9112 section 6.3)."""
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef Line* line
    cdef uint32_t place
    cdef uint8_t digit
    if head.names & bit_of(TRANSFER_ENCODING):
        if head.names & bit_of(CONTENT_LENGTH):
            raise Malformed("Transfer-Encoding and Content-Length are mutually exclusive.")
        if not head.minor:
            raise Malformed("Transfer-Encoding is not allowed in HTTP/1.0.")
        line = line_of(head, bit_of(TRANSFER_ENCODING))
        if head.repeated & bit_of(TRANSFER_ENCODING) or not _is(text, line.value, b"chunked", 7):
            return _refuse_codings(head, request)
        head.chunked = True
    elif head.names & bit_of(CONTENT_LENGTH):
        if head.repeated & bit_of(CONTENT_LENGTH):  # equal ones too, as in llhttp (RFC 9110 section 8.6)
            raise Malformed("There is more than one Content-Length header.")
        line = line_of(head, bit_of(CONTENT_LENGTH))
        # 18 digits are below 2**63, so no parser overflows.
        if not 1 <= line.value.length <= 18:
            raise Malformed("Content-Length is not a valid number.")
        for place in range(line.value.length):
            digit = text[line.value.start + place]
            if not kinds[digit] & DIGIT:
                raise Malformed("Content-Length is not a valid number.")
            head.length = head.length * 10 + (digit - c"0")
    return 0


cdef int _refuse_codings(Head head, bint request) except -1:
    codings = members(all_values(head, b"transfer-encoding"))
    if request and codings and codings.pop() == b"chunked" and codings and b"chunked" not in codings:
        raise Malformed("The only supported transfer coding is chunked.", 501)
    raise Malformed("Transfer-Encoding is not chunked.")


cdef bint _has_usual_framing(Head head) noexcept:
    """Whether no parser can read it otherwise: the first one accepts CRLF, no white space before a colon, no continued
    line and one number as the only length; without transfer codings and other protocols nothing else is framing. The
    body of a response that is `whole` has plain chunks. That llhttp reads all of them alike is shown by fuzzing.
    """
    return head.minor == 1 and not head.names & bit_of(UPGRADE)


cdef bint _is_odd_for_llhttp(Head head) noexcept:
    """Whether llhttp would interpret a head with a body differently from the RFCs: it treats an offer to upgrade as the
    end of HTTP, although the body comes first; and it refuses the legal white space after `chunked`.
    """
    cdef Line* line
    if head.names & bit_of(UPGRADE):
        return True
    if not head.chunked:
        return False
    line = line_of(head, bit_of(TRANSFER_ENCODING))
    return line_end(head, line) != _start(head.source) + line.value.start + line.value.length + 2


cdef bytes _head_for_llhttp(Head head, bytes method):
    """Return the head without what makes it odd for llhttp, and with this method unless it is None."""
    cdef bytes text = head.source[:head.head_length]
    cdef bint has_body = head.length or head.chunked
    cdef Line* line
    cdef Py_ssize_t number, end
    for number in range(<Py_ssize_t>head.line_count - 1, -1, -1):
        line = &head.lines[number]
        end = line_end(head, line) - _start(head.source)
        if line.name == UPGRADE and has_body:
            text = text[:line.start] + text[end:]
        elif line.name == TRANSFER_ENCODING:
            text = text[:line.value.start] + b"chunked\r\n" + text[end:]
    return text if method is None else method + text[text.index(b" "):]


# --- requests ---

cdef tuple _NO_NAMES = ()


cdef bint _is_plain(RequestHead head) noexcept:
    """Whether only its route is still to be decided, and it requires nothing of a proxy except to close the connection.
    Over HTTP/2 `TE` is allowed, which every gRPC call has.
    """
    cdef const char* method = PyBytes_AS_STRING(head.source)
    return (
        head.minor == 1
        and head.origin_form
        and not head.read_in_two_ways
        and not head.names & (bit_of(EXPECT) | bit_of(MAX_FORWARDS) | bit_of(UPGRADE))
        and not (head.names & bit_of(TE) and not (head.http2 and head.accepts_trailers))
        and head.connection_named is _NO_NAMES
        and not (head.method_length == 5 and not memcmp(method, b"TRACE", 5))
        and not (head.method_length == 7 and not memcmp(method, b"OPTIONS", 7))
    )


cdef bint _has_common_method(RequestHead head) noexcept:
    """Whether it is one of those that llhttp is known to accept."""
    cdef const char* method = PyBytes_AS_STRING(head.source)
    cdef Py_ssize_t length = head.method_length
    if length == 3:
        return not memcmp(method, b"GET", 3) or not memcmp(method, b"PUT", 3)
    if length == 4:
        return not memcmp(method, b"POST", 4) or not memcmp(method, b"HEAD", 4)
    if length == 5:
        return not memcmp(method, b"PATCH", 5)
    return (length == 6 and not memcmp(method, b"DELETE", 6)) or (length == 7 and not memcmp(method, b"OPTIONS", 7))


cdef enum:
    LONGEST_METHOD = 32
    LONGEST_HOST = 253
    LONGEST_MESSAGE = 1 << 30

_OTHER_VERSION = re.compile(_TOKEN + rb"{1,%d}+ [!\"$-~]++ HTTP/[0-9]\.[0-9]\r\n" % LONGEST_METHOD)
_ABSOLUTE_FORM = re.compile(rb"(https?)://([^/?]*+)(.*)", re.IGNORECASE)


cdef bint _read_request(RequestHead head, int max_fields, bint alone) except -1:
    """Parse a head, or, unless it has to be `alone`, a head with its body or the beginning of it (`begun`), whose length
    is declared. Raises `Malformed`. False: not `alone`, and malformed, incomplete, or with something else behind it.
    """
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef const uint8_t* end = base + PyBytes_GET_SIZE(head.source)
    cdef const uint8_t* at = base
    cdef Py_ssize_t following
    cdef bint plain = True, upgrading, connects
    head.message_length = <uint32_t>(end - base)
    head.scheme = head.connect_protocol = b""
    while at < end and kinds[at[0]] & TOKEN:
        at += 1
    head.method_length = <uint32_t>(at - base)
    connects = at - base == 7 and not memcmp(base, b"CONNECT", 7)
    if at == base or at - base > LONGEST_METHOD or end - at < 2 or at[0] != c" ":
        return alone and _refuse_line(head.source)
    at += 1
    head.target_at.start = <uint32_t>(at - base)
    if at[0] == c"/" and not connects:
        head.origin_form = True
        head.path_at.start = head.target_at.start
        while True:
            at = segments_end(at, end)
            if at == end or not kinds[at[0]] & PLAIN_PATH:
                break
            if at[0] == c";" or (at[0] == c"/" and (at - 1)[0] == c"/"):
                head.read_in_two_ways = True
            elif at[0] == c"." and (at - 1)[0] == c"/":
                plain = False
            at += 1
        while at < end and at[0] != c"?" and kinds[at[0]] & TARGET:
            plain = False
            at += 1
        head.path_at.length = <uint32_t>(at - base - head.path_at.start)
        if at < end and at[0] == c"?":
            at += 1
            head.query_at.start = <uint32_t>(at - base)
            at = target_end(at, end)
            head.query_at.length = <uint32_t>(at - base - head.query_at.start)
    else:
        at = target_end(at, end)
    head.target_at.length = <uint32_t>(at - base - head.target_at.start)
    if (
        not head.target_at.length
        or end - at < 11
        or memcmp(at, b" HTTP/1.", 8)
        or (at[8] != c"1" and at[8] != c"0")
        or at[9] != c"\r"
        or at[10] != c"\n"
    ):
        return alone and _refuse_line(head.source)
    head.minor = at[8] - c"0"
    head.version = 20 if head.http2 else 10 + head.minor
    at = read_fields(head, at + 11, end, True, max_fields)
    if at is NULL or (alone and at is not end):
        return alone and _refuse_fields(head, head.message_length, max_fields)
    head.head_length = <uint32_t>(at - base)
    following = end - at
    if head.imitates:
        raise Malformed(
            "A header name imitates a framing or routing header: it has another character in place of a hyphen."
        )
    head.upgrade = head.connection_named = _NO_NAMES
    _settle_host(head)
    if not head.origin_form:
        _read_other_target(head, connects)
    else:
        head.raw_path = cut(head, head.path_at)
        if plain:
            head.path = head.raw_path
        else:
            head.path = normalize(head.raw_path)
            head.read_in_two_ways = head.read_in_two_ways or has_other_readings(head.raw_path)
    upgrading = _settle_connection(head)
    _settle_framing(head, True)
    if connects:
        head.close = True
        if head.names & (bit_of(CONTENT_LENGTH) | bit_of(TRANSFER_ENCODING)):
            raise Malformed("A CONNECT request cannot have a body.")
    head.sized = head.names & bit_of(CONTENT_LENGTH) != 0
    head.whole = not head.chunked and head.length == following
    if following and not head.whole:
        if head.chunked or following > head.length:
            return False
        head.begun = PyBytes_FromStringAndSize(<const char*>at, following)
        cut_off_payload(head)
    if head.names & (bit_of(EXPECT) | bit_of(TE) | bit_of(UPGRADE)):
        _read_demands(head, upgrading)
    head.method = cut(head, Span(0, head.method_length))
    head.authority = cut(head, head.authority_at)
    head.path_as_sent = head.path is head.raw_path or head.path == head.raw_path
    head.plain = _is_plain(head)
    head.ordinary = head.whole and head.plain
    return True


cdef bint _refuse_line(bytes raw) except -1:
    """Raise the `Malformed` that says what is wrong with the request line."""
    if _OTHER_VERSION.match(raw):
        raise Malformed("The HTTP version is neither HTTP/1.0 nor HTTP/1.1.", 505)
    if raw.startswith((b"\r\n", b"\n")):  # the connection has ignored one, as RFC 9112 section 2.2 asks for
        raise Malformed("The request line is malformed: there is an empty line before the request line.")
    raise Malformed("The request line is malformed.")


cdef Span _append(Head head, bytes piece):
    """Add a piece to `source` that was not received like that."""
    cdef Span span
    span.start = <uint32_t>PyBytes_GET_SIZE(head.source)
    span.length = <uint32_t>PyBytes_GET_SIZE(piece)
    head.source += piece
    return span


cdef int _settle_host(RequestHead head) except -1:
    """Parse the only Host (RFC 9112 section 3.2)."""
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef Span value
    if not head.names & bit_of(HOST):
        if head.minor and not head.made:
            raise Malformed("The Host header is missing.")
        return 0
    if head.repeated & bit_of(HOST):
        raise Malformed("There is more than one Host header.")
    value = line_of(head, bit_of(HOST)).value
    head.host_sent_at = value.start
    head.authority_at = value
    head.host_at.start = value.start
    head.host_at.length = _usual_host(text + value.start, value.length)
    return 0 if head.host_at.length else _settle_other_host(head, value)


cdef int _settle_other_host(RequestHead head, Span value) except -1:
    """Parse a Host that is not a usual one, such as an IPv6 address or one with capital letters."""
    host = parse_authority(cut(head, value))
    head.authority_at.length = <uint32_t>len(host.text)
    if cut(head, head.authority_at) != host.text:
        head.authority_at = _append(head, host.text)
    head.host_at.start = head.authority_at.start
    head.host_at.length = <uint32_t>len(host.host)
    return 0


cdef uint32_t _usual_host(const uint8_t* text, Py_ssize_t length) noexcept:
    """Return the length of the host in a lower-case name with an optional port; 0: it is something else."""
    cdef Py_ssize_t at = 0, host, port = 0
    while at < length and (kinds[text[at]] & HOST_NAME or text[at] == c"."):
        if text[at] == c"." and (at == 0 or text[at - 1] == c"."):
            return 0
        at += 1
    if at == 0:
        return 0
    host = at - (text[at - 1] == c".")
    if host > LONGEST_HOST:
        return 0
    if at < length:
        if text[at] != c":" or not 1 <= length - at - 1 <= 5 or text[at + 1] == c"0":
            return 0
        for at in range(at + 1, length):
            if not kinds[text[at]] & DIGIT:
                return 0
            port = port * 10 + (text[at] - c"0")
    return <uint32_t>host if port <= 65_535 else 0


cdef int _read_other_target(RequestHead head, bint connects) except -1:
    """Parse a target that is not in origin-form (RFC 9112 sections 3.2.2 to 3.2.4)."""
    cdef bytes target = cut(head, head.target_at)
    cdef bint asks_options = head.method_length == 7 and not memcmp(PyBytes_AS_STRING(head.source), b"OPTIONS", 7)
    cdef Py_ssize_t mark
    host = parse_authority(cut(head, line_of(head, bit_of(HOST)).value)) if head.names & bit_of(HOST) else None
    if connects:
        authority = parse_authority(target)
        if authority.port is None or authority != host:
            raise Malformed("The target of CONNECT is not host:port, or differs from the Host header.")
        head.raw_path = head.path = b""
        return 0
    if target == b"*":
        if not asks_options:
            raise Malformed("The request target * is allowed for OPTIONS only.")
        head.path_at = head.target_at
        head.raw_path = head.path = target
        return 0
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise Malformed("The request target is malformed.")
    scheme = absolute[1].lower()
    if host is None or not parse_authority(absolute[2]).same_as(host, scheme):
        raise Malformed("The Host header and the request target name different hosts.")
    head.scheme = scheme
    head.path_at.start = <uint32_t>(head.target_at.start + absolute.start(3))
    head.path_at.length = <uint32_t>(head.target_at.start + head.target_at.length - head.path_at.start)
    mark = absolute[3].find(b"?")
    if mark >= 0:
        head.query_at.start = <uint32_t>(head.path_at.start + mark + 1)
        head.query_at.length = <uint32_t>(head.path_at.length - mark - 1)
        head.path_at.length = <uint32_t>mark
    if not head.path_at.length:  # `*`: the form to forward (RFC 9112 section 3.2.4)
        head.path_at = _append(head, b"*" if asks_options and mark < 0 else b"/")
    head.raw_path = cut(head, head.path_at)
    head.path = head.raw_path if head.raw_path == b"*" else normalize(head.raw_path)
    return 0


cdef int _read_demands(RequestHead head, bint upgrading) except -1:
    """Read what a request demands of the connection: `Expect`, `TE` and `Upgrade`."""
    if head.names & bit_of(TE):
        head.accepts_trailers = has_one_line(head, bit_of(TE), b"trailers") or b"trailers" in members(
            all_values(head, b"te")
        )
    if head.names & bit_of(EXPECT) and head.minor:
        # Any other value is ignored, as by peers (RFC 9110 section 10.1.1).
        head.expects_continue = members(all_values(head, b"expect")) == [b"100-continue"]
    if head.names & bit_of(UPGRADE) and upgrading and head.minor and not head.length and not head.chunked:
        head.upgrade = protocols(all_values(head, b"upgrade"))
    return 0


cdef int _parse_request_again(RequestHead head) except -1:
    """Parse the head again with llhttp, if it may be read otherwise. Raises `Malformed`."""
    cdef bytes text = head.source, method = None
    cdef SecondParser parser
    cdef Py_ssize_t length = head.head_length
    if _has_usual_framing(head) and not head.chunked and head.origin_form and _has_common_method(head):
        return 0
    if not _has_common_method(head):
        method = method_for_llhttp(head.method)
        if method == head.method:
            method = None
    if method is not None or ((head.length or head.chunked) and _is_odd_for_llhttp(head)):
        text = _head_for_llhttp(head, method)
        length = PyBytes_GET_SIZE(text)
    parser = SecondParser(HttpRequestParser)
    parser.read_head(_start(text), length, head.chunked or head.length > 0)
    if head.chunked:
        head._second_parser = parser
    return 0


cdef inline const uint8_t* _start(bytes text) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(text)


cdef RequestHead _request_head(bytes received, int max_fields, bint alone, bint http2=False):
    """Read a request head like `_read_request`. None: not `alone`, and not one request."""
    cdef RequestHead head = RequestHead.__new__(RequestHead)
    if PyBytes_GET_SIZE(received) > LONGEST_MESSAGE:
        raise Malformed("The headers are too large.", 431)
    head.source = received
    head.http2 = http2
    return head if _read_request(head, max_fields, alone) else None


def read_request(bytes raw not None, int max_fields):
    return _request_head(raw, max_fields, True)


def read_http2_request(bytes raw not None, int max_fields, bytes payload):
    cdef RequestHead head = _request_head(raw, max_fields, True, True)
    if not _has_common_method(head):
        method_for_llhttp(head.method)  # nghttp2 accepts any
    if payload is None:
        if head.whole:  # by its declared length, 0
            head.drop_payload()
    elif not head.whole:
        head._payload = payload
        head.whole = True
        head.ordinary = head.plain
    return head


cpdef RequestHead make_request(bytes method, bytes target, bytes authority, bytes lines):
    cdef RequestHead head = RequestHead.__new__(RequestHead)
    cdef bytes before_host = b" HTTP/1.1\r\nHost: " if authority else b" HTTP/1.1"
    head.source = b"".join((method, b" ", target, before_host, authority, b"\r\n", lines, b"\r\n"))
    head.made = True
    _read_request(head, INT_MAX, True)
    if (
        <Py_ssize_t>head.method_length != PyBytes_GET_SIZE(method)
        or <Py_ssize_t>head.target_at.length != PyBytes_GET_SIZE(target)
        or (authority and not has_one_line(head, bit_of(HOST), authority))
    ):
        raise Malformed("The method, target or host of a request has characters that are not allowed there.")
    return head


def stand_in_head(
    bytes method not None, bytes host=b"", bytes raw_path=b"", bytes query=None, bytes lines=b"", int version=11
):
    cdef RequestHead head = RequestHead.__new__(RequestHead)
    cdef const uint8_t* end
    cdef const uint8_t* first_line
    cdef bytes asked = b"" if query is None else b"?" + query
    head.source = b"".join((method, b" ", raw_path, asked, b" HTTP/1.1\r\n", lines, b"\r\n"))
    head.head_length = head.message_length = <uint32_t>PyBytes_GET_SIZE(head.source)
    end = _start(head.source) + head.head_length
    first_line = end - PyBytes_GET_SIZE(lines) - 2
    if read_fields(head, first_line, end, True, INT_MAX) is not end:
        raise ValueError("the fields of a head are malformed")
    head.minor, head.version, head.http2, head.stands_in = 1, version, version == 20, True
    head.method, head.raw_path, head.path, head.authority = method, raw_path, b"", host
    head.scheme = head.connect_protocol = b""
    head.upgrade = head.connection_named = _NO_NAMES
    head.method_length = <uint32_t>PyBytes_GET_SIZE(method)
    head.path_at = Span(head.method_length + 1, <uint32_t>PyBytes_GET_SIZE(raw_path))
    head.target_at = Span(head.path_at.start, head.path_at.length + <uint32_t>PyBytes_GET_SIZE(asked))
    if query is not None:
        head.query_at = Span(head.path_at.start + head.path_at.length + 1, <uint32_t>PyBytes_GET_SIZE(query))
    head.host_at = head.authority_at = _append(head, host)
    head.host_sent_at = head.host_at.start
    return head


def copy_of_request(RequestHead head not None, fields=None):
    cdef RequestHead made
    if head.stands_in:
        made = stand_in_head(
            head.method, head.authority, head.raw_path, head.query, head.raw[head.first_line:head.head_length - 2],
            head.version,
        )
    else:
        made = RequestHead.__new__(RequestHead)
        made.source, made.http2, made.made = head.raw, head.http2, head.made
        _read_request(made, INT_MAX, True)
    made.plain = head.plain
    made.whole = made.ordinary = False  # the body is not copied
    made.received_s, made.upgrade, made.connect_protocol = head.received_s, head.upgrade, head.connect_protocol
    made._fields = fields if fields is not None or head._fields is None else Fields(head._fields)
    return made


def parse_request(bytes raw not None, int max_fields=100):
    cdef RequestHead head = _request_head(raw, max_fields, True)
    _parse_request_again(head)
    return head


def body_buffer(Py_ssize_t size):
    return BodyBuffer(size)


def leading_bytes(buffer not None, Py_ssize_t length):
    if type(buffer) is BodyBuffer:
        return (<BodyBuffer>buffer).take_bytes(length)
    return _taken(buffer, length)


cdef bytes _taken(object buffer, Py_ssize_t length):
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        return PyBytes_FromStringAndSize(<const char*>view.buf, max(0, min(length, view.len)))
    finally:
        PyBuffer_Release(&view)


cpdef bytes take_begun(RequestHead head):
    cdef bytes begun = head.begun
    head.begun = None
    return begun


cpdef take_request(buffer, Py_ssize_t length, Py_ssize_t max_bytes, int max_fields):
    cdef bytes received = _taken(buffer, length)
    cdef RequestHead head
    try:
        head = _request_head(received, max_fields, False)
        if head is not None and head.head_length <= max_bytes:
            _parse_request_again(head)
            return head
    except Malformed:
        pass
    return received


def find_head_end(buffer not None, Py_ssize_t start=0, Py_ssize_t begin=0):
    cdef const uint8_t* base
    cdef const uint8_t* at
    cdef const uint8_t* end
    if type(buffer) is bytes:
        base = <const uint8_t*>PyBytes_AS_STRING(buffer)
        end = base + PyBytes_GET_SIZE(buffer)
    else:
        base = <const uint8_t*>PyByteArray_AS_STRING(<bytearray?>buffer)
        end = base + PyByteArray_GET_SIZE(buffer)
    start, begin = min(start, end - base), min(begin, end - base)
    at = empty_line_end(base + max(begin, start - 3), end)
    if at is not NULL:
        return at - base
    at = base + max(begin, start)
    while (at := <const uint8_t*>memchr(at, c"\n", end - at)) is not NULL:
        if at is base or (at - 1)[0] != c"\r":
            raise Malformed("A line ends with a bare LF.")
        at += 1
    return -1


# --- responses ---

cdef bint _read_response(
    ResponseHead head, bytes request_method, int max_fields, int last_status, bint explains
) except -1:
    """Parse a head. Raises `Malformed`. False, unless it `explains`: the text is malformed."""
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef const uint8_t* end = base + head.head_length
    cdef const uint8_t* at = base + 12
    cdef bint upgrading
    if end - base < 14 or memcmp(base, b"HTTP/1.", 7) or (base[7] != c"1" and base[7] != c"0") or base[8] != c" ":
        return explains and _refuse_status_line()
    if not c"1" <= base[9] <= c"9" or not kinds[base[10]] & kinds[base[11]] & DIGIT:
        return explains and _refuse_status_line()
    head.minor = base[7] - c"0"
    head.version = 10 + head.minor
    head.status = 100 * (base[9] - c"0") + 10 * (base[10] - c"0") + (base[11] - c"0")
    if at[0] == c" ":
        at += 1
        head.reason_at.start = <uint32_t>(at - base)
        at = value_end(at, end)
        head.reason_at.length = <uint32_t>(at - base - head.reason_at.start)
    if end - at < 2 or at[0] != c"\r" or at[1] != c"\n" or head.status > last_status:
        return explains and _refuse_status_line()
    if read_fields(head, at + 2, end, False, max_fields) is not end:
        return explains and _refuse_fields(head, head.head_length, max_fields)
    head.upgrade = head.connection_named = _NO_NAMES
    upgrading = _settle_connection(head)
    if head.status == 101:
        offered = protocols(all_values(head, b"upgrade")) if upgrading else ()
        if not offered:
            raise Malformed("A 101 response has no Upgrade header.")
        head.upgrade = offered
    _settle_framing(head, False)
    return _settle_response_body(head, request_method)


cdef bint _refuse_status_line() except -1:
    raise Malformed("The status line is malformed.")


cdef bint _settle_response_body(ResponseHead head, bytes request_method) except -1:
    """Determine the framing of the body (RFC 9112 section 6.3). 205 is no exception: its body is forwarded as framed."""
    cdef bint declared = head.chunked or head.length > 0
    if head.status < 200:
        if declared:
            raise Malformed("An interim (1xx) response has a body.")  # it could also be the final response
    elif head.status == 204:
        head.close = head.close or declared  # the following bytes belong to no request
    elif head.status != 304 and not _is_head(request_method):
        head.until_close = not head.chunked and not head.names & bit_of(CONTENT_LENGTH)
        head.has_body = declared or head.until_close
        head.close = head.close or head.until_close
    return True


cdef inline bint _is_head(bytes method) noexcept:
    return PyBytes_GET_SIZE(method) == 4 and not memcmp(PyBytes_AS_STRING(method), b"HEAD", 4)


cdef int _parse_response_again(ResponseHead head, bytes request_method) except -1:
    """Parse the head again with llhttp, if it may be read otherwise, or if its chunks come later. Raises `Malformed`."""
    cdef bytes text = head.source
    cdef SecondParser parser
    cdef Py_ssize_t length = head.head_length
    if _has_usual_framing(head) and head.status >= 200 and not head.until_close and (head.whole or not head.chunked):
        return 0
    if head.upgrade is _NO_NAMES and _is_odd_for_llhttp(head):
        text = _head_for_llhttp(head, None)
        length = PyBytes_GET_SIZE(text)
    parser = SecondParser(HttpResponseParser)
    parser.read_head(_start(text), length, UNKNOWN if _is_head(request_method) else head.has_body)
    if head.chunked:
        head._second_parser = parser
    return 0


cdef ResponseHead _response_head(
    bytes received, Py_ssize_t end, bytes request_method, int max_fields, int last_status, bint explains
):
    """Read a response head with the first parser. None, unless it `explains`: the text is malformed."""
    cdef ResponseHead head = ResponseHead.__new__(ResponseHead)
    end = max(0, min(end, PyBytes_GET_SIZE(received)))
    if end > LONGEST_MESSAGE:
        raise Malformed("The headers are too large.")
    head.source = received
    head.head_length = <uint32_t>end
    if not _read_response(head, request_method, max_fields, last_status, explains):
        return None
    _settle_whole(head, PyBytes_GET_SIZE(received) - end)
    if not head.whole:
        head.source = head._raw = received[:end]  # without the bytes after it, which need not be kept
    head.message_length = <uint32_t>PyBytes_GET_SIZE(head.source)
    return head


cdef bint _settle_whole(ResponseHead head, Py_ssize_t following) except -1:
    """Determine whether the body ends with `source`, `following` bytes after its head, and its position."""
    cdef const char* at = PyBytes_AS_STRING(head.source) + head.head_length
    if head.has_body and head.chunked:
        head._payload = plain_payload(<const uint8_t*>at, <const uint8_t*>at + following)
        head.whole = head._payload is not None
        if head.whole:
            at = PyBytes_AS_STRING(head._payload)
            following = PyBytes_GET_SIZE(head._payload)
    else:
        head.whole = not head.until_close and following == (head.length if head.has_body else 0)
    if head.whole:
        head.payload_at = at
        head.payload_length = following
    return True


def copy_of_response(ResponseHead head not None):
    cdef ResponseHead made = ResponseHead.__new__(ResponseHead)
    made.source = head.raw
    made.head_length = made.message_length = head.head_length
    _read_response(made, b"GET", INT_MAX, LAST_TOLERATED_STATUS, True)
    made.http2, made.version, made.close = head.http2, head.version, head.close
    made.until_close, made.has_body, made._payload = head.until_close, head.has_body, payload_of(head)
    made.whole, made.payload_length = head.whole, head.payload_length
    made.payload_at = NULL if made._payload is None else PyBytes_AS_STRING(made._payload)
    made._fields = None if head._fields is None else Fields(head._fields)
    return made


def read_response(bytes raw not None, bytes request_method not None, int max_fields, int last_status=LAST_STATUS):
    return _response_head(raw, PyBytes_GET_SIZE(raw), request_method, max_fields, last_status, True)


def parse_answer(
    bytes received not None,
    Py_ssize_t end,
    bytes request_method not None,
    int max_fields=100,
    int last_status=LAST_STATUS,
):
    cdef ResponseHead head = _response_head(received, end, request_method, max_fields, last_status, True)
    _parse_response_again(head, request_method)
    return head


def read_http2_response(bytes received not None, Py_ssize_t end, bytes request_method not None, int max_fields):
    cdef ResponseHead head = _response_head(received, end, request_method, max_fields, LAST_STATUS, True)
    head.http2 = True
    head.version = 20
    return head


def parse_response(bytes raw not None, bytes request_method not None, int max_fields=100):
    return parse_answer(raw, PyBytes_GET_SIZE(raw), request_method, max_fields, LAST_TOLERATED_STATUS)


cpdef take_answer(buffer, Py_ssize_t length, bytes request_method, int max_fields=100):
    if request_method is None:
        raise TypeError("expected bytes")
    cdef bytes received = _taken(buffer, length)
    cdef const uint8_t* base = _start(received)
    cdef const uint8_t* end = empty_line_end(base, base + PyBytes_GET_SIZE(received))
    cdef ResponseHead head
    if end is not NULL and length < len(buffer):
        try:
            head = _response_head(received, end - base, request_method, max_fields, LAST_STATUS, False)
            if head is not None and head.whole and head.status >= 200:
                _parse_response_again(head, request_method)
                return head
        except Malformed:
            pass
    return received

