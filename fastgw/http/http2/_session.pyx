# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""HTTP/2 session of a connection by libnghttp2: bytes to events, and messages to bytes. No I/O.

Heads are exchanged as HTTP/1.1 text, so that its parsers and serializers serve both versions: a received request or
response is rendered with its framing, and a sent one is split into fields.

Rule 1: a head accepted by nghttp2 is checked again by the parser of the text: two parsers, as for HTTP/1.1. Here are
the checks that only HTTP/2 needs: one authority, no connection-specific fields, a bounded head, bounded rates of
frames. Rule 2: received data is credited to the windows when its receiver has taken it (`consume`), never before. The
windows of all streams are together at most that of the connection, so no stream can stall another.

Windows: each stream may send 65,535 bytes at first, the default of RFC 9113. Once its receiver takes them as fast as the
path brings them, its window becomes what the path holds at `PACE`: so many bytes per second for a round trip, as SETTINGS
and their acknowledgment have taken, or a PING if streams have been slower since. Then it doubles as long as the stream
uses all of it. Memory is bounded not by what windows promise, but by what is held: one budget per process
(`MOST_UNCONSUMED`). Above half of it no window grows, and each returns to 65,535 bytes as its data is taken; above all of
it, connections that hold more than their share are `FULL`.
"""

from collections import deque

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from fastgw.http.http2._header_block cimport MOST_IN_FRAME, PLAIN_BLOCK, write_plain
from fastgw.http.http2.nghttp2 cimport *
from fastgw.http.http2.received_head cimport ReceivedHead, give_back, take_head, without_body
from fastgw.http.http2.sent_head cimport FIELDS_ON_STACK, SentHead, begin_sent_head, end_sent_head, take_apart

from fastgw.http.reason_phrases import STATUS_LINES

cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    struct timespec:
        long tv_sec
        long tv_nsec
    clockid_t CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec* read)

cdef extern from "sys/socket.h" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    ssize_t send_bytes "send"(int fd, const void* bytes, size_t length, int flags)

cdef enum:
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    ENHANCE_YOUR_CALM = 11

# Kinds of received events. Each is `(kind, stream, value)`.
cdef enum:
    E_HEAD = 0
    E_DATA = 1
    E_END = 2
    E_CLOSED = 3
    E_REFUSED = 4
    E_GOAWAY = 5
    E_INTERIM = 6
    E_PONG = 7
    E_TOO_LONG = 8
    E_MALFORMED = 9
    E_SENT = 10
    E_WHOLE = 11
    E_CONNECT = 12
    E_SETTINGS = 13
    E_BROKEN = 14
    E_REQUEST = 15
    E_DISCARDED = 16


# Flags of `Session.state`.
cdef enum:
    STATE_ENDING = 1
    STATE_IN_HEAD = 2
    STATE_HAS_OUTPUT = 4
    STATE_HOLDS = 8
    STATE_FULL = 16


cdef enum:
    FIELD_OVERHEAD = 32  # of a field in the size of a head (RFC 9113 section 6.5.2)
    OUT_BYTES = 65536
    PREFACE = 24
    SHORTEST_PLAIN = 137  # bytes of a frame
    FRAME = FRAME_HEAD + 16384
    # Rate limits of control frames.
    RESET_BURST = 100
    RESETS_PER_SECOND = 33
    EMPTY_DATA_BURST = 100
    CONTROL_BURST = 1000
    CONTROL_PER_STREAM = 10
    CONTROL_PER_DATA = 3
    CONTROL_PER_SECOND = 10
    # WINDOW_UPDATE frames that a peer may send for what it was sent, before they count as control frames. When to give a
    # window back is the receiver's choice (RFC 9113 section 6.9): servers of Go before 1.20 send two for each read of a
    # body, however short; later ones and its clients two for each 4 KiB. Envoy allows 20 per DATA frame, which is too few
    # for reads of 1 KiB, and nginx any number up to 7 times the bytes of the payload.
    UPDATES_PER_DATA = 20
    BYTES_PER_UPDATE = 64  # further ones for the payload, by its length
    MOST_UPDATES = 100_000  # a window of 6.4 MB in pieces of `BYTES_PER_UPDATE`; those of clients are of 4 to 16 MB
    CONTINUATIONS = 8
    # Maximum number of closed streams that are remembered.
    KEPT_RESETS = 256
    KEPT_GAPS = 32
    # Frames on streams that are not open: of a stream that was reset here, its window of DATA may be in transit, and as
    # many others (interim responses, a head, trailers, RST_STREAM). Of one that has ended, RST_STREAM may cross its end.
    LATE_BURST = 64
    LATE_PER_RESET = 4
    # Windows of received bodies.
    FIRST_WINDOW = 65_535  # of a stream; also that of a peer that has not read our SETTINGS (RFC 9113 section 6.9.2)
    LEAST_GROWTH = 16_384
    HALF_WINDOWS_PER_PING = 16
    MOST_WINDOW = 0x7FFF_FFFF
    PACE = 655_360_000  # bytes per second that a stream may send over any path, as far as there is capacity
    MOST_UNCONSUMED = 64 * 1024 * 1024  # bytes of received bodies that all sessions of the process hold
    MOST_SENT_HEAD = 32 * 1024 * 1024  # the bounds are those of the configuration

cdef const uint8_t* _PATH_PING = b"path    "
cdef double SHORT_PATH_S = 0.001  # below this round-trip time the first window is enough
cdef double LONG_PATH_S = 0.01  # from this one on a response's window is that of the path before its data comes
cdef double ASSUMED_PATH_S = 0.08  # until the peer has acknowledged our SETTINGS
cdef Py_ssize_t _unconsumed = 0  # bytes of received bodies that are held in this process
cdef Py_ssize_t _held_otherwise = 0  # of them, those of `HeldBytes`
cdef Py_ssize_t _holders = 0  # sessions that hold some
cdef uint8_t _out[OUT_BYTES + FRAME]  # empty between two calls
cdef size_t _filled = 0  # its bytes that are to be sent
cdef uint8_t _plain[FRAME_HEAD + PRIORITY_FIELDS + PLAIN_BLOCK]  # a HEADERS frame without Huffman code
cdef bint _plain_in_use = False
cdef dict _status_lines = STATUS_LINES  # HTTP/2 has no reason phrases; some clients of HTTP/1.1 expect them


cdef inline Py_ssize_t _payload_length(const uint8_t* frame) noexcept nogil:
    return frame[0] << 16 | frame[1] << 8 | frame[2]


cdef Py_ssize_t _write_plain_frame(const uint8_t* frame, Py_ssize_t length) noexcept nogil:
    """Write a HEADERS frame to `_plain`, without Huffman code; return its length. 0: it is left as it is."""
    cdef Py_ssize_t before = FRAME_HEAD, size = 0
    if frame[4] & FLAG_PRIORITY:
        before += PRIORITY_FIELDS
    # PERF: a call of nghttp2 for a frame by itself costs more than the code of short blocks: of those with names and
    # values in the table (a gRPC call with Huffman code of 20 bytes: 147,000 instructions, and 150,900 without it).
    if length < SHORTEST_PLAIN:
        return 0
    if frame[4] & (FLAG_END_HEADERS | FLAG_PADDED) == FLAG_END_HEADERS and before <= length <= FRAME_HEAD + MOST_IN_FRAME:
        size = write_plain(frame + before, length - before, _plain + before)
    length = before - FRAME_HEAD + size
    if not size or length > MOST_IN_FRAME:
        return 0
    memcpy(_plain, frame, before)
    _plain[0], _plain[1], _plain[2] = length >> 16, length >> 8 & 0xFF, length & 0xFF
    return FRAME_HEAD + length


@cython.final
cdef class _Outgoing:
    """Bytes of a stream's body that wait to be sent. nghttp2 fetches them when the windows allow it.

    It has a pointer to this object, without a reference. So there is no freelist: sanitizers could not see a use of one
    that is freed, for 150 instructions less per response (0.2 %). The object has no reference to its session: it would
    be a cycle, and the callbacks have the session as their `user`.
    """

    def __dealloc__(self):
        self.release_names()

    cdef void release_names(self) noexcept:
        free(self.names)
        free(self.more_names)
        self.names = self.more_names = NULL

    cdef void release_head(self) noexcept:
        self.release_names()
        self.head = None


cdef class HeldBytes:
    """Bytes of a received body that are held although its stream is closed: they count until this is deleted."""

    cdef Py_ssize_t _length

    def __init__(self, Py_ssize_t length):
        global _unconsumed, _held_otherwise
        self._length = length
        _unconsumed += length
        _held_otherwise += length

    def __dealloc__(self):
        global _unconsumed, _held_otherwise
        _unconsumed -= self._length
        _held_otherwise -= self._length


def held_in_process():
    """Return the bytes of received bodies that this process holds."""
    return _unconsumed


@cython.final
cdef class Session:
    """One side of an HTTP/2 connection.

    `feed` parses received bytes and returns events; `to_send` returns bytes to send. `error`: reason why the connection
    has to end, for the log; the bytes of `to_send` are still sent. After `close` there are no further results.
    """

    def __cinit__(self):
        self._session = NULL
        self._events = []
        self._outgoing = {}
        self._begun = {}
        self._resets = RESET_BURST
        self._empty_data = EMPTY_DATA_BURST
        self._control = CONTROL_BURST
        self._late_frames = LATE_BURST
        self._last_stream = -1
        self._reset_here = {}
        self._inflows = NULL

    def __init__(
        self,
        bint client,
        bint secure,
        double now,
        int max_streams,
        int stream_window,
        int connection_window,
        size_t header_bytes,
        int header_count,
        bint connect_protocol=False,
        object clock=None,
    ):
        """`max_streams`: maximum number of concurrent streams, which only clients open. `stream_window`: bytes that the
        peer may send at most on a stream before they are consumed; `connection_window`: on all streams together.

        `header_bytes`, `header_count`: limits of a decoded head, as in RFC 9113 section 6.5.2. `clock`: returns
        monotonic seconds, more precise than `now`; None: the system's.
        """
        cdef nghttp2_settings_entry entries[6]
        cdef int count = 0, failed
        self._is_client, self._secure, self._at = client, secure, now
        self._until_frame = 0 if client else PREFACE
        self._most_head_bytes, self._most_head_fields = header_bytes, header_count
        self._max_streams = max_streams
        self._most_window, self._connection_window = stream_window, connection_window
        self._spare_capacity = max(connection_window - <Py_ssize_t>FIRST_WINDOW * max_streams, 0)
        self._late_bytes = FIRST_WINDOW
        self._clock, self._round_trip_s = clock, ASSUMED_PATH_S
        if client:
            failed = nghttp2_session_client_new2(&self._session, _client_callbacks, <void*>self, _options)
            entries[count].settings_id, entries[count].value = SETTING_ENABLE_PUSH, 0
            count += 1
        else:
            failed = nghttp2_session_server_new2(&self._session, _server_callbacks, <void*>self, _options)
            entries[count].settings_id, entries[count].value = SETTING_NO_RFC7540_PRIORITIES, 1
            count += 1
            if connect_protocol:
                entries[count].settings_id, entries[count].value = SETTING_ENABLE_CONNECT_PROTOCOL, 1
                count += 1
        if failed:
            raise MemoryError
        entries[count].settings_id = SETTING_MAX_CONCURRENT_STREAMS
        entries[count].value = 0 if client else max_streams
        count += 1
        entries[count].settings_id, entries[count].value = SETTING_INITIAL_WINDOW_SIZE, FIRST_WINDOW
        count += 1
        entries[count].settings_id, entries[count].value = SETTING_MAX_HEADER_LIST_SIZE, header_bytes
        count += 1
        if nghttp2_submit_settings(self._session, 0, entries, count):
            raise MemoryError
        if self._spare_capacity:
            # Of what was taken, less than half of this window is not announced yet: the rest is enough for all streams.
            connection_window = min(2 * <Py_ssize_t>connection_window, MOST_WINDOW)
        nghttp2_session_set_local_window_size(self._session, 0, 0, connection_window)

    def __dealloc__(self):
        while self._inflows is not NULL:
            self._end_inflow(self._inflows)
        if self._session is not NULL:
            nghttp2_session_del(self._session)

    # input

    cpdef list feed(self, buffer, Py_ssize_t length, double now):
        """Parse bytes of the peer; return the resulting events, in order."""
        cdef Py_buffer view
        cdef ssize_t taken
        if self._ended:
            return []
        self._resets = min(RESET_BURST, self._resets + (now - self._at) * RESETS_PER_SECOND)
        self._control = min(CONTROL_BURST, self._control + (now - self._at) * CONTROL_PER_SECOND)
        self._at = now
        if self._in_settings:
            self._queued_before_settings = nghttp2_session_get_outbound_queue_size(self._session)
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            taken = self._receive(<const uint8_t*>view.buf, min(length, view.len))
        finally:
            PyBuffer_Release(&view)
        if taken < 0 and self.error is None:
            self._fail(
                nghttp2_strerror(<int>taken).decode("ascii"),
                ENHANCE_YOUR_CALM if taken in (ERR_FLOODED, ERR_TOO_MANY_CONTINUATIONS) else PROTOCOL_ERROR,
            )
        if self.error is not None:
            self._events.clear()  # nothing further begins: the connection ends
        return self.events()

    cdef ssize_t _receive(self, const uint8_t* at, Py_ssize_t length) noexcept:
        """Pass bytes of the peer to nghttp2, header blocks without Huffman code; return what it returns.

        From a GOAWAY on all bytes are passed in one call, as they are: without streams, nghttp2 reads nothing in calls
        after it, and whether a request behind it is served must not depend on how its head is coded.
        """
        global _plain_in_use
        cdef const uint8_t* end = at + length
        cdef const uint8_t* kept = at  # what follows is not passed yet
        cdef Py_ssize_t begun, size
        cdef ssize_t taken = 0
        while self._frame_head_length and at < end:
            self._frame_head[self._frame_head_length] = at[0]
            self._frame_head_length += 1
            at += 1
            if self._frame_head_length == FRAME_HEAD:
                self._frame_head_length = 0
                self._until_frame = _payload_length(self._frame_head)
                self._peer_leaves |= self._frame_head[3] == F_GOAWAY
                if self._frame_head[3] == F_DATA:
                    self._begin_data(self._frame_head)
        begun = min(self._until_frame, end - at)
        self._until_frame -= begun
        at += begun
        while at < end:
            if end - at < FRAME_HEAD:
                self._frame_head_length = end - at
                memcpy(self._frame_head, at, end - at)
                break
            size = FRAME_HEAD + _payload_length(at)
            self._peer_leaves |= at[3] == F_GOAWAY
            if at[3] == F_DATA:
                self._begin_data(at)
            if size > end - at:
                self._until_frame = size - (end - at)
                break
            if at[3] == F_HEADERS and not self._peer_leaves and not _plain_in_use:
                length = _write_plain_frame(at, size)
                if length:
                    if at > kept:
                        taken = nghttp2_session_mem_recv(self._session, kept, at - kept)
                        if taken < 0:
                            return taken
                    _plain_in_use = True
                    taken = nghttp2_session_mem_recv(self._session, _plain, length)
                    _plain_in_use = False
                    if taken < 0:
                        return taken
                    kept = at + size
            at += size
        if self.error is not None:
            return ERR_CALLBACK_FAILURE
        return nghttp2_session_mem_recv(self._session, kept, end - kept) if kept < end else taken

    cdef void _begin_data(self, const uint8_t* frame) noexcept:
        """Count a DATA frame of a stream that is not open: nghttp2 reports none. Of streams that these bytes open, the
        head may not have been passed yet.
        """
        cdef int32_t stream = (frame[5] & 0x7F) << 24 | frame[6] << 16 | frame[7] << 8 | frame[8]
        if (self._is_client or stream <= self._last_stream) and not self._is_open(stream):
            self._count_late(0, _payload_length(frame) or 1)

    cpdef list events(self):
        """Return events since the last call, including those caused by sending."""
        cdef list events = self._events
        if self.error is not None and not self._ended:
            self._ended = True
            nghttp2_session_terminate_session(self._session, self._code)
        if events:
            self._events = []
        if self._begun:
            self._begun.clear()
        return events

    cdef void _fail(self, str why, uint32_t code) noexcept:
        """End the connection: further data of the peer is ignored."""
        if self.error is None:
            self.error = why
            self._code = code

    cdef void _flooded(self, str why) noexcept:
        self._fail(why, ENHANCE_YOUR_CALM)

    cdef bint _is_open(self, int32_t stream) noexcept:
        """Whether the peer may still send on a stream. One that is reset here is found until RST_STREAM is sent."""
        if nghttp2_session_find_stream(self._session, stream) is NULL:
            return False
        return not len(self._reset_here) or stream not in self._reset_here

    cdef bint _opens_stream(self, int32_t stream) noexcept:
        """Whether HEADERS of a client open a stream. Others are trailers of an open one: nghttp2 ignores the rest.

        RFC 9113 section 5.1: those of streams that were reset here are ignored, because they may have been in transit.
        """
        if stream > self._last_stream:
            if stream > self._last_stream + 2:
                if self._gaps is None:
                    self._gaps = []
                elif len(self._gaps) == KEPT_GAPS:
                    del self._gaps[0]
                self._gaps.append((self._last_stream + 2, stream - 2))
            self._last_stream = stream
            return not self._refuses_new
        if nghttp2_session_find_stream(self._session, stream) is NULL and not self._refuses_new:
            if self._gaps is not None:
                for first, last in self._gaps:
                    if first <= stream <= last:
                        self._fail("a stream was begun behind a later one", PROTOCOL_ERROR)
                        return False
            if stream > self._oldest_known and stream not in self._reset_here:
                self._fail("HEADERS on a closed stream", STREAM_CLOSED)
        return False

    cdef void _remember_reset(self, int32_t stream) noexcept:
        """Remember a stream that is reset here: what the peer sends on it until it knows is late, and no violation."""
        cdef int32_t oldest
        cdef Py_ssize_t window, most
        cdef Inflow* inflow
        if stream in self._reset_here:
            return
        inflow = <Inflow*>nghttp2_session_get_stream_user_data(self._session, stream)
        window = FIRST_WINDOW if inflow is NULL else inflow.widest
        if self._late_frames < LATE_PER_RESET * KEPT_RESETS:
            self._late_frames += LATE_PER_RESET
        # No more than all windows together is in transit.
        most = max(self._connection_window, <Py_ssize_t>KEPT_RESETS * FIRST_WINDOW)
        self._late_bytes = min(self._late_bytes + window, max(self._late_bytes, most))
        if len(self._reset_here) == KEPT_RESETS:
            oldest = next(iter(self._reset_here))
            del self._reset_here[oldest]
            self._oldest_known = max(self._oldest_known, oldest)
        self._reset_here[stream] = None

    cdef void _count_reset(self) noexcept:
        self._resets -= 1
        if self._resets < 0 and not self._is_client:  # a server may refuse any number of requests
            self._flooded("too many streams were reset")

    cdef void _count_late(self, int frames, size_t length) noexcept:
        """Count what comes on a stream that is not open. nghttp2 ignores it, at the cost of reading it."""
        self._late_frames -= frames
        self._late_bytes -= <Py_ssize_t>length
        if self._late_frames < 0 or self._late_bytes < 0:
            self._flooded("too many frames on closed streams")

    cdef void _count_control(self) noexcept:
        self._control -= 1
        if self._control < 0:
            self._flooded("too many control frames")

    cdef void _begin_head(self):
        if self._head is None:
            self._head = take_head()
        self._head.begin(self._is_client, self._most_head_bytes, self._most_head_fields)
        self.in_head = True

    cdef void _end_head(self, int32_t stream, bint ended):
        """Report a complete head as HTTP/1.1 text."""
        cdef ReceivedHead head = self._head
        self.in_head = False
        if head.too_long:
            self._events.append((E_TOO_LONG, stream, head.request_text(ended)))
            return
        if head.refusal is None:
            head.refusal = head.request_refusal(self._secure)
        if head.refusal is not None:
            self._events.append((E_REFUSED, stream, head.refusal))
            return
        if head.protocol.length:
            self._events.append((E_CONNECT, stream, (head.text_of(head.protocol), head.request_text(ended), ended)))
        else:
            if not ended:
                self._begun[stream] = (len(self._events), -1)
            self._events.append((E_WHOLE if ended else E_HEAD, stream, head.request_text(ended)))

    cdef void _add_data(self, int32_t stream, bytes payload):
        """Report a piece of a body."""
        cdef object begun = self._begun.pop(stream, None) if self._begun else None
        if begun is not None and (<tuple>begun)[1] < 0:  # further ones are not joined: there may be thousands
            self._begun[stream] = ((<tuple>begun)[0], len(self._events))
        self._events.append((E_DATA, stream, payload))

    cdef void _end_body(self, int32_t stream):
        """Report the end of a body without trailers. A request whose head and body have come in one piece each, in this
        call of `feed`, becomes one event; one whose body is empty, that of a request without a body.
        """
        cdef object begun = self._begun.pop(stream, None) if self._begun else None
        cdef Py_ssize_t head_at, body_at
        if begun is None:
            self._events.append((E_END, stream, b""))
            return
        head_at, body_at = <tuple>begun
        text = self._events[head_at][2]
        if body_at < 0:
            self._events[head_at] = (E_WHOLE, stream, without_body(text))
            return
        payload = self._events[body_at][2]
        self._release_inflow(stream)  # the body is its receiver's
        self._events[head_at] = (E_REQUEST, stream, (text, payload))
        self._events[body_at] = (E_PONG, 0, None)  # nothing

    cdef double _now(self) noexcept:
        cdef timespec read
        if self._clock is not None:
            return self._clock()
        clock_gettime(CLOCK_MONOTONIC, &read)
        return read.tv_sec + read.tv_nsec * 1e-9

    cdef Inflow* _begin_inflow(self, int32_t stream) noexcept:
        """Return the record of a received body; NULL: out of memory, or the stream is closed."""
        cdef Inflow* inflow = <Inflow*>malloc(sizeof(Inflow))
        if inflow is NULL:
            return NULL
        if nghttp2_session_set_stream_user_data(self._session, stream, inflow):
            free(inflow)
            return NULL
        inflow.next, inflow.previous = self._inflows, NULL
        if self._inflows is not NULL:
            self._inflows.previous = inflow
        self._inflows = inflow
        inflow.window = inflow.widest = FIRST_WINDOW
        inflow.unconsumed = inflow.taken = 0
        inflow.since = self._now()
        return inflow

    cdef void _end_inflow(self, Inflow* inflow) noexcept:
        self._count_unconsumed(inflow, -inflow.unconsumed)
        self._spare_capacity += inflow.window - FIRST_WINDOW
        if inflow.next is not NULL:
            inflow.next.previous = inflow.previous
        if inflow.previous is not NULL:
            inflow.previous.next = inflow.next
        else:
            self._inflows = inflow.next
        free(inflow)

    cdef void _release_inflow(self, int32_t stream) noexcept:
        """Credit what was received on a stream to the connection: the stream is closed, or has ended."""
        cdef Inflow* inflow = <Inflow*>nghttp2_session_get_stream_user_data(self._session, stream)
        if inflow is not NULL:
            nghttp2_session_set_stream_user_data(self._session, stream, NULL)
            nghttp2_session_consume_connection(self._session, inflow.unconsumed)
            self._end_inflow(inflow)

    cdef void _count_unconsumed(self, Inflow* inflow, Py_ssize_t change) noexcept:
        global _unconsumed, _holders
        _holders -= self.unconsumed > 0
        inflow.unconsumed += change
        self.unconsumed += change
        _unconsumed += change
        _holders += self.unconsumed > 0

    cdef void _adapt_window(self, int32_t stream, Inflow* inflow) noexcept:
        """Set the window of a stream of which half was taken to what its path and the memory are."""
        cdef double now = self._now(), took = now - inflow.since
        inflow.since, inflow.taken = now, 0
        if nghttp2_session_get_stream_remote_close(self._session, stream):
            return
        if _unconsumed > MOST_UNCONSUMED // 2 or self._round_trip_s < SHORT_PATH_S:
            self._set_window(stream, inflow, FIRST_WINDOW)
        elif took <= 1.5 * self._round_trip_s:
            self._set_window(stream, inflow, max(self._window_of_path(), 2 * <Py_ssize_t>inflow.window))
            return
        # The stream does not use all of its window, or the path has become longer.
        self._half_windows += 1
        if self._half_windows >= HALF_WINDOWS_PER_PING and not self._ping_at:
            self._half_windows, self._ping_at = 0, now
            nghttp2_submit_ping(self._session, 0, _PATH_PING)

    cdef Py_ssize_t _window_of_path(self) noexcept:
        return <Py_ssize_t>(PACE * min(self._round_trip_s, 10.0))

    cdef void _set_window(self, int32_t stream, Inflow* inflow, Py_ssize_t window) noexcept:
        """Change the window of a stream, as far as there is capacity. A smaller one is not announced: what the stream
        sends is not credited until it is reached.
        """
        cdef Py_ssize_t change = max(min(window, self._most_window), FIRST_WINDOW) - inflow.window
        if change > 0:
            change = min(change, self._spare_capacity // 2)  # some is left for others
            if change < LEAST_GROWTH:
                return
        elif not change:
            return
        self._spare_capacity -= change
        inflow.window += <int32_t>change
        inflow.widest = max(inflow.widest, inflow.window)
        nghttp2_session_set_local_window_size(self._session, 0, stream, inflow.window)

    cdef void _end_response_head(self, int32_t stream, bint ended):
        cdef ReceivedHead head = self._head
        cdef bytes framing = b"" if head.has_length or ended or head.status < 200 else b"transfer-encoding: chunked\r\n"
        cdef bytes text
        self.in_head = False
        if head.too_long:
            self._events.append((E_TOO_LONG, stream, b""))
        elif head.refusal is not None:
            self._events.append((E_REFUSED, stream, head.refusal))
        else:
            line = _status_lines.get(head.status) or b"HTTP/1.1 %d \r\n" % head.status
            text = b"%b%b%b\r\n" % (line, head.lines(), framing)
            self._events.append((E_INTERIM if head.status < 200 else E_WHOLE if ended else E_HEAD, stream, text))

    cdef void _end_trailers(self, int32_t stream):
        cdef ReceivedHead head = self._head
        self.in_head = False
        if head.refusal is None and (head.has_host or head.cookies.length):
            head.refusal = "A trailer has a header that is not allowed in trailers."
        if head.too_long:
            self._events.append((E_TOO_LONG, stream, None))
        elif head.refusal is not None:
            self._events.append((E_REFUSED, stream, head.refusal))
        else:
            self._events.append((E_END, stream, head.lines()))

    # output

    cpdef respond(self, int32_t stream, bytes message, bint ended, bytes trailers=b""):
        """Send a response: `message` is its head as HTTP/1.1 text, and the body after it. `trailers`: serialized lines,
        if it has `ended`.

        A status below 200 has no body, and further responses follow. HTTP/1.1 framing lines are left out. Raises
        `ValueError`: it is no complete head, or the stream has a response with a body already.
        """
        if message is None or trailers is None:
            raise TypeError("expected bytes")
        self._respond(stream, message, ended, trailers)

    cdef int _respond(self, int32_t stream, bytes message, bint ended, bytes trailers) except -1:
        cdef nghttp2_nv on_stack[FIELDS_ON_STACK]
        cdef SentHead head
        cdef Py_ssize_t end = 0
        cdef int count
        cdef nghttp2_data_provider provider
        cdef _Outgoing outgoing
        cdef int place
        begin_sent_head(&head, on_stack)
        try:
            count = take_apart(message, &head, False, False, &end)
            if head.fields[0].value[0] == c"1":
                nghttp2_submit_headers(self._session, 0, stream, NULL, head.fields, count, NULL)
                return 0
            if head.date:
                self._index_repeated_date(&head.fields[head.date])
            if nghttp2_session_find_stream(self._session, stream) is NULL:
                return 0  # the client has reset it
            if stream in self._outgoing:  # nghttp2 has pointers into the first until it is sent
                raise ValueError("the stream has a response already")
            if ended and end == PyBytes_GET_SIZE(message) and not PyBytes_GET_SIZE(trailers):
                nghttp2_submit_response(self._session, stream, head.fields, count, NULL)
                return 0
            outgoing = self._out(stream, message, end, ended)
            outgoing.trailers = trailers
            # PERF: 2,300 instructions less per response than if nghttp2 copied each name and value, and made lower case
            # of the names once more (CPython 3.11, micro/http2).
            for place in range(count):
                head.fields[place].flags |= NV_NO_COPY
            outgoing.head = message
            outgoing.names, outgoing.more_names = head.names, head.more_names
            head.names = head.more_names = NULL
            provider.source.ptr = <void*>outgoing
            provider.read_callback = _length_of_data
            if nghttp2_submit_response(self._session, stream, head.fields, count, &provider):
                self._outgoing.pop(stream, None)
        finally:
            end_sent_head(&head)
        return 0

    cpdef int32_t request(self, bytes message, bint ended) except? -1:
        """Send a request, like `respond`. Returns its stream; -1: no further stream can be opened; -2: the peer does
        not accept so long a head.
        """
        if message is None:
            raise TypeError("expected bytes")
        cdef nghttp2_nv on_stack[FIELDS_ON_STACK]
        cdef SentHead head
        cdef Py_ssize_t end = 0
        cdef int count
        cdef int32_t stream
        cdef nghttp2_data_provider provider
        cdef _Outgoing outgoing
        begin_sent_head(&head, on_stack)
        try:
            count = take_apart(message, &head, True, self._secure, &end)
            if end + FIELD_OVERHEAD * count > nghttp2_session_get_remote_settings(
                self._session, SETTING_MAX_HEADER_LIST_SIZE
            ) and self._is_head_too_long(head.fields, count):
                return -2
            if ended and end == PyBytes_GET_SIZE(message):
                return nghttp2_submit_request(self._session, NULL, head.fields, count, NULL, NULL)
            outgoing = self._out(0, message, end, ended)
            provider.source.ptr = <void*>outgoing
            provider.read_callback = _length_of_data
            stream = nghttp2_submit_request(self._session, NULL, head.fields, count, &provider, NULL)
            del self._outgoing[0]
            if stream > 0:
                self._outgoing[stream] = outgoing
            return stream
        finally:
            end_sent_head(&head)

    cdef void _index_repeated_date(self, nghttp2_nv* date) noexcept:
        """Make a Date an entry of HPACK's table only if it is that of the previous response as well.

        On a connection with a response now and then, the table would be full of past dates: others would be evicted, and
        each new date compared with all of them. PERF: 3,500 instructions less per response then (CPython 3.11, one
        response a second).
        """
        if date.valuelen == DATE_LENGTH and memcmp(date.value, self._date, DATE_LENGTH):
            date.flags = NV_NO_INDEX
            memcpy(self._date, date.value, DATE_LENGTH)

    cdef bint _is_head_too_long(self, const nghttp2_nv* fields, int count) noexcept:
        """Whether a head is longer than the peer accepts (RFC 9113 section 6.5.2)."""
        cdef size_t size = 0
        cdef int index
        for index in range(count):
            size += fields[index].namelen + fields[index].valuelen + FIELD_OVERHEAD
        return size > nghttp2_session_get_remote_settings(self._session, SETTING_MAX_HEADER_LIST_SIZE)

    cdef _Outgoing _out(self, int32_t stream, bytes message, Py_ssize_t at, bint ended):
        cdef _Outgoing outgoing = _Outgoing.__new__(_Outgoing)
        outgoing.piece, outgoing.at = message, at
        outgoing.held = PyBytes_GET_SIZE(message) - at
        self.held_by_all += outgoing.held
        if not outgoing.held:
            outgoing.piece = None
        outgoing.ended = ended
        outgoing.trailers = b""
        self._outgoing[stream] = outgoing
        return outgoing

    def send(self, int32_t stream, bytes payload not None):
        """Send a piece of a body. Returns the number of buffered bytes, including earlier ones."""
        cdef _Outgoing outgoing = self._outgoing.get(stream)
        if outgoing is None or not payload:
            return 0 if outgoing is None else outgoing.held
        if outgoing.piece is None:
            outgoing.piece, outgoing.at = payload, 0
        elif outgoing.more is None:
            outgoing.more = deque((payload,))
        else:
            outgoing.more.append(payload)
        outgoing.held += PyBytes_GET_SIZE(payload)
        self.held_by_all += PyBytes_GET_SIZE(payload)
        self._resume(stream, outgoing)
        return outgoing.held

    def end(self, int32_t stream, bytes trailers not None):
        """End the body; `trailers`: serialized lines `Name: value`, or empty."""
        cdef _Outgoing outgoing = self._outgoing.get(stream)
        if outgoing is not None:
            outgoing.ended = True
            outgoing.trailers = trailers
            self._resume(stream, outgoing)

    cdef void _resume(self, int32_t stream, _Outgoing outgoing) noexcept:
        if outgoing.deferred:
            outgoing.deferred = False
            nghttp2_session_resume_data(self._session, stream)

    def held(self, int32_t stream):
        """Return the number of buffered bytes of a stream's body. If there are any, `SENT` reports when further ones
        are sent.
        """
        cdef _Outgoing outgoing = self._outgoing.get(stream)
        if outgoing is None:
            return 0
        outgoing.noted = outgoing.held > 0
        return outgoing.held

    def admits(self, int32_t stream):
        """Whether the peer's windows admit all bytes that are buffered: those of a stream, and those of all together."""
        cdef _Outgoing outgoing = self._outgoing.get(stream)
        cdef int64_t window = nghttp2_session_get_stream_remote_window_size(self._session, stream)
        if window < 0:  # its head is not sent yet
            window = nghttp2_session_get_remote_settings(self._session, SETTING_INITIAL_WINDOW_SIZE)
        return (
            outgoing is None
            or not outgoing.held
            or (outgoing.held <= window and self.held_by_all <= nghttp2_session_get_remote_window_size(self._session))
        )

    def taken(self, int32_t stream):
        """Return the number of bytes of a stream's body that were sent within the peer's window."""
        cdef _Outgoing outgoing = self._outgoing.get(stream)
        return 0 if outgoing is None else outgoing.taken

    def reset(self, int32_t stream, uint32_t code):
        if nghttp2_session_find_stream(self._session, stream) is not NULL:
            self._remember_reset(stream)
        nghttp2_submit_rst_stream(self._session, 0, stream, code)

    def consume(self, int32_t stream, size_t length):
        """Credit bytes to the windows of the stream and the connection: they are no longer buffered here."""
        cdef Inflow* inflow = <Inflow*>nghttp2_session_get_stream_user_data(self._session, stream)
        if inflow is NULL:
            return  # it is closed
        length = min(<Py_ssize_t>length, inflow.unconsumed)
        inflow.taken += length
        self._count_unconsumed(inflow, -<Py_ssize_t>length)
        if 2 * inflow.taken >= inflow.window:
            self._adapt_window(stream, inflow)
        nghttp2_session_consume(self._session, stream, length)
        if (
            inflow.window > FIRST_WINDOW
            and not inflow.unconsumed
            and nghttp2_session_get_stream_remote_close(self._session, stream)
        ):
            self._release_inflow(stream)  # its capacity is for others, however long the response takes

    cdef size_t _fill(self) noexcept:
        """Move the next bytes to send into `_out`, and return their number; 0: there are none for now."""
        global _filled
        cdef const uint8_t* piece
        cdef ssize_t length
        _filled = 0
        if not self._settings_at:
            self._settings_at = self._now()
        while _filled < OUT_BYTES:
            length = nghttp2_session_mem_send(self._session, &piece)
            if length <= 0:
                if length < 0 and self.error is None:
                    self.error = nghttp2_strerror(<int>length).decode("ascii")
                break
            if _filled + <size_t>length > sizeof(_out):
                self._fail("a frame is longer than the output has room", INTERNAL_ERROR)
                break
            memcpy(_out + _filled, piece, length)
            _filled += length
        return _filled

    def to_send(self):
        """Return the next bytes to send, at most 64 KiB; empty: none for now."""
        cdef size_t total = self._fill()
        return PyBytes_FromStringAndSize(<const char*>_out, total) if total else b""

    cpdef bytes send_on(self, int fd):
        """Send on a socket as much as it accepts without waiting. Returns the bytes that it did not accept, like
        `to_send`; further ones may follow. `fd`: -1: only the transport can send, so it accepts nothing.
        """
        cdef size_t total
        cdef ssize_t sent
        while True:
            total = self._fill()
            if not total:
                return b""
            sent = send_bytes(fd, _out, total, MSG_DONTWAIT | MSG_NOSIGNAL) if fd >= 0 else 0
            if sent < 0:
                sent = 0  # also on an error: the transport reports it
            if <size_t>sent < total:
                return PyBytes_FromStringAndSize(<const char*>_out + sent, total - sent)
            if total < OUT_BYTES:
                return b""

    @property
    def done(self):
        """Whether nothing more is received or sent: the connection can be closed."""
        return not nghttp2_session_want_read(self._session) and not nghttp2_session_want_write(self._session)

    cpdef int state(self) except -1:
        """Return flags. `ENDING`: the connection has to end. `IN_HEAD`: a head is incomplete. `HAS_OUTPUT`: there are
        bytes to send. `HOLDS`: bytes of bodies wait to be sent. `FULL`: no more should be read, because the process
        holds too many bytes of received bodies, and this session more than its share.
        """
        cdef int flags = 0
        if self.error is not None or not nghttp2_session_want_read(self._session):
            flags = STATE_ENDING
        if nghttp2_session_want_write(self._session):
            flags |= STATE_HAS_OUTPUT
        if self.in_head:
            flags |= STATE_IN_HEAD
        if self.held_by_all > 0:
            flags |= STATE_HOLDS
        if (
            _unconsumed > MOST_UNCONSUMED
            and self.unconsumed > FIRST_WINDOW
            and self.unconsumed * _holders > MOST_UNCONSUMED - _held_otherwise
        ):
            flags |= STATE_FULL
        return flags

    def announce_goaway(self):
        """Announce that streams will not be accepted soon (RFC 9113 section 6.8); those in transit still are."""
        nghttp2_submit_shutdown_notice(self._session)

    def goaway(self, uint32_t code=0):
        """Accept no further streams: later ones are not processed."""
        if not self._refuses_new:  # as many may be in transit
            self._refuses_new = True
            self._late_frames += LATE_PER_RESET * self._max_streams
            self._late_bytes += <Py_ssize_t>FIRST_WINDOW * self._max_streams
        nghttp2_submit_goaway(
            self._session, 0, nghttp2_session_get_last_proc_stream_id(self._session), code, NULL, 0
        )

    def terminate(self, uint32_t code):
        """End the connection after pending output was sent."""
        nghttp2_session_terminate_session(self._session, code)

    def ping(self):
        nghttp2_submit_ping(self._session, 0, NULL)

    @property
    def peer_max_streams(self):
        """Maximum number of concurrent streams that the peer allows."""
        return nghttp2_session_get_remote_settings(self._session, SETTING_MAX_CONCURRENT_STREAMS)


