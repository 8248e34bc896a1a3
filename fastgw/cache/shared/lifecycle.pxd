# The types of `lifecycle.py`.

cimport cython

from fastgw.cache.shared._cells cimport Cells, OpenRecord
from fastgw.cache.shared.space cimport Extent, Space

cdef int BEGAN, CHECKED, COMPLETE, FAILED, FOUND, GROWING, HEADER, HITS, RESERVING, STATUS
cdef int _SMALL_QUEUE, _MAIN_QUEUE
cdef long long _FIRST_PART, _SMALL


@cython.final
@cython.freelist(8)
cdef class WrittenRecord:
    cdef public int queue
    cdef public long long at
    cdef public Extent extent
    cdef public unsigned long long location
    cdef public bytes key
    cdef public long long body
    cdef public unsigned long long replaced
    cdef public bint is_found


@cython.final
cdef class SharedLease:
    cdef public bytes key
    cdef public object why_not
    cdef public object _store
    cdef public bint is_pending
    cdef object _tiers
    cdef object _position
    cdef Cells _cells
    cdef long long _at
    cdef unsigned long long _word
    cdef unsigned long long _began
    cdef double _date
    cdef bint _ended
    cdef long long _segment_bytes

    cdef bint _is_too_long(self, Py_ssize_t tags, Py_ssize_t url, Py_ssize_t head) except -1
    cpdef bint store_whole(self, bytes head, bytes body, bytes url, tags, bytes key=*) except -1
    cpdef give_up(self, double mark_s=*)
    cdef WrittenRecord _write(self, bytes head, size, bytes key, bytes url, tags, int status, bytes body)
    cdef WrittenRecord _write_record_of(
        self, bytes key, bytes head, bytes url, list hashes, size, int status, bytes body
    )
