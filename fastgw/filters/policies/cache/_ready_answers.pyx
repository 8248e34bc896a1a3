# cython: language_level=3
"""Compiled methods of `ready_answers.ReadyAnswers`, for heads that `_parser` has read.

Objects of other classes are used through their attributes (`_slots.read`).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastgw.exchange.ready_answer cimport ReadyAnswer
from fastgw.forwarded_headers cimport Peer
from fastgw.exchange.route cimport Route
from fastgw.exchange.chain cimport Chain
from fastgw._slots cimport Slot, learn, read, write
from fastgw.cache.shared._ordinary cimport is_unchanged_in
from fastgw.exchange.sent_fields cimport fields_for_request
from fastgw.http.http1.parser cimport SLOT_WORDS, Http1RequestHead, all_values, bits_of, has_field, slot_of

from fastgw.compiled import replace
from fastgw.filters.policies.cache import ready_answers as reference

cdef enum:
    MOST_KEPT = 256

cdef struct OfAnswers:
    Slot clock
    Slot key_headers
    Slot memory
    Slot number
    Slot special
    Slot store

cdef struct OfEntry:
    Slot answer
    Slot body
    Slot born_date
    Slot head
    Slot lifetime
    Slot second
    Slot stamp

cdef OfAnswers of_answers
cdef OfEntry of_entry
cdef Slot authority_of_head
cdef Slot forwarded_of_head
cdef Slot entries_of_memory
cdef Slot names_of_selector
cdef Slot stamp_of_selector
cdef type _entry_class, _selector_class
cdef object _find, _reference_needs_full_path  # the methods of the reference
# PERF: a name of a module by its dict: 500 instructions less than as an attribute (CPython 3.11, micro/http2).
cdef dict _reference = reference.__dict__

learn(&authority_of_head, Http1RequestHead, "authority")
learn(&forwarded_of_head, Http1RequestHead, "forwarded")


def adopt(type owner not None, type memory not None, type entry not None, type selector not None):
    """Replace methods of `ReadyAnswers`. `memory`, `entry`, `selector`: the classes of what it looks at."""
    global _find, _reference_needs_full_path, _entry_class, _selector_class
    _find, _reference_needs_full_path = owner.find, owner.needs_full_path
    _entry_class, _selector_class = entry, selector
    learn(&of_answers.clock, owner, "_clock")
    learn(&of_answers.key_headers, owner, "_key_headers")
    learn(&of_answers.memory, owner, "_memory")
    learn(&of_answers.number, owner, "_number")
    learn(&of_answers.special, owner, "_special")
    learn(&of_answers.store, owner, "store")
    learn(&of_entry.answer, entry, "answer")
    learn(&of_entry.body, entry, "body")
    learn(&of_entry.born_date, entry, "born_date")
    learn(&of_entry.head, entry, "head")
    learn(&of_entry.lifetime, entry, "lifetime")
    learn(&of_entry.second, entry, "second")
    learn(&of_entry.stamp, entry, "stamp")
    learn(&entries_of_memory, memory, "_entries")
    learn(&names_of_selector, selector, "names")
    learn(&stamp_of_selector, selector, "stamp")
    replace(owner, find, needs_full_path)


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
        made.known = bits_of(frozenset(names) & Http1RequestHead.KNOWN)
        for name in names:
            if name not in Http1RequestHead.KNOWN:
                slot = slot_of(<const uint8_t*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
                made.slots[slot >> 6] |= <uint64_t>1 << (slot & 63)
        if len(_names) >= MOST_KEPT:
            _names.clear()
        found = _names[names] = made
    _last_names = <_Names>found
    return _last_names


cdef bint has_any_of(tuple names, Http1RequestHead head) except -1:
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


cdef bint _needs_full_path(answers, Http1RequestHead head, peer) except -1:
    """Return the result of `ReadyAnswers.needs_full_path`."""
    return has_any_of(<tuple?>read(&of_answers.special, answers), head) or (
        (<Peer?>peer).trusted and read(&forwarded_of_head, head)
    )


def needs_full_path(self, head, peer):
    """Compiled `ReadyAnswers.needs_full_path`.

    PERF: a bypass takes 9,800 instructions less than with the pattern of the reference (callgrind, micro/response_cache).
    """
    if type(head) is Http1RequestHead and (<Http1RequestHead>head).source is not None:
        return _needs_full_path(self, <Http1RequestHead>head, peer)
    return _reference_needs_full_path(self, head, peer)


cdef tuple _with_values(tuple key, Http1RequestHead head, names):
    """Return a key with the values of headers, as of `ready_answers.values_of`."""
    cdef list found = [], lines
    cdef bytes name
    if head._fields is not None:
        return key + tuple(_reference["values_of"](head, names))
    for name in names:
        lines = all_values(head, name)
        found.append(None if not lines else lines[0] if len(lines) == 1 else b"\n".join(lines))
    return key + tuple(found)


def find(self, head, peer, route):
    """Compiled `ReadyAnswers.find`."""
    cdef Http1RequestHead ours
    cdef dict entries
    cdef tuple key
    if type(head) is not Http1RequestHead or (<Http1RequestHead>head).source is None:
        return _find(self, head, peer, route)
    ours = <Http1RequestHead>head
    target = PyBytes_FromStringAndSize(PyBytes_AS_STRING(ours.source) + ours.target_at.start, ours.target_at.length)
    chain = (<Route?>route).chain
    form = (<Chain?>chain).number
    stated = (<Chain?>chain).response_fields
    fields = fields_for_request(stated, head, peer)
    if fields is None:
        return None
    if fields is not stated:
        form = form, fields
    key = read(&of_answers.number, self), form, (<Peer?>peer).endpoint, read(&authority_of_head, head), target
    key_headers = read(&of_answers.key_headers, self)
    if key_headers:
        key = _with_values(key, ours, key_headers)
    memory = read(&of_answers.memory, self)
    entries = <dict?>read(&entries_of_memory, memory)
    entry = entries.get(key)
    if (
        entry is None
        or ours.method_at.length != 3
        or memcmp(PyBytes_AS_STRING(ours.source) + ours.method_at.start, b"GET", 3)
        or _needs_full_path(self, ours, peer)
    ):
        return None
    store = read(&of_answers.store, self)
    if type(entry) is _selector_class:
        if not is_unchanged_in(store, read(&stamp_of_selector, entry)):
            memory.remove(key)
            return None
        names = read(&names_of_selector, entry)
        key = _with_values(key + (names,), ours, names)
        entry = entries.get(key)
    if type(entry) is not _entry_class:
        return None
    lifetime = read(&of_entry.lifetime, entry)
    age = int(read(&of_answers.clock, self)() - read(&of_entry.born_date, entry))
    if age >= lifetime or age < 0 or not is_unchanged_in(store, read(&of_entry.stamp, entry)):
        memory.remove(key)
        return None
    answer = read(&of_entry.answer, entry)
    if age != read(&of_entry.second, entry):
        write(&of_entry.second, entry, age)
        status = b"Age: %d\r\nCache-Status: fastgw; hit; ttl=%d\r\n" % (age, lifetime - age)
        (<ReadyAnswer?>answer).head = read(&of_entry.head, entry) + status
        (<ReadyAnswer?>answer).body = read(&of_entry.body, entry)
    return answer
