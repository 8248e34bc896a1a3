# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of `cells`: cells are advanced by compare-and-swap, and nothing is locked (see `_cells.h`)."""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

cdef extern from "_cells.h" nogil:
    enum:
        BUCKET
        WORDS
        STRIPES
    ctypedef struct Cell:
        pass
    ctypedef struct Head:
        uint64_t maker, cells
        uint64_t key[2]
        uint64_t overflowed, refused
    ctypedef struct Region:
        Cell* cells
        uint64_t (*parts)[8]
        uint64_t buckets
    ctypedef struct Table:
        Head* head
        Region own, overflow
    ctypedef struct CLimit "Limit":
        uint64_t limit, step, parts, identity
        int is_bucket
        uint64_t overflow[16]
    uint64_t hash_of(const uint64_t* secret, uint64_t identity, const char* key, size_t length)
    int64_t spend(const Table* table, const CLimit* limit, const char* key, size_t length, uint64_t cost, uint64_t now)

cdef object NO_WAIT = 0.0


@cython.final
cdef class Memory:
    """The table where it lies."""

    cdef Py_buffer _view
    cdef Table _table

    def __cinit__(self, memory not None, Py_ssize_t head, Py_ssize_t own, Py_ssize_t overflow):
        """`memory`: writable; `head` bytes, then so many cells of the keys and of the overflow, then their parts."""
        PyObject_GetBuffer(memory, &self._view, PyBUF_CONTIG)
        cdef char* start = <char*> self._view.buf
        if <size_t> start % 64 or self._view.len != head + (own + overflow) * <Py_ssize_t> (sizeof(Cell) + 8 * WORDS):
            raise ValueError("the memory is not that of a table")
        self._table.head = <Head*> start
        self._table.own.cells = <Cell*> (start + head)
        self._table.own.buckets = own // BUCKET
        self._table.overflow.cells = self._table.own.cells + own
        self._table.overflow.buckets = overflow // BUCKET
        self._table.own.parts = <uint64_t (*)[8]> (self._table.overflow.cells + overflow)
        self._table.overflow.parts = self._table.own.parts + own

    def __dealloc__(self):
        PyBuffer_Release(&self._view)


@cython.final
cdef class Limit:
    cdef Memory _memory
    cdef CLimit _limit

    def __cinit__(
        self, Memory memory not None, uint64_t identity, uint64_t limit, uint64_t step, uint64_t parts, bint is_bucket
    ):
        cdef char stripe
        cdef int number
        self._memory = memory
        self._limit.identity = identity
        self._limit.limit = limit
        self._limit.step = step
        self._limit.parts = parts
        self._limit.is_bucket = is_bucket
        for number in range(STRIPES):
            stripe = <char> number
            self._limit.overflow[number] = hash_of(memory._table.head.key, identity, &stripe, 1)

    def spend(self, bytes key not None, uint64_t cost, uint64_t now):
        """As `cells.Limit.spend`."""
        if not 0 < cost <= self._limit.limit:
            raise ValueError("the cost is not between 1 and what may be spent at once")
        cdef int64_t wait = spend(
            &self._memory._table, &self._limit, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), cost, now
        )
        return NO_WAIT if wait == 0 else wait / 1e9
