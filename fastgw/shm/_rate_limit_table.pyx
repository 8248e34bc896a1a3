# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled `rate_limit_table`: cells are advanced by compare-and-swap, without locks (see `_rate_limit_table.h`)."""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

cdef extern from "_rate_limit_table.h" nogil:
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
        uint64_t limit, step, window, identity
        int is_bucket
        uint64_t overflow[16]
    ctypedef struct Spending:
        uint64_t cost, now, most, renewed_at
    uint64_t hash_of(const uint64_t* secret, uint64_t identity, const char* key, size_t length)
    int64_t spend(const Table* table, const CLimit* limit, const char* key, size_t length, Spending* spending)
    enum:
        AGAIN
    Cell* live_cell(
        const Table* table, const CLimit* limit, const char* key, size_t length, uint64_t now, Cell* seen,
        const Region** region
    )
    int64_t give_back(
        const CLimit* limit, Cell* cell, Cell seen, uint64_t cost, uint64_t spent_at, uint64_t now
    )
    uint64_t left(
        const Table* table, const CLimit* limit, const char* key, size_t length, uint64_t now, uint64_t* renewed_at
    )

cdef object NO_WAIT = 0.0


@cython.final
cdef class Memory:
    """The table in place."""

    cdef Py_buffer _view
    cdef Table _table

    def __cinit__(self, memory not None, Py_ssize_t head, Py_ssize_t own, Py_ssize_t overflow):
        """`memory`: writable: `head` bytes, the cells of the keys and of the overflow, then the parts of sliding
        windows.
        """
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
    cdef uint64_t _most
    cdef readonly uint64_t renewed_at

    def __cinit__(
        self,
        Memory memory not None,
        uint64_t identity,
        uint64_t limit,
        uint64_t step,
        uint64_t window,
        bint is_bucket,
        uint64_t most,
        bytes name not None,
    ):
        cdef char stripe
        cdef int number
        self._memory = memory
        self._limit.identity = identity
        if name:
            self._limit.identity = hash_of(
                memory._table.head.key, identity, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)
            )
        self._limit.limit = limit
        self._limit.step = step
        self._limit.window = window
        self._limit.is_bucket = is_bucket
        self._most = most
        for number in range(STRIPES):
            stripe = <char> number
            self._limit.overflow[number] = hash_of(memory._table.head.key, identity, &stripe, 1)

    def spend(self, bytes key not None, uint64_t cost, uint64_t now):
        """Compiled `rate_limit_table.Limit.spend`."""
        if not 0 < cost <= self._limit.limit:
            raise ValueError("the cost is not between 1 and what may be spent at once")
        cdef Spending spending = Spending(cost, now, 0, 0)
        cdef int64_t wait = spend(
            &self._memory._table, &self._limit, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), &spending
        )
        self.renewed_at = spending.renewed_at
        return NO_WAIT if wait == 0 else wait / 1e9

    def charge(self, bytes key not None, cost, uint64_t now):
        """Compiled `rate_limit_table.Limit.charge`."""
        if cost < 1:
            raise ValueError("a charge is of one permit or more")
        cdef Spending spending = Spending(min(cost, self._most), now, self._most, 0)
        spend(&self._memory._table, &self._limit, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), &spending)
        self.renewed_at = spending.renewed_at

    def refund(self, bytes key not None, uint64_t cost, uint64_t spent_at, clock not None):
        """Compiled `rate_limit_table.Limit.refund`."""
        cdef const Region* region
        cdef Cell* cell
        cdef Cell seen
        cdef uint64_t most = min(cost, self._limit.limit)
        while True:
            cell = live_cell(
                &self._memory._table, &self._limit, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), 0, &seen, &region
            )
            if cell is NULL or give_back(&self._limit, cell, seen, most, spent_at, clock()) != AGAIN:
                return

    def remaining(self, bytes key not None, uint64_t now):
        """Compiled `rate_limit_table.Limit.remaining`."""
        cdef uint64_t renewed_at = 0
        cdef uint64_t permits = left(
            &self._memory._table, &self._limit, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), now, &renewed_at
        )
        return permits, (0.0 if renewed_at <= now else (renewed_at - now) / 1e9)
