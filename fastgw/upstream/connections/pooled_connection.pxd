# The types of the fields of `pooled_connection.py`.

from fastgw.eventloop.timer_wheel cimport Timed
from fastgw.upstream.targets.target cimport Target


cdef class PooledConnection(Timed):
    cdef public Target target
    cdef public int capacity
    cdef public bint closed
    cdef public int streams
    cdef public long long uses
    cdef public double idle_since

    cpdef open_stream(self)
