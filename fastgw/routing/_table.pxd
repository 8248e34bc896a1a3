# The types of `_table.pyx` that other modules use.


cdef class Finder:
    cdef public object compiled


cpdef match_of(Finder router, request)
