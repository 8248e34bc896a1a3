# The types of `forwarding.py`.

from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.reply cimport Response, received_response
from fastgw.http.messages cimport ResponseHead, has_field
from fastgw.upstream.forwarding.attempt cimport Attempt, Attempts, new_attempt
from fastgw.upstream.forwarding.forwarded_request cimport ForwardedRequest
from fastgw.upstream.targets.target cimport Target
from fastgw.upstream.upstream cimport Upstream

cdef double inf
cdef object FIRST, RETRY

cdef bint _has_urls(ResponseHead head) except -1


cdef class Forwarding(Attempts):
    cdef public int _hedged
    cdef public tuple _hedges
    cdef public object _held
    cdef public bint _over
    cdef public int _refused
    cdef public int _retried
    cdef public Target _retry_target
    cdef public bint _retrying
    cdef public object _timer
    cdef public double _total_at
    cdef public tuple _tried
    cdef public Attempt current

    cpdef attempt(self, bint fresh, Target target=*, bint again=*, bint has_probe=*)
    cpdef response_received(self, Attempt attempt, ResponseHead head, bytes payload, bint ended)
    cpdef done(self, Attempt attempt)
    cpdef feed_raw(self, bytes chunk)
    cdef Response _response(self, Target target, ResponseHead head, bytes added, frozenset dropped)
    cdef bint _take_response(self, ResponseHead head, bint ended) except -1
    cdef _note_response(self, Target target, double seconds)
    cdef bint _has_own_url(self, ResponseHead head, Target target) except -1
    cdef _end(self)


cpdef Forwarding new_forwarding(ForwardedRequest forward, Exchange exchange)
