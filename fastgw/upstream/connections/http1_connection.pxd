# The types of `http1_connection.py`.

from fastgw.eventloop.socket_transport cimport SocketTransport
from fastgw.eventloop.timer_wheel cimport Wheel
from fastgw.http.http1.body cimport BodyReader
from fastgw.http.http1.parser cimport Http1ResponseHead, take_answer
from fastgw.upstream.connections.pooled_connection cimport Lender, PooledConnection
from fastgw.upstream.connections.stream cimport ResponseListener

cdef double inf
cdef object AWAITING, CLOSED, IDLE, RECEIVING, TUNNEL


cdef class UpstreamConnection(PooledConnection):
    cdef public object worker_loop
    cdef public Wheel _wheel
    cdef public Lender pool
    cdef public ResponseListener _listener
    cdef public object _source
    cdef public object phase
    cdef public BodyReader reader
    cdef public bint reusable
    cdef public bint paused
    cdef public bint write_paused
    cdef public Py_ssize_t _unsent
    cdef public double _accepted_at
    cdef public bint _targets_turn
    cdef public bint _unasked_body
    cdef public tuple established
    cdef public double idle_timeout
    cdef public double _head_timeout
    cdef public int _body_goes_to
    cdef public bytes _begun
    cdef public Py_ssize_t _searched
    cdef public object _repair
    cdef public bint _full
    cdef public int _informed
    cdef public bytes _method
    cdef public bint _chunked
    cdef public bint _sending
    cdef public object _offered
    cdef public object _tunnel
    cdef public bint _special
    cdef public object _tls
    cdef public bint _tls_is_new

    cpdef connection_made(self, SocketTransport transport)
    cpdef buffer_updated(self, Py_ssize_t nbytes)
    cpdef bint eof_received(self) except -1
    cpdef pause_writing(self)
    cpdef resume_writing(self)
    cpdef send_request(self, ResponseListener listener, bytes request, bytes method)
    cpdef take_body_from(self, client)
    cpdef send_body(self, bytes payload)
    cpdef end_body(self, tuple trailers)
    cdef _watch_head(self)
    cdef _extend_idle(self)
    cdef _read_body(self, bytes chunk)
    cdef _begin_body(self, Http1ResponseHead head, bytes received, Py_ssize_t end)
    cdef _begin_counting(self, bytes chunk, bytes payload, long long assured)
    cdef _end_body(self)
    cpdef release(self)
    cpdef close(self)
    cdef _watch(self, double seconds)
    cdef _read_head(self, bytes received)
    cdef _answered_whole(self, Http1ResponseHead head)
    cdef _finish(self)
