# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Serializer of HTTP/1: copies the remaining parts of a head that `parser` has read into a single bytes object.

Heads whose fields were changed, those that `Connection` takes fields from, and those of other kinds have their fields
rendered.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memchr, memcpy

from fastgw.http.http1.sought_names cimport SoughtNames
from fastgw.http.messages cimport UNNUMBERED, Head, Line, RequestHead, ResponseHead, bits_of, has_one_line, line_end

from fastgw.http.field_names import FORWARDING
from fastgw.http.fields import FOLDED, folded, without_fields
from fastgw.http.http1.lines import (
    CHUNKED_LINE, IN_CHUNKS, LAST_CHUNK, NO_VIA, REQUEST_ID, REQUEST_IDS, UNFRAMED, VIA, chunk, id_line, last_chunk,
    names_alike, own_lines, status_line, upgrade_offer,
)

cdef const uint8_t* _FOLDED = <const uint8_t*>PyBytes_AS_STRING(FOLDED)
cdef uint32_t _DATE = bits_of((b"date",))
cdef uint32_t _REQUEST_ID = bits_of((REQUEST_ID,))

cdef enum:
    MOST_KEPT = 64

cdef struct Cut:
    uint32_t start
    uint32_t end


cdef Cut* _cuts = NULL  # removed lines, in order: of one head, while it is written
cdef Py_ssize_t _cut_room = 0
cdef Py_ssize_t _cut_count
cdef Py_ssize_t _cut_bytes


cdef struct Text:
    const uint8_t* text
    Py_ssize_t length


cdef enum:
    _UNFRAMED = -1
    _IN_CHUNKS = -2
    AS_DECLARED = -3
    UPGRADE_REQUIRED = 426
    MOST_DIGITS = 20
    LONGEST_LENGTH_LINE = 16 + MOST_DIGITS + 2
    ID_NAME = 14


@cython.final
cdef class _Left:
    """Removed fields: bits of numbered names, and other names, which are sought with their twins."""

    cdef frozenset names
    cdef frozenset alike  # `folded`: left out together with their twins
    cdef uint32_t mask
    cdef SoughtNames sought
    cdef bint no_via

    cdef bint has(self, Head head, const Line* line) noexcept:
        """Whether a line, whose name is not numbered, is removed."""
        cdef const uint8_t* name = <const uint8_t*>PyBytes_AS_STRING(head.source) + line.start
        cdef Py_ssize_t place, length
        cdef bytes wanted
        if not self.sought.may_be(line):
            return False
        length = <const uint8_t*>memchr(name, c":", line.value.start - line.start) - name
        for wanted in self.sought.names:
            if PyBytes_GET_SIZE(wanted) == length:
                for place in range(length):
                    if _FOLDED[name[place]] != <uint8_t>PyBytes_AS_STRING(wanted)[place]:
                        break
                else:
                    return True
        return False


@cython.final
cdef class _Masks:
    """Removed fields, including `DROPPED`, for each set of further names."""

    cdef frozenset dropped
    cdef frozenset last
    cdef _Left last_left
    cdef dict kept
    cdef bint of_requests

    def __init__(self, head_type):
        self.of_requests = head_type is RequestHead
        self.dropped = head_type.DROPPED
        self.kept = {}
        self.last = None

    cdef _Left left(self, frozenset also):
        if also is not self.last:
            left = self.kept.get(also)
            if left is None:
                left = self.made(also)
                if len(self.kept) == MOST_KEPT:
                    self.kept.clear()
                self.kept[also] = left
            self.last = also
            self.last_left = left
        return self.last_left

    cdef _Left made(self, frozenset also):
        cdef _Left left = _Left.__new__(_Left)
        left.no_via = NO_VIA in also
        also = also - _NO_VIA
        # A twin of a response's `X-Request-Id` does no harm: it is kept.
        left.names = self.dropped | also
        left.alike = names_alike(also if self.of_requests else also - REQUEST_IDS)
        left.sought = SoughtNames(left.alike, twins=True)
        left.mask = bits_of(self.dropped) | SoughtNames(also).numbers | left.sought.numbers
        return left


cdef frozenset _NO_VIA = frozenset((NO_VIA,))
cdef _Masks _request_masks = _Masks(RequestHead)
cdef _Masks _response_masks = _Masks(ResponseHead)


cdef bint _is_rendered(Head head) except -1:
    """Whether the lines of a head, whose fields were parsed, are not sent as they were received."""
    return head._fields.changed or bool(head.connection_named)


