# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""Compiled `splices`. Texts longer than `LONG` are processed without the interpreter's lock.

`check_text` leaves a text to the reference (None) if it is invalid for `_json_text`. All other functions get valid texts.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastgw.http._json_text cimport (
    HIGHS, ONES, JsonScan, begin_scan, check_value, end_scan, first_of, hash_name, past_space, unescaped,
)

from os import urandom

cdef enum:
    LONG = 4096

cdef struct Text:
    const uint8_t* begin
    Py_ssize_t length

cdef struct Member:
    uint64_t hash
    const uint8_t* name  # between the quotation marks
    Py_ssize_t name_length
    const uint8_t* value
    Py_ssize_t value_length
    bint escaped

cdef uint64_t SEED = int.from_bytes(urandom(8), "little")


def check_text(bytes text):
    """Return a valid text without the white space around it; None: it is left to the reference."""
    cdef JsonScan scan
    cdef const uint8_t* begin
    cdef bint valid
    cdef Py_ssize_t length = PyBytes_GET_SIZE(text)
    if not begin_scan(&scan, <const uint8_t*> PyBytes_AS_STRING(text), length, SEED):
        raise MemoryError
    begin = scan.at
    if length > LONG:
        with nogil:
            valid = check_value(&scan, 1)
    else:
        valid = check_value(&scan, 1)
    end_scan(&scan)
    if not valid or past_space(scan.at, scan.end) != scan.end:
        return None
    if scan.at - begin == length:
        return text
    return PyBytes_FromStringAndSize(<const char*> begin, scan.at - begin)


# Functions for valid texts: they only look for the ends of strings and for brackets.

cdef const uint8_t* _past_string(const uint8_t* at, const uint8_t* end) noexcept nogil:
    cdef uint64_t word, quotes, slashes, special
    at += 1
    while at < end:
        while end - at >= 8:
            memcpy(&word, at, 8)
            quotes = word ^ (ONES * 34)
            slashes = word ^ (ONES * 92)
            special = (((quotes - ONES) & ~quotes) | ((slashes - ONES) & ~slashes)) & HIGHS
            if special != 0:
                at += first_of(special)
                break
            at += 8
        if at >= end:
            break
        if at[0] == 34:
            return at + 1
        at += 2 if at[0] == 92 else 1
    return end


cdef const uint8_t* _past_value(const uint8_t* at, const uint8_t* end) noexcept nogil:
    cdef Py_ssize_t depth = 0
    cdef uint8_t byte
    if at < end and at[0] == 34:
        return _past_string(at, end)
    if at < end and at[0] != 123 and at[0] != 91:
        while at < end and at[0] != 44 and at[0] != 93 and at[0] != 125 and at[0] > 32:
            at += 1
        return at
    while at < end:
        byte = at[0]
        if byte == 34:
            at = _past_string(at, end)
            continue
        at += 1
        if byte == 123 or byte == 91:
            depth += 1
        elif byte == 125 or byte == 93:
            depth -= 1
            if depth == 0:
                return at
    return end


cdef const uint8_t* _next_member(const uint8_t* at, const uint8_t* end, Member* member) noexcept nogil:
    """Read a member of an object, of which `at` is the begin or what follows the previous member. NULL: there is none.
    `hash` is left out.
    """
    at = past_space(at + 1, end)  # past the bracket or comma
    if at >= end or at[0] != 34:
        return NULL
    member.name = at + 1
    at = _past_string(at, end)
    member.name_length = at - 1 - member.name
    member.escaped = False
    at = past_space(at, end)
    at = past_space(at + 1, end)
    member.value = at
    at = _past_value(at, end)
    member.value_length = at - member.value
    return past_space(at, end)


cdef bint _has_backslash(const Member* member) noexcept nogil:
    cdef Py_ssize_t index
    for index in range(member.name_length):
        if member.name[index] == 92:
            return True
    return False


