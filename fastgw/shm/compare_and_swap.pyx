# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compare-and-swap on words of shared memory that many processes write: a word is replaced only if it still has the
value that was read. A swap is one instruction, and takes 70 ns with the call (CPython 3.11, micro/quotas).
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    static inline int fastgw_swap(uint64_t *word, uint64_t seen, uint64_t wanted) {
        return __atomic_compare_exchange_n(word, &seen, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline uint64_t fastgw_load(const uint64_t *word) {
        return __atomic_load_n(word, __ATOMIC_SEQ_CST);
    }
    static inline void fastgw_store(uint64_t *word, uint64_t value) {
        __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
    }
    """
    int fastgw_swap(uint64_t* word, uint64_t seen, uint64_t wanted) nogil
    uint64_t fastgw_load(const uint64_t* word) nogil
    void fastgw_store(uint64_t* word, uint64_t value) nogil

cdef enum:
    # Layout of `quotas`: words of a slot, results of its functions, parts of a state.
    ID_HIGH = 0
    ID_LOW = 1
    STATE = 2
    UNTIL = 3
    SLOT = 8
    NOT_OURS = -1
    USED_UP = -2
    LONG_OVER = -3
    LONG = 1 << 18
    COUNT_BITS = 44
    PERIODS = 1 << 20


@cython.final
cdef class Words:
    """Words in place: writable memory, aligned on 8 bytes."""

    cdef Py_buffer _view

    def __cinit__(self, memory not None):
        PyObject_GetBuffer(memory, &self._view, PyBUF_CONTIG)
        if <size_t> self._view.buf % 8 or self._view.len % 8:
            raise ValueError("the memory is not one of words")

    def __dealloc__(self):
        PyBuffer_Release(&self._view)

    def swap(self, Py_ssize_t at, uint64_t seen, uint64_t wanted):
        """Replace the word by `wanted` if it is `seen`; return whether it was. Raises `IndexError`."""
        if at < 0 or at >= self._view.len // 8:
            raise IndexError(at)
        return fastgw_swap(<uint64_t*> self._view.buf + at, seen, wanted) != 0

    def spend(
        self, Py_ssize_t at, uint64_t high, uint64_t low, uint64_t period, int64_t begins, int64_t until, int64_t cost,
        int64_t limit, Py_ssize_t mark
    ):
        """Compiled `quota_table.QuotaTable.spend` for the slot at this word; or `LONG_OVER`. Raises `IndexError`."""
        cdef Py_ssize_t words = self._view.len // 8
        if at < 0 or at > words - SLOT or mark < 0 or mark >= words:
            raise IndexError(at)
        cdef uint64_t* slot = <uint64_t*> self._view.buf + at
        cdef uint64_t mask = (<uint64_t> 1 << COUNT_BITS) - 1
        cdef uint64_t state, tag, ahead
        cdef int64_t count
        while True:
            if fastgw_load(slot + ID_HIGH) != high or fastgw_load(slot + ID_LOW) != low:
                return NOT_OURS
            state = fastgw_load(slot + STATE)
            if state and <int64_t> fastgw_load(slot + UNTIL) < begins - (until - begins) * LONG:
                return LONG_OVER
            tag = state >> COUNT_BITS
            count = <int64_t> (state & mask)
            if tag != period:
                ahead = (tag - period) & (PERIODS - 1)
                if state and ahead == 1:
                    period = tag
                elif not state or ahead >= PERIODS // 2:
                    count = 0
            if count + cost > limit:
                return USED_UP
            if not state:
                fastgw_store(slot + UNTIL, <uint64_t> until)
            if fastgw_swap(slot + STATE, state, period << COUNT_BITS | <uint64_t> (count + cost)):
                break
        if fastgw_load(slot + ID_HIGH) != high or fastgw_load(slot + ID_LOW) != low:  # given to another key in between
            while True:
                state = fastgw_load(slot + STATE)
                count = min(cost, <int64_t> (state & mask))
                if fastgw_swap(slot + STATE, state, state - <uint64_t> count):
                    return NOT_OURS
        if tag != period:
            fastgw_store(slot + UNTIL, <uint64_t> until)
        fastgw_store(<uint64_t*> self._view.buf + mark, 1)
        return limit - count - cost