# PERF: methods of a session, without a call through Python each: 1,500 instructions less per request (CPython 3.11,
# micro/http2).


cdef ssize_t _length_of_data(
    nghttp2_session* session, int32_t stream, uint8_t* out, size_t room, uint32_t* flags,
    nghttp2_data_source* source, void* user,
) noexcept:
    """Return the length of the stream's next DATA frame, whose payload `_send_data` writes."""
    cdef _Outgoing outgoing = <_Outgoing>source.ptr
    cdef size_t held = <size_t>outgoing.held
    if outgoing.names is not NULL:
        outgoing.release_head()  # it is sent
    if held > room:
        flags[0] |= DATA_FLAG_NO_COPY
        return room
    if outgoing.ended:
        flags[0] |= DATA_FLAG_EOF
        if outgoing.trailers:
            if _submit_trailers(session, stream, outgoing.trailers):
                flags[0] |= DATA_FLAG_NO_END_STREAM
    elif not held:
        outgoing.deferred = True
        return ERR_DEFERRED
    if held:
        flags[0] |= DATA_FLAG_NO_COPY
    return held


cdef int _send_data(
    nghttp2_session* session, nghttp2_frame* frame, const uint8_t* head, size_t length, nghttp2_data_source* source,
    void* user,
) noexcept:
    """Move a DATA frame into `_out`.

    PERF: libnghttp2 would move it into memory of each connection first, which is rarely in the processor's cache.
    """
    global _filled
    cdef Session self = <Session>user
    cdef _Outgoing outgoing = <_Outgoing>source.ptr
    cdef uint8_t* out
    cdef size_t part
    if _filled >= OUT_BYTES:
        return ERR_WOULDBLOCK  # `_fill` does not ask for a frame then
    memcpy(_out + _filled, head, FRAME_HEAD)
    out = _out + _filled + FRAME_HEAD
    _filled += FRAME_HEAD + length
    outgoing.held -= length
    outgoing.taken += length
    self.held_by_all -= length
    while length:
        part = min(length, <size_t>(PyBytes_GET_SIZE(outgoing.piece) - outgoing.at))
        memcpy(out, PyBytes_AS_STRING(outgoing.piece) + outgoing.at, part)
        out += part
        length -= part
        outgoing.at += part
        if outgoing.at == PyBytes_GET_SIZE(outgoing.piece):
            outgoing.piece = None
            outgoing.at = 0
            if outgoing.more is not None:
                outgoing.piece = outgoing.more.popleft()
                if not outgoing.more:
                    outgoing.more = None
    if outgoing.noted:
        outgoing.noted = False
        self._events.append((E_SENT, frame.hd.stream_id, None))
    return ERR_PAUSE if _filled >= OUT_BYTES else 0  # otherwise the next frame, of headers, would have no room