cdef bint _same_names(const uint8_t* one, const uint8_t* one_end, const uint8_t* other,
                      const uint8_t* other_end) noexcept nogil:
    """Whether two valid names are equal without their escape sequences."""
    cdef uint8_t ours[4]
    cdef uint8_t theirs[4]
    cdef Py_ssize_t ours_left = 0, ours_at = 0, theirs_left = 0, theirs_at = 0
    cdef uint8_t a, b
    while True:
        if ours_at == ours_left:
            ours_at = 0
            if one >= one_end:
                return theirs_at == theirs_left and other >= other_end
            if one[0] == 92:
                ours_left = unescaped(&one, one_end, ours)
            else:
                ours[0] = one[0]
                ours_left = 1
                one += 1
        if theirs_at == theirs_left:
            theirs_at = 0
            if other >= other_end:
                return False
            if other[0] == 92:
                theirs_left = unescaped(&other, other_end, theirs)
            else:
                theirs[0] = other[0]
                theirs_left = 1
                other += 1
        a, b = ours[ours_at], theirs[theirs_at]
        ours_at += 1
        theirs_at += 1
        if a != b:
            return False


cdef Text _member_at(Text object_text, const uint8_t* name, Py_ssize_t length) noexcept nogil:
    """Return the value of a member; without a beginning if there is none. `name` has no escape sequences."""
    cdef Member member
    cdef Text found
    cdef const uint8_t* end = object_text.begin + object_text.length
    cdef const uint8_t* at = object_text.begin
    found.begin = NULL
    found.length = 0
    while True:
        at = _next_member(at, end, &member)
        if at == NULL:
            return found
        if (
            member.name_length == length and memcmp(member.name, name, length) == 0 and not _has_backslash(&member)
        ) or (_has_backslash(&member) and _same_as_plain(&member, name, name + length)):
            found.begin = member.value
            found.length = member.value_length
            return found
        if at >= end or at[0] != 44:
            return found


cdef bint _same_as_plain(const Member* member, const uint8_t* name, const uint8_t* end) noexcept nogil:
    """Whether an escaped name is this one, in which a backslash is itself."""
    cdef const uint8_t* at = member.name
    cdef const uint8_t* last = member.name + member.name_length
    cdef uint8_t piece[4]
    cdef Py_ssize_t index, count
    while at < last:
        if at[0] == 92:
            count = unescaped(&at, last, piece)
        else:
            piece[0] = at[0]
            count = 1
            at += 1
        for index in range(count):
            if name >= end or name[0] != piece[index]:
                return False
            name += 1
    return name == end


cdef Text _element_at(Text array, Py_ssize_t index) noexcept nogil:
    cdef const uint8_t* end = array.begin + array.length
    cdef const uint8_t* at = past_space(array.begin + 1, end)
    cdef const uint8_t* begin
    cdef Text found
    found.begin = NULL
    found.length = 0
    while at < end and at[0] != 93:
        begin = at
        at = _past_value(at, end)
        if index == 0:
            found.begin = begin
            found.length = at - begin
            return found
        index -= 1
        at = past_space(at, end)
        if at >= end or at[0] != 44:
            break
        at = past_space(at + 1, end)
    return found


def value_at(bytes text, tuple names, tuple indexes):
    """Return the value at a path in a valid text; None: there is none."""
    cdef Text held
    cdef bytes name
    cdef const uint8_t* begin
    cdef Py_ssize_t length, index
    held.begin = <const uint8_t*> PyBytes_AS_STRING(text)
    held.length = PyBytes_GET_SIZE(text)
    begin = held.begin
    held.begin = past_space(begin, begin + held.length)
    held.length -= held.begin - begin
    while held.length and held.begin[held.length - 1] in (32, 10, 13, 9):
        held.length -= 1
    for name, index in zip(names, indexes):
        begin, length = <const uint8_t*> PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)
        if held.length and held.begin[0] == 123:
            if held.length > LONG:
                with nogil:
                    held = _member_at(held, begin, length)
            else:
                held = _member_at(held, begin, length)
        elif held.length and held.begin[0] == 91 and index >= 0:
            if held.length > LONG:
                with nogil:
                    held = _element_at(held, index)
            else:
                held = _element_at(held, index)
        else:
            return None
        if held.begin == NULL:
            return None
    return PyBytes_FromStringAndSize(<const char*> held.begin, held.length)