cdef int _find_cuts(Head head, _Left left, uint32_t more) except -1:
    """Find the lines to remove, including those of numbered names with a bit in `more`."""
    global _cuts, _cut_room, _cut_count, _cut_bytes
    cdef uint32_t mask = left.mask | more
    cdef bint seeks = left.sought.may_be_in(head)
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(head.source)
    cdef const Line* line = head.lines
    cdef const Line* end = line + head.line_count
    cdef Cut* grown
    _cut_count = _cut_bytes = 0
    if not seeks and not head.names & mask:
        return 0
    if _cut_room < head.line_count:
        grown = <Cut*>realloc(_cuts, 2 * head.line_count * sizeof(Cut))
        if grown is NULL:
            raise MemoryError
        _cuts, _cut_room = grown, 2 * head.line_count
    while line < end:
        if mask >> line.name & 1 or (seeks and line.name == UNNUMBERED and left.has(head, line)):
            _cuts[_cut_count].start = line.start
            _cuts[_cut_count].end = <uint32_t>(line_end(head, line) - base)
            _cut_bytes += _cuts[_cut_count].end - line.start
            _cut_count += 1
        line += 1
    return 0


cdef inline Py_ssize_t _kept_length(Head head) noexcept:
    """Return the number of bytes of the remaining field lines, without the empty line."""
    return head.head_length - head.first_line - 2 - _cut_bytes


cdef char* _put_kept(char* out, Head head) noexcept:
    """Write the remaining field lines, `_kept_length` bytes, and return the end."""
    cdef const char* text = PyBytes_AS_STRING(head.source)
    cdef Py_ssize_t at = head.first_line, place
    for place in range(_cut_count):
        out = _put(out, text + at, _cuts[place].start - at)
        at = _cuts[place].end
    return _put(out, text + at, head.head_length - 2 - at)


cdef inline char* _put(char* out, const char* piece, Py_ssize_t length) noexcept:
    memcpy(out, piece, length)
    return out + length


cdef frozenset _NOTHING = frozenset()


cdef inline char* _put_bytes(char* out, bytes piece) noexcept:
    # Most pieces are empty.
    return _put(out, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece)) if PyBytes_GET_SIZE(piece) else out


cpdef bytes end_to_end(head, frozenset also=_NOTHING):
    if head is None or also is None:
        raise TypeError("expected a head and names")
    cdef bytes block
    cdef _Left left = (_response_masks if hasattr(head, "status") else _request_masks).left(also)
    if not isinstance(head, Head) or ((<Head>head)._fields is not None and _is_rendered(<Head>head)):
        return head.fields().render(left.names, left.alike)
    _find_cuts(<Head>head, left, 0)
    block = PyBytes_FromStringAndSize(NULL, _kept_length(<Head>head))
    _put_kept(PyBytes_AS_STRING(block), <Head>head)
    return block


cdef inline char* _put_id(char* out, bytes request_id) noexcept:
    out = _put(out, b"X-Request-Id: ", ID_NAME)
    out = _put(out, PyBytes_AS_STRING(request_id), PyBytes_GET_SIZE(request_id))
    return _put(out, b"\r\n", 2)


cdef inline Py_ssize_t _id_length(bytes request_id) noexcept:
    return ID_NAME + PyBytes_GET_SIZE(request_id) + 2 if PyBytes_GET_SIZE(request_id) else 0


cdef inline Text _framing(long long length, char* length_line) noexcept:
    """Return the line that frames a body of `length`, which may be a marker. `length_line`: buffer for it."""
    cdef Text line
    line.text = <const uint8_t*>length_line
    line.length = 0
    if length >= 0:
        line.length = _length_line(length_line, length)
    elif length == _IN_CHUNKS:
        line = _text(_CHUNKED_LINE)
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


cdef inline Text _text(bytes piece) noexcept:
    """The piece has to outlive the text."""
    cdef Text text
    text.text = <const uint8_t*>PyBytes_AS_STRING(piece)
    text.length = PyBytes_GET_SIZE(piece)
    return text


cdef inline Text _piece(Head head, uint32_t start, uint32_t length) noexcept:
    cdef Text text
    text.text = <const uint8_t*>PyBytes_AS_STRING(head.source) + start
    text.length = length
    return text


cdef inline char* _put_text(char* out, Text text) noexcept:
    return _put(out, <const char*>text.text, text.length)


cdef bytes _CHUNKED_LINE = CHUNKED_LINE
cdef bytes _VIA_1_0 = VIA[10]
cdef bytes _VIA_1_1 = VIA[11]
cdef bytes _VIA_2 = VIA[20]


cdef bytes _NO_BYTES = b""


