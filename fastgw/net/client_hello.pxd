# The types of `client_hello.py`.

cimport cython


@cython.final
cdef class HelloReader:
    cdef readonly bytearray received
    cdef bytes _header
    cdef readonly Py_ssize_t message_bytes
    cdef Py_ssize_t _longest
    cdef Py_ssize_t _record_at
    cdef Py_ssize_t _records

    cpdef feed(self, chunk)
    cdef bytes begun_with(self)
    cdef bytes _message(self)


@cython.final
cdef class _Reader:
    cdef Py_ssize_t _at
    cdef bytes _held

    cdef Py_ssize_t left(self) noexcept
    cdef bytes read(self, Py_ssize_t count)
    cdef Py_ssize_t number(self, int size) except -1
    cdef bytes vector(self, int size, Py_ssize_t least, Py_ssize_t most)
    cdef end(self)


cdef Py_ssize_t _record_size(bytes header, HelloReader reader) except -2
cdef Py_ssize_t _message_length(bytes header, Py_ssize_t longest) except -1
cdef _parse(bytes body)
cdef str _server_name(_Reader content)
cdef tuple _protocols(_Reader content)
