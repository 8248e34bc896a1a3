# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Texts in which rules are searched: decoded, normalized and joined.

Texts that normalization only turns into lower case are copied, and texts with quotes are copied with and without
them. Others are normalized by `normalization`.
"""

from urllib.parse import unquote_to_bytes

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memchr

from fastgw.filters.policies.waf.normalization import DECODINGS, PLAIN, SEPARATOR, normalized, unicode_decoded

cdef enum:
    CHANGES = 1  # normalization does more with this character than to turn it into lower case
    IS_NOT_PLAIN = 2
    IS_SEMICOLON = 4  # not plain either, but for what separates cookies
    IS_QUOTE = 8  # a variant of the text is without it

cdef enum:
    NO_DIGIT = 16

cdef uint8_t[256] _kinds
cdef uint8_t[256] _digits
cdef bytes _SEPARATOR = SEPARATOR
cdef int _DECODINGS = DECODINGS


def _learn():
    for each in range(256):
        _kinds[each] = 0 if PLAIN(bytes((each,))) is not None else IS_NOT_PLAIN
        if each < 32 or each > 126 or each in b"\\$":
            _kinds[each] |= CHANGES
        _digits[each] = int(chr(each), 16) if each in b"0123456789abcdefABCDEF" else NO_DIGIT
    for each in b"'\"^":
        _kinds[each] |= IS_QUOTE
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
        elif last == c"&" and (at[0] == c"#" or c"a" <= at[0] | 32 <= c"z"):
            kind |= CHANGES
        elif at[0] == c"(" and (last == c"<" or last == c">"):
            kind |= CHANGES  # with a quote, an operator of a shell
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


cdef bytes _normalized(bytes text):
    """Return what `normalization.normalized` returns."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(text)
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(text)
    cdef const uint8_t* bare
    cdef const uint8_t* end
    cdef uint8_t* to
    cdef bytes variants
    cdef int kind = _kind_of(text)
    if kind & CHANGES:
        return normalized(text)
    if not kind & IS_QUOTE:
        return text.lower()
    variants = PyBytes_FromStringAndSize(NULL, 2 * length + 1)
    bare = <const uint8_t*>PyBytes_AS_STRING(variants)
    end = _copy_lower(<uint8_t*>bare, at, at + length)
    to = <uint8_t*>end
    to[0] = 0
    to += 1
    while bare < end:
        if not _kinds[bare[0]] & IS_QUOTE:
            to[0] = bare[0]
            to += 1
        bare += 1
    return variants[: to - <uint8_t*>PyBytes_AS_STRING(variants)]


def cookie_values(bytes line not None):
    """Return the names of the cookies in a line, each with its decoded name, and with its decoded value."""
    found = []
    for pair in line.split(b";"):
        name, _, value = pair.strip().partition(b"=")
        found += [(name, decoded(name, False)), (name, decoded(value, False))]
    return found


cdef bytes _decoded_with_unicode(bytes text, bint plus):
    cdef int number
    if plus:
        text = text.replace(b"+", b" ")
    for number in range(_DECODINGS):
        text = unquote_to_bytes(unicode_decoded(text))
    return text


def decoded(bytes text not None, bint plus):
    """Return the text percent-decoded, up to `DECODINGS` times. `plus`: `+` is a space, as in a query."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(text)
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(text)
    cdef const uint8_t* end = at + length
    cdef uint8_t* begin
    cdef uint8_t* to
    cdef bytes copy
    cdef int number
    if memchr(at, c"%", length) is NULL:
        return text.replace(b"+", b" ") if plus and memchr(at, c"+", length) is not NULL else text
    copy = PyBytes_FromStringAndSize(NULL, length)
    begin = to = <uint8_t*>PyBytes_AS_STRING(copy)
    while at < end:
        to[0] = c" " if plus and at[0] == c"+" else at[0]
        at += 1
        to += 1
    for number in range(_DECODINGS):
        at = begin
        end = to
        to = begin
        while at < end:
            if at[0] == c"%" and end - at > 1:
                if at[1] | 32 == c"u":
                    return _decoded_with_unicode(text, plus)
                if end - at > 2 and _digits[at[1]] != NO_DIGIT and _digits[at[2]] != NO_DIGIT:
                    to[0] = _digits[at[1]] << 4 | _digits[at[2]]
                    to += 1
                    at += 3
                    continue
            to[0] = at[0]
            to += 1
            at += 1
    return copy[: to - begin]


def search_text(texts):
    """Return texts normalized, with `SEPARATOR` between them, and whether all of them are plain (`PLAIN`)."""
    cdef tuple held = tuple(texts)
    cdef int kinds = 0
    cdef bytes text
    for text in held:
        kinds |= _kind_of(text)
    is_plain = not kinds & (IS_NOT_PLAIN | IS_SEMICOLON)
    if kinds & (CHANGES | IS_QUOTE):
        return _SEPARATOR.join([_normalized(text) for text in held]), is_plain
    return _SEPARATOR.join(held).lower(), is_plain


def plain_target(bytes path not None, bytes query, Py_ssize_t most):
    """Return path and query in lower case, with `SEPARATOR` between the path, the names and the values. None: there is
    more to normalize, or there are more than `most` parameters.
    """
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(path)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(path)
    cdef uint8_t* to
    cdef bytes text
    cdef bint has_value = False
    cdef Py_ssize_t length = PyBytes_GET_SIZE(path)
    if query:
        length += 1 + PyBytes_GET_SIZE(query)
    text = PyBytes_FromStringAndSize(NULL, length)
    to = <uint8_t*>PyBytes_AS_STRING(text)
    while at < end:
        if _kinds[at[0]] & (IS_NOT_PLAIN | IS_SEMICOLON):
            return None
        to[0] = at[0] + 32 if c"A" <= at[0] <= c"Z" else at[0]
        at += 1
        to += 1
    if not query:
        return text
    to[0] = 0
    to += 1
    at = <const uint8_t*>PyBytes_AS_STRING(query)
    end = at + PyBytes_GET_SIZE(query)
    while at < end:
        if at[0] == c"&":
            most -= 1
            has_value = False
            to[0] = 0
        elif at[0] == c"=":
            if has_value:
                return None
            has_value = True
            to[0] = 0
        elif at[0] == c" " or _kinds[at[0]] & (IS_NOT_PLAIN | IS_SEMICOLON):
            return None
        else:
            to[0] = at[0] + 32 if c"A" <= at[0] <= c"Z" else at[0]
        at += 1
        to += 1
    return text if most > 0 else None


def cookie_text(bytes line not None):
    """Return the names and values of the cookies in a line as `search_text` does."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(line)
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(line)
    cdef const uint8_t* end = at + length
    cdef const uint8_t* pair_end
    cdef const uint8_t* stop
    cdef const uint8_t* equals
    cdef uint8_t* to
    cdef bytes text
    cdef int kinds = _kind_of(line)
    if kinds & (CHANGES | IS_QUOTE) or memchr(at, c"%", length) is not NULL:
        return search_text([text for _, text in cookie_values(line)])
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
