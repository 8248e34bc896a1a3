# The types of `attempt.py`.


from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.exchange.body_relay cimport Relay
from fastgw.exchange.exchange cimport Exchange
from fastgw.http.grpc.status cimport check_status, check_trailers, status_name
from fastgw.http.messages cimport ResponseHead, payload_of
from fastgw.upstream.connections.stream cimport ResponseListener, UpstreamStream
from fastgw.upstream.forwarding.forwarded_request cimport ForwardedRequest
from fastgw.upstream.targets.target cimport Target
from fastgw.upstream.upstream cimport Upstream

cdef double inf
cdef object CONNECTION_LENT, FIRST, FORWARDING

cdef class Attempt


cdef class Attempts(Timed):
    cdef public ForwardedRequest forward
    cdef public Upstream upstream
    cdef public Exchange exchange
    cdef public double head_due_at
    cdef public double call_due_at
    cdef public bint needs_http1
    cdef public bint continued
    cdef public int begun

    cdef _begin(self, ForwardedRequest forward, Exchange exchange)
    cpdef bint is_replayable(self) except -1
    cpdef response_received(self, Attempt attempt, ResponseHead head, bytes payload, bint ended)
    cpdef done(self, Attempt attempt)


cdef class Attempt(ResponseListener):
    cdef public double _answered_at
    cdef public double _begun_at
    cdef public double _body_begun_at
    cdef public double _body_ended_at
    cdef public Attempts _forwarding
    cdef public double _full_at
    cdef public object _record
    cdef public int _status
    cdef public Upstream _upstream
    cdef public Exchange exchange
    cdef public bytes grpc_status
    cdef public double head_at
    cdef public str invalid_status
    cdef public UpstreamStream stream
    cdef public object _tap
    cdef public Target target

    cdef _begin(self, Attempts forwarding, Target target)
    cpdef start_attempt(self, bint fresh, kind)
    cdef _request_stream(self, bint fresh)
    cpdef lent(self, UpstreamStream stream)
    cpdef release(self)
    cpdef feed(self, bytes payload)
    cpdef end(self, tuple trailers)
    cpdef feed_raw(self, bytes chunk)
    cdef bytes _take_body(self, Relay body)
    cdef _send_special(self, UpstreamStream stream, ResponseListener listener, bytes request)
    cdef bytes _take_status(self, bytes grpc_status, str why)
    cdef _message_received(self)
    cdef _tell_outcome(self, bytes grpc_status)
    cdef bint _request_is_whole(self) except -1
    cdef _end(self)


cpdef Attempt new_attempt(Attempts forwarding, Target target)
