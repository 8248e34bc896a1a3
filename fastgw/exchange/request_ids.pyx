# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""Request ids: random bytes are read from the kernel for many ids at once; a forked process discards the unused bytes of
its parent.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastgw.http.messages cimport RequestHead, Span, bits_of, has_one_line, line_of

import os
from functools import lru_cache

from fastgw.http.field_names import READ_IN_REQUESTS
from fastgw.http.http1.lines import REQUEST_ID, id_line

cdef enum:
    RANDOM_BYTES = 16
    AT_ONCE = 256 * RANDOM_BYTES
    LONGEST = 128

cdef uint8_t _random[AT_ONCE]
cdef Py_ssize_t _left = 0
cdef uint16_t _digits[256]  # two hexadecimal digits for each byte, in memory order
cdef uint32_t _X_REQUEST_ID = bits_of((REQUEST_ID,))


def _forget():
    global _left
    _left = 0


cdef _set_up():
    cdef int code
    for code in range(256):
        memcpy(&_digits[code], PyBytes_AS_STRING(b"%02x" % code), 2)
    os.register_at_fork(after_in_child=_forget)


_set_up()


cpdef bytes made():
    global _left
    cdef bytes name, fresh
    cdef const uint8_t* source
    cdef uint16_t digits[RANDOM_BYTES]
    cdef int index
    if _left == 0:
        fresh = os.urandom(AT_ONCE)
        memcpy(_random, PyBytes_AS_STRING(fresh), AT_ONCE)
        _left = AT_ONCE
    _left -= RANDOM_BYTES
    source = &_random[_left]
    for index in range(RANDOM_BYTES):
        digits[index] = _digits[source[index]]
    return PyBytes_FromStringAndSize(<char*>digits, 2 * RANDOM_BYTES)


cdef enum:
    WORD = 8

cdef uint64_t _EACH = 0x0101010101010101
cdef uint64_t _HIGHEST = 0x8080808080808080


cdef inline uint64_t _odd(uint64_t word) noexcept nogil:
    """Nonzero if one of its bytes is not in `!` to `~`."""
    return ((word - 0x21 * _EACH) & ~word | word | (word + _EACH)) & _HIGHEST


cdef bint _acceptable(const char* text, Py_ssize_t length) noexcept nogil:
    cdef uint64_t word
    cdef Py_ssize_t at = 0
    if not 1 <= length <= LONGEST:
        return False
    while at + WORD <= length:
        memcpy(&word, text + at, WORD)
        if _odd(word):
            return False
        at += WORD
    if at < length:
        word = 0x21 * _EACH
        memcpy(&word, text + at, length - at)
        return not _odd(word)
    return True


cdef bytes _NO_LINE = b""


cdef bytes line_for(RequestHead head, bytes name):
    if head.names & _X_REQUEST_ID and has_one_line(head, _X_REQUEST_ID, name):
        return _NO_LINE
    return b"X-Request-Id: " + name + b"\r\n"  # as `id_line`


cdef bint is_as_read(RequestHead head) noexcept:
    return head._fields is None


@cython.final
cdef class RequestIds:
    def __init__(self, bytes header not None, bint trusts):
        self._lower = header.lower()
        self._trusts = trusts
        self._prefix = header + b": "
        self.dropped = frozenset((self._lower,))
        self._has_twins = self._lower not in READ_IN_REQUESTS  # for other names: similar names are forwarded
        self.is_usual = self._lower == REQUEST_ID

    cdef bytes made_for(self, RequestHead head):
        cdef const char* text
        cdef Span sent
        if self._trusts and head.names & _X_REQUEST_ID:
            sent = line_of(head, _X_REQUEST_ID).value
            text = PyBytes_AS_STRING(head.source) + sent.start
            if _acceptable(text, sent.length):
                return PyBytes_FromStringAndSize(text, sent.length)
        return made()

    cpdef bytes of(self, RequestHead head):
        cdef bytes name
        if self.is_usual and is_as_read(head):
            return self.made_for(head)
        name = head.first(self._lower) if self._trusts else None
        return made() if name is None or not _acceptable(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) else name

    def identify(self, exchange):
        exchange.identify(self)

    cpdef bytes sent_line(self, RequestHead head, bytes request_id):
        if self.is_usual and is_as_read(head):
            return line_for(head, request_id)
        if not self._has_twins and head.values(self._lower) == [request_id]:
            return _NO_LINE  # it is forwarded as received
        return self.line(request_id)

    cpdef bint replaces(self, RequestHead head) except -1:
        if self.is_usual and is_as_read(head):
            return head.names & _X_REQUEST_ID
        return self._has_twins or bool(head.values(self._lower))

    def line(self, bytes request_id not None):
        return id_line(request_id) if self.is_usual else self._prefix + request_id + b"\r\n"

    def take_back(self, exchange):
        exchange.request_added = exchange.request_added.removeprefix(self.line(exchange.request_id))
        exchange.request_dropped -= self.dropped
        exchange.request_id = exchange.id_shown = b""

    def add_to_response(self, exchange):
        assert exchange.response is not None
        exchange.response.dropped |= self.dropped
        exchange.add_response_fields(self.line(exchange.request_id))


request_ids = lru_cache(maxsize=64)(RequestIds)


def is_id_line(exchange):
    return exchange.request_added == id_line(exchange.id_shown)


def identify_anew(exchange, RequestIds before, RequestIds now):
    if before is not None:
        before.take_back(exchange)
    if now is not None:
        exchange.identify(now)
