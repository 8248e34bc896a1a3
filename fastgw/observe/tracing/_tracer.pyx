# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Compiled `tracer` and `trace`: the trace of an ordinary request begins, and is passed on, without the interpreter.

Ordinary is a request without trace context, or with a single valid `traceparent` and nothing else, whose head the
compiled parser has read. All others are left to the reference.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastgw.http.http1._parser cimport SLOT_WORDS, Head, Http1RequestHead, slot_of

import os

from fastgw.observe.tracing.context import NAMES, RANDOM as _RANDOM, SAMPLED as _SAMPLED

cdef enum:
    TRACE_ID = 32
    SPAN_ID = 16
    VERSION_00 = 55
    TRACECONTEXT = 0
    B3_SINGLE = 1
    B3_MULTI = 2
    MOST_FORMATS = 4
    MOST_LINES = 512  # without `tracestate`, which only the reference reads

cdef int SAMPLED = _SAMPLED
cdef int RANDOM = _RANDOM
cdef uint16_t _digits[256]  # two hexadecimal digits for each byte, in memory order
cdef uint64_t _state[4]  # xoshiro256**: ids have to differ, and are no secrets


def _seed():
    cdef bytes seed = os.urandom(32)
    memcpy(_state, PyBytes_AS_STRING(seed), 32)


cdef _set_up():
    cdef int code
    for code in range(256):
        memcpy(&_digits[code], PyBytes_AS_STRING(b"%02x" % code), 2)
    _seed()
    os.register_at_fork(after_in_child=_seed)


_set_up()


cdef inline uint64_t _rotated(uint64_t word, int count) noexcept nogil:
    return (word << count) | (word >> (64 - count))


cdef inline uint64_t _next() noexcept nogil:
    cdef uint64_t result = _rotated(_state[1] * 5, 7) * 9
    cdef uint64_t shifted = _state[1] << 17
    _state[2] ^= _state[0]
    _state[3] ^= _state[1]
    _state[1] ^= _state[2]
    _state[0] ^= _state[3]
    _state[2] ^= shifted
    _state[3] = _rotated(_state[3], 45)
    return result or 1


cdef inline void _put_word(char* out, uint64_t word) noexcept nogil:
    """Write 16 hexadecimal digits, the most significant first."""
    cdef int index
    cdef uint16_t digits
    for index in range(8):
        digits = _digits[(word >> (56 - 8 * index)) & 0xFF]
        memcpy(out + 2 * index, &digits, 2)


cdef inline int _digit(uint8_t letter) noexcept nogil:
    """Return the value of a lower-case hexadecimal digit; -1: it is none."""
    if c"0" <= letter <= c"9":
        return letter - c"0"
    if c"a" <= letter <= c"f":
        return letter - c"a" + 10
    return -1


cdef inline bint _is_id(const uint8_t* text, int length) noexcept nogil:
    cdef int index
    cdef bint some = False
    for index in range(length):
        if _digit(text[index]) < 0:
            return False
        some = some or text[index] != c"0"
    return some


