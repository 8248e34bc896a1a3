from libc.stdint cimport uint8_t


cdef class BodyBuffer:
    cdef Py_ssize_t _size
    cdef bytes _bytes

    cdef bytes take_bytes(self, Py_ssize_t length)


cdef class BodyReader:
    cdef public bint done
    cdef public bytes rest
    cdef public tuple trailers

    cpdef bytes feed(self, bytes chunk)
    cpdef long long bytes_assured(self) except -1
    cpdef bint is_in_line(self) except -1


cdef class LengthReader(BodyReader):
    cdef long long _left


# Return the payload of a chunked body that begins at `at` and ends exactly at `end`. None: it ends elsewhere, or has
# extensions or trailers.
cdef bytes plain_payload(const uint8_t* at, const uint8_t* end)
