# The types of `pool.py`.

from fastgw.eventloop.timer_wheel cimport Wheel
from fastgw.upstream.connections.pooled_connection cimport Lender, PooledConnection
from fastgw.upstream.targets.target cimport Target

cdef double inf


cdef class Pool(Lender):
    cdef public double _at_once
    cdef public dict _beyond
    cdef public Wheel _clock
    cdef public object _connect_timeouts
    cdef public dict _connections
    cdef public bint _contended
    cdef public object _factory
    cdef public double _idle_timeout
    cdef public int _lasting
    cdef public double _lead
    cdef public set _leaving
    cdef public object _limit
    cdef public int _max_idle
    cdef public double _max_uses
    cdef public object _numbers
    cdef public set _openings
    cdef public object _pending
    cdef public double _pending_timeout
    cdef public object _placeless
    cdef public int _places
    cdef public object _published
    cdef public object _queue
    cdef public object _ringer
    cdef public bint _rings_again
    cdef public bint _stopped
    cdef public object _sweeper
    cdef public object _ticker
    cdef public dict _waiters
    cdef public int idle_count
    cdef public object on_connected
    cdef public object targets
    cdef object __weakref__

    cdef double _now(self) except -1
    cpdef try_lend(self, Target target, double idle_at_most=*)
    cdef _lend_shared(self, Target target)
    cdef _lend_one(self, PooledConnection connection)
