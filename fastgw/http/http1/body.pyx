# cython: language_level=3, boundscheck=False, wraparound=False
"""Body readers, and the buffer that bodies are read into."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from fastgw.http.http1.second_parser cimport SecondParser
from fastgw.http.messages cimport Head, ResponseHead

import re

from fastgw.http.grammar import TOKEN, VALUE
from fastgw.http.http1.trailers import LONGEST_TRAILERS as _LONGEST_TRAILERS
from fastgw.http.http1.trailers import MOST_TRAILERS, TRAILERS_TOO_LARGE, parse_trailers
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


cdef class BodyReader:
    def __cinit__(self, *_):
        self.rest = b""
        self.trailers = ()

    cpdef bytes feed(self, bytes chunk):
        raise NotImplementedError

    cpdef long long bytes_assured(self) except -1:
        return 0

    cpdef bint is_in_line(self) except -1:
        return False

    def eof(self):
        raise NotImplementedError


cdef class LengthReader(BodyReader):
    def __init__(self, long long length):
        self._left = length
        self.done = length == 0

    cpdef long long bytes_assured(self) except -1:
        return self._left

    cpdef bytes feed(self, bytes chunk):
        if chunk is None:
            raise TypeError("expected bytes")
        cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(chunk)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(chunk)
        if self.done:
            self.rest += chunk
            return b""
        if length < self._left:
            self._left -= length
            return chunk
        cdef Py_ssize_t left = self._left
        self._left = 0
        self.done = True
        if length == left:
            return chunk
        self.rest = PyBytes_FromStringAndSize(<const char*>at + left, length - left)
        return PyBytes_FromStringAndSize(<const char*>at, left)

    def eof(self):
        if not self.done:
            raise Malformed("The connection was closed before the body was complete.")


cdef class UntilCloseReader(BodyReader):
    cpdef long long bytes_assured(self) except -1:
        return <long long>1 << 62

    cpdef bytes feed(self, bytes chunk):
        if chunk is None:
            raise TypeError("expected bytes")
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


LONGEST_EXTENSIONS = 4096

_QUOTED = rb'"(?>(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\' + VALUE + rb')*)"'
# Sizes of at most 16 digits fit 64 bits and leave no room for a flood of zeros. White space around the semicolon is
# legal but obsolete (RFC 9112 section 7.1.1), and llhttp refuses it as well.
_SIZE_LINE = rb"([0-9A-Fa-f]{1,16}+)((?>(?:;" + TOKEN + rb"++(?>(?:=(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?))*))\r\n"
_SIZE_LINE_BEGUN = rb"[0-9A-Fa-f]{1,16}+(?>(?:;[^\r\n]{0,%d}+)?)\r?" % LONGEST_EXTENSIONS

# The bytes before the payload of a chunk, and the pattern for an incomplete part of them.
cdef tuple _FIRST_CHUNK = (re.compile(_SIZE_LINE), re.compile(_SIZE_LINE_BEGUN))
cdef tuple _NEXT_CHUNK = (re.compile(rb"\r\n" + _SIZE_LINE), re.compile(rb"\r(?:\n(?:" + _SIZE_LINE_BEGUN + rb")?)?"))


cdef class ChunkedReader(BodyReader):
    # No bytes are assured: the next ones may be framing.
    cdef SecondParser _second_parser
    cdef Py_ssize_t _longest_trailers
    cdef Py_ssize_t _most_trailers
    cdef Py_ssize_t _extensions
    cdef Place _place
    cdef bytes _held  # an incomplete size line, with the line end before it, or trailer section
    cdef bint _in_trailers

    def __init__(
        self,
        SecondParser second_parser not None,
        Py_ssize_t longest_trailers=_LONGEST_TRAILERS,
        Py_ssize_t most_trailers=MOST_TRAILERS,
    ):
        self._second_parser = second_parser
        self._longest_trailers, self._most_trailers = longest_trailers, most_trailers
        self._held = b""

    cpdef bint is_in_line(self) except -1:
        return self._in_trailers or self._held.strip(b"\r\n") != b""  # the line end of a chunk belongs to it

    cpdef bytes feed(self, bytes chunk):
        if chunk is None:
            raise TypeError("expected bytes")
        cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(chunk)
        cdef const uint8_t* end = start + PyBytes_GET_SIZE(chunk)
        cdef const uint8_t* at = start
        cdef const uint8_t* stop
        cdef Place place
        cdef Py_ssize_t length
        cdef bytes payload = b""
        cdef list pieces = None
        if self.done:
            self.rest += chunk
            return b""
        if self._place.left >= <uint64_t>(end - start):
            self._second_parser.read_on(start, end - start)
            self._place.left -= end - start
            return chunk
        while at < end and not self.done:
            if self._in_trailers or self._held:
                at = self._read_odd(at, end)
                continue
            place = self._place
            length = 0
            stop = _read_chunks(at, end, &place, NULL, &length)  # the length first, so that nothing is copied twice
            if stop is at:
                at = self._read_odd(at, end)
                continue
            if length:
                if payload:
                    pieces = [payload] if pieces is None else pieces
                payload = PyBytes_FromStringAndSize(NULL, length)
                if pieces is not None:
                    pieces.append(payload)
            length = 0
            _read_chunks(at, stop, &self._place, PyBytes_AS_STRING(payload), &length)
            if self._place.ended:
                self._second_parser.read_last(at, stop - at)
                self.done = True
            else:
                self._second_parser.read_on(at, stop - at)
            at = stop
        if at is not end:
            self.rest = chunk[at - start:]
        return payload if pieces is None else b"".join(pieces)

    cdef const uint8_t* _read_odd(self, const uint8_t* at, const uint8_t* end) except NULL:
        """Read a size line with extensions, a part of one, or trailers, up to the end of the line or of what was
        received, and return the position after it.

        PERF: chunks of one byte, in reads of 2 KiB that split one: 0.06 us each; 2 us if all that was received behind a
        split were read here (CPython 3.11, by hand).
        """
        cdef const uint8_t* stop = end
        cdef const uint8_t* line_end
        cdef bytes received
        cdef Py_ssize_t before = PyBytes_GET_SIZE(self._held), found
        if not self._in_trailers:
            line_end = <const uint8_t*>memchr(at, c"\n", end - at)
            if line_end is not NULL:
                stop = line_end + 1
        received = PyBytes_FromStringAndSize(<const char*>at, stop - at)
        if before:
            received = self._held + received
        if self._in_trailers:
            found = received.find(b"\r\n\r\n", max(0, before - 3))  # what is held was searched before
            if found >= 0:
                found += 4
                self.trailers = parse_trailers(received[:found], self._longest_trailers, self._most_trailers)
                self._second_parser.read_last(at, found - before)
                self.done = True
                self._held = b""
                return at + found - before
            if PyBytes_GET_SIZE(received) > self._longest_trailers:
                raise Malformed(TRAILERS_TOO_LARGE, 431)
        else:
            received = self._size_line(received)
        self._second_parser.read_on(at, stop - at)
        self._held = received
        return stop

    cdef bytes _size_line(self, bytes line):
        """Read a line, and return what is held of it: all if it is incomplete."""
        whole, begun = _NEXT_CHUNK if self._place.line_end else _FIRST_CHUNK
        read = whole.match(line)
        if read is None:
            if begun.fullmatch(line) is None:
                raise Malformed("A chunk is malformed: its size is invalid, or its data does not have that size.")
            return line
        self._extensions += len(read[2])
        if self._extensions > LONGEST_EXTENSIONS:
            raise Malformed("The chunk extensions are too long.")
        self._place.left = int(read[1], 16)
        self._place.line_end = True
        self._in_trailers = not self._place.left
        return b"\r\n" if self._in_trailers else b""  # the empty line that ends a trailer section may be that line end

    def eof(self):
        if not self.done:
            raise Malformed("The connection was closed before the last chunk.")


def body_reader(
    Head head not None,
    Py_ssize_t longest_trailers=_LONGEST_TRAILERS,
    Py_ssize_t most_trailers=MOST_TRAILERS,
):
    if type(head) is ResponseHead:
        if not (<ResponseHead>head).has_body:
            return LengthReader(0)
        if not head.chunked and (<ResponseHead>head).until_close:
            return UntilCloseReader()
    if head.chunked:
        return ChunkedReader(head._second_parser, longest_trailers, most_trailers)
    return LengthReader(head.length)
