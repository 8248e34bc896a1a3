# The types of `templates.py`.

cimport cython


@cython.final
cdef class TargetTemplate:
    cdef public bytes _constant
    cdef public bint _doubled
    cdef public Py_ssize_t _query_from
    cdef public bint _simple
    cdef public tuple pieces

    cpdef bytes expand(self, answers)
