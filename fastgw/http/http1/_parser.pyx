# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled `parser_reference`: reads ordinary heads in one pass.

A parsed head stores the offsets of its pieces and no objects: these are created on demand, except for a few that nearly
every request needs.
Anything unusual, and anything that llhttp rejects, is passed to the reference, which reads the same bytes from the
beginning, and accepts or rejects them with its own messages. So nothing is rejected here.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from fastgw.http.http1._body cimport BodyBuffer, LengthReader, SecondParser, plain_payload

from httptools import HttpRequestParser, HttpResponseParser

from fastgw.http.http1 import parser_reference as heads
from fastgw.http.http1._body import ChunkedReader, UntilCloseReader
from fastgw.http.http1.body import LONGEST_TRAILERS, MOST_TRAILERS
from fastgw.http.fields import Fields
from fastgw.http.http1.llhttp import check_method
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import has_other_readings, normalize

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
cdef tuple _NAMES = _NUMBERED + tuple(sorted((heads.Http1RequestHead.KNOWN | heads.Http1ResponseHead.KNOWN) - set(_NUMBERED)))
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
        raise ImportError("the compiled twin has no room for so many known fields")
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

cdef uint32_t _REQUEST_KNOWN = bits_of(heads.Http1RequestHead.KNOWN)
cdef uint32_t _RESPONSE_KNOWN = bits_of(heads.Http1ResponseHead.KNOWN)
cdef uint32_t _FORWARDING = bits_of(heads.FORWARDING)
# Allowed once; a repetition is passed to the reference.
cdef uint32_t _SINGLE = _bit(CONNECTION) | _bit(CONTENT_LENGTH) | _bit(HOST) | _bit(TRANSFER_ENCODING)


# field lines

cdef const uint8_t* _read_fields(
    Head head, const uint8_t* at, const uint8_t* end, bint request, int max_fields
) noexcept:
    """Read all lines from `at` to the empty line, and return the position after it. NULL: call the reference."""
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
    head.first_line = <uint16_t>(at - base)
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
        if request and signs and _has_known_twin(name, at - name):
            return NULL
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
            value.start = <uint16_t>(at - base)
            value.length = <uint16_t>(_trimmed(at, stop) - at)
            bit = <uint32_t>1 << number
            if known & bit:
                if head.line_count == MOST_LINES or head.names & bit & _SINGLE:
                    return NULL
                line = &head.lines[head.line_count]
                line.start = <uint16_t>(name - base)
                line.end = <uint16_t>(stop + 2 - base)
                line.value = value
                line.name = <uint8_t>number
                head.line_count += 1
                head.names |= bit
            else:
                head.others[slot >> 6] |= <uint64_t>1 << (slot & 63)
                if request:
                    beginnings |= beginning_of(name)
                    _note(<Http1RequestHead>head, number, value)
        at = stop + 2


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


cdef bint _has_known_twin(const uint8_t* name, Py_ssize_t length) noexcept nogil:
    """Whether it would be the name of a known field with hyphens in place of its punctuation."""
    cdef uint8_t hyphened[LONGEST_NAME]
    cdef Py_ssize_t place
    if length > LONGEST_NAME:
        return False
    for place in range(length):
        hyphened[place] = c"-" if _kinds[name[place]] & SIGN else name[place]
    return _number_in(slot_of(hyphened, length), hyphened, length) >= 0


cdef inline Line* _line(Head head, Name name) noexcept:
    """Return the first line of a field that is present."""
    cdef Line* line = &head.lines[0]
    while line.name != name:
        line += 1
    return line


cdef inline bint _is(const uint8_t* text, Span span, const char* word, Py_ssize_t length) noexcept nogil:
    """Whether a value equals this lower-case word, ignoring case."""
    cdef Py_ssize_t place
    if span.length != length:
        return False
    for place in range(length):
        if _lower[text[span.start + place]] != <uint8_t>word[place]:
            return False
    return True


