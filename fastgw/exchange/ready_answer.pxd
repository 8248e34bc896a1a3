# The types of the fields of `ready_answer.py`.

cimport cython


@cython.final
cdef class ReadyAnswer:
    cdef public object body
    cdef public object cache_result
    cdef public object head
    cdef public object length
    cdef public object status
