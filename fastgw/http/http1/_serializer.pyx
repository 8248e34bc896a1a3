# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled `serializer_reference`: copies the remaining parts of heads that `_parser` has read into a single bytes
object.

Heads read by the reference, and those with changed fields, are passed to the reference.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from fastgw.http.http1.parser cimport SLOT_WORDS, Head, Http1RequestHead, Http1ResponseHead, bits_of, has_one_line, slot_of

from fastgw.http.http1 import serializer_reference as splice
from fastgw.http.grammar import IS_TOKEN
from fastgw.http.fields import folded

cdef uint32_t _DATE = bits_of((b"date",))
cdef uint32_t _REQUEST_ID = bits_of((splice.REQUEST_ID,))

cdef enum:
    MOST_KEPT = 64
    MOST_SOUGHT = 64
    MOST_CUTS = 128

cdef struct Cut:
    uint32_t start
    uint32_t end


cdef struct Cuts:
    # Removed lines, in order.
    int count
    Py_ssize_t bytes
    Cut lines[MOST_CUTS]


@cython.final
cdef class _Sought:
    """Names whose lines have not been located yet, with all their twins: `folded`."""

    cdef tuple names
    cdef int count
    cdef const uint8_t* texts[MOST_SOUGHT]
    cdef Py_ssize_t lengths[MOST_SOUGHT]
    cdef uint64_t some_length  # a bit for each length that occurs; lengths from 63 on share one
    cdef uint64_t slots[SLOT_WORDS]  # a bit for each `slot_of` of a name and its twins

    def __init__(self, names):
        cdef bytes name
        self.names = tuple(sorted(names))  # keeps the texts alive
        self.count = 0
        for name in self.names:
            self.texts[self.count] = <const uint8_t*>PyBytes_AS_STRING(name)
            self.lengths[self.count] = len(name)
            self.some_length |= <uint64_t>1 << min(len(name), 63)
            for slot in slots_of(name):
                self.slots[<int>slot >> 6] |= <uint64_t>1 << (<int>slot & 63)
            self.count += 1

    cdef bint may_be_in(self, Head head) noexcept:
        """Whether a line with such a name may be present."""
        cdef int word
        for word in range(SLOT_WORDS):
            if self.slots[word] & head.others[word]:
                return True
        return False

    cdef bint has(self, const uint8_t* name, Py_ssize_t length) noexcept:
        cdef int number
        cdef Py_ssize_t place
        cdef uint8_t letter
        if not self.some_length >> min(length, <Py_ssize_t>63) & 1:
            return False
        for number in range(self.count):
            if self.lengths[number] != length:
                continue
            for place in range(length):
                letter = name[place]
                if c"A" <= letter <= c"Z":
                    letter += 32
                elif not (c"a" <= letter <= c"z" or c"0" <= letter <= c"9"):
                    letter = c"-"
                if letter != self.texts[number][place]:
                    break
            else:
                return True
        return False


_SIGNS = b"!#$%&'*+-.^_`|~"


def slots_of(bytes name not None):
    """Return the bits of a `folded` name and its twins."""
    cdef Py_ssize_t last = len(name) - 1
    cdef bytes twin
    for start in _SIGNS if name.startswith(b"-") else name[:1]:
        for end in _SIGNS if name.endswith(b"-") else name[last:]:
            twin = bytes((start, *name[1:last], end)) if last else bytes((start,))
            yield slot_of(<const uint8_t*>PyBytes_AS_STRING(twin), last + 1)


@cython.final
cdef class _Left:
    """Removed fields: bits of names whose lines are known, and names to search for."""

    cdef uint32_t mask
    cdef _Sought sought  # None: no further names
    cdef bint no_via
    cdef bint authorization  # only `Authorization` of a request, whose line `_parser` has located


