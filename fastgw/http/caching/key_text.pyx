# cython: language_level=3
"""See `key_text.pyi`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

cdef enum:
    MOST_DIGITS = 20


cdef inline int _put_length(char* out, Py_ssize_t length) noexcept:
    """Write a length and a colon; return the number of bytes."""
    cdef char digits[MOST_DIGITS]
    cdef int place = MOST_DIGITS, count
    while True:
        place -= 1
        digits[place] = <char>(c"0" + length % 10)
        length //= 10
        if not length:
            break
    count = MOST_DIGITS - place
    memcpy(out, &digits[place], count)
    out[count] = c":"
    return count + 1


cpdef bytes joined_parts(parts, bytes end=b""):
    cdef char digits[MOST_DIGITS + 1]
    cdef bytes part, made
    cdef char* out
    cdef Py_ssize_t length
    if end is None:
        raise TypeError("an end is bytes")
    length = PyBytes_GET_SIZE(end)
    for part in parts:
        length += 1 if part is None else _put_length(digits, PyBytes_GET_SIZE(part)) + PyBytes_GET_SIZE(part)
    made = PyBytes_FromStringAndSize(NULL, length)
    out = PyBytes_AS_STRING(made)
    for part in parts:
        if part is None:
            out[0] = c"-"
            out += 1
        else:
            out += _put_length(out, PyBytes_GET_SIZE(part))
            memcpy(out, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
            out += PyBytes_GET_SIZE(part)
    memcpy(out, PyBytes_AS_STRING(end), PyBytes_GET_SIZE(end))
    return made


cpdef bytes swapped_key(bytes key):
    cdef Py_ssize_t half = PyBytes_GET_SIZE(key) // 2
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 2 * half)
    memcpy(PyBytes_AS_STRING(made), PyBytes_AS_STRING(key) + half, half)
    memcpy(PyBytes_AS_STRING(made) + half, PyBytes_AS_STRING(key), half)
    return made
