# The types of `shared_store.py`.

cimport cython

from fastgw.cache.shared._ordinary cimport Ordinary
from fastgw.cache.shared.lifecycle cimport SharedLease


@cython.final
cdef class _Stamp:
    cdef object memory
    cdef bytes key
    cdef long long position
    cdef unsigned long long entry
    cdef unsigned long long sequence


@cython.final
cdef class SharedStore:
    cdef public object clock
    cdef public object counters
    cdef public object date
    cdef public object index
    cdef public object leases
    cdef public object memory
    cdef public long long most_bytes
    cdef public Ordinary ordinary
    cdef public object purges
    cdef public object records
    cdef public object segments
    cdef public object space
    cdef long long _asked
    cdef object _watches
    cdef object _words

    cpdef find(self, bytes key)
    cpdef bint is_unchanged(self, stamp) except -1
    cpdef lease(self, bytes key, begun=*)
    cpdef report(self, bytes key)
    cpdef end_lease(self, long long at, unsigned long long word, double mark_s)


cpdef bint is_unchanged_in(store, stamp) except -1
