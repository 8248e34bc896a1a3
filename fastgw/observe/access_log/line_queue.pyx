# cython: language_level=3, boundscheck=False, wraparound=False
"""See `line_queue.pyi`. Lines lie one behind the other in blocks, which are handed over as they are."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.string cimport memcpy

cdef enum:
    BLOCK = 65536  # what is written at once

PRESSING = 1024 * 1024
cdef Py_ssize_t _PRESSING = PRESSING


@cython.final
cdef class LineQueue:
    def __init__(self, Py_ssize_t most, wake, press):
        self._most, self._wake, self._press = most, wake, press
        self._full = []

    def __dealloc__(self):
        Py_XDECREF(self._block)

    def add(self, bytes line not None):
        return self.append_line(PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))

    cdef bint append_line(self, const char* line, Py_ssize_t length) except -1:
        if self.size + length > self._most or length > BLOCK:
            return False
        if length > BLOCK - self._used:
            self._end_block()
        if self._block is NULL:
            self._begin_block()
        memcpy(PyBytes_AS_STRING(<bytes>self._block) + self._used, line, length)
        self._used += length
        self.size += length
        # At the end, for these may let another thread run.
        if self.size == length:
            self._wake()
        elif self.size - length < _PRESSING <= self.size:
            self._press()
        return True

    cdef int _begin_block(self) except -1:
        block = PyBytes_FromStringAndSize(NULL, BLOCK)
        Py_INCREF(block)
        self._block = <PyObject*>block
        return 0

    cdef int _end_block(self) except -1:
        cdef PyObject* block = self._block
        cdef Py_ssize_t used = self._used
        if block is NULL:
            return 0
        self._block = NULL
        self._used = 0
        _PyBytes_Resize(&block, used)
        self._full.append(<bytes>block)
        Py_XDECREF(block)
        return 0

    def pop_lines(self):
        if not self._full:
            self._end_block()
            if not self._full:
                return b""
        batch = self._full.pop(0)
        self.size -= PyBytes_GET_SIZE(batch)
        return batch
