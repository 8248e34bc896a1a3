# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The words of a shared store by which processes meet: its index, its records, its leases, and the pins on segments.

The index is a hash table of words, one for each object, changed by compare-and-swap only. An entry is the location of a
record (its segment, its offset there, and 14 bits of the segment's generation) beside 16 bits of the hash of its key.
It may be outdated at any time: whoever opens it looks whether the record is still there and the right one. So an entry
whose segment is used for something else does no harm, and its word may be used for another key. Beside the index are
hashes of keys that were evicted without having been asked for again.

A record is a header of words, its tags and its URL (for purges), the head, and the first part of the body. The rest of
the body, if there is any, follows in chunks. Everything is written before the index points to it; afterwards only words
of the header change, each by itself. The first word is a keyed hash of where the record is and of the segment's
generation: bytes of a body, which a client may have chosen, are never taken for a record.

A lease or mark is one word as well: 18 bits of the key's hash (with the bucket about 30), its owner, whether it is a
mark, the lower bits of the epoch, and the instant at which it ends. Another key with the same bits is taken for the
same one: it then waits for the other one's fetch, or is not stored for a while. A purge of a key ends its lease; other
purges begin another epoch, in which no earlier lease is waited for and no earlier mark counts.
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint64_t fastgw_cache_load(const uint64_t *word) {
        return __atomic_load_n(word, __ATOMIC_SEQ_CST);
    }
    static inline void fastgw_cache_store(uint64_t *word, uint64_t value) {
        __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
    }
    static inline int fastgw_cache_swap(uint64_t *word, uint64_t seen, uint64_t wanted) {
        return __atomic_compare_exchange_n(word, &seen, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline void fastgw_cache_fence(void) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    static inline uint64_t fastgw_cache_coefficient(const char *text, size_t count) {
        uint64_t word = 0;
        memcpy(&word, text, count);
    #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        return word;
    }
    static inline uint64_t fastgw_cache_step(uint64_t value, uint64_t point, uint64_t coefficient) {
        const uint64_t prime = ((uint64_t)1 << 61) - 1;
        unsigned __int128 sum = (unsigned __int128)value * point + coefficient;
        uint64_t folded = (uint64_t)(sum & prime) + (uint64_t)(sum >> 61);
        return folded >= prime ? folded - prime : folded;
    }
    /* A polynomial modulo 2**61 - 1 at a secret point: two texts of n bytes have the same value with a probability
       below n / 2**61. */
    static inline uint64_t fastgw_cache_polynomial(const char *text, size_t length, uint64_t secret) {
        uint64_t value = length, point = secret % (((uint64_t)1 << 61) - 1);
        for (; length >= 7; text += 7, length -= 7)
            value = fastgw_cache_step(value, point, fastgw_cache_coefficient(text, 7));
        return length ? fastgw_cache_step(value, point, fastgw_cache_coefficient(text, length)) : value;
    }
    """
    uint64_t fastgw_cache_load(const uint64_t* word) nogil
    void fastgw_cache_store(uint64_t* word, uint64_t value) nogil
    int fastgw_cache_swap(uint64_t* word, uint64_t seen, uint64_t wanted) nogil
    void fastgw_cache_fence() nogil
    uint64_t fastgw_cache_polynomial(const char* text, size_t length, uint64_t secret) nogil

cdef enum:
    # Layout of `layout` and `segments`
    BUCKET = 16
    LEASE_BUCKET = 8
    CLASSES = 256
    PURGE_SEQUENCE = 64
    LEASE_EPOCH = 69
    COLUMNS = 88
    INSERTED = 0
    REMOVED = 1
    EVICTED_FOR_CAPACITY = 2
    EVICTED_FROM_INDEX = 3
    UNIT = 64
    FREE = 0
    OPEN = 1
    SEALED = 2
    GENERATION_MASK = 0x3FFF
    SMALL = 0
    MAIN = 1
    EPOCH_MASK = 0x7FF
    ENDS_MASK = 0x3FFFFFF
    OUTGROWN_TICKS = 32  # `OUTGROWN_S`
    TRIES = 32  # of an insertion, while other processes change the same bucket


cdef inline int64_t _segment_of(uint64_t location) noexcept nogil:
    return location >> 18 & 0xFFFF


def segment_of(uint64_t location):
    """Return the segment of a location or entry."""
    return _segment_of(location)


cdef inline uint64_t _location(uint64_t generation, int64_t segment, int64_t offset) noexcept nogil:
    return (generation & GENERATION_MASK) << 34 | <uint64_t> segment << 18 | <uint64_t> offset << 2 | 1


@cython.final
@cython.freelist(8)
cdef class OpenRecord:
    """A record in a segment that is pinned; `Cells.unpin` ends that. `at`: the first word of its header. `position`,
    `entry`: its entry in the index.
    """


cdef uint64_t _mix(Cells cells, uint64_t first, uint64_t second) noexcept nogil:
    """Return a hash of two words that clients cannot predict."""
    cdef uint64_t value = (first ^ cells._secrets[0]) * cells._secrets[1] + second * cells._secrets[2]
    value = (value ^ value >> 29) * cells._secrets[1]
    return value ^ value >> 32


cdef int _read(Cells cells, bytes key, Key* found) except -1:
    """Read a key."""
    if key is None or PyBytes_GET_SIZE(key) != 16:
        raise ValueError("a key has 16 bytes")
    memcpy(&found.high, PyBytes_AS_STRING(key), 8)
    memcpy(&found.low, PyBytes_AS_STRING(key) + 8, 8)
    found.hash = _mix(cells, found.high, found.low)
    return 0


cdef void _read_of(Cells cells, const uint64_t* record, Key* found) noexcept nogil:
    """Read the key of a record."""
    found.high, found.low = record[KEY_HIGH], record[KEY_LOW]
    found.hash = _mix(cells, found.high, found.low)


cdef uint64_t* _bucket(Cells cells, const Key* key) noexcept nogil:
    return cells._words + cells._entries + <int64_t> (key.hash >> 16 & cells._mask) * BUCKET


cdef uint64_t* _slot_of(Cells cells, const Key* key, uint64_t entry) noexcept nogil:
    """Return the word of the index with an entry; NULL: there is none."""
    cdef uint64_t* bucket = _bucket(cells, key)
    cdef int number
    for number in range(BUCKET):
        if fastgw_cache_load(bucket + number) == entry:
            return bucket + number
    return NULL


cdef int64_t _checked_position(Cells cells, int64_t position) except -1:
    if not 0 <= position < cells._view.len // 8:
        raise IndexError("a word outside of the memory")
    return position


cdef int _coldest(Cells cells, const uint64_t* bucket) noexcept nogil:
    """Return the number of the entry that a new one may replace: an empty or outdated one, or the coldest."""
    cdef int number, coldness, least = 2 * MOST_HITS, coldest = 0
    for number in range(BUCKET):
        if not bucket[number]:
            return number
    for number in range(BUCKET):
        coldness = _coldness(cells, bucket[number])
        if coldness < least:
            least, coldest = coldness, number
    return coldest


cdef int _coldness(Cells cells, uint64_t entry) noexcept nogil:
    """Return how often a record was found, or more if it grows; -1: it is not there."""
    cdef uint64_t* record = _there(cells, entry, False)
    if record is NULL:
        return -1
    return MOST_HITS + 1 if record[STATUS] == GROWING else <int> min(record[HITS], <uint64_t> MOST_HITS)


cdef bint _settle(Cells cells, const Key* key, uint64_t* slot, uint64_t entry) noexcept nogil:
    """Leave one of two entries that two processes have added for a key at the same time, the first one. False: it
    is the other one.
    """
    cdef uint64_t* other = _bucket(cells, key)
    cdef uint64_t* ends = other + BUCKET
    cdef uint64_t seen
    while other < ends:
        seen = fastgw_cache_load(other)
        if other == slot or not seen or seen >> 48 != key.hash >> 48:
            pass
        elif _opened(cells, seen, key) is not NULL:
            _unpin(cells, _segment_of(seen))
            if other < slot:
                cells._words[cells._column + REMOVED] += fastgw_cache_swap(slot, entry, 0)
                return False
            cells._words[cells._column + REMOVED] += fastgw_cache_swap(other, seen, 0)
        elif _may_be_of(cells, key, seen):
            # In a segment that another process recycles it may be kept, and would hide the new one then.
            if not fastgw_cache_swap(other, seen, 0):
                continue
            cells._words[cells._column + REMOVED] += 1
        other += 1
    return True


cdef bint _may_be_of(Cells cells, const Key* key, uint64_t entry) noexcept nogil:
    """Whether an entry has a record of this key, also in a segment that is being recycled: that may be kept, or the
    record moved, and then found. Without a pin: good enough to remove the entry, which does no harm.
    """
    cdef int64_t segment = _segment_of(entry), offset = entry >> 2 & 0xFFFF
    cdef uint64_t generation
    cdef uint64_t* record
    if not _is_sound(cells, entry):
        return False
    generation = fastgw_cache_load(cells._words + cells._states + segment) >> 16
    if generation & GENERATION_MASK != entry >> 34 & GENERATION_MASK:
        return True  # if it is moved within its segment, its entry changes last
    record = _at(cells, segment, offset)
    return (
        record[SEAL] == _seal(cells, generation, segment, offset, False)
        and record[KEY_HIGH] == key.high
        and record[KEY_LOW] == key.low
    )


cdef uint64_t _seal(Cells cells, uint64_t generation, int64_t segment, int64_t offset, bint is_chunk) noexcept nogil:
    """Return the first word of a record or chunk."""
    return _mix(cells, generation << 1 | is_chunk, <uint64_t> segment << 32 | <uint64_t> offset)


cdef uint64_t* _at(Cells cells, int64_t segment, int64_t offset) noexcept nogil:
    return cells._words + (cells._data + segment * cells._segment + offset * UNIT) // 8


cdef bint _is_sound(Cells cells, uint64_t location) noexcept nogil:
    """Whether the location is one that the memory has."""
    return (
        _segment_of(location) < cells._segments
        and <int64_t> (location >> 2 & 0xFFFF) * UNIT <= cells._segment - HEADER
    )


cdef uint64_t* _there(Cells cells, uint64_t location, bint is_chunk) noexcept nogil:
    """Return the record or chunk at a location; NULL: it is gone. Without a pin, what is read there is a hint."""
    cdef int64_t segment = _segment_of(location), offset = location >> 2 & 0xFFFF
    cdef uint64_t state, generation
    cdef uint64_t* record
    if not _is_sound(cells, location):
        return NULL
    state = fastgw_cache_load(cells._words + cells._states + segment)
    generation = state >> 16
    record = _at(cells, segment, offset)
    if (
        (state & 0xF != OPEN and state & 0xF != SEALED)
        or generation & GENERATION_MASK != location >> 34 & GENERATION_MASK
        or record[SEAL] != _seal(cells, generation, segment, offset, is_chunk)
    ):
        return NULL
    return record


cdef uint64_t* _opened(Cells cells, uint64_t entry, const Key* key) noexcept nogil:
    """Pin and return the record of an entry; NULL: it is outdated, or of another key. `key`: NULL for any."""
    cdef uint64_t* record
    if not _is_sound(cells, entry):
        return NULL
    _pin(cells, _segment_of(entry))
    record = _there(cells, entry, False)
    if record is NULL or (key is not NULL and (record[KEY_HIGH] != key.high or record[KEY_LOW] != key.low)):
        _unpin(cells, _segment_of(entry))
        return NULL
    return record


cdef OpenRecord _open(Cells cells, const uint64_t* record, const uint64_t* slot, uint64_t entry):
    cdef OpenRecord found = OpenRecord.__new__(OpenRecord)
    found.at, found.segment = record - cells._words, _segment_of(entry)
    found.position, found.entry = slot - cells._words, entry
    return found


cdef int64_t _body_of(Cells cells, const uint64_t* record) noexcept nogil:
    """Return the offset of the body from the start of a record."""
    cdef uint64_t parts = record[PARTS]
    return HEADER + <int64_t> (parts >> 48) + <int64_t> (parts >> 32 & 0xFFFF) + <int64_t> (parts << 32 >> 32)


cdef uint64_t* _checked_record(Cells cells, int64_t at) except NULL:
    if 8 * at < cells._data or 8 * at + HEADER > cells._view.len:
        raise ValueError("there is no record")
    if _body_of(cells, cells._words + at) > cells._view.len - 8 * at:
        raise ValueError("the record is damaged")
    return cells._words + at


cdef int64_t _checked_segment(Cells cells, int64_t segment) except -1:
    if not 0 <= segment < cells._segments:
        raise ValueError("there is no such segment")
    return segment


cdef void _pin(Cells cells, int64_t segment) noexcept nogil:
    cdef uint64_t* pin = cells._words + cells._column + cells._pins + segment
    fastgw_cache_store(pin, pin[0] + 1)
    fastgw_cache_fence()


cdef void _unpin(Cells cells, int64_t segment) noexcept nogil:
    cdef uint64_t* pin = cells._words + cells._column + cells._pins + segment
    fastgw_cache_store(pin, pin[0] - 1)


cdef uint64_t* _walked(Cells cells, int64_t segment, uint64_t generation, int64_t* offset, bint* is_chunk) noexcept nogil:
    """Return the record or chunk at an offset, which is set to that of the next one; NULL: there is none."""
    cdef uint64_t* record
    cdef uint64_t total
    if offset[0] * UNIT >= <int64_t> cells._words[cells._used + segment] or offset[0] * UNIT > cells._segment - UNIT:
        return NULL
    record = _at(cells, segment, offset[0])
    is_chunk[0] = record[SEAL] == _seal(cells, generation, segment, offset[0], True)
    if not is_chunk[0] and record[SEAL] != _seal(cells, generation, segment, offset[0], False):
        return NULL
    total = record[TOTAL]
    if not total or total > <uint64_t> (cells._segment - offset[0] * UNIT) or total % UNIT:
        return NULL
    offset[0] += <int64_t> total // UNIT
    return record


cdef bytes _image_of(Cells cells, uint64_t* record):
    """Return a record with its whole body, which may go on in chunks; None: it is too large to be moved, or a part
    of it is gone.
    """
    cdef int64_t count = _body_of(cells, record) + <int64_t> record[LENGTH]
    cdef int64_t filled = min(count, _body_of(cells, record) + <int64_t> record[CAPACITY]), part
    cdef uint64_t following = record[NEXT]
    cdef uint64_t* chunk
    cdef bytes image
    if not 0 < filled <= min(count, <int64_t> record[TOTAL]) or count > cells._segment // 2:
        return None
    image = PyBytes_FromStringAndSize(NULL, count)
    memcpy(PyBytes_AS_STRING(image), record, filled)
    while filled < count:
        chunk = _there(cells, following, True) if following else NULL
        if chunk is NULL:
            return None
        part = min(count - filled, <int64_t> chunk[CHUNK_CAPACITY])
        if not 0 < part <= cells._segment - CHUNK_HEADER - <int64_t> (following >> 2 & 0xFFFF) * UNIT:
            return None
        memcpy(PyBytes_AS_STRING(image) + filled, <char*> chunk + CHUNK_HEADER, part)
        filled, following = filled + part, chunk[CHUNK_NEXT]
    return None if cells.missing(record - cells._words) else image


cdef uint64_t* _lease_bucket(Cells cells, const Key* key) noexcept nogil:
    return cells._words + cells._leases + <int64_t> (key.hash >> 12 & cells._lease_mask) * LEASE_BUCKET


cdef bint _is_lease_of(Cells cells, uint64_t word, const Key* key, uint64_t epoch, uint64_t now) noexcept nogil:
    """Whether a word is a live lease or mark of a key."""
    return word >> 46 == key.hash >> 46 and (word >> 26 & EPOCH_MASK) == epoch and _is_live(cells, word, now)


cdef int64_t _refusal_of(Cells cells, uint64_t word, uint64_t now) noexcept nogil:
    """Return why the lease of a key with this live word cannot be taken."""
    if not word >> 37 & 1:
        return IN_FLIGHT
    return OUTGROWN if ((word & ENDS_MASK) - now) & ENDS_MASK > OUTGROWN_TICKS else UNCACHEABLE


cdef bint _is_live(Cells cells, uint64_t word, uint64_t now) noexcept nogil:
    cdef uint64_t left = ((word & ENDS_MASK) - now) & ENDS_MASK
    return word != 0 and 0 < left and left <= ENDS_MASK >> 1


@cython.no_gc_clear  # it lets go of the bytes before their owner
cdef class Cells:
    """The memory of a store, for one process. Positions are in words. `index`: of its column."""

    def __cinit__(self, memory not None, int64_t index):
        PyObject_GetBuffer(memory.data, &self._view, PyBUF_CONTIG)
        self.memory = memory
        parts = memory.geometry
        cdef int64_t words = self._view.len // 8
        cdef int number
        cdef int64_t cells = parts.cells, ghost_count = parts.ghost_count, lease_count = parts.lease_count
        self._words = <uint64_t*> self._view.buf
        for number in range(4):
            self._secrets[number] = memory.secrets[number]
        self._entries, self._ghosts, self._leases = parts.entries, parts.ghosts, parts.leases
        self._states, self._used, self._orders, self._data = parts.states, parts.used, parts.orders, parts.data
        self._segment, self._segments = parts.segment, parts.segments
        self._columns, self._column_words = parts.columns, parts.column
        self._column, self._owner = memory.column(index), index + 1
        self._pins, self._watches = memory.pins(index) - self._column, memory.watches(index) - self._column
        self._events = memory.events(index) - self._column
        self._mask, self._ghost_mask = cells // BUCKET - 1, ghost_count - 1
        self._lease_mask = lease_count // LEASE_BUCKET - 1
        if <size_t> self._view.buf % 64 or self._data + self._segment * self._segments > self._view.len:
            raise ValueError("the memory is not that of a store")
        if (
            self._entries + cells > words or self._ghosts + ghost_count > words or self._leases + lease_count > words
            or self._states + self._segments > words or self._used + self._segments > words
            or self._orders + self._segments > words
            or self._column + self._pins + self._segments > words
        ):
            raise ValueError("the memory is not that of a store")

    def __dealloc__(self):
        PyBuffer_Release(&self._view)

    # keys

    cpdef uint64_t hash(self, bytes key) except? 0:
        """Return the hash of a key."""
        cdef Key read
        _read(self, key, &read)
        return read.hash

    cpdef uint64_t key_tag(self, bytes key) except? 0:
        """Return the hash by which a purge of a key finds its objects, as those of a tag."""
        cdef Key read
        _read(self, key, &read)
        return _mix(self, read.low, read.high)

    cpdef uint64_t name_tag(self, bytes tag) except? 0:
        """Return the hash by which a purge of a tag finds its objects."""
        if tag is None:
            raise TypeError("a tag is bytes")
        return _mix(self, fastgw_cache_polynomial(PyBytes_AS_STRING(tag), PyBytes_GET_SIZE(tag), self._secrets[3]), 0)

    cpdef uint64_t purge_sequence(self) noexcept:
        """Return the number of the last purge."""
        return fastgw_cache_load(self._words + PURGE_SEQUENCE)

    # the index

    cpdef uint64_t entry(self, bytes key, uint64_t location) except? 0:
        """Return the entry for a record of this key."""
        cdef Key read
        _read(self, key, &read)
        return read.hash >> 48 << 48 | location

    cpdef int64_t position(self, bytes key, uint64_t entry) except -2:
        """Return the position of an entry of this key; -1: there is none."""
        cdef Key read
        cdef uint64_t* slot
        _read(self, key, &read)
        slot = _slot_of(self, &read, entry)
        return -1 if slot is NULL else slot - self._words

    def entries(self):
        """Yield all entries with their positions, by bucket."""
        cdef int64_t at
        cdef int number
        for at in range(self._entries, self._entries + <int64_t> (self._mask + 1) * BUCKET, BUCKET):
            found = []
            for number in range(BUCKET):
                if self._words[at + number]:
                    found.append((at + number, self._words[at + number]))
            yield found

    cpdef bint holds(self, int64_t position, uint64_t value) except -1:
        """Whether a word has this value."""
        return fastgw_cache_load(self._words + _checked_position(self, position)) == value

    cpdef bint replace(self, int64_t position, uint64_t seen, uint64_t wanted) except -1:
        """Replace an entry by another one. False: it was changed meanwhile. Callers count what they remove."""
        return fastgw_cache_swap(self._words + _checked_position(self, position), seen, wanted)

    cpdef bint drop(self, int64_t position, uint64_t entry) except -1:
        """Remove an entry from the index, and count that. False: it was changed meanwhile."""
        cdef bint is_removed = self.replace(position, entry, 0)
        self._words[self._column + REMOVED] += is_removed
        return is_removed

    cpdef bint insert(self, bytes key, uint64_t location) except -1:
        """Add a record to the index, in place of another one of its key: see `replaced`. False: others were faster."""
        cdef Key read
        cdef uint64_t* bucket
        cdef uint64_t entries[BUCKET]
        cdef uint64_t entry
        cdef int number, attempt
        cdef bint is_eviction
        _read(self, key, &read)
        bucket, entry = _bucket(self, &read), read.hash >> 48 << 48 | location
        for attempt in range(TRIES):
            for number in range(BUCKET):
                entries[number] = fastgw_cache_load(bucket + number)
            for number in range(BUCKET):
                if entries[number] >> 48 == read.hash >> 48 and _opened(self, entries[number], &read) is not NULL:
                    _unpin(self, _segment_of(entries[number]))
                    break
            else:
                number = _coldest(self, entries)
                is_eviction = entries[number] != 0 and _coldness(self, entries[number]) >= 0
                if not fastgw_cache_swap(bucket + number, entries[number], entry):
                    continue
                self._words[self._column + INSERTED] += 1
                self._words[self._column + REMOVED] += is_eviction
                self._words[self._column + EVICTED_FROM_INDEX] += is_eviction
                self.replaced = 0
                return _settle(self, &read, bucket + number, entry)
            if fastgw_cache_swap(bucket + number, entries[number], entry):
                self.replaced = entries[number]
                return True
        return False

    cpdef bint remove(self, bytes key) except -1:
        """Remove all entries of a key from the index, also those of a segment that is being recycled, and count that.
        False: there were none.
        """
        cdef Key read
        cdef uint64_t* slot
        cdef uint64_t* ends
        cdef uint64_t seen
        cdef bint is_removed = False
        _read(self, key, &read)
        slot = _bucket(self, &read)
        ends = slot + BUCKET
        while slot < ends:
            seen = fastgw_cache_load(slot)
            if seen and seen >> 48 == read.hash >> 48 and _may_be_of(self, &read, seen):
                # Again, if another process has changed it meanwhile: what it has put there may be the same object with
                # another head or in another segment, or the former one, if this one breaks off.
                if not fastgw_cache_swap(slot, seen, 0):
                    continue
                self._words[self._column + REMOVED] += 1
                is_removed = True
            slot += 1
        return is_removed

    cpdef bint is_remembered(self, bytes key) except -1:
        """Whether an object of this key was evicted lately: it is asked for more often than its eviction assumed."""
        cdef Key read
        _read(self, key, &read)
        return self._words[self._ghosts + <int64_t> (read.hash >> 20 & self._ghost_mask)] == read.hash

    def remember(self, bytes key):
        """Remember that an object of this key was evicted without having been asked for again."""
        cdef Key read
        _read(self, key, &read)
        self._words[self._ghosts + <int64_t> (read.hash >> 20 & self._ghost_mask)] = read.hash

    # records

    cpdef OpenRecord open(self, bytes key):
        """Pin and return the record of a key; None: there is none."""
        cdef Key read
        cdef uint64_t* bucket
        cdef uint64_t* record
        cdef uint64_t entry
        cdef int number
        _read(self, key, &read)
        bucket = _bucket(self, &read)
        for number in range(BUCKET):
            entry = fastgw_cache_load(bucket + number)
            if entry and entry >> 48 == read.hash >> 48:
                record = _opened(self, entry, &read)
                if record is not NULL:
                    return _open(self, record, bucket + number, entry)
        return None

    cpdef OpenRecord open_entry(self, bytes key, int64_t position, uint64_t entry):
        """Pin and return the record of an entry; None: it is outdated, or of another key. `key`: None for any."""
        cdef Key read
        cdef uint64_t* record
        if key is not None:
            _read(self, key, &read)
        record = _opened(self, entry, NULL if key is None else &read)
        return None if record is NULL else _open(self, record, self._words + position, entry)

    def word_at(self, uint64_t location):
        """Return the first word at a location, of a chunk whose record is pinned: also while a process that looks for
        space has its segment in hand.
        """
        if not _is_sound(self, location):
            raise ValueError("there is no such location")
        return _at(self, _segment_of(location), location >> 2 & 0xFFFF) - self._words

    cpdef int missing(self, int64_t at) except -1:
        """Return whether a chunk of a pinned record is missing. 0: all are there, as long as it is pinned; 1: a process
        that looks for space has one in hand, and may leave it as it was; 2: one was overwritten.
        """
        cdef uint64_t following = fastgw_cache_load(_checked_record(self, at) + NEXT), state
        cdef uint64_t* chunk
        while following:
            chunk = _there(self, following, True)
            if chunk is NULL:
                if not _is_sound(self, following):
                    return 2
                state = fastgw_cache_load(self._words + self._states + _segment_of(following))
                return 1 if state >> 16 & GENERATION_MASK == following >> 34 & GENERATION_MASK else 2
            following = fastgw_cache_load(chunk + CHUNK_NEXT)
        return 0

    cpdef bint is_current(self, int64_t at) except -1:
        """Whether a pinned record was checked since the last purge, and has no chunks."""
        cdef uint64_t* record = _checked_record(self, at)
        return (
            fastgw_cache_load(record + CHECKED) >> 1 == fastgw_cache_load(self._words + PURGE_SEQUENCE)
            and not fastgw_cache_load(record + NEXT)
        )

    cpdef int count_found(self, int64_t at) except -1:
        """Count that a pinned record was found."""
        cdef uint64_t* record = _checked_record(self, at)
        if record[HITS] < MOST_HITS:
            record[HITS] += 1
        record[FOUND] += 1
        return 0

    def key(self, int64_t at):
        """Return the key of a record."""
        return PyBytes_FromStringAndSize(<char*> (_checked_record(self, at) + KEY_HIGH), 16)

    cpdef list tags(self, int64_t at):
        """Return the hashes of the tags of a record."""
        cdef uint64_t* record = _checked_record(self, at)
        cdef uint64_t number
        return [record[HEADER // 8 + number] for number in range((record[PARTS] >> 48) // 8)]

    cpdef bytes url(self, int64_t at):
        """Return the URL of a record, or what it has instead."""
        cdef uint64_t* record = _checked_record(self, at)
        cdef uint64_t parts = record[PARTS]
        return PyBytes_FromStringAndSize(<char*> record + HEADER + (parts >> 48), parts >> 32 & 0xFFFF)

    cpdef bytes head(self, int64_t at):
        """Return the head of a record."""
        cdef uint64_t* record = _checked_record(self, at)
        cdef uint64_t parts = record[PARTS]
        return PyBytes_FromStringAndSize(
            <char*> record + HEADER + (parts >> 48) + (parts >> 32 & 0xFFFF), parts & <uint64_t> 0xFFFFFFFF
        )

    def body_offset(self, int64_t at):
        """Return the offset of the body from the start of a record, in bytes."""
        return _body_of(self, _checked_record(self, at))

    cpdef uint64_t location(self, int64_t segment, int64_t offset) except? 0:
        """Return the location of what this process writes at an offset of a segment that it has open."""
        cdef uint64_t generation = self._words[self._states + _checked_segment(self, segment)] >> 16
        return _location(generation, segment, offset)

    cpdef int64_t write(self, bytes key, bytes head, bytes url, list tags, int64_t segment, int64_t offset,
                        int64_t total, int64_t size, uint64_t began, uint64_t checked, uint64_t date, int status,
                        bytes whole) except -1:
        """Write a record to reserved space, which is used and pinned then; return its first word.

        `total`: bytes of the space. `size`: of the body; -1: not known, or without space for all of it yet. `whole`:
        the body; None: it follows. `date`: microseconds.
        """
        cdef Key read
        cdef uint64_t* record
        cdef int64_t tag_bytes = 8 * len(tags), url_bytes = len(url), head_bytes = len(head)
        cdef int64_t body = HEADER + tag_bytes + url_bytes + head_bytes
        cdef int number
        cdef char* out
        _read(self, key, &read)
        if offset < 0 or total % UNIT or offset * UNIT + total > self._segment or (
            body + (0 if whole is None else PyBytes_GET_SIZE(whole)) > total
        ):
            raise ValueError("the record does not fit")
        record = _at(self, _checked_segment(self, segment), offset)
        memset(record, 0, HEADER)
        record[KEY_HIGH], record[KEY_LOW] = read.high, read.low
        record[TOTAL], record[CAPACITY] = total, total - body
        record[PARTS] = <uint64_t> tag_bytes << 48 | <uint64_t> url_bytes << 32 | <uint64_t> head_bytes
        record[BEGAN], record[CHECKED], record[DATE] = began, checked, date
        record[OWNER], record[STATUS], record[SIZE] = self._owner, status, size + 1
        for number in range(<int> len(tags)):
            record[HEADER // 8 + number] = tags[number]
        out = <char*> record + HEADER + tag_bytes
        memcpy(out, PyBytes_AS_STRING(url), url_bytes)
        memcpy(out + url_bytes, PyBytes_AS_STRING(head), head_bytes)
        if whole is not None:
            memcpy(out + url_bytes + head_bytes, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
            record[LENGTH] = record[CAPACITY] = PyBytes_GET_SIZE(whole)
        fastgw_cache_store(
            record + SEAL, _seal(self, self._words[self._states + segment] >> 16, segment, offset, False)
        )
        self.set_used(segment, offset * UNIT + total)
        _pin(self, segment)
        return record - self._words

    def write_chunk(self, uint64_t record, int64_t segment, int64_t offset, int64_t total):
        """Write an empty chunk of a record to reserved space, which is used then; return its first word. `record`: its
        location. `total`: bytes of the space.
        """
        cdef uint64_t* chunk
        if offset < 0 or total < CHUNK_HEADER or offset * UNIT + total > self._segment:
            raise ValueError("the chunk does not fit")
        chunk = _at(self, _checked_segment(self, segment), offset)
        chunk[CHUNK_RECORD], chunk[TOTAL], chunk[CHUNK_CAPACITY] = record, total, total - CHUNK_HEADER
        chunk[CHUNK_NEXT] = 0
        fastgw_cache_store(chunk + SEAL, _seal(self, self._words[self._states + segment] >> 16, segment, offset, True))
        self.set_used(segment, offset * UNIT + total)
        fastgw_cache_fence()
        return chunk - self._words

    def fill(self, int64_t position, int64_t free, data, Py_ssize_t begin):
        """Write the next bytes of a body whose record is pinned, from `begin` of `data` on; return how many fitted.
        `position`: first free byte in the memory; `free`: number of free bytes there.
        """
        cdef Py_buffer view
        cdef int64_t count
        if position < self._data or free < 0 or position + free > self._view.len:
            raise ValueError("there is no such space")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        count = max(0, min(free, view.len - begin)) if begin >= 0 else 0
        memcpy(<char*> self._words + position, <char*> view.buf + begin, count)
        PyBuffer_Release(&view)
        return count

    def grown(self, int64_t at, uint64_t length):
        """Let readers see so many bytes of the body of a record."""
        cdef uint64_t* record = _checked_record(self, at)
        fastgw_cache_fence()
        fastgw_cache_store(record + LENGTH, length)

    def completed(self, int64_t at, uint64_t length):
        """Let readers know that the body of a record is complete."""
        cdef uint64_t* record = _checked_record(self, at)
        record[SIZE] = length + 1
        fastgw_cache_fence()
        fastgw_cache_store(record + STATUS, COMPLETE)

    # segments

    def pin(self, int64_t segment):
        """Pin a segment, in which this process reads or writes records."""
        _pin(self, _checked_segment(self, segment))

    cpdef int unpin(self, int64_t segment) except -1:
        """Release a segment that this process has pinned."""
        _unpin(self, _checked_segment(self, segment))
        return 0

    cpdef int64_t used(self, int64_t segment) except -1:
        """Return the number of bytes of a segment in which there are records."""
        return self._words[self._used + _checked_segment(self, segment)]

    cpdef int set_used(self, int64_t segment, int64_t count) except -1:
        """Set the number of bytes in which there are records, of a segment that this process has open."""
        if not 0 <= count <= self._segment or count % UNIT:
            raise ValueError("a segment has no such part")
        fastgw_cache_store(self._words + self._used + _checked_segment(self, segment), count)
        return 0

    def walk(self, int64_t segment, uint64_t generation):
        """Return the records of a segment that does not change: location and first word."""
        cdef int64_t offset = 0, begins = 0
        cdef bint is_chunk = False
        cdef uint64_t* record
        found = []
        _checked_segment(self, segment)
        while True:
            begins = offset
            record = _walked(self, segment, generation, &offset, &is_chunk)
            if record is NULL:
                return found
            if not is_chunk:
                found.append((_location(generation, segment, begins), record - self._words))

    def next_free(self, int64_t begin):
        """Return the first free segment from this one on; -1: there is none."""
        cdef int64_t segment
        for segment in range(max(begin, 0), self._segments):
            if fastgw_cache_load(self._words + self._states + segment) & 0xF == FREE:
                return segment
        return -1

    def oldest(self, uint64_t until):
        """Return the oldest sealed segment of the queue that is to give space, with its state as a word; of the other
        queue, if that has none. `until`: segments that were sealed after this one (`ORDER`) do not count.
        """
        cdef int64_t segment, small = 0
        cdef int64_t found[2]
        cdef uint64_t word, order
        cdef uint64_t orders[2]
        cdef uint64_t words[2]
        cdef int queue
        found[SMALL] = found[MAIN] = -1
        for segment in range(self._segments):
            word = fastgw_cache_load(self._words + self._states + segment)
            if word & 0xF != SEALED:
                continue
            queue, order = word >> 4 & 1, self._words[self._orders + segment]
            small += queue == SMALL
            if order <= until and (found[queue] < 0 or order < orders[queue]):
                found[queue], orders[queue], words[queue] = segment, order, word
        queue = SMALL if (10 * small >= self._segments and found[SMALL] >= 0) or found[MAIN] < 0 else MAIN
        return None if found[queue] < 0 else (found[queue], words[queue])

    def survivors(self, int64_t segment, uint64_t generation, bint is_main):
        """Return the objects that are kept when a segment is recycled: entry, hits, and the record with its body. None:
        they are more than half of it.
        """
        cdef int64_t offset = 0, begins = 0, live = 0
        cdef bint is_chunk = False
        cdef uint64_t* record
        cdef uint64_t* popular
        cdef uint64_t entry
        cdef Key key
        _checked_segment(self, segment)
        found = []
        while True:
            begins = offset
            record = _walked(self, segment, generation, &offset, &is_chunk)
            if record is NULL:
                return found
            if is_chunk:
                popular = _there(self, record[CHUNK_RECORD], False)
                if popular is not NULL and popular[HITS]:
                    live += <int64_t> record[TOTAL]
            elif record[HITS] and record[STATUS] == COMPLETE:
                _read_of(self, record, &key)
                entry = key.hash >> 48 << 48 | _location(generation, segment, begins)
                if _slot_of(self, &key, entry) is not NULL:
                    live += <int64_t> record[TOTAL]
                    image = _image_of(self, record)
                    if image is not None:
                        found.append((entry, record[HITS] - 1 if is_main else 0, image))
            if 2 * live > self._segment:
                return None

    def retain(self, int64_t segment, uint64_t generation, bint is_main):
        """Lower the hits of the records of a segment, which gets another turn in the main queue; see `Space`."""
        cdef int64_t offset = 0
        cdef bint is_chunk = False
        cdef uint64_t* record
        _checked_segment(self, segment)
        while True:
            record = _walked(self, segment, generation, &offset, &is_chunk)
            if record is NULL:
                return
            if not is_chunk:
                record[HITS] = record[HITS] - 1 if is_main and record[HITS] else 0

    def move(self, bytes image not None, uint64_t entry, uint64_t hits, int64_t segment, int64_t offset, int64_t total):
        """Copy a whole record to reserved space, which is used then; its entry points to the copy."""
        cdef int64_t count = PyBytes_GET_SIZE(image)
        cdef uint64_t generation
        cdef Key key
        cdef uint64_t* record
        cdef uint64_t* slot
        if count < HEADER or offset < 0 or count > total or offset * UNIT + total > self._segment:
            raise ValueError("the record does not fit")
        record = _at(self, _checked_segment(self, segment), offset)
        memcpy(record, PyBytes_AS_STRING(image), count)
        generation = fastgw_cache_load(self._words + self._states + segment) >> 16
        record[TOTAL], record[CAPACITY], record[NEXT] = total, count - _body_of(self, record), 0
        record[HITS] = hits
        fastgw_cache_store(record + SEAL, _seal(self, generation, segment, offset, False))
        self.set_used(segment, offset * UNIT + total)
        _read_of(self, record, &key)
        slot = _slot_of(self, &key, entry)
        if slot is not NULL:
            fastgw_cache_swap(slot, entry, key.hash >> 48 << 48 | _location(generation, segment, offset))

    def evict(self, int64_t segment, uint64_t generation, bint is_small, frozenset kept not None):
        """Remove the entries of all records of a segment from the index, but for those that are kept."""
        cdef int64_t offset = 0, begins = 0
        cdef bint is_chunk = False
        cdef bint keeps = len(kept) > 0
        cdef Key key
        cdef uint64_t* record
        cdef uint64_t* slot
        cdef uint64_t entry
        _checked_segment(self, segment)
        while True:
            begins = offset
            record = _walked(self, segment, generation, &offset, &is_chunk)
            if record is NULL:
                return
            if is_chunk:
                continue
            _read_of(self, record, &key)
            entry = key.hash >> 48 << 48 | _location(generation, segment, begins)
            slot = _slot_of(self, &key, entry)
            if slot is NULL or (keeps and entry in kept) or not fastgw_cache_swap(slot, entry, 0):
                continue
            self._words[self._column + REMOVED] += 1
            self._words[self._column + EVICTED_FOR_CAPACITY] += 1
            if is_small and not record[HITS]:
                self._words[self._ghosts + <int64_t> (key.hash >> 20 & self._ghost_mask)] = key.hash

    # leases and events

    cpdef int64_t take_lease(self, bytes key, uint64_t now, uint64_t ticks, bint ends_mark) except? -2:
        """Return the position of the lease of a key, whose word is `lease_word`; or `IN_FLIGHT`, `UNCACHEABLE`,
        `OUTGROWN`, `NO_SLOT`. `now`, `ticks`: the present instant, and how long it holds at most, in `TICKS`.
        `ends_mark`: whether it takes the place of a mark of the key.
        """
        cdef Key wanted
        cdef uint64_t* cells
        cdef uint64_t word, seen, epoch
        cdef int number, free
        _read(self, key, &wanted)
        cells = _lease_bucket(self, &wanted)
        for _ in range(LEASE_BUCKET):  # again, if another process has changed the cell meanwhile
            free, seen = -1, 0
            epoch = fastgw_cache_load(self._words + LEASE_EPOCH) & EPOCH_MASK
            for number in range(LEASE_BUCKET):
                word = fastgw_cache_load(cells + number)
                if _is_lease_of(self, word, &wanted, epoch, now):
                    if not ends_mark or not word >> 37 & 1:
                        return _refusal_of(self, word, now)
                    free, seen = number, word
                elif free < 0 and not _is_live(self, word, now):
                    free, seen = number, word
            if free < 0:
                return NO_SLOT
            self.lease_word = wanted.hash >> 46 << 46 | self._owner << 38 | epoch << 26 | (now + ticks & ENDS_MASK)
            if not fastgw_cache_swap(cells + free, seen, self.lease_word):
                continue
            # Another process may have taken one of the same key at the same time, in a cell before: this one gives way.
            for number in range(free):
                word = fastgw_cache_load(cells + number)
                if _is_lease_of(self, word, &wanted, epoch, now):
                    fastgw_cache_swap(cells + free, self.lease_word, 0)
                    return _refusal_of(self, word, now)
            return cells + free - self._words
        return NO_SLOT

    cpdef int end_lease(self, int64_t at, uint64_t word, uint64_t now, uint64_t ticks) except -1:
        """End a lease, with a mark for so many ticks, unless another process has taken it."""
        cdef uint64_t mark = 0
        cdef uint64_t epoch = fastgw_cache_load(self._words + LEASE_EPOCH) & EPOCH_MASK
        _checked_position(self, at)
        if ticks and (word >> 26 & EPOCH_MASK) == epoch:
            mark = word >> 46 << 46 | self._owner << 38 | <uint64_t> 1 << 37 | epoch << 26 | (now + ticks & ENDS_MASK)
        fastgw_cache_swap(self._words + at, word, mark)
        return 0

    def end_leases(self):
        """End all leases of this process, which is dead."""
        cdef int64_t at
        cdef uint64_t word
        for at in range(self._leases, self._leases + <int64_t> (self._lease_mask + 1) * LEASE_BUCKET):
            word = fastgw_cache_load(self._words + at)
            if word >> 38 & 0xFF == self._owner and not word >> 37 & 1:
                fastgw_cache_swap(self._words + at, word, 0)

    cpdef bint report(self, bytes key) except -1:
        """Count an event of a key; return whether a process watches its class."""
        cdef Key read
        cdef int64_t number, class_
        cdef uint64_t* event
        _read(self, key, &read)
        class_ = read.hash % CLASSES
        event = self._words + self._column + self._events + class_
        fastgw_cache_store(event, event[0] + 1)
        fastgw_cache_fence()
        for number in range(<int64_t> fastgw_cache_load(self._words + COLUMNS)):
            if fastgw_cache_load(self._words + self._columns + number * self._column_words + self._watches + class_):
                return True
        return False
