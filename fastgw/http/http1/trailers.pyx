# cython: language_level=3, boundscheck=False, wraparound=False
"""See `trailers.pyi`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.limits cimport INT_MAX
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr

from fastgw.http.messages cimport Head, Line, cut, read_fields

from fastgw.http.field_names import NOT_IN_TRAILERS
from fastgw.http.fields import folded
from fastgw.http.grammar import check_fields
from fastgw.http.malformed import Malformed

LONGEST_TRAILERS = 65536
MOST_TRAILERS = 100
TRAILERS_TOO_LARGE = "The trailers are too large or too many."
cdef frozenset _NOT_IN_TRAILERS = NOT_IN_TRAILERS


def parse_trailers(bytes section not None, Py_ssize_t longest=LONGEST_TRAILERS, Py_ssize_t most=MOST_TRAILERS):
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(section)
    cdef const uint8_t* end = base + PyBytes_GET_SIZE(section)
    cdef const char* name
    cdef const Line* line
    cdef uint32_t place
    cdef Head head = Head.__new__(Head)
    cdef bytes sent, lower
    cdef list trailers = []
    if end - base > longest:
        raise Malformed(TRAILERS_TOO_LARGE, 431)
    head.source = section
    if end - base < 4 or read_fields(head, base + 2, end, False, <int>min(most, <Py_ssize_t>INT_MAX)) is not end:
        if section.count(b"\n", 2) - 1 > most:
            raise Malformed(TRAILERS_TOO_LARGE, 431)
        check_fields(section, 2, most)
        raise AssertionError("trailers that were refused are well-formed")
    for place in range(head.line_count):
        line = &head.lines[place]
        name = PyBytes_AS_STRING(section) + line.start
        sent = PyBytes_FromStringAndSize(
            name, <const char*>memchr(name, c":", line.value.start - line.start) - name
        )
        lower = folded(sent)
        if lower in _NOT_IN_TRAILERS or (lower.startswith(b"content-") and lower != b"content-digest"):
            raise Malformed("A trailer has a header that is not allowed in trailers.")
        trailers.append((sent, cut(head, line.value)))
    return tuple(trailers)
