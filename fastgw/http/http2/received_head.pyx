# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Heads that are received over HTTP/2: fields as nghttp2 reports them, as the text of HTTP/1.1."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from fastgw.http.authority import parse_authority
from fastgw.http.malformed import Malformed

cdef extern from "../_bytes.h" nogil:
    bint is_name(const uint8_t* token, const uint8_t* name, size_t length)

cdef enum:
    KEPT_HEAD = 65536

cdef bytes _OF_UNKNOWN_LENGTH = b"transfer-encoding: chunked\r\n\r\n"  # end of the text of a request


cdef inline bint _declares_none(const uint8_t* method, Py_ssize_t length) noexcept nogil:
    """Whether a request without a body declares its length: POST, PUT and PATCH (RFC 9110 section 8.6)."""
    return length > 2 and method[0] == c"P"


cdef inline bint _append(Block* block, const uint8_t* text, size_t length) noexcept nogil:
    cdef size_t room = block.room
    cdef uint8_t* grown
    if block.length + length > room:
        room = 2 * room if room > 256 else 512
        while room < block.length + length:
            room *= 2
        grown = <uint8_t*>realloc(block.bytes, room)
        if grown is NULL:
            return False
        block.bytes = grown
        block.room = room
    if length:  # otherwise both may be NULL
        memcpy(block.bytes + block.length, text, length)
    block.length += length
    return True


