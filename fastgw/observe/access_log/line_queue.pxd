from cpython.object cimport PyObject


cdef class LineQueue:
    cdef object _wake
    cdef object _press
    cdef Py_ssize_t _most
    cdef readonly Py_ssize_t size
    cdef list _full
    cdef PyObject* _block  # bytes that nobody else has seen yet; NULL: none has been begun
    cdef Py_ssize_t _used

    cdef bint append_line(self, const char* line, Py_ssize_t length) except -1
    cdef int _begin_block(self) except -1
    cdef int _end_block(self) except -1
