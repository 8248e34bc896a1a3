# The types of `tracer.py`.

cimport cython

from fastgw.http.messages cimport RequestHead
from fastgw.observe.tracing.context cimport Parent

cdef int _TRACE_DIGITS
cdef int _SPAN_BYTES
cdef int _DECIDING_DIGITS

cdef bytes _random_digits(int size)


@cython.final
cdef class Trace:
    cdef Tracer _tracer
    cdef readonly bytes trace_id
    cdef readonly bytes span_id
    cdef readonly bytes parent_id
    cdef readonly bytes state
    cdef readonly bint is_sampled
    cdef readonly int flags
    cdef readonly list attempts
    cdef readonly list waits
    cdef public object recorded_offset


@cython.final
cdef class Tracer:
    cdef object _settings
    cdef object builder
    cdef object add
    cdef object note
    cdef bint keeps_errors
    cdef bint server_timing
    cdef double slower_than
    cdef bint _follows_parent
    cdef bytes _threshold
    cdef object _rate
    cdef tuple _readers
    cdef tuple writers
    cdef frozenset names
    cdef frozenset before
    cdef frozenset joined

    cdef bint _samples(self, bytes trace_id) except -1