@cython.final
@cython.no_gc
cdef class ReceivedHead:
    def __dealloc__(self):
        free(self.fields.bytes)
        free(self.cookies.bytes)
        free(self.pseudo.bytes)

    cdef void begin(self, bint is_client, size_t most_bytes, int most_fields) noexcept:
        self.is_client, self._most_bytes, self._most_fields = is_client, most_bytes, most_fields
        self.fields.length = self.cookies.length = self.pseudo.length = 0
        self.method.length = self.path.length = self.authority.length = self.scheme.length = 0
        self.protocol.length = self.host.length = 0
        self.status = -1
        self._bytes = 0
        self._count = 0
        self.too_long = self.has_length = self.has_host = False
        self.refusal = None

    cdef bint _keep_pseudo(self, Span* span, const uint8_t* value, size_t length) noexcept:
        span.start, span.length = self.pseudo.length, length
        return _append(&self.pseudo, value, length)

    cdef bint add_field(self, const uint8_t* name, size_t namelen, const uint8_t* value, size_t length) noexcept:
        """Add a field to the head that is being received. False: out of memory."""
        cdef bint is_cookie = namelen == 6 and not self.is_client and not memcmp(name, b"cookie", 6)
        self._bytes += namelen + length + 32
        if not (is_cookie and self.cookies.length):  # one Cookie header is sent on (RFC 9113 section 8.2.3)
            self._count += 1
        if self._bytes > self._most_bytes or self._count > self._most_fields:
            self.too_long = True
            if namelen == 5 and name[0] == c":":  # which of the two is too long
                return self._keep_pseudo(&self.path, value, length)
            return True
        if name[0] == c":":
            self._count -= 1
            if namelen == 7 and name[1] == c"m":
                return self._keep_pseudo(&self.method, value, length)
            if namelen == 5:
                return self._keep_pseudo(&self.path, value, length)
            if namelen == 7 and name[2] == c"c":
                return self._keep_pseudo(&self.scheme, value, length)
            if namelen == 10:
                return self._keep_pseudo(&self.authority, value, length)
            if namelen == 9:
                return self._keep_pseudo(&self.protocol, value, length)
            if namelen == 7:  # :status, three digits, as checked by nghttp2
                self.status = 100 * (value[0] - c"0") + 10 * (value[1] - c"0") + (value[2] - c"0")
            return True
        if length and (value[0] == c" " or value[0] == c"\t" or value[length - 1] == c" " or value[length - 1] == c"\t"):
            self.refusal = "A header's value begins or ends with white space."
            return True
        if not self.is_client:
            if namelen == 4 and not memcmp(name, b"host", 4):
                if self.has_host:
                    self.refusal = "There is more than one Host header."
                self.has_host = True
                return self._keep_pseudo(&self.host, value, length)
            if is_cookie:
                if self.cookies.length and not _append(&self.cookies, b"; ", 2):
                    return False
                return _append(&self.cookies, value, length)
        if namelen == 14 and not memcmp(name, b"content-length", 14):
            self.has_length = True
        return (
            _append(&self.fields, name, namelen)
            and _append(&self.fields, b": ", 2)
            and _append(&self.fields, value, length)
            and _append(&self.fields, b"\r\n", 2)
        )

    cdef bytes lines(self):
        return PyBytes_FromStringAndSize(<const char*>self.fields.bytes, self.fields.length)

    cdef bytes text_of(self, Span span):
        return PyBytes_FromStringAndSize(<const char*>self.pseudo.bytes + span.start, span.length)

    cdef bint _says(self, Span span, const char* word, size_t length) noexcept:
        """Whether it equals this word, ignoring case."""
        return span.length == length and is_name(self.pseudo.bytes + span.start, <const uint8_t*>word, length)

    cdef str request_refusal(self, bint secure):
        """Return why a request cannot be rendered, or must not be served."""
        cdef size_t place
        for place in range(self.pseudo.length):  # all of them, one after the other
            if not 0x21 <= self.pseudo.bytes[place] <= 0x7E:
                # The parser of the text refuses those beyond ASCII in a path, where the listener does not tolerate them.
                if self.pseudo.bytes[place] < 0x80 or place - self.path.start >= self.path.length:
                    return "The method, path or authority has a character that no URL has."
        if self.protocol.length:  # extended CONNECT (RFC 8441), as checked by nghttp2
            if self.has_length:
                return "A tunnel has no Content-Length."
        elif self._says(self.method, b"connect", 7):
            return "CONNECT is not supported."
        if not self._says(self.scheme, b"https", 5) and (secure or not self._says(self.scheme, b"http", 4)):
            return "The scheme is not that of the connection."
        if not self.path.length:
            return "There is no path."
        if self._says(self.method, b"pri", 3):
            return "The method PRI is reserved."  # RFC 9113 section 11.6: it is the connection preface
        if self.has_host and self.authority.length and (
            self.host.length != self.authority.length
            or memcmp(
                self.pseudo.bytes + self.host.start,
                self.pseudo.bytes + self.authority.start,
                self.host.length,
            )
        ):
            return self._host_refusal()
        return None

    cdef str _host_refusal(self):
        """Return why a Host header that is not written like the authority is refused (RFC 9113 section 8.3.1). None: both
        name the same host and port; the authority is forwarded.
        """
        cdef bytes scheme = self.text_of(self.scheme).lower()
        try:
            if parse_authority(self.text_of(self.host)).same_as(parse_authority(self.text_of(self.authority)), scheme):
                return None
        except Malformed as error:
            return error.reason
        return "The Host header and the authority name different hosts."

    cdef bytes request_text(self, bint ended):
        cdef Span host = self.authority if self.authority.length else self.host
        cdef const char* framing = b""
        cdef size_t framing_length = 0
        cdef size_t total
        cdef bytes made
        cdef uint8_t* out
        if not self.has_length and not self.protocol.length:
            if not ended:
                framing, framing_length = b"transfer-encoding: chunked\r\n", 28
            elif _declares_none(self.pseudo.bytes + self.method.start, self.method.length):
                framing, framing_length = b"content-length: 0\r\n", 19
        total = self.method.length + 1 + self.path.length + 11 + 8 + self.fields.length + framing_length + 2
        if host.length:
            total += host.length
        if self.cookies.length:
            total += 8 + self.cookies.length + 2
        made = PyBytes_FromStringAndSize(NULL, total if host.length else total - 8)
        out = <uint8_t*>PyBytes_AS_STRING(made)
        out = _put(out, self.pseudo.bytes + self.method.start, self.method.length)
        out = _put(out, b" ", 1)
        out = _put(out, self.pseudo.bytes + self.path.start, self.path.length)
        out = _put(out, b" HTTP/1.1\r\n", 11)
        if host.length:
            out = _put(out, b"host: ", 6)
            out = _put(out, self.pseudo.bytes + host.start, host.length)
            out = _put(out, b"\r\n", 2)
        out = _put(out, self.fields.bytes, self.fields.length)
        if self.cookies.length:
            out = _put(out, b"cookie: ", 8)
            out = _put(out, self.cookies.bytes, self.cookies.length)
            out = _put(out, b"\r\n", 2)
        out = _put(out, framing, framing_length)
        _put(out, b"\r\n", 2)
        return made


# PERF: one for all sessions, as a head is nearly always complete within a call: each one's own is rarely in the
# processor's cache (64 connections: 12 lines less are missed per request), and takes 2 KB of a connection at rest.
cdef ReceivedHead _spare = ReceivedHead()


cdef ReceivedHead take_head():
    global _spare
    cdef ReceivedHead head = _spare
    _spare = None
    return ReceivedHead.__new__(ReceivedHead) if head is None else head


cdef void give_back(ReceivedHead head):
    global _spare
    if _spare is None and head.fields.room + head.cookies.room + head.pseudo.room <= KEPT_HEAD:
        _spare = head


cdef bytes without_body(bytes text):
    """Return the text of a request whose body has turned out to be empty, as if its head had ended the stream."""
    if not text.endswith(_OF_UNKNOWN_LENGTH):
        return text
    declares_none = _declares_none(<const uint8_t*>PyBytes_AS_STRING(text), text.find(b" "))
    return text[:-len(_OF_UNKNOWN_LENGTH)] + (b"content-length: 0\r\n\r\n" if declares_none else b"\r\n")


cdef inline uint8_t* _put(uint8_t* out, const void* text, size_t length) noexcept nogil:
    if length:  # otherwise `text` may be NULL
        memcpy(out, text, length)
    return out + length
