from libc.stdint cimport uint32_t, uint64_t

from fastgw.http.messages cimport SLOT_WORDS, UNNUMBERED, Head, Line


cdef class SoughtNames:
    cdef tuple names
    cdef uint32_t numbers  # a bit for each numbered name
    cdef uint64_t slots[SLOT_WORDS]  # a bit for each `slot_of` of another name, and of the twins of all names

    cdef bint may_be_in(self, Head head) noexcept

    cdef inline bint may_be(self, const Line* line) noexcept:
        """Whether a line may have one of the names."""
        if line.name != UNNUMBERED:
            return self.numbers >> line.name & 1
        return self.slots[line.slot >> 6] >> (line.slot & 63) & 1

    cpdef bint occur_in(self, Head head) except -1