cdef bint _submit_trailers(nghttp2_session* session, int32_t stream, bytes trailers) noexcept:
    cdef nghttp2_nv on_stack[FIELDS_ON_STACK]
    cdef SentHead head
    cdef Py_ssize_t end = 0
    cdef int count
    cdef bytes text = b"HTTP/1.1 200 \r\n" + trailers + b"\r\n"  # the fields point into it until they are submitted
    begin_sent_head(&head, on_stack)
    try:
        count = take_apart(text, &head, False, False, &end)
        return count > 1 and not nghttp2_submit_trailer(session, stream, head.fields + 1, count - 1)
    except (ValueError, MemoryError):
        return False
    finally:
        end_sent_head(&head)


# callbacks of nghttp2

cdef int _on_begin_frame(nghttp2_session* session, const nghttp2_frame_hd* hd, void* user) noexcept:
    cdef Session self = <Session>user
    if hd.type == F_DATA:
        pass  # not called for DATA that is ignored: see `_begin_data`
    elif hd.type == F_HEADERS:
        self._continuations = 0
        self._in_late_head = (self._is_client or not self._opens_stream(hd.stream_id)) and not self._is_open(hd.stream_id)
        if self._in_late_head:
            self._count_late(1, hd.length)
        else:
            self._control = min(self._control + CONTROL_PER_STREAM, CONTROL_BURST)
            if self._late_frames < LATE_BURST:
                self._late_frames += 1
    elif hd.type == F_RST_STREAM:
        if self._is_open(hd.stream_id):
            self._count_reset()
        else:
            self._count_late(1, 0)
    elif hd.type == F_CONTINUATION:
        self._continuations += 1
        if self._in_late_head:
            self._count_late(0, hd.length)
        if hd.length > MOST_IN_FRAME:  # nghttp2 1.52 does not limit these
            self._fail("a frame is too large", FRAME_SIZE_ERROR)
        elif self._continuations > CONTINUATIONS:
            self._flooded("too many CONTINUATION frames")
    elif hd.type == F_WINDOW_UPDATE and self._window_updates:
        self._window_updates -= 1
    else:
        self._count_control()
        if hd.type == F_SETTINGS and not hd.flags & FLAG_ACK:
            self._in_settings = True
            self._queued_before_settings = nghttp2_session_get_outbound_queue_size(session)
        elif hd.type == F_PRIORITY and not hd.stream_id:
            self._fail("PRIORITY on stream 0", PROTOCOL_ERROR)
    return 0 if self.error is None else ERR_CALLBACK_FAILURE


