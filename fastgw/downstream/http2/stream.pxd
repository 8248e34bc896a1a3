# The types of `stream.py`.

cimport cython

from fastgw.downstream.http1.response_framing cimport framing_of
from fastgw.downstream.http1.serving cimport ServingListener, ServingWorker
from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.ready_answer cimport ReadyAnswer
from fastgw.exchange.route cimport FastPathPlan, Route
from fastgw.forwarded_headers cimport Peer
from fastgw.http.grpc.calls cimport timeout_of_call
from fastgw.http.http1 cimport serializer
from fastgw.http.http1.parser cimport Http1RequestHead, Http1ResponseHead
from fastgw.http.http2._session cimport Session
from fastgw.upstream.forwarding.fast_path cimport FastPath

cdef double inf
cdef object CHUNKED, NO_BODY


cdef class MultiplexedConnection(Timed):
    cdef public ServingWorker server
    cdef public ServingListener listener
    cdef public Peer peer
    cdef public Session session
    cdef public list sending
    cdef public Wheel _wheel

    cpdef flush_soon(self)
    cpdef flush_alone(self)


@cython.final
cdef class Http2Stream(Timed):
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
    cdef public int body_goes_to
    cdef public bint braked
    cdef public Exchange exchange
    cdef public FastPath fast_path
    cdef public bint has_had_exchange
    cdef public bint has_place
    cdef public int id
    cdef public bint is_fast
    cdef public bint is_tunnel
    cdef public bint receiving
    cdef public object waiting
    cdef public double waits_since

    cpdef serve(self, Http1RequestHead head)
    cpdef answer_fast(
        self, Http1ResponseHead head, Exchange exchange, frozenset dropped, bytes added, bytes request_id,
        bytes changed=*
    )
    cpdef answer(self, response, bytes payload, bint ended)
    cdef FastPath _begin_fast(self, Http1RequestHead head)
    cdef bint _fits(self, Http1RequestHead head) except -1
    cdef _send_ready(self, Http1RequestHead head, Route route, ReadyAnswer answer)
    cpdef watch(self, double seconds)
    cpdef look_at_held(self)
    cpdef reset(self)