cdef bint _settle_framing(Head head) noexcept:
    """Determine `length`, `chunked` and `close`. False: call the reference."""
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef Line* line
    cdef Py_ssize_t place
    cdef uint8_t digit
    cdef bint keep_alive = False
    if head.names & _bit(CONNECTION):
        line = _line(head, CONNECTION)
        head.close = _is(text, line.value, b"close", 5)
        keep_alive = _is(text, line.value, b"keep-alive", 10)
        if not head.close and not keep_alive:
            return False
    if not head.minor and not keep_alive:
        head.close = True
    if head.names & _bit(CONTENT_LENGTH):
        line = _line(head, CONTENT_LENGTH)
        if not 1 <= line.value.length <= 18:
            return False
        for place in range(line.value.length):
            digit = text[line.value.start + place]
            if not _kinds[digit] & DIGIT:
                return False
            head.length = head.length * 10 + (digit - c"0")
    if head.names & _bit(TRANSFER_ENCODING):
        line = _line(head, TRANSFER_ENCODING)
        head.chunked = True
        # White space after the value is legal, but llhttp rejects it.
        if line.value.start + line.value.length + 2 != line.end or not _is(text, line.value, b"chunked", 7):
            return False
        if not head.minor or head.names & _bit(CONTENT_LENGTH):
            return False
    return True


# both kinds of heads

cdef inline bytes _cut(Head head, Span span):
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(head.source) + span.start, span.length)


# --- attributes ---

cdef extern from *:
    """
    #include <structmember.h>
    /* Have what lies there shown as an attribute of this name, which is not to be set. */
    static int show_member(PyTypeObject *owner, PyMemberDef *member, const char *name, Py_ssize_t place)
    {
        PyObject *descriptor;
        int failed;
        member->name = name;
        member->type = T_OBJECT_EX;
        member->flags = READONLY;
        member->offset = place;
        descriptor = PyDescr_NewMember(owner, member);
        if (descriptor == NULL)
            return -1;
        failed = PyDict_SetItemString(owner->tp_dict, name, descriptor);
        Py_DECREF(descriptor);
        PyType_Modified(owner);
        return failed;
    }
    """
    ctypedef struct PyMemberDef:
        pass
    int show_member(type owner, PyMemberDef* member, const char* name, Py_ssize_t place) except -1

cdef enum:  # indices of `shown`
    # of requests
    METHOD = 0
    LENGTH
    PAYLOAD
    AUTHORITY
    PATH_AS_SENT
    FORWARDED
    ORDINARY
    CLOSE_OF_REQUEST
    # of responses
    STATUS = 0
    MINOR
    CLOSE_OF_RESPONSE
    PAYLOAD_LENGTH

cdef tuple _OF_REQUESTS = (
    b"method", b"length", b"payload", b"authority", b"path_as_sent", b"forwarded", b"ordinary", b"close"
)
cdef tuple _OF_RESPONSES = (b"status", b"minor", b"close", b"payload_length")
cdef PyMemberDef _request_members[MOST_SHOWN]
cdef PyMemberDef _response_members[MOST_SHOWN]


cdef int _show_all(Head head, tuple names, PyMemberDef* members) except -1:
    """Create attributes for the values in `shown` of this type's heads.

    PERF: reading one takes 10 instructions of the interpreter, as with `__slots__`, instead of 200 by a getter (CPython
    3.11).
    """
    cdef int number
    for number in range(len(names)):
        place = <char*>&head.shown[number] - <char*><PyObject*>head
        show_member(type(head), &members[number], PyBytes_AS_STRING(names[number]), place)
    return 0


cdef inline void _show(Head head, int number, object value) noexcept:
    cdef PyObject* before = head.shown[number]
    Py_INCREF(value)
    head.shown[number] = <PyObject*>value
    Py_XDECREF(before)


@cython.no_gc  # no cycle: its objects do not refer to it
cdef class Head:
    # constants, because only unusual heads have others
    upgrade = ()
    connect_protocol = b""
    connection_named = ()

    def __dealloc__(self):
        cdef int number
        for number in range(MOST_SHOWN):
            Py_XDECREF(self.shown[number])

    @property
    def version(self):
        return version_of(self)

    def came_by_http2(self):
        self.http2 = True

    @property
    def body_length(self):
        return None if self.chunked else self.length

    @property
    def raw(self):
        if self._raw is None:
            self._raw = self.source[:self.head_length]
        return self._raw

    @property
    def payload(self):
        return _payload_of(self)

    @property
    def fields_start(self):
        return self.first_line

    @property
    def known(self):
        cdef Line* line
        cdef int place
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


