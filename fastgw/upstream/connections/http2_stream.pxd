# The types of `http2_stream.py`.

cimport cython

from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.upstream.connections.pooled_connection cimport PooledConnection
from fastgw.upstream.targets.target cimport Target

cdef double inf
cdef object AWAITING, IDLE, OVER, RECEIVING


cdef class Http2UpstreamStream


cdef class StreamsConnection(PooledConnection):
    cdef public object worker_loop
    cdef public object session
    cdef public tuple established
    cdef public bint needs_http1

    cpdef long long start_request(self, Http2UpstreamStream stream, bytes request, bint ended) except? -1
    cpdef end_stream(self, Http2UpstreamStream stream, long long number, bint reset)
    cpdef flush_soon(self)


@cython.final
cdef class Http2UpstreamStream(Timed):
    cdef StreamsConnection _connection
    cdef list _early
    cdef object _ended
    cdef bytes _head_text
    cdef double _head_timeout
    cdef Py_ssize_t _held_at_last_look
    cdef int _informed
    cdef object _kept
    cdef object _listener
    cdef bytes _method
    cdef long long _number
    cdef bint _sending
    cdef object _source
    cdef bint _targets_turn
    cdef Wheel _wheel
    cdef public double idle_timeout
    cdef public bint paused
    cdef public object phase
    cdef public object reset_code
    cdef public bint reused
    cdef public Target target
    cdef public double waits_since
    cdef public bint write_paused

    cpdef send_request(self, listener, bytes request, bytes method)
    cpdef release(self)
    cpdef take_head(self, bytes text, bint ended)
    cpdef take_data(self, bytes payload)
    cpdef take_end(self, bytes lines)
    cpdef take_rest(self)
    cdef _end(self, bint reset)
    cdef _watch_head(self)
    cdef _watch(self, double seconds)
    cdef _extend_idle(self)
    cdef _consume(self, Py_ssize_t length)
    cdef _tell_end(self)
    cpdef forget(self)
