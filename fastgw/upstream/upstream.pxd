# The types of `upstream.py`.

cimport cython

from fastgw.upstream.connections.pooled_connection cimport Lender
from fastgw.upstream.load_balancing.round_robin cimport SingleTarget
from fastgw.upstream.targets.target cimport Target


@cython.final
cdef class Upstream:
    cdef public object _alarm
    cdef public object _backups
    cdef public object _before
    cdef public object _hashed
    cdef public object _health_windows
    cdef public object _latencies
    cdef public object _loads
    cdef public object _rising
    cdef public int active
    cdef public tuple attempt_listeners
    cdef public object balancer
    cdef public object cookies
    cdef public object drained
    cdef public object ejected
    cdef public tuple failure_listeners
    cdef public object health
    cdef public object hedging
    cdef public object identity
    cdef public object in_use
    cdef public object key
    cdef public object lends_sockets
    cdef public object members
    cdef public str name
    cdef public Lender pool
    cdef public object replaced
    cdef public object retry_budget
    cdef public object rules
    cdef public object settings
    cdef public object shunned
    cdef public object started
    cdef public object targets
    cdef public object total_timeout
    cdef public object worker_loop
    cdef object __weakref__

    cpdef Target pick(self, asked)
