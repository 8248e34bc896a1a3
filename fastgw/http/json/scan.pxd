"""JSON texts by their bytes and without objects: what the compiled modules for JSON share.

`check_*` and `read_*` check what they go past: it is strict JSON, which every parser reads alike. That is RFC 8259 in
UTF-8, without halves of surrogate pairs, numbers beyond a double, two equal names in an object, and more than `DEEPEST`
levels. Names with equal hashes count as equal: of different ones one pair in 2^64 has them, and none by intent.
`past_*` go past what has been checked before, and look only for its end.
"""

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.math cimport isinf
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort, strtod
from libc.string cimport memcmp, memcpy

cdef extern from *:
    """
    /* Index of the first byte of a word in memory whose highest bit is set; at most that where bytes lie otherwise. */
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define first_of(marks) (__builtin_ctzll(marks) >> 3)
    #else
    #define first_of(marks) 0
    #endif
    #define ONES 0x0101010101010101ULL
    #define HIGHS 0x8080808080808080ULL
    #define LENGTHS 0xD6E8FEB86659FD93ULL

    /* Hash of eight more bytes: both halves of a product, where the compiler has it. */
    static inline uint64_t mixed(uint64_t made, uint64_t word) {
    #ifdef __SIZEOF_INT128__
        unsigned __int128 product = (unsigned __int128) (made ^ word) * 0x9E3779B97F4A7C15ULL;
        return (uint64_t) product ^ (uint64_t) (product >> 64);
    #else
        uint64_t product = (made ^ word) * 0x9E3779B97F4A7C15ULL;
        return product ^ (product >> 32);
    #endif
    }
    """
    uint64_t ONES, HIGHS
    uint64_t LENGTHS  # in the hash, so that a name is not that of another length with the same bytes
    int first_of(uint64_t marks) noexcept nogil
    uint64_t mixed(uint64_t made, uint64_t word) noexcept nogil

cdef enum:
    DEEPEST = 254  # levels, as many as orjson writes
    FEW_NAMES = 16
    LARGE_DIGITS = 200  # digits of an integer from which on it may be beyond a double
    LONG = 4096  # bytes of a text from which on other threads go on meanwhile

cdef enum Refusal:  # numbers in `invalid.REASONS`
    MALFORMED = 0
    TOO_LARGE = 1
    TOO_DEEP = 2
    EQUAL_NAMES = 3
    NO_MEMORY = 4

cdef struct JsonScan:
    const uint8_t* at
    const uint8_t* end
    uint64_t seed  # of hashes: names of strangers have no equal ones by intent
    uint64_t* names  # hashes of the names in the open objects
    Py_ssize_t names_used
    Py_ssize_t names_capacity
    int refusal  # why the text is invalid, once it is

cdef struct Name:
    const uint8_t* begin  # between the quotation marks
    Py_ssize_t length
    bint escaped


cdef inline int compare_hashes(const void* one, const void* other) noexcept nogil:
    cdef uint64_t a = (<const uint64_t*> one)[0]
    cdef uint64_t b = (<const uint64_t*> other)[0]
    return -1 if a < b else 1 if a > b else 0


cdef inline const uint8_t* past_space(const uint8_t* at, const uint8_t* end) noexcept nogil:
    while at < end and at[0] <= 32 and (at[0] == 32 or at[0] == 10 or at[0] == 13 or at[0] == 9):
        at += 1
    return at


cdef inline int digit_of(uint8_t byte) noexcept nogil:
    if 48 <= byte <= 57:
        return byte - 48
    if 65 <= byte <= 70:
        return byte - 55
    if 97 <= byte <= 102:
        return byte - 87
    return -1


