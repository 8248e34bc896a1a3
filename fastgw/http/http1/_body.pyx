# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled `llhttp` and `body`.

Bodies are checked as they are received, so llhttp cannot be asked again: the compiled module refuses a body itself
where llhttp does, with the error messages of the reference.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from httptools import HttpParserError

from fastgw.http.http1 import body
from fastgw.http.http1.llhttp import disagreement, refusal
from fastgw.http.malformed import Malformed


cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject** taken, Py_ssize_t length) except -1


@cython.final
@cython.no_gc
cdef class BodyBuffer:
    """A buffer whose memory becomes the bytes object that is returned by `taken`. It has to be taken by the next call,
    or never: it must not be written to afterwards.

    PERF: copying 32 KiB takes 0.8 us; without a copy, twice as much data fits the CPU caches.
    """

    def __init__(self, Py_ssize_t size):
        self._size = size

    def __len__(self):
        return self._size

    def __getbuffer__(self, Py_buffer* view, int flags):
        if self._bytes is None:
            self._bytes = PyBytes_FromStringAndSize(NULL, self._size)
        PyBuffer_FillInfo(view, self, PyBytes_AS_STRING(self._bytes), self._size, 0, flags)

    cdef bytes take_bytes(self, Py_ssize_t length):
        cdef PyObject* taken
        if self._bytes is None or not 0 <= length <= self._size:
            raise ValueError("nothing was read")
        if 2 * length < self._size:
            return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self._bytes), length)
        taken = <PyObject*>self._bytes
        Py_INCREF(self._bytes)
        self._bytes = None
        if length < self._size:
            _PyBytes_Resize(&taken, length)
        chunk = <bytes>taken
        Py_DECREF(chunk)
        return chunk


@cython.final
@cython.no_gc
cdef class Window:
    """Bytes that llhttp reads during one call, without a copy. Empty at all other times."""

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
    """llhttp parser of one message from its first byte to its last, or of several consecutive messages."""

    def __init__(self, parser):
        self._seen = Seen()
        self._feed_data = parser(self._seen).feed_data

    cdef bint _feed(self, const uint8_t* at, Py_ssize_t length) except -1:
        """False: llhttp refuses; the reason is in `_refusal`."""
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

    cdef bint agrees_on_head(self, const uint8_t* at, Py_ssize_t length, bint body_follows) except -1:
        """Whether this is exactly one head, and a body follows or does not."""
        return self.agrees_on_any_head(at, length) and self._seen.messages == (not body_follows)

    cdef bint agrees_on_any_head(self, const uint8_t* at, Py_ssize_t length) except -1:
        """Whether this is exactly one head, with or without a following body. The parser cannot be used afterwards."""
        self._seen.heads = self._seen.messages = 0
        return self._feed(at, length) and self._seen.heads == 1

    cdef bint agrees_on_whole(self, const uint8_t* at, Py_ssize_t length) except -1:
        """Whether this is exactly one message, which ends with the last byte."""
        self._seen.heads = self._seen.messages = 0
        return (
            self._feed(at, length - 1)
            and self._seen.messages == 0
            and self._feed(at + length - 1, 1)
            and self._seen.messages == 1
            and self._seen.heads == 1
        )

    cdef int _read_on(self, const uint8_t* at, Py_ssize_t length) except -1:
        """Read bytes after which the message continues. Raises `Malformed`."""
        if not self._feed(at, length):
            raise refusal("body", self._refusal) from self._refusal
        if self._seen.messages:
            raise disagreement()
        return 0

    cdef int _read_last(self, const uint8_t* at, Py_ssize_t length) except -1:
        """Read at least one byte, up to the last byte of the message. Raises `Malformed`."""
        self._read_on(at, length - 1)
        if not self._feed(at + length - 1, 1):
            raise refusal("body", self._refusal) from self._refusal
        if self._seen.messages != 1:
            raise disagreement()
        return 0

    def agrees(self, bytes head not None, body_follows):
        """Whether this is exactly one head, and a body follows as stated. `body_follows` None: llhttp cannot know."""
        cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(head)
        if body_follows is None:
            return self.agrees_on_any_head(at, PyBytes_GET_SIZE(head))
        return self.agrees_on_head(at, PyBytes_GET_SIZE(head), body_follows)

    def whole(self, bytes message not None):
        """Whether this is exactly one message with a body."""
        return self.agrees_on_whole(<const uint8_t*>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message))

    def body(self, bytes chunk not None):
        """Compiled `llhttp.SecondParser.body`."""
        self._read_on(<const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))

    def last(self, bytes chunk not None):
        """Compiled `llhttp.SecondParser.last`."""
        self._read_last(<const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))