cdef ssize_t _ignore_extension(nghttp2_session* session, void** payload, const nghttp2_frame_hd* hd, void* user) noexcept:
    return ERR_CANCEL  # unknown frames are reported only if unpacking is enabled


cdef int _on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept:
    (<Session>user)._begin_head()
    return 0 if (<Session>user)._head is not None else ERR_CALLBACK_FAILURE


cdef int _on_header(
    nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t namelen, const uint8_t* value,
    size_t length, uint8_t flags, void* user,
) noexcept:
    return 0 if (<Session>user)._head.add_field(name, namelen, value, length) else ERR_CALLBACK_FAILURE


cdef int _on_invalid_header(
    nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t namelen, const uint8_t* value,
    size_t length, uint8_t flags, void* user,
) noexcept:
    (<Session>user)._head.refusal = "A header has a character that is not allowed."
    return 0


cdef int _on_data(
    nghttp2_session* session, uint8_t flags, int32_t stream, const uint8_t* data, size_t length, void* user
) noexcept:
    cdef Session self = <Session>user
    cdef Inflow* inflow = <Inflow*>nghttp2_session_get_stream_user_data(session, stream)
    if inflow is NULL and flags & FLAG_END_STREAM:  # a body of one frame
        nghttp2_session_consume_connection(session, length)
    else:
        if inflow is NULL:
            inflow = self._begin_inflow(stream)
            if inflow is NULL:
                return ERR_CALLBACK_FAILURE
        self._count_unconsumed(inflow, length)
    self._add_data(stream, PyBytes_FromStringAndSize(<const char*>data, length))
    return 0