cdef bytes _payload_of(Head head):
    if head.whole and head._payload is None:
        # PERF: a slice, whose type is not known to be bytes, takes 1,100 instructions more (micro/exchange).
        head._payload = PyBytes_FromStringAndSize(
            PyBytes_AS_STRING(head.source) + head.head_length, PyBytes_GET_SIZE(head.source) - head.head_length
        )
    return head._payload


cdef bytes _first(Head head, bytes name):
    if head._fields is not None:
        return head._fields.get(name)
    return _first_known(head, name) if name in head.KNOWN else _first_of_any(head, name)


cdef bytes _first_known(Head head, bytes name):
    cdef int number = _NUMBERS[name]
    cdef int place
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


cdef list all_values(Head head, bytes name):
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(head.source) + head.first_line
    cdef list found = []
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
    DROPPED = heads.Http1RequestHead.DROPPED
    KNOWN = heads.Http1RequestHead.KNOWN

    # constants, because only unusual heads have others
    scheme = b""
    expects_continue = False

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
        return _cut(self, self.authority_at)  # one with capital letters is parsed by the reference

    @property
    def raw_path(self):
        return self._raw_path

    @property
    def path(self):
        return self._path

    @property
    def query(self):
        return _cut(self, self.query_at) if self.query_at.start else None

    def received_fields(self):
        return Fields.parse(self.raw, self.first_line)

    def received_values(self, bytes name not None):
        return [line[2] for line in self.known.get(name, ())]

    def received_names(self):
        return {name for name, _ in Fields.parse(self.raw, self.first_line)}

    def any_line(self, search):
        return search(self.raw) is not None

    def body(self, Py_ssize_t longest_trailers=LONGEST_TRAILERS, Py_ssize_t most_trailers=MOST_TRAILERS):
        if self.chunked:
            return ChunkedReader(self._second_parser, longest_trailers, most_trailers)
        return LengthReader(self.length, self._second_parser)

    def drop_payload(self):
        self.source = self.raw
        self._payload = None
        self.whole = False
        _show(self, PAYLOAD, None)
        _show(self, ORDINARY, False)

    def __repr__(self):
        return f"<Http1RequestHead {self.method.decode('ascii')}, {_framing_text(self)}>"


cdef bytes _GET = b"GET"


cdef bytes method_of(Http1RequestHead head):
    if head.shown[METHOD] is NULL:
        raise AttributeError("a head that was not read has no method")
    return <bytes>head.shown[METHOD]


cdef bint has_field(Head head, bytes name) except -1:
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(name)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(name)
    cdef uint8_t slot
    cdef int number
    cdef const uint8_t* line
    if not length:
        return False
    slot = slot_of(text, length)
    number = _number_in(slot, text, length)
    if number >= 0 and (_REQUEST_KNOWN if type(head) is Http1RequestHead else _RESPONSE_KNOWN) >> number & 1:
        return head.names >> number & 1
    if not head.others[slot >> 6] >> (slot & 63) & 1:
        return False
    line = <const uint8_t*>PyBytes_AS_STRING(head.source) + head.first_line
    return _next_of_any(head, name, &line) is not None


cdef bint _show_request(Http1RequestHead head) except -1:
    """Store the attributes that nearly every request needs, after the head was parsed."""
    cdef bint is_get = head.method_at.length == 3 and not memcmp(PyBytes_AS_STRING(head.source), b"GET", 3)
    _show(head, METHOD, _GET if is_get else _cut(head, head.method_at))
    _show(head, LENGTH, head.length)
    _show(head, PAYLOAD, _payload_of(head))
    _show(head, AUTHORITY, _cut(head, head.authority_at))
    _show(head, PATH_AS_SENT, head._path is head._raw_path or head._path == head._raw_path)
    _show(head, FORWARDED, head.names & _FORWARDING != 0)
    _show(head, ORDINARY, _is_ordinary(head))
    _show(head, CLOSE_OF_REQUEST, head.close)
    return True


