# The types of `response_action.py`.

from fastgw.exchange.action cimport Action
from fastgw.exchange.exchange cimport Exchange


cdef class ResponseAction(Action):
    cdef public frozenset marks


cpdef bint is_for_cache(Exchange exchange) except -1
