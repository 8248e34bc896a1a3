# The types of `states.py`.

cimport cython


@cython.final
cdef class Event:
    cdef public tuple _after
    cdef public dict _following
    cdef public object _events
    cdef public str name