cdef bint _is_ordinary(Http1RequestHead head) noexcept:
    return head.whole and _has_ordinary_head(head)


cdef bint _has_ordinary_head(Http1RequestHead head) noexcept:
    cdef const char* method = PyBytes_AS_STRING(head.source)
    return (
        head.minor == 1
        and not head.read_in_two_ways
        and not head.names & _bit(MAX_FORWARDS)
        and not (head.names & _bit(TE) and not head.http2)
        and not (head.method_at.length == 5 and not memcmp(method, b"TRACE", 5))
        and not (head.method_at.length == 7 and not memcmp(method, b"OPTIONS", 7))
    )


cdef bint _has_common_method(Http1RequestHead head) noexcept:
    """Whether its method needs no `check_method`."""
    cdef const char* method = PyBytes_AS_STRING(head.source)
    cdef Py_ssize_t length = head.method_at.length
    if length == 3:
        return not memcmp(method, b"GET", 3) or not memcmp(method, b"PUT", 3)
    if length == 4:
        return not memcmp(method, b"POST", 4) or not memcmp(method, b"HEAD", 4)
    return length == 6 and not memcmp(method, b"DELETE", 6)


cdef enum:
    LONGEST_METHOD = 32
    LONGEST_HEAD = 65_535
    LONGEST_HOST = 253


cdef bint _read_request(Http1RequestHead head, int max_fields, bint alone) except -1:
    """Parse a head, or, unless it has to be `alone`, a head with its body. False: call the reference. Raises
    `Malformed` for a path, like the reference.
    """
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef const uint8_t* end = base + PyBytes_GET_SIZE(head.source)
    cdef const uint8_t* at = base
    cdef Py_ssize_t following
    cdef bint plain = True
    while at < end and _kinds[at[0]] & TOKEN:
        at += 1
    head.method_at.length = <uint16_t>(at - base)
    if at == base or at - base > LONGEST_METHOD or _is(base, head.method_at, b"connect", 7):
        return False
    if end - at < 2 or at[0] != c" " or at[1] != c"/":
        return False
    at += 1
    head.target_at.start = head.path_at.start = <uint16_t>(at - base)
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
    head.path_at.length = <uint16_t>(at - base - head.path_at.start)
    if at < end and at[0] == c"?":
        at += 1
        head.query_at.start = <uint16_t>(at - base)
        at = target_end(at, end)
        head.query_at.length = <uint16_t>(at - base - head.query_at.start)
    head.target_at.length = <uint16_t>(at - base - head.target_at.start)
    if end - at < 11 or memcmp(at, b" HTTP/1.", 8) or at[9] != c"\r" or at[10] != c"\n":
        return False
    if at[8] != c"1" and at[8] != c"0":
        return False
    head.minor = at[8] - c"0"
    at = _read_fields(head, at + 11, end, True, max_fields)
    if at is NULL:
        return False
    head.head_length = <uint16_t>(at - base)
    if head.names & (_bit(EXPECT) | _bit(UPGRADE)):
        return False
    if head.names & _bit(TE):
        # Over HTTP/2 it needs no `Connection: TE` (RFC 9113 section 8.2.2), and every gRPC call has it.
        head.accepts_trailers = head.http2 and has_one_line(head, _bit(TE), b"trailers")
        if not head.accepts_trailers:
            return False
    if not _settle_host(head) or not _settle_framing(head):
        return False
    head.sized = head.names & _bit(CONTENT_LENGTH) != 0
    following = end - at
    head.whole = not head.chunked and head.length == following
    if following and (alone or not head.whole):
        return False
    if head.names & _bit(X_REQUEST_ID):
        head.x_request_id_at = _line(head, X_REQUEST_ID).value
    head._raw_path = _cut(head, head.path_at)
    if plain:
        head._path = head._raw_path
    else:
        head._path = normalize(head._raw_path)
        head.read_in_two_ways = head.read_in_two_ways or has_other_readings(head._raw_path)
    return True


