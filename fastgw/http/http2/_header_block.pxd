from libc.stdint cimport uint8_t

cdef enum:
    MOST_IN_FRAME = 16384
    # Bytes that may be written for a block of that length: a symbol has 5 bits or more, and a length that takes a
    # further byte stands before 80 or more.
    PLAIN_BLOCK = MOST_IN_FRAME * 8 // 5 + MOST_IN_FRAME // 80 + 16

cdef Py_ssize_t write_plain(const uint8_t* block, Py_ssize_t length, uint8_t* out) noexcept nogil
