cimport cython
from libc.stdint cimport uint8_t, uint64_t

from fastgw.http.http1.sought_names cimport SoughtNames
from fastgw.http.messages cimport RequestHead


@cython.final
cdef class ReservedFields:
    cdef frozenset _names  # `folded`, without those of known fields
    cdef tuple _prefixes
    cdef frozenset _exempt
    cdef SoughtNames _sought  # the complete names
    cdef uint64_t _beginnings  # a bit for each `beginning_of` of a prefix

    cpdef take_out_of(self, RequestHead head)
    cdef bint _is_in(self, RequestHead head) except -1
    cdef bint _begins(self, const uint8_t* name, const uint8_t* end) except -1