@cython.final
@cython.freelist(64)
cdef class Trace:
    """Compiled `trace.Trace`."""

    cdef Tracer _tracer
    cdef char _ids[TRACE_ID + SPAN_ID]
    cdef char _parent[SPAN_ID]
    cdef bint _has_parent
    cdef readonly bint is_sampled
    cdef readonly int flags
    cdef list _attempts
    cdef list _waits
    cdef public object recorded_offset

    @property
    def trace_id(self):
        return PyBytes_FromStringAndSize(self._ids, TRACE_ID)

    @property
    def span_id(self):
        return PyBytes_FromStringAndSize(self._ids + TRACE_ID, SPAN_ID)

    @property
    def parent_id(self):
        return PyBytes_FromStringAndSize(self._parent, SPAN_ID) if self._has_parent else b""

    @property
    def state(self):
        return b""

    @property
    def attempts(self):
        if self._attempts is None:
            self._attempts = []
        return self._attempts

    @property
    def waits(self):
        if self._waits is None:
            self._waits = []
        return self._waits

    @property
    def response_line(self):
        return self._tracer.reference.response_line_of(self) if self._tracer.server_timing else b""

    def __repr__(self):
        return f"<Trace {self.trace_id.decode()} sampled={bool(self.is_sampled)}>"

    def new_span_id(self):
        cdef char text[SPAN_ID]
        if not self.is_sampled:
            return b""
        _put_word(text, _next())
        return PyBytes_FromStringAndSize(text, SPAN_ID)

    def add_attempt(self, attempt):
        self._tracer.reference.add_attempt(self, attempt)

    def is_kept(self, int status, double duration_s):
        cdef Tracer tracer = self._tracer
        return bool(self.is_sampled or (tracer.keeps_errors and status >= 500) or duration_s > tracer.slower_than)

    def record(self, ended, now, date):
        self._tracer.reference.record(ended, self, now, date)

    def rewrite(self, frozenset drop not None, bytes added not None, bytes span_id not None=b""):
        """Compiled `Trace.rewrite`."""
        cdef Tracer tracer = self._tracer
        cdef char lines[MOST_LINES]
        cdef char* out = lines
        cdef const char* parent = self._ids + TRACE_ID
        cdef int index
        cdef bytes made
        cdef Py_ssize_t length = PyBytes_GET_SIZE(added)
        if PyBytes_GET_SIZE(span_id) == SPAN_ID:
            parent = PyBytes_AS_STRING(span_id)
        if drop is not tracer.before:
            tracer.joined = drop | tracer.names
            tracer.before = drop
        for index in range(tracer.format_count):
            if tracer.formats[index] == TRACECONTEXT:
                out = _put(out, b"traceparent: 00-", 16)
                out = _put(out, self._ids, TRACE_ID)
                out = _put(out, b"-", 1)
                out = _put(out, parent, SPAN_ID)
                out = _put(out, b"-0", 2)
                out[0] = <char>(c"0" + self.flags)
                out = _put(out + 1, b"\r\n", 2)
            elif tracer.formats[index] == B3_SINGLE:
                out = _put(out, b"b3: ", 4)
                out = _put(out, self._ids, TRACE_ID)
                out = _put(out, b"-", 1)
                out = _put(out, parent, SPAN_ID)
                out = _put(out, b"-1\r\n" if self.is_sampled else b"-0\r\n", 4)
            else:
                out = _put(out, b"X-B3-TraceId: ", 14)
                out = _put(out, self._ids, TRACE_ID)
                out = _put(out, b"\r\nX-B3-SpanId: ", 15)
                out = _put(out, parent, SPAN_ID)
                out = _put(out, b"\r\nX-B3-Sampled: 1\r\n" if self.is_sampled else b"\r\nX-B3-Sampled: 0\r\n", 19)
        made = PyBytes_FromStringAndSize(NULL, length + (out - lines))
        memcpy(PyBytes_AS_STRING(made), PyBytes_AS_STRING(added), length)
        memcpy(PyBytes_AS_STRING(made) + length, lines, out - lines)
        return tracer.joined, made


cdef inline char* _put(char* out, const char* piece, Py_ssize_t length) noexcept nogil:
    memcpy(out, piece, length)
    return out + length


