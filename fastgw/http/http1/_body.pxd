from libc.stdint cimport uint8_t


cdef class BodyBuffer:
    cdef Py_ssize_t _size
    cdef bytes _bytes

    cdef bytes take_bytes(self, Py_ssize_t length)


cdef class Seen:
    cdef int heads
    cdef int messages


cdef class SecondParser:
    cdef Seen _seen
    cdef object _feed_data
    cdef object _refusal

    cdef bint agrees_on_head(self, const uint8_t* at, Py_ssize_t length, bint body_follows) except -1
    cdef bint agrees_on_any_head(self, const uint8_t* at, Py_ssize_t length) except -1
    cdef bint agrees_on_whole(self, const uint8_t* at, Py_ssize_t length) except -1
    cdef bint _feed(self, const uint8_t* at, Py_ssize_t length) except -1
    cdef int _read_on(self, const uint8_t* at, Py_ssize_t length) except -1
    cdef int _read_last(self, const uint8_t* at, Py_ssize_t length) except -1


cdef class LengthReader:
    cdef SecondParser _second_parser
    cdef long long _left
    cdef readonly bint done
    cdef readonly bytes rest


cdef bytes plain_payload(const uint8_t* at, const uint8_t* end)
