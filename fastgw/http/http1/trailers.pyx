# cython: language_level=3, boundscheck=False, wraparound=False
"""See `trailers.pyi`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp

from fastgw.http.field_names import NOT_IN_TRAILERS
from fastgw.http.fields import Fields, folded
from fastgw.http.grammar import check_fields
from fastgw.http.malformed import Malformed

LONGEST_TRAILERS = 65536
MOST_TRAILERS = 100
TRAILERS_TOO_LARGE = "The trailers are too large or too many."
cdef frozenset _NOT_IN_TRAILERS = NOT_IN_TRAILERS


def parse_trailers(bytes section not None, Py_ssize_t longest=LONGEST_TRAILERS, Py_ssize_t most=MOST_TRAILERS):
    # PERF: those of nearly all gRPC calls are plain (micro/grpc).
    found = _plain_trailers(section, longest, most)
    if found is not None:
        return found
    if len(section) > longest or section.count(b"\n", 2) - 1 > most:
        raise Malformed(TRAILERS_TOO_LARGE, 431)
    check_fields(section, 2, most)
    trailers = Fields.parse(section, 2)
    for name, _ in trailers:
        lower = folded(name)
        if lower in _NOT_IN_TRAILERS or (lower.startswith(b"content-") and lower != b"content-digest"):
            raise Malformed("A trailer has a header that is not allowed in trailers.")
    return tuple(trailers)


cdef tuple _plain_trailers(bytes section, Py_ssize_t longest, Py_ssize_t most):
    """Return trailers whose names are of lower-case letters, digits and hyphens, and whose values are visible ASCII.
    None: there are others, or some that are not allowed.
    """
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(section) + 2
    cdef const unsigned char* end = at + PyBytes_GET_SIZE(section) - 4
    cdef const unsigned char* name
    cdef const unsigned char* value
    cdef list trailers = []
    cdef bytes name_text
    if end < at or end - at + 4 > longest:
        return None
    while at < end:
        name = at
        while at < end and (c"a" <= at[0] <= c"z" or c"0" <= at[0] <= c"9" or at[0] == c"-"):
            at += 1
        if at == name or end - at < 3 or at[0] != c":":
            return None
        if at - name >= 8 and not memcmp(name, b"content-", 8):
            return None
        name_text = PyBytes_FromStringAndSize(<const char*>name, at - name)
        if name_text in _NOT_IN_TRAILERS:
            return None
        at += 1
        if at[0] == c" ":
            at += 1
        value = at
        while at < end and c" " <= at[0] <= c"~":
            at += 1
        if end - at < 2 or at[0] != c"\r" or at[1] != c"\n":
            return None
        if at > value and (value[0] == c" " or (at - 1)[0] == c" "):
            return None
        trailers.append((name_text, PyBytes_FromStringAndSize(<const char*>value, at - value)))
        at += 2
    return tuple(trailers) if len(trailers) <= most else None