cdef inline int code_unit(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return the code unit of four hexadecimal digits; -1: there are none."""
    cdef int index, digit, made = 0
    if end - at < 4:
        return -1
    for index in range(4):
        digit = digit_of(at[index])
        if digit < 0:
            return -1
        made = made * 16 + digit
    return made


cdef inline Py_ssize_t sequence(const uint8_t* at, const uint8_t* end) noexcept nogil:
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


cdef inline Py_ssize_t unescaped(const uint8_t** where, const uint8_t* end, uint8_t* made) noexcept nogil:
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
    unit = code_unit(at + 2, end)
    if unit < 0:
        return 0
    at += 6
    if 0xD800 <= unit <= 0xDFFF:
        if unit >= 0xDC00 or end - at < 6 or at[0] != 92 or at[1] != 117:
            return 0
        other = code_unit(at + 2, end)
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


cdef inline bint check_string(JsonScan* scan, bint* escaped) noexcept nogil:
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
            if unescaped(&at, end, made) == 0:
                return False
        elif byte >= 128:
            length = sequence(at, end)
            if length == 0:
                return False
            at += length
        else:
            at += 1


cdef inline bint check_number(JsonScan* scan) noexcept nogil:
    cdef const uint8_t* at = scan.at
    cdef const uint8_t* end = scan.end
    cdef const uint8_t* begin
    cdef bint large
    if at[0] == 45:
        at += 1
    if at >= end or not 48 <= at[0] <= 57:
        return False
    begin = at
    if at[0] == 48:
        at += 1
    else:
        while at < end and 48 <= at[0] <= 57:
            at += 1
    large = at - begin > LARGE_DIGITS
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
        large = large or at - begin > 2
    if large and isinf(strtod(<const char*> scan.at, NULL)):  # the text ends with a zero byte
        scan.refusal = TOO_LARGE
        return False
    scan.at = at
    return True


cdef inline uint64_t hash_name(uint64_t seed, const uint8_t* at, const uint8_t* end, bint escaped) noexcept nogil:
    """Return the hash of a valid name, without its escape sequences.

    PERF: 21.0 thousand instructions for 1 KB with 67 names and 22 objects, byte by byte 23.8 (callgrind).
    """
    cdef uint64_t made = seed
    cdef Py_ssize_t left = end - at
    if escaped:
        return hash_escaped(seed, at, end)
    while left >= 8:
        made = mixed(made, next_bytes(at, 8))
        at += 8
        left -= 8
    return mixed(made + <uint64_t> left * LENGTHS, next_bytes(at, left))


cdef inline uint64_t next_bytes(const uint8_t* at, Py_ssize_t count) noexcept nogil:
    """Return up to eight bytes as one word."""
    cdef uint64_t word = 0
    cdef uint32_t half, other
    if count >= 4:
        memcpy(&half, at, 4)
        memcpy(&other, at + count - 4, 4)
        word = half
        return word << 32 | other
    if count > 0:
        word = at[0]
        word = word << 8 | at[count >> 1]
        word = word << 8 | at[count - 1]
    return word


cdef inline uint64_t hash_escaped(uint64_t seed, const uint8_t* at, const uint8_t* end) noexcept nogil:
    cdef uint64_t made = seed
    cdef uint8_t piece[12]
    cdef Py_ssize_t count = 0
    while at < end:
        if at[0] == 92:
            count += unescaped(&at, end, piece + count)
        else:
            piece[count] = at[0]
            count += 1
            at += 1
        if count >= 8:
            made = mixed(made, next_bytes(piece, 8))
            count -= 8
            memcpy(piece, piece + 8, count)
    return mixed(made + <uint64_t> count * LENGTHS, next_bytes(piece, count))


cdef inline bint note_name(JsonScan* scan, uint64_t made) noexcept nogil:
    cdef uint64_t* grown
    if scan.names_used == scan.names_capacity:
        grown = <uint64_t*> PyMem_RawRealloc(scan.names, 2 * scan.names_capacity * sizeof(uint64_t))
        if grown == NULL:
            scan.refusal = NO_MEMORY
            return False
        scan.names = grown
        scan.names_capacity *= 2
    scan.names[scan.names_used] = made
    scan.names_used += 1
    return True


cdef inline bint names_differ(JsonScan* scan, Py_ssize_t since) noexcept nogil:
    """Whether the names of an object have different hashes. Forgets them."""
    cdef Py_ssize_t count = scan.names_used - since
    cdef uint64_t* names = scan.names + since
    cdef Py_ssize_t one, other
    scan.names_used = since
    if count <= FEW_NAMES:
        for one in range(1, count):
            for other in range(one):
                if names[one] == names[other]:
                    scan.refusal = EQUAL_NAMES
                    return False
        return True
    qsort(names, count, sizeof(uint64_t), compare_hashes)
    for one in range(1, count):
        if names[one] == names[one - 1]:
            scan.refusal = EQUAL_NAMES
            return False
    return True


cdef inline bint check_word(JsonScan* scan, const char* word, Py_ssize_t length) noexcept nogil:
    if scan.end - scan.at < length or memcmp(scan.at, word, length) != 0:
        return False
    scan.at += length
    return True


cdef inline bint check_value(JsonScan* scan, int depth) noexcept nogil:
    """Go past a value, from its first byte on. False: it is invalid."""
    if scan.at < scan.end and (scan.at[0] == 123 or scan.at[0] == 91):
        return check_inside(scan, depth)
    return check_scalar(scan)


cdef inline bint check_scalar(JsonScan* scan) noexcept nogil:
    cdef uint8_t byte
    cdef bint escaped
    if scan.at >= scan.end:
        return False
    byte = scan.at[0]
    if byte == 34:
        return check_string(scan, &escaped)
    if byte == 116:
        return check_word(scan, "true", 4)
    if byte == 102:
        return check_word(scan, "false", 5)
    if byte == 110:
        return check_word(scan, "null", 4)
    return check_number(scan)


cdef inline bint check_inside(JsonScan* scan, int depth) noexcept nogil:
    """Go past an array or object, from its opening bracket on."""
    cdef uint8_t opening = scan.at[0]
    cdef Name name
    cdef bint over
    cdef Py_ssize_t since = scan.names_used
    if not enter(scan, depth, &over):
        return False
    while not over:
        if opening == 123:
            if not read_name(scan, &name):
                return False
            if not note_name(scan, hash_name(scan.seed, name.begin, name.begin + name.length, name.escaped)):
                return False
        if scan.at < scan.end and (scan.at[0] == 123 or scan.at[0] == 91):
            if not check_inside(scan, depth + 1):
                return False
        elif not check_scalar(scan):
            return False
        if not go_on(scan, opening + 2, &over):
            return False
    return opening == 91 or names_differ(scan, since)


cdef inline bint enter(JsonScan* scan, int depth, bint* over) noexcept nogil:
    """Go past the opening bracket of an array or object, and the closing one of an empty one (`over`)."""
    cdef uint8_t closing = scan.at[0] + 2
    if depth > DEEPEST:
        scan.refusal = TOO_DEEP
        return False
    scan.at = past_space(scan.at + 1, scan.end)
    over[0] = scan.at < scan.end and scan.at[0] == closing
    scan.at += over[0]
    return True


cdef inline bint read_name(JsonScan* scan, Name* name) noexcept nogil:
    """Read the name of a member, up to its value."""
    cdef bint escaped
    cdef const uint8_t* begin = scan.at + 1
    if scan.at >= scan.end or scan.at[0] != 34 or not check_string(scan, &escaped):
        return False
    name.begin, name.length, name.escaped = begin, scan.at - 1 - begin, escaped
    scan.at = past_space(scan.at, scan.end)
    if scan.at >= scan.end or scan.at[0] != 58:
        return False
    scan.at = past_space(scan.at + 1, scan.end)
    return True


cdef inline bint go_on(JsonScan* scan, uint8_t closing, bint* over) noexcept nogil:
    """Go past the comma behind a member or element, up to the next one, or past the closing bracket (`over`)."""
    scan.at = past_space(scan.at, scan.end)
    if scan.at >= scan.end:
        return False
    over[0] = scan.at[0] == closing
    if over[0]:
        scan.at += 1
        return True
    if scan.at[0] != 44:
        return False
    scan.at = past_space(scan.at + 1, scan.end)
    return True


cdef inline bint begin_scan(JsonScan* scan, const uint8_t* text, Py_ssize_t length, uint64_t seed) noexcept nogil:
    """Begin at the first byte that is no white space. False: no memory. `end_scan` follows."""
    scan.end = text + length
    scan.at = past_space(text, scan.end)
    scan.seed = seed
    scan.refusal = MALFORMED
    scan.names_used = 0
    scan.names_capacity = 256
    scan.names = <uint64_t*> PyMem_RawMalloc(scan.names_capacity * sizeof(uint64_t))
    return scan.names != NULL


cdef inline bint is_over(const JsonScan* scan) noexcept nogil:
    """Whether nothing but white space follows."""
    return past_space(scan.at, scan.end) == scan.end


cdef inline void end_scan(JsonScan* scan) noexcept nogil:
    PyMem_RawFree(scan.names)


cdef inline const uint8_t* past_string(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return the place behind a string, from its first character on."""
    at = end_of_string(at, end)
    return at + 1 if at < end else end


cdef inline const uint8_t* end_of_string(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return the quotation mark that ends a string, from its first character on. Without one: the end of the text, or a
    backslash before it.
    """
    cdef uint64_t word, quotes, slashes, special
    while at < end:
        while end - at >= 8:
            memcpy(&word, at, 8)
            quotes = word ^ (ONES * 34)
            slashes = word ^ (ONES * 92)
            # PERF: 6,700 instructions for 827 bytes with short strings, 8,700 byte by byte (callgrind).
            special = (((quotes - ONES) & ~quotes) | ((slashes - ONES) & ~slashes)) & HIGHS
            if special != 0:
                at += first_of(special)
                break
            at += 8
        if at >= end or at[0] == 34:
            break
        if at[0] == 92:
            if at + 1 == end:
                break
            at += 1
        at += 1
    return at


cdef inline const uint8_t* past_value(const uint8_t* at, const uint8_t* end) noexcept nogil:
    cdef Py_ssize_t depth = 0
    cdef uint8_t byte
    if at < end and at[0] == 34:
        return past_string(at + 1, end)
    if at < end and at[0] != 123 and at[0] != 91:
        while at < end and at[0] != 44 and at[0] != 93 and at[0] != 125 and at[0] > 32:
            at += 1
        return at
    while at < end:
        byte = at[0]
        at += 1
        if byte == 34:
            at = past_string(at, end)
        elif byte == 123 or byte == 91:
            depth += 1
        elif byte == 125 or byte == 93:
            depth -= 1
            if depth == 0:
                return at
    return end


cdef inline Py_ssize_t next_character(
    const uint8_t** where, const uint8_t* end, uint8_t* made, bint plain
) noexcept nogil:
    """Write the next character of a valid name, 1 to 4 bytes, and go past it. Returns their number."""
    cdef const uint8_t* at = where[0]
    cdef Py_ssize_t count = 1
    if at[0] == 92 and not plain:
        return unescaped(where, end, made)
    if at[0] >= 128:
        count = sequence(at, end)
    memcpy(made, at, count)
    where[0] = at + count
    return count


cdef inline bint same_names(const Name* one, const Name* other) noexcept nogil:
    """Whether two valid names are equal without their escape sequences. One that is not `escaped` has none."""
    cdef const uint8_t* at = one.begin
    cdef const uint8_t* end = at + one.length
    cdef const uint8_t* other_at = other.begin
    cdef const uint8_t* other_end = other_at + other.length
    cdef uint8_t made[4]
    cdef uint8_t other_made[4]
    cdef Py_ssize_t count
    if not one.escaped and not other.escaped:
        return one.length == other.length and memcmp(at, other_at, one.length) == 0
    while at < end and other_at < other_end:
        count = next_character(&at, end, made, not one.escaped)
        if count != next_character(&other_at, other_end, other_made, not other.escaped):
            return False
        if memcmp(made, other_made, count) != 0:
            return False
    return at == end and other_at == other_end
