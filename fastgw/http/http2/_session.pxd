# The types of `_session.pyx`.

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t

from fastgw.http.http2.nghttp2 cimport nghttp2_nv, nghttp2_session
from fastgw.http.http2.received_head cimport ReceivedHead

cdef enum:
    DATE_LENGTH = 29  # of an HTTP date (RFC 9110 section 5.6.7)
    FRAME_HEAD = 9  # bytes before the payload of a frame (RFC 9113 section 4.1)


@cython.final
cdef class _Outgoing:
    cdef bytes piece
    cdef Py_ssize_t at
    cdef object more  # a deque: further pieces, or None
    cdef Py_ssize_t held  # number of buffered bytes
    cdef Py_ssize_t taken  # number of bytes sent
    cdef bint ended
    cdef bint deferred
    cdef bint noted  # report when some of it is sent
    cdef bytes trailers  # serialized lines, or empty
    # The head, and memory of its names, until it is sent: nghttp2 makes no copy of its fields. If the stream is closed
    # before, they are released before `_on_not_sent` is called with the frame: nghttp2 looks for the stream first, and
    # reads no field of a frame without one. So nothing may read `frame.headers.nva` there.
    cdef bytes head
    cdef uint8_t* names
    cdef uint8_t* more_names

    cdef void release_names(self) noexcept
    cdef void release_head(self) noexcept


cdef struct Inflow:
    # Received body of a stream.
    Inflow* next
    Inflow* previous
    int32_t window
    int32_t widest  # largest window that the peer may know
    Py_ssize_t unconsumed  # bytes that were received, and not taken by their receiver
    Py_ssize_t taken  # bytes that their receiver has taken since `since`
    double since


@cython.final
cdef class Session:
    cdef nghttp2_session* _session
    cdef dict _outgoing  # stream -> _Outgoing
    cdef list _events
    cdef dict _begun  # stream -> (place of its head in `_events`, place of its only DATA or -1)
    cdef bint _is_client
    cdef bint _secure
    # the head that is being received
    cdef ReceivedHead _head  # None: none
    cdef size_t _most_head_bytes
    cdef int _most_head_fields
    cdef int _continuations
    cdef readonly bint in_head  # a head is incomplete
    # rates
    cdef double _resets
    cdef double _at
    cdef int _empty_data
    cdef double _control
    cdef int _window_updates  # WINDOW_UPDATE frames that the peer may send for DATA sent to it
    cdef readonly object error
    cdef uint32_t _code  # error code of `error`
    # windows
    cdef int32_t _most_window  # of a stream
    cdef Py_ssize_t _connection_window
    cdef Py_ssize_t _spare_capacity  # bytes by which windows of streams may still grow
    cdef Inflow* _inflows
    cdef readonly Py_ssize_t unconsumed
    """Bytes of received bodies that their receivers have not taken."""
    cdef object _clock
    cdef double _settings_at  # when our SETTINGS were sent; 0.0: not yet
    cdef double _round_trip_s
    cdef bint _settled  # the peer has acknowledged our SETTINGS
    cdef int _half_windows  # that were taken since the round trip was measured
    cdef double _ping_at  # when a PING was sent that measures it; 0.0: none is in transit
    # frames on streams that are not open
    cdef int _late_frames  # number that may still come, without DATA
    cdef Py_ssize_t _late_bytes  # of their payloads
    cdef bint _in_late_head
    cdef int _max_streams
    # streams of the peer
    cdef int32_t _last_stream
    cdef list _gaps  # (first, last) of stream identifiers that the peer has skipped, or None
    cdef dict _reset_here  # recently reset by us, which the peer may not know yet
    cdef int32_t _oldest_known  # resets up to this stream are forgotten
    cdef bint _refuses_new  # the last GOAWAY is sent: higher streams are ignored
    cdef uint8_t _date[DATE_LENGTH]  # of the last response
    cdef Py_ssize_t _until_frame  # bytes that are received before the next frame
    cdef uint8_t _frame_head[FRAME_HEAD]  # what was received of a frame, if it is less than its head
    cdef int _frame_head_length
    cdef bint _peer_leaves  # its GOAWAY has begun
    cdef size_t _queued_before_settings
    cdef bint _in_settings
    cdef bint _ended
    cdef readonly Py_ssize_t held_by_all
    """Bytes of all bodies that wait to be sent."""

    cpdef list feed(self, buffer, Py_ssize_t length, double now)
    cdef ssize_t _receive(self, const uint8_t* at, Py_ssize_t length) noexcept
    cdef void _begin_data(self, const uint8_t* frame) noexcept
    cpdef list events(self)
    cdef void _fail(self, str why, uint32_t code) noexcept
    cdef void _flooded(self, str why) noexcept
    cdef bint _is_open(self, int32_t stream) noexcept
    cdef bint _opens_stream(self, int32_t stream) noexcept
    cdef void _remember_reset(self, int32_t stream) noexcept
    cdef void _count_reset(self) noexcept
    cdef void _count_late(self, int frames, size_t length) noexcept
    cdef void _count_control(self) noexcept
    cdef void _begin_head(self)
    cdef void _end_head(self, int32_t stream, bint ended)
    cdef void _add_data(self, int32_t stream, bytes payload)
    cdef void _end_body(self, int32_t stream)
    cdef double _now(self) noexcept
    cdef Inflow* _begin_inflow(self, int32_t stream) noexcept
    cdef void _end_inflow(self, Inflow* inflow) noexcept
    cdef void _release_inflow(self, int32_t stream) noexcept
    cdef void _count_unconsumed(self, Inflow* inflow, Py_ssize_t change) noexcept
    cdef void _adapt_window(self, int32_t stream, Inflow* inflow) noexcept
    cdef Py_ssize_t _window_of_path(self) noexcept
    cdef void _set_window(self, int32_t stream, Inflow* inflow, Py_ssize_t window) noexcept
    cdef void _end_response_head(self, int32_t stream, bint ended)
    cdef void _end_trailers(self, int32_t stream)
    cpdef respond(self, int32_t stream, bytes message, bint ended, bytes trailers=*)
    cdef int _respond(self, int32_t stream, bytes message, bint ended, bytes trailers) except -1
    cpdef int32_t request(self, bytes message, bint ended) except? -1
    cdef void _index_repeated_date(self, nghttp2_nv* date) noexcept
    cdef bint _is_head_too_long(self, const nghttp2_nv* fields, int count) noexcept
    cdef _Outgoing _out(self, int32_t stream, bytes message, Py_ssize_t at, bint ended)
    cdef void _resume(self, int32_t stream, _Outgoing outgoing) noexcept
    cdef size_t _fill(self) noexcept
    cpdef bytes send_on(self, int fd)
    cpdef int state(self) except -1
