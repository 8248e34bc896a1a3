# The types of `relayed_session.py`.

from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.upstream.targets.target cimport Target
from fastgw.upstream.upstream cimport Upstream


cdef class RelayedSession(Timed):
    cdef public object _address_limit
    cdef public double _idle
    cdef public bint _in_retry_budget
    cdef public object _record
    cdef public int _retried
    cdef public Target _selected
    cdef public object _server
    cdef public Target _target
    cdef public object _timer
    cdef public double _total_at
    cdef public tuple _tried
    cdef public Upstream _upstream
    cdef public Wheel _wheel
    cdef public double begun_at
    cdef public object client_ip
    cdef public object fault
    cdef public object head
    cdef public object listener
    cdef public long long request_bytes
    cdef public bytes request_id
    cdef public object response
    cdef public long long response_bytes
    cdef public int retries
    cdef public object route
    cdef public object scheme
    cdef public str target
    cdef public str upstream
    cdef public double upstream_s
    cdef public str why

    cpdef Target _begin_attempt(self)
    cpdef _leave_upstream(self)
    cpdef _note_answer(self)
    cpdef _note_connect(self)
    cpdef _tell(self)
    cpdef _use(self, Upstream upstream)
