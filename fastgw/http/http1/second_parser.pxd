from libc.stdint cimport uint8_t


cdef enum:
    UNKNOWN = -1


cdef class Seen:
    cdef int heads
    cdef int messages


cdef class SecondParser:
    cdef Seen _seen
    cdef object _feed_data
    cdef object _refusal
    cdef Py_ssize_t _upgraded_at

    cdef int read_head(self, const uint8_t* at, Py_ssize_t length, int body_follows) except -1
    cdef int read_on(self, const uint8_t* at, Py_ssize_t length) except -1
    cdef int read_last(self, const uint8_t* at, Py_ssize_t length) except -1
    cdef bint _feed(self, const uint8_t* at, Py_ssize_t length) except -1
