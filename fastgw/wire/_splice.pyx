# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of `splice`: heads that `_scan` has read are cut into what goes out, one bytes object each.

Left to the reference are heads that it has read itself, those whose fields were changed, and names to leave out whose
lines nobody has looked for.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from fastgw.wire._scan cimport Head, RequestHead, ResponseHead, bits_of

from fastgw.wire import heads, splice

cdef uint32_t _DATE = bits_of((b"date",))

cdef enum:
    MOST_KEPT = 64
    NOT_BY_PLACE = 0  # no mask: `DROPPED` is in every one


@cython.final
cdef class _Masks:
    """The bits of the names to leave out, `DROPPED` among them, for each set of more of them."""

    cdef frozenset known
    cdef uint32_t dropped
    cdef frozenset last
    cdef uint32_t last_mask
    cdef dict kept

    def __init__(self, head_type):
        self.known = head_type.KNOWN
        self.dropped = self.last_mask = bits_of(head_type.DROPPED)
        self.last = frozenset()
        self.kept = {}

    cdef uint32_t mask(self, frozenset also) except? 0:
        """`NOT_BY_PLACE`: names are among them whose lines are not known."""
        if also is not self.last:
            mask = self.kept.get(also)
            if mask is None:
                mask = self.dropped | bits_of(also) if also <= self.known else NOT_BY_PLACE
                if len(self.kept) == MOST_KEPT:
                    self.kept.clear()
                self.kept[also] = mask
            self.last = also
            self.last_mask = mask
        return self.last_mask


cdef _Masks _request_masks = _Masks(heads.RequestHead)
cdef _Masks _response_masks = _Masks(heads.ResponseHead)


cdef inline bint _by_place(Head head, uint32_t mask) except -1:
    return mask != NOT_BY_PLACE and (head._fields is None or not head._fields.changed)


cdef Py_ssize_t _kept_length(Head head, uint32_t mask) noexcept:
    """How many bytes of field lines stay, without the empty line."""
    cdef Py_ssize_t length = head.head_length - head.first_line - 2
    cdef int place
    if head.names & mask:
        for place in range(head.line_count):
            if mask & (<uint32_t>1 << head.lines[place].name):
                length -= head.lines[place].end - head.lines[place].start
    return length


cdef char* _put_kept(char* out, Head head, uint32_t mask) noexcept:
    """Write the field lines that stay, as many bytes as `_kept_length` says, and return the end."""
    cdef const char* text = PyBytes_AS_STRING(head.source)
    cdef Py_ssize_t at = head.first_line
    cdef int place
    if head.names & mask:
        for place in range(head.line_count):
            if mask & (<uint32_t>1 << head.lines[place].name):
                out = _put(out, text + at, head.lines[place].start - at)
                at = head.lines[place].end
    return _put(out, text + at, head.head_length - 2 - at)


cdef inline char* _put(char* out, const char* piece, Py_ssize_t length) noexcept:
    memcpy(out, piece, length)
    return out + length


cdef inline char* _put_bytes(char* out, bytes piece) noexcept:
    return _put(out, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))


cdef frozenset _NOTHING = frozenset()


def end_to_end(head, frozenset also not None=_NOTHING):
    """As `splice.end_to_end`."""
    cdef uint32_t mask = NOT_BY_PLACE
    cdef bytes block
    if isinstance(head, Head):
        mask = (_request_masks if type(head) is RequestHead else _response_masks).mask(also)
        if _by_place(head, mask):
            block = PyBytes_FromStringAndSize(NULL, _kept_length(head, mask))
            _put_kept(PyBytes_AS_STRING(block), head, mask)
            return block
    return splice.end_to_end(head, also)


cdef enum:
    UNFRAMED = -1
    IN_CHUNKS = -2
    MOST_DIGITS = 20

cdef bytes _CHUNKED_LINE = b"Transfer-Encoding: chunked\r\n"
cdef bytes _VIA_1_0 = splice.VIA[0]
cdef bytes _VIA_1_1 = splice.VIA[1]