@cython.final
cdef class _Masks:
    """Removed fields, including `DROPPED`, for each set of further names."""

    cdef frozenset known
    cdef uint32_t dropped
    cdef frozenset last
    cdef _Left last_left
    cdef dict kept
    cdef bint of_requests

    def __init__(self, head_type):
        self.of_requests = head_type is Http1RequestHead
        self.known = head_type.KNOWN
        self.dropped = bits_of(head_type.DROPPED)
        self.kept = {}
        self.last = None

    cdef _Left left(self, frozenset also):
        """None: too many names to search for here."""
        if also is not self.last:
            left = self.kept.get(also)
            if left is None:
                left = self.made(also)
                if len(self.kept) == MOST_KEPT:
                    self.kept.clear()
                self.kept[also] = left
            self.last = also
            self.last_left = left or None
        return self.last_left

    cdef object made(self, frozenset also):
        cdef _Left left = _Left.__new__(_Left)
        left.no_via = splice.NO_VIA in also
        also = also - _NO_VIA
        left.mask = self.dropped | bits_of(also & self.known)
        if not also <= self.known:
            if len(also) > MOST_SOUGHT:
                return False
            named = also if self.of_requests else also - splice.REQUEST_IDS
            alike = {folded(name) for name in named if IS_TOKEN(name)}
            left.mask |= bits_of(frozenset([name for name in self.known if folded(name) in alike]))
            left.sought = _Sought(alike)
            left.authorization = self.of_requests and also - self.known == _AUTHORIZATION
        return left


cdef frozenset _NO_VIA = frozenset((splice.NO_VIA,))
cdef frozenset _AUTHORIZATION = frozenset((b"authorization",))  # without punctuation, so without twins
cdef _Masks _request_masks = _Masks(Http1RequestHead)
cdef _Masks _response_masks = _Masks(Http1ResponseHead)


cdef bint _can_cut(Head head, _Left left, uint32_t more, Cuts* cuts) noexcept:
    """Find the lines to remove, including known ones with a bit in `more`. False: call the reference."""
    cdef uint32_t mask
    if left is None or (head._fields is not None and (head._fields.changed or head.connection_named)):
        return False
    mask = left.mask | more
    cuts.count = 0
    cuts.bytes = 0
    if left.sought is None or not left.sought.may_be_in(head):
        return _cut_known(head, mask, cuts)
    if left.authorization and (<Http1RequestHead>head).authorizations < 2:
        if not _cut_known(head, mask, cuts) or cuts.count == MOST_CUTS:
            return False
        if (<Http1RequestHead>head).authorizations:
            _cut_authorization(<Http1RequestHead>head, cuts)
        return True
    return _cut_sought(head, mask, left.sought, cuts)


cdef inline void _cut(Cuts* cuts, Py_ssize_t start, Py_ssize_t end) noexcept:
    cuts.lines[cuts.count].start = <uint32_t>start
    cuts.lines[cuts.count].end = <uint32_t>end
    cuts.count += 1
    cuts.bytes += end - start


cdef bint _cut_known(Head head, uint32_t mask, Cuts* cuts) noexcept:
    cdef uint32_t place
    if head.names & mask:
        for place in range(head.line_count):
            if mask & (<uint32_t>1 << head.lines[place].name):
                if cuts.count == MOST_CUTS:
                    return False
                _cut(cuts, head.lines[place].start, head.lines[place].end)
    return True


cdef void _cut_authorization(Http1RequestHead head, Cuts* cuts) noexcept:
    """Insert the only `Authorization` line among the removed lines."""
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef Py_ssize_t start = head.authorization_at.start
    cdef Py_ssize_t end = <const uint8_t*>memchr(text + start, c"\n", head.head_length - start) + 1 - text
    cdef int place = cuts.count
    while text[start - 1] != c"\n":
        start -= 1
    while place and cuts.lines[place - 1].start > start:
        cuts.lines[place] = cuts.lines[place - 1]
        place -= 1
    cuts.lines[place].start = <uint32_t>start
    cuts.lines[place].end = <uint32_t>end
    cuts.count += 1
    cuts.bytes += end - start


