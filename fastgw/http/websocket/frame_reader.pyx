# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""See `frame_reader.pyi`. UTF-8 is checked while the text is masked, and a chunk that is forwarded whole is returned
as it is, without a copy.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

import zlib

from fastgw.http.websocket import frames
from fastgw.http.websocket.frames import Refused

cdef extern from "_frames.h" nogil:
    ctypedef struct Text:
        uint8_t missing
    ctypedef struct Key:
        pass
    Key key_of(const uint8_t* four)
    void unmask(uint8_t* to, const uint8_t* source, size_t length, const Key* key, unsigned key_at)
    bint takes_text(Text* text, const uint8_t* source, size_t length, const Key* key, unsigned key_at)

cdef enum:
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10
    LONGEST_CONTROL = 125

cdef uint64_t UNLIMITED = ~<uint64_t>0
cdef Key NO_KEY = key_of(b"\0\0\0\0")
cdef bytes DEFLATE_TAIL = frames.DEFLATE_TAIL
cdef Py_ssize_t PIECE = frames.PIECE
cdef Py_ssize_t INFLATED_PER_CALL = frames.INFLATED_PER_CALL
cdef Py_ssize_t INFLATE_COST = frames.INFLATE_COST


@cython.final
@cython.no_gc  # no reference cycle: it refers to bytes, numbers and zlib only
cdef class FrameReader:
    cdef bint _masked
    cdef uint64_t _limit
    cdef object _deflate
    cdef object _inflater
    cdef Py_ssize_t _inflated
    cdef bytes _held
    cdef Py_ssize_t _resume_at
    cdef uint64_t _left
    cdef Key _key
    cdef unsigned _key_at
    cdef int _opcode
    cdef bint _message
    cdef bint _compressed
    cdef bint _checked
    cdef uint64_t _size
    cdef uint64_t _wire  # size of the payload of the message as it was sent
    cdef Text _text
    cdef readonly uint64_t texts
    cdef readonly uint64_t binaries
    cdef readonly uint64_t pings
    cdef readonly uint64_t pongs
    cdef readonly uint64_t frames
    cdef public object allowance
    cdef public bytes own_pong
    cdef readonly object close
    cdef readonly bint unfinished
    cdef readonly object violation
    cdef readonly list notes

    def __cinit__(self, bint masked, message_bytes=None, deflate=None, bint notes=False):
        self.notes = [] if notes else None
        self._masked = masked
        self._limit = UNLIMITED if message_bytes is None else min(message_bytes, 1 << 63)
        self._deflate = deflate
        self._inflater = None if deflate is None else zlib.decompressobj(-deflate.window_bits)
        self._held = b""
        self._key = NO_KEY

    @property
    def messages(self):
        return self.texts + self.binaries

    @property
    def at_boundary(self):
        return not self._left or self._resume_at > 0

    def limit_messages(self, message_bytes):
        self._limit = UNLIMITED if message_bytes is None else min(message_bytes, 1 << 63)

    def rest(self, bytes chunk not None):
        cdef bytes passed, behind = b""
        cdef Py_ssize_t end
        if not self._left or self._resume_at:
            self.unfinished = False
            return b""
        if PyBytes_GET_SIZE(self._held):
            chunk = self._held + chunk
            self._held = b""
        if <uint64_t>PyBytes_GET_SIZE(chunk) > self._left:
            end = <Py_ssize_t>self._left
            behind = PyBytes_FromStringAndSize(PyBytes_AS_STRING(chunk) + end, PyBytes_GET_SIZE(chunk) - end)
            chunk = PyBytes_FromStringAndSize(PyBytes_AS_STRING(chunk), end)
        passed = self.feed(chunk)
        if self.violation is None:
            self._held = self._held + behind
        return passed

    def feed(self, bytes chunk not None):
        cdef const uint8_t* start
        cdef Py_ssize_t at = self._resume_at, passed = 0, size, end, payload_at, begin = 0 if at else -1
        cdef int opcode
        cdef list cut = None
        self.unfinished = False
        self._inflated = self._resume_at = 0
        if self.notes is not None:
            self.notes.clear()
        if self.violation is not None or self.close is not None:
            return b""
        if PyBytes_GET_SIZE(self._held):
            chunk = self._held + chunk
            self._held = b""
        size = PyBytes_GET_SIZE(chunk)
        start = <const uint8_t*>PyBytes_AS_STRING(chunk)
        if at:
            self._count_message(start[0], 1)
        try:
            while at < size and self.close is None:
                if self._inflated >= INFLATED_PER_CALL:
                    self.unfinished = True
                    if self._left and begin >= 0:  # the frame is not forwarded before it is checked
                        self._count_message(start[begin], -1)
                        self._resume_at = at - begin
                        at = begin
                    self._held = PyBytes_FromStringAndSize(<const char*>start + at, size - at)
                    break
                if self._left:
                    end = size if self._left > <uint64_t>(size - at) else at + <Py_ssize_t>self._left
                    if self._checked:
                        end = at + self._check(start + at, end - at, self._message and <uint64_t>(end - at) == self._left)
                    self._left -= end - at
                    at = end
                    if not self._left:
                        self._end_frame()
                    continue
                begin = at
                payload_at = self._header_end(start, at, size)
                if not payload_at:
                    self._held = PyBytes_FromStringAndSize(<const char*>start + at, size - at)
                    break
                opcode = start[at] & 15
                if opcode < CLOSE:
                    at = payload_at
                    if not self._left:
                        if self._checked:
                            self._check(start + at, 0, self._message)
                        self._end_frame()
                    continue
                end = payload_at + (start[at + 1] & 127)
                if end > size:
                    self._held = PyBytes_FromStringAndSize(<const char*>start + at, size - at)
                    break
                if not self._take_control(opcode, self._control_payload(start + payload_at, end - payload_at)):
                    if cut is None:
                        cut = []
                    cut.append(PyBytes_FromStringAndSize(<const char*>start + passed, at - passed))
                    passed = end
                at = end
        except Refused as refused:
            self.violation = refused.violation
            if begin >= 0:  # the frame began in this chunk: nothing of it passes
                if at > begin:  # its header was accepted, and it is a data frame
                    self._count_message(start[begin], -1)
                self._left = 0
                at = begin
        if cut is None and at == size:
            return chunk
        part = PyBytes_FromStringAndSize(<const char*>start + passed, at - passed)
        if cut is None:
            return part
        cut.append(part)
        return b"".join(cut)

    cdef Py_ssize_t _header_end(self, const uint8_t* start, Py_ssize_t at, Py_ssize_t size) except -1:
        """Check the header of a frame; return where its payload begins. 0: it is not there as a whole."""
        cdef uint64_t length
        cdef Py_ssize_t end
        cdef int opcode, count, place
        self._check_first(start[at])
        if size - at < 2:
            return 0
        if (start[at + 1] >= 128) != self._masked:
            raise Refused(frames.PROTOCOL_ERROR, "frame without a mask" if self._masked else "frame with a mask")
        opcode = start[at] & 15
        length = start[at + 1] & 127
        end = at + 2
        if opcode >= CLOSE:
            if length > LONGEST_CONTROL or start[at] < 128:
                raise Refused(frames.PROTOCOL_ERROR, "control frame too long or in fragments")
        else:
            if length > 125:
                count = 2 if length == 126 else 8
                if size - end < count:
                    return 0
                length = 0
                for place in range(count):
                    length = length << 8 | start[end + place]
                end += count
                if length >> 63:
                    raise Refused(frames.PROTOCOL_ERROR, "length of a frame above 63 bits")
                if length < <uint64_t>(126 if count == 2 else 65536):
                    raise Refused(frames.PROTOCOL_ERROR, "length of a frame not in its shortest form")
            if self._limit != UNLIMITED:
                self._check_size(start[at], opcode, length)
        if self._masked:
            if size - end < 4:
                return 0
            end += 4
            self._key = key_of(start + end - 4) if opcode < CLOSE else self._key
        if opcode < CLOSE:
            self._begin_frame(start[at], opcode, length)
        return end

    cdef int _check_first(self, uint8_t first) except -1:
        cdef int opcode = first & 15, reserved = first & 0x70
        if not (opcode <= BINARY or CLOSE <= opcode <= PONG):
            raise Refused(frames.PROTOCOL_ERROR, "unknown opcode")
        if reserved and not (reserved == 0x40 and self._deflate is not None and (opcode == TEXT or opcode == BINARY)):
            raise Refused(frames.PROTOCOL_ERROR, "reserved bit set")
        if opcode == CONTINUATION and not self._opcode:
            raise Refused(frames.PROTOCOL_ERROR, "continuation without a message")
        if (opcode == TEXT or opcode == BINARY) and self._opcode:
            raise Refused(frames.PROTOCOL_ERROR, "message within a message")
        return 0

    cdef int _check_size(self, uint8_t first, int opcode, uint64_t length) except -1:
        if self._compressed if opcode == CONTINUATION else (first & 0x40) != 0:
            if length > self._limit + self._limit // 256 + 64:  # of what cannot be compressed
                raise Refused(frames.TOO_BIG, "message too big")
        elif length + (self._size if opcode == CONTINUATION else 0) > self._limit:
            raise Refused(frames.TOO_BIG, "message too big")
        return 0

    cdef int _begin_frame(self, uint8_t first, int opcode, uint64_t length) except -1:
        if opcode != CONTINUATION:
            self._spend()
            self._count_message(first, 1)
            self._opcode = opcode
            self._size = self._wire = 0
            self._compressed = (first & 0x40) != 0
            self._checked = self._compressed or opcode == TEXT
        self._message = first >= 128
        self._left = length
        self._key_at = 0
        self._wire += length
        if not self._compressed:
            self._size += length
        return 0

    cdef inline void _count_message(self, uint8_t first, int number) noexcept:
        """Count the message that begins with a data frame, if it is no continuation. `first`: its first byte."""
        if first & 15 == TEXT:
            self.texts += number
        elif first & 15 == BINARY:
            self.binaries += number

    cdef int _end_frame(self) except -1:
        self.frames += 1
        if self._message:
            if self.notes is not None:
                self.notes.append((self._opcode, self._wire))
            self._opcode = 0
            self._message = False
        return 0

    cdef int _spend(self) except -1:
        if self.allowance is not None:
            self.allowance -= 1
            if self.allowance < 0:
                raise Refused(frames.POLICY, "too many messages")
        return 0

    cdef bint _take_control(self, int opcode, bytes payload) except -1:
        """Take a control frame. False: it is not passed on."""
        if opcode == PONG:
            if payload == self.own_pong:
                self.own_pong = None
                return False
            self.pongs += 1
        elif opcode == PING:
            self._spend()
            self.pings += 1
        else:
            self.close = frames.close_code(payload)
        if self.notes is not None:
            self.notes.append((opcode, len(payload)))
        self.frames += 1
        return True

    cdef bytes _control_payload(self, const uint8_t* source, Py_ssize_t length):
        cdef Key key = key_of(source - 4) if self._masked else NO_KEY
        return _unmasked(source, length, &key, 0)

    cdef Py_ssize_t _check(self, const uint8_t* source, Py_ssize_t length, bint last) except -1:
        """Check payload of text, or that is compressed; return how much of it was checked: less if enough was inflated.
        `last`: the message ends with it.
        """
        cdef unsigned key_at = self._key_at
        cdef Py_ssize_t left = 0
        if self._compressed:
            left = self._inflate(_unmasked(source, length, &self._key, key_at), last)
            length -= left
        self._key_at = (key_at + <unsigned>(length & 3)) & 3
        if left:
            return length
        if not self._compressed:
            if not takes_text(&self._text, source, length, &self._key, key_at):
                raise _invalid_text()
        if last:
            if self._opcode == TEXT and self._text.missing:
                raise _invalid_text()
            if self._compressed and not self._deflate.keeps_context:
                self._inflater = zlib.decompressobj(-self._deflate.window_bits)
        return length

    cdef Py_ssize_t _inflate(self, bytes part, bint last) except -1:
        """Inflate payload; return how many bytes of it are left, because enough was inflated."""
        cdef Py_ssize_t room, own = 0  # `own`: bytes at the end that were not sent
        cdef bytes made
        if last:
            own = PyBytes_GET_SIZE(DEFLATE_TAIL)
            part = part + DEFLATE_TAIL
        while part:
            if self._inflated >= INFLATED_PER_CALL and PyBytes_GET_SIZE(part) > own:
                return PyBytes_GET_SIZE(part) - own
            room = PIECE
            if self._limit != UNLIMITED and self._limit - self._size < <uint64_t>PIECE:
                room = <Py_ssize_t>(self._limit - self._size) + 1
            try:
                made = self._inflater.decompress(part, room)
            except zlib.error:
                raise Refused(frames.INVALID_TEXT, "compressed message is malformed") from None
            self._size += PyBytes_GET_SIZE(made)
            self._inflated += PyBytes_GET_SIZE(made) + INFLATE_COST
            if self._limit != UNLIMITED and self._size > self._limit:
                raise Refused(frames.TOO_BIG, "message too big")
            if self._opcode == TEXT and not takes_text(
                &self._text, <const uint8_t*>PyBytes_AS_STRING(made), PyBytes_GET_SIZE(made), &NO_KEY, 0
            ):
                raise _invalid_text()
            part = self._inflater.unconsumed_tail
            if self._inflater.eof:  # of a last block, behind which another one may begin
                part = self._inflater.unused_data
                self._inflater = zlib.decompressobj(-self._deflate.window_bits)
                if part == DEFLATE_TAIL:
                    return 0
        return 0


cdef object _invalid_text():
    return Refused(frames.INVALID_TEXT, "text is not UTF-8")


cdef bytes _unmasked(const uint8_t* source, Py_ssize_t length, const Key* key, unsigned key_at):
    payload = PyBytes_FromStringAndSize(NULL, length)
    unmask(<uint8_t*>PyBytes_AS_STRING(payload), source, length, key, key_at)
    return payload
