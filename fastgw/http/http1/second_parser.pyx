# cython: language_level=3, boundscheck=False, wraparound=False
"""Second parser: llhttp, fed with the bytes that the first parser has read, without a copy."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from httptools import HttpParserError, HttpParserUpgrade

from fastgw.http.malformed import Malformed

# Errors of llhttp for unknown methods, methods of RTSP only, those that begin like a known one, and PRI.
_UNKNOWN_METHOD = ("Invalid method", "Expected space after method", "Expected HTTP/2 Connection Preface")


@cython.final
@cython.no_gc
cdef class Window:
    """Bytes that llhttp reads during one call. Empty at all other times."""

    cdef const uint8_t* at
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, <void*>self.at, self.length, 1, flags)


cdef Window _window = Window()  # shared, because llhttp calls nothing that feeds it again


@cython.final
@cython.no_gc
cdef class Seen:
    """Counters of llhttp's results. The parser refers to them and to no other object of ours: no reference cycle."""

    def on_headers_complete(self):
        self.heads += 1

    def on_message_complete(self):
        self.messages += 1


@cython.final
@cython.no_gc  # no cycle: the parser refers to `Seen` only
cdef class SecondParser:
    def __init__(self, kind):
        self._seen = Seen()
        self._feed_data = kind(self._seen).feed_data

    cdef bint _feed(self, const uint8_t* at, Py_ssize_t length) except -1:
        """False: llhttp refuses; the reason is in `_refusal`."""
        _window.at = at
        _window.length = length
        try:
            self._feed_data(_window)
        except BaseException as error:
            _window.at = NULL
            _window.length = 0
            if isinstance(error, HttpParserUpgrade):  # CONNECT, an offer to upgrade, or a 101: HTTP ends here
                self._upgraded_at = error.args[0]
                return True
            if not isinstance(error, HttpParserError):
                raise
            self._refusal = error
            return False
        _window.at = NULL
        _window.length = 0
        return True

    cdef int read_head(self, const uint8_t* at, Py_ssize_t length, int body_follows) except -1:
        self._seen.heads = self._seen.messages = 0
        self._upgraded_at = -1
        if not (
            self._feed(at, length)
            and (self._upgraded_at < 0 or self._upgraded_at == length)
            and self._seen.heads == 1
            and (body_follows == UNKNOWN or self._seen.messages == (not body_follows))
        ):
            raise self._refused("head")
        return 0

    cdef int read_on(self, const uint8_t* at, Py_ssize_t length) except -1:
        if not self._feed(at, length) or self._seen.messages:
            raise self._refused("body")
        return 0

    cdef int read_last(self, const uint8_t* at, Py_ssize_t length) except -1:
        self.read_on(at, length - 1)
        if not self._feed(at + length - 1, 1) or self._seen.messages != 1:
            raise self._refused("body")
        return 0

    def _refused(self, part):
        """Return the error for a head or body that llhttp refuses, or in which it finds another message."""
        if self._refusal is None:
            return disagreement()
        if part == "head" and str(self._refusal).startswith(_UNKNOWN_METHOD):
            return Malformed("The method is unknown; methods are case-sensitive.", 501)
        refused = Malformed(f"The {part} is not valid HTTP/1.1: {self._refusal}.")
        refused.__cause__ = self._refusal
        return refused

    def head(self, bytes raw not None, body_follows):
        self.read_head(_text(raw), PyBytes_GET_SIZE(raw), UNKNOWN if body_follows is None else body_follows)

    def body(self, bytes chunk not None):
        self.read_on(_text(chunk), PyBytes_GET_SIZE(chunk))

    def last(self, bytes chunk not None):
        self.read_last(_text(chunk), PyBytes_GET_SIZE(chunk))


cdef inline const uint8_t* _text(bytes content) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(content)


def disagreement():
    return Malformed("It is ambiguous where the message ends.")
