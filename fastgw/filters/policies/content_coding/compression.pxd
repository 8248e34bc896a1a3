# The types of `compression.py`.

cimport cython

from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.reply cimport Response

cdef object DOCUMENT, OTHER, STREAM


@cython.final
cdef class _Chosen:
    cdef public bytes coding
    cdef public object kind
    cdef public Py_ssize_t least
    cdef public Py_ssize_t length
    cdef public Py_ssize_t whole_bytes
    cdef public object forms


@cython.final
cdef class Compression:
    cdef public object _types
    cdef public object _level
    cdef public Py_ssize_t _min_bytes
    cdef public bint _pads
    cdef public tuple _offered
    cdef public tuple _offered_for_streams
    cdef public dict _whole
    cdef public dict _lines

    cpdef change_whole(self, Exchange exchange, Response response, bytes body)
    cdef _Chosen _choose(self, Exchange exchange, Response response)
    cdef bint _takes(self, Response response, _Chosen chosen) except -1
    cdef _kind_of(self, values)
    cdef _negotiated(self, head, kind)
    cpdef _compressor_of_whole(self, bytes coding, Py_ssize_t whole_bytes)
    cdef _level_of(self, bytes coding, Py_ssize_t whole_bytes)


cdef bint _forbids(values) except -1
cdef bint _varies(values) except -1
cdef _count(Exchange exchange, bytes coding, Py_ssize_t bytes_in, Py_ssize_t bytes_out)
cdef Py_ssize_t _length_of(asked, Response response) except -2