@cython.final
cdef class Tracer:
    """Compiled `tracer.Tracer`, in front of the reference."""

    cdef readonly object reference
    cdef bint keeps_errors
    cdef bint server_timing
    cdef bint follows_parent
    cdef bint reads_tracecontext_first
    cdef double slower_than
    cdef uint64_t threshold  # of the last seven bytes of a trace id
    cdef object rate
    cdef int formats[MOST_FORMATS]
    cdef int format_count
    cdef frozenset names
    cdef frozenset before
    cdef frozenset joined
    cdef uint64_t parent_slots[SLOT_WORDS]  # of `traceparent`
    cdef uint64_t other_slots[SLOT_WORDS]  # of all other names

    def __init__(self, reference):
        cdef bytes name
        cdef int slot
        settings = reference.settings
        self.reference = reference
        self.keeps_errors, self.slower_than = reference.keeps_errors, reference.slower_than
        self.server_timing = settings.server_timing
        self.follows_parent = settings.sampling.parent
        self.threshold, self.rate = reference.threshold, reference.rate
        self.names, self.before = reference.names, None
        self.reads_tracecontext_first = settings.propagation[0] == "tracecontext"
        self.format_count = len(settings.propagation)
        for index, each in enumerate(settings.propagation):
            self.formats[<int>index] = (
                TRACECONTEXT if each == "tracecontext" else B3_SINGLE if settings.b3 == "single" else B3_MULTI
            )
            for name in NAMES[each]:
                slot = slot_of(<const uint8_t*>PyBytes_AS_STRING(name), len(name))
                if name == b"traceparent":
                    self.parent_slots[slot >> 6] |= <uint64_t>1 << (slot & 63)
                else:
                    self.other_slots[slot >> 6] |= <uint64_t>1 << (slot & 63)

    def __repr__(self):
        return repr(self.reference)

    def begin_trace(self, head):
        """Continue the trace of a received request, or begin one, as `Tracer.begin_trace` does."""
        cdef Http1RequestHead ours
        cdef Trace trace
        cdef bytes value
        cdef const uint8_t* text
        cdef uint64_t tail
        cdef int flags = 0, word
        cdef bint has_parent = False
        if type(head) is not Http1RequestHead or (<Http1RequestHead>head)._fields is not None:
            return self.reference.begin_trace(head)
        ours = <Http1RequestHead>head
        for word in range(SLOT_WORDS):
            if ours.others[word] & self.other_slots[word]:
                return self.reference.begin_trace(head)
            has_parent = has_parent or ours.others[word] & self.parent_slots[word] != 0
        trace = Trace.__new__(Trace)
        trace._tracer = self
        if not has_parent:
            tail = _next()
            _put_word(trace._ids, _next())
            _put_word(trace._ids + 16, tail)
            _put_word(trace._ids + TRACE_ID, _next())
            trace.is_sampled = self._is_selected(tail)
            trace.flags = RANDOM | (SAMPLED if trace.is_sampled else 0)
            return trace
        values = head.values(b"traceparent")
        if len(values) != 1:
            return self.reference.begin_trace(head)
        value = values[0]
        text = <const uint8_t*>PyBytes_AS_STRING(value)
        if (
            PyBytes_GET_SIZE(value) != VERSION_00 or memcmp(text, b"00-", 3) or text[35] != c"-" or text[52] != c"-"
            or not _is_id(text + 3, TRACE_ID) or not _is_id(text + 36, SPAN_ID)
            or _digit(text[53]) < 0 or _digit(text[54]) < 0
        ):
            return self.reference.begin_trace(head)
        memcpy(trace._ids, text + 3, TRACE_ID)
        memcpy(trace._parent, text + 36, SPAN_ID)
        trace._has_parent = True
        _put_word(trace._ids + TRACE_ID, _next())
        flags = _digit(text[54])
        if self.follows_parent:
            trace.is_sampled = flags & SAMPLED != 0
        else:
            tail = 0
            for word in range(18, TRACE_ID):
                tail = tail << 4 | <uint64_t>_digit(text[3 + word])
            trace.is_sampled = self._is_selected(tail)
        trace.flags = (flags & RANDOM) | (SAMPLED if trace.is_sampled else 0)
        return trace

    cdef bint _is_selected(self, uint64_t tail) except -1:
        """Decide as `Tracer._is_sampled` does without a decision of the sender."""
        if tail & 0x00FFFFFFFFFFFFFFULL >= self.threshold:
            return False
        return self.rate is None or self.reference.take_rate()
