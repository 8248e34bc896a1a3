# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Strings of JSON in a request body for inspection, in one pass. The body may be cut off and may be invalid."""

import re

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memchr

from fastgw.http.json.scan cimport end_of_string

cdef enum:
    OPENS = 1  # an object or an array
    CLOSES = 2
    NAMES = 4  # what is before it is the name of a member
    IS_NO_JSON = 8
    TURN = 256  # strings and brackets

cdef uint8_t[256] _kinds
BOM = b"\xef\xbb\xbf"
BESIDE_STRINGS = b" \t\r\n\x1e{}[],:0123456789+-.eEtrufalsn"
"""Characters of JSON outside of strings, and the separator of records."""
cdef bytes _BOM = BOM
cdef bytes _EMPTY = b""
_ESCAPE = re.compile(rb'\\(?:(["\\/bfnrt])|u([0-9a-fA-F]{4}))').sub
_SIGNS = {b"b": b"\x08", b"f": b"\x0c", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _learn():
    for each in range(256):
        _kinds[each] = 0 if each in BESIDE_STRINGS else IS_NO_JSON
    for each in b"{[":
        _kinds[each] |= OPENS
    for each in b"}]":
        _kinds[each] |= CLOSES
    for each in b":=":
        _kinds[each] |= NAMES


_learn()


def unescaped(bytes text not None):
    """Return the content of a string without escapes. Escapes that JSON does not know are kept."""
    return _ESCAPE(_of_escape, text)


def _of_escape(found):
    if found[2]:
        return chr(int(found[2], 16)).encode(errors="replace")
    return _SIGNS.get(found[1], found[1])


def json_values(bytes body not None):
    """Return the strings, each with the name of the member that it is in, and the names, each with an empty value; and
    whether there is anything else than JSON beside the strings.

    PERF: 128 KiB of quotation marks at once held the lock of the interpreter for 11 ms, during which the event loop
    waited (CPython 3.11); it is given up now and then.
    """
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(body)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(body)
    cdef const uint8_t* begin
    cdef const uint8_t* bom = <const uint8_t*>PyBytes_AS_STRING(_BOM)
    cdef Py_ssize_t beside = 0, of_bom = 0, no_json = 0  # bytes beside the strings, and how many of them are what
    cdef Py_ssize_t left = TURN
    cdef uint8_t kind
    cdef bytes name = _EMPTY, text
    cdef list pairs = [], outer = []
    while True:
        while at < end and at[0] != c'"':
            kind = _kinds[at[0]]
            if beside < 3:
                of_bom += of_bom == beside and at[0] == bom[beside]
                beside += 1
            if kind:
                if kind & IS_NO_JSON:
                    no_json += 1
                if kind & OPENS:
                    outer.append(name)
                    left -= 1
                elif kind & CLOSES:
                    name = <bytes>outer.pop() if outer else _EMPTY
                    left -= 1
                elif kind & NAMES:
                    name = _EMPTY
                if left <= 0:
                    left = TURN
                    with nogil:  # the event loop may wait for the lock of the interpreter
                        pass
            at += 1
        if at == end:
            break
        at += 1
        begin = at
        at = end_of_string(at, end)
        text = PyBytes_FromStringAndSize(<const char*>begin, at - begin)
        if memchr(begin, c"\\", at - begin) != NULL:
            text = unescaped(text)
        if at < end:
            at += 1  # the quotation mark, or a backslash at the end of the body
        while at < end and (at[0] == c" " or at[0] == c"\t" or at[0] == c"\r" or at[0] == c"\n"):
            at += 1
        if at < end and at[0] == c":":
            at += 1
            name = text
            text = _EMPTY
        pairs.append((name, text))
        left -= 1
        if left <= 0:
            left = TURN
            with nogil:
                pass
    return pairs, no_json > (3 if of_bom == 3 else 0)
