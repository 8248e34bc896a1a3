# The types of `connection.py`.

from fastgw.downstream.http1.stream cimport Http1Stream, StreamedConnection
from fastgw.downstream.http1.serving cimport ServingListener, ServingWorker
from fastgw.eventloop.idle_order cimport put_last
from fastgw.eventloop.socket_transport cimport SocketTransport
from fastgw.exchange.exchange cimport Exchange
from fastgw.http.http1 cimport serializer
from fastgw.http.http1.parser cimport take_begun, take_request
from fastgw.http.messages cimport RequestHead
from fastgw.pipeline.request_pipeline cimport begin_request

cdef double inf
cdef object ACTIVE, CLOSED, CLOSING, FLUSHING, HEAD, IDLE, LINGERING, TUNNEL


cdef class Http1ClientConnection(StreamedConnection):
    cdef public bytes _ahead
    cdef public Py_ssize_t _at
    cdef public bint _ended
    cdef public double _head_begun_at
    cdef public double _linger_end
    cdef public Py_ssize_t _searched
    cdef public bint _starting
    cdef public Http1Stream _stream
    cdef public object phase

    cpdef buffer_updated(self, Py_ssize_t nbytes)
    cpdef bint eof_received(self) except -1
    cpdef pause_writing(self)
    cpdef resume_writing(self)
    cdef _serve(self, RequestHead head)
    cdef _begin_request(self, RequestHead head)
    cpdef response_sent(self, bint unread)
    cdef _next(self)
    cdef _end(self, bint unread)
    cdef _read_requests(self)
    cdef _read_body(self, Http1Stream stream, bytes chunk)
    cdef _take_up_to(self, Py_ssize_t end)
    cdef bint _has_enough(self) except -1
    cpdef pause(self)
    cpdef resume(self)
    cdef _read_on(self)
    cdef _watch_body(self)