cdef bint _cut_sought(Head head, uint32_t mask, _Sought sought, Cuts* cuts) noexcept:
    """Search all lines. False: too many to remove."""
    cdef const uint8_t* text = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef const uint8_t* colon
    cdef Py_ssize_t at = head.first_line, last = head.head_length - 2, end
    cdef int place = 0
    cdef bint left_out
    while at < last:
        end = <const uint8_t*>memchr(text + at, c"\n", head.head_length - at) + 1 - text
        left_out = False
        if place < head.line_count and head.lines[place].start == at:
            left_out = mask & (<uint32_t>1 << head.lines[place].name) != 0
            place += 1
        if not left_out:
            colon = <const uint8_t*>memchr(text + at, c":", end - at)
            left_out = sought.has(text + at, colon - (text + at))
        if left_out:
            if cuts.count == MOST_CUTS:
                return False
            _cut(cuts, at, end)
        at = end
    return True


cdef inline Py_ssize_t _kept_length(Head head, const Cuts* cuts) noexcept:
    """Return the number of bytes of the remaining field lines, without the empty line."""
    return head.head_length - head.first_line - 2 - cuts.bytes


cdef char* _put_kept(char* out, Head head, const Cuts* cuts) noexcept:
    """Write the remaining field lines, `_kept_length` bytes, and return the end."""
    cdef const char* text = PyBytes_AS_STRING(head.source)
    cdef Py_ssize_t at = head.first_line
    cdef int place
    for place in range(cuts.count):
        out = _put(out, text + at, cuts.lines[place].start - at)
        at = cuts.lines[place].end
    return _put(out, text + at, head.head_length - 2 - at)


cdef inline char* _put(char* out, const char* piece, Py_ssize_t length) noexcept:
    memcpy(out, piece, length)
    return out + length


cdef inline char* _put_bytes(char* out, bytes piece) noexcept:
    # Most pieces are empty.
    return _put(out, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece)) if PyBytes_GET_SIZE(piece) else out


cdef frozenset _NOTHING = frozenset()


def end_to_end(head, frozenset also not None=_NOTHING):
    """Compiled `serializer_reference.end_to_end`."""
    cdef Cuts cuts
    cdef bytes block
    if isinstance(head, Head):
        if _can_cut(head, (_request_masks if type(head) is Http1RequestHead else _response_masks).left(also), 0, &cuts):
            block = PyBytes_FromStringAndSize(NULL, _kept_length(head, &cuts))
            _put_kept(PyBytes_AS_STRING(block), head, &cuts)
            return block
    return splice.end_to_end(head, also)


cdef enum:
    UNFRAMED = -1
    IN_CHUNKS = -2
    AS_DECLARED = -3
    UPGRADE_REQUIRED = 426
    MOST_DIGITS = 20
    ID_NAME = 14
    LONGEST_LENGTH_LINE = 16 + MOST_DIGITS + 2

cdef struct Text:
    const char* text
    Py_ssize_t length

cdef bytes _CHUNKED_LINE = b"Transfer-Encoding: chunked\r\n"
cdef bytes _NOTHING_AT_ALL = b""
cdef bytes _VIA_1_0 = splice.VIA[10]
cdef bytes _VIA_1_1 = splice.VIA[11]
cdef bytes _VIA_2 = splice.VIA[20]


cdef inline bytes _via_of(Head head):
    return _VIA_2 if head.http2 else _VIA_1_1 if head.minor else _VIA_1_0