def request(
    head, bytes target=None, bytes host=None, frozenset also not None=_NOTHING, bytes added not None=b""
):
    """As `splice.request`."""
    cdef uint32_t mask
    cdef bytes sent, via
    cdef const char* text
    cdef const char* target_text
    cdef const char* host_text
    cdef Py_ssize_t target_length, host_length
    cdef char* out
    cdef RequestHead ours
    if type(head) is RequestHead:
        ours = head
        mask = _request_masks.mask(also)
        if _by_place(ours, mask):
            text = PyBytes_AS_STRING(ours.source)
            if target is None:
                target_text = text + ours.target_at.start
                target_length = ours.target_at.length
            else:
                target_text = PyBytes_AS_STRING(target)
                target_length = PyBytes_GET_SIZE(target)
            if host is None:
                host_text = text + ours.authority_at.start
                host_length = ours.authority_at.length
            else:
                host_text = PyBytes_AS_STRING(host)
                host_length = PyBytes_GET_SIZE(host)
            via = _VIA_1_1 if ours.minor else _VIA_1_0
            sent = PyBytes_FromStringAndSize(
                NULL,
                ours.method_at.length + 1 + target_length + 17 + host_length + 2
                + _kept_length(ours, mask) + PyBytes_GET_SIZE(added) + PyBytes_GET_SIZE(via) + 2,
            )
            out = _put(PyBytes_AS_STRING(sent), text, ours.method_at.length)
            out = _put(out, b" ", 1)
            out = _put(out, target_text, target_length)
            out = _put(out, b" HTTP/1.1\r\nHost: ", 17)
            out = _put(out, host_text, host_length)
            out = _put(out, b"\r\n", 2)
            out = _put_kept(out, ours, mask)
            out = _put_bytes(out, added)
            out = _put_bytes(out, via)
            _put(out, b"\r\n", 2)
            return sent
    return splice.request(head, target, host, also, added)


cdef Py_ssize_t _length_line(char* line, long long length) noexcept:
    """Write `Content-Length: …` with its line end, and return how long that is."""
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
):
    """As `splice.response`."""
    cdef uint32_t mask
    if type(head) is ResponseHead and 100 <= status <= 999:
        mask = _response_masks.mask(also)
        if _by_place(head, mask):
            return _response(
                head, status, mask, added, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), length, date_line, last
            )
    return splice.response(head, status, also, added, payload, length, date_line, last)


def whole(head, date_line not None, bytes last not None):
    """As `splice.whole`."""
    cdef uint32_t mask
    cdef ResponseHead ours
    cdef Py_ssize_t length
    if type(head) is ResponseHead:
        ours = head
        mask = _response_masks.mask(_NOTHING)
        if ours.whole and _by_place(ours, mask):
            length = PyBytes_GET_SIZE(ours.source) - ours.head_length
            payload = PyBytes_AS_STRING(ours.source) + ours.head_length
            return _response(ours, ours.status, mask, b"", payload, length, length, date_line, last)
    return splice.whole(head, date_line, last)


cdef bytes _response(
    ResponseHead head,
    int status,
    uint32_t mask,
    bytes added,
    const char* payload,
    Py_ssize_t payload_length,
    long long length,
    object date_line,
    bytes last,
):
    cdef bytes sent, via, date = b""
    cdef char framing[16 + MOST_DIGITS + 2]
    cdef const char* framing_text = framing
    cdef Py_ssize_t framing_length = 0
    cdef char* out
    if length >= 0:
        framing_length = _length_line(framing, length)
    elif length == IN_CHUNKS:
        framing_text = PyBytes_AS_STRING(_CHUNKED_LINE)
        framing_length = PyBytes_GET_SIZE(_CHUNKED_LINE)
    if date_line is not None and not head.names & _DATE:
        date = date_line()
    via = _VIA_1_1 if head.minor else _VIA_1_0
    sent = PyBytes_FromStringAndSize(
        NULL,
        13 + head.reason_at.length + 2 + _kept_length(head, mask) + PyBytes_GET_SIZE(added)
        + PyBytes_GET_SIZE(via) + framing_length + PyBytes_GET_SIZE(date) + PyBytes_GET_SIZE(last) + 2
        + payload_length,
    )
    out = _put(PyBytes_AS_STRING(sent), b"HTTP/1.1 ", 9)
    out[0] = c"0" + status // 100
    out[1] = c"0" + status // 10 % 10
    out[2] = c"0" + status % 10
    out[3] = c" "
    out = _put(out + 4, PyBytes_AS_STRING(head.source) + head.reason_at.start, head.reason_at.length)
    out = _put(out, b"\r\n", 2)
    out = _put_kept(out, head, mask)
    out = _put_bytes(out, added)
    out = _put_bytes(out, via)
    out = _put(out, framing_text, framing_length)
    out = _put_bytes(out, date)
    out = _put_bytes(out, last)
    out = _put(out, b"\r\n", 2)
    _put(out, payload, payload_length)
    return sent
