# The types of `_cells.pyx`, and the words of records, for Python as well.

cimport cython
from libc.stdint cimport int64_t, uint64_t


cpdef enum:
    # Words of the header of a record
    SEAL = 0
    KEY_HIGH = 1
    KEY_LOW = 2
    TOTAL = 3  # length in bytes, with all parts; also of a chunk
    PARTS = 4  # lengths of the tags, the URL and the head: 16, 16 and 32 bits
    LENGTH = 5  # number of readable bytes of the body; written by one process, after the bytes
    STATUS = 6
    SIZE = 7  # announced or final number of bytes of the body, plus 1; 0: not known
    BEGAN = 8  # purge sequence at the lease
    CHECKED = 9  # purge sequence up to which the record is valid, times 2; plus 1 if it was soft-purged
    DATE = 10  # microseconds since 1970
    HITS = 11  # how often it was found since it is in its queue, at most `MOST_HITS`
    CAPACITY = 12  # number of bytes of the body that this record has space for
    NEXT = 13  # location of the next chunk; 0: there is none
    OWNER = 14  # owner of the process that writes the body
    FOUND = 15  # how often it was found since it was stored; processes count without a lock: a count may be lost
    HEADER = 128  # bytes
    MOST_HITS = 3
    # Words of the header of a chunk, in addition to SEAL and TOTAL
    CHUNK_RECORD = 1  # location of the record
    CHUNK_CAPACITY = 4
    CHUNK_NEXT = 5
    CHUNK_HEADER = 64  # bytes
    # Status: progress of an object's body
    RESERVING = 0  # space for a body of known length is not complete yet: requests do not find it
    GROWING = 1
    COMPLETE = 2
    FAILED = 3
    # Results of `Cells.take_lease`
    IN_FLIGHT = -1
    UNCACHEABLE = -3
    NO_SLOT = -4
    OUTGROWN = -5


cdef struct Key:
    uint64_t high
    uint64_t low
    uint64_t hash


@cython.final
cdef class OpenRecord:
    cdef readonly int64_t at, segment, position
    cdef readonly uint64_t entry


cdef class Cells:
    cdef Py_buffer _view
    cdef object memory  # the `CacheMemory`, whose bytes these are
    cdef uint64_t* _words
    cdef uint64_t _secrets[4]
    cdef int64_t _entries, _ghosts, _leases, _states, _used, _orders, _data, _segment, _segments
    cdef int64_t _columns, _column_words, _column, _pins, _watches, _events
    cdef uint64_t _mask, _ghost_mask, _lease_mask, _owner
    cdef readonly uint64_t lease_word  # of the lease that was taken last
    cdef readonly uint64_t replaced  # entry of its key that the record that was inserted last has replaced; 0: none

    # keys
    cpdef uint64_t hash(self, bytes key) except? 0
    cpdef uint64_t key_tag(self, bytes key) except? 0
    cpdef uint64_t name_tag(self, bytes tag) except? 0
    cpdef uint64_t purge_sequence(self) noexcept

    # the index
    cpdef uint64_t entry(self, bytes key, uint64_t location) except? 0
    cpdef int64_t position(self, bytes key, uint64_t entry) except -2
    cpdef bint holds(self, int64_t position, uint64_t value) except -1
    cpdef bint replace(self, int64_t position, uint64_t seen, uint64_t wanted) except -1
    cpdef bint drop(self, int64_t position, uint64_t entry) except -1
    cpdef bint insert(self, bytes key, uint64_t location) except -1
    cpdef bint remove(self, bytes key) except -1
    cpdef bint is_remembered(self, bytes key) except -1

    # records
    cpdef OpenRecord open(self, bytes key)
    cpdef OpenRecord open_entry(self, bytes key, int64_t position, uint64_t entry)
    cpdef int missing(self, int64_t at) except -1
    cpdef bint is_current(self, int64_t at) except -1
    cpdef int count_found(self, int64_t at) except -1
    cpdef bytes head(self, int64_t at)
    cpdef bytes url(self, int64_t at)
    cpdef list tags(self, int64_t at)
    cpdef uint64_t location(self, int64_t segment, int64_t offset) except? 0
    cpdef int64_t write(self, bytes key, bytes head, bytes url, list tags, int64_t segment, int64_t offset,
                        int64_t total, int64_t size, uint64_t began, uint64_t checked, uint64_t date, int status,
                        bytes whole) except -1

    # segments
    cpdef int unpin(self, int64_t segment) except -1
    cpdef int64_t used(self, int64_t segment) except -1
    cpdef int set_used(self, int64_t segment, int64_t count) except -1

    # leases and events
    cpdef int64_t take_lease(self, bytes key, uint64_t now, uint64_t ticks, bint ends_mark) except? -2
    cpdef int end_lease(self, int64_t at, uint64_t word, uint64_t now, uint64_t ticks) except -1
    cpdef bint report(self, bytes key) except -1