cdef int _on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept:
    cdef Session self = <Session>user
    cdef bint ended = frame.hd.flags & FLAG_END_STREAM
    if frame.hd.type == F_HEADERS:
        if <int>frame.headers.cat == CAT_REQUEST:
            self._end_head(frame.hd.stream_id, ended)
        elif not self._is_client or self._head.status < 0:  # without :status
            self._end_trailers(frame.hd.stream_id)
        else:
            self._end_response_head(frame.hd.stream_id, ended)
        give_back(self._head)
        self._head = None
        return 0
    if frame.hd.type == F_DATA:
        if ended:
            self._end_body(frame.hd.stream_id)
        elif frame.hd.length <= frame.data.padlen:
            self._empty_data -= 1
            if self._empty_data < 0:
                self._flooded("too many DATA frames without payload")
        elif self._empty_data < EMPTY_DATA_BURST:
            self._empty_data += 1
        return 0
    if frame.hd.type == F_SETTINGS:
        if not frame.hd.flags & FLAG_ACK:
            self._in_settings = False
            # RFC 9113 section 6.9.2: a window above the maximum is a connection error; nghttp2 only resets the streams.
            # Otherwise its answer is one ACK.
            if nghttp2_session_get_outbound_queue_size(session) > self._queued_before_settings + 1:
                self._fail("SETTINGS make a window too large", FLOW_CONTROL_ERROR)
                return ERR_CALLBACK_FAILURE
            if self._is_client:
                self._events.append((E_SETTINGS, 0, None))
        elif not self._settled:
            self._settled = True
            self._round_trip_s = self._now() - self._settings_at
    elif frame.hd.type == F_GOAWAY:
        # First, because the streams that it ends are retried, which must not be on this connection.
        self._begun.clear()
        self._events.insert(0, (E_GOAWAY, frame.goaway.last_stream_id, frame.goaway.error_code))
    elif frame.hd.type == F_PING and frame.hd.flags & FLAG_ACK:
        if memcmp(frame.ping.opaque_data, _PATH_PING, 8):
            self._events.append((E_PONG, 0, None))
        elif self._ping_at:
            self._round_trip_s, self._ping_at = self._now() - self._ping_at, 0.0
    return 0


