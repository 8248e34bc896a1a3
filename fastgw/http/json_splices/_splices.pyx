# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""Compiled `splices`. Texts longer than `LONG` are processed without the interpreter's lock.

`check_text` leaves a text to the reference (None) if it is invalid, nested deeper than 200 levels, has a number with
more than 200 characters, or equal hashes of two names in one object. All other functions get valid texts.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.math cimport isinf
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort, strtod
from libc.string cimport memcmp, memcpy, memset

from os import urandom

cdef extern from *:
    """
    /* Index of the first byte of a word in memory whose highest bit is set; at most that where bytes lie otherwise. */
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define first_of(marks) (__builtin_ctzll(marks) >> 3)
    #else
    #define first_of(marks) 0
    #endif
    """
    int first_of(uint64_t marks) noexcept nogil

cdef enum:
    DEEPEST = 200
    LONGEST_NUMBER = 200
    FEW_NAMES = 16
    LONG = 4096

cdef struct Scan:
    const uint8_t* at
    const uint8_t* end
    uint64_t* names  # hashes of the names in the open objects
    Py_ssize_t names_used
    Py_ssize_t names_capacity

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

cdef uint64_t ONES = 0x0101010101010101ULL
cdef uint64_t HIGHS = 0x8080808080808080ULL
cdef uint64_t SEED = int.from_bytes(urandom(8), "little")  # names of strangers have no equal hashes by intent


cdef inline uint64_t _mixed(uint64_t made, uint8_t byte) noexcept nogil:
    return (made ^ byte) * 1099511628211ULL


cdef int _compare(const void* one, const void* other) noexcept nogil:
    cdef uint64_t a = (<const uint64_t*> one)[0]
    cdef uint64_t b = (<const uint64_t*> other)[0]
    return -1 if a < b else 1 if a > b else 0


cdef inline const uint8_t* _past_space(const uint8_t* at, const uint8_t* end) noexcept nogil:
    while at < end and (at[0] == 32 or at[0] == 10 or at[0] == 13 or at[0] == 9):
        at += 1
    return at


cdef inline int _digit_of(uint8_t byte) noexcept nogil:
    if 48 <= byte <= 57:
        return byte - 48
    if 65 <= byte <= 70:
        return byte - 55
    if 97 <= byte <= 102:
        return byte - 87
    return -1


