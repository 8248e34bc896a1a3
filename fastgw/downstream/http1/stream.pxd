# The types of `stream.py`.

from fastgw.downstream.http1.response_framing cimport framing_of
from fastgw.downstream.http1.serving cimport ServingConnection, ServingStream, ServingWorker
from fastgw.eventloop.socket_transport cimport SocketTransport
from fastgw.exchange.body_relay cimport Relay, whole_body
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.ready_answer cimport ReadyAnswer
from fastgw.exchange.reply cimport Response
from fastgw.http.http1 cimport serializer
from fastgw.http.http1.body cimport BodyReader
from fastgw.http.messages cimport RequestHead, payload_of

cdef double inf
cdef Py_ssize_t READ_BYTES
cdef int CHUNKED, CLOSE, LENGTH, NO_BODY, TARGET


cdef class Http1Stream


cdef class StreamedConnection(ServingConnection):
    cdef public bint closing

    cpdef response_sent(self, bint unread)
    cpdef bytes begin_body(self, Http1Stream stream, BodyReader reader)
    cpdef bytes take_ahead(self, long long assured)
    cpdef end_body(self, bytes rest)


cdef class Http1Stream(ServingStream):
    cdef public int _ending
    cdef public double _line_until
    cdef public BodyReader reader

    cpdef read_body(self, bytes chunk)
    cpdef bytes read_body_ahead(self, BodyReader reader)
    cpdef bytes expect_body(self, Exchange exchange, RequestHead head)
    cpdef answer(self, Response response, bytes payload, bint ended)
    cpdef send_ready(self, Exchange exchange, ReadyAnswer answer)
    cpdef watch_body(self)
    cdef _complete(self, Exchange exchange)
    cdef _write(self, bytes message)
