# cython: language_level=3
"""See `sought_names.pyi`."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastgw.http.messages cimport SLOT_WORDS, RequestHead, bits_of, has_field, slot_of

cdef enum:
    MOST_KEPT = 256


@cython.final
cdef class _Names:
    """Names of headers, and where heads have a bit for each: those whose lines are known, and others by `slot_of`."""

    cdef tuple names
    cdef uint32_t known
    cdef uint64_t slots[SLOT_WORDS]


cdef dict _names = {}  # names -> `_Names`
cdef _Names _last_names = _Names.__new__(_Names)


cdef _Names _names_of(tuple names):
    global _last_names
    cdef _Names made
    cdef bytes name
    cdef uint8_t slot
    found = _names.get(names)
    if found is None:
        made = _Names.__new__(_Names)
        made.names = names
        made.known = bits_of(frozenset(names) & RequestHead.KNOWN)
        for name in names:
            if name not in RequestHead.KNOWN:
                slot = slot_of(<const uint8_t*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
                made.slots[slot >> 6] |= <uint64_t>1 << (slot & 63)
        if len(_names) >= MOST_KEPT:
            _names.clear()
        found = _names[names] = made
    _last_names = <_Names>found
    return _last_names


cpdef bint has_any_of(tuple names, RequestHead head) except -1:
    # PERF: 1,000 instructions less than to look for each name (CPython 3.11, callgrind, micro/response_cache).
    cdef _Names sought = _last_names if names is _last_names.names else _names_of(names)
    cdef bytes name
    cdef int word
    if head.names & sought.known:
        return True
    for word in range(SLOT_WORDS):
        if head.others[word] & sought.slots[word]:
            break
    else:
        return False
    for name in names:
        if has_field(head, name):
            return True
    return False