def request(
    head,
    bytes target=None,
    bytes host=None,
    frozenset also not None=_NOTHING,
    bytes added not None=b"",
    bytes payload not None=b"",
    bytes request_id not None=b"",
    long long length=AS_DECLARED,
):
    """Compiled `serializer_reference.request`."""
    cdef Cuts cuts
    cdef uint32_t more = 0
    cdef Py_ssize_t id_length = 0
    cdef bytes sent, via
    cdef _Left left
    cdef const char* text
    cdef const char* target_text
    cdef const char* host_text
    cdef Py_ssize_t target_length, host_length
    cdef char length_line[LONGEST_LENGTH_LINE]
    cdef Text framing
    cdef char* out
    cdef Http1RequestHead ours
    if type(head) is Http1RequestHead:
        ours = head
        left = _request_masks.left(also)
        if PyBytes_GET_SIZE(request_id) and not (
            ours.names & _REQUEST_ID and has_one_line(ours, _REQUEST_ID, request_id)
        ):
            more = _REQUEST_ID
            id_length = ID_NAME + PyBytes_GET_SIZE(request_id) + 2
        if _can_cut(ours, left, more, &cuts):
            text = PyBytes_AS_STRING(ours.source)
            if target is None:
                target_text = text + ours.target_at.start
                target_length = ours.target_at.length
            else:
                target_text = PyBytes_AS_STRING(target)
                target_length = PyBytes_GET_SIZE(target)
            if host is None:
                host_text = text + ours.host_sent_at
                host_length = ours.authority_at.length
            else:
                host_text = PyBytes_AS_STRING(host)
                host_length = PyBytes_GET_SIZE(host)
            if length == AS_DECLARED:
                length = ours.length if ours.sized else IN_CHUNKS if ours.chunked else UNFRAMED
            framing = _framing(length, length_line)
            via = _NOTHING_AT_ALL if left.no_via else _via_of(ours)
            sent = PyBytes_FromStringAndSize(
                NULL,
                ours.method_at.length + 1 + target_length + 17 + host_length + 2
                + _kept_length(ours, &cuts) + PyBytes_GET_SIZE(added) + id_length
                + framing.length + PyBytes_GET_SIZE(via) + 2
                + PyBytes_GET_SIZE(payload),
            )
            out = _put(PyBytes_AS_STRING(sent), text, ours.method_at.length)
            out = _put(out, b" ", 1)
            out = _put(out, target_text, target_length)
            out = _put(out, b" HTTP/1.1\r\nHost: ", 17)
            out = _put(out, host_text, host_length)
            out = _put(out, b"\r\n", 2)
            out = _put_kept(out, ours, &cuts)
            out = _put_bytes(out, added)
            if id_length:
                out = _put_id(out, request_id)
            if framing.length:
                out = _put(out, framing.text, framing.length)
            out = _put_bytes(out, via)
            out = _put(out, b"\r\n", 2)
            _put_bytes(out, payload)
            return sent
    return splice.request(head, target, host, also, added, payload, request_id, length)


cdef inline char* _put_id(char* out, bytes request_id) noexcept:
    out = _put(out, b"X-Request-Id: ", ID_NAME)
    out = _put(out, PyBytes_AS_STRING(request_id), PyBytes_GET_SIZE(request_id))
    return _put(out, b"\r\n", 2)


cdef inline Text _framing(long long length, char* length_line) noexcept:
    """Return the line that frames a body of `length`, which may be a marker. `length_line`: buffer for it."""
    cdef Text line
    line.text = length_line
    line.length = 0
    if length >= 0:
        line.length = _length_line(length_line, length)
    elif length == IN_CHUNKS:
        line.text = PyBytes_AS_STRING(_CHUNKED_LINE)
        line.length = PyBytes_GET_SIZE(_CHUNKED_LINE)
    return line


cdef Py_ssize_t _length_line(char* line, long long length) noexcept:
    """Write `Content-Length: …` with its line end, and return its length."""
    cdef char digits[MOST_DIGITS]
    cdef int place = MOST_DIGITS
    cdef char* out = _put(line, b"Content-Length: ", 16)
    while True:
        place -= 1
        digits[place] = <char>(c"0" + length % 10)
        length //= 10
        if not length:
            break
    out = _put(out, &digits[place], MOST_DIGITS - place)
    return _put(out, b"\r\n", 2) - line


