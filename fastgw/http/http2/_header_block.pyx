# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Header blocks (RFC 7541) without Huffman code, for libnghttp2, which takes most of its time to decode that code.

A block is a sequence of representations. Each is kept as it is but for its strings, so that the decoder reads the same
header fields and keeps the same table from the result. Rule: a block that is not understood here is left as it is; so
libnghttp2 alone refuses blocks.

PERF: libnghttp2 1.52 takes 4.5 us for a HEADERS frame with 776 bytes in Huffman code, and 3.0 us with this module.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

cdef extern from "<endian.h>" nogil:
    uint64_t be64toh(uint64_t word)

cdef enum:
    EOS = 256
    SHORTEST = 5
    LONGEST = 30
    PEEKED = 12  # bits by which symbols are looked up
    ONE_BYTE_LENGTH = 127  # lengths from here on take further bytes
    MOST_SHORT = 79  # bytes of Huffman code that are never more than 126 symbols

# Bits of the code of each symbol (RFC 7541, appendix B). Among codes of one length, those of higher symbols are higher;
# and shorter codes are lower than the beginnings of longer ones.
cdef bytes _LENGTHS = bytes((
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28,
    28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23,
    24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22,
    22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27,
    27, 27, 27, 26, 30,
))


cdef struct Symbols:
    # One or two symbols whose codes begin the bits that were looked up, and the bits of both; 0: their code is longer.
    uint8_t first
    uint8_t second
    uint8_t count
    uint8_t bits


cdef Symbols _symbols[1 << PEEKED]
cdef uint16_t _ordered[EOS + 1]  # symbols in the order of their codes
cdef uint32_t _limits[LONGEST + 1]  # by length: what all codes of up to this length are below, with 30 bits
cdef int _offsets[LONGEST + 1]  # by length: of the place in `_ordered` from the code


cdef inline int _symbol(uint64_t bits, int* length) noexcept nogil:
    """Return the symbol whose code is at the head of these bits, and set the length of it."""
    cdef uint32_t code = <uint32_t>(bits >> (64 - LONGEST))
    cdef int tried = SHORTEST
    while code >= _limits[tried]:
        tried += 1
    length[0] = tried
    return _ordered[<int>(code >> (LONGEST - tried)) + _offsets[tried]]


cdef void _set_up() noexcept:
    cdef int symbol, length, second, number, place = 0
    cdef uint32_t code = 0
    cdef uint64_t peeked
    for length in range(SHORTEST, LONGEST + 1):
        _offsets[length] = place - <int>code
        for symbol in range(EOS + 1):
            if <uint8_t>_LENGTHS[symbol] == length:
                _ordered[place] = symbol
                place += 1
                code += 1
        _limits[length] = code << (LONGEST - length)
        code <<= 1
    for number in range(1 << PEEKED):
        peeked = number
        symbol = _symbol(peeked << (64 - PEEKED), &length)
        if length > PEEKED:
            continue
        _symbols[peeked].first, _symbols[peeked].count, _symbols[peeked].bits = symbol, 1, length
        if length > PEEKED - SHORTEST:
            continue
        symbol = _symbol(peeked << (64 - PEEKED + length), &second)
        if length + second <= PEEKED:
            _symbols[peeked].second, _symbols[peeked].count, _symbols[peeked].bits = symbol, 2, length + second


_set_up()


cdef Py_ssize_t _decode(const uint8_t* at, Py_ssize_t length, uint8_t* out) noexcept nogil:
    """Decode a string, to a place with room for all that it may be and for one symbol more; return its length.
    Negative: it is invalid.
    """
    cdef const uint8_t* end = at + length
    cdef uint8_t* begin = out
    cdef uint64_t bits = 0, word  # the next ones of the code, from the highest on
    cdef int held = 0, taken = 0, symbol
    cdef Symbols found
    while True:
        if end - at >= 8:
            memcpy(&word, at, 8)
            bits |= be64toh(word) >> held
            at += (63 - held) >> 3
            held |= 56
        else:
            while held <= 56 and at < end:
                bits |= <uint64_t>at[0] << (56 - held)
                at += 1
                held += 8
        while held >= PEEKED or (held and at == end):
            found = _symbols[bits >> (64 - PEEKED)]
            if 0 < found.bits <= held:
                out[0], out[1] = found.first, found.second
                out += found.count
                bits <<= found.bits
                held -= found.bits
                continue
            symbol = _symbol(bits, &taken)
            if taken > held:
                break
            if symbol == EOS:
                return -1
            out[0] = symbol
            out += 1
            bits <<= taken
            held -= taken
        if at == end:
            break
    if held > 7 or (held and bits >> (64 - held) != (<uint64_t>1 << held) - 1):  # padding is the beginning of EOS
        return -1
    return out - begin


