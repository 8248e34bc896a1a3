cimport cython
from libc.stdint cimport int64_t, uint64_t


cdef struct Key:
    uint64_t high
    uint64_t low
    uint64_t hash


cdef struct Where:
    int64_t segment
    int64_t offset
    uint64_t generation


cdef enum:
    SECRETS = 4


@cython.final
cdef class Ordinary:
    cdef Py_buffer _view
    cdef object memory  # the `CacheMemory`, whose bytes these are
    cdef uint64_t* _words
    cdef uint64_t _secrets[SECRETS]
    cdef int64_t _entries, _ghosts, _leases, _states, _used, _orders, _data, _segment, _segments
    cdef int64_t _columns, _column_words, _column, _pins, _watches, _events
    cdef uint64_t _mask, _ghost_mask, _lease_mask, _owner
    cdef readonly uint64_t lease_word  # of the lease that was taken last
    cdef readonly bint is_inserted  # whether the record that was written last is in the index
    cdef readonly bint is_disputed  # whether the index may have another entry for the record that was written last
    cdef readonly uint64_t replaced  # entry of its key that the record that was written last has replaced; 0: none
    cdef readonly int queue
    cdef readonly int64_t segment, offset, total, body  # location and lengths of the record that was written last
    # (`queue` and `total` also of one for which there was no space)
    cdef readonly uint64_t generation

    cdef uint64_t _mix(self, uint64_t first, uint64_t second) noexcept nogil
    cdef bint _read(self, bytes key, Key* found) noexcept
    cdef uint64_t* _bucket(self, const Key* key) noexcept nogil
    cdef uint64_t* _pin(self, int64_t segment) noexcept nogil
    cdef uint64_t* _opened(self, uint64_t entry, const Key* key, uint64_t** pin) noexcept nogil
    cpdef bint holds(self, int64_t position, uint64_t value) except -1
    cpdef bint count_found(self, bytes key, uint64_t entry, uint64_t times) except -1
    cdef bint _is_of(self, uint64_t word, const Key* key, uint64_t epoch, uint64_t now) noexcept nogil
    cdef int64_t _refusal_of(self, uint64_t word, uint64_t now) noexcept nogil
    cdef bint _is_live(self, uint64_t word, uint64_t now) noexcept nogil
    cpdef uint64_t key_tag(self, bytes key) except? 0
    cpdef uint64_t name_tag(self, bytes tag) except? 0
    cpdef int64_t find(self, bytes key) except? -2
    cpdef uint64_t purge_sequence(self) noexcept
    cpdef int64_t take_lease(self, bytes key, uint64_t now, uint64_t ticks) except? -2
    cpdef int end_lease(self, int64_t at, uint64_t word, uint64_t now, uint64_t ticks) except -1
    cpdef bint report(self, bytes key) except -1
    cpdef int64_t write(self, bytes key, bytes head, bytes url, list tags, int64_t size, uint64_t began, uint64_t date,
                        int status, int64_t small, int64_t main, bytes whole) except? -2
    cpdef int unpin(self, int64_t segment) except -1
    cdef uint64_t _entry(self, const Key* key, const Where* where) noexcept nogil
    cdef bint _is_of_popular(self, uint64_t owner) noexcept nogil
    cdef int64_t _body_of(self, const uint64_t* record) noexcept nogil
    cdef uint64_t* _slot_of(self, const Key* key, uint64_t entry) noexcept nogil
    cdef uint64_t* _walked(self, int64_t segment, uint64_t generation, int64_t* offset, bint* is_chunk) noexcept nogil
