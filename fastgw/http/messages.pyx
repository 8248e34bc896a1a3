# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Heads of messages: what was read, and how it is looked up.

A head stores the offsets of its pieces and no objects: these are created on demand, except for a few that nearly every
request needs.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastgw.http.field_names import FORWARDING, HOP_BY_HOP, READ_IN_REQUESTS, WRITTEN_HERE
from fastgw.http.fields import Fields

AS_DECLARED = -3

cdef extern from "_bytes.h" nogil:
    const uint8_t* word_end(const uint8_t* at, const uint8_t* end)
    bint is_name(const uint8_t* token, const uint8_t* name, size_t length)
    const uint8_t* value_end(const uint8_t* at, const uint8_t* end)


# --- names ---

_NUMBERED = (
    b"authorization", b"connection", b"content-length", b"expect", b"host", b"max-forwards", b"origin",
    b"referer", b"te", b"transfer-encoding", b"upgrade", b"user-agent", b"x-request-id",
)
cdef tuple _NAMES = _NUMBERED + tuple(sorted((READ_IN_REQUESTS | {b"date", b"server"}) - set(_NUMBERED)))
cdef dict _NUMBERS = {name: number for number, name in enumerate(_NAMES)}

cdef enum:
    MOST_NAMES = UNNUMBERED  # one bit each
    SLOTS = 64 * SLOT_WORDS
    LONGEST_NAME = 27

cdef struct Text:
    const uint8_t* start
    Py_ssize_t length

cdef Text _texts[MOST_NAMES]  # of the names, in lower case
cdef uint8_t _slots[SLOTS]  # hash table with open addressing: number of a name + 1, or 0

cdef uint8_t _lower[256]


cdef uint32_t bits_of(names) except? 0:
    """Return a bit for each of these names."""
    cdef uint32_t bits = 0
    for name in names:
        bits |= <uint32_t>1 << <int>_NUMBERS[name]
    return bits


cdef uint8_t slot_of(const uint8_t* name, Py_ssize_t length) noexcept nogil:
    return <uint8_t>(141 * _lower[name[0]] + 207 * _lower[name[length - 1]] + 43 * length)


cdef inline int _number_in(uint8_t slot, const uint8_t* name, Py_ssize_t length) noexcept nogil:
    """Return the number of a token with this slot, ignoring case; -1: its name is not numbered."""
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
        raise ImportError("there is no room for so many numbered names")
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
            kinds[code] |= <uint8_t>kind
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
cdef uint32_t _FORWARDING = bits_of(FORWARDING)


# --- field lines ---

