# The types of `http1_connection.py`.

cimport cython

from fastgw.eventloop.socket_send cimport send
from fastgw.eventloop.timer_wheel cimport Wheel
from fastgw.http.http1.parser cimport Http1ResponseHead
from fastgw.upstream.connections.pooled_connection cimport PooledConnection

cdef double inf
cdef object AWAITING, CLOSED, IDLE, RECEIVING, TUNNEL


@cython.final
cdef class UpstreamConnection(PooledConnection):
    cdef public object worker_loop
    cdef Wheel _wheel
    cdef public object pool
    cdef public object _listener
    cdef object _source
    cdef public object phase
    cdef public object transport
    cdef public object reader
    cdef public bint reusable
    cdef public bint paused
    cdef public bint write_paused
    cdef Py_ssize_t _unsent
    cdef double _accepted_at
    cdef bint _targets_turn
    cdef bint _unasked_body
    cdef public tuple established
    cdef public double idle_timeout
    cdef double _head_timeout
    cdef object _buffer
    cdef public Py_ssize_t read_since_rest
    cdef public bint resting
    cdef int _body_goes_to
    cdef bytes _begun
    cdef Py_ssize_t _searched
    cdef object _repair
    cdef public int fd
    cdef bint _full
    cdef int _informed
    cdef bytes _method
    cdef bint _chunked
    cdef bint _sending
    cdef object _offered
    cdef object _tunnel
    cdef bint _special
    cdef object _tls
    cdef bint _tls_is_new
    cdef int _rescue_fd

    cpdef send_request(self, listener, bytes request, bytes method)
    cpdef release(self)
    cpdef close(self)
    cdef _watch(self, double seconds)
    cdef _read_head(self, bytes received)
    cdef _answered_whole(self, Http1ResponseHead head)
    cdef _finish(self)
