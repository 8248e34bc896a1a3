from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy


cdef struct Span:
    # A piece of a head. A missing field has start 0, where none can begin.
    uint32_t start
    uint32_t length


cdef struct Line:
    # A field line. It ends behind the LF that follows its value: `line_end`.
    uint32_t start
    Span value
    uint8_t name  # the number of its name, or `UNNUMBERED`
    uint8_t slot  # `slot_of` its name
    uint8_t signs  # whether its name has punctuation other than hyphens


# Names with special handling have fixed numbers; other numbered names follow.
cdef enum Name:
    AUTHORIZATION
    CONNECTION
    CONTENT_LENGTH
    EXPECT
    HOST
    MAX_FORWARDS
    ORIGIN
    REFERER
    TE
    TRANSFER_ENCODING
    UPGRADE
    USER_AGENT
    X_REQUEST_ID


# Character classes of a byte.
cdef enum:
    TOKEN = 1
    SIGN = 2  # except the hyphen
    PLAIN_PATH = 4  # unescaped in the normal form of a path
    TARGET = 8
    HOST_NAME = 16  # except the dot; lower-case only
    DIGIT = 32

cdef uint8_t[256] kinds

cdef enum:
    UNNUMBERED = 31  # in place of the number of a name
    USUAL_LINES = 16
    SLOT_WORDS = 4
    BEGINNING = 4


cdef class Head:
    # All offsets are relative to `source`, which begins with the message.
    cdef bytes source
    cdef uint32_t names  # a bit for each numbered name that occurs
    cdef uint32_t repeated  # those that occur more than once
    cdef uint64_t others[SLOT_WORDS]  # a bit for each `slot_of` of other names
    cdef uint32_t message_length  # what follows it are pieces that were not received like that
    cdef uint32_t head_length
    cdef uint32_t first_line
    cdef uint32_t line_count
    cdef uint32_t line_room
    cdef readonly bint chunked
    cdef readonly bint close
    cdef readonly bint http2  # received by HTTP/2, and rendered as this text
    cdef readonly bint made  # by the gateway itself
    cdef readonly bint whole  # the whole message was received, and nothing else; a chunked one has its `_payload`
    cdef uint8_t imitates  # a name is like a known one, with other punctuation
    cdef readonly int minor
    cdef readonly int version
    cdef readonly long long length
    cdef Line* lines  # `usual_lines`, or owned
    cdef Line usual_lines[USUAL_LINES]
    cdef bytes _raw
    cdef bytes _payload
    cdef readonly tuple upgrade
    cdef readonly tuple connection_named
    cdef object _fields  # parsed from the beginning if `Connection` names some: they are not among them
    cdef object _second_parser  # `SecondParser` of the body that follows


cdef class RequestHead(Head):
    cdef readonly bint sized
    cdef readonly bint accepts_trailers
    cdef public double received_s
    cdef uint8_t stands_in  # for a request that could not be parsed, or a connection without requests
    cdef uint8_t origin_form
    cdef uint8_t read_in_two_ways  # see `path_normalization.has_other_readings`
    cdef uint32_t method_length
    cdef Span target_at  # the request target: path and query
    cdef Span path_at  # the path as sent
    cdef Span query_at  # starts at 0 without a `?`
    cdef uint32_t host_sent_at  # where `authority` begins as it was sent
    cdef Span authority_at  # in lower case, without an empty port
    cdef Span host_at  # the authority without port and last dot
    cdef bytes begun  # of the body: what was received with the head, until it is taken
    cdef readonly bytes method
    cdef readonly bytes authority
    cdef readonly bytes raw_path
    cdef readonly bytes path
    cdef readonly bint path_as_sent
    cdef readonly bint plain
    cdef readonly bint ordinary
    cdef readonly bytes scheme
    cdef readonly bytes connect_protocol
    cdef readonly bint expects_continue

    cpdef drop_payload(self)


cdef class ResponseHead(Head):
    cdef readonly int status
    cdef readonly bint until_close
    cdef readonly bint has_body
    cdef Span reason_at
    cdef const char* payload_at  # in `source` or `_payload`, if `whole`
    cdef readonly Py_ssize_t payload_length


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

cpdef bytes payload_of(Head head)

# The number of a name, ignoring case; -1: it has none.
cdef int number_of(bytes name) noexcept

# Whether the head was received with a field of this name, which is in lower case.
cpdef bint has_field(Head head, bytes name) except -1
cpdef bytes first_of(Head head, bytes name)
cpdef values_of(head, bytes name)

# The values of all lines that the head was received with.
cdef list all_values(Head head, bytes name)

# Whether the head was received with a numbered name among `numbers`, or with another one that may have one of `slots`.
cdef bint may_have(Head head, uint32_t numbers, const uint64_t* slots) noexcept nogil

cdef inline Line* line_of(Head head, uint32_t bit) noexcept:
    """Return the first line of the numbered name of this bit, which occurs."""
    cdef Line* line = head.lines
    while not bit >> line.name & 1:
        line += 1
    return line

cdef inline const uint8_t* line_end(Head head, const Line* line) noexcept:
    """Return the position behind a line and its CRLF."""
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(head.source) + line.value.start + line.value.length
    while at[0] != c"\n":  # white space, and CR
        at += 1
    return at + 1


cdef inline bint has_one_line(Head head, uint32_t bit, bytes value) noexcept:
    """Whether the numbered name of this bit, which occurs, does so once, with this `value`."""
    cdef Span said = line_of(head, bit).value
    if head.repeated & bit or said.length != PyBytes_GET_SIZE(value):
        return False
    return not memcmp(PyBytes_AS_STRING(head.source) + said.start, PyBytes_AS_STRING(value), said.length)


cdef inline uint32_t bit_of(Name name) noexcept nogil:
    return <uint32_t>1 << <int>name


cdef inline bytes cut(Head head, Span span):
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(head.source) + span.start, span.length)


# Let go of what was received behind the head.
cdef int cut_off_payload(RequestHead head) except -1

# Read all lines from `at` to the empty line, and return the position after it. NULL: they are malformed, too many or
# incomplete.
cdef const uint8_t* read_fields(
    Head head, const uint8_t* at, const uint8_t* end, bint request, int max_fields
) except? NULL
