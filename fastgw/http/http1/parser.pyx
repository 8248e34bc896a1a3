# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Parser of heads, in one pass.

A parsed head stores the offsets of its pieces and no objects: these are created on demand, except for a few that nearly
every request needs. Values with a grammar of their own that are seldom anything but usual (`Connection`, a host with
capital letters) are parsed by plain Python if they are.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from libc.limits cimport INT_MAX
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy

from fastgw.http.http1.body cimport BodyBuffer, LengthReader, plain_payload
from fastgw.http.http1.second_parser cimport UNKNOWN, SecondParser, SharedParser

import re

from httptools import HttpRequestParser, HttpResponseParser

from fastgw.http.authority import parse_authority
from fastgw.http.field_names import FORWARDING, HOP_BY_HOP, READ_IN_REQUESTS, WRITTEN_HERE
from fastgw.http.fields import Fields
from fastgw.http.grammar import TOKEN as _TOKEN
from fastgw.http.grammar import check_fields, elements
from fastgw.http.http1.body import ChunkedReader, UntilCloseReader
from fastgw.http.http1.known_fields import connection_options, joined, protocols
from fastgw.http.http1.methods import method_for_llhttp
from fastgw.http.http1.trailers import LONGEST_TRAILERS as _LONGEST_TRAILERS
from fastgw.http.http1.trailers import MOST_TRAILERS
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import has_other_readings, normalize

LAST_STATUS = 599
LAST_TOLERATED_STATUS = 999
_KNOWN_IN_RESPONSES = HOP_BY_HOP | frozenset(b"date server trailer via x-request-id".split())

cdef extern from "_bytes.h" nogil:
    const uint8_t* word_end(const uint8_t* at, const uint8_t* end)
    const uint8_t* segments_end(const uint8_t* at, const uint8_t* end)
    const uint8_t* target_end(const uint8_t* at, const uint8_t* end)
    bint is_name(const uint8_t* token, const uint8_t* name, size_t length)
    const uint8_t* value_end(const uint8_t* at, const uint8_t* end)
    const uint8_t* empty_line_end(const uint8_t* at, const uint8_t* end)


# --- names ---

# Names with special handling have fixed numbers; all other known names follow.
cdef enum Name:
    AUTHORIZATION
    CONNECTION
    CONTENT_LENGTH
    EXPECT
    HOST
    MAX_FORWARDS
    ORIGIN
    REFERER
    TE
    TRANSFER_ENCODING
    UPGRADE
    USER_AGENT
    X_REQUEST_ID

_NUMBERED = (
    b"authorization", b"connection", b"content-length", b"expect", b"host", b"max-forwards", b"origin",
    b"referer", b"te", b"transfer-encoding", b"upgrade", b"user-agent", b"x-request-id",
)
cdef tuple _NAMES = _NUMBERED + tuple(sorted((READ_IN_REQUESTS | _KNOWN_IN_RESPONSES) - set(_NUMBERED)))
cdef dict _NUMBERS = {name: number for number, name in enumerate(_NAMES)}

cdef enum:
    MOST_NAMES = 32  # one bit each
    SLOTS = 64 * SLOT_WORDS
    LONGEST_NAME = 27

cdef struct Text:
    const uint8_t* start
    Py_ssize_t length

cdef Text _texts[MOST_NAMES]  # of the names, in lower case
cdef uint8_t _slots[SLOTS]  # hash table with open addressing: number of a name + 1, or 0

# Character classes of a byte.
cdef enum:
    TOKEN = 1
    SIGN = 2  # except the hyphen
    PLAIN_PATH = 4  # unescaped in the normal form of a path
    TARGET = 8
    HOST_NAME = 16  # except the dot; lower-case only
    DIGIT = 32

cdef uint8_t _kinds[256]
cdef uint8_t _lower[256]


cdef uint32_t bits_of(names) except? 0:
    """Return a bit for each of these names."""
    cdef uint32_t bits = 0
    for name in names:
        bits |= <uint32_t>1 << <int>_NUMBERS[name]
    return bits


cdef inline uint32_t _bit(Name name) noexcept nogil:
    return <uint32_t>1 << <int>name


cdef uint8_t slot_of(const uint8_t* name, Py_ssize_t length) noexcept nogil:
    return <uint8_t>(141 * _lower[name[0]] + 207 * _lower[name[length - 1]] + 43 * length)


cdef inline int _number_in(uint8_t slot, const uint8_t* name, Py_ssize_t length) noexcept nogil:
    """Return the number of a token with this slot, ignoring case; -1: not a known name."""
    cdef int number
    while _slots[slot]:
        number = _slots[slot] - 1
        if _texts[number].length == length and is_name(name, _texts[number].start, length):
            return number
        slot += 1
    return -1


