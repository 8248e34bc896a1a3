# The types of `http2_connection.py`.

from fastgw.eventloop.socket_transport cimport SocketTransport
from fastgw.eventloop.timer_wheel cimport Wheel
from fastgw.upstream.connections.http2_stream cimport Http2UpstreamStream, StreamsConnection, new_stream
from fastgw.upstream.connections.pooled_connection cimport Lender
from fastgw.upstream.targets.target cimport Target

cdef double inf
cdef int BROKEN, CLOSED, DATA, END, ENDING, FEW_EVENTS, FULL, GOAWAY, HEAD, INTERIM, MALFORMED, PONG, REFUSED, SETTINGS
cdef int TOO_LONG, WHOLE


cdef class Http2UpstreamConnection(StreamsConnection):
    cdef public double _asked_at
    cdef public list _begun
    cdef public int _begun_before
    cdef public bint _flush_is_due
    cdef public int _full
    cdef public bint _gone
    cdef public double _heard_at
    cdef public set _holding
    cdef public object _settled
    cdef public dict _streams
    cdef public object _tls
    cdef public bint _tls_is_new
    cdef public bint _unheard
    cdef public Wheel _wheel
    cdef public Lender pool
    cdef public bint write_paused

    cpdef connection_made(self, SocketTransport transport)
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
    cdef _watch(self, double seconds)
