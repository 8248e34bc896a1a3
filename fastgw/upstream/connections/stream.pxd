# The types of `stream.py`.

from fastgw.eventloop.body_reads cimport BodyReading
from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.http.messages cimport ResponseHead
from fastgw.upstream.targets.target cimport Target

cdef double inf


cdef class ResponseListener(Timed):
    cpdef on_head(self, ResponseHead head, bytes payload, bint ended)
    cpdef on_data(self, bytes payload)
    cpdef on_end(self, tuple trailers)
    cpdef on_tunnel_data(self, bytes chunk)


cdef class UpstreamStream(BodyReading):
    cdef public bint _chunked
    cdef public double _head_timeout
    cdef public int _informed
    cdef public ResponseListener _listener
    cdef public bytes _method
    cdef public object _offered
    cdef public bint _sending
    cdef public object _source
    cdef public bint _special
    cdef public bint _targets_turn
    cdef public bint _unasked_body
    cdef public Wheel _wheel
    cdef public tuple established
    cdef public bint frames_bodies
    cdef public double idle_timeout
    cdef public bint paused
    cdef public object phase
    cdef public object reset_code
    cdef public bint reused
    cdef public Target target
    cdef public bint write_paused

    cdef _set_up(self, Target target, Wheel wheel)
    cpdef send_request(self, ResponseListener listener, bytes request, bytes method)
    cpdef take_body_from(self, client)
    cpdef send_body(self, bytes payload)
    cpdef send_raw(self, bytes chunk)
    cpdef end_body(self, tuple trailers)
    cpdef release(self)
    cdef _watch_head(self)
    cdef _watch_unsent(self)
    cdef _extend_idle(self)
    cdef _watch(self, double seconds)