def response(
    head,
    int status,
    frozenset also not None=_NOTHING,
    bytes added not None=b"",
    bytes payload not None=b"",
    long long length=UNFRAMED,
    date_line=None,
    bytes last not None=b"",
    bytes request_id not None=b"",
):
    """Compiled `serializer_reference.response`."""
    cdef Cuts cuts
    cdef _Left left
    if type(head) is Http1ResponseHead and status == (<Http1ResponseHead>head).status and status != UPGRADE_REQUIRED:
        left = _response_masks.left(also)
        if _can_cut(head, left, _REQUEST_ID if PyBytes_GET_SIZE(request_id) else 0, &cuts):
            return _response(
                head, status, &cuts, left.no_via, added, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), length,
                date_line, last, request_id
            )
    return splice.response(head, status, also, added, payload, length, date_line, last, request_id)


def whole(
    head,
    date_line not None,
    bytes last not None,
    frozenset also not None=_NOTHING,
    bytes added not None=b"",
    bytes request_id not None=b"",
    bytes changed=None,
):
    """Compiled `serializer_reference.whole`."""
    cdef const char* payload
    cdef Py_ssize_t length
    cdef Cuts cuts
    cdef _Left left
    cdef Http1ResponseHead ours
    if type(head) is Http1ResponseHead:
        ours = head
        left = _response_masks.left(also)
        if ours.whole and ours.status != UPGRADE_REQUIRED and _can_cut(ours, left, _REQUEST_ID if PyBytes_GET_SIZE(request_id) else 0, &cuts):
            payload, length = ours.payload_at, ours.payload_length
            if changed is not None:
                payload, length = PyBytes_AS_STRING(changed), PyBytes_GET_SIZE(changed)
            return _response(
                ours, ours.status, &cuts, left.no_via, added, payload, length, length, date_line, last, request_id
            )
    return splice.whole(head, date_line, last, also, added, request_id, changed)


cdef bytes _response(
    Http1ResponseHead head,
    int status,
    const Cuts* cuts,
    bint no_via,
    bytes added,
    const char* payload,
    Py_ssize_t payload_length,
    long long length,
    object date_line,
    bytes last,
    bytes request_id,
):
    cdef bytes sent, via, date = b""
    cdef char length_line[LONGEST_LENGTH_LINE]
    cdef Text framing = _framing(length, length_line)
    cdef char* out
    if date_line is not None and not head.names & _DATE:
        date = date_line()
    via = _NOTHING_AT_ALL if no_via else _via_of(head)
    sent = PyBytes_FromStringAndSize(
        NULL,
        13 + head.reason_at.length + 2 + _kept_length(head, cuts) + PyBytes_GET_SIZE(added)
        + (ID_NAME + PyBytes_GET_SIZE(request_id) + 2 if PyBytes_GET_SIZE(request_id) else 0)
        + PyBytes_GET_SIZE(via) + framing.length + PyBytes_GET_SIZE(date) + PyBytes_GET_SIZE(last) + 2
        + payload_length,
    )
    out = _put(PyBytes_AS_STRING(sent), b"HTTP/1.1 ", 9)
    out[0] = c"0" + status // 100
    out[1] = c"0" + status // 10 % 10
    out[2] = c"0" + status % 10
    out[3] = c" "
    out = _put(out + 4, PyBytes_AS_STRING(head.source) + head.reason_at.start, head.reason_at.length)
    out = _put(out, b"\r\n", 2)
    out = _put_kept(out, head, cuts)
    out = _put_bytes(out, added)
    if PyBytes_GET_SIZE(request_id):
        out = _put_id(out, request_id)
    out = _put_bytes(out, via)
    out = _put(out, framing.text, framing.length)
    out = _put_bytes(out, date)
    out = _put_bytes(out, last)
    out = _put(out, b"\r\n", 2)
    _put(out, payload, payload_length)
    return sent