@cython.final
@cython.no_gc
cdef class LengthReader:
    """Compiled `body.LengthReader`."""

    trailers = ()
    in_line = False

    @property
    def assured(self):
        return self._left

    def __init__(self, long long length, SecondParser second_parser):
        self._left = length
        self._second_parser = second_parser
        self.done = length == 0
        self.rest = b""

    def feed(self, bytes chunk not None):
        cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(chunk)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(chunk)
        if self.done or self._second_parser is None:
            self.rest += chunk
            return b""
        if length < self._left:
            self._second_parser._read_on(at, length)
            self._left -= length
            return chunk
        cdef Py_ssize_t left = self._left
        self._second_parser._read_last(at, left)
        self._left = 0
        self.done = True
        if length == left:
            return chunk
        self.rest = PyBytes_FromStringAndSize(<const char*>at + left, length - left)
        return PyBytes_FromStringAndSize(<const char*>at, left)

    def eof(self):
        if not self.done:
            raise Malformed("The connection was closed before the body was complete.")


@cython.final
@cython.no_gc
cdef class UntilCloseReader:
    """Compiled `body.UntilCloseReader`."""

    cdef SecondParser _second_parser
    cdef readonly bint done

    rest = b""
    assured = body.ENDLESS
    trailers = ()
    in_line = False

    def __init__(self, SecondParser second_parser not None):
        self._second_parser = second_parser

    def feed(self, bytes chunk not None):
        self._second_parser._read_on(<const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))
        return chunk

    def eof(self):
        self.done = True


# --- chunks ---

cdef enum:
    MOST_DIGITS = 16  # a size with this many digits fits 64 bits

cdef struct Place:
    # State within a chunked body.
    uint64_t left  # remaining payload bytes of the current chunk
    bint line_end  # the line end after a chunk's payload is still to come
    bint ended  # after the empty line that ends the body


cdef inline bint _is_line_end(const uint8_t* at, const uint8_t* end) noexcept nogil:
    return end - at >= 2 and at[0] == c"\r" and at[1] == c"\n"


cdef inline int _digit(uint8_t code) noexcept nogil:
    """Return the value of a hexadecimal digit; -1: invalid."""
    if c"0" <= code <= c"9":
        return code - c"0"
    code |= 0x20
    return code - c"a" + 10 if c"a" <= code <= c"f" else -1


cdef const uint8_t* _read_chunks(
    const uint8_t* at, const uint8_t* end, Place* place, char* out, Py_ssize_t* length
) noexcept nogil:
    """Read up to `end`, the end of the body, or a line that is not plain or incomplete; return the position.

    `length`: bytes of payload so far, copied to `out` unless that is NULL.
    """
    cdef const uint8_t* line
    cdef const uint8_t* first_digit
    cdef uint64_t piece, size
    cdef int digit
    while at < end:
        if place.left:
            piece = min(place.left, <uint64_t>(end - at))
            if out is not NULL:
                memcpy(out + length[0], at, piece)
            length[0] += piece
            place.left -= piece
            at += piece
            continue
        if place.line_end:
            if not _is_line_end(at, end):
                return at
            place.line_end = False
            at += 2
            continue
        first_digit = line = at
        size = 0
        while line < end and line - first_digit < MOST_DIGITS and (digit := _digit(line[0])) >= 0:
            size = 16 * size + digit
            line += 1
        if line == first_digit or not _is_line_end(line, end):
            return at
        line += 2
        if not size:
            if not _is_line_end(line, end):
                return at
            place.ended = True
            return line + 2
        place.left = size
        place.line_end = True
        at = line
    return at


