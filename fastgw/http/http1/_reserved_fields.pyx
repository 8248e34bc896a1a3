# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled `reserved_fields`: most heads have none of the fields, which `_parser` has detected by hashes of the names.

Heads that may have one are passed to the reference.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr

from fastgw.http.http1.parser cimport BEGINNING, SLOT_WORDS, Http1RequestHead, beginning_of, slot_of

from fastgw.http.http1 import reserved_fields as reserved
from fastgw.http.http1.serializer import slots_of
from fastgw.http.fields import folded


@cython.final
cdef class ReservedFields:
    """Compiled `reserved_fields.ReservedFields`."""

    cdef object _reference
    cdef uint64_t _slots[SLOT_WORDS]  # a bit for each `slot_of` of a complete name and its twins
    cdef uint64_t _beginnings  # a bit for each `beginning_of` of a name
    cdef uint64_t _continued  # those of prefixes
    cdef tuple _prefixes

    def __init__(self, names, exempt=()):
        cdef bytes each
        cdef uint64_t beginning
        reference = self._reference = reserved._ReservedFields(names, exempt)
        names = [name for name in frozenset(names) if name.endswith(b"*") or reference.has(name)]
        self._prefixes = tuple(folded(name.removesuffix(b"*")) for name in names if name.endswith(b"*"))
        for name in names:
            each = folded(name.removesuffix(b"*"))
            beginning = ~<uint64_t>0
            if len(each) >= BEGINNING:
                beginning = beginning_of(<const uint8_t*>PyBytes_AS_STRING(each))
            self._beginnings |= beginning
            if name.endswith(b"*"):
                self._continued |= beginning
            else:
                for slot in slots_of(each):
                    self._slots[<int>slot >> 6] |= <uint64_t>1 << (<int>slot & 63)

    def __repr__(self):
        return repr(self._reference)

    def has(self, bytes name not None):
        return self._reference.has(name)

    def take_out_of(self, head):
        cdef Http1RequestHead ours
        cdef int word
        if type(head) is Http1RequestHead:
            ours = <Http1RequestHead>head
            if not ours.beginnings & self._beginnings:
                return ()
            if not ours.beginnings & self._continued:
                for word in range(SLOT_WORDS):
                    if ours.others[word] & self._slots[word]:
                        break
                else:
                    return ()
            if not self._is_in(ours):
                return ()
        return self._reference.take_out_of(head)

    cdef bint _is_in(self, Http1RequestHead head) except -1:
        """Whether a line has one of the names. Different names may have the bits of a reserved one together.

        PERF: 34,000 instructions less than the search of the reference, for a head with `apikey`, whose hash is that of
        a prefix (CPython 3.11, callgrind).
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
                    if self._reference.has(<bytes>line[:colon - line]):
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