cdef bint _settle_host(Http1RequestHead head) noexcept:
    """Parse a lower-case name with an optional port. False: call the reference."""
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef Span value
    cdef Py_ssize_t at, end, port = 0
    if not head.names & _bit(HOST):
        return not head.minor
    value = _line(head, HOST).value
    at = value.start
    end = at + value.length
    while at < end and (_kinds[text[at]] & HOST_NAME or text[at] == c"."):
        if text[at] == c"." and (at == value.start or text[at - 1] == c"."):
            return False
        at += 1
    if at == value.start:
        return False
    head.authority_at = head.host_at = value
    head.host_at.length = <uint16_t>(at - value.start - (text[at - 1] == c"."))
    if head.host_at.length > LONGEST_HOST:
        return False
    if at == end:
        return True
    if text[at] != c":" or not 1 <= end - at - 1 <= 5 or text[at + 1] == c"0":
        return False
    for at in range(at + 1, end):
        if not _kinds[text[at]] & DIGIT:
            return False
        port = port * 10 + (text[at] - c"0")
    return port <= 65_535


cdef bint _agrees_on_all(SecondParser second_parser, Head head, bint has_body) except -1:
    """Whether llhttp finds the same complete message."""
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    if has_body:
        return second_parser.agrees_on_whole(text, PyBytes_GET_SIZE(head.source))
    return second_parser.agrees_on_head(text, head.head_length, False)


cdef SecondParser _for_requests = SecondParser(HttpRequestParser)


cdef bint _llhttp_agrees_on_request(Http1RequestHead head) except -1:
    global _for_requests
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef bint agrees
    cdef SecondParser second_parser
    if not head.whole:
        head._second_parser = SecondParser(HttpRequestParser)
        return head._second_parser.agrees_on_head(text, head.head_length, True)
    second_parser = SecondParser(HttpRequestParser) if head.close else _for_requests
    agrees = _agrees_on_all(second_parser, head, head.length > 0)
    if not agrees and not head.close:
        _for_requests = SecondParser(HttpRequestParser)  # it may be in the middle of a message
    return agrees


cdef Http1RequestHead _request_head(bytes received, int max_fields, bint alone, bint http2=False):
    """Read a request head like `_read_request`. None: call the reference."""
    cdef Http1RequestHead head
    if PyBytes_GET_SIZE(received) > LONGEST_HEAD:
        return None
    head = Http1RequestHead.__new__(Http1RequestHead)
    head.source = received
    head.http2 = http2
    return head if _read_request(head, max_fields, alone) and _show_request(head) else None


def read_request(bytes raw not None, int max_fields):
    """Compiled `parser_reference.read_request`: without the second parser."""
    cdef Http1RequestHead head = _request_head(raw, max_fields, True)
    return heads.read_request(raw, max_fields) if head is None else head


def read_http2_request(bytes raw not None, int max_fields, bytes payload):
    """Compiled `parser_reference.read_http2_request`."""
    cdef Http1RequestHead head = _request_head(raw, max_fields, True, True)
    if head is None:
        return heads.read_http2_request(raw, max_fields, payload)
    if not _has_common_method(head):
        check_method(method_of(head))
    if payload is None:
        if head.whole:  # by its declared length, 0
            head.drop_payload()
    elif not head.whole:
        head._payload = payload
        head.whole = True
        _show(head, PAYLOAD, payload)
        _show(head, ORDINARY, _has_ordinary_head(head))
    return head


def parse_request(bytes raw not None, int max_fields=100):
    """Compiled `parser_reference.parse_request`."""
    cdef Http1RequestHead head = _request_head(raw, max_fields, True)
    if head is not None and _llhttp_agrees_on_request(head):
        return head
    return heads.parse_request(raw, max_fields)


def body_buffer(Py_ssize_t size):
    """Compiled `parser_reference.body_buffer`."""
    return BodyBuffer(size)


def leading_bytes(buffer not None, Py_ssize_t length):
    """Compiled `parser_reference.taken`."""
    if type(buffer) is BodyBuffer:
        return (<BodyBuffer>buffer).take_bytes(length)
    return _taken(buffer, length)


