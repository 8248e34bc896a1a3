# cython: language_level=3
"""Compiled methods of `http2_connection.Http2UpstreamConnection` and `http2_stream.Http2UpstreamStream`: those of an
ordinary exchange.

A stream is opened, carries a request that is complete, receives a response with one read, and is given back. All other
cases are left to methods of the reference. Objects of other classes are used through their attributes (`_slots.read`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport INFINITY
from libc.string cimport memcmp

from fastgw._slots cimport PyTypeObject, Slot, learn, read, type_of, write
from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.http.http2._session cimport state_of
from fastgw.upstream.connections._http1_connection cimport give_back_to

from math import inf

from fastgw.compiled import replace
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import BODY_BYTES_PER_TURN
from fastgw.exchange.reply import NO_CONTENT
from fastgw.http.field_names import NOT_IN_TRAILERS
from fastgw.http.http1.trailers import LONGEST_TRAILERS, MOST_TRAILERS, parse_trailers
from fastgw.http.http1.parser import read_http2_response
from fastgw.http.http2 import session as kinds
from fastgw.http.http2.session import ErrorCode, framing_bytes
from fastgw.http.malformed import Malformed
from fastgw.upstream.connections import http2_connection as reference
from fastgw.upstream.connections._http1_connection import learn_http2
from fastgw.upstream.connections.http1_connection import AWAITING as _awaiting, CLOSED as _over, IDLE as _idle
from fastgw.upstream.connections.http1_connection import RECEIVING as _receiving
from fastgw.upstream.connections.http2_stream import HEAD_TOO_LONG, MAX_FIELDS, MOST_HELD, _UNSIZED

cdef extern from "Python.h":
    object PyType_GenericAlloc(type of, Py_ssize_t items)

cdef struct OfConnection:
    Slot asked_at
    Slot begun
    Slot buffer
    Slot closed
    Slot fd
    Slot flush_is_due
    Slot full
    Slot gone
    Slot heard_at
    Slot holding
    Slot pool
    Slot read_since_rest
    Slot session
    Slot streams
    Slot target
    Slot transport
    Slot unheard
    Slot uses
    Slot wheel
    Slot worker_loop
    Slot write_paused

cdef struct OfStream:
    Slot connection
    Slot early
    Slot ended
    Slot head_text
    Slot head_timeout
    Slot held_at_last_look
    Slot idle_timeout
    Slot informed
    Slot kept
    Slot listener
    Slot method
    Slot number
    Slot paused
    Slot phase
    Slot reset_code
    Slot reused
    Slot sending
    Slot source
    Slot target
    Slot targets_turn
    Slot waits_since
    Slot wheel
    Slot write_paused

cdef OfConnection of_connection
cdef OfStream of_stream
cdef PyTypeObject* _connection_class  # the classes whose methods these are; NULL until `adopt`
cdef PyTypeObject* _stream_class
cdef type _Stream
cdef object _take_data  # the method of the reference

cdef object NEVER = -inf
cdef bytes _NO_BYTES = b""
cdef object AWAITING = _awaiting
cdef object IDLE = _idle
cdef object OVER = _over
cdef object RECEIVING = _receiving
cdef bytes UNSIZED = _UNSIZED
cdef int WHOLE = kinds.WHOLE
cdef int HEAD = kinds.HEAD
cdef int DATA = kinds.DATA
cdef int END = kinds.END
cdef int ENDING = kinds.ENDING
cdef int FULL = kinds.FULL
cdef int CLOSED = kinds.CLOSED
cdef int SETTINGS = kinds.SETTINGS
cdef int GOAWAY = kinds.GOAWAY
cdef Py_ssize_t FEW_EVENTS = kinds.FEW_EVENTS
cdef Py_ssize_t _BODY_BYTES_PER_TURN = BODY_BYTES_PER_TURN
cdef Py_ssize_t _MOST_HELD = MOST_HELD
cdef object _MOST_USES = reference.MOST_USES
cdef double SILENCE_S = reference.SILENCE_S
cdef long PONG = kinds.PONG
cdef bytes _HEAD = b"HEAD"
cdef bytes _HTTP1 = reference._HTTP1
cdef frozenset _NO_CONTENT = NO_CONTENT
cdef frozenset _NOT_IN_TRAILERS = NOT_IN_TRAILERS



def adopt(type owner not None, type stream_owner not None):
    """Replace the methods of `Http2UpstreamConnection` and `Http2UpstreamStream`."""
    global _connection_class, _stream_class, _Stream, _take_data
    _take_data = stream_owner.take_data
    learn(&of_connection.asked_at, owner, "_asked_at")
    learn(&of_connection.begun, owner, "_begun")
    learn(&of_connection.buffer, owner, "_buffer")
    learn(&of_connection.closed, owner, "closed")
    learn(&of_connection.fd, owner, "fd")
    learn(&of_connection.flush_is_due, owner, "_flush_is_due")
    learn(&of_connection.full, owner, "_full")
    learn(&of_connection.gone, owner, "_gone")
    learn(&of_connection.heard_at, owner, "_heard_at")
    learn(&of_connection.holding, owner, "_holding")
    learn(&of_connection.pool, owner, "pool")
    learn(&of_connection.read_since_rest, owner, "read_since_rest")
    learn(&of_connection.session, owner, "session")
    learn(&of_connection.streams, owner, "_streams")
    learn(&of_connection.target, owner, "target")
    learn(&of_connection.transport, owner, "transport")
    learn(&of_connection.unheard, owner, "_unheard")
    learn(&of_connection.uses, owner, "uses")
    learn(&of_connection.wheel, owner, "_wheel")
    learn(&of_connection.worker_loop, owner, "worker_loop")
    learn(&of_connection.write_paused, owner, "write_paused")
    learn(&of_stream.connection, stream_owner, "_connection")
    learn(&of_stream.early, stream_owner, "_early")
    learn(&of_stream.ended, stream_owner, "_ended")
    learn(&of_stream.head_text, stream_owner, "_head_text")
    learn(&of_stream.head_timeout, stream_owner, "_head_timeout")
    learn(&of_stream.held_at_last_look, stream_owner, "_held_at_last_look")
    learn(&of_stream.idle_timeout, stream_owner, "idle_timeout")
    learn(&of_stream.informed, stream_owner, "_informed")
    learn(&of_stream.kept, stream_owner, "_kept")
    learn(&of_stream.listener, stream_owner, "_listener")
    learn(&of_stream.method, stream_owner, "_method")
    learn(&of_stream.number, stream_owner, "_number")
    learn(&of_stream.paused, stream_owner, "paused")
    learn(&of_stream.phase, stream_owner, "phase")
    learn(&of_stream.reset_code, stream_owner, "reset_code")
    learn(&of_stream.reused, stream_owner, "reused")
    learn(&of_stream.sending, stream_owner, "_sending")
    learn(&of_stream.source, stream_owner, "_source")
    learn(&of_stream.target, stream_owner, "target")
    learn(&of_stream.targets_turn, stream_owner, "_targets_turn")
    learn(&of_stream.waits_since, stream_owner, "waits_since")
    learn(&of_stream.wheel, stream_owner, "_wheel")
    learn(&of_stream.write_paused, stream_owner, "write_paused")
    replace(
        owner, open_stream, start_request, end_stream, flush_soon, get_buffer, buffer_updated, _handle, _await_rest,
        _flush,
    )
    replace(
        stream_owner, send_request, _send_request, release, _end, _watch_head, take_head, take_data, take_end, take_rest
    )
    learn_http2(owner)
    _connection_class, _stream_class = of_connection.session.reads, of_stream.number.reads
    _Stream = stream_owner


# --- trailers ---


cdef tuple _plain_trailers(bytes lines, Py_ssize_t longest, Py_ssize_t most):
    """Return trailers whose names are of lower-case letters, digits and hyphens, and whose values are visible ASCII.
    None: there are others, or some that are not allowed.
    """
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(lines)
    cdef const unsigned char* end = at + PyBytes_GET_SIZE(lines)
    cdef const unsigned char* name
    cdef const unsigned char* value
    cdef list trailers = []
    cdef bytes name_text
    if end - at + 4 > longest:
        return None
    while at < end:
        name = at
        while at < end and (c"a" <= at[0] <= c"z" or c"0" <= at[0] <= c"9" or at[0] == c"-"):
            at += 1
        if at == name or end - at < 3 or at[0] != c":":
            return None
        if at - name >= 8 and not memcmp(name, b"content-", 8):
            return None
        name_text = PyBytes_FromStringAndSize(<const char*>name, at - name)
        if name_text in _NOT_IN_TRAILERS:
            return None
        at += 1
        if at[0] == c" ":
            at += 1
        value = at
        while at < end and c" " <= at[0] <= c"~":
            at += 1
        if end - at < 2 or at[0] != c"\r" or at[1] != c"\n":
            return None
        if at > value and (value[0] == c" " or (at - 1)[0] == c" "):
            return None
        trailers.append((name_text, PyBytes_FromStringAndSize(<const char*>value, at - value)))
        at += 2
    return tuple(trailers) if len(trailers) <= most else None


def trailers_of(bytes lines not None, Py_ssize_t longest=LONGEST_TRAILERS, Py_ssize_t most=MOST_TRAILERS):
    """Return the trailers of serialized lines, as `body.parse_trailers` does."""
    trailers = _plain_trailers(lines, longest, most)
    return parse_trailers(b"\r\n" + lines + b"\r\n", longest, most) if trailers is None else trailers


# --- the connection ---


cdef int _flush_later(connection) except -1:
    if not read(&of_connection.flush_is_due, connection):
        write(&of_connection.flush_is_due, connection, True)
        read(&of_connection.worker_loop, connection).loop.call_soon(connection._flush)
    return 0


cdef object _start(connection, stream, bytes request, bint ended):
    cdef Wheel wheel
    if read(&of_connection.closed, connection):
        number = -1
    else:
        number = read(&of_connection.session, connection).request(request, ended)
    if number == HEAD_TOO_LONG:
        return number
    if number < 0:
        connection._leave()
        return -1
    streams = read(&of_connection.streams, connection)
    if not streams and not read(&of_connection.unheard, connection):
        wheel = read(&of_connection.wheel, connection)
        write(&of_connection.heard_at, connection, wheel.now)
        wheel.watch(connection, wheel.now + SILENCE_S)
    write(&of_connection.unheard, connection, True)
    streams[number] = stream
    _flush_later(connection)
    if read(&of_connection.uses, connection) >= _MOST_USES:
        connection._leave()
    return number


cdef int _finish_stream(connection, stream, number, bint reset) except -1:
    holding = read(&of_connection.holding, connection)
    if holding:
        holding.discard(stream)
    removed = read(&of_connection.streams, connection).pop(number, None)
    if removed is not None and reset and not read(&of_connection.gone, connection):
        read(&of_connection.session, connection).reset(number, ErrorCode.CANCEL)
        _flush_later(connection)
    return give_back_to(read(&of_connection.pool, connection), connection)


cdef int _handle_all(connection, events) except -1:
    cdef int kind
    cdef bint ours
    streams = read(&of_connection.streams, connection)
    begun = []  # streams whose response has begun or ended in this read
    for kind, number, value in events:
        stream = None if kind == GOAWAY else streams.get(number)  # its identifier: the last stream processed
        if stream is None:
            if kind == SETTINGS:
                connection._settle("")
            elif kind == GOAWAY:
                connection.needs_http1 = value == ErrorCode.HTTP_1_1_REQUIRED
                connection._leave()
            continue
        ours = type_of(stream) is _stream_class
        try:
            if kind == DATA and ours:
                _data_of(stream, value)
            elif (kind == HEAD or kind == WHOLE) and ours:
                _head_of(stream, value, kind == WHOLE)
            elif kind == END and ours:
                _end_of(stream, value)
            elif kind == CLOSED and ours and read(&of_stream.ended, stream) is not None:
                write(&of_stream.sending, stream, False)  # as in `take_close`
            else:
                connection._handle_event(stream, kind, value)
        except Exception:  # the edge of this stream: the others of the connection continue
            connection._fail_stream(stream)
            continue
        if kind == HEAD or kind == WHOLE or kind == END:
            begun.append(stream)
    for stream in begun:
        if read(&of_stream.ended, stream) is None:
            _await_rest_of(connection, stream)
            continue
        try:
            if type_of(stream) is _stream_class:
                _rest_of(stream)
            else:
                stream.take_rest()
        except Exception:  # the edge of this stream
            connection._fail_stream(stream)
    return 0


cdef int _await_rest_of(connection, stream) except -1:
    begun = read(&of_connection.begun, connection)
    if not begun:
        read(&of_connection.worker_loop, connection).loop.call_soon(connection._report_begun)
    begun.append(stream)
    return 0


def _await_rest(self, stream):
    """Compiled `Http2UpstreamConnection._await_rest`."""
    _await_rest_of(self, stream)


def open_stream(self):
    """Compiled `Http2UpstreamConnection.open_stream`."""
    target = read(&of_connection.target, self)
    timeouts = target.timeouts
    stream = PyType_GenericAlloc(_Stream, 0)
    (<Timed?>stream).deadline = (<Timed>stream).filed_at = INFINITY
    write(&of_stream.connection, stream, self)
    write(&of_stream.wheel, stream, read(&of_connection.wheel, self))
    write(&of_stream.target, stream, target)
    write(&of_stream.reused, stream, read(&of_connection.uses, self) > 1)
    write(&of_stream.phase, stream, IDLE)
    write(&of_stream.paused, stream, False)
    write(&of_stream.waits_since, stream, INFINITY)
    write(&of_stream.write_paused, stream, False)
    write(&of_stream.idle_timeout, stream, timeouts.idle)
    write(&of_stream.head_timeout, stream, timeouts.response_headers)
    write(&of_stream.listener, stream, None)
    write(&of_stream.source, stream, None)
    write(&of_stream.number, stream, 0)
    write(&of_stream.method, stream, _NO_BYTES)
    write(&of_stream.sending, stream, False)
    write(&of_stream.targets_turn, stream, True)
    write(&of_stream.informed, stream, 0)
    write(&of_stream.held_at_last_look, stream, 0)
    write(&of_stream.head_text, stream, None)
    write(&of_stream.early, stream, [])
    write(&of_stream.kept, stream, None)
    write(&of_stream.ended, stream, None)
    write(&of_stream.reset_code, stream, None)
    return stream


def start_request(self, stream, bytes request, bint ended):
    """Compiled `Http2UpstreamConnection.start_request`."""
    return _start(self, stream, request, ended)


def end_stream(self, stream, number, bint reset):
    """Compiled `Http2UpstreamConnection.end_stream`."""
    _finish_stream(self, stream, number, reset)


def flush_soon(self):
    """Compiled `Http2UpstreamConnection.flush_soon`."""
    _flush_later(self)


def get_buffer(self, sizehint):
    """Compiled `Http2UpstreamConnection.get_buffer`."""
    return read(&of_connection.buffer, self)


def buffer_updated(self, nbytes):
    """Compiled `Http2UpstreamConnection.buffer_updated`."""
    if read(&of_connection.gone, self):
        return
    now = (<Wheel?>read(&of_connection.wheel, self)).now
    write(&of_connection.heard_at, self, now)
    write(&of_connection.unheard, self, False)
    buffer = read(&of_connection.buffer, self)
    events = read(&of_connection.session, self).feed(buffer, nbytes, now)
    if len(<list>events) > 1 or (events and (<tuple>(<list>events)[0])[0] != PONG):
        write(&of_connection.asked_at, self, NEVER)
    _handle_all(self, events)
    if not read(&of_connection.uses, self) and nbytes >= len(_HTTP1) and bytes(buffer[: len(_HTTP1)]) == _HTTP1:
        self._settle(reference.SPEAKS_HTTP1)
    framing = framing_bytes(events) if len(events) > FEW_EVENTS else 0
    read_so_far = read(&of_connection.read_since_rest, self) + nbytes
    if framing or read_so_far >= _BODY_BYTES_PER_TURN:
        read(&of_connection.worker_loop, self).count_body(self, nbytes, framing)
    else:
        write(&of_connection.read_since_rest, self, read_so_far)
    _flush_later(self)


def _handle(self, events):
    """Compiled `Http2UpstreamConnection._handle`."""
    _handle_all(self, events)


def _flush(self):
    """Compiled `Http2UpstreamConnection._flush`."""
    cdef int state
    write(&of_connection.flush_is_due, self, False)
    session, transport = read(&of_connection.session, self), read(&of_connection.transport, self)
    if read(&of_connection.gone, self) or transport is None:
        return
    while not read(&of_connection.write_paused, self) and not transport.is_closing():
        unsent = session.send_on(read(&of_connection.fd, self))
        if not unsent:
            break
        transport.write(unsent)
    events = session.events()
    if events:
        _handle_all(self, events)
    holding = read(&of_connection.holding, self)
    if holding:
        for stream in tuple(holding):
            stream.look_at_held()
    state = state_of(session)
    if state & FULL != <int>read(&of_connection.full, self):
        self._stop_or_start(state & FULL)
    if state & ENDING:
        self._end_if_done()


# --- the stream ---


cdef int _watch_stream(stream, seconds) except -1:
    cdef Wheel wheel = read(&of_stream.wheel, stream)
    wheel.watch(stream, wheel.now + <double>seconds)
    return 0


cdef int _watch_for_head(stream) except -1:
    if read(&of_stream.phase, stream) is not AWAITING:
        return 0
    if not read(&of_stream.paused, stream):
        if read(&of_stream.write_paused, stream):  # the request is not sent yet
            return _watch_stream(stream, read(&of_stream.idle_timeout, stream))
        if read(&of_stream.targets_turn, stream):
            return _watch_stream(stream, read(&of_stream.head_timeout, stream))
    (<Timed?>stream).deadline = INFINITY
    return 0


cdef int _send(stream, listener, bytes request, method) except -1:
    cdef long long started
    connection = read(&of_stream.connection, stream)
    write(&of_stream.listener, stream, listener)
    write(&of_stream.method, stream, method)
    write(&of_stream.phase, stream, AWAITING)
    ended = not read(&of_stream.sending, stream)
    if type_of(connection) is _connection_class:
        number = _start(connection, stream, request, ended)
    else:
        number = connection.start_request(stream, request, ended)
    write(&of_stream.number, stream, number)
    started = number
    if started < 0:
        loop = connection.worker_loop.loop
        if number == HEAD_TOO_LONG:
            why = "the target accepts no head of this length (SETTINGS_MAX_HEADER_LIST_SIZE)"
            loop.call_soon(stream.break_off, Fault.HEAD_TOO_LARGE, why)
        else:
            loop.call_soon(stream.lose, Fault.STREAM_REFUSED, "")
        return 0
    if not ended or len(request) > _MOST_HELD:
        stream._see_held(connection.session.held(number))
    return _watch_for_head(stream)


cdef int _give_up(stream, bint reset) except -1:
    write(&of_stream.phase, stream, OVER)
    write(&of_stream.listener, stream, None)
    write(&of_stream.source, stream, None)
    (<Wheel?>read(&of_stream.wheel, stream)).drop(stream)
    write(&of_stream.kept, stream, None)
    connection, number = read(&of_stream.connection, stream), read(&of_stream.number, stream)
    if type_of(connection) is _connection_class:
        return _finish_stream(connection, stream, number, reset)
    connection.end_stream(stream, number, reset)
    return 0


def send_request(self, listener, bytes request, method):
    """Compiled `Http2UpstreamStream.send_request`."""
    _send(self, listener, request, method)


def _send_request(self, listener, bytes request, method):
    """Compiled `Http2UpstreamStream._send_request`."""
    _send(self, listener, request, method)


def release(self):
    """Compiled `Http2UpstreamStream.release`."""
    if read(&of_stream.phase, self) is not OVER:
        _give_up(self, read(&of_stream.ended, self) is None or read(&of_stream.sending, self))


def _end(self, bint reset):
    """Compiled `Http2UpstreamStream._end`."""
    _give_up(self, reset)


def _watch_head(self):
    """Compiled `Http2UpstreamStream._watch_head`."""
    _watch_for_head(self)


cdef int _head_of(self, text, bint ended) except -1:
    write(&of_stream.head_text, self, text)
    if ended:
        write(&of_stream.ended, self, ())
    return 0


cdef int _data_of(self, payload) except -1:
    if read(&of_stream.head_text, self) is not None:
        read(&of_stream.early, self).append(payload)
        return 0
    if read(&of_stream.paused, self) or read(&of_stream.kept, self) is not None:
        _take_data(self, payload)
    elif read(&of_stream.phase, self) is RECEIVING:
        (<Timed?>self).deadline = (
            (<Wheel?>read(&of_stream.wheel, self)).now + <double>read(&of_stream.idle_timeout, self)
        )
        read(&of_stream.listener, self).on_data(payload)
        self._consume(len(payload))
    return 0


cdef int _end_of(self, lines) except -1:
    trailers = ()
    if lines:
        try:
            rules = read(&of_stream.target, self).response_rules
            trailers = trailers_of(lines, rules.header_bytes, rules.header_count)
        except Malformed as malformed:
            self.break_off(Fault.UPSTREAM_MALFORMED, malformed.reason)
            return 0
    write(&of_stream.ended, self, trailers)
    kept = read(&of_stream.kept, self)
    if kept is not None:
        kept.count_held()
    if (
        read(&of_stream.head_text, self) is None
        and not read(&of_stream.paused, self)
        and read(&of_stream.kept, self) is None
    ):
        self._tell_end()
    return 0


cdef int _rest_of(self) except -1:
    cdef bytes text, payload, received
    text = read(&of_stream.head_text, self)
    write(&of_stream.head_text, self, None)
    if text is None or read(&of_stream.phase, self) is not AWAITING:
        return 0
    early = read(&of_stream.early, self)
    if early:
        payload = early[0] if len(early) == 1 else b"".join(early)
        write(&of_stream.early, self, [])
    else:
        payload = _NO_BYTES
    trailers = read(&of_stream.ended, self)
    ended = trailers is not None and not trailers
    received = text
    if ended:
        if text.endswith(UNSIZED):
            length = b"content-length: %d\r\n\r\n" % len(payload) if payload else b"\r\n"
            text = text[: len(text) - len(UNSIZED)] + length
        received = text + payload
    try:
        head = read_http2_response(received, len(text), read(&of_stream.method, self), MAX_FIELDS)
    except Malformed as malformed:
        self.break_off(Fault.UPSTREAM_MALFORMED, malformed.reason)
        return 0
    listener = read(&of_stream.listener, self)
    if not head.has_body:
        if payload:
            self.break_off(Fault.UPSTREAM_MALFORMED, "There is a body where none may be.")
            return 0
        if read(&of_stream.method, self) == _HEAD or head.status in _NO_CONTENT:
            ended = True  # what follows is ignored; after a declared length of 0 there may be trailers
    if ended:
        _mark_idle(self)
        listener.on_head(head, None if head.whole else payload, True)
        return 0
    if trailers and not read(&of_stream.paused, self):
        take_message = getattr(listener, "take_message", None)  # of a `MessageListener`
        if take_message is not None:
            _mark_idle(self)
            if take_message(head, payload, trailers):
                return 0
            write(&of_stream.listener, self, listener)
    write(&of_stream.phase, self, RECEIVING)
    _watch_stream(self, read(&of_stream.idle_timeout, self))
    listener.on_head(head, payload, False)
    self._consume(len(payload))
    if (
        read(&of_stream.ended, self) is not None
        and not read(&of_stream.paused, self)
        and read(&of_stream.kept, self) is None
        and read(&of_stream.phase, self) is RECEIVING
    ):
        self._tell_end()  # else the listener has cancelled it
    return 0


cdef int _mark_idle(stream) except -1:
    """Mark a stream as one that waits for nothing."""
    write(&of_stream.phase, stream, IDLE)
    write(&of_stream.listener, stream, None)
    (<Timed?>stream).deadline = INFINITY
    return 0


def take_head(self, text, ended):
    """Compiled `Http2UpstreamStream.take_head`."""
    _head_of(self, text, ended)


def take_data(self, payload):
    """Compiled `Http2UpstreamStream.take_data`."""
    _data_of(self, payload)


def take_end(self, lines):
    """Compiled `Http2UpstreamStream.take_end`."""
    _end_of(self, lines)


def take_rest(self):
    """Compiled `Http2UpstreamStream.take_rest`."""
    _rest_of(self)
