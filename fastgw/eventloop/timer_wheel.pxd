cdef double _TICK
cdef double inf
cdef long long _tick_of(double at) noexcept


cdef class Timed:
    cdef public double deadline
    cdef public double filed_at


cdef class Wheel:
    cdef public double now
    cdef long long _ticks
    cdef readonly dict _slots

    cpdef watch(self, Timed timed, double deadline)
    cpdef file(self, Timed timed, double at)
    cpdef drop(self, Timed timed)
    cdef _unfile(self, Timed timed)