cdef int _code_unit(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return the code unit of four hexadecimal digits; -1: there are none."""
    cdef int index, digit, made = 0
    if end - at < 4:
        return -1
    for index in range(4):
        digit = _digit_of(at[index])
        if digit < 0:
            return -1
        made = made * 16 + digit
    return made


cdef Py_ssize_t _sequence(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return the length of a UTF-8 sequence of several bytes; 0: it is invalid (RFC 3629 section 4)."""
    cdef uint8_t first = at[0], low = 0x80, high = 0xBF
    cdef Py_ssize_t length, index
    if 0xC2 <= first <= 0xDF:
        length = 2
    elif 0xE0 <= first <= 0xEF:
        length = 3
        if first == 0xE0:
            low = 0xA0
        elif first == 0xED:
            high = 0x9F
    elif 0xF0 <= first <= 0xF4:
        length = 4
        if first == 0xF0:
            low = 0x90
        elif first == 0xF4:
            high = 0x8F
    else:
        return 0
    if end - at < length or not low <= at[1] <= high:
        return 0
    for index in range(2, length):
        if not 0x80 <= at[index] <= 0xBF:
            return 0
    return length


cdef Py_ssize_t _unescaped(const uint8_t** where, const uint8_t* end, uint8_t* made) noexcept nogil:
    """Write what an escape sequence stands for, 1 to 4 bytes, and go past it. Returns their number; 0: invalid."""
    cdef const uint8_t* at = where[0]
    cdef int unit, other
    cdef uint8_t byte
    if end - at < 2:
        return 0
    byte = at[1]
    if byte != 117:
        if byte == 34 or byte == 92 or byte == 47:
            made[0] = byte
        elif byte == 98:
            made[0] = 8
        elif byte == 102:
            made[0] = 12
        elif byte == 110:
            made[0] = 10
        elif byte == 114:
            made[0] = 13
        elif byte == 116:
            made[0] = 9
        else:
            return 0
        where[0] = at + 2
        return 1
    unit = _code_unit(at + 2, end)
    if unit < 0:
        return 0
    at += 6
    if 0xD800 <= unit <= 0xDFFF:
        if unit >= 0xDC00 or end - at < 6 or at[0] != 92 or at[1] != 117:
            return 0
        other = _code_unit(at + 2, end)
        if not 0xDC00 <= other <= 0xDFFF:
            return 0
        at += 6
        unit = 0x10000 + ((unit - 0xD800) << 10) + (other - 0xDC00)
    where[0] = at
    if unit < 0x80:
        made[0] = <uint8_t> unit
        return 1
    if unit < 0x800:
        made[0] = <uint8_t> (0xC0 | (unit >> 6))
        made[1] = <uint8_t> (0x80 | (unit & 0x3F))
        return 2
    if unit < 0x10000:
        made[0] = <uint8_t> (0xE0 | (unit >> 12))
        made[1] = <uint8_t> (0x80 | ((unit >> 6) & 0x3F))
        made[2] = <uint8_t> (0x80 | (unit & 0x3F))
        return 3
    made[0] = <uint8_t> (0xF0 | (unit >> 18))
    made[1] = <uint8_t> (0x80 | ((unit >> 12) & 0x3F))
    made[2] = <uint8_t> (0x80 | ((unit >> 6) & 0x3F))
    made[3] = <uint8_t> (0x80 | (unit & 0x3F))
    return 4


cdef bint _check_string(Scan* scan, bint* escaped) noexcept nogil:
    """Go past a string, from its first quotation mark on. False: it is invalid."""
    cdef const uint8_t* at = scan.at + 1
    cdef const uint8_t* end = scan.end
    cdef uint64_t word, quotes, slashes, special
    cdef uint8_t byte
    cdef uint8_t made[4]
    cdef Py_ssize_t length
    escaped[0] = False
    while True:
        while end - at >= 8:
            memcpy(&word, at, 8)
            quotes = word ^ (ONES * 34)
            slashes = word ^ (ONES * 92)
            # a byte that is special: below 0x20, `"`, `\`, or above 0x7f
            special = (
                (word - ONES * 32) | ((quotes - ONES) & ~quotes) | ((slashes - ONES) & ~slashes) | word
            ) & HIGHS
            if special != 0:
                # PERF: 1.0 us for 1 KB with short strings, 2.1 byte by byte (CPython 3.11, by hand).
                at += first_of(special)
                break
            at += 8
        if at >= end:
            return False
        byte = at[0]
        if byte == 34:
            scan.at = at + 1
            return True
        if byte < 32:
            return False
        if byte == 92:
            escaped[0] = True
            if _unescaped(&at, end, made) == 0:
                return False
        elif byte >= 128:
            length = _sequence(at, end)
            if length == 0:
                return False
            at += length
        else:
            at += 1


cdef bint _check_number(Scan* scan) noexcept nogil:
    cdef const uint8_t* at = scan.at
    cdef const uint8_t* end = scan.end
    cdef const uint8_t* begin
    cdef bint large = False
    if at[0] == 45:
        at += 1
    if at >= end or not 48 <= at[0] <= 57:
        return False
    if at[0] == 48:
        at += 1
    else:
        while at < end and 48 <= at[0] <= 57:
            at += 1
    if at < end and at[0] == 46:
        at += 1
        begin = at
        while at < end and 48 <= at[0] <= 57:
            at += 1
        if at == begin:
            return False
    if at < end and (at[0] == 101 or at[0] == 69):
        at += 1
        if at < end and (at[0] == 43 or at[0] == 45):
            at += 1
        begin = at
        while at < end and 48 <= at[0] <= 57:
            at += 1
        if at == begin:
            return False
        large = at - begin > 2
    if at - scan.at > LONGEST_NUMBER:
        return False
    if large and isinf(strtod(<const char*> scan.at, NULL)):  # the text ends with a zero byte
        return False
    scan.at = at
    return True


cdef uint64_t _hash_name(const uint8_t* at, const uint8_t* end, bint escaped) noexcept nogil:
    """Return the hash of a valid name, without its escape sequences."""
    cdef uint64_t made = SEED
    cdef uint8_t piece[4]
    cdef Py_ssize_t index, count
    if not escaped:
        while at < end:
            made = _mixed(made, at[0])
            at += 1
        return made
    while at < end:
        if at[0] == 92:
            count = _unescaped(&at, end, piece)
            for index in range(count):
                made = _mixed(made, piece[index])
        else:
            made = _mixed(made, at[0])
            at += 1
    return made


cdef bint _note_name(Scan* scan, uint64_t made) noexcept nogil:
    cdef uint64_t* grown
    if scan.names_used == scan.names_capacity:
        grown = <uint64_t*> PyMem_RawRealloc(scan.names, 2 * scan.names_capacity * sizeof(uint64_t))
        if grown == NULL:
            return False
        scan.names = grown
        scan.names_capacity *= 2
    scan.names[scan.names_used] = made
    scan.names_used += 1
    return True


cdef bint _names_differ(Scan* scan, Py_ssize_t since) noexcept nogil:
    """Whether the names of an object have different hashes. Forgets them."""
    cdef Py_ssize_t count = scan.names_used - since
    cdef uint64_t* names = scan.names + since
    cdef Py_ssize_t one, other
    scan.names_used = since
    if count <= FEW_NAMES:
        for one in range(1, count):
            for other in range(one):
                if names[one] == names[other]:
                    return False
        return True
    qsort(names, count, sizeof(uint64_t), _compare)
    for one in range(1, count):
        if names[one] == names[one - 1]:
            return False
    return True


cdef inline bint _check_word(Scan* scan, const char* word, Py_ssize_t length) noexcept nogil:
    if scan.end - scan.at < length or memcmp(scan.at, word, length) != 0:
        return False
    scan.at += length
    return True


cdef bint _check_value(Scan* scan, int depth) noexcept nogil:
    cdef uint8_t byte
    cdef bint escaped, over = False
    cdef const uint8_t* name
    cdef Py_ssize_t since
    if scan.at >= scan.end or depth > DEEPEST:
        return False
    byte = scan.at[0]
    if byte == 34:
        return _check_string(scan, &escaped)
    if byte == 123 or byte == 91:
        since = scan.names_used
        scan.at = _past_space(scan.at + 1, scan.end)
        if scan.at < scan.end and scan.at[0] == byte + 2:
            scan.at += 1
            return True
        while not over:
            if byte == 123:
                name = scan.at + 1
                if scan.at >= scan.end or scan.at[0] != 34 or not _check_string(scan, &escaped):
                    return False
                if not _note_name(scan, _hash_name(name, scan.at - 1, escaped)):
                    return False
                scan.at = _past_space(scan.at, scan.end)
                if scan.at >= scan.end or scan.at[0] != 58:
                    return False
                scan.at = _past_space(scan.at + 1, scan.end)
            if not _check_value(scan, depth + 1):
                return False
            scan.at = _past_space(scan.at, scan.end)
            if scan.at >= scan.end:
                return False
            over = scan.at[0] == byte + 2
            if not over and scan.at[0] != 44:
                return False
            scan.at += 1
            if not over:
                scan.at = _past_space(scan.at, scan.end)
        return byte == 91 or _names_differ(scan, since)
    if byte == 116:
        return _check_word(scan, "true", 4)
    if byte == 102:
        return _check_word(scan, "false", 5)
    if byte == 110:
        return _check_word(scan, "null", 4)
    return _check_number(scan)


def check_text(bytes text):
    """Return a valid text without the white space around it; None: it is left to the reference."""
    cdef Scan scan
    cdef const uint8_t* begin
    cdef const uint8_t* after
    cdef bint valid
    cdef Py_ssize_t length = PyBytes_GET_SIZE(text)
    begin = <const uint8_t*> PyBytes_AS_STRING(text)
    scan.end = begin + length
    scan.at = begin = _past_space(begin, scan.end)
    scan.names_used = 0
    scan.names_capacity = 256
    scan.names = <uint64_t*> PyMem_RawMalloc(scan.names_capacity * sizeof(uint64_t))
    if scan.names == NULL:
        raise MemoryError
    if length > LONG:
        with nogil:
            valid = _check_value(&scan, 1)
    else:
        valid = _check_value(&scan, 1)
    PyMem_RawFree(scan.names)
    if not valid or _past_space(scan.at, scan.end) != scan.end:
        return None
    if scan.at - begin == length:
        return text
    return PyBytes_FromStringAndSize(<const char*> begin, scan.at - begin)


# Functions for valid texts: they only look for the ends of strings and for brackets.

cdef const uint8_t* _past_string(const uint8_t* at, const uint8_t* end) noexcept nogil:
    cdef uint64_t word, quotes, slashes
    at += 1
    while at < end:
        while end - at >= 8:
            memcpy(&word, at, 8)
            quotes = word ^ (ONES * 34)
            slashes = word ^ (ONES * 92)
            if ((((quotes - ONES) & ~quotes) | ((slashes - ONES) & ~slashes)) & HIGHS) != 0:
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
    at = _past_space(at + 1, end)  # past the bracket or comma
    if at >= end or at[0] != 34:
        return NULL
    member.name = at + 1
    at = _past_string(at, end)
    member.name_length = at - 1 - member.name
    member.escaped = False
    at = _past_space(at, end)
    at = _past_space(at + 1, end)
    member.value = at
    at = _past_value(at, end)
    member.value_length = at - member.value
    return _past_space(at, end)


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
                ours_left = _unescaped(&one, one_end, ours)
            else:
                ours[0] = one[0]
                ours_left = 1
                one += 1
        if theirs_at == theirs_left:
            theirs_at = 0
            if other >= other_end:
                return False
            if other[0] == 92:
                theirs_left = _unescaped(&other, other_end, theirs)
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
            count = _unescaped(&at, last, piece)
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
    cdef const uint8_t* at = _past_space(array.begin + 1, end)
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
        at = _past_space(at, end)
        if at >= end or at[0] != 44:
            break
        at = _past_space(at + 1, end)
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
    held.begin = _past_space(begin, begin + held.length)
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
    cdef const uint8_t* at = _past_space(array.begin + 1, end)
    cdef Py_ssize_t count = 0
    while at < end and at[0] != 93:
        count += 1
        at = _past_space(_past_value(at, end), end)
        if at >= end or at[0] != 44:
            break
        at = _past_space(at + 1, end)
    return count


def elements_of(bytes text, Py_ssize_t most):
    """Return the elements of an array in a valid text; their number if there are more than `most`; None: no array."""
    cdef Text array
    cdef const uint8_t* begin = <const uint8_t*> PyBytes_AS_STRING(text)
    cdef const uint8_t* end = begin + PyBytes_GET_SIZE(text)
    cdef const uint8_t* at
    cdef Py_ssize_t count
    begin = _past_space(begin, end)
    if begin >= end or begin[0] != 91:
        return None
    array.begin = begin
    array.length = end - begin
    with nogil:
        count = _count_elements(array)
    if count > most:
        return count
    elements = []
    at = _past_space(begin + 1, end)
    while at < end and at[0] != 93:
        begin = at
        at = _past_value(at, end)
        elements.append(PyBytes_FromStringAndSize(<const char*> begin, at - begin))
        at = _past_space(at, end)
        if at >= end or at[0] != 44:
            break
        at = _past_space(at + 1, end)
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
    cdef const uint8_t* at = _past_space(object_text.begin, end)
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
        member.hash = _hash_name(member.name, member.name + member.name_length, member.escaped)
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
        count = _unescaped(&at, end, piece)
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
