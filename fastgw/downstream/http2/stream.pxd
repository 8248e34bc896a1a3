# The types of `stream.py`.

from fastgw.downstream.http1.response_framing cimport framing_of
from fastgw.downstream.http1.serving cimport ServingConnection, ServingStream, ServingWorker
from fastgw.eventloop.timer_wheel cimport Wheel
from fastgw.exchange.body_relay cimport Relay, whole_body
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.ready_answer cimport ReadyAnswer
from fastgw.exchange.reply cimport Response
from fastgw.http.http1 cimport serializer
from fastgw.http.messages cimport RequestHead, payload_of
from fastgw.http.http2._session cimport Session
from fastgw.pipeline.request_pipeline cimport begin_request

cdef double inf
cdef int CHUNKED, NO_BODY, TARGET


cdef class MultiplexedConnection(ServingConnection):
    cdef public Session session
    cdef public list sending

    cpdef flush_soon(self)
    cpdef flush_alone(self)


cdef class Http2Stream(ServingStream):
    cdef public object _ahead
    cdef public Py_ssize_t _discarded
    cdef public bint _has_body
    cdef public Py_ssize_t _held_at_last_look
    cdef public double _linger_end
    cdef public bint _paused
    cdef public Py_ssize_t _taken_at_last_look
    cdef public Py_ssize_t _unconsumed
    cdef public object address_limit
    cdef public bint braked
    cdef public bint has_place
    cdef public int id
    cdef public bint is_tunnel
    cdef public bint receiving
    cdef public double waits_since

    cpdef serve(self, RequestHead head)
    cpdef answer(self, Response response, bytes payload, bint ended)
    cpdef send_ready(self, Exchange exchange, ReadyAnswer answer)
    cpdef feed(self, bytes payload)
    cpdef end(self, tuple trailers)
    cdef _complete(self)
    cpdef watch_body(self)
    cpdef watch(self, double seconds)
    cpdef look_at_held(self)
    cpdef reset(self)
