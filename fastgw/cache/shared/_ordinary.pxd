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


cdef struct NewRecord:
    # A record to be written. `hashes`: of its tags and keys, at most `MOST_HASHES`. `size`: of the body; negative: not
    # known. `whole`: the body; NULL: it follows. `began`: purge sequence at the begin of the fetch; `date`: the same in
    # microseconds since the epoch.
    const char* head
    Py_ssize_t head_bytes
    const char* url
    Py_ssize_t url_bytes
    const uint64_t* hashes
    int hash_count
    const char* whole
    int64_t size
    uint64_t began
    uint64_t date
    int status


cdef enum:
    MOST_HASHES = 520
    SECRETS = 4
    NO_SPACE = -6  # result of `write_record`


@cython.final
cdef class Ordinary:
    cdef Py_buffer _view
    cdef object memory  # the `CacheMemory`
    cdef uint64_t unchanged  # calls of `is_unchanged`
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
    cdef uint64_t tag_hash(self, const char* text, Py_ssize_t length) noexcept nogil
    cdef bint _read(self, bytes key, Key* found) noexcept
    cdef uint64_t* _bucket(self, const Key* key) noexcept nogil
    cdef uint64_t* _pin(self, int64_t segment) noexcept nogil
    cdef uint64_t* _opened(self, uint64_t entry, const Key* key, uint64_t** pin) noexcept nogil
    cdef bint _holds(self, int64_t position, uint64_t value) except -1
    cdef bint _count_found(self, bytes key, uint64_t entry, uint64_t times) noexcept
    cdef bint has_no_entry(self, const Key* key) noexcept nogil
    cdef int64_t take_lease_of(self, const Key* key, uint64_t now, uint64_t ticks) noexcept nogil
    cdef bint _is_live(self, uint64_t word, uint64_t now) noexcept nogil
    cdef int end_lease_at(self, int64_t at, uint64_t word, uint64_t now, uint64_t ticks) except -1
    cdef bint report_key(self, const Key* key) noexcept nogil
    cdef uint64_t purge_sequence(self) noexcept nogil
    cdef int64_t write_record(self, const Key* wanted, const NewRecord* made, int64_t small, int64_t main) noexcept nogil
    cdef bint keep_record(self, const Key* key, int64_t at) noexcept nogil
    cdef uint64_t _entry(self, const Key* key, const Where* where) noexcept nogil
    cdef bint _is_of_popular(self, uint64_t owner) noexcept nogil
    cdef int64_t _body_of(self, const uint64_t* record) noexcept nogil
    cdef uint64_t* _slot_of(self, const Key* key, uint64_t entry) noexcept nogil
    cdef uint64_t* _walked(self, int64_t segment, uint64_t generation, int64_t* offset, bint* is_chunk) noexcept nogil


# As `Store.is_unchanged`, whatever the class of the store is; a call for that of the compiled method.
cpdef bint is_unchanged_in(store, stamp) except -1