cdef bytes _taken(object buffer, Py_ssize_t length):
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if 0 <= length <= view.len:
            return PyBytes_FromStringAndSize(<const char*>view.buf, length)
    finally:
        PyBuffer_Release(&view)
    return heads.leading_bytes(buffer, length)


def take_request(buffer not None, Py_ssize_t length, Py_ssize_t max_bytes, int max_fields):
    """Compiled `parser_reference.take_request`."""
    cdef bytes received = _taken(buffer, length)
    cdef Http1RequestHead head
    try:
        head = _request_head(received, max_fields, False)
        if head is not None and head.head_length <= max_bytes and _llhttp_agrees_on_request(head):
            return head
    except Malformed:
        pass
    return received


def find_head_end(buffer, Py_ssize_t start=0, Py_ssize_t begin=0):
    """Compiled `parser_reference.find_head_end`."""
    cdef const uint8_t* base
    cdef const uint8_t* found
    if type(buffer) is bytes and 0 <= start <= PyBytes_GET_SIZE(buffer) and 0 <= begin <= PyBytes_GET_SIZE(buffer):
        base = <const uint8_t*>PyBytes_AS_STRING(buffer)
        found = empty_line_end(base + max(begin, start - 3), base + PyBytes_GET_SIZE(buffer))
        if found is not NULL:
            return found - base
    return heads.find_head_end(buffer, start, begin)


# --- responses ---

@cython.final
@cython.no_gc
cdef class Http1ResponseHead(Head):
    DROPPED = heads.Http1ResponseHead.DROPPED
    KNOWN = heads.Http1ResponseHead.KNOWN

    @property
    def body_length(self):
        return None if self.chunked or self.until_close else self.length

    @property
    def reason(self):
        return _cut(self, self.reason_at)

    def body(self, Py_ssize_t longest_trailers=LONGEST_TRAILERS, Py_ssize_t most_trailers=MOST_TRAILERS):
        if not self.has_body:
            return LengthReader(0, None)
        if self.chunked:
            return ChunkedReader(self._second_parser, longest_trailers, most_trailers)
        return UntilCloseReader(self._second_parser) if self.until_close else LengthReader(self.length, self._second_parser)

    def __repr__(self):
        return f"<Http1ResponseHead {self.status}, {_framing_text(self)}>"


cdef bint _read_response(Http1ResponseHead head, bytes request_method, int max_fields) noexcept:
    """Parse a head. False: call the reference."""
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef const uint8_t* end = base + head.head_length
    cdef const uint8_t* at = base + 12
    if end - base < 14 or memcmp(base, b"HTTP/1.", 7) or (base[7] != c"1" and base[7] != c"0") or base[8] != c" ":
        return False
    if not c"1" <= base[9] <= c"5" or not _kinds[base[10]] & _kinds[base[11]] & DIGIT:
        return False
    head.minor = base[7] - c"0"
    head.status = 100 * (base[9] - c"0") + 10 * (base[10] - c"0") + (base[11] - c"0")
    if at[0] == c" ":
        at += 1
        head.reason_at.start = <uint16_t>(at - base)
        at = value_end(at, end)
        head.reason_at.length = <uint16_t>(at - base - head.reason_at.start)
    if end - at < 2 or at[0] != c"\r" or at[1] != c"\n":
        return False
    if _read_fields(head, at + 2, end, False, max_fields) is not end or not _settle_framing(head):
        return False
    if head.names & _bit(UPGRADE) or head.status == 101:
        return False
    return _settle_response_body(head, request_method)


cdef bint _settle_response_body(Http1ResponseHead head, bytes request_method) noexcept:
    """Compiled `parser_reference._settle_response_body`. False: call the reference."""
    cdef bint declared = head.chunked or head.length > 0
    if head.status < 200:
        return not declared
    if head.status == 204:
        head.close = head.close or declared
    elif head.status != 304 and not _is_head(request_method):
        head.until_close = not head.chunked and not head.names & _bit(CONTENT_LENGTH)
        head.has_body = declared or head.until_close
        head.close = head.close or head.until_close
    return True


cdef inline bint _is_head(bytes method) noexcept:
    return PyBytes_GET_SIZE(method) == 4 and not memcmp(PyBytes_AS_STRING(method), b"HEAD", 4)


