from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy

from fastgw.http.http1._body cimport SecondParser


cdef struct Span:
    # A piece of a head. A missing field has start 0, where none can begin.
    uint16_t start
    uint16_t length


cdef struct Line:
    # The line of a known field, including its line end, and the value in it.
    uint16_t start
    uint16_t end
    Span value
    uint8_t name


cdef enum:
    MOST_LINES = 20
    SLOT_WORDS = 4
    BEGINNING = 4
    MOST_SHOWN = 8


cdef class Head:
    # All offsets are relative to `source`, which begins with the head.
    cdef bytes source
    cdef uint32_t names  # a bit for each known name that occurs
    cdef uint64_t others[SLOT_WORDS]  # a bit for each `slot_of` of other names
    cdef uint64_t beginnings  # `beginning_of` them, together
    cdef uint16_t head_length
    cdef uint16_t first_line
    cdef uint8_t line_count
    cdef readonly bint chunked
    cdef readonly bint close
    cdef readonly bint http2  # received by HTTP/2, and rendered as this text
    cdef readonly bint whole  # `source` is the whole message and nothing else; a chunked one has its `_payload`
    cdef readonly int minor
    cdef readonly long long length
    cdef Line lines[MOST_LINES]
    cdef bytes _raw
    cdef bytes _payload
    cdef PyObject* shown[MOST_SHOWN]  # attributes: NULL or owned
    cdef object _fields
    cdef dict _known
    cdef SecondParser _second_parser


cdef class Http1RequestHead(Head):
    cdef readonly bint sized
    cdef readonly bint accepts_trailers
    cdef public double received_s  # see the reference
    cdef bint read_in_two_ways  # see `paths.has_other_readings`
    cdef Span method_at
    cdef Span target_at  # the request target: path and query
    cdef Span path_at  # the path as sent
    cdef Span query_at  # starts at 0 without a `?`
    cdef Span authority_at  # value of Host; never with an upper-case letter
    cdef Span host_at  # the authority without port and last dot
    cdef Span authorization_at
    cdef uint8_t authorizations  # 2: two or more
    cdef Span user_agent_at  # the first one of each
    cdef Span referer_at
    cdef Span origin_at
    cdef uint8_t origins  # 2: two or more
    cdef Span x_request_id_at
    cdef bytes _raw_path
    cdef bytes _path


cdef class Http1ResponseHead(Head):
    cdef int status
    cdef readonly bint until_close
    cdef readonly bint has_body
    cdef Span reason_at
    cdef const char* payload_at  # in `source` or `_payload`, if `whole`
    cdef Py_ssize_t payload_length


cdef uint32_t bits_of(names) except? 0

# Return a number below 64 * SLOT_WORDS for a name, ignoring case: equal for all twins that begin and end with a letter
# or digit. With these factors, hardly any usual name has the slot of one of the default `reserved_headers`.
cdef uint8_t slot_of(const uint8_t* name, Py_ssize_t length) noexcept nogil

# Return a bit for the first `BEGINNING` bytes of a name, ignoring case; that many have to be readable. With this
# factor, hardly any usual name collides with the default `reserved_headers`.
cdef inline uint64_t beginning_of(const uint8_t* name) noexcept nogil:
    cdef uint32_t four
    memcpy(&four, name, BEGINNING)
    return <uint64_t>1 << ((four | <uint32_t>0x20202020) * <uint32_t>0x3CC58733 >> 26)

cdef inline int version_of(Head head) noexcept:
    """HTTP version times ten."""
    return 20 if head.http2 else 10 + head.minor

cdef bytes method_of(Http1RequestHead head)

# Whether the head was received with a field of this name, which is in lower case.
cdef bint has_field(Head head, bytes name) except -1

# All values that the head was received with, as `values` returns them while its fields were not parsed.
cdef list all_values(Head head, bytes name)

cdef inline bint has_one_line(Head head, uint32_t bit, bytes value) noexcept:
    """Whether the known name of this bit occurs once, with this `value`."""
    cdef int place, found = 0
    cdef Span said
    for place in range(head.line_count):
        if bit >> head.lines[place].name & 1:
            said = head.lines[place].value
            found += 1
    if found != 1 or said.length != PyBytes_GET_SIZE(value):
        return False
    return not memcmp(PyBytes_AS_STRING(head.source) + said.start, PyBytes_AS_STRING(value), said.length)
