# The types of `http2_stream.py`.

cimport cython

from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.http.http2._session cimport Session
from fastgw.upstream.connections.pooled_connection cimport PooledConnection
from fastgw.upstream.connections.stream cimport ResponseListener
from fastgw.upstream.targets.target cimport Target

cdef double inf
cdef object AWAITING, IDLE, OVER, RECEIVING


cdef class Http2UpstreamStream


cdef class StreamsConnection(PooledConnection):
    cdef public object worker_loop
    cdef public Session session
    cdef public tuple established
    cdef public bint needs_http1

    cpdef long long start_request(self, Http2UpstreamStream stream, bytes request, bint ended) except? -1
    cpdef end_stream(self, Http2UpstreamStream stream, long long number, bint reset)
    cpdef flush_soon(self)


@cython.final
cdef class Http2UpstreamStream(Timed):
    cdef public StreamsConnection _connection
    cdef public list _early
    cdef public object _ended
    cdef public bytes _head_text
    cdef public double _head_timeout
    cdef public Py_ssize_t _held_at_last_look
    cdef public int _informed
    cdef public object _kept
    cdef public ResponseListener _listener
    cdef public bytes _method
    cdef public long long _number
    cdef public bint _sending
    cdef public object _source
    cdef public bint _targets_turn
    cdef public Wheel _wheel
    cdef public double idle_timeout
    cdef public bint paused
    cdef public object phase
    cdef public object reset_code
    cdef public bint reused
    cdef public Target target
    cdef public double waits_since
    cdef public bint write_paused

    cdef _begin(self, StreamsConnection connection, Target target, bint reused)
    cpdef send_request(self, ResponseListener listener, bytes request, bytes method)
    cpdef release(self)
    cpdef take_head(self, bytes text, bint ended)
    cpdef take_data(self, bytes payload)
    cpdef take_end(self, bytes lines)
    cpdef take_rest(self)
    cdef _end(self, bint reset)
    cdef _watch_head(self)
    cdef _watch(self, double seconds)
    cdef _extend_idle(self)
    cdef _consume(self, Py_ssize_t length)
    cdef _tell_end(self)
    cpdef forget(self)


cpdef Http2UpstreamStream new_stream(StreamsConnection connection, Target target, bint reused)