cdef SecondParser _for_responses = SecondParser(HttpResponseParser)


cdef bint _llhttp_agrees_on_response(Http1ResponseHead head, bytes request_method) except -1:
    """Whether llhttp finds the same response, including all received bytes if that is the whole message."""
    global _for_responses
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef bint agrees
    cdef SecondParser second_parser
    if _is_head(request_method):
        return SecondParser(HttpResponseParser).agrees_on_any_head(text, head.head_length)
    if head.has_body and not head.whole:
        head._second_parser = SecondParser(HttpResponseParser)
        return head._second_parser.agrees_on_head(text, head.head_length, True)
    second_parser = SecondParser(HttpResponseParser) if head.close else _for_responses
    agrees = _agrees_on_all(second_parser, head, head.has_body)
    if not agrees and not head.close:
        _for_responses = SecondParser(HttpResponseParser)  # it may be in the middle of a message
    return agrees


cdef Http1ResponseHead _response_head(bytes received, Py_ssize_t end, bytes request_method, int max_fields):
    """Read a response head. None: call the reference."""
    cdef Http1ResponseHead head
    cdef Py_ssize_t following = PyBytes_GET_SIZE(received) - end
    if not 0 <= end <= LONGEST_HEAD or following < 0:
        return None
    head = Http1ResponseHead.__new__(Http1ResponseHead)
    head.source = received
    head.head_length = <uint16_t>end
    if not _read_response(head, request_method, max_fields):
        return None
    _settle_whole(head, following)
    if not head.whole:
        head.source = head._raw = received[:end]  # without the bytes after it, which need not be kept
    _show(head, STATUS, head.status)
    _show(head, MINOR, head.minor)
    _show(head, CLOSE_OF_RESPONSE, head.close)
    _show(head, PAYLOAD_LENGTH, head.payload_length)
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


def read_response(bytes raw not None, bytes request_method not None, int max_fields):
    """Compiled `parser_reference.read_response`: without the second parser."""
    head = _response_head(raw, PyBytes_GET_SIZE(raw), request_method, max_fields)
    return heads.read_response(raw, request_method, max_fields) if head is None else head


def parse_answer(
    bytes received not None,
    Py_ssize_t end,
    bytes request_method not None,
    int max_fields=100,
    int last_status=heads.LAST_STATUS,
):
    """Compiled `parser_reference.parse_answer`."""
    cdef Http1ResponseHead head = _response_head(received, end, request_method, max_fields)
    if head is not None and _llhttp_agrees_on_response(head, request_method):
        return head
    return heads.parse_answer(received, end, request_method, max_fields, last_status)


def read_http2_response(bytes received not None, Py_ssize_t end, bytes request_method not None, int max_fields):
    """Compiled `parser_reference.read_http2_response`."""
    cdef Http1ResponseHead head = _response_head(received, end, request_method, max_fields)
    if head is None:
        return heads.read_http2_response(received, end, request_method, max_fields)
    head.http2 = True
    return head


def parse_response(bytes raw not None, bytes request_method not None, int max_fields=100):
    """Compiled `parser_reference.parse_response`."""
    return parse_answer(raw, PyBytes_GET_SIZE(raw), request_method, max_fields, heads.LAST_TOLERATED_STATUS)


def take_answer(buffer not None, Py_ssize_t length, bytes request_method not None, int max_fields=100):
    """Compiled `parser_reference.take_answer`."""
    cdef bytes received = _taken(buffer, length)
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(received)
    cdef const uint8_t* end = empty_line_end(base, base + PyBytes_GET_SIZE(received))
    cdef Http1ResponseHead head
    if end is not NULL and length < len(buffer):
        head = _response_head(received, end - base, request_method, max_fields)
        if head is not None and head.whole and head.status >= 200 and _llhttp_agrees_on_response(head, request_method):
            return head
    return received


_show_all(Http1RequestHead.__new__(Http1RequestHead), _OF_REQUESTS, _request_members)
_show_all(Http1ResponseHead.__new__(Http1ResponseHead), _OF_RESPONSES, _response_members)