cdef inline bytes _via_of(bint is_left_out, int version):
    return _NO_BYTES if is_left_out else _VIA_2 if version == 20 else _VIA_1_1 if version == 11 else _VIA_1_0


cpdef bytes request(
    RequestHead head,
    bytes target=None,
    bytes host=None,
    frozenset also=_NOTHING,
    bytes added=b"",
    bytes payload=b"",
    bytes request_id=b"",
    long long length=AS_DECLARED,
):
    cdef _Left left
    if head is None or also is None or added is None or payload is None or request_id is None:
        raise TypeError("expected a head, names and bytes")
    if head._fields is not None and _is_rendered(head):
        return _rendered_request(head, target, host, also, added, payload, request_id, length)
    left = _request_masks.left(also)
    if PyBytes_GET_SIZE(request_id) and head.names & _REQUEST_ID and has_one_line(head, _REQUEST_ID, request_id):
        request_id = _NO_BYTES
    if length == AS_DECLARED:
        length = head.length if head.sized else _IN_CHUNKS if head.chunked else _UNFRAMED
    _find_cuts(head, left, _REQUEST_ID if PyBytes_GET_SIZE(request_id) else 0)
    return _request(
        _piece(head, 0, head.method_length),
        _piece(head, head.target_at.start, head.target_at.length) if target is None else _text(target),
        _piece(head, head.host_sent_at, head.authority_at.length) if host is None else _text(host),
        head, _NO_BYTES, added, request_id, length, _via_of(left.no_via, head.version), payload,
    )


cdef bytes _rendered_request(
    RequestHead head, bytes target, bytes host, frozenset also, bytes added, bytes payload, bytes request_id, long long length
):
    """Return a request whose fields were changed."""
    cdef _Left left
    if request_id:
        sent = head.values(REQUEST_ID)
        if sent == [request_id]:
            request_id = _NO_BYTES
        elif sent:
            also = also | REQUEST_IDS
    if target is None:
        target = head.request_target
    edited = head.edited()
    if host is None:
        host = head.host_as_sent if edited is None else (head.first(b"host") or head.host_as_sent).removesuffix(b":")
    if edited is not None and (chosen := FORWARDING & edited.taken):  # a filter's, in place of the gateway's own
        also = frozenset([name for name in also if folded(name) not in chosen])
        added = without_fields(added, chosen)
    if length == AS_DECLARED:
        declared = head.body_length
        length = _IN_CHUNKS if declared is None else declared if head.sized else _UNFRAMED
    left = _request_masks.left(also)
    return _request(
        _text(head.method), _text(target), _text(host), None, head.fields().render(left.names, left.alike), added,
        request_id, length, _via_of(left.no_via, head.version), payload,
    )


cdef bytes _request(
    Text method,
    Text target,
    Text host,
    Head head,
    bytes block,
    bytes added,
    bytes request_id,
    long long length,
    bytes via,
    bytes payload,
):
    """Write a request: with the remaining lines of `head`, or, if that is None, with the lines in `block`."""
    cdef char length_line[LONGEST_LENGTH_LINE]
    cdef Text framing = _framing(length, length_line)
    cdef bytes sent = PyBytes_FromStringAndSize(
        NULL,
        method.length + 1 + target.length + 17 + host.length + 2
        + (PyBytes_GET_SIZE(block) if head is None else _kept_length(head)) + PyBytes_GET_SIZE(added)
        + _id_length(request_id) + framing.length + PyBytes_GET_SIZE(via) + 2 + PyBytes_GET_SIZE(payload),
    )
    cdef char* out = _put_text(PyBytes_AS_STRING(sent), method)
    out = _put(out, b" ", 1)
    out = _put_text(out, target)
    out = _put(out, b" HTTP/1.1\r\nHost: ", 17)
    out = _put_text(out, host)
    out = _put(out, b"\r\n", 2)
    out = _put_bytes(out, block) if head is None else _put_kept(out, head)
    out = _put_bytes(out, added)
    if PyBytes_GET_SIZE(request_id):
        out = _put_id(out, request_id)
    if framing.length:
        out = _put_text(out, framing)
    out = _put_bytes(out, via)
    out = _put(out, b"\r\n", 2)
    _put_bytes(out, payload)
    return sent


cpdef bytes response(
    head,
    int status,
    frozenset also=_NOTHING,
    bytes added=b"",
    bytes payload=b"",
    long long length=_UNFRAMED,
    date_line=None,
    bytes last=b"",
    bytes request_id=b"",
):
    if head is None or also is None or added is None or payload is None or last is None or request_id is None:
        raise TypeError("expected a head, names and bytes")
    return _response(head, status, also, added, _text(payload), length, date_line, last, request_id)


