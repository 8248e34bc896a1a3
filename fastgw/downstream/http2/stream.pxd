# The types of `stream.py`.

from fastgw.downstream.http1.response_framing cimport framing_of
from fastgw.downstream.http1.serving cimport ServingListener, ServingWorker
from fastgw.eventloop.body_reads cimport BodyReading
from fastgw.eventloop.timer_wheel cimport Wheel
from fastgw.exchange.body_relay cimport Relay, whole_body
from fastgw.exchange.exchange cimport Exchange, begin_exchange
from fastgw.exchange.ready_answer cimport ReadyAnswer, recorded_answer
from fastgw.exchange.reply cimport Response
from fastgw.forwarded_headers cimport Peer
from fastgw.http.http1 cimport serializer
from fastgw.http.messages cimport RequestHead, payload_of
from fastgw.http.http2._session cimport Session
from fastgw.pipeline.request_pipeline cimport RequestStream, begin_request

cdef double inf
cdef int CHUNKED, NO_BODY


cdef class MultiplexedConnection(BodyReading):
    cdef public ServingWorker server
    cdef public ServingListener listener
    cdef public Peer peer
    cdef public Session session
    cdef public list sending
    cdef public Wheel _wheel

    cpdef flush_soon(self)
    cpdef flush_alone(self)


cdef class Http2Stream(RequestStream):
    cdef public object _ahead
    cdef public bint _asked_to_continue
    cdef public double _body_bytes
    cdef public MultiplexedConnection _connection
    cdef public Py_ssize_t _discarded
    cdef public bint _has_body
    cdef public Py_ssize_t _held_at_last_look
    cdef public double _linger_end
    cdef public bint _paused
    cdef public Py_ssize_t _taken_at_last_look
    cdef public int _tunnel_ends
    cdef public double _tunnel_timeout
    cdef public Py_ssize_t _unconsumed
    cdef public object address_limit
    cdef public bint braked
    cdef public Exchange exchange
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
    cdef _record(self)
    cpdef watch_body(self)
    cpdef watch(self, double seconds)
    cpdef look_at_held(self)
    cpdef reset(self)
