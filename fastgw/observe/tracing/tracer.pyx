# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""See `tracer.pyi`."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastgw.http.http1.sought_names cimport SoughtNames
from fastgw.http.messages cimport RequestHead

import os
from math import inf
from time import monotonic

from fastgw.observe.access_log.finished_exchange import first_byte_at
from fastgw.observe.tracing.context import MOST_STATE as _MOST_STATE, NAMES, RANDOM as _RANDOM, READERS, SAMPLED as _SAMPLED
from fastgw.observe.tracing.trace import ERRORS as _ERRORS, MOST_ATTEMPTS as _MOST_ATTEMPTS
from fastgw.observe.tracing.trace_rate import TraceRate

cdef enum:
    TRACE_ID = 32
    SPAN_ID = 16
    VERSION_00 = 55
    TRACECONTEXT = 0
    B3_SINGLE = 1
    B3_MULTI = 2
    MOST_FORMATS = 4
    MOST_STATE = 512
    MOST_LINES = 512 + MOST_STATE
    TAIL_BITS = 56  # of a trace id: those that decide

cdef frozenset _PARENT = frozenset((b"traceparent",))
cdef int SAMPLED = _SAMPLED
cdef int RANDOM = _RANDOM
cdef int ERRORS = _ERRORS
cdef Py_ssize_t MOST_ATTEMPTS = _MOST_ATTEMPTS
if _MOST_STATE != MOST_STATE:
    raise ImportError("no room for so long a state")
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
    cdef Tracer _tracer
    cdef char _ids[TRACE_ID + SPAN_ID]
    cdef char _parent[SPAN_ID]
    cdef bint _has_parent
    cdef readonly bytes state
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
        if not self._tracer.server_timing:
            return b""
        return b'Server-Timing: trace;desc="00-%b-%b-%02x"\r\n' % (self.trace_id, self.span_id, self.flags)

    def __repr__(self):
        return f"<Trace {self.trace_id.decode()} sampled={bool(self.is_sampled)}>"

    def new_span_id(self):
        cdef char text[SPAN_ID]
        if not self.is_sampled:
            return b""
        _put_word(text, _next())
        return PyBytes_FromStringAndSize(text, SPAN_ID)

    def add_attempt(self, attempt):
        cdef Tracer tracer = self._tracer
        if len(self.attempts) >= MOST_ATTEMPTS:
            return
        self._attempts.append(attempt)
        if self.recorded_offset is not None:
            tracer.add([tracer.builder.attempt_span(attempt, self, self.recorded_offset, tracer)])

    def is_kept(self, int status, double duration_s):
        cdef Tracer tracer = self._tracer
        return bool(self.is_sampled or (tracer.keeps_errors and status >= ERRORS) or duration_s > tracer.slower_than)

    def record(self, ended, double now, double date):
        cdef Tracer tracer = self._tracer
        if tracer.note is not None:
            tracer.note("" if ended.route is None else ended.route.name, self.trace_id, now - first_byte_at(ended), date)
        self.recorded_offset = date - now
        tracer.add(tracer.builder.spans_of(ended, self, now, date, tracer))

    def rewrite(self, frozenset drop not None, bytes added not None, bytes span_id not None=b""):
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
                if PyBytes_GET_SIZE(self.state):
                    out = _put(out, b"tracestate: ", 12)
                    out = _put(out, PyBytes_AS_STRING(self.state), PyBytes_GET_SIZE(self.state))
                    out = _put(out, b"\r\n", 2)
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
    cdef object settings
    cdef object builder
    cdef object add
    cdef object note
    cdef tuple readers
    cdef bint keeps_errors
    cdef bint server_timing
    cdef bint follows_parent
    cdef double slower_than
    cdef uint64_t threshold  # of the last seven bytes of a trace id
    cdef object rate
    cdef int formats[MOST_FORMATS]
    cdef int format_count
    cdef frozenset names
    cdef frozenset before
    cdef frozenset joined
    cdef SoughtNames parent  # `traceparent`
    cdef SoughtNames others

    def __init__(self, settings, int workers, builder, add, note=None):
        sampling = settings.sampling
        self.settings, self.builder, self.add, self.note = settings, builder, add, note
        self.keeps_errors, self.server_timing = sampling.errors, settings.server_timing
        self.slower_than = inf if sampling.slower_than is None else sampling.slower_than
        self.follows_parent = sampling.parent
        self.threshold = round(sampling.ratio * (<uint64_t>1 << TAIL_BITS))
        self.rate = None if sampling.rate is None else TraceRate(sampling.rate / workers)
        self.readers = tuple([READERS[each] for each in settings.propagation])
        self.names = frozenset().union(*[NAMES[each] for each in settings.propagation])
        if len(settings.propagation) > MOST_FORMATS:
            raise ValueError("too many formats")
        self.format_count = len(settings.propagation)
        for index, each in enumerate(settings.propagation):
            self.formats[<int>index] = (
                TRACECONTEXT if each == "tracecontext" else B3_SINGLE if settings.b3 == "single" else B3_MULTI
            )
        self.parent, self.others = SoughtNames(self.names & _PARENT), SoughtNames(self.names - _PARENT)

    def __repr__(self):
        return f"<Tracer {self.settings!r}>"

    def new_span_id(self):
        cdef char text[SPAN_ID]
        _put_word(text, _next())
        return PyBytes_FromStringAndSize(text, SPAN_ID)

    def begin_trace(self, RequestHead head not None):
        if head._fields is not None or self.others.may_be_in(head):
            return self._continued(head)
        if not self.parent.may_be_in(head):
            return self._begun(None)
        values = head.values(b"traceparent")
        trace = self._continued_by(values[0]) if len(values) == 1 else None
        return self._continued(head) if trace is None else trace

    cdef Trace _new(self):
        cdef Trace trace = Trace.__new__(Trace)
        trace._tracer, trace.state = self, b""
        _put_word(trace._ids + TRACE_ID, _next())
        return trace

    cdef Trace _begun(self, decision):
        """Begin a trace. `decision`: of the sender; None: it has made none."""
        cdef Trace trace = self._new()
        cdef uint64_t tail = _next()
        _put_word(trace._ids, _next())
        _put_word(trace._ids + 16, tail)
        return self._decided(trace, tail, decision, RANDOM)

    cdef Trace _decided(self, Trace trace, uint64_t tail, decision, int flags):
        """Decide by the last bits of the trace id, so that gateways with the same ratio decide alike."""
        if decision is not None and self.follows_parent:
            trace.is_sampled = decision
        elif tail & ((<uint64_t>1 << TAIL_BITS) - 1) < self.threshold:
            trace.is_sampled = self.rate is None or self.rate.try_take(monotonic())
        trace.flags = flags | (SAMPLED if trace.is_sampled else 0)
        return trace

    cdef Trace _of(self, const uint8_t* trace_id, const uint8_t* span_id, decision, int flags):
        """Continue a trace with these ids."""
        cdef Trace trace = self._new()
        cdef uint64_t tail = 0
        cdef int place
        memcpy(trace._ids, trace_id, TRACE_ID)
        memcpy(trace._parent, span_id, SPAN_ID)
        trace._has_parent = True
        for place in range(TRACE_ID - TAIL_BITS // 4, TRACE_ID):
            tail = tail << 4 | <uint64_t>_digit(trace_id[place])
        return self._decided(trace, tail, decision, flags)

    cdef Trace _continued_by(self, bytes value):
        """Continue a trace by an ordinary `traceparent`; None: it is not ordinary."""
        cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(value)
        cdef int flags
        if (
            PyBytes_GET_SIZE(value) != VERSION_00 or memcmp(text, b"00-", 3) or text[35] != c"-" or text[52] != c"-"
            or not _is_id(text + 3, TRACE_ID) or not _is_id(text + 36, SPAN_ID)
            or _digit(text[53]) < 0 or _digit(text[54]) < 0
        ):
            return None
        flags = _digit(text[54])
        return self._of(text + 3, text + 36, flags & SAMPLED != 0, flags & RANDOM)

    cdef Trace _continued(self, head):
        """Continue a trace by whatever context the request has, or begin one."""
        cdef bytes trace_id, span_id
        cdef Trace trace
        for read in self.readers:
            parent = read(head)
            if parent is not None:
                break
        else:
            return self._begun(None)
        trace_id, span_id = parent.trace_id, parent.span_id
        if not trace_id:
            return self._begun(parent.is_sampled)
        if PyBytes_GET_SIZE(trace_id) != TRACE_ID or PyBytes_GET_SIZE(span_id) != SPAN_ID:
            raise ValueError("ids of another length")
        trace = self._of(
            <const uint8_t*>PyBytes_AS_STRING(trace_id), <const uint8_t*>PyBytes_AS_STRING(span_id), parent.is_sampled,
            RANDOM if parent.is_random else 0,
        )
        trace.state = parent.state
        return trace
