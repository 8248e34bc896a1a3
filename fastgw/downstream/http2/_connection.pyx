# cython: language_level=3
"""Compiled methods of `connection.Http2ClientConnection` and `stream.Http2Stream`: those of an ordinary request.

A request is received, begins, is answered from the fast path, and its stream is closed. All other cases are left to
methods of the reference. Objects of other classes are used through their attributes (`_slots.read`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport INFINITY
from libc.string cimport memcpy

from fastgw.forwarded_headers cimport Peer
from fastgw.exchange.route cimport Route
from fastgw.eventloop._idle_order cimport put_last
from fastgw._slots cimport PyTypeObject, Slot, learn, read, type_of, write
from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.http.http1.parser cimport Http1RequestHead
from fastgw.http.http2 cimport _session
from fastgw.upstream.forwarding._fast_path cimport accepts_on, forget_on, lets_pass_by, send_request_on

from math import inf
from time import monotonic

from fastgw.compiled import replace
from fastgw.downstream.http1.rejected_head import RejectedHead
from fastgw.downstream.http2 import connection as reference
from fastgw.downstream.http2.stream import Http2Stream
from fastgw.errors import Fault, fault_of
from fastgw.eventloop.worker_loop import BODY_BYTES_PER_TURN
from fastgw.exchange import FastPathPlan, Relay, new_exchange, problem
from fastgw.forwarded_headers import client_address
from fastgw.http.grpc.calls import TIMEOUT, timeout_of_call
from fastgw.http.http1 import serializer
from fastgw.http.http1.reserved_fields import OWN_FIELDS
from fastgw.http.http2 import session as kinds
from fastgw.http.http2.session import ErrorCode, framing_bytes
from fastgw.http.malformed import Malformed
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.pipeline.request_pipeline import find_route, run_early_steps, run_route_steps
from fastgw.routing.requirements import ClientUnknown
from fastgw.upstream.forwarding.fast_path import FastPath

cdef struct OfConnection:
    Slot awaits_head
    Slot buffer
    Slot closed
    Slot closing
    Slot events
    Slot fd
    Slot head_begun_at
    Slot flush_is_due
    Slot full
    Slot last_calls
    Slot listener
    Slot peer
    Slot read_since_rest
    Slot requests
    Slot sending
    Slot server
    Slot session
    Slot spare
    Slot streams
    Slot trusts
    Slot wheel
    Slot write_paused

cdef struct OfStream:
    Slot ahead
    Slot address_limit
    Slot asked_to_continue
    Slot braked
    Slot connection
    Slot exchange
    Slot fast_path
    Slot has_had_exchange
    Slot has_place
    Slot id
    Slot is_fast
    Slot receiving

cdef struct OfHead:
    Slot length
    Slot ordinary
    Slot payload

cdef struct OfListener:
    Slot early
    Slot reserved
    Slot router
    Slot trusts

cdef struct OfServer:
    Slot body_bytes
    Slot date_line
    Slot drained
    Slot draining
    Slot finish
    Slot header_count
    Slot idle
    Slot keepalive
    Slot tracer
    Slot worker_loop

cdef struct OfPath:
    Slot call_due_at
    Slot client_ip
    Slot trace

cdef struct OfPlan:
    Slot at_once
    Slot calls_only
    Slot checks_path

cdef OfConnection of_connection
cdef OfStream of_stream
cdef OfHead of_head
cdef OfListener of_listener
cdef OfServer of_server
cdef OfPath of_path
cdef OfPlan of_plan
cdef PyTypeObject* _stream_class  # the class whose methods these are; NULL until `adopt`

cdef object INF = inf
cdef bytes _NO_BYTES = b""
# PERF: the names of a module by its dict: 500 instructions less than as an attribute (CPython 3.11, micro/http2).
cdef dict _serializer = serializer.__dict__
cdef dict _reference = reference.__dict__
cdef int WHOLE = kinds.WHOLE
cdef int CLOSED = kinds.CLOSED
cdef int REQUEST = kinds.REQUEST
cdef int PONG = kinds.PONG
cdef int ENDING = kinds.ENDING
cdef int IN_HEAD = kinds.IN_HEAD
cdef int FULL = kinds.FULL
cdef int HAS_OUTPUT = kinds.HAS_OUTPUT
cdef int HOLDS = kinds.HOLDS
cdef Py_ssize_t FEW_EVENTS = kinds.FEW_EVENTS
cdef Py_ssize_t _BODY_BYTES_PER_TURN = BODY_BYTES_PER_TURN
cdef object _UNFRAMED = serializer.UNFRAMED

learn(&of_head.length, Http1RequestHead, "length")
learn(&of_head.ordinary, Http1RequestHead, "ordinary")
learn(&of_head.payload, Http1RequestHead, "payload")
learn(&of_path.call_due_at, FastPath, "call_due_at")
learn(&of_path.client_ip, FastPath, "client_ip")
learn(&of_path.trace, FastPath, "trace")
learn(&of_plan.at_once, FastPathPlan, "at_once")
learn(&of_plan.calls_only, FastPathPlan, "calls_only")
learn(&of_plan.checks_path, FastPathPlan, "checks_path")


def adopt(type owner not None, type stream_owner not None):
    """Replace the methods of `Http2ClientConnection` and `Http2Stream`."""
    global _stream_class
    learn(&of_connection.awaits_head, owner, "_awaits_head")
    learn(&of_connection.buffer, owner, "_buffer")
    learn(&of_connection.closed, owner, "closed")
    learn(&of_connection.closing, owner, "_closing")
    learn(&of_connection.events, owner, "_events")
    learn(&of_connection.fd, owner, "fd")
    learn(&of_connection.head_begun_at, owner, "_head_begun_at")
    learn(&of_connection.flush_is_due, owner, "_flush_is_due")
    learn(&of_connection.full, owner, "_full")
    learn(&of_connection.last_calls, owner, "_last_calls")
    learn(&of_connection.listener, owner, "listener")
    learn(&of_connection.peer, owner, "peer")
    learn(&of_connection.read_since_rest, owner, "read_since_rest")
    learn(&of_connection.requests, owner, "requests")
    learn(&of_connection.sending, owner, "sending")
    learn(&of_connection.server, owner, "server")
    learn(&of_connection.session, owner, "session")
    learn(&of_connection.spare, owner, "_spare")
    learn(&of_connection.streams, owner, "_streams")
    learn(&of_connection.trusts, owner, "_trusts")
    learn(&of_connection.wheel, owner, "_wheel")
    learn(&of_connection.write_paused, owner, "write_paused")
    learn(&of_stream.address_limit, stream_owner, "address_limit")
    learn(&of_stream.ahead, stream_owner, "_ahead")
    learn(&of_stream.asked_to_continue, stream_owner, "_asked_to_continue")
    learn(&of_stream.braked, stream_owner, "braked")
    learn(&of_stream.connection, stream_owner, "_connection")
    learn(&of_stream.exchange, stream_owner, "exchange")
    learn(&of_stream.fast_path, stream_owner, "fast_path")
    learn(&of_stream.has_had_exchange, stream_owner, "has_had_exchange")
    learn(&of_stream.has_place, stream_owner, "has_place")
    learn(&of_stream.id, stream_owner, "id")
    learn(&of_stream.is_fast, stream_owner, "is_fast")
    learn(&of_stream.receiving, stream_owner, "receiving")
    replace(
        owner, get_buffer, buffer_updated, receive, _handle, _begin_request, _stream_closed, flush_soon, flush_alone, _flush
    )
    replace(stream_owner, serve, answer_fast, answer_with_trailers)
    _stream_class = of_stream.id.reads


cdef int _learn_server(type server, type listener) except -1:
    """Learn where servers and listeners keep their attributes, by the first ones: their classes are defined after the
    connections.
    """
    learn(&of_server.body_bytes, server, "body_bytes")
    learn(&of_server.date_line, server, "date_line")
    learn(&of_server.drained, server, "drained")
    learn(&of_server.draining, server, "draining")
    learn(&of_server.finish, server, "finish")
    learn(&of_server.header_count, server, "header_count")
    learn(&of_server.idle, server, "idle")
    learn(&of_server.keepalive, server, "keepalive")
    learn(&of_server.tracer, server, "tracer")
    learn(&of_server.worker_loop, server, "worker_loop")
    learn(&of_listener.early, listener, "early")
    learn(&of_listener.reserved, listener, "reserved")
    learn(&of_listener.router, listener, "router")
    learn(&of_listener.trusts, listener, "trusts")
    return 0


cdef inline object _server_of(connection):
    """Return the server of a connection; its attributes are learned then."""
    server = read(&of_connection.server, connection)
    if of_server.worker_loop.name is NULL:
        _learn_server(type(server), type(read(&of_connection.listener, connection)))
    return server


# --- what is received ---


cdef int _receive(connection, received, nbytes) except -1:
    cdef list found
    cdef Py_ssize_t length, read_so_far
    cdef int state
    session = read(&of_connection.session, connection)
    now = (<Wheel?>read(&of_connection.wheel, connection)).now
    length = nbytes
    found = _session.feed(session, received, length, now)
    if found:
        waiting = read(&of_connection.events, connection)
        if waiting:
            waiting.extend(found)  # after earlier events
        else:
            _handle_all(connection, found)
    if read(&of_connection.write_paused, connection):
        connection._read_while_unsent += length
        if connection._read_while_unsent > _reference["READ_WHILE_UNSENT"]:
            connection._stop_or_start()
    if read(&of_connection.awaits_head, connection) and not session.in_head:
        write(&of_connection.awaits_head, connection, False)
        if _may_wait(connection) and read(&of_connection.streams, connection):
            (<Timed?>connection).deadline = INFINITY
    framing = framing_bytes(found) if len(found) > FEW_EVENTS else 0
    read_so_far = <Py_ssize_t>read(&of_connection.read_since_rest, connection) + length
    if framing or read_so_far >= _BODY_BYTES_PER_TURN:
        read(&of_server.worker_loop, _server_of(connection)).count_body(connection, length, framing)
    else:
        write(&of_connection.read_since_rest, connection, read_so_far)
    state = _session.state_of(session)
    if state & FULL and not <int>read(&of_connection.full, connection):
        connection._stop_or_start()  # at once: the loop may read from it many times before it flushes
    if state and not read(&of_connection.flush_is_due, connection):
        _flush_later(connection)
    return 0


cdef bint _may_wait(connection) except -1:
    """Whether it has no deadline while a stream is open."""
    return not read(&of_connection.write_paused, connection) and not read(&of_connection.last_calls, connection)


cdef int _handle_all(connection, events) except -1:
    cdef int kind
    cdef dict streams = read(&of_connection.streams, connection)
    cdef list found = events
    if len(found) > 1 and len(found) > _reference["REQUESTS_PER_TURN"]:
        found = connection._keep_rest_back(found)
    for event in found:
        kind, number, value = <tuple>event
        try:
            if kind == WHOLE:
                _begin(connection, number, value, _NO_BYTES, _NO_BYTES)
            elif kind == CLOSED:
                stream = streams.pop(number, None)
                if stream is not None:
                    _close(connection, stream)
            elif kind == REQUEST:
                text, payload = value
                _begin(connection, number, text, payload, _NO_BYTES)
            elif kind != PONG:  # also in place of a body that has become a part of its request
                connection._handle_event(kind, number, value)
        except Exception:  # the edge of this stream: the others of the connection continue
            connection.fail_after_defect(number)
    return 0


cdef int _begin(connection, number, text, payload, protocol) except -1:
    cdef dict streams
    cdef list spare
    server, listener = _server_of(connection), read(&of_connection.listener, connection)
    if (
        read(&of_connection.trusts, connection) is not read(&of_listener.trusts, listener)
        and not connection._check_peer()
    ):
        connection._refuse(number, Fault.CONNECTION_OUTDATED, None, text)
        connection.leave()
        return 0
    try:
        head = _reference["read_http2_request"](text, read(&of_server.header_count, server), payload)
    except Malformed as malformed:
        connection._begin_malformed(malformed, number, text, payload, protocol)
        return 0
    if protocol:
        head.came_by_connect(protocol)
    if read(&of_connection.head_begun_at, connection) is not None:
        connection._note_reception(head)
    streams, peer = read(&of_connection.streams, connection), read(&of_connection.peer, connection)
    spare = read(&of_connection.spare, connection)
    stream = spare.pop() if spare else Http2Stream(connection)
    write(&of_stream.id, stream, number)
    write(&of_stream.receiving, stream, payload is None)
    write(&of_connection.requests, connection, read(&of_connection.requests, connection) + 1)
    if not streams:
        streams[number] = stream
        if _may_wait(connection):
            (<Timed?>connection).deadline = INFINITY
    else:
        streams[number] = stream
        ip = peer.ip
        address_limit = server.address_limit_for(listener, ip)
        fault = server.admit(ip, address_limit)
        if fault is not None:
            stream.refuse(RejectedHead(text), fault, None)
            return 0
        write(&of_stream.has_place, stream, True)
        write(&of_stream.address_limit, stream, address_limit)
    (OWN_FIELDS if (<Peer?>peer).trusted else read(&of_listener.reserved, listener)).take_out_of(head)
    if type_of(stream) is _stream_class:
        return _serve(stream, head)
    stream.serve(head)
    return 0


cdef int _close(connection, stream) except -1:
    cdef Wheel wheel = read(&of_connection.wheel, connection)
    cdef list spare
    if read(&of_stream.exchange, stream) is not None or read(&of_stream.is_fast, stream):
        stream.break_off(Fault.CLIENT_LEFT)
    server = _server_of(connection)
    if (<Timed?>stream).filed_at != INFINITY:
        wheel.drop(stream)
    if read(&of_stream.has_place, stream):
        write(&of_stream.has_place, stream, False)
        server.release(read(&of_connection.peer, connection), read(&of_stream.address_limit, stream))
    spare = read(&of_connection.spare, connection)
    if not spare or len(spare) < _reference["SPARE_STREAMS"]:
        if read(&of_stream.has_had_exchange, stream):
            stream.reset()
        spare.append(stream)
    else:
        write(&of_stream.fast_path, stream, None)  # avoids a reference cycle
    if read(&of_connection.streams, connection):
        return 0
    put_last(read(&of_server.idle, server), connection)
    last_calls = read(&of_connection.last_calls, connection)
    if last_calls == 2:
        _flush_later(connection)
    elif not last_calls and not read(&of_connection.write_paused, connection):
        wheel.watch(connection, wheel.now + <double>read(&of_server.keepalive, server))
    return 0


def get_buffer(self, sizehint):
    """Compiled `Http2ClientConnection.get_buffer`."""
    return read(&of_connection.buffer, self)


def buffer_updated(self, nbytes):
    """Compiled `Http2ClientConnection.buffer_updated`."""
    _receive(self, read(&of_connection.buffer, self), nbytes)


def receive(self, received, length):
    """Compiled `Http2ClientConnection.receive`."""
    _receive(self, received, length)


def _handle(self, events):
    """Compiled `Http2ClientConnection._handle`."""
    _handle_all(self, events)


def _begin_request(self, number, text, payload, protocol=b""):
    """Compiled `Http2ClientConnection._begin_request`."""
    _begin(self, number, text, payload, protocol)


def _stream_closed(self, stream):
    """Compiled `Http2ClientConnection._stream_closed`."""
    _close(self, stream)


# --- what is sent ---


cdef int _flush_later(connection) except -1:
    if not read(&of_connection.flush_is_due, connection):
        write(&of_connection.flush_is_due, connection, True)
        read(&of_server.worker_loop, _server_of(connection)).loop.call_soon(connection._flush)
    return 0


cdef int _flush_if_alone(connection) except -1:
    if len(read(&of_connection.streams, connection)) == 1 and not read(&of_connection.flush_is_due, connection):
        return _flush_now(connection)
    return _flush_later(connection)


cdef int _flush_now(connection) except -1:
    cdef int state
    cdef list found, sending
    write(&of_connection.flush_is_due, connection, False)
    if read(&of_connection.closed, connection) or read(&of_connection.closing, connection):
        return 0
    session = read(&of_connection.session, connection)
    if not read(&of_connection.write_paused, connection):
        rest = _session.send_on(session, read(&of_connection.fd, connection))
        if rest:
            connection.transport.write(rest)
    found = _session.take_events(session)
    if found:
        waiting = read(&of_connection.events, connection)
        if waiting:
            waiting.extend(found)
        else:
            _handle_all(connection, found)
    state = _session.state_of(session)
    if not state & IN_HEAD:
        write(&of_connection.head_begun_at, connection, None)
    elif read(&of_connection.head_begun_at, connection) is None:
        write(&of_connection.head_begun_at, connection, monotonic())
    if state & FULL != <int>read(&of_connection.full, connection):
        connection._stop_or_start()
    if state & HAS_OUTPUT:
        connection._write_all()  # more than one piece, or the last words after an error
    sending = read(&of_connection.sending, connection)
    if sending:
        for stream in sending:
            if state & HOLDS or read(&of_stream.braked, stream):
                stream.look_at_held()
        sending.clear()
    if read(&of_connection.last_calls, connection) == 2 and not read(&of_connection.streams, connection):
        connection._end(ErrorCode.NO_ERROR)
    elif state & ENDING:
        if (session.error is not None or session.done) and not read(&of_connection.write_paused, connection):
            connection._break_off_all(Fault.CLIENT_LEFT)
            connection.close()
    elif state & IN_HEAD and (<Timed?>connection).deadline == INFINITY:
        write(&of_connection.awaits_head, connection, True)
        connection.watch(read(&of_connection.server, connection).timeouts.request_headers)
    return 0


def flush_soon(self):
    """Compiled `Http2ClientConnection.flush_soon`."""
    _flush_later(self)


def flush_alone(self):
    """Compiled `Http2ClientConnection.flush_alone`."""
    _flush_if_alone(self)


def _flush(self):
    """Compiled `Http2ClientConnection._flush`."""
    _flush_now(self)


# --- the stream ---


cdef int _serve(stream, head) except -1:
    connection = read(&of_stream.connection, stream)
    server = _server_of(connection)
    listener, peer = read(&of_connection.listener, connection), read(&of_connection.peer, connection)
    early = read(&of_listener.early, listener)
    match = fast_match = None
    ordinary, passed = read(&of_head.ordinary, head), lets_pass_by(early, head)
    if ordinary and passed:
        try:
            match = read(&of_listener.router, listener).find(head)
        except ClientUnknown:
            match = None  # found again with the exchange
        if match is not None:
            route, params = match
            payload = read(&of_head.payload, head)
            plan = (<Route?>route).fast_path
            if plan is not None and accepts_on(plan, head):
                fits = not payload or len(payload) <= read(&of_server.body_bytes, server)
                calls_only = read(&of_plan.calls_only, plan)
                due_in = _timeout_of_call(head) if calls_only else INF
                # A call of which nothing is left is answered by its exchange.
                in_time = due_in is INF or (due_in is not None and due_in > 0)
                if read(&of_plan.at_once, plan) and fits and in_time:
                    fast_path = read(&of_stream.fast_path, stream) or stream._make_fast_path()
                    if due_in is not INF and due_in != INF:
                        due_at = (<Wheel?>read(&of_connection.wheel, connection)).now + <double>due_in
                        write(&of_path.call_due_at, fast_path, due_at)
                        stream.watch(due_in)
                    return _send_fast(stream, fast_path, server, listener, peer, head, route, params)
                if not (payload or read(&of_plan.checks_path, plan) or calls_only):
                    fast_match = match
            elif not read(&of_head.length, head):
                chain = (<Route?>route).chain
                step = chain.ready_answer
                if step is not None:
                    answer = step(head, peer, route)
                    if answer is not None:
                        stream._send_ready(head, route, answer)
                        return 0
                    plan = chain.fetch_plan
                    if plan is not None and accepts_on(plan, head):
                        fast_path = read(&of_stream.fast_path, stream) or stream._make_fast_path()
                        if fast_path.begin_fetch(head, route, params, plan):
                            return _send_fast(stream, fast_path, server, listener, peer, head, route, params)
    return _begin_exchange(stream, connection, server, listener, peer, early, head, match, fast_match, passed)


cdef object _timeout_of_call(head):
    """Return the timeout of the caller, as `calls.timeout_of_call` does."""
    if (
        type(head) is Http1RequestHead
        and (<Http1RequestHead>head).http2
        and head.method == b"POST"
        and head.first(b"content-type") == b"application/grpc"
        and head.first(TIMEOUT) is None
    ):
        return INF
    return timeout_of_call(head)


cdef int _send_fast(stream, fast_path, server, listener, peer, head, route, params) except -1:
    if (<Peer?>peer).trusted:
        write(&of_path.client_ip, fast_path, client_address(head, peer, read(&of_listener.trusts, listener)))
    tracer = read(&of_server.tracer, server)
    if tracer is not None:
        write(&of_path.trace, fast_path, tracer.begin_trace(head))
    write(&of_stream.is_fast, stream, True)
    return send_request_on(fast_path, head, route, params)


cdef int _begin_exchange(
    stream, connection, server, listener, peer, early, head, match, fast_match, bint passed
) except -1:
    chain = early if fast_match is None else (<Route?>(fast_match[0])).chain
    write(&of_stream.has_had_exchange, stream, True)
    exchange = new_exchange(head, stream, listener, peer, chain)
    write(&of_stream.exchange, stream, exchange)
    tracer = read(&of_server.tracer, server)
    if tracer is not None:
        exchange.trace = tracer.begin_trace(head)
    if (<Peer?>peer).trusted:
        exchange.client_ip = client_address(head, peer, read(&of_listener.trusts, listener))
    payload = read(&of_head.payload, head)
    if head.connect_protocol:
        write(&of_stream.ahead, stream, [])
        write(&of_stream.asked_to_continue, stream, False)  # the client waits for a 100
    elif read(&of_stream.receiving, stream):
        if not stream._expect_body(exchange, head):
            return 0
    elif payload:
        exchange.request_body = Relay.whole(payload, head.body_length)
        if not stream._fits(head):
            exchange.reply(problem(Fault.BODY_TOO_LARGE))
            return 0
    if fast_match is not None:
        route, exchange.params = fast_match
        exchange.route, exchange.answered_by = route, None
        run_route_steps(stream, exchange, route, True)
    elif not passed:
        run_early_steps(stream, exchange, read(&of_listener.router, listener))
    else:
        exchange.answered_by = None  # all of them have run, or let it pass
        find_route(stream, exchange, read(&of_listener.router, listener), match)
    return 0


def serve(self, head):
    """Compiled `Http2Stream.serve`."""
    _serve(self, head)


cdef int _end_answer(stream, connection, server, exchange) except -1:
    (<list>read(&of_connection.sending, connection)).append(stream)
    if read(&of_server.draining, server):
        write(&of_server.drained, server, read(&of_server.drained, server) + 1)
    if exchange is None:
        fast_path = read(&of_stream.fast_path, stream)
        assert fast_path is not None
        read(&of_server.finish, server)(fast_path)
        forget_on(fast_path)
    else:
        exchange.finish()
        read(&of_server.finish, server)(exchange)
    return _flush_if_alone(connection)


def answer_fast(self, head, exchange, dropped, added, request_id, changed=None):
    """Compiled `Http2Stream.answer_fast`."""
    connection = read(&of_stream.connection, self)
    server = _server_of(connection)
    write(&of_stream.is_fast, self, False)
    (<Timed?>self).deadline = INFINITY  # that of a call
    message = _serializer["whole"](head, read(&of_server.date_line, server), _NO_BYTES, dropped, added, request_id, changed)
    _session.respond(read(&of_connection.session, connection), read(&of_stream.id, self), message, _NO_BYTES)
    _end_answer(self, connection, server, exchange)


cdef bytes _lines_of(tuple trailers):
    """Return the serialized lines of trailers."""
    cdef bytes name, value, lines
    cdef Py_ssize_t length = 0
    cdef char* to
    for name, value in trailers:
        length += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4
    lines = PyBytes_FromStringAndSize(NULL, length)
    to = PyBytes_AS_STRING(lines)
    for name, value in trailers:
        memcpy(to, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        to += PyBytes_GET_SIZE(name)
        memcpy(to, b": ", 2)
        memcpy(to + 2, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        to += 2 + PyBytes_GET_SIZE(value)
        memcpy(to, b"\r\n", 2)
        to += 2
    return lines


def answer_with_trailers(self, head, payload, trailers, dropped, request_id):
    """Compiled `Http2Stream.answer_with_trailers`."""
    connection = read(&of_stream.connection, self)
    server = _server_of(connection)
    write(&of_stream.is_fast, self, False)
    length = _UNFRAMED if head.chunked else head.length
    message = _serializer["response"](
        head, head.status, dropped, _NO_BYTES, payload, length, read(&of_server.date_line, server), _NO_BYTES, request_id
    )
    lines = _lines_of(trailers)
    (<Timed?>self).deadline = INFINITY  # that of the call
    _session.respond(read(&of_connection.session, connection), read(&of_stream.id, self), message, lines)
    _end_answer(self, connection, server, None)