cdef inline const uint8_t* _integer(const uint8_t* at, const uint8_t* end, int mask, Py_ssize_t* value) noexcept nogil:
    """Read an integer (RFC 7541 section 5.1) below 2 MiB; return its end. NULL: it is longer, or cut off."""
    cdef int shift = 0
    value[0] = at[0] & mask
    at += 1
    if value[0] < mask:
        return at
    while at < end and shift <= 14:
        value[0] += <Py_ssize_t>(at[0] & 0x7F) << shift
        if not at[0] & 0x80:
            return at + 1
        shift += 7
        at += 1
    return NULL


cdef Py_ssize_t write_plain(const uint8_t* block, Py_ssize_t length, uint8_t* out) noexcept nogil:
    """Write a block of up to `MOST_IN_FRAME` bytes without Huffman code, to a place of `PLAIN_BLOCK` bytes; return its
    length. 0: it has no such code, or is too long without, or is not understood here.
    """
    cdef const uint8_t* at = block
    cdef const uint8_t* end = block + length
    cdef const uint8_t* kept = block  # what follows is not written yet
    cdef const uint8_t* string
    cdef uint8_t* begin = out
    cdef Py_ssize_t number = 0, size = 0
    cdef int strings, prefix
    while at < end:
        if at[0] & 0x80:
            strings, prefix = 0, 0x7F
        elif at[0] & 0x40:
            strings, prefix = 1, 0x3F
        elif at[0] & 0x20:
            strings, prefix = 0, 0x1F
        else:
            strings, prefix = 1, 0x0F
        at = _integer(at, end, prefix, &number)
        if at is NULL:
            return 0
        if strings and not number:
            strings = 2  # the name is not in a table
        while strings:
            strings -= 1
            if at == end:
                return 0
            string = _integer(at, end, 0x7F, &size)
            if string is NULL or size > end - string:
                return 0
            if not at[0] & 0x80:
                at = string + size
                continue
            memcpy(out, kept, at - kept)
            out += at - kept
            at = kept = string + size
            if size <= MOST_SHORT:
                size = _decode(string, size, out + 1)
                if size < 0:
                    return 0
                out[0] = <uint8_t>size
                out += 1 + size
            else:
                size = _decode(string, size, out + 3)
                if size < 0:
                    return 0
                out = _write_length(out, size)
    size = out - begin + (end - kept)
    if kept is block or size > MOST_IN_FRAME:
        return 0
    memcpy(out, kept, end - kept)
    return size


cdef inline uint8_t* _write_length(uint8_t* out, Py_ssize_t size) noexcept nogil:
    """Write the length of a string that stands 3 bytes behind, and move it up; return its end."""
    cdef Py_ssize_t rest = size - ONE_BYTE_LENGTH
    cdef int taken
    if rest < 0:
        out[0] = <uint8_t>size
        taken = 1
    elif rest < 0x80:
        out[0], out[1] = ONE_BYTE_LENGTH, <uint8_t>rest
        taken = 2
    else:
        out[0], out[1], out[2] = ONE_BYTE_LENGTH, <uint8_t>(rest & 0x7F | 0x80), <uint8_t>(rest >> 7)
        return out + 3 + size  # of 16,511 and more the length is wrong, and the block too long
    memmove(out + taken, out + 3, size)
    return out + taken + size


def plain(bytes block not None):
    """Return a block without Huffman code; None: it is left as it is."""
    cdef uint8_t written[PLAIN_BLOCK]
    cdef Py_ssize_t length = 0
    if PyBytes_GET_SIZE(block) <= MOST_IN_FRAME:
        length = write_plain(<const uint8_t*>PyBytes_AS_STRING(block), PyBytes_GET_SIZE(block), written)
    return PyBytes_FromStringAndSize(<const char*>written, length) if length else None
