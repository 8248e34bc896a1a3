# The types of `action.py`.

from fastgw.exchange.exchange cimport Exchange


cdef class Action:
    cpdef begin(self, Exchange exchange)
