from fastgw.http.http1._parser cimport RequestHead


cdef class RequestIds:
    cdef object _plain
    cdef bint _trusts
    cdef bytes made_for(self, RequestHead head)


# The line that says this id to the upstream; empty where it goes on as it came.
cdef bytes line_for(RequestHead head, bytes name)
cdef bint is_replaced(RequestHead head, bytes line) noexcept

# Whether nobody has changed its fields.
cdef bint is_as_read(RequestHead head) noexcept
