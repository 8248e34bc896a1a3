# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled `normalization.search_text` and `cookie_text`: texts that normalization only turns into lower case are copied.

Others are left to the reference.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memchr

from fastgw.filters.policies.waf import normalization as reference

cdef enum:
    CHANGES = 1  # normalization does more with this character than to turn it into lower case
    IS_NOT_PLAIN = 2
    IS_SEMICOLON = 4  # not plain either, but for what separates cookies

cdef uint8_t[256] _kinds
cdef bytes _SEPARATOR = reference.SEPARATOR


def _learn():
    for each in range(256):
        _kinds[each] = 0 if reference.PLAIN(bytes((each,))) is not None else IS_NOT_PLAIN
        if each < 32 or each > 126 or each in b"&\\'\"^$":
            _kinds[each] |= CHANGES
    _kinds[c";"] = IS_SEMICOLON


_learn()


cdef int _kind_of(bytes text):
    """Return what the characters are together, as bits."""
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(text)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(text)
    cdef int kind = 0
    cdef uint8_t last = 0
    while at < end:
        kind |= _kinds[at[0]]
        if (at[0] == c" " and last == c" ") or (at[0] == c"*" and last == c"/"):
            kind |= CHANGES
        last = at[0]
        at += 1
    return kind


cdef uint8_t* _copy_lower(uint8_t* to, const uint8_t* at, const uint8_t* end):
    """Return the end of the copy."""
    while at < end:
        to[0] = at[0] + 32 if c"A" <= at[0] <= c"Z" else at[0]
        at += 1
        to += 1
    return to


def search_text(texts):
    """Compiled `normalization.search_text`."""
    cdef tuple held = tuple(texts)
    cdef Py_ssize_t length = 0, number
    cdef int kinds = 0
    cdef uint8_t* to
    cdef const uint8_t* at
    cdef bytes text, joined
    for text in held:
        kinds |= _kind_of(text)
        length += PyBytes_GET_SIZE(text) + 1
    is_plain = not kinds & (IS_NOT_PLAIN | IS_SEMICOLON)
    if kinds & CHANGES:
        pieces = [reference.normalized(text) if _kind_of(text) & CHANGES else text.lower() for text in held]
        return _SEPARATOR.join(pieces), is_plain
    if not held:
        return b"", is_plain
    joined = PyBytes_FromStringAndSize(NULL, length - 1)
    to = <uint8_t*>PyBytes_AS_STRING(joined)
    for number in range(len(held)):
        if number:
            to[0] = 0
            to += 1
        text = held[number]
        at = <const uint8_t*>PyBytes_AS_STRING(text)
        to = _copy_lower(to, at, at + PyBytes_GET_SIZE(text))
    return joined, is_plain


def cookie_text(bytes line not None):
    """Compiled `normalization.cookie_text`."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(line)
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(line)
    cdef const uint8_t* end = at + length
    cdef const uint8_t* pair_end
    cdef const uint8_t* stop
    cdef const uint8_t* equals
    cdef uint8_t* to
    cdef bytes text
    cdef int kinds = _kind_of(line)
    if kinds & CHANGES or memchr(at, c"%", length) is not NULL:
        return reference._cookie_text(line)
    text = PyBytes_FromStringAndSize(NULL, 2 * length + 2)  # at most a separator for each character, and one
    to = <uint8_t*>PyBytes_AS_STRING(text)
    while True:
        pair_end = <const uint8_t*>memchr(at, c";", end - at)
        if pair_end is NULL:
            pair_end = end
        stop = pair_end
        while at < stop and at[0] == c" ":
            at += 1
        while at < stop and (stop - 1)[0] == c" ":
            stop -= 1
        equals = <const uint8_t*>memchr(at, c"=", stop - at)
        if equals is NULL:
            equals = stop
        to = _copy_lower(to, at, equals)
        to[0] = 0
        to += 1
        if equals < stop:
            to = _copy_lower(to, equals + 1, stop)
        if pair_end == end:
            break
        to[0] = 0
        to += 1
        at = pair_end + 1
    return text[: to - <uint8_t*>PyBytes_AS_STRING(text)], not kinds & IS_NOT_PLAIN