cdef Py_ssize_t _count_elements(Text array) noexcept nogil:
    cdef const uint8_t* end = array.begin + array.length
    cdef const uint8_t* at = past_space(array.begin + 1, end)
    cdef Py_ssize_t count = 0
    while at < end and at[0] != 93:
        count += 1
        at = past_space(_past_value(at, end), end)
        if at >= end or at[0] != 44:
            break
        at = past_space(at + 1, end)
    return count


def elements_of(bytes text, Py_ssize_t most):
    """Return the elements of an array in a valid text; their number if there are more than `most`; None: no array."""
    cdef Text array
    cdef const uint8_t* begin = <const uint8_t*> PyBytes_AS_STRING(text)
    cdef const uint8_t* end = begin + PyBytes_GET_SIZE(text)
    cdef const uint8_t* at
    cdef Py_ssize_t count
    begin = past_space(begin, end)
    if begin >= end or begin[0] != 91:
        return None
    array.begin = begin
    array.length = end - begin
    with nogil:
        count = _count_elements(array)
    if count > most:
        return count
    elements = []
    at = past_space(begin + 1, end)
    while at < end and at[0] != 93:
        begin = at
        at = _past_value(at, end)
        elements.append(PyBytes_FromStringAndSize(<const char*> begin, at - begin))
        at = past_space(at, end)
        if at >= end or at[0] != 44:
            break
        at = past_space(at + 1, end)
    return elements


cdef struct Merge:
    Member* members
    Py_ssize_t count
    Py_ssize_t capacity
    uint8_t* out
    Py_ssize_t used


cdef bint _collect(Merge* merge, Text object_text) noexcept nogil:
    """Append the members of an object, with their hashes. False: no memory."""
    cdef const uint8_t* end = object_text.begin + object_text.length
    cdef const uint8_t* at = past_space(object_text.begin, end)
    cdef Member* member
    cdef Member* grown
    while True:
        if merge.count == merge.capacity:
            grown = <Member*> PyMem_RawRealloc(merge.members, 2 * merge.capacity * sizeof(Member))
            if grown == NULL:
                return False
            merge.members = grown
            merge.capacity *= 2
        member = &merge.members[merge.count]
        at = _next_member(at, end, member)
        if at == NULL:
            return True
        member.escaped = _has_backslash(member)
        member.hash = hash_name(SEED, member.name, member.name + member.name_length, member.escaped)
        merge.count += 1
        if at >= end or at[0] != 44:
            return True


cdef inline bint _equal(const Member* one, const Member* other) noexcept nogil:
    if one.hash != other.hash:
        return False
    if not one.escaped and not other.escaped:
        return one.name_length == other.name_length and memcmp(one.name, other.name, one.name_length) == 0
    return _same_names(
        one.name, one.name + one.name_length, other.name, other.name + other.name_length
    )


cdef bint _unite(Merge* merge) noexcept nogil:
    """Keep one member of each name: in the position of the first one, with the last value. False: no memory."""
    cdef Py_ssize_t index, kept = 0, size = 64
    cdef uint32_t* table
    cdef uint32_t few[64]
    cdef uint64_t slot
    cdef Member* member
    while size < 2 * merge.count:
        size *= 2
    table = few
    if size > 64:
        table = <uint32_t*> PyMem_RawMalloc(size * sizeof(uint32_t))
        if table == NULL:
            return False
    memset(table, 0, size * sizeof(uint32_t))
    for index in range(merge.count):
        member = &merge.members[index]
        slot = (member.hash ^ (member.hash >> 29)) & (size - 1)
        while table[slot] != 0 and not _equal(&merge.members[table[slot] - 1], member):
            slot = (slot + 1) & (size - 1)
        if table[slot] != 0:
            merge.members[table[slot] - 1].value = member.value
            merge.members[table[slot] - 1].value_length = member.value_length
        else:
            merge.members[kept] = member[0]
            kept += 1
            table[slot] = <uint32_t> kept
    merge.count = kept
    if table != few:
        PyMem_RawFree(table)
    return True


