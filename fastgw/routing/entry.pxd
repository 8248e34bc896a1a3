# The types of `entry.py`.

cimport cython


@cython.final
cdef class RouteEntry:
    cdef readonly object route
    cdef readonly tuple places
    cdef readonly tuple mixed
    cdef readonly object regex
    cdef readonly bint only_method
    cdef readonly bint has_parameters
    cdef readonly bint takes_rest
    cdef readonly object host
    cdef readonly object path
    cdef readonly tuple methods
    cdef readonly tuple fields
    cdef readonly tuple query
    cdef readonly tuple others
    cdef readonly int priority
    cdef readonly int rank

    cpdef bint accepts(self, request) except -1
    cpdef bint accepts_any_method(self, request) except -1
