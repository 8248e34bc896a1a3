# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled `header_values.unknown_values`: headers as they were received are read line by line, without their fields.

Other headers, and those with a value that has `$`, are left to the reference.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memchr

from fastgw.http.http1.parser cimport Http1RequestHead

from fastgw.filters.policies.waf import header_values as reference

cdef enum:
    LONGEST_NAME = 64

cdef bytes _COOKIE = b"cookie"
cdef bytes FILENAME = reference.FILENAME


def unknown_values(headers, frozenset skipped not None, frozenset of_files not None, known, known_cookies):
    """Compiled `header_values.unknown_values`."""
    cdef Http1RequestHead head
    cdef const uint8_t* at
    cdef const uint8_t* end
    cdef const uint8_t* line_end
    cdef const uint8_t* colon
    cdef const uint8_t* stop
    cdef char[LONGEST_NAME] folded
    cdef Py_ssize_t length, place
    cdef bytes name, value
    cdef list values = [], cookies = []
    if type(headers) is not Http1RequestHead or (<Http1RequestHead>headers)._fields is not None:
        return reference._unknown_values(headers, skipped, of_files, known, known_cookies)
    head = <Http1RequestHead>headers
    at = <const uint8_t*>PyBytes_AS_STRING(head.source) + head.first_line
    end = <const uint8_t*>PyBytes_AS_STRING(head.source) + head.head_length
    if at < end and memchr(at, c"$", end - at) is not NULL:
        return reference._unknown_values(headers, skipped, of_files, known, known_cookies)
    while at < end:
        line_end = <const uint8_t*>memchr(at, c"\n", end - at)
        if line_end is NULL:
            break
        colon = <const uint8_t*>memchr(at, c":", line_end - at)
        if colon is not NULL:
            length = colon - at
            if length > LONGEST_NAME:
                return reference._unknown_values(headers, skipped, of_files, known, known_cookies)
            for place in range(length):
                folded[place] = at[place] + 32 if c"A" <= at[place] <= c"Z" else at[place]
            name = PyBytes_FromStringAndSize(folded, length)
            if name not in skipped or name == _COOKIE:
                colon += 1
                while colon[0] == c" " or colon[0] == c"\t":
                    colon += 1
                stop = line_end
                while stop > colon and ((stop - 1)[0] == c"\r" or (stop - 1)[0] == c" " or (stop - 1)[0] == c"\t"):
                    stop -= 1
                value = PyBytes_FromStringAndSize(<const char*>colon, stop - colon)
                if name in of_files:
                    values.append((PyBytes_FromStringAndSize(<const char*>at, length), FILENAME % value))
                elif name != _COOKIE:
                    if value not in known:
                        values.append((PyBytes_FromStringAndSize(<const char*>at, length), value))
                elif value not in known_cookies:
                    cookies.append(value)
        at = line_end + 1
    return values, cookies
