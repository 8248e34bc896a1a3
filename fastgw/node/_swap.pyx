# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of `swap`: one word of shared memory is exchanged for another, if it is what it was read as."""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    static inline int fastgw_swap(uint64_t *word, uint64_t seen, uint64_t wanted) {
        return __atomic_compare_exchange_n(word, &seen, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    """
    int fastgw_swap(uint64_t* word, uint64_t seen, uint64_t wanted) nogil


@cython.final
cdef class Words:
    """Words where they lie: writable memory, aligned on 8 bytes."""

    cdef Py_buffer _view

    def __cinit__(self, memory not None):
        PyObject_GetBuffer(memory, &self._view, PyBUF_CONTIG)
        if <size_t> self._view.buf % 8 or self._view.len % 8:
            raise ValueError("the memory is not one of words")

    def __dealloc__(self):
        PyBuffer_Release(&self._view)

    def swap(self, Py_ssize_t at, uint64_t seen, uint64_t wanted):
        """Whether the word was `seen`; then it is `wanted` now. Raises `IndexError`."""
        if at < 0 or at >= self._view.len // 8:
            raise IndexError(at)
        return fastgw_swap(<uint64_t*> self._view.buf + at, seen, wanted) != 0
