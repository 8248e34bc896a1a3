# The types of `route_tree.pyx` that other modules use.


cdef class Finder:
    cdef public tuple trees


cpdef match_of(Finder router, request)