cdef const uint8_t* read_fields(
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
    cdef uint32_t bit
    cdef int number
    cdef Line* line = head.usual_lines
    cdef Line* last = line + USUAL_LINES
    head.lines = line
    head.line_room = USUAL_LINES
    head.first_line = <uint32_t>(at - base)
    while True:
        name = at
        signs = False
        at = word_end(at, end)
        while at < end and kinds[at[0]] & TOKEN:
            signs = True  # punctuation has ended the word
            at += 1
        if at == name:
            head.line_count = <uint32_t>(line - head.lines)
            return at + 2 if end - at >= 2 and at[0] == c"\r" and at[1] == c"\n" else NULL
        if at == end or at[0] != c":" or line - head.lines == max_fields:
            return NULL
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
        if line is last:
            _make_room(head)
            line = head.lines + (head.line_room >> 1)
            last = head.lines + head.line_room
        line.start = <uint32_t>(name - base)
        line.value.start = <uint32_t>(at - base)
        line.value.length = <uint32_t>(_trimmed(at, stop) - at)
        line.slot = slot
        line.signs = signs
        if number < 0:
            line.name = UNNUMBERED
            head.others[slot >> 6] |= <uint64_t>1 << (slot & 63)
        else:
            line.name = <uint8_t>number
            bit = <uint32_t>1 << number
            head.repeated |= head.names & bit
            head.names |= bit
        line += 1
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
        hyphened[place] = c"-" if kinds[name[place]] & SIGN else name[place]
    number = _number_in(slot_of(hyphened, length), hyphened, length)
    return number >= 0 and _REQUEST_KNOWN >> number & 1


# --- both kinds of heads ---

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


cpdef bytes first_of(Head head, bytes name):
    return _first(head, name)


cpdef values_of(head, bytes name):
    if isinstance(head, Head) and (<Head>head)._fields is None:
        return all_values(<Head>head, name)
    return head.values(name)


cdef bytes _raw_of(Head head):
    if head._raw is None:
        head._raw = PyBytes_FromStringAndSize(PyBytes_AS_STRING(head.source), head.head_length)
    return head._raw


cdef bytes _first(Head head, bytes name):
    cdef const Line* line
    if head._fields is not None:
        return head._fields.get(name)
    line = _next_line(head, name, head.lines)
    return None if line is NULL else cut(head, line.value)


cdef int number_of(bytes name) noexcept:
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(name)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(name)
    return _number_in(slot_of(text, length), text, length) if length else -1


cdef const Line* _next_line(Head head, bytes name, const Line* line) noexcept:
    """Return the next line with this name, from `line` on; NULL: there is none."""
    cdef const uint8_t* wanted = <const uint8_t*>PyBytes_AS_STRING(name)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(name)
    cdef const Line* end = head.lines + head.line_count
    cdef uint8_t slot
    cdef int number
    if not length:
        return NULL
    slot = slot_of(wanted, length)
    number = _number_in(slot, wanted, length)
    if not (head.names >> number if number >= 0 else head.others[slot >> 6] >> (slot & 63)) & 1:
        return NULL
    while line < end:
        if line.name == number or (
            number < 0 and line.slot == slot and line.name == UNNUMBERED and _is_called(head, line, wanted, length)
        ):
            return line
        line += 1
    return NULL


cdef bint _is_called(Head head, const Line* line, const uint8_t* wanted, Py_ssize_t length) noexcept:
    """Whether the name of a line is this one, ignoring case."""
    cdef const uint8_t* name = <const uint8_t*>PyBytes_AS_STRING(head.source) + line.start
    cdef Py_ssize_t place
    if <Py_ssize_t>(line.value.start - line.start) <= length or name[length] != c":":
        return False
    for place in range(length):
        if _lower[name[place]] != _lower[wanted[place]]:
            return False
    return True


cdef list all_values(Head head, bytes name):
    cdef const Line* line = _next_line(head, name, head.lines)
    cdef list found = []
    while line is not NULL:
        found.append(cut(head, line.value))
        line = _next_line(head, name, line + 1)
    return found


cdef bint may_have(Head head, uint32_t numbers, const uint64_t* slots) noexcept nogil:
    cdef int word
    for word in range(SLOT_WORDS):
        if head.others[word] & slots[word]:
            return True
    return head.names & numbers != 0


cdef str _framing_text(Head head):
    return "chunked" if head.chunked else f"length {head.length}"


# --- requests ---

@cython.final
@cython.no_gc
cdef class RequestHead(Head):
    DROPPED = WRITTEN_HERE
    KNOWN = READ_IN_REQUESTS

    def came_by_connect(self, bytes protocol not None):
        self.plain = self.ordinary = False
        self.connect_protocol = protocol

    @property
    def request_target(self):
        return cut(self, self.target_at)

    @property
    def host(self):
        return cut(self, self.host_at)

    @property
    def host_as_sent(self):
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.source) + self.host_sent_at, self.authority_at.length)

    @property
    def forwarded(self):
        return self.names & _FORWARDING != 0

    @property
    def query(self):
        return cut(self, self.query_at) if self.query_at.start else None

    def received_fields(self):
        return Fields.parse(self.raw, self.first_line, self.connection_named)

    def received_values(self, bytes name not None):
        return all_values(self, name)

    def received_names(self):
        return {*self.connection_named, *(name for name, _ in Fields.parse(self.raw, self.first_line))}

    def any_line(self, search):
        return search(self.raw) is not None

    cpdef drop_payload(self):
        cut_off_payload(self)
        self._payload = None
        self.whole = self.ordinary = False

    def __repr__(self):
        return f"<RequestHead {self.method.decode('ascii')}, {_framing_text(self)}>"


cdef enum:
    SHORT_PAYLOAD = 2048


cdef int cut_off_payload(RequestHead head) except -1:
    """Let go of what was received behind the head."""
    if <Py_ssize_t>head.message_length == PyBytes_GET_SIZE(head.source):
        # PERF: a short one goes with the head: a copy of the head takes 900 instructions (CPython 3.11, callgrind).
        if head.message_length - head.head_length > SHORT_PAYLOAD:
            head.source = _raw_of(head)
        head.message_length = head.head_length
    return 0


# --- responses ---

@cython.final
@cython.no_gc
cdef class ResponseHead(Head):
    DROPPED = HOP_BY_HOP

    @property
    def body_length(self):
        return None if self.chunked or self.until_close else self.length

    @property
    def reason(self):
        return cut(self, self.reason_at)

    def __repr__(self):
        return f"<ResponseHead {self.status}, {_framing_text(self)}>"


# --- of any head ---

cpdef bytes payload_of(Head head):
    if head.whole and head._payload is None:
        # PERF: a slice, whose type is not known to be bytes, takes 1,100 instructions more (micro/exchange).
        head._payload = PyBytes_FromStringAndSize(
            PyBytes_AS_STRING(head.source) + head.head_length, head.message_length - head.head_length
        )
    return head._payload


cpdef bint has_field(Head head, bytes name) except -1:
    return _next_line(head, name, head.lines) is not NULL