cdef int _on_sent(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept:
    cdef Session self = <Session>user
    cdef Inflow* inflow
    if frame.hd.type == F_DATA:
        self._control = min(self._control + CONTROL_PER_DATA, CONTROL_BURST)
        self._window_updates = min(
            self._window_updates + UPDATES_PER_DATA + <int>(frame.hd.length // BYTES_PER_UPDATE), MOST_UPDATES
        )
    elif frame.hd.type == F_HEADERS and <int>frame.headers.cat == CAT_REQUEST:
        if self._settled and self._round_trip_s >= LONG_PATH_S and _unconsumed <= MOST_UNCONSUMED // 2:
            inflow = self._begin_inflow(frame.hd.stream_id)
            if inflow is not NULL:
                self._set_window(frame.hd.stream_id, inflow, self._window_of_path())
    elif frame.hd.type == F_RST_STREAM:
        self._remember_reset(frame.hd.stream_id)
        if frame.rst_stream.error_code not in (NO_ERROR, INTERNAL_ERROR, CANCEL):
            self._count_reset()  # caused by the peer
            self._events.append((E_BROKEN, frame.hd.stream_id, None))
    elif frame.hd.type == F_GOAWAY and self._is_client and frame.goaway.error_code != NO_ERROR and self.error is None:
        # Only libnghttp2 sends one with a code before there is an error: it has ended the session because of the peer.
        why = (<char*>frame.goaway.opaque_data)[:frame.goaway.opaque_data_len] if frame.goaway.opaque_data_len else b""
        self._fail(why.decode("ascii", "replace") or "a violation of the protocol", frame.goaway.error_code)
        self._ended = True
    return 0


cdef int _on_invalid_frame(nghttp2_session* session, const nghttp2_frame* frame, int code, void* user) noexcept:
    cdef Session self = <Session>user
    self.in_head = False
    self._remember_reset(frame.hd.stream_id)  # or it will be
    # A refused stream is no request: its client may not have read the limit yet, and may repeat it.
    if frame.hd.type == F_HEADERS and code != ERR_REFUSED_STREAM and self.error is None:
        self._events.append((E_MALFORMED, frame.hd.stream_id, nghttp2_strerror(code).decode("ascii")))
    return 0


cdef int _on_stream_close(nghttp2_session* session, int32_t stream, uint32_t code, void* user) noexcept:
    cdef Session self = <Session>user
    cdef object number = stream
    cdef _Outgoing outgoing = self._outgoing.pop(number, None)
    if outgoing is not None:
        self.held_by_all -= outgoing.held
        if outgoing.held and not self._is_client:
            self._events.append((E_DISCARDED, number, outgoing.held))
    if self._inflows is not NULL:
        self._release_inflow(stream)
    self._events.append((E_CLOSED, number, code))
    return 0


cdef int _on_not_sent(nghttp2_session* session, const nghttp2_frame* frame, int code, void* user) noexcept:
    cdef Session self = <Session>user
    cdef _Outgoing outgoing
    if frame.hd.type == F_HEADERS and <int>frame.headers.cat == CAT_REQUEST:  # the server accepts no further streams
        outgoing = self._outgoing.pop(frame.hd.stream_id, None)
        if outgoing is not None:
            self.held_by_all -= outgoing.held
        self._events.append((E_CLOSED, frame.hd.stream_id, REFUSED_STREAM))
    elif frame.hd.type == F_HEADERS and code != ERR_STREAM_CLOSED and code != ERR_STREAM_CLOSING:
        nghttp2_submit_rst_stream(session, 0, frame.hd.stream_id, INTERNAL_ERROR)  # or the peer would wait for it
    return 0


cdef nghttp2_session_callbacks* _callbacks() except NULL:
    cdef nghttp2_session_callbacks* made = NULL
    if nghttp2_session_callbacks_new(&made):
        raise MemoryError
    nghttp2_session_callbacks_set_on_begin_frame_callback(made, <void*>_on_begin_frame)
    nghttp2_session_callbacks_set_on_begin_headers_callback(made, <void*>_on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(made, <void*>_on_header)
    nghttp2_session_callbacks_set_on_invalid_header_callback(made, <void*>_on_invalid_header)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, <void*>_on_data)
    nghttp2_session_callbacks_set_on_frame_recv_callback(made, <void*>_on_frame)
    nghttp2_session_callbacks_set_on_frame_send_callback(made, <void*>_on_sent)
    nghttp2_session_callbacks_set_send_data_callback(made, <void*>_send_data)
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(made, <void*>_on_invalid_frame)
    nghttp2_session_callbacks_set_unpack_extension_callback(made, <void*>_ignore_extension)
    nghttp2_session_callbacks_set_on_stream_close_callback(made, <void*>_on_stream_close)
    nghttp2_session_callbacks_set_on_frame_not_send_callback(made, <void*>_on_not_sent)
    return made


cdef nghttp2_option* _make_options() except NULL:
    cdef nghttp2_option* made = NULL
    cdef int kind
    if nghttp2_option_new(&made):
        raise MemoryError
    nghttp2_option_set_no_auto_window_update(made, 1)
    nghttp2_option_set_no_closed_streams(made, 1)
    nghttp2_option_set_max_settings(made, 32)
    nghttp2_option_set_max_send_header_block_length(made, MOST_SENT_HEAD)
    for kind in range(FIRST_UNKNOWN, LAST_UNKNOWN + 1):
        nghttp2_option_set_user_recv_extension_type(made, kind)
    return made


cdef nghttp2_session_callbacks* _server_callbacks = _callbacks()
cdef nghttp2_session_callbacks* _client_callbacks = _server_callbacks
cdef nghttp2_option* _options = _make_options()

VERSION = nghttp2_version(0).version_str.decode("ascii")
