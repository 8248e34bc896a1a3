# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled `SharedStore.find` for the ordinary case: the record is there, in one piece, and checked since the last
purge.

Each step is that of `ObjectIndex.candidates`, `Segments.pin`, `Records.verify` and `SharedStore.find`; what is not the
ordinary case is left to them.
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t fastgw_cache_load(const uint64_t *word) {
        return __atomic_load_n(word, __ATOMIC_SEQ_CST);
    }
    static inline void fastgw_cache_store(uint64_t *word, uint64_t value) {
        __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
    }
    static inline void fastgw_cache_fence(void) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    """
    uint64_t fastgw_cache_load(const uint64_t* word) nogil
    void fastgw_cache_store(uint64_t* word, uint64_t value) nogil
    void fastgw_cache_fence() nogil

cdef enum:
    # Layout of `layout`, `segments` and `records`
    BUCKET = 16
    PURGE_SEQUENCE = 64
    UNIT = 64
    HEADER = 128
    OPEN = 1
    SEALED = 2
    GENERATION_MASK = 0x3FFF
    SEAL = 0
    KEY_HIGH = 1
    KEY_LOW = 2
    CHECKED = 9
    HITS = 11
    NEXT = 13
    MOST_HITS = 3
    MISS = -1
    NOT_ORDINARY = -2


@cython.final
cdef class Search:
    """The memory of a store, for one process. `pins`: the word of its pin on the first segment."""

    cdef Py_buffer _view
    cdef uint64_t* _words
    cdef uint64_t _secrets[3]
    cdef int64_t _entries, _states, _data, _segment, _segments, _pins
    cdef uint64_t _mask

    def __cinit__(
        self, memory not None, secrets not None, int64_t entries, int64_t cells, int64_t states, int64_t data,
        int64_t segment, int64_t segments, int64_t pins
    ):
        PyObject_GetBuffer(memory, &self._view, PyBUF_CONTIG)
        cdef int64_t words = self._view.len // 8
        if <size_t> self._view.buf % 64 or data + segment * segments > self._view.len:
            raise ValueError("the memory is not that of a store")
        if entries + cells > words or states + segments > words or pins + segments > words:
            raise ValueError("the memory is not that of a store")
        self._words = <uint64_t*> self._view.buf
        self._secrets[0], self._secrets[1], self._secrets[2] = secrets[0], secrets[1], secrets[2]
        self._entries, self._states, self._data = entries, states, data
        self._segment, self._segments, self._pins = segment, segments, pins
        self._mask = cells // BUCKET - 1

    def __dealloc__(self):
        PyBuffer_Release(&self._view)

    cdef uint64_t _mix(self, uint64_t first, uint64_t second) noexcept nogil:
        cdef uint64_t value = (first ^ self._secrets[0]) * self._secrets[1] + second * self._secrets[2]
        value = (value ^ value >> 29) * self._secrets[1]
        return value ^ value >> 32

    def find(self, bytes key not None):
        """Return the first word of the valid record of a key, pinned; or `MISS`, or `NOT_ORDINARY`."""
        if PyBytes_GET_SIZE(key) != 16:
            return NOT_ORDINARY
        cdef uint64_t key_words[2]
        memcpy(key_words, PyBytes_AS_STRING(key), 16)
        cdef uint64_t hash_ = self._mix(key_words[0], key_words[1])
        cdef uint64_t* bucket = self._words + self._entries + <int64_t> (hash_ >> 16 & self._mask) * BUCKET
        cdef uint64_t entry, state, generation
        cdef uint64_t* pin
        cdef uint64_t* record
        cdef int64_t segment, offset, number
        for number in range(BUCKET):
            entry = fastgw_cache_load(bucket + number)
            if not entry or entry >> 48 != hash_ >> 48:
                continue
            segment, offset = entry >> 18 & 0xFFFF, entry >> 2 & 0xFFFF
            if segment >= self._segments or offset * UNIT > self._segment - HEADER:
                return NOT_ORDINARY
            pin = self._words + self._pins + segment
            fastgw_cache_store(pin, pin[0] + 1)
            fastgw_cache_fence()
            state = fastgw_cache_load(self._words + self._states + segment)
            generation = state >> 16
            record = self._words + (self._data + segment * self._segment + offset * UNIT) // 8
            if (
                (state & 0xF != OPEN and state & 0xF != SEALED)
                or (generation & GENERATION_MASK) != (entry >> 34 & GENERATION_MASK)
                or record[SEAL] != self._mix(generation << 1, <uint64_t> segment << 32 | <uint64_t> offset)
                or record[KEY_HIGH] != key_words[0]
                or record[KEY_LOW] != key_words[1]
                or fastgw_cache_load(record + CHECKED) >> 1 != fastgw_cache_load(self._words + PURGE_SEQUENCE)
                or fastgw_cache_load(record + NEXT)
            ):
                fastgw_cache_store(pin, pin[0] - 1)
                return NOT_ORDINARY
            if record[HITS] < MOST_HITS:
                record[HITS] += 1
            return record - self._words
        return MISS
