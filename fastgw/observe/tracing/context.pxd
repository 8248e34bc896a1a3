# The types of `context.py`.

cimport cython

from fastgw.http.messages cimport values_of

cdef int _VERSION_00, _DASH


@cython.final
cdef class Parent:
    cdef readonly bytes trace_id
    cdef readonly bytes span_id
    cdef readonly object is_sampled
    cdef readonly bint is_random
    cdef readonly bytes state
