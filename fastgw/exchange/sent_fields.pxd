cimport cython


@cython.final
cdef class JoinedFields:
    cdef readonly tuple parts

    cpdef fields_for(self, head, peer)


cpdef fields_for_request(fields, head, peer)
