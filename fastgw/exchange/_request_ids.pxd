from fastgw.http.http1._parser cimport Http1RequestHead


cdef class RequestIds:
    cdef object _plain
    cdef bint _trusts
    cdef bytes made_for(self, Http1RequestHead head)


# The line that says this id to the upstream; empty where it goes on as it came.
cdef bytes line_for(Http1RequestHead head, bytes name)
cdef bint is_replaced(Http1RequestHead head, bytes line) noexcept

# Whether nobody has changed its fields.
cdef bint is_as_read(Http1RequestHead head) noexcept
