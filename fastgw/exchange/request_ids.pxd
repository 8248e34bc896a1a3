from fastgw.http.http1.parser cimport Http1RequestHead


cdef class RequestIds:
    cdef readonly bint is_usual
    cdef bint _trusts
    cdef bint _has_twins
    cdef bytes _lower
    cdef bytes _prefix
    cdef frozenset _dropped

    # The id of a request whose header is the usual one and is as received (`is_as_read`).
    cdef bytes made_for(self, Http1RequestHead head)


# Usual header line with this id for the upstream; empty if the client's own line is forwarded.
cdef bytes line_for(Http1RequestHead head, bytes name)
cdef bint is_replaced(Http1RequestHead head, bytes line) noexcept

# Whether the headers are unchanged.
cdef bint is_as_read(Http1RequestHead head) noexcept
