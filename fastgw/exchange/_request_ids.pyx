# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""Compiled `request_ids`, for the usual header: nearly every request gets an id, so this avoids the interpreter.

Random bytes are read from the kernel for many ids at once; a forked process discards the unused bytes of its parent.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastgw.http.http1.parser cimport Http1RequestHead, Span, bits_of, has_one_line, line_of

import os

from fastgw.http.http1.lines import REQUEST_IDS

cdef enum:
    RANDOM_BYTES = 16
    AT_ONCE = 256 * RANDOM_BYTES
    LONGEST = 128

cdef uint8_t _random[AT_ONCE]
cdef Py_ssize_t _left = 0
cdef uint16_t _digits[256]  # two hexadecimal digits for each byte, in memory order
cdef uint32_t _X_REQUEST_ID = bits_of((b"x-request-id",))


def _forget():
    global _left
    _left = 0


cdef _set_up():
    cdef int code
    for code in range(256):
        memcpy(&_digits[code], PyBytes_AS_STRING(b"%02x" % code), 2)
    os.register_at_fork(after_in_child=_forget)


_set_up()


cdef bytes _made():
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


def made():
    """Create an id, as `request_ids.made` does."""
    return _made()


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


cdef bytes _line(bytes name):
    cdef Py_ssize_t length = PyBytes_GET_SIZE(name)
    cdef bytes line = PyBytes_FromStringAndSize(NULL, 14 + length + 2)
    cdef char* out = PyBytes_AS_STRING(line)
    memcpy(out, b"X-Request-Id: ", 14)
    memcpy(out + 14, PyBytes_AS_STRING(name), length)
    memcpy(out + 14 + length, b"\r\n", 2)
    return line


cdef bytes _NO_LINE = b""


cdef bytes line_for(Http1RequestHead head, bytes name):
    if head.names & _X_REQUEST_ID and has_one_line(head, _X_REQUEST_ID, name):
        return _NO_LINE
    return _line(name)


cdef bint is_replaced(Http1RequestHead head, bytes line) noexcept:
    """Whether the head has a different id from the one in `line_for`."""
    return head.names & _X_REQUEST_ID and PyBytes_GET_SIZE(line)


cdef bint is_as_read(Http1RequestHead head) noexcept:
    return head._fields is None


@cython.final
cdef class RequestIds:
    """Compiled `RequestIds` for unchanged heads that `_parser` has read; others are left to the reference."""

    is_usual = True

    def __init__(self, plain, bint trusts):
        self._plain = plain
        self._trusts = trusts

    cdef bytes made_for(self, Http1RequestHead head):
        cdef const char* text
        cdef Span sent
        if self._trusts and head.names & _X_REQUEST_ID:
            sent = line_of(head, _X_REQUEST_ID).value
            text = PyBytes_AS_STRING(head.source) + sent.start
            if _acceptable(text, sent.length):
                return PyBytes_FromStringAndSize(text, sent.length)
        return _made()

    def of(self, head):
        """Return the id of a request, as `RequestIds.of` does."""
        if type(head) is Http1RequestHead and is_as_read(<Http1RequestHead>head):
            return self.made_for(<Http1RequestHead>head)
        return self._plain.of(head)

    def identify(self, exchange):
        """Identify an exchange, as `RequestIds.identify` does."""
        cdef bytes name, line
        head = exchange.head
        if type(head) is not Http1RequestHead or not is_as_read(<Http1RequestHead>head) or exchange.request_added:
            self._plain.identify(exchange)
            return
        exchange.request_id = exchange.id_shown = name = self.made_for(<Http1RequestHead>head)
        exchange.request_added = line = line_for(<Http1RequestHead>head, name)
        if is_replaced(<Http1RequestHead>head, line):
            exchange.request_dropped |= REQUEST_IDS

    def resume(self, exchange, request_id):
        self._plain.resume(exchange, request_id)

    def line(self, request_id):
        return self._plain.line(request_id)

    def take_back(self, exchange):
        self._plain.take_back(exchange)

    def add_to_response(self, exchange):
        self._plain.add_to_response(exchange)
