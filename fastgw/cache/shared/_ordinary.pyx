# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Ordinary cases of a shared store: an object is found, fetched and stored, and nothing else happens.

Other cases, such as a purge in between, a full segment or bucket, or a second record of the same key, are left to
`ObjectIndex`, `Segments`, `Records`, `SharedLease` and `SharedWriter`, which read and write the same words in the same
order: then nothing has been changed, unless a method says otherwise.
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBuffer_Release, PyObject_GetBuffer
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
    /* A polynomial modulo 2**61 - 1, as in `Purges.hash`. */
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
    # Layout of `layout`, `segments`, `records` and `leases`
    BUCKET = 16
    LEASE_BUCKET = 8
    CLASSES = 256
    PURGE_SEQUENCE = 64
    LEASE_EPOCH = 69
    COLUMNS = 88
    INSERTED = 0
    REMOVED = 1
    EVICTED_FOR_CAPACITY = 2
    UNIT = 64
    HEADER = 128
    FREE = 0
    OPEN = 1
    SEALED = 2
    MOST_SEALED = 16
    GENERATION_MASK = 0x3FFF
    SEAL = 0
    KEY_HIGH = 1
    KEY_LOW = 2
    TOTAL = 3
    PARTS = 4
    LENGTH = 5
    STATUS = 6
    SIZE = 7
    BEGAN = 8
    CHECKED = 9
    DATE = 10
    HITS = 11
    CAPACITY = 12
    NEXT = 13
    OWNER = 14
    FOUND = 15
    CHUNK_RECORD = 1
    MOST_HITS = 3
    COMPLETE = 2
    SMALL = 0
    MAIN = 1
    FIRST_PART = 4096
    EPOCH_MASK = 0x7FF
    ENDS_MASK = 0x3FFFFFF
    OUTGROWN_TICKS = 32  # `OUTGROWN_S`
    # Results
    _NO_SPACE = -6
    MISS = -1
    NOT_ORDINARY = -2
    IN_FLIGHT = -1
    UNCACHEABLE = -3
    NO_SLOT = -4
    OUTGROWN = -5

NO_SPACE = _NO_SPACE


