# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled `json_values.json_values`: strings and what is between them are read in one pass.

Strings with escapes are left to the reference.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from fastgw.filters.policies.waf import json_values as reference

cdef enum:
    OPENS = 1  # an object or an array
    CLOSES = 2
    NAMES = 4  # what is before it is the name of a member
    IS_NO_JSON = 8
    TURN = 256  # strings and brackets

cdef uint8_t[256] _kinds
cdef bytes _BOM = reference.BOM
cdef bytes _EMPTY = b""


def _learn():
    for each in range(256):
        _kinds[each] = 0 if each in reference.BESIDE_STRINGS else IS_NO_JSON
    for each in b"{[":
        _kinds[each] |= OPENS
    for each in b"}]":
        _kinds[each] |= CLOSES
    for each in b":=":
        _kinds[each] |= NAMES


_learn()


def json_values(bytes body not None):
    """Compiled `json_values.json_values`."""
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(body)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(body)
    cdef const uint8_t* begin
    cdef const uint8_t* bom = <const uint8_t*>PyBytes_AS_STRING(_BOM)
    cdef Py_ssize_t beside = 0, of_bom = 0, no_json = 0  # bytes beside the strings, and how many of them are what
    cdef Py_ssize_t left = TURN
    cdef uint8_t kind
    cdef bint has_escape
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
        has_escape = False
        while at < end and at[0] != c'"':
            if at[0] == c"\\":
                if at + 1 == end:
                    break
                has_escape = True
                at += 1
            at += 1
        text = PyBytes_FromStringAndSize(<const char*>begin, at - begin)
        if has_escape:
            text = reference.unescaped(text)
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