cdef void _write_name(Merge* merge, const Member* member) noexcept nogil:
    """Write a name; an escaped one with the escape sequences that it needs (as orjson writes it), never longer."""
    cdef const uint8_t* at = member.name
    cdef const uint8_t* end = member.name + member.name_length
    cdef uint8_t* out = merge.out + merge.used
    cdef uint8_t piece[4]
    cdef uint8_t byte
    cdef Py_ssize_t index, count
    cdef const char* digits = "0123456789abcdef"
    if not member.escaped:
        memcpy(out, at, member.name_length)
        merge.used += member.name_length
        return
    while at < end:
        if at[0] != 92:
            out[0] = at[0]
            out += 1
            at += 1
            continue
        count = unescaped(&at, end, piece)
        byte = piece[0]
        if count > 1 or (byte >= 32 and byte != 34 and byte != 92):
            for index in range(count):
                out[index] = piece[index]
            out += count
            continue
        out[0] = 92
        out += 1
        if byte == 34 or byte == 92:
            out[0] = byte
        elif byte == 8:
            out[0] = 98
        elif byte == 9:
            out[0] = 116
        elif byte == 10:
            out[0] = 110
        elif byte == 12:
            out[0] = 102
        elif byte == 13:
            out[0] = 114
        else:
            memcpy(out, "u00", 3)
            out[3] = digits[byte >> 4]
            out[4] = digits[byte & 15]
            out += 4
        out += 1
    merge.used = out - merge.out


cdef void _write_all(Merge* merge) noexcept nogil:
    cdef Py_ssize_t index
    cdef const Member* member
    merge.out[0] = 123
    merge.used = 1
    for index in range(merge.count):
        member = &merge.members[index]
        if index:
            merge.out[merge.used] = 44
            merge.used += 1
        merge.out[merge.used] = 34
        merge.used += 1
        _write_name(merge, member)
        merge.out[merge.used] = 34
        merge.out[merge.used + 1] = 58
        memcpy(merge.out + merge.used + 2, member.value, member.value_length)
        merge.used += 2 + member.value_length
    merge.out[merge.used] = 125
    merge.used += 1


cdef bint _merge_all(Merge* merge, const Text* texts, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t index
    for index in range(count):
        if not _collect(merge, texts[index]):
            return False
    return _unite(merge)


def merge_objects(tuple texts):
    """Return an object with the members of all these valid objects."""
    cdef Merge merge
    cdef Py_ssize_t index, total = 2, count = len(texts)
    cdef bytes text, made
    cdef bint done
    cdef Text* held = <Text*> PyMem_RawMalloc((count + 1) * sizeof(Text))
    merge.count = 0
    merge.capacity = 32
    merge.out = NULL
    merge.members = <Member*> PyMem_RawMalloc(merge.capacity * sizeof(Member))
    try:
        if held == NULL or merge.members == NULL:
            raise MemoryError
        for index in range(count):
            text = texts[index]
            held[index].begin = <const uint8_t*> PyBytes_AS_STRING(text)
            held[index].length = PyBytes_GET_SIZE(text)
            total += held[index].length
        if total > LONG:
            merge.out = <uint8_t*> PyMem_RawMalloc(total)
            if merge.out == NULL:
                raise MemoryError
            with nogil:
                done = _merge_all(&merge, held, count)
                if done:
                    _write_all(&merge)
            if not done:
                raise MemoryError
            return PyBytes_FromStringAndSize(<const char*> merge.out, merge.used)
        if not _merge_all(&merge, held, count):
            raise MemoryError
        merge.out = <uint8_t*> PyMem_RawMalloc(total)
        if merge.out == NULL:
            raise MemoryError
        _write_all(&merge)
        return PyBytes_FromStringAndSize(<const char*> merge.out, merge.used)
    finally:
        PyMem_RawFree(held)
        PyMem_RawFree(merge.members)
        PyMem_RawFree(merge.out)
