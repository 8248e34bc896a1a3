# The types of `serving.py`.

from fastgw.eventloop.body_reads cimport BodyReading
from fastgw.eventloop.socket_transport cimport SocketTransport
from fastgw.eventloop.timer_wheel cimport Wheel
from fastgw.exchange.body_relay cimport Relay
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport Exchange, begin_exchange
from fastgw.exchange.ready_answer cimport ReadyAnswer, recorded_answer
from fastgw.exchange.reply cimport Response
from fastgw.forwarded_headers cimport Peer
from fastgw.http.http1 cimport serializer
from fastgw.http.http1.reserved_fields cimport ReservedFields
from fastgw.http.messages cimport RequestHead
from fastgw.pipeline.request_pipeline cimport RequestStream

cdef double inf
cdef int _BOTH


cdef class ServingWorker:
    cdef public object worker_loop
    cdef public object date_line
    cdef public object finish
    cdef public object idle
    cdef public object tracer
    cdef public bint draining
    cdef public long long drained
    cdef public double keepalive
    cdef public Py_ssize_t header_bytes
    cdef public int header_count
    cdef public double body_bytes
    cdef public double head_timeout
    cdef public double body_idle
    cdef public double body_rate


cdef class ServingListener:
    cdef public bint closing
    cdef public Chain early
    cdef public ReservedFields reserved
    cdef public object router
    cdef public object trusts


cdef class ServingConnection(BodyReading):
    cdef public object _address_limit
    cdef public bint _asks
    cdef public bint _certificate_expired
    cdef public object _trusts
    cdef public Py_ssize_t _unsent
    cdef public object _vouched
    cdef public Wheel _wheel
    cdef public ServingListener listener
    cdef public Peer peer
    cdef public bint paused
    cdef public long long requests
    cdef public ServingWorker server
    cdef public bint write_paused

    cpdef connection_made(self, SocketTransport transport)
    cpdef attach_transport(self, SocketTransport transport, address_limit)
    cpdef ask_no_more(self)
    cpdef leave_server(self)
    cpdef watch(self, double seconds)
    cpdef stop_reading(self)
    cpdef start_reading(self)


cdef class ServingStream(RequestStream):
    cdef public bint _asked_to_continue
    cdef public double _body_bytes
    cdef public ServingConnection _connection
    cdef public int _tunnel_ends
    cdef public Exchange exchange
    cdef public double tunnel_timeout

    cdef Exchange begin(self, RequestHead head)
    cpdef bint admits_body(self, Exchange exchange, RequestHead head, source) except -1
    cdef bytes message(self, Exchange exchange, Response response, bytes payload, long long length, bytes last)
    cdef bytes record_ready(self, Exchange exchange, ReadyAnswer answer)
    cpdef record(self)
    cpdef feed_tunnel(self, bytes chunk)
    cpdef end_of_tunnel(self, int end)
