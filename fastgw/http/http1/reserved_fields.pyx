# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Reserved fields: most heads have none of them, which hashes of the names show that the parser has computed."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr

from fastgw.http.messages cimport BEGINNING, SLOT_WORDS, RequestHead, beginning_of, slot_of

from fastgw.http.field_names import DEBUG_TOKEN
from fastgw.http.fields import folded
from fastgw.http.http1.serializer import slots_of

ANYTHING = b"*"


@cython.final
cdef class ReservedFields:
    def __init__(self, names, exempt=()):
        cdef bytes name
        names = [*names]
        self._exempt = frozenset(map(folded, exempt))
        self._names = frozenset([folded(name) for name in names if not name.endswith(ANYTHING)])
        self._prefixes = tuple(sorted({folded(name.removesuffix(ANYTHING)) for name in names if name.endswith(ANYTHING)}))
        for name in self._names:
            if self.has(name):
                self._beginnings |= _beginning(name)
                for slot in slots_of(name):
                    self._slots[<int>slot >> 6] |= <uint64_t>1 << (<int>slot & 63)
        for name in self._prefixes:
            self._continued |= _beginning(name)
        self._beginnings |= self._continued

    def __repr__(self):
        return f"<ReservedFields {len(self._names) + len(self._prefixes)} names>"

    def has(self, bytes name not None):
        wanted = folded(name)
        if (wanted not in self._names and not wanted.startswith(self._prefixes)) or wanted in self._exempt:
            return False
        return name.lower() not in RequestHead.KNOWN

    cpdef take_out_of(self, RequestHead head):
        cdef int word
        if head is None:
            raise TypeError("expected a head")
        if not head.beginnings & self._beginnings:
            return ()
        if not head.beginnings & self._continued:
            for word in range(SLOT_WORDS):
                if head.others[word] & self._slots[word]:
                    break
            else:
                return ()
        return head.fields().take_out(self.has) if self._is_in(head) else ()

    cdef bint _is_in(self, RequestHead head) except -1:
        """Whether a line has one of the names. Different names may have the bits of a reserved one together.

        PERF: 34,000 instructions less than by a pattern, for a head with `apikey`, whose hash is that of a prefix
        (CPython 3.11, callgrind).
        """
        cdef const uint8_t* line = <const uint8_t*>PyBytes_AS_STRING(head.source) + head.first_line
        cdef const uint8_t* end = <const uint8_t*>PyBytes_AS_STRING(head.source) + head.head_length - 2
        cdef const uint8_t* colon
        cdef uint64_t beginnings = self._beginnings
        cdef uint8_t slot
        if head.beginnings == ~<uint64_t>0:
            beginnings = ~<uint64_t>0  # names with other punctuation have bits of their own
        while line < end:  # an empty line follows, so that `BEGINNING` bytes are there
            if beginnings & beginning_of(line):
                colon = <const uint8_t*>memchr(line, c":", end - line)
                slot = slot_of(line, colon - line)
                if self._slots[slot >> 6] & <uint64_t>1 << (slot & 63) or (
                    head.beginnings & self._continued and self._begins(line, colon)
                ):
                    if self.has(<bytes>line[:colon - line]):
                        return True
                line = colon
            line = <const uint8_t*>memchr(line, c"\n", end - line) + 1
        return False

    cdef bint _begins(self, const uint8_t* name, const uint8_t* end) except -1:
        """Whether a name may have one of the prefixes: it has their letters, and anything in place of a hyphen."""
        cdef const uint8_t* wanted
        cdef Py_ssize_t place, length
        cdef bytes prefix
        for prefix in self._prefixes:
            wanted, length = <const uint8_t*>PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix)
            if length > end - name:
                continue
            for place in range(length):
                if wanted[place] != c"-" and name[place] | 0x20 != wanted[place] | 0x20:
                    break
            else:
                return True
        return False


cdef uint64_t _beginning(bytes name) noexcept:
    """Return the bit for the beginning of a name; all of them for a short one."""
    return beginning_of(<const uint8_t*>PyBytes_AS_STRING(name)) if PyBytes_GET_SIZE(name) >= BEGINNING else ~<uint64_t>0


OWN_FIELDS = ReservedFields((DEBUG_TOKEN,))
