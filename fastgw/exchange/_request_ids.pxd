from fastgw.http.http1.parser cimport Http1RequestHead


cdef class RequestIds:
    cdef object _plain
    cdef bint _trusts
    cdef bytes made_for(self, Http1RequestHead head)


# Header line with this id for the upstream; empty if the client's own line is forwarded.
cdef bytes line_for(Http1RequestHead head, bytes name)
cdef bint is_replaced(Http1RequestHead head, bytes line) noexcept

# Whether the headers are unchanged.
cdef bint is_as_read(Http1RequestHead head) noexcept
