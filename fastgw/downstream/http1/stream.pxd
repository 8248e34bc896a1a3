# The types of `stream.py`.

cimport cython

from fastgw.downstream.http1.response_framing cimport framing_of
from fastgw.downstream.http1.serving cimport ServingListener, ServingWorker
from fastgw.eventloop.socket_send cimport send, send_parts
from fastgw.eventloop.timer_wheel cimport Timed
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.ready_answer cimport ReadyAnswer, recorded_answer
from fastgw.exchange.reply cimport Response
from fastgw.http.http1 cimport serializer
from fastgw.http.http1.parser cimport is_ordinary

cdef double inf
cdef object CHUNKED, CLOSE, LENGTH, NO_BODY


cdef class StreamedConnection(Timed):
    cdef public ServingWorker server
    cdef public object transport
    cdef public int fd
    cdef public bint closing
    cdef public bint paused
    cdef public bint write_paused

    cpdef record(self)
    cpdef response_sent(self, bint unread)


@cython.final
cdef class Http1Stream:
    cdef public bint _asked_to_continue
    cdef public double _body_bytes
    cdef public StreamedConnection _connection
    cdef public object _ending
    cdef public double _line_until
    cdef public int _tunnel_ends
    cdef public int body_goes_to
    cdef public Exchange exchange
    cdef public object reader
    cdef public double tunnel_timeout
    cdef public object waiting

    cpdef answer(self, Response response, bytes payload, bint ended)
    cpdef send_ready(self, Exchange exchange, ReadyAnswer answer)
    cpdef exchange_ended(self)
    cpdef watch_body(self)
    cdef _complete(self, Exchange exchange)
    cdef _write(self, bytes message)
