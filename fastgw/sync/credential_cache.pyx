# cython: language_level=3, boundscheck=False, wraparound=False
"""See `credential_cache.pyi`."""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from fastgw.http.messages cimport AUTHORIZATION, RequestHead, Span, bit_of, line_of

import os
from collections import OrderedDict

cdef extern from "_marks.h" nogil:
    enum:
        MARK_KEY
    void mark_of(const uint64_t* key, const char* text, size_t length, uint64_t* mark)

cdef extern from "time.h" nogil:
    enum:
        CLOCK_MONOTONIC
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* at)

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(object mapping, object key) except? NULL
    void PyObject_GC_UnTrack(void* each)

HITS, MISSES = range(2)
WORDS = 2
cdef uint64_t _own[2]
cdef uint64_t* _counts = _own
cdef Py_buffer _held
cdef bint _holds = False


def count_in(words not None):
    global _counts, _holds
    cdef Py_buffer view
    PyObject_GetBuffer(words, &view, PyBUF_CONTIG)
    if view.len != sizeof(_own) or <size_t> view.buf % sizeof(uint64_t):
        PyBuffer_Release(&view)
        raise ValueError("hits and misses are two words")
    if _holds:
        PyBuffer_Release(&_held)
    memcpy(&_held, &view, sizeof(view))
    _counts, _holds = <uint64_t*> view.buf, True


cdef inline double _now() noexcept nogil:
    cdef timespec at
    clock_gettime(CLOCK_MONOTONIC, &at)
    return at.tv_sec + at.tv_nsec * 1e-9


def uncollected(each):
    # Of these two types only: the destructors of others may take it for granted that they are tracked.
    if type(each) is dict:
        for value in (<dict> each).values():
            uncollected(value)
        PyObject_GC_UnTrack(<void*> each)
    elif type(each) is list:
        for value in <list> each:
            uncollected(value)
        PyObject_GC_UnTrack(<void*> each)
    return each


@cython.final
@cython.no_gc  # no value leads back to its cache
cdef class _Entry:
    cdef object value
    cdef double expires_at


@cython.final
cdef class TokenCache:
    cdef object _entries
    cdef Py_ssize_t _most
    cdef uint64_t _counted
    cdef uint64_t _key[MARK_KEY]

    def __init__(self, Py_ssize_t most, bint counted=True):
        if most < 1:
            raise ValueError("a cache has room for one at least")
        cdef bytes key = os.urandom(sizeof(self._key))
        memcpy(self._key, PyBytes_AS_STRING(key), sizeof(self._key))
        self._entries = OrderedDict()
        self._most = most
        self._counted = counted

    def __len__(self):
        return len(self._entries)

    def __repr__(self):
        return f"<TokenCache {len(self._entries)} of {self._most}>"

    cdef bytes _mark(self, bytes credential):
        return self._mark_of(PyBytes_AS_STRING(credential), PyBytes_GET_SIZE(credential))

    cdef bytes _mark_of(self, const char* credential, Py_ssize_t length):
        cdef uint64_t mark[2]
        mark_of(self._key, credential, length, mark)
        return PyBytes_FromStringAndSize(<char*> mark, sizeof(mark))

    def get(self, bytes credential not None):
        return self._get(self._mark(credential))

    def shown_by(self, RequestHead head not None):
        cdef Span credential
        if head._fields is None and not head.repeated & bit_of(AUTHORIZATION):
            if not head.names & bit_of(AUTHORIZATION):
                return None
            credential = line_of(head, bit_of(AUTHORIZATION)).value
            return self._get(self._mark_of(PyBytes_AS_STRING(head.source) + credential.start, credential.length))
        values = head.values(b"authorization")
        return self.get(values[0]) if len(values) == 1 else None

    cdef object _get(self, bytes mark):
        cdef PyObject* found = PyDict_GetItemWithError(self._entries, mark)
        cdef _Entry entry
        if found is not NULL:
            entry = <_Entry> found
            if _now() < entry.expires_at:
                _counts[0] += self._counted
                return entry.value
            del self._entries[mark]
        _counts[1] += self._counted
        return None

    def store(self, bytes credential not None, value not None, double expires_at):
        cdef bytes mark = self._mark(credential)
        cdef _Entry entry = _Entry.__new__(_Entry)
        entry.value, entry.expires_at = value, expires_at
        entries = self._entries
        entries.pop(mark, None)
        if len(entries) >= self._most:
            entries.popitem(last=False)
        entries[mark] = entry

    def forget(self, bytes credential not None):
        return self._entries.pop(self._mark(credential), None) is not None

    def retain_only(self, is_wanted):
        cdef _Entry entry
        for mark, held in list(self._entries.items()):
            entry = held
            if not is_wanted(entry.value):
                del self._entries[mark]
