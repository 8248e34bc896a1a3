# The types of `stream.py`.

from fastgw.downstream.http1.response_framing cimport framing_of
from fastgw.downstream.http1.serving cimport ServingListener, ServingWorker
from fastgw.eventloop.body_reads cimport BodyReading
from fastgw.eventloop.socket_transport cimport SocketTransport
from fastgw.eventloop.timer_wheel cimport Wheel
from fastgw.exchange.body_relay cimport Relay, whole_body
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.ready_answer cimport ReadyAnswer, recorded_answer
from fastgw.exchange.reply cimport Response
from fastgw.http.http1 cimport serializer
from fastgw.http.http1.body cimport BodyReader
from fastgw.http.messages cimport RequestHead, payload_of
from fastgw.pipeline.request_pipeline cimport RequestStream

cdef double inf
cdef Py_ssize_t READ_BYTES
cdef int CHUNKED, CLOSE, LENGTH, NO_BODY


cdef class Http1Stream


cdef class StreamedConnection(BodyReading):
    cdef public ServingWorker server
    cdef public Wheel _wheel
    cdef public bint closing
    cdef public bint paused
    cdef public bint write_paused

    cpdef record(self)
    cpdef response_sent(self, bint unread)
    cpdef watch(self, double seconds)
    cpdef bytes begin_body(self, Http1Stream stream, BodyReader reader)
    cpdef bytes take_ahead(self, long long assured)
    cpdef end_body(self, bytes rest)


cdef class Http1Stream(RequestStream):
    cdef public bint _asked_to_continue
    cdef public double _body_bytes
    cdef public StreamedConnection _connection
    cdef public int _ending
    cdef public double _line_until
    cdef public int _tunnel_ends
    cdef public Exchange exchange
    cdef public BodyReader reader
    cdef public double tunnel_timeout

    cpdef read_body(self, bytes chunk)
    cpdef bytes read_body_ahead(self, BodyReader reader)
    cpdef bytes expect_body(self, Exchange exchange, RequestHead head)
    cpdef answer(self, Response response, bytes payload, bint ended)
    cpdef send_ready(self, Exchange exchange, ReadyAnswer answer)
    cpdef exchange_ended(self)
    cpdef watch_body(self)
    cdef _complete(self, Exchange exchange)
    cdef _write(self, bytes message)
