# The types of the fields of `reply.py`.

cimport cython

from fastgw.http.messages cimport ResponseHead


@cython.final
@cython.no_gc  # nothing that it holds leads back to it
cdef class Response:
    cdef public object status
    cdef public ResponseHead head
    cdef public object added
    cdef public object dropped
    cdef public object body_length
    cdef public object _fields
    cdef public object whole_bytes
    cdef public object encoded_forms
    cdef public object is_held


cpdef Response received_response(ResponseHead head, bytes added, frozenset dropped)