cpdef bytes whole(
    ResponseHead head,
    date_line,
    bytes last,
    frozenset also=_NOTHING,
    bytes added=b"",
    bytes request_id=b"",
    bytes changed=None,
):
    cdef Text payload
    if head is None or date_line is None or last is None or also is None or added is None or request_id is None:
        raise TypeError("expected a head, names and bytes")
    if changed is not None:
        payload = _text(changed)
    elif head.whole:
        payload.text, payload.length = <const uint8_t*>head.payload_at, head.payload_length
    else:
        raise ValueError("the body was not received with the head")
    return _response(head, head.status, also, added, payload, payload.length, date_line, last, request_id)


cdef bytes _response(
    head,
    int status,
    frozenset also,
    bytes added,
    Text payload,
    long long length,
    object date_line,
    bytes last,
    bytes request_id,
):
    cdef _Left left
    cdef ResponseHead ours
    cdef bytes date = _NO_BYTES
    if (
        type(head) is not ResponseHead
        or status != (<ResponseHead>head).status
        or ((<Head>head)._fields is not None and _is_rendered(<Head>head))
    ):
        return _other_response(head, status, also, added, payload, length, date_line, last, request_id)
    ours = <ResponseHead>head
    left = _response_masks.left(also)
    if date_line is not None and not ours.names & _DATE:
        date = date_line()
    if status == UPGRADE_REQUIRED:
        last = upgrade_offer(ours.values(b"upgrade")) + last
    _find_cuts(ours, left, _REQUEST_ID if PyBytes_GET_SIZE(request_id) else 0)
    return _written_response(
        _piece(ours, 9, 3), _piece(ours, ours.reason_at.start, ours.reason_at.length), ours, _NO_BYTES, added,
        request_id, _via_of(left.no_via, ours.version), length, date, last, payload,
    )


cdef bytes _other_response(
    head,
    int status,
    frozenset also,
    bytes added,
    Text payload,
    long long length,
    object date_line,
    bytes last,
    bytes request_id,
):
    """Return a response whose fields were changed, that has no lines as received, or gets another status."""
    cdef _Left left = _response_masks.left(also | REQUEST_IDS if request_id else also)
    cdef bytes date = _NO_BYTES
    cdef bytes line = status_line(status, head.reason if status == head.status else None)
    cdef Py_ssize_t space = line.index(b" ", 9)
    cdef Text code = _text(line), reason = _text(line)
    code.text += 9
    code.length = space - 9
    reason.text += space + 1
    reason.length -= space + 3
    if date_line is not None and head.first(b"date") is None:
        date = date_line()
    if status == UPGRADE_REQUIRED:
        last = upgrade_offer(head.values(b"upgrade")) + last
    return _written_response(
        code, reason, None, end_to_end(head, also | REQUEST_IDS if request_id else also), added, request_id,
        _via_of(left.no_via, head.version), length, date, last, payload,
    )


cdef bytes _written_response(
    Text code,
    Text reason,
    Head head,
    bytes block,
    bytes added,
    bytes request_id,
    bytes via,
    long long length,
    bytes date,
    bytes last,
    Text payload,
):
    """Write a response: with the remaining lines of `head`, or, if that is None, with the lines in `block`."""
    cdef char length_line[LONGEST_LENGTH_LINE]
    cdef Text framing = _framing(length, length_line)
    cdef bytes sent = PyBytes_FromStringAndSize(
        NULL,
        9 + code.length + 1 + reason.length + 2
        + (PyBytes_GET_SIZE(block) if head is None else _kept_length(head)) + PyBytes_GET_SIZE(added)
        + _id_length(request_id) + PyBytes_GET_SIZE(via) + framing.length + PyBytes_GET_SIZE(date)
        + PyBytes_GET_SIZE(last) + 2 + payload.length,
    )
    cdef char* out = _put(PyBytes_AS_STRING(sent), b"HTTP/1.1 ", 9)
    out = _put_text(out, code)
    out = _put(out, b" ", 1)
    out = _put_text(out, reason)
    out = _put(out, b"\r\n", 2)
    out = _put_bytes(out, block) if head is None else _put_kept(out, head)
    out = _put_bytes(out, added)
    if PyBytes_GET_SIZE(request_id):
        out = _put_id(out, request_id)
    out = _put_bytes(out, via)
    out = _put_text(out, framing)
    out = _put_bytes(out, date)
    out = _put_bytes(out, last)
    out = _put(out, b"\r\n", 2)
    _put_text(out, payload)
    return sent
