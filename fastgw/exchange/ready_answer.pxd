# The types of `ready_answer.py`.

cimport cython

from fastgw.exchange.reply cimport Response


@cython.final
cdef class ReadyAnswer:
    cdef public object body
    cdef public object cache_result
    cdef public bytes head
    cdef public object length
    cdef public object status


cpdef Response recorded_answer(int status, bytes head)
