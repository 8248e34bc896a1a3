# The types of `shared_store.py`.

cimport cython

from fastgw.cache.shared._cells cimport Cells, OpenRecord
from fastgw.cache.shared.lifecycle cimport SharedLease
from fastgw.cache.shared.space cimport Space

cdef int _FOUND_AGAIN, _LEASE_TICKS, _TICKS
cdef int BEGAN, CHECKED, COMPLETE, DATE, FOUND, PURGE_SEQUENCE, RESERVING, STATUS


@cython.final
cdef class _Stamp:
    cdef object memory
    cdef bytes key
    cdef long long position
    cdef unsigned long long entry
    cdef unsigned long long sequence


@cython.final
cdef class SharedStore:
    cdef public Cells cells
    cdef public object clock
    cdef public object counters
    cdef public object date
    cdef public object memory
    cdef public long long most_bytes
    cdef public object purges
    cdef public object segments
    cdef public Space space
    cdef public object successor
    cdef public object tiers
    cdef public object watches
    cdef long long _asked
    cdef object _words

    cpdef find(self, bytes key)
    cpdef bint is_unchanged(self, stamp) except -1
    cpdef lease(self, bytes key, begun=*)
    cdef unsigned long long _now(self) except? 0
    cdef bint _is_whole(self, OpenRecord found) except -1
    cdef bint _drop(self, OpenRecord found) except -1
    cpdef bint holds(self, bytes key, long long at) except -1
    cpdef report(self, bytes key)
    cpdef end_lease(self, long long at, unsigned long long word, double mark_s)
