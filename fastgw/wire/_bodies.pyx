# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled twin of `llhttp`, and of the readers in `body` that pass bodies on as they come.

Bodies are judged as they stream by, so nothing can be read again: here the twin refuses for itself, in the words of
the reference.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from httptools import HttpParserError

from fastgw.wire.llhttp import disagreement, refusal
from fastgw.wire.malformed import Malformed


@cython.final
@cython.no_gc
cdef class Window:
    """Some bytes lent to llhttp for one call, without a copy. Empty at all other times."""

    cdef const unsigned char* at
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, <void*>self.at, self.length, 1, flags)


cdef Window _window = Window()  # one for all: llhttp calls nothing that could feed it anew


@cython.final
@cython.no_gc
cdef class Seen:
    """What llhttp came across. Held by the parser, which holds nothing else of ours: no reference cycle."""

    def on_headers_complete(self):
        self.heads += 1

    def on_message_complete(self):
        self.messages += 1


@cython.final
@cython.no_gc  # no cycle: the parser knows `Seen` alone
cdef class SecondJudge:
    """llhttp following one message from its first byte to its last, or several, one behind the other."""

    def __init__(self, parser):
        self._seen = Seen()
        self._feed_data = parser(self._seen).feed_data

    cdef bint _feed(self, const unsigned char* at, Py_ssize_t length) except -1:
        """False: llhttp refuses; `_refusal` says why."""
        _window.at = at
        _window.length = length
        try:
            self._feed_data(_window)
        except HttpParserError as error:
            self._refusal = error
            return False
        finally:
            _window.at = NULL
            _window.length = 0
        return True

    cdef bint agrees_on_head(self, const unsigned char* at, Py_ssize_t length, bint body_follows) except -1:
        """Whether this is exactly one head, and a body follows or does not."""
        return self.agrees_on_any_head(at, length) and self._seen.messages == (not body_follows)

    cdef bint agrees_on_any_head(self, const unsigned char* at, Py_ssize_t length) except -1:
        """Whether this is exactly one head; whether a body follows, llhttp cannot know. It is of no use after this."""
        self._seen.heads = self._seen.messages = 0
        return self._feed(at, length) and self._seen.heads == 1

    cdef bint agrees_on_whole(self, const unsigned char* at, Py_ssize_t length) except -1:
        """Whether this is exactly one message, which ends with the last byte and not before."""
        self._seen.heads = self._seen.messages = 0
        return (
            self._feed(at, length - 1)
            and self._seen.messages == 0
            and self._feed(at + length - 1, 1)
            and self._seen.messages == 1
            and self._seen.heads == 1
        )

    cdef int _read_on(self, const unsigned char* at, Py_ssize_t length) except -1:
        """Read bytes behind which the message goes on. Raises `Malformed`."""
        if not self._feed(at, length):
            raise refusal("body", self._refusal) from self._refusal
        if self._seen.messages:
            raise disagreement()
        return 0

    cdef int _read_last(self, const unsigned char* at, Py_ssize_t length) except -1:
        """Read bytes, at least one, the last of which is the message's last. Raises `Malformed`."""
        self._read_on(at, length - 1)
        if not self._feed(at + length - 1, 1):
            raise refusal("body", self._refusal) from self._refusal
        if self._seen.messages != 1:
            raise disagreement()
        return 0

    def agrees(self, bytes head not None, body_follows):
        """Whether this is exactly one head, and a body follows or does not. `body_follows` None: it cannot know."""
        cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(head)
        if body_follows is None:
            return self.agrees_on_any_head(at, PyBytes_GET_SIZE(head))
        return self.agrees_on_head(at, PyBytes_GET_SIZE(head), body_follows)

    def whole(self, bytes message not None):
        """Whether this is exactly one message with a body."""
        return self.agrees_on_whole(<const unsigned char*>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message))

    def body(self, bytes chunk not None):
        """As `llhttp.SecondJudge.body`."""
        self._read_on(<const unsigned char*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))

    def last(self, bytes chunk not None):
        """As `llhttp.SecondJudge.last`."""
        self._read_last(<const unsigned char*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))


@cython.final
@cython.no_gc
cdef class LengthReader:
    """The twin of `body.LengthReader`."""

    trailers = ()

    def __init__(self, long long length, SecondJudge judge):
        self._left = length
        self._judge = judge
        self.done = length == 0
        self.rest = b""

    def feed(self, bytes chunk not None):
        cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(chunk)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(chunk)
        if self.done or self._judge is None:
            self.rest += chunk
            return b""
        if length < self._left:
            self._judge._read_on(at, length)
            self._left -= length
            return chunk
        cdef Py_ssize_t left = self._left
        self._judge._read_last(at, left)
        self._left = 0
        self.done = True
        if length == left:
            return chunk
        self.rest = PyBytes_FromStringAndSize(<const char*>at + left, length - left)
        return PyBytes_FromStringAndSize(<const char*>at, left)

    def eof(self):
        if not self.done:
            raise Malformed("The connection ended before the body did.")


@cython.final
@cython.no_gc
cdef class UntilCloseReader:
    """The twin of `body.UntilCloseReader`."""

    cdef SecondJudge _judge
    cdef readonly bint done

    rest = b""
    trailers = ()

    def __init__(self, SecondJudge judge not None):
        self._judge = judge

    def feed(self, bytes chunk not None):
        self._judge._read_on(<const unsigned char*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))
        return chunk

    def eof(self):
        self.done = True
