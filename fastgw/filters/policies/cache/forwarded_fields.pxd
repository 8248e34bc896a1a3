# The types of `forwarded_fields.py`.

cimport cython

from fastgw.exchange.exchange cimport Exchange
from fastgw.http.messages cimport values_of


@cython.final
cdef class ForwardedFields:
    cdef Exchange _exchange

    cpdef values(self, bytes name)
