# The types of `space.py`.

cimport cython

from fastgw.cache.shared._cells cimport Cells

cdef int CAPACITY, CHUNK_CAPACITY, CHUNK_HEADER, CHUNK_NEXT, LENGTH, NEXT, TOTAL, UNIT


@cython.final
@cython.freelist(8)
cdef class Extent:
    cdef public long long segment
    cdef public long long offset
    cdef public long long length


cdef class Space:
    cdef Cells _cells
    cdef object _memory
    cdef object _segments
    cdef object _words
    cdef long long _size
    cdef long long _small
    cdef long long _main

    cpdef long long opened(self, int queue) except -2
    cdef _set_opened(self, int queue, long long segment)
    cpdef Extent reserve(self, int queue, long long least, long long wanted)
    cpdef bint resize(self, Extent extent, long long at, long long count) except -1


cpdef long long rounded(long long count) except -1
