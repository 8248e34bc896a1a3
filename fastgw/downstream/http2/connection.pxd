# The types of `connection.py`.

from fastgw.downstream.http2.stream cimport Http2Stream, MultiplexedConnection
from fastgw.downstream.http1.serving cimport ServingListener, ServingWorker
from fastgw.eventloop.idle_order cimport put_last
from fastgw.eventloop.socket_transport cimport SocketTransport
from fastgw.forwarded_headers cimport Peer
from fastgw.http.messages cimport RequestHead

cdef double inf
cdef int BROKEN, CLOSED, CONNECT, DATA, DISCARDED, END, ENDING, FEW_EVENTS, FULL, HAS_OUTPUT, HEAD, HOLDS, IN_HEAD
cdef int MALFORMED, PONG, REFUSED, REQUEST, SENT, TOO_LONG, WHOLE


cdef class Http2ClientConnection(MultiplexedConnection):
    cdef public bint _awaits_head
    cdef public bint _closing
    cdef public object _events
    cdef public bint _flush_is_due
    cdef public int _full
    cdef public object _head_begun_at
    cdef public int _last_calls
    cdef public double _last_calls_at
    cdef public Py_ssize_t _read_while_unsent
    cdef public list _spare
    cdef public double _stalled_at
    cdef public dict _streams
    cdef public bint closed

    cpdef buffer_updated(self, Py_ssize_t nbytes)
    cpdef bint eof_received(self) except -1
    cpdef pause_writing(self)
    cpdef resume_writing(self)
    cpdef flush_soon(self)
    cpdef flush_alone(self)
    cpdef _flush(self)
    cpdef receive(self, received, Py_ssize_t length)
    cdef _handle(self, list events)
    cdef _handle_event(self, int kind, int number, value)
    cdef Http2Stream _open(self, int number)
    cdef _begin_request(self, int number, bytes text, bytes payload, bytes protocol=*)
    cdef _stream_closed(self, Http2Stream stream)
