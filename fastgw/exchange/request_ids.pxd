from fastgw.http.messages cimport RequestHead


cdef class RequestIds:
    cdef readonly bint is_usual
    cdef bint _trusts
    cdef bint _has_twins
    cdef bytes _lower
    cdef bytes _prefix
    cdef readonly frozenset dropped

    # The id of a request whose header is the usual one and is as received (`is_as_read`).
    cdef bytes made_for(self, RequestHead head)
    cpdef bytes of(self, RequestHead head)
    cpdef bytes sent_line(self, RequestHead head, bytes request_id)
    cpdef bint replaces(self, RequestHead head) except -1


# Whether the headers are unchanged.
cdef bint is_as_read(RequestHead head) noexcept