cdef bint _set_up() except -1:
    cdef int code, number
    cdef uint8_t slot
    if len(_NAMES) > MOST_NAMES or max(map(len, _NAMES)) > LONGEST_NAME:
        raise ImportError("there is no room for so many known fields")
    for code in range(256):
        _lower[code] = code + 32 if 65 <= code <= 90 else code
    for kind, members in (
        (TOKEN, b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        (SIGN, b"!#$%&'*+.^_`|~"),
        (PLAIN_PATH, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/"),
        (TARGET, bytes(range(0x21, 0x7F)).replace(b"#", b"")),
        (HOST_NAME, b"abcdefghijklmnopqrstuvwxyz0123456789_~-"),
        (DIGIT, b"0123456789"),
    ):
        for code in members:
            _kinds[code] |= <uint8_t>kind
    for number, name in enumerate(_NAMES):
        _texts[number].start = <const uint8_t*>PyBytes_AS_STRING(name)
        _texts[number].length = len(name)
        slot = slot_of(_texts[number].start, len(name))
        while _slots[slot]:
            slot += 1
        _slots[slot] = number + 1
    return True


_set_up()

cdef uint32_t _REQUEST_KNOWN = bits_of(READ_IN_REQUESTS)
cdef uint32_t _RESPONSE_KNOWN = bits_of(_KNOWN_IN_RESPONSES)
cdef uint32_t _FORWARDING = bits_of(FORWARDING)


# --- field lines ---

cdef const uint8_t* _read_fields(
    Head head, const uint8_t* at, const uint8_t* end, bint request, int max_fields
) except? NULL:
    """Read all lines from `at` to the empty line, and return the position after it. NULL: they are malformed, too many
    or incomplete.
    """
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef const uint8_t* name
    cdef const uint8_t* stop
    cdef uint8_t slot
    cdef bint signs
    cdef uint32_t known = _REQUEST_KNOWN if request else _RESPONSE_KNOWN
    cdef uint32_t bit
    cdef uint64_t beginnings = 0
    cdef int number, fields = 0
    cdef Line* line
    cdef Span value
    head.lines = head.usual_lines
    head.line_room = USUAL_LINES
    head.first_line = <uint32_t>(at - base)
    while True:
        name = at
        signs = False
        at = word_end(at, end)
        while at < end and _kinds[at[0]] & TOKEN:
            signs = True  # punctuation has ended the word
            at += 1
        if at == name:
            head.beginnings = beginnings
            return at + 2 if end - at >= 2 and at[0] == c"\r" and at[1] == c"\n" else NULL
        if at == end or at[0] != c":" or fields == max_fields:
            return NULL
        fields += 1
        if request and signs and _is_like_known(name, at - name):
            head.imitates = True
        slot = slot_of(name, at - name)
        number = _number_in(slot, name, at - name)
        at += 1
        while at < end and (at[0] == c" " or at[0] == c"\t"):
            at += 1
        stop = value_end(at, end)
        if end - stop < 2 or stop[0] != c"\r" or stop[1] != c"\n":
            return NULL
        if number < 0:
            head.others[slot >> 6] |= <uint64_t>1 << (slot & 63)
            if request:
                # A name with punctuation other than hyphens may begin like any other. The line end follows it.
                beginnings |= ~<uint64_t>0 if signs else beginning_of(name)
        else:
            value.start = <uint32_t>(at - base)
            value.length = <uint32_t>(_trimmed(at, stop) - at)
            bit = <uint32_t>1 << number
            if known & bit:
                if head.line_count == head.line_room:
                    _make_room(head)
                line = &head.lines[head.line_count]
                line.start = <uint32_t>(name - base)
                line.end = <uint32_t>(stop + 2 - base)
                line.value = value
                line.name = <uint8_t>number
                head.line_count += 1
                head.repeated |= head.names & bit
                head.names |= bit
            else:
                head.others[slot >> 6] |= <uint64_t>1 << (slot & 63)
                if request:
                    beginnings |= beginning_of(name)
                    _note(<Http1RequestHead>head, number, value)
        at = stop + 2


cdef int _make_room(Head head) except -1:
    cdef Line* lines = <Line*>malloc(2 * head.line_room * sizeof(Line))
    if lines is NULL:
        raise MemoryError
    memcpy(lines, head.lines, head.line_room * sizeof(Line))
    if head.lines is not head.usual_lines:
        free(head.lines)
    head.lines = lines
    head.line_room *= 2
    return 0


cdef inline const uint8_t* _trimmed(const uint8_t* start, const uint8_t* stop) noexcept nogil:
    while stop > start and ((stop - 1)[0] == c" " or (stop - 1)[0] == c"\t"):
        stop -= 1
    return stop


cdef inline void _note(Http1RequestHead head, int number, Span value) noexcept:
    """Record fields that are logged, or often read by filters."""
    if number == AUTHORIZATION:
        if head.authorizations == 0:
            head.authorization_at = value
        if head.authorizations < 2:
            head.authorizations += 1
    elif number == USER_AGENT and not head.user_agent_at.start:
        head.user_agent_at = value
    elif number == REFERER and not head.referer_at.start:
        head.referer_at = value
    elif number == ORIGIN:
        if head.origins == 0:
            head.origin_at = value
        if head.origins < 2:
            head.origins += 1


cdef bint _is_like_known(const uint8_t* name, Py_ssize_t length) noexcept nogil:
    """Whether it would be the name of a known field of requests with hyphens in place of its punctuation, and is not.
    CGI and its successors treat both as one field.
    """
    cdef uint8_t hyphened[LONGEST_NAME]
    cdef Py_ssize_t place
    cdef int number
    if length > LONGEST_NAME:
        return False
    for place in range(length):
        hyphened[place] = c"-" if _kinds[name[place]] & SIGN else name[place]
    number = _number_in(slot_of(hyphened, length), hyphened, length)
    return number >= 0 and _REQUEST_KNOWN >> number & 1


cdef bint _refuse_fields(Head head, Py_ssize_t end, int max_fields) except -1:
    """Raise the `Malformed` that says what is wrong with the lines of a head before `end`."""
    check_fields(head.source[:end], head.first_line, max_fields)
    raise AssertionError("fields that were refused are well-formed")


cdef inline bint _is(const uint8_t* text, Span span, const char* word, Py_ssize_t length) noexcept nogil:
    """Whether a value equals this lower-case word, ignoring case."""
    cdef Py_ssize_t place
    if span.length != length:
        return False
    for place in range(length):
        if _lower[text[span.start + place]] != <uint8_t>word[place]:
            return False
    return True


cdef bint _settle_connection(Head head) except -1:
    """Determine `close` and the names that `Connection` lists. Returns whether it lists `Upgrade`."""
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef Span value
    cdef bint keep_alive = False
    if head.names & _bit(CONNECTION):
        value = line_of(head, _bit(CONNECTION)).value
        head.close = _is(text, value, b"close", 5)
        keep_alive = not head.close and _is(text, value, b"keep-alive", 10)
        if head.repeated & _bit(CONNECTION) or not (head.close or keep_alive):
            return _read_connection_options(head)
    if not head.minor and not keep_alive:
        head.close = True
    return False


cdef bint _read_connection_options(Head head) except -1:
    head.close, keep_alive, upgrading, named = connection_options(head.known)
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
    if head.names & _bit(TRANSFER_ENCODING):
        if head.names & _bit(CONTENT_LENGTH):
            raise Malformed("Transfer-Encoding and Content-Length are mutually exclusive.")
        if not head.minor:
            raise Malformed("Transfer-Encoding is not allowed in HTTP/1.0.")
        line = line_of(head, _bit(TRANSFER_ENCODING))
        if head.repeated & _bit(TRANSFER_ENCODING) or not _is(text, line.value, b"chunked", 7):
            return _refuse_codings(head, request)
        head.chunked = True
    elif head.names & _bit(CONTENT_LENGTH):
        if head.repeated & _bit(CONTENT_LENGTH):  # equal ones too, as in llhttp (RFC 9110 section 8.6)
            raise Malformed("There is more than one Content-Length header.")
        line = line_of(head, _bit(CONTENT_LENGTH))
        # 18 digits are below 2**63, so no parser overflows.
        if not 1 <= line.value.length <= 18:
            raise Malformed("Content-Length is not a valid number.")
        for place in range(line.value.length):
            digit = text[line.value.start + place]
            if not _kinds[digit] & DIGIT:
                raise Malformed("Content-Length is not a valid number.")
            head.length = head.length * 10 + (digit - c"0")
    return 0


cdef int _refuse_codings(Head head, bint request) except -1:
    codings = elements(joined(head.known, b"transfer-encoding"))
    if request and codings and codings.pop() == b"chunked" and codings and b"chunked" not in codings:
        raise Malformed("The only supported transfer coding is chunked.", 501)
    raise Malformed("Transfer-Encoding is not chunked.")


cdef bint _is_odd_for_llhttp(Head head) noexcept:
    """Whether llhttp would interpret a head with a body differently from the RFCs: it treats an offer to upgrade as the
    end of HTTP, although the body comes first; and it refuses the legal white space after `chunked`.
    """
    cdef Line* line
    if head.names & _bit(UPGRADE):
        return True
    if not head.chunked:
        return False
    line = line_of(head, _bit(TRANSFER_ENCODING))
    return line.value.start + line.value.length + 2 != line.end


cdef bytes _message_for_llhttp(Head head, bytes method):
    """Return what was received of the message without what makes it odd for llhttp, and with this method unless it is
    None.
    """
    cdef bytes text = head.source[:head.message_length]
    cdef bint has_body = head.length or head.chunked
    cdef Line* line
    cdef Py_ssize_t number
    for number in range(<Py_ssize_t>head.line_count - 1, -1, -1):
        line = &head.lines[number]
        if line.name == UPGRADE and has_body:
            text = text[:line.start] + text[line.end:]
        elif line.name == TRANSFER_ENCODING:
            text = text[:line.value.start] + b"chunked\r\n" + text[line.end:]
    return text if method is None else method + text[text.index(b" "):]


# --- both kinds of heads ---

cdef inline bytes _cut(Head head, Span span):
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(head.source) + span.start, span.length)


@cython.no_gc  # no cycle: its objects do not refer to it
cdef class Head:
    def __dealloc__(self):
        if self.lines is not self.usual_lines:
            free(self.lines)

    @property
    def body_length(self):
        return None if self.chunked else self.length

    @property
    def raw(self):
        return _raw_of(self)

    @property
    def payload(self):
        return payload_of(self)

    @property
    def fields_start(self):
        return self.first_line

    @property
    def known(self):
        cdef Line* line
        cdef uint32_t place
        if self._known is None:
            self._known = {}
            for place in range(self.line_count):
                line = &self.lines[place]
                self._known.setdefault(_NAMES[line.name], []).append((line.start, line.end, _cut(self, line.value)))
        return self._known

    def fields(self):
        if self._fields is None:
            self._fields = Fields.parse(self.raw, self.first_line)
        return self._fields

    def edited(self):
        return self._fields if self._fields is not None and self._fields.changed else None

    def first(self, bytes name not None):
        return _first(self, name)

    def field(self, bytes name not None):
        return self.first(name)

    def values(self, bytes name not None):
        return self._fields.get_all(name) if self._fields is not None else all_values(self, name)


cpdef bytes first_of(head, bytes name):
    return _first(<Head>head, name) if isinstance(head, Head) else head.first(name)


cpdef values_of(head, bytes name):
    if isinstance(head, Head) and (<Head>head)._fields is None:
        return all_values(<Head>head, name) if _occurs(<Head>head, name) else ()
    return head.values(name)


cdef bytes _raw_of(Head head):
    if head._raw is None:
        head._raw = PyBytes_FromStringAndSize(PyBytes_AS_STRING(head.source), head.head_length)
    return head._raw


cdef bytes _first(Head head, bytes name):
    if head._fields is not None:
        return head._fields.get(name)
    return _first_known(head, name) if name in head.KNOWN else _first_of_any(head, name)


cdef bytes _first_known(Head head, bytes name):
    cdef int number = _NUMBERS[name]
    cdef uint32_t place
    if head.names & (<uint32_t>1 << number):
        for place in range(head.line_count):
            if head.lines[place].name == number:
                return _cut(head, head.lines[place].value)
    return None


cdef bytes _first_of_any(Head head, bytes name):
    """Return the first value of a name that is not in `KNOWN`."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(name)
    cdef uint8_t slot = slot_of(<const uint8_t*>PyBytes_AS_STRING(name), length) if length else 0
    if not head.others[slot >> 6] >> (slot & 63) & 1:
        return None
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(head.source) + head.first_line
    return _next_of_any(head, name, &at)


cdef int _occurs(Head head, bytes name) noexcept:
    """Whether the head was received with a field of this name. -1: only its lines can tell."""
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(name)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(name)
    cdef uint8_t slot
    cdef int number
    if not length:
        return 0
    slot = slot_of(text, length)
    number = _number_in(slot, text, length)
    if number >= 0 and (_REQUEST_KNOWN if type(head) is Http1RequestHead else _RESPONSE_KNOWN) >> number & 1:
        return head.names >> number & 1
    return -1 if head.others[slot >> 6] >> (slot & 63) & 1 else 0


cdef list all_values(Head head, bytes name):
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(head.source) + head.first_line
    cdef list found = []
    if not _occurs(head, name):
        return found
    while (value := _next_of_any(head, name, &at)) is not None:
        found.append(value)
    return found


cdef bytes _next_of_any(Head head, bytes name, const uint8_t** line):
    """Return the value of the next field of this name, from a line on; `line` becomes the following line."""
    cdef const uint8_t* at = line[0]
    cdef const uint8_t* end = <const uint8_t*>PyBytes_AS_STRING(head.source) + head.head_length
    cdef const uint8_t* wanted = <const uint8_t*>PyBytes_AS_STRING(name)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(name)
    cdef Py_ssize_t place
    cdef const uint8_t* stop
    while end - at > length:
        for place in range(length):
            if _lower[at[place]] != _lower[wanted[place]]:
                break
        else:
            if at[length] == c":":
                at += length + 1
                while at[0] == c" " or at[0] == c"\t":
                    at += 1
                stop = value_end(at, end)
                line[0] = <const uint8_t*>memchr(stop, c"\n", end - stop) + 1
                return PyBytes_FromStringAndSize(<const char*>at, _trimmed(at, stop) - at)
        at = <const uint8_t*>memchr(at, c"\n", end - at) + 1  # the head ends with a line end
    return None


cdef str _framing_text(Head head):
    return "chunked" if head.chunked else f"length {head.length}"


# --- requests ---

@cython.final
@cython.no_gc
cdef class Http1RequestHead(Head):
    DROPPED = WRITTEN_HERE
    KNOWN = READ_IN_REQUESTS

    def came_by_connect(self, bytes protocol not None):
        self.plain = self.ordinary = False
        _note_rare(self, "connect_protocol", protocol)

    @property
    def connect_protocol(self):
        return b"" if self._rare is None else self._rare.get("connect_protocol", b"")

    @property
    def scheme(self):
        return b"" if self._rare is None else self._rare.get("scheme", b"")

    @property
    def expects_continue(self):
        return self._rare is not None and self._rare.get("expects_continue", False)

    def first(self, bytes name not None):
        if self._fields is None and name == b"origin":
            return _cut(self, self.origin_at) if self.origins else None
        return _first(self, name)

    def values(self, bytes name not None):
        # PERF: 0.06 us, 0.2 by a search in 15 lines (CPython 3.11, micro/tokens).
        if self._fields is None and self.authorizations < 2 and name == b"authorization":
            return [_cut(self, self.authorization_at)] if self.authorizations else []
        if self._fields is None and self.origins < 2 and name == b"origin":
            return [_cut(self, self.origin_at)] if self.origins else []
        return Head.values(self, name)

    @property
    def request_target(self):
        return _cut(self, self.target_at)

    @property
    def host(self):
        return _cut(self, self.host_at)

    @property
    def host_as_sent(self):
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.source) + self.host_sent_at, self.authority_at.length)

    @property
    def forwarded(self):
        return self.names & _FORWARDING != 0

    @property
    def query(self):
        return _cut(self, self.query_at) if self.query_at.start else None

    def received_fields(self):
        return Fields.parse(self.raw, self.first_line, self.connection_named)

    def received_values(self, bytes name not None):
        return [line[2] for line in self.known.get(name, ())]

    def received_names(self):
        return {*self.connection_named, *(name for name, _ in Fields.parse(self.raw, self.first_line))}

    def any_line(self, search):
        return search(self.raw) is not None

    def body(self, Py_ssize_t longest_trailers=_LONGEST_TRAILERS, Py_ssize_t most_trailers=MOST_TRAILERS):
        if self.chunked:
            return ChunkedReader(self._second_parser, longest_trailers, most_trailers)
        return LengthReader(self.length, self._second_parser)

    def copy(self, fields=None):
        cdef Http1RequestHead made
        if self.stands_in:
            made = stand_in_head(
                self.method, self.authority, self.raw_path, self.query, self.raw[self.first_line:self.head_length - 2],
                self.version,
            )
        else:
            made = Http1RequestHead.__new__(Http1RequestHead)
            made.source, made.http2, made.made = self.raw, self.http2, self.made
            _read_request(made, INT_MAX, True)
        made.whole, made._payload, made.plain, made.ordinary = self.whole, payload_of(self), self.plain, self.ordinary
        made.received_s, made._rare, made.upgrade = self.received_s, self._rare, self.upgrade
        made._fields = fields if fields is not None or self._fields is None else Fields(self._fields)
        return made

    cpdef drop_payload(self):
        _cut_off_payload(self)
        self._payload = None
        self.whole = self.ordinary = False

    def __repr__(self):
        return f"<Http1RequestHead {self.method.decode('ascii')}, {_framing_text(self)}>"


cdef int _note_rare(Http1RequestHead head, name, value) except -1:
    if head._rare is None:
        head._rare = {}
    head._rare[name] = value
    return 0


cdef tuple _NO_NAMES = ()


cpdef bytes payload_of(Head head):
    if head.whole and head._payload is None:
        # PERF: a slice, whose type is not known to be bytes, takes 1,100 instructions more (micro/exchange).
        head._payload = PyBytes_FromStringAndSize(
            PyBytes_AS_STRING(head.source) + head.head_length, head.message_length - head.head_length
        )
    return head._payload


cpdef bint has_field(Head head, bytes name) except -1:
    cdef const uint8_t* line = <const uint8_t*>PyBytes_AS_STRING(head.source) + head.first_line
    cdef int found = _occurs(head, name)
    return found > 0 if found >= 0 else _next_of_any(head, name, &line) is not None


cdef bint _is_plain(Http1RequestHead head) noexcept:
    """Whether only its route is still to be decided, and it requires nothing of a proxy except to close the connection.
    Over HTTP/2 `TE` is allowed, which every gRPC call has.
    """
    cdef const char* method = PyBytes_AS_STRING(head.source)
    return (
        head.minor == 1
        and head._rare is None
        and head.origin_form
        and not head.read_in_two_ways
        and not head.names & (_bit(EXPECT) | _bit(MAX_FORWARDS) | _bit(UPGRADE))
        and not (head.names & _bit(TE) and not (head.http2 and head.accepts_trailers))
        and head.connection_named is _NO_NAMES
        and not (head.method_length == 5 and not memcmp(method, b"TRACE", 5))
        and not (head.method_length == 7 and not memcmp(method, b"OPTIONS", 7))
    )


cdef bint _has_common_method(Http1RequestHead head) noexcept:
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


cdef bint _read_request(Http1RequestHead head, int max_fields, bint alone) except -1:
    """Parse a head, or, unless it has to be `alone`, a head with its body or the beginning of it (`begun`), whose length
    is declared. Raises `Malformed`. False: not `alone`, and malformed, incomplete, or with something else behind it.
    """
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef const uint8_t* end = base + PyBytes_GET_SIZE(head.source)
    cdef const uint8_t* at = base
    cdef Py_ssize_t following
    cdef bint plain = True, upgrading, connects
    head.message_length = <uint32_t>(end - base)
    while at < end and _kinds[at[0]] & TOKEN:
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
            if at == end or not _kinds[at[0]] & PLAIN_PATH:
                break
            if at[0] == c";" or (at[0] == c"/" and (at - 1)[0] == c"/"):
                head.read_in_two_ways = True
            elif at[0] == c"." and (at - 1)[0] == c"/":
                plain = False
            at += 1
        while at < end and at[0] != c"?" and _kinds[at[0]] & TARGET:
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
    at = _read_fields(head, at + 11, end, True, max_fields)
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
        head.raw_path = _cut(head, head.path_at)
        if plain:
            head.path = head.raw_path
        else:
            head.path = normalize(head.raw_path)
            head.read_in_two_ways = head.read_in_two_ways or has_other_readings(head.raw_path)
    upgrading = _settle_connection(head)
    _settle_framing(head, True)
    if connects:
        head.close = True
        if head.names & (_bit(CONTENT_LENGTH) | _bit(TRANSFER_ENCODING)):
            raise Malformed("A CONNECT request cannot have a body.")
    head.sized = head.names & _bit(CONTENT_LENGTH) != 0
    head.whole = not head.chunked and head.length == following
    if following and not head.whole:
        if head.chunked or following > head.length:
            return False
        head.begun = PyBytes_FromStringAndSize(<const char*>at, following)
        _cut_off_payload(head)
    if head.names & (_bit(EXPECT) | _bit(TE) | _bit(UPGRADE)):
        _read_demands(head, upgrading)
    head.method = _cut(head, Span(0, head.method_length))
    head.authority = _cut(head, head.authority_at)
    head.path_as_sent = head.path is head.raw_path or head.path == head.raw_path
    head.plain = _is_plain(head)
    head.ordinary = head.whole and head.plain
    return True


cdef enum:
    SHORT_PAYLOAD = 2048


cdef int _cut_off_payload(Http1RequestHead head) except -1:
    """Let go of what was received behind the head."""
    if <Py_ssize_t>head.message_length == PyBytes_GET_SIZE(head.source):
        # PERF: a short one goes with the head: a copy of the head takes 900 instructions (CPython 3.11, callgrind).
        if head.message_length - head.head_length > SHORT_PAYLOAD:
            head.source = _raw_of(head)
        head.message_length = head.head_length
    return 0


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


cdef int _settle_host(Http1RequestHead head) except -1:
    """Parse the only Host (RFC 9112 section 3.2)."""
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef Span value
    if not head.names & _bit(HOST):
        if head.minor and not head.made:
            raise Malformed("The Host header is missing.")
        return 0
    if head.repeated & _bit(HOST):
        raise Malformed("There is more than one Host header.")
    value = line_of(head, _bit(HOST)).value
    head.host_sent_at = value.start
    head.authority_at = value
    head.host_at.start = value.start
    head.host_at.length = _usual_host(text + value.start, value.length)
    return 0 if head.host_at.length else _settle_other_host(head, value)


cdef int _settle_other_host(Http1RequestHead head, Span value) except -1:
    """Parse a Host that is not a usual one, such as an IPv6 address or one with capital letters."""
    host = parse_authority(_cut(head, value))
    head.authority_at.length = <uint32_t>len(host.text)
    if _cut(head, head.authority_at) != host.text:
        head.authority_at = _append(head, host.text)
    head.host_at.start = head.authority_at.start
    head.host_at.length = <uint32_t>len(host.host)
    return 0


cdef uint32_t _usual_host(const uint8_t* text, Py_ssize_t length) noexcept:
    """Return the length of the host in a lower-case name with an optional port; 0: it is something else."""
    cdef Py_ssize_t at = 0, host, port = 0
    while at < length and (_kinds[text[at]] & HOST_NAME or text[at] == c"."):
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
            if not _kinds[text[at]] & DIGIT:
                return 0
            port = port * 10 + (text[at] - c"0")
    return <uint32_t>host if port <= 65_535 else 0


cdef int _read_other_target(Http1RequestHead head, bint connects) except -1:
    """Parse a target that is not in origin-form (RFC 9112 sections 3.2.2 to 3.2.4)."""
    cdef bytes target = _cut(head, head.target_at)
    cdef bint asks_options = head.method_length == 7 and not memcmp(PyBytes_AS_STRING(head.source), b"OPTIONS", 7)
    cdef Py_ssize_t mark
    host = parse_authority(_cut(head, line_of(head, _bit(HOST)).value)) if head.names & _bit(HOST) else None
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
    _note_rare(head, "scheme", scheme)
    head.path_at.start = <uint32_t>(head.target_at.start + absolute.start(3))
    head.path_at.length = <uint32_t>(head.target_at.start + head.target_at.length - head.path_at.start)
    mark = absolute[3].find(b"?")
    if mark >= 0:
        head.query_at.start = <uint32_t>(head.path_at.start + mark + 1)
        head.query_at.length = <uint32_t>(head.path_at.length - mark - 1)
        head.path_at.length = <uint32_t>mark
    if not head.path_at.length:  # `*`: the form to forward (RFC 9112 section 3.2.4)
        head.path_at = _append(head, b"*" if asks_options and mark < 0 else b"/")
    head.raw_path = _cut(head, head.path_at)
    head.path = head.raw_path if head.raw_path == b"*" else normalize(head.raw_path)
    return 0


cdef int _read_demands(Http1RequestHead head, bint upgrading) except -1:
    """Read what a request demands of the connection: `Expect`, `TE` and `Upgrade`."""
    if head.names & _bit(TE):
        head.accepts_trailers = has_one_line(head, _bit(TE), b"trailers") or b"trailers" in elements(
            joined(head.known, b"te")
        )
    if head.names & _bit(EXPECT) and head.minor:
        # Any other value is ignored, as by peers (RFC 9110 section 10.1.1).
        _note_rare(head, "expects_continue", elements(joined(head.known, b"expect")) == [b"100-continue"])
    if head.names & _bit(UPGRADE) and upgrading and head.minor and not head.length and not head.chunked:
        head.upgrade = protocols(head.known)
    return 0


cdef SharedParser _second_parser_of_requests = SharedParser(HttpRequestParser)


cdef int _parse_request_again(Http1RequestHead head) except -1:
    """Parse what was received again with llhttp. Raises `Malformed`."""
    cdef bytes text = head.source, method = None
    cdef Py_ssize_t length = head.message_length
    if head.whole and not head.close and _second_parser_of_requests.agrees(_start(text), length, head.length > 0):
        return 0
    if not _has_common_method(head):
        method = method_for_llhttp(head.method)
        if method == head.method:
            method = None
    if method is not None or ((head.length or head.chunked) and _is_odd_for_llhttp(head)):
        text = _message_for_llhttp(head, method)
        length = PyBytes_GET_SIZE(text)
    if head.whole:
        _second_parser_of_requests.read_message(_start(text), length, head.length > 0, head.close)
    else:
        head._second_parser = SecondParser(HttpRequestParser)
        head._second_parser.read_head(_start(text), length, True)
    return 0


cdef inline const uint8_t* _start(bytes text) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(text)


cdef Http1RequestHead _request_head(bytes received, int max_fields, bint alone, bint http2=False):
    """Read a request head like `_read_request`. None: not `alone`, and not one request."""
    cdef Http1RequestHead head = Http1RequestHead.__new__(Http1RequestHead)
    if PyBytes_GET_SIZE(received) > LONGEST_MESSAGE:
        raise Malformed("The headers are too large.", 431)
    head.source = received
    head.http2 = http2
    return head if _read_request(head, max_fields, alone) else None


def read_request(bytes raw not None, int max_fields):
    return _request_head(raw, max_fields, True)


def read_http2_request(bytes raw not None, int max_fields, bytes payload):
    cdef Http1RequestHead head = _request_head(raw, max_fields, True, True)
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


cpdef Http1RequestHead make_request(bytes method, bytes target, bytes authority, bytes lines):
    cdef Http1RequestHead head = Http1RequestHead.__new__(Http1RequestHead)
    cdef bytes before_host = b" HTTP/1.1\r\nHost: " if authority else b" HTTP/1.1"
    head.source = b"".join((method, b" ", target, before_host, authority, b"\r\n", lines, b"\r\n"))
    head.made = True
    _read_request(head, INT_MAX, True)
    if (
        <Py_ssize_t>head.method_length != PyBytes_GET_SIZE(method)
        or <Py_ssize_t>head.target_at.length != PyBytes_GET_SIZE(target)
        or (authority and not has_one_line(head, _bit(HOST), authority))
    ):
        raise Malformed("The method, target or host of a request has characters that are not allowed there.")
    return head


cpdef Http1RequestHead stand_in_head(
    bytes method, bytes host=b"", bytes raw_path=b"", bytes query=None, bytes lines=b"", int version=11
):
    cdef Http1RequestHead head = Http1RequestHead.__new__(Http1RequestHead)
    cdef const uint8_t* end
    cdef const uint8_t* first_line
    cdef bytes asked = b"" if query is None else b"?" + query
    head.source = b"".join((method, b" ", raw_path, asked, b" HTTP/1.1\r\n", lines, b"\r\n"))
    head.head_length = head.message_length = <uint32_t>PyBytes_GET_SIZE(head.source)
    end = _start(head.source) + head.head_length
    first_line = end - PyBytes_GET_SIZE(lines) - 2
    if _read_fields(head, first_line, end, True, INT_MAX) is not end:
        raise ValueError("the fields of a head are malformed")
    head.minor, head.version, head.http2, head.stands_in = 1, version, version == 20, True
    head.method, head.raw_path, head.path, head.authority = method, raw_path, b"", host
    head.upgrade = head.connection_named = _NO_NAMES
    head.method_length = <uint32_t>PyBytes_GET_SIZE(method)
    head.path_at = Span(head.method_length + 1, <uint32_t>PyBytes_GET_SIZE(raw_path))
    head.target_at = Span(head.path_at.start, head.path_at.length + <uint32_t>PyBytes_GET_SIZE(asked))
    if query is not None:
        head.query_at = Span(head.path_at.start + head.path_at.length + 1, <uint32_t>PyBytes_GET_SIZE(query))
    head.host_at = head.authority_at = _append(head, host)
    head.host_sent_at = head.host_at.start
    return head


def parse_request(bytes raw not None, int max_fields=100):
    cdef Http1RequestHead head = _request_head(raw, max_fields, True)
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


cpdef bytes take_begun(Http1RequestHead head):
    cdef bytes begun = head.begun
    head.begun = None
    return begun


cpdef take_request(buffer, Py_ssize_t length, Py_ssize_t max_bytes, int max_fields):
    cdef bytes received = _taken(buffer, length)
    cdef Http1RequestHead head
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

@cython.final
@cython.no_gc
cdef class Http1ResponseHead(Head):
    DROPPED = HOP_BY_HOP
    KNOWN = _KNOWN_IN_RESPONSES

    @property
    def body_length(self):
        return None if self.chunked or self.until_close else self.length

    @property
    def reason(self):
        return _cut(self, self.reason_at)

    def copy(self, fields=None):
        cdef Http1ResponseHead made = Http1ResponseHead.__new__(Http1ResponseHead)
        made.source = self.raw
        made.head_length = made.message_length = self.head_length
        _read_response(made, b"GET", INT_MAX, LAST_TOLERATED_STATUS, True)
        made.http2, made.version, made.close = self.http2, self.version, self.close
        made.until_close, made.has_body, made._payload = self.until_close, self.has_body, payload_of(self)
        made.whole, made.payload_length = self.whole, self.payload_length
        made.payload_at = NULL if made._payload is None else PyBytes_AS_STRING(made._payload)
        made._fields = fields if fields is not None or self._fields is None else Fields(self._fields)
        return made

    def body(self, Py_ssize_t longest_trailers=_LONGEST_TRAILERS, Py_ssize_t most_trailers=MOST_TRAILERS):
        if not self.has_body:
            return LengthReader(0, None)
        if self.chunked:
            return ChunkedReader(self._second_parser, longest_trailers, most_trailers)
        return UntilCloseReader(self._second_parser) if self.until_close else LengthReader(self.length, self._second_parser)

    def __repr__(self):
        return f"<Http1ResponseHead {self.status}, {_framing_text(self)}>"


cdef bint _read_response(
    Http1ResponseHead head, bytes request_method, int max_fields, int last_status, bint explains
) except -1:
    """Parse a head. Raises `Malformed`. False, unless it `explains`: the text is malformed."""
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef const uint8_t* end = base + head.head_length
    cdef const uint8_t* at = base + 12
    cdef bint upgrading
    if end - base < 14 or memcmp(base, b"HTTP/1.", 7) or (base[7] != c"1" and base[7] != c"0") or base[8] != c" ":
        return explains and _refuse_status_line()
    if not c"1" <= base[9] <= c"9" or not _kinds[base[10]] & _kinds[base[11]] & DIGIT:
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
    if _read_fields(head, at + 2, end, False, max_fields) is not end:
        return explains and _refuse_fields(head, head.head_length, max_fields)
    head.upgrade = head.connection_named = _NO_NAMES
    upgrading = _settle_connection(head)
    if head.status == 101:
        offered = protocols(head.known) if upgrading else ()
        if not offered:
            raise Malformed("A 101 response has no Upgrade header.")
        head.upgrade = offered
    _settle_framing(head, False)
    return _settle_response_body(head, request_method)


cdef bint _refuse_status_line() except -1:
    raise Malformed("The status line is malformed.")


cdef bint _settle_response_body(Http1ResponseHead head, bytes request_method) except -1:
    """Determine the framing of the body (RFC 9112 section 6.3). 205 is no exception: its body is forwarded as framed."""
    cdef bint declared = head.chunked or head.length > 0
    if head.status < 200:
        if declared:
            raise Malformed("An interim (1xx) response has a body.")  # it could also be the final response
    elif head.status == 204:
        head.close = head.close or declared  # the following bytes belong to no request
    elif head.status != 304 and not _is_head(request_method):
        head.until_close = not head.chunked and not head.names & _bit(CONTENT_LENGTH)
        head.has_body = declared or head.until_close
        head.close = head.close or head.until_close
    return True


cdef inline bint _is_head(bytes method) noexcept:
    return PyBytes_GET_SIZE(method) == 4 and not memcmp(PyBytes_AS_STRING(method), b"HEAD", 4)


cdef SharedParser _second_parser_of_responses = SharedParser(HttpResponseParser)


cdef int _parse_response_again(Http1ResponseHead head, bytes request_method) except -1:
    """Parse the head again with llhttp, and the body if all of it was received. Raises `Malformed`."""
    cdef bytes text = head.source
    if head.whole and not head.close and not _is_head(request_method) and _second_parser_of_responses.agrees(
        _start(text), PyBytes_GET_SIZE(text), head.has_body
    ):
        return 0
    if head.upgrade is _NO_NAMES and _is_odd_for_llhttp(head):
        text = _message_for_llhttp(head, None)
    if _is_head(request_method):
        SecondParser(HttpResponseParser).read_head(_start(text), PyBytes_GET_SIZE(text), UNKNOWN)
    elif head.whole or not head.has_body:
        _second_parser_of_responses.read_message(
            _start(text), PyBytes_GET_SIZE(text), head.has_body,
            head.close or head.upgrade is not _NO_NAMES,
        )
    else:
        head._second_parser = SecondParser(HttpResponseParser)
        head._second_parser.read_head(_start(text), PyBytes_GET_SIZE(text), True)
    return 0


cdef Http1ResponseHead _response_head(
    bytes received, Py_ssize_t end, bytes request_method, int max_fields, int last_status, bint explains
):
    """Read a response head with the first parser. None, unless it `explains`: the text is malformed."""
    cdef Http1ResponseHead head = Http1ResponseHead.__new__(Http1ResponseHead)
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


cdef bint _settle_whole(Http1ResponseHead head, Py_ssize_t following) except -1:
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


def read_response(bytes raw not None, bytes request_method not None, int max_fields, int last_status=LAST_STATUS):
    return _response_head(raw, PyBytes_GET_SIZE(raw), request_method, max_fields, last_status, True)


def parse_answer(
    bytes received not None,
    Py_ssize_t end,
    bytes request_method not None,
    int max_fields=100,
    int last_status=LAST_STATUS,
):
    cdef Http1ResponseHead head = _response_head(received, end, request_method, max_fields, last_status, True)
    _parse_response_again(head, request_method)
    return head


def read_http2_response(bytes received not None, Py_ssize_t end, bytes request_method not None, int max_fields):
    cdef Http1ResponseHead head = _response_head(received, end, request_method, max_fields, LAST_STATUS, True)
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
    cdef Http1ResponseHead head
    if end is not NULL and length < len(buffer):
        try:
            head = _response_head(received, end - base, request_method, max_fields, LAST_STATUS, False)
            if head is not None and head.whole and head.status >= 200:
                _parse_response_again(head, request_method)
                return head
        except Malformed:
            pass
    return received