cdef bytes plain_payload(const uint8_t* at, const uint8_t* end):
    """Compiled `body.plain_payload`, for the bytes from `at` to `end`."""
    cdef Place place = Place(0, False, False)
    cdef Py_ssize_t length = 0
    cdef bytes payload
    if end - at < 5 or memcmp(end - 5, b"0\r\n\r\n", 5):  # detects most incomplete bodies
        return None
    if _read_chunks(at, end, &place, NULL, &length) is not end or not place.ended:
        return None
    payload = PyBytes_FromStringAndSize(NULL, length)
    place = Place(0, False, False)
    length = 0
    _read_chunks(at, end, &place, PyBytes_AS_STRING(payload), &length)
    return payload


@cython.final
@cython.no_gc
cdef class ChunkedReader:
    """Compiled `body.ChunkedReader`: reads chunks without extensions, and ends without trailers.

    Other lines and incomplete ones are read by a reader of the reference, which continues to the end only in trailers.
    """

    assured = 0

    cdef SecondParser _second_parser
    cdef object _reference
    cdef Py_ssize_t _longest_trailers
    cdef Py_ssize_t _most_trailers
    cdef bint _handed_over  # the reference is in the middle of a line
    cdef Place _place
    cdef readonly bint done
    cdef readonly bytes rest

    def __init__(
        self,
        SecondParser second_parser not None,
        Py_ssize_t longest_trailers=body.LONGEST_TRAILERS,
        Py_ssize_t most_trailers=body.MOST_TRAILERS,
    ):
        self._second_parser = second_parser
        self._longest_trailers, self._most_trailers = longest_trailers, most_trailers
        self.rest = b""

    @property
    def trailers(self):
        return () if self._reference is None else self._reference.trailers

    @property
    def in_line(self):
        return self._handed_over and self._reference.in_line

    def feed(self, bytes chunk not None):
        cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(chunk)
        cdef const uint8_t* end = start + PyBytes_GET_SIZE(chunk)
        cdef const uint8_t* at = start
        cdef const uint8_t* stop
        cdef Place place
        cdef Py_ssize_t length
        cdef bytes payload
        cdef list pieces = None
        if self.done:
            self.rest += chunk
            return b""
        if not self._handed_over and self._place.left >= <uint64_t>(end - start):
            self._second_parser._read_on(start, end - start)
            self._place.left -= end - start
            return chunk
        while at < end and not self.done:
            if self._handed_over:
                stop = at
                payload = b""
            else:
                place = self._place
                length = 0
                stop = _read_chunks(at, end, &place, NULL, &length)  # the length first, so that nothing is copied twice
                payload = PyBytes_FromStringAndSize(NULL, length)
                length = 0
                _read_chunks(at, stop, &self._place, PyBytes_AS_STRING(payload), &length)
                if self._place.ended:
                    self._second_parser._read_last(at, stop - at)
                    self.done = True
                    self.rest = chunk[stop - start:]
                elif stop is not at:
                    self._second_parser._read_on(at, stop - at)
            if pieces is None:
                if stop is end or self.done:
                    return payload
                pieces = []
            pieces.append(payload)
            at = stop
            if at is not end and not self.done:
                stop = self._end_of_special(at, end)
                pieces.append(self._feed_reference(chunk[at - start:stop - start]))
                at = stop
        return b"" if pieces is None else b"".join(pieces)

    cdef const uint8_t* _end_of_special(self, const uint8_t* at, const uint8_t* end) except NULL:
        """Return the position up to which the reference reads: the end of a line; in trailers, everything received.

        PERF: chunks of one byte, in reads of 2 KiB that split one: 0.06 us each; 2 us if the reference continued to the
        end of the received data (CPython 3.11, by hand).
        """
        cdef const void* line_end
        if not (self._handed_over and self._reference.in_trailers):
            line_end = memchr(at, c"\n", end - at)
            if line_end is not NULL:
                return <const uint8_t*>line_end + 1
        return end

    cdef bytes _feed_reference(self, bytes chunk):
        cdef bytes payload
        if self._reference is None:
            self._reference = body.ChunkedReader(self._second_parser, self._longest_trailers, self._most_trailers)
        if not self._handed_over:
            self._reference.skip_chunks(self._place.line_end)
        payload = self._reference.feed(chunk)
        self.done = self._reference.done
        self.rest = self._reference.rest
        left = self._reference.chunk_bytes_left()
        self._handed_over = left is None
        if left is not None:
            self._place.left = left
            self._place.line_end = True
        return payload

    def eof(self):
        if not self.done:
            raise Malformed("The connection was closed before the last chunk.")
