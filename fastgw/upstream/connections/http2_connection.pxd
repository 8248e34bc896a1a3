# The types of `http2_connection.py`.

cimport cython

from fastgw.eventloop.timer_wheel cimport Wheel
from fastgw.http.http2._session cimport Session
from fastgw.upstream.connections.pooled_connection cimport HttpConnection
from fastgw.upstream.connections.stream cimport ResponseListener, UpstreamStream

cdef double inf
cdef object AWAITING, IDLE, OVER, RECEIVING
cdef int BROKEN, CLOSED, DATA, END, ENDING, FEW_EVENTS, FULL, GOAWAY, HEAD, INTERIM, MALFORMED, PONG, REFUSED, SETTINGS
cdef int TOO_LONG, WHOLE


cdef class Http2UpstreamConnection


@cython.final
cdef class Http2UpstreamStream(UpstreamStream):
    cdef public Http2UpstreamConnection _connection
    cdef public list _early
    cdef public object _ended
    cdef public bytes _head_text
    cdef public Py_ssize_t _held_at_last_look
    cdef public object _kept
    cdef public long long _number
    cdef public double waits_since

    cdef _begin(self, Http2UpstreamConnection connection)
    cpdef take_head(self, bytes text, bint ended)
    cpdef take_data(self, bytes payload)
    cpdef take_end(self, bytes lines)
    cpdef take_rest(self)
    cdef _end(self, bint reset)
    cdef _consume(self, Py_ssize_t length)
    cdef _tell_end(self)
    cpdef forget(self)


cdef class Http2UpstreamConnection(HttpConnection):
    cdef public Session session
    cdef public bint needs_http1
    cdef public double _asked_at
    cdef public list _begun
    cdef public int _begun_before
    cdef public bint _flush_is_due
    cdef public int _full
    cdef public bint _gone
    cdef public double _heard_at
    cdef public set holding
    cdef public object _settled
    cdef public dict _streams
    cdef public bint _unheard

    cpdef buffer_updated(self, Py_ssize_t nbytes)
    cpdef bint eof_received(self) except -1
    cpdef pause_writing(self)
    cpdef resume_writing(self)
    cpdef long long start_request(self, Http2UpstreamStream stream, bytes request, bint ended) except? -1
    cpdef end_stream(self, Http2UpstreamStream stream, long long number, bint reset)
    cpdef flush_soon(self)
    cdef _handle(self, list events)
    cdef _handle_event(self, Http2UpstreamStream stream, int kind, value)
    cdef _await_rest(self, Http2UpstreamStream stream)