@cython.final
@cython.no_gc_clear  # it lets go of the bytes before their owner
cdef class Ordinary:
    """The memory of a store, for one process. Positions are in words. `column`: the first word of its column; `pins`,
    `watches` and `events`: the first of these words in a column, counted from there.
    """

    def __cinit__(self, memory not None, secrets not None, parts not None, int64_t column, int64_t owner,
                  int64_t pins, int64_t watches, int64_t events):
        PyObject_GetBuffer(memory.data, &self._view, PyBUF_CONTIG)
        self.memory = memory
        cdef int64_t words = self._view.len // 8
        cdef int number
        cdef int64_t cells = parts.cells, ghost_count = parts.ghost_count, lease_count = parts.lease_count
        self._words = <uint64_t*> self._view.buf
        for number in range(SECRETS):
            self._secrets[number] = secrets[number]
        self._entries, self._ghosts, self._leases = parts.entries, parts.ghosts, parts.leases
        self._states, self._used, self._orders, self._data = parts.states, parts.used, parts.orders, parts.data
        self._segment, self._segments = parts.segment, parts.segments
        self._columns, self._column_words = parts.columns, parts.column
        self._column, self._owner = column, owner
        self._pins, self._watches, self._events = pins, watches, events
        self._mask, self._ghost_mask = cells // BUCKET - 1, ghost_count - 1
        self._lease_mask = lease_count // LEASE_BUCKET - 1
        if <size_t> self._view.buf % 64 or self._data + self._segment * self._segments > self._view.len:
            raise ValueError("the memory is not that of a store")
        if (
            self._entries + cells > words or self._ghosts + ghost_count > words or self._leases + lease_count > words
            or self._states + self._segments > words or self._used + self._segments > words
            or self._orders + self._segments > words
            or column + pins + self._segments > words
        ):
            raise ValueError("the memory is not that of a store")

    def __dealloc__(self):
        PyBuffer_Release(&self._view)

    cdef uint64_t _mix(self, uint64_t first, uint64_t second) noexcept nogil:
        cdef uint64_t value = (first ^ self._secrets[0]) * self._secrets[1] + second * self._secrets[2]
        value = (value ^ value >> 29) * self._secrets[1]
        return value ^ value >> 32

    cdef bint _read(self, bytes key, Key* found) noexcept:
        """Read a key. False: it has another length."""
        if PyBytes_GET_SIZE(key) != 16:
            return False
        memcpy(&found.high, PyBytes_AS_STRING(key), 8)
        memcpy(&found.low, PyBytes_AS_STRING(key) + 8, 8)
        found.hash = self._mix(found.high, found.low)
        return True

    cdef uint64_t* _bucket(self, const Key* key) noexcept nogil:
        return self._words + self._entries + <int64_t> (key.hash >> 16 & self._mask) * BUCKET

    cdef uint64_t* _pin(self, int64_t segment) noexcept nogil:
        cdef uint64_t* pin = self._words + self._column + self._pins + segment
        fastgw_cache_store(pin, pin[0] + 1)
        fastgw_cache_fence()
        return pin

    cdef uint64_t* _opened(self, uint64_t entry, const Key* key, uint64_t** pin) noexcept nogil:
        """Pin and return the record of an entry; NULL: it is outdated, or of another key."""
        cdef int64_t segment = entry >> 18 & 0xFFFF, offset = entry >> 2 & 0xFFFF
        cdef uint64_t state, generation
        cdef uint64_t* record
        if segment >= self._segments or offset * UNIT > self._segment - HEADER:
            return NULL
        pin[0] = self._pin(segment)
        state = fastgw_cache_load(self._words + self._states + segment)
        generation = state >> 16
        record = self._words + (self._data + segment * self._segment + offset * UNIT) // 8
        if (
            (state & 0xF != OPEN and state & 0xF != SEALED)
            or (generation & GENERATION_MASK) != (entry >> 34 & GENERATION_MASK)
            or record[SEAL] != self._mix(generation << 1, <uint64_t> segment << 32 | <uint64_t> offset)
            or record[KEY_HIGH] != key.high
            or record[KEY_LOW] != key.low
        ):
            fastgw_cache_store(pin[0], pin[0][0] - 1)
            return NULL
        return record

    cpdef bint holds(self, int64_t position, uint64_t value) except -1:
        """Whether a word has this value."""
        if not 0 <= position < self._view.len // 8:
            raise IndexError("a word outside of the memory")
        return fastgw_cache_load(self._words + position) == value

    cpdef bint count_found(self, bytes key, uint64_t entry, uint64_t times) except -1:
        """Count an object as found so many times, by its entry. False: this is not an ordinary case."""
        cdef Key wanted
        cdef uint64_t* pin
        cdef uint64_t* record
        cdef bint ordinary
        if not self._read(key, &wanted):
            return False
        record = self._opened(entry, &wanted, &pin)
        if record is NULL:
            return False
        ordinary = (
            fastgw_cache_load(record + CHECKED) >> 1 == fastgw_cache_load(self._words + PURGE_SEQUENCE)
            and not fastgw_cache_load(record + NEXT)
        )
        if ordinary:
            if record[HITS] < MOST_HITS:
                record[HITS] += 1
            record[FOUND] += times
        fastgw_cache_store(pin, pin[0] - 1)
        return ordinary

    cpdef uint64_t key_tag(self, bytes key) except? 0:
        """Return the hash of a key for purges, `Purges.hash`. Call it with keys of 16 bytes only."""
        cdef Key read
        if not self._read(key, &read):
            raise ValueError("a key has 16 bytes")
        return self._mix(read.low, read.high)

    cpdef uint64_t name_tag(self, bytes tag) except? 0:
        """Return the hash of a tag for purges, `Purges.hash`."""
        if tag is None:
            raise TypeError("a tag is bytes")
        return self._mix(
            fastgw_cache_polynomial(PyBytes_AS_STRING(tag), PyBytes_GET_SIZE(tag), self._secrets[SECRETS - 1]), 0
        )

    cpdef int64_t find(self, bytes key) except? -2:
        """Return the first word of the valid record of a key, pinned; or `MISS`, or `NOT_ORDINARY`."""
        cdef Key wanted
        cdef uint64_t* bucket
        cdef uint64_t* record
        cdef uint64_t* pin
        cdef uint64_t entry
        cdef int number
        if not self._read(key, &wanted):
            return NOT_ORDINARY
        bucket = self._bucket(&wanted)
        for number in range(BUCKET):
            entry = fastgw_cache_load(bucket + number)
            if not entry or entry >> 48 != wanted.hash >> 48:
                continue
            record = self._opened(entry, &wanted, &pin)
            if record is NULL:
                return NOT_ORDINARY
            if (
                fastgw_cache_load(record + CHECKED) >> 1 != fastgw_cache_load(self._words + PURGE_SEQUENCE)
                or fastgw_cache_load(record + NEXT)
            ):
                fastgw_cache_store(pin, pin[0] - 1)
                return NOT_ORDINARY
            if record[HITS] < MOST_HITS:
                record[HITS] += 1
            record[FOUND] += 1
            return record - self._words
        return MISS

    cpdef uint64_t purge_sequence(self) noexcept:
        return fastgw_cache_load(self._words + PURGE_SEQUENCE)

    # leases

    cpdef int64_t take_lease(self, bytes key, uint64_t now, uint64_t ticks) except? -2:
        """Return the position of the lease of a key, whose word is `lease_word`; or `IN_FLIGHT`, `UNCACHEABLE`,
        `OUTGROWN`, `NO_SLOT`. `now`, `ticks`: as in `Leases`. Call it with keys of 16 bytes only.
        """
        cdef Key wanted
        cdef uint64_t* cells
        cdef uint64_t word, seen, epoch
        cdef int number, free
        if not self._read(key, &wanted):
            raise ValueError("a key has 16 bytes")
        cells = self._words + self._leases + <int64_t> (wanted.hash >> 12 & self._lease_mask) * LEASE_BUCKET
        for _ in range(LEASE_BUCKET):  # again, if another process has changed the cell meanwhile
            free, seen = -1, 0
            epoch = fastgw_cache_load(self._words + LEASE_EPOCH) & EPOCH_MASK
            for number in range(LEASE_BUCKET):
                word = fastgw_cache_load(cells + number)
                if self._is_of(word, &wanted, epoch, now):
                    return self._refusal_of(word, now)
                if free < 0 and not self._is_live(word, now):
                    free, seen = number, word
            if free < 0:
                return NO_SLOT
            self.lease_word = wanted.hash >> 46 << 46 | self._owner << 38 | epoch << 26 | (now + ticks & ENDS_MASK)
            if not fastgw_cache_swap(cells + free, seen, self.lease_word):
                continue
            # Another process may have taken one of the same key at the same time, in a cell before: this one gives way.
            for number in range(free):
                word = fastgw_cache_load(cells + number)
                if self._is_of(word, &wanted, epoch, now):
                    fastgw_cache_swap(cells + free, self.lease_word, 0)
                    return self._refusal_of(word, now)
            return cells + free - self._words
        return NO_SLOT

    cdef bint _is_of(self, uint64_t word, const Key* key, uint64_t epoch, uint64_t now) noexcept nogil:
        """Whether a word is a live lease or mark of a key."""
        return word >> 46 == key.hash >> 46 and (word >> 26 & EPOCH_MASK) == epoch and self._is_live(word, now)

    cdef int64_t _refusal_of(self, uint64_t word, uint64_t now) noexcept nogil:
        """Return why the lease of a key with this live word cannot be taken."""
        if not word >> 37 & 1:
            return IN_FLIGHT
        return OUTGROWN if ((word & ENDS_MASK) - now) & ENDS_MASK > OUTGROWN_TICKS else UNCACHEABLE

    cdef bint _is_live(self, uint64_t word, uint64_t now) noexcept nogil:
        cdef uint64_t left = ((word & ENDS_MASK) - now) & ENDS_MASK
        return word != 0 and 0 < left and left <= ENDS_MASK >> 1

    cpdef int end_lease(self, int64_t at, uint64_t word, uint64_t now, uint64_t ticks) except -1:
        """End a lease, with a mark for so many ticks, unless another process has taken it."""
        cdef uint64_t mark = 0
        cdef uint64_t epoch = fastgw_cache_load(self._words + LEASE_EPOCH) & EPOCH_MASK
        if not 0 <= at < self._view.len // 8:
            raise ValueError("there is no lease")
        if ticks and (word >> 26 & EPOCH_MASK) == epoch:
            mark = word >> 46 << 46 | self._owner << 38 | <uint64_t> 1 << 37 | epoch << 26 | (now + ticks & ENDS_MASK)
        fastgw_cache_swap(self._words + at, word, mark)
        return 0

    cpdef bint report(self, bytes key) except -1:
        """Count an event of a key; return whether a process watches its class. Call it with keys of 16 bytes only."""
        cdef Key read
        cdef int64_t number, class_
        cdef uint64_t* event
        if not self._read(key, &read):
            raise ValueError("a key has 16 bytes")
        class_ = read.hash % CLASSES
        event = self._words + self._column + self._events + class_
        fastgw_cache_store(event, event[0] + 1)
        fastgw_cache_fence()
        for number in range(<int64_t> fastgw_cache_load(self._words + COLUMNS)):
            if fastgw_cache_load(self._words + self._columns + number * self._column_words + self._watches + class_):
                return True
        return False

    # records

    cpdef int64_t write(self, bytes key, bytes head, bytes url, list tags, int64_t size, uint64_t began, uint64_t date,
                        int status, int64_t small, int64_t main, bytes whole) except? -2:
        """Write a record, pin its segment, and add it to the index; return its first word.

        `size`: of the body; -1: not known. `whole`: its body; None: it follows. `date`: microseconds. `small`, `main`:
        the open segment of each queue; -1: there is none. `NO_SPACE`: another segment is to be opened for `queue`,
        with `total` bytes. `NOT_ORDINARY`: this is left to the reference. With both of them nothing was written.
        Otherwise see `is_inserted`, `is_disputed` and `replaced`.
        """
        cdef Key read
        cdef Key* wanted = &read
        cdef Where where
        cdef uint64_t* bucket
        cdef uint64_t* record
        cdef uint64_t* used
        cdef uint64_t* pin
        cdef uint64_t* before = NULL
        cdef uint64_t entry, seen = 0, state
        cdef int64_t total, body, tag_bytes = 8 * len(tags), url_bytes = PyBytes_GET_SIZE(url)
        cdef int64_t head_bytes = PyBytes_GET_SIZE(head)
        cdef int number, slot = -1
        cdef char* out
        if not self._read(key, wanted) or (whole is not None and PyBytes_GET_SIZE(whole) != size):
            return NOT_ORDINARY
        if fastgw_cache_load(self._words + PURGE_SEQUENCE) != began:
            return NOT_ORDINARY
        body = HEADER + tag_bytes + url_bytes + head_bytes
        total = (body + (size if size >= 0 else FIRST_PART) + UNIT - 1) // UNIT * UNIT
        self.queue = SMALL
        if self._words[self._ghosts + <int64_t> (wanted.hash >> 20 & self._ghost_mask)] == wanted.hash:
            self.queue = MAIN
        self.total = total
        where.segment = main if self.queue == MAIN else small
        if where.segment < 0:
            return _NO_SPACE
        if where.segment >= self._segments:
            return NOT_ORDINARY
        used = self._words + self._used + where.segment
        if used[0] % UNIT:
            return NOT_ORDINARY
        if <int64_t> used[0] + total > self._segment:
            return _NO_SPACE
        bucket = self._bucket(wanted)
        for number in range(BUCKET):
            entry = fastgw_cache_load(bucket + number)
            if not entry:
                if slot < 0 and before is NULL:
                    slot, seen = number, 0
            elif entry >> 48 == wanted.hash >> 48 and before is NULL:
                before = self._opened(entry, wanted, &pin)
                if before is not NULL:
                    fastgw_cache_store(pin, pin[0] - 1)
                    slot, seen = number, entry
        if slot < 0:
            return NOT_ORDINARY
        where.offset = <int64_t> used[0] // UNIT
        state = self._words[self._states + where.segment]
        where.generation = state >> 16
        record = self._words + (self._data + where.segment * self._segment + where.offset * UNIT) // 8
        memset(record, 0, HEADER)
        record[KEY_HIGH], record[KEY_LOW] = wanted.high, wanted.low
        record[TOTAL], record[CAPACITY] = total, total - body
        record[PARTS] = <uint64_t> tag_bytes << 48 | <uint64_t> url_bytes << 32 | <uint64_t> head_bytes
        record[BEGAN], record[CHECKED], record[DATE] = began, began << 1, date
        record[OWNER], record[STATUS], record[SIZE] = self._owner, status, size + 1
        for number in range(<int> len(tags)):
            record[HEADER // 8 + number] = tags[number]
        out = <char*> record + HEADER + tag_bytes
        memcpy(out, PyBytes_AS_STRING(url), url_bytes)
        memcpy(out + url_bytes, PyBytes_AS_STRING(head), head_bytes)
        if whole is not None:
            memcpy(out + url_bytes + head_bytes, PyBytes_AS_STRING(whole), size)
            record[LENGTH] = record[CAPACITY] = size
        fastgw_cache_store(
            record + SEAL, self._mix(where.generation << 1, <uint64_t> where.segment << 32 | <uint64_t> where.offset)
        )
        fastgw_cache_store(used, used[0] + total)
        self._pin(where.segment)
        self.segment, self.offset, self.generation = where.segment, where.offset, where.generation
        self.body = body
        entry = self._entry(wanted, &where)
        self.is_inserted, self.replaced = fastgw_cache_swap(bucket + slot, seen, entry), seen
        self.is_disputed = False
        if self.is_inserted and not seen:
            self._words[self._column + INSERTED] += 1
            for number in range(BUCKET):
                seen = fastgw_cache_load(bucket + number)
                if number != slot and seen and seen >> 48 == wanted.hash >> 48:
                    self.is_disputed = True
        return record - self._words

    cpdef int unpin(self, int64_t segment) except -1:
        """Release a segment that this process has pinned."""
        if not 0 <= segment < self._segments:
            raise ValueError("there is no such segment")
        cdef uint64_t* pin = self._words + self._column + self._pins + segment
        fastgw_cache_store(pin, pin[0] - 1)
        return 0

    cdef uint64_t _entry(self, const Key* key, const Where* where) noexcept nogil:
        return (
            key.hash >> 48 << 48 | (where.generation & GENERATION_MASK) << 34 | <uint64_t> where.segment << 18
            | <uint64_t> where.offset << 2 | 1
        )

    # segments that this process recycles

    cdef uint64_t* _walked(self, int64_t segment, uint64_t generation, int64_t* offset, bint* is_chunk) noexcept nogil:
        """Return the record or chunk at an offset, which is set to that of the next one; NULL: there is none."""
        cdef uint64_t slot = <uint64_t> segment << 32 | <uint64_t> offset[0]
        cdef uint64_t* record
        cdef uint64_t total
        if offset[0] * UNIT >= <int64_t> self._words[self._used + segment] or offset[0] * UNIT > self._segment - UNIT:
            return NULL
        record = self._words + (self._data + segment * self._segment + offset[0] * UNIT) // 8
        is_chunk[0] = record[SEAL] == self._mix(generation << 1 | 1, slot)
        if not is_chunk[0] and record[SEAL] != self._mix(generation << 1, slot):
            return NULL
        total = record[TOTAL]
        if not total or total > <uint64_t> (self._segment - offset[0] * UNIT) or total % UNIT:
            return NULL
        offset[0] += <int64_t> total // UNIT
        return record

    def next_free(self, int64_t begin):
        """Return the first free segment from this one on; -1: there is none."""
        cdef int64_t segment
        for segment in range(max(begin, 0), self._segments):
            if fastgw_cache_load(self._words + self._states + segment) & 0xF == FREE:
                return segment
        return -1

    def sealed(self, int most):
        """Return the segments that `Segments.sealed` yields, with their states as words. `most`: up to `MOST_SEALED`."""
        cdef int64_t found[2][MOST_SEALED]
        cdef uint64_t orders[2][MOST_SEALED]
        cdef uint64_t words[2][MOST_SEALED]
        cdef int counts[2]
        cdef int64_t segment, small = 0
        cdef uint64_t word, order
        cdef int queue, at
        if not 0 < most <= MOST_SEALED:
            raise ValueError("too many segments")
        counts[0] = counts[1] = 0
        for segment in range(self._segments):
            word = fastgw_cache_load(self._words + self._states + segment)
            if word & 0xF != SEALED:
                continue
            queue = word >> 4 & 1
            small += queue == SMALL
            order = self._words[self._orders + segment]
            at = counts[queue]
            if at == most:
                if order >= orders[queue][at - 1]:
                    continue
                at -= 1
            else:
                counts[queue] += 1
            while at and orders[queue][at - 1] > order:
                found[queue][at], orders[queue][at] = found[queue][at - 1], orders[queue][at - 1]
                words[queue][at] = words[queue][at - 1]
                at -= 1
            found[queue][at], orders[queue][at], words[queue][at] = segment, order, word
        oldest = []
        for queue in (SMALL, MAIN) if 10 * small >= self._segments else (MAIN, SMALL):
            oldest += [(found[queue][at], words[queue][at]) for at in range(counts[queue])]
        return oldest

    def is_cold(self, int64_t segment, uint64_t generation):
        """Whether a segment has neither records that were found since they are in its queue, nor chunks."""
        cdef int64_t offset = 0
        cdef bint is_chunk = False
        cdef uint64_t* record
        if not 0 <= segment < self._segments:
            return False
        while True:
            record = self._walked(segment, generation, &offset, &is_chunk)
            if record is NULL:
                return True
            if is_chunk or record[HITS]:
                return False

    def survivors(self, int64_t segment, uint64_t generation, bint is_main):
        """Return the objects that are kept when a segment is recycled, as `Space._survivors`: entry, first word, hits,
        and the record with its body; None instead if that goes on in chunks. None: they are more than half of it.
        """
        cdef int64_t offset = 0, begins = 0, live = 0, count
        cdef bint is_chunk = False
        cdef Where where
        cdef uint64_t* record
        cdef uint64_t entry
        cdef Key key
        if not 0 <= segment < self._segments:
            raise ValueError("there is no such segment")
        where.segment, where.generation = segment, generation
        found = []
        while True:
            begins = offset
            record = self._walked(segment, generation, &offset, &is_chunk)
            if record is NULL:
                return found
            if is_chunk:
                if self._is_of_popular(record[CHUNK_RECORD]):
                    live += <int64_t> record[TOTAL]
            elif record[HITS] and record[STATUS] == COMPLETE:
                key.high, key.low = record[KEY_HIGH], record[KEY_LOW]
                key.hash = self._mix(key.high, key.low)
                where.offset = begins
                entry = self._entry(&key, &where)
                if self._slot_of(&key, entry) is not NULL:
                    live += <int64_t> record[TOTAL]
                    image, count = None, self._body_of(record) + <int64_t> record[LENGTH]
                    if not record[NEXT] and 0 < count <= <int64_t> record[TOTAL]:
                        image = PyBytes_FromStringAndSize(<char*> record, count)
                    found.append((entry, record - self._words, record[HITS] - 1 if is_main else 0, image))
            if 2 * live > self._segment:
                return None

    cdef bint _is_of_popular(self, uint64_t owner) noexcept nogil:
        """Whether the record of a chunk, at this location, is there and was found."""
        cdef int64_t segment = owner >> 18 & 0xFFFF, offset = owner >> 2 & 0xFFFF
        cdef uint64_t state, generation
        cdef uint64_t* record
        if segment >= self._segments or offset * UNIT > self._segment - HEADER:
            return False
        state = fastgw_cache_load(self._words + self._states + segment)
        generation = state >> 16
        record = self._words + (self._data + segment * self._segment + offset * UNIT) // 8
        return (
            (state & 0xF == OPEN or state & 0xF == SEALED)
            and (generation & GENERATION_MASK) == (owner >> 34 & GENERATION_MASK)
            and record[SEAL] == self._mix(generation << 1, <uint64_t> segment << 32 | <uint64_t> offset)
            and record[HITS]
        )

    cdef int64_t _body_of(self, const uint64_t* record) noexcept nogil:
        """Return the offset of the body from the start of a record."""
        cdef uint64_t parts = record[PARTS]
        return HEADER + <int64_t> (parts >> 48) + <int64_t> (parts >> 32 & 0xFFFF) + <int64_t> (parts << 32 >> 32)

    cdef uint64_t* _slot_of(self, const Key* key, uint64_t entry) noexcept nogil:
        """Return the word of the index with an entry; NULL: there is none."""
        cdef uint64_t* bucket = self._bucket(key)
        cdef int number
        for number in range(BUCKET):
            if fastgw_cache_load(bucket + number) == entry:
                return bucket + number
        return NULL

    def retain(self, int64_t segment, uint64_t generation, bint is_main):
        """Lower the hits of the records of a segment, which gets another turn in the main queue; see `Space`."""
        cdef int64_t offset = 0
        cdef bint is_chunk = False
        cdef uint64_t* record
        if not 0 <= segment < self._segments:
            raise ValueError("there is no such segment")
        while True:
            record = self._walked(segment, generation, &offset, &is_chunk)
            if record is NULL:
                return
            if not is_chunk:
                record[HITS] = record[HITS] - 1 if is_main and record[HITS] else 0

    def move(self, bytes image not None, uint64_t entry, uint64_t hits, int64_t segment):
        """Copy a record to this segment, which this process has open; its entry points to the copy then. False: there
        is no space for it.
        """
        cdef int64_t count = PyBytes_GET_SIZE(image), total = (count + UNIT - 1) // UNIT * UNIT
        cdef Where where
        cdef Key key
        cdef uint64_t* record
        cdef uint64_t* used
        cdef uint64_t* slot
        if not 0 <= segment < self._segments or count < HEADER:
            raise ValueError("there is no such segment, or record")
        used = self._words + self._used + segment
        if used[0] % UNIT or <int64_t> used[0] + total > self._segment:
            return False
        where.segment, where.offset = segment, <int64_t> used[0] // UNIT
        where.generation = fastgw_cache_load(self._words + self._states + segment) >> 16
        record = self._words + (self._data + segment * self._segment + where.offset * UNIT) // 8
        memcpy(record, PyBytes_AS_STRING(image), count)
        record[TOTAL], record[CAPACITY], record[NEXT] = total, count - self._body_of(record), 0
        record[HITS] = hits
        fastgw_cache_store(
            record + SEAL, self._mix(where.generation << 1, <uint64_t> segment << 32 | <uint64_t> where.offset)
        )
        fastgw_cache_store(used, used[0] + total)
        key.high, key.low = record[KEY_HIGH], record[KEY_LOW]
        key.hash = self._mix(key.high, key.low)
        slot = self._slot_of(&key, entry)
        if slot is not NULL:
            fastgw_cache_swap(slot, entry, self._entry(&key, &where))
        return True

    def evict(self, int64_t segment, uint64_t generation, bint is_small, frozenset kept not None):
        """Remove the entries of all records of a segment from the index, but for those that are kept."""
        cdef int64_t offset = 0, begins = 0
        cdef bint is_chunk = False
        cdef bint keeps = len(kept) > 0
        cdef Key key
        cdef Where where
        cdef uint64_t* record
        cdef uint64_t* slot
        cdef uint64_t entry
        if not 0 <= segment < self._segments:
            raise ValueError("there is no such segment")
        where.segment, where.generation = segment, generation
        while True:
            begins = offset
            record = self._walked(segment, generation, &offset, &is_chunk)
            if record is NULL:
                return
            if is_chunk:
                continue
            key.high, key.low = record[KEY_HIGH], record[KEY_LOW]
            key.hash = self._mix(key.high, key.low)
            where.offset = begins
            entry = self._entry(&key, &where)
            slot = self._slot_of(&key, entry)
            if slot is NULL or (keeps and entry in kept) or not fastgw_cache_swap(slot, entry, 0):
                continue
            self._words[self._column + REMOVED] += 1
            self._words[self._column + EVICTED_FOR_CAPACITY] += 1
            if is_small and not record[HITS]:
                self._words[self._ghosts + <int64_t> (key.hash >> 20 & self._ghost_mask)] = key.hash

    def append(self, int64_t at, int64_t position, int64_t free, bytes data not None, uint64_t length):
        """Write the next bytes of the body of a record whose segment is pinned; return whether they fit. `position`:
        first free byte in the memory; `free`: number of free bytes there; `length`: of the body then.
        """
        cdef int64_t count = PyBytes_GET_SIZE(data)
        if count > free or position < self._data or position + free > self._view.len or 8 * at < self._data:
            return False
        memcpy(<char*> self._words + position, PyBytes_AS_STRING(data), count)
        fastgw_cache_fence()
        fastgw_cache_store(self._words + at + LENGTH, length)
        return True

    def complete(self, int64_t at, bytes key not None, uint64_t entry_location, uint64_t length, uint64_t capacity):
        """Complete a record whose segment is pinned; return whether requests find it. False: look again.

        `entry_location`: `Location.word`. `capacity`: of the record, without what it has too much.
        """
        cdef Key wanted
        cdef uint64_t* record
        cdef uint64_t* bucket
        cdef uint64_t entry
        cdef int number
        if 8 * at < self._data or 8 * at + HEADER > self._view.len:
            raise ValueError("there is no record")
        record = self._words + at
        record[CAPACITY] = capacity
        record[SIZE] = length + 1
        fastgw_cache_fence()
        fastgw_cache_store(record + STATUS, COMPLETE)
        if not self._read(key, &wanted):
            return False
        if fastgw_cache_load(record + CHECKED) >> 1 != fastgw_cache_load(self._words + PURGE_SEQUENCE):
            return False
        bucket = self._bucket(&wanted)
        entry = wanted.hash >> 48 << 48 | entry_location
        for number in range(BUCKET):
            if fastgw_cache_load(bucket + number) == entry:
                return True
        return False
