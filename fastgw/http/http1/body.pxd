from libc.stdint cimport uint8_t

from fastgw.http.http1.second_parser cimport SecondParser


cdef class BodyBuffer:
    cdef Py_ssize_t _size
    cdef bytes _bytes

    cdef bytes take_bytes(self, Py_ssize_t length)


cdef class LengthReader:
    cdef SecondParser _second_parser
    cdef long long _left
    cdef readonly bint done
    cdef readonly bytes rest


# Return the payload of a chunked body that begins at `at` and ends exactly at `end`. None: it ends elsewhere, or has
# extensions or trailers. This is the first parser only: llhttp has to accept it as well.
cdef bytes plain_payload(const uint8_t* at, const uint8_t* end)
