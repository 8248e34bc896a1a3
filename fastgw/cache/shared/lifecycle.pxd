# The types of `lifecycle.py`.

cimport cython

from fastgw.cache.shared._ordinary cimport Ordinary


@cython.final
cdef class _Written:
    cdef public int queue
    cdef public long long segment
    cdef public long long offset
    cdef public unsigned long long generation
    cdef public long long total
    cdef public bytes key
    cdef public long long body
    cdef public unsigned long long replaced
    cdef public bint is_found


@cython.final
cdef class SharedLease:
    cdef public bytes key
    cdef public object why_not
    cdef public object _store
    cdef Ordinary _ordinary
    cdef long long _at
    cdef unsigned long long _word
    cdef unsigned long long _began
    cdef double _date
    cdef bint _ended
    cdef long long _segment_bytes

    cdef bint _is_too_long(self, Py_ssize_t tags, Py_ssize_t url, Py_ssize_t head) except -1
    cpdef give_up(self, double mark_s=*)
    cdef _Written _write(self, bytes head, size, bytes key, bytes url, tags, int status, bytes body)
    cdef _Written _write_record_of(self, bytes key, bytes head, bytes url, hashes, size, int status, bytes body)
    cdef _Written _write_ordinarily(self, bytes key, bytes head, bytes url, tags, size, int status, bytes body)
