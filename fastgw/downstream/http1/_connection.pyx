# cython: language_level=3
"""Compiled methods of `connection.Http1ClientConnection` and of `stream.Http1Stream`: those of an ordinary request.

A request is received with one read, is answered from the fast path, from memory, by the gateway itself or with a whole
response that filters have seen, and the connection is ready for the next one. All other cases are left to methods of
the reference. Objects of other classes are used through their attributes (`_slots.read`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.string cimport memcpy

from fastgw.exchange.ready_answer cimport ReadyAnswer
from fastgw.forwarded_headers cimport Peer
from fastgw.exchange.route cimport Route
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport Exchange
from fastgw._slots cimport PyTypeObject, Slot, learn, read, type_of, write
from fastgw.eventloop._idle_order cimport put_last
from fastgw.eventloop.socket_send cimport send, send_parts
from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.http.http1.parser cimport Http1RequestHead, Http1ResponseHead
from fastgw.upstream.forwarding._fast_path cimport accepts_on, begin_ready_on, forget_on, lets_pass_by, send_request_on

from fastgw.compiled import replace
from fastgw.downstream.http1 import connection as reference
from fastgw.downstream.http1.response_framing import LENGTH, own_answer
from fastgw.errors import Fault
from fastgw.exchange import FastPathPlan, Response
from fastgw.exchange.reply import NO_CONTENT
from fastgw.exchange.states import ANSWER_ENDED, Event
from fastgw.forwarded_headers import client_address
from fastgw.http.http1 import serializer
from fastgw.http.http1.parser import take_request
from fastgw.http.http1.reserved_fields import OWN_FIELDS
from fastgw.http.messages import AS_DECLARED
from fastgw.pipeline.request_pipeline import find_route, run_early_steps, run_route_steps
from fastgw.routing.requirements import ClientUnknown
from fastgw.upstream.client.subrequest import Subrequests
from fastgw.upstream.forwarding.fast_path import FastPath

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(object table, object key) except? NULL  # borrowed

cdef struct OfConnection:
    Slot ahead
    Slot beginning
    Slot buffer
    Slot closing
    Slot fast_path
    Slot fd
    Slot is_fast
    Slot listener
    Slot paused
    Slot peer
    Slot phase
    Slot requests
    Slot server
    Slot starting
    Slot stream
    Slot transport
    Slot trusts
    Slot wheel
    Slot write_paused

cdef struct OfHead:
    Slot close
    Slot length
    Slot ordinary

cdef struct OfListener:
    Slot closing
    Slot early
    Slot reserved
    Slot router
    Slot trusts

cdef struct OfPath:
    Slot client_ip
    Slot trace

cdef struct OfPlan:
    Slot at_once
    Slot calls_only
    Slot checks_path

cdef struct OfServer:
    Slot body_bytes
    Slot date_line
    Slot draining
    Slot finish
    Slot header_bytes
    Slot header_count
    Slot idle
    Slot keepalive
    Slot tracer

cdef struct OfStream:
    Slot connection
    Slot ending
    Slot exchange
    Slot reader
    Slot waiting

cdef OfConnection of_connection
cdef OfHead of_head
cdef OfListener of_listener
cdef OfPath of_path
cdef OfPlan of_plan
cdef OfServer of_server
cdef OfStream of_stream
cdef Slot active_of_subrequests
cdef PyTypeObject* _connection_class  # the class whose methods these are; NULL until `adopt`

cdef object IDLE  # the phase of this name
cdef object _buffer_updated  # the method of the reference
cdef object _answer  # likewise, of `Http1Stream`
cdef object _AS_DECLARED = AS_DECLARED
cdef bytes _HEAD = b"HEAD"
cdef bytes _NO_BYTES = b""
cdef bytes _CLOSE = b"Connection: close\r\n"
# PERF: the names of a module by its dict: 500 instructions less than as an attribute (CPython 3.11, micro/http2).
cdef dict _serializer = serializer.__dict__
cdef dict _reference = reference.__dict__
cdef dict _status_lines = {200: serializer.status_line(200)}
cdef Py_ssize_t _JOINED = reference.JOINED

learn(&of_head.close, Http1RequestHead, "close")
learn(&of_head.length, Http1RequestHead, "length")
learn(&of_head.ordinary, Http1RequestHead, "ordinary")
learn(&of_path.client_ip, FastPath, "client_ip")
learn(&of_path.trace, FastPath, "trace")
learn(&of_plan.at_once, FastPathPlan, "at_once")
learn(&of_plan.calls_only, FastPathPlan, "calls_only")
learn(&of_plan.checks_path, FastPathPlan, "checks_path")
learn(&active_of_subrequests, Subrequests, "active")


def adopt(type owner not None, idle):
    """Replace the methods of `Http1ClientConnection`. `idle`: its phase of this name."""
    global IDLE, _buffer_updated, _connection_class
    IDLE, _buffer_updated = idle, owner.buffer_updated
    learn(&of_connection.ahead, owner, "_ahead")
    learn(&of_connection.beginning, owner, "_beginning")
    learn(&of_connection.buffer, owner, "_buffer")
    learn(&of_connection.closing, owner, "closing")
    learn(&of_connection.fast_path, owner, "fast_path")
    learn(&of_connection.fd, owner, "fd")
    learn(&of_connection.is_fast, owner, "is_fast")
    learn(&of_connection.listener, owner, "listener")
    learn(&of_connection.paused, owner, "paused")
    learn(&of_connection.peer, owner, "peer")
    learn(&of_connection.phase, owner, "phase")
    learn(&of_connection.requests, owner, "requests")
    learn(&of_connection.server, owner, "server")
    learn(&of_connection.starting, owner, "_starting")
    learn(&of_connection.stream, owner, "_stream")
    learn(&of_connection.transport, owner, "transport")
    learn(&of_connection.trusts, owner, "_trusts")
    learn(&of_connection.wheel, owner, "_wheel")
    learn(&of_connection.write_paused, owner, "write_paused")
    replace(owner, get_buffer, buffer_updated, _serve, _send_ready, send_refusal, answer_fast, response_sent, _next)
    _connection_class = of_connection.phase.reads


def adopt_stream(type owner not None):
    """Replace the methods of `Http1Stream`."""
    global _answer
    _answer = owner.answer
    learn(&of_stream.connection, owner, "_connection")
    learn(&of_stream.ending, owner, "_ending")
    learn(&of_stream.exchange, owner, "exchange")
    learn(&of_stream.reader, owner, "reader")
    learn(&of_stream.waiting, owner, "waiting")
    replace(owner, answer)


cdef int _learn_server(type server, type listener) except -1:
    """Learn where servers and listeners keep their attributes, by the first ones: their classes are defined after the
    connections."""
    learn(&of_server.body_bytes, server, "body_bytes")
    learn(&of_server.date_line, server, "date_line")
    learn(&of_server.draining, server, "draining")
    learn(&of_server.finish, server, "finish")
    learn(&of_server.header_bytes, server, "header_bytes")
    learn(&of_server.header_count, server, "header_count")
    learn(&of_server.idle, server, "idle")
    learn(&of_server.keepalive, server, "keepalive")
    learn(&of_server.tracer, server, "tracer")
    learn(&of_listener.closing, listener, "closing")
    learn(&of_listener.early, listener, "early")
    learn(&of_listener.reserved, listener, "reserved")
    learn(&of_listener.router, listener, "router")
    learn(&of_listener.trusts, listener, "trusts")
    return 0


cdef inline object _server_of(connection):
    server = read(&of_connection.server, connection)
    if of_server.tracer.name is NULL:
        _learn_server(type(server), type(read(&of_connection.listener, connection)))
    return server


cdef inline object _following(event, phase):
    """Return the phase after an event. PERF: 400 instructions of a request less than `event[phase]`, since `Event` is a
    class of Python (CPython 3.11, callgrind, micro/response_cache)."""
    cdef PyObject* after = PyDict_GetItemWithError(event, phase) if type(event) is Event else NULL
    return event[phase] if after is NULL else <object>after


# --- a request ---


cdef int _serve_request(connection, head) except -1:
    try:
        _begin_request(connection, head)
    except Exception:  # the edge of a request without an exchange
        connection._fail_unbegun(head)
    return 0


cdef int _begin_request(connection, head) except -1:
    server, listener = _server_of(connection), read(&of_connection.listener, connection)
    if read(&of_connection.trusts, connection) is not read(&of_listener.trusts, listener) and not connection._check_peer():
        connection._refuse_unread(Fault.CONNECTION_OUTDATED, None, head.raw)
        return 0
    peer = read(&of_connection.peer, connection)
    trusted = (<Peer?>peer).trusted
    (OWN_FIELDS if trusted else read(&of_listener.reserved, listener)).take_out_of(head)
    write(&of_connection.phase, connection, _following(_reference["REQUEST"], read(&of_connection.phase, connection)))
    write(&of_connection.closing, connection, read(&of_listener.closing, listener) or read(&of_head.close, head))
    early = read(&of_listener.early, listener)
    ordinary, length = read(&of_head.ordinary, head), read(&of_head.length, head)
    match = fast_match = None
    passed = lets_pass_by(early, head)
    if ordinary and passed:
        try:
            match = read(&of_listener.router, listener).find(head)
        except ClientUnknown:
            match = None  # found again with the exchange
        if match is not None:
            route, params = match
            plan = (<Route?>route).fast_path
            if plan is not None and accepts_on(plan, head):
                calls_only = read(&of_plan.calls_only, plan)
                if (
                    read(&of_plan.at_once, plan)
                    and (not length or length <= read(&of_server.body_bytes, server))
                    and not calls_only
                ):
                    return _send_fast(connection, _fast_path_of(connection), server, listener, peer, head, route, params)
                if not (length or read(&of_plan.checks_path, plan) or calls_only):  # otherwise `choose` has to check it
                    fast_match = match
            elif (
                length and plan is not None and plan.refuse is not None
                and length <= read(&of_server.body_bytes, server) and head.method != _HEAD
            ):
                refusal = plan.refuse(head)
                if refusal is not None:
                    return _send_refusal(connection, server, listener, peer, head, route, refusal)
            elif not length:
                chain = (<Route?>route).chain
                step = (<Chain?>chain).ready_answer
                if step is not None:
                    answer = step(head, peer, route)
                    if answer is not None:
                        return _send_from_memory(connection, head, route, answer)
                    plan = (<Chain?>chain).fetch_plan
                    if plan is not None and accepts_on(plan, head):
                        fast_path = _fast_path_of(connection)
                        if fast_path.begin_fetch(head, route, params, plan):
                            return _send_fast(connection, fast_path, server, listener, peer, head, route, params)
    return _begin_exchange(connection, server, listener, peer, early, head, match, fast_match, passed)


cdef inline object _fast_path_of(connection):
    return read(&of_connection.fast_path, connection) or connection.make_fast_path()


cdef int _send_fast(connection, fast_path, server, listener, peer, head, route, params) except -1:
    (<Timed?>connection).deadline = INFINITY
    if (<Peer?>peer).trusted:
        write(&of_path.client_ip, fast_path, client_address(head, peer, read(&of_listener.trusts, listener)))
    tracer = read(&of_server.tracer, server)
    if tracer is not None:
        write(&of_path.trace, fast_path, tracer.begin_trace(head))
    write(&of_connection.is_fast, connection, True)
    return send_request_on(fast_path, head, route, params)


cdef int _begin_exchange(
    connection, server, listener, peer, early, head, match, fast_match, bint passed
) except -1:
    chain = early if fast_match is None else (<Route?>(fast_match[0])).chain
    stream = read(&of_connection.stream, connection) or connection.stream
    exchange = _reference["new_exchange"](head, stream, listener, peer, chain)
    stream.exchange = exchange
    try:
        tracer = read(&of_server.tracer, server)
        if tracer is not None:
            exchange.trace = tracer.begin_trace(head)
        if (<Peer?>peer).trusted:
            exchange.client_ip = client_address(head, peer, read(&of_listener.trusts, listener))
        if read(&of_head.ordinary, head) and not read(&of_head.length, head):
            (<Timed?>connection).deadline = INFINITY
            piece = _NO_BYTES
        else:
            piece = stream.expect_body(exchange, head)
            if piece is None:
                return 0  # refused
        if fast_match is not None:
            route, exchange.params = fast_match
            exchange.route, exchange.answered_by = route, None
            run_route_steps(stream, exchange, route, True)
        elif not passed:
            run_early_steps(stream, exchange, read(&of_listener.router, listener))
        else:
            (<Exchange?>exchange).answered_by = None  # all of them have run, or let it pass
            if match is None or not _acts_at_once(exchange, early, match):
                find_route(stream, exchange, read(&of_listener.router, listener), match)
        if read(&of_connection.beginning, connection):
            connection._handle_incomplete_body(piece)
    except Exception:  # the edge of this exchange
        connection.fail_exchange(exchange)
    return 0


cdef bint _acts_at_once(exchange, early, match) except -1:
    """Run the action of a route of which nothing comes before. False: it is left to `find_route`."""
    route, params = match
    chain = (<Route?>route).chain
    if (
        (<Route?>route).fast_path is not None
        or (<Route?>route).division is not None
        or (<Route?>route).check_path is not None
        or (<Route?>route).steps
        or (<Chain?>chain).treats_bodies
        or (<Chain?>chain).request_ids is not (<Chain?>early).request_ids
    ):
        return False
    (<Exchange?>exchange).params = params
    (<Exchange?>exchange).route = route
    (<Exchange?>exchange).chain = chain
    (<Route?>route).action(exchange)
    return True


def get_buffer(self, sizehint):
    """Compiled `Http1ClientConnection.get_buffer`."""
    return read(&of_connection.buffer, self)


def buffer_updated(self, nbytes):
    """Compiled `Http1ClientConnection.buffer_updated`."""
    if read(&of_connection.phase, self) is not IDLE:
        _buffer_updated(self, nbytes)
        return
    server = _server_of(self)
    request = take_request(
        read(&of_connection.buffer, self), nbytes, read(&of_server.header_bytes, server),
        read(&of_server.header_count, server),
    )
    if isinstance(request, bytes):
        write(&of_connection.ahead, self, request)
        self._read_requests()
    elif type_of(self) is _connection_class:
        _serve_request(self, request)
    else:
        self._serve(request)


def _serve(self, head):
    """Compiled `Http1ClientConnection._serve`."""
    _serve_request(self, head)


# --- its answer ---


cdef int _send_from_memory(connection, head, route, answer) except -1:
    cdef bytes request_id, answer_head, body, lines = _NO_BYTES
    cdef bytes last = _CLOSE if read(&of_connection.closing, connection) else _NO_BYTES
    cdef bytes message
    server = _server_of(connection)
    (<Timed?>connection).deadline = INFINITY
    record = _fast_path_of(connection)
    tracer = read(&of_server.tracer, server)
    if tracer is not None:
        trace = tracer.begin_trace(head)
        write(&of_path.trace, record, trace)
        lines = trace.response_line
    request_id = begin_ready_on(record, head, route, answer)
    answer_head, body = (<ReadyAnswer?>answer).head, (<ReadyAnswer?>answer).body
    fd, transport = read(&of_connection.fd, connection), read(&of_connection.transport, connection)
    write_paused = read(&of_connection.write_paused, connection)
    if (<ReadyAnswer?>answer).length <= _JOINED:
        send(fd, _joined(answer_head, request_id, lines, last, body), transport, write_paused)
    else:
        message = _joined(answer_head, request_id, lines, last, _NO_BYTES)
        send_parts(fd, message, body, transport, write_paused)
    if read(&of_server.draining, server):
        server.drained += 1
    read(&of_server.finish, server)(record)
    forget_on(record)
    return _sent(connection, False)


cdef int _send_refusal(connection, server, listener, peer, head, route, refusal) except -1:
    cdef bytes lines = refusal.lines, body = refusal.body
    cdef bytes last = _CLOSE if read(&of_connection.closing, connection) else _NO_BYTES
    (<Timed?>connection).deadline = INFINITY
    record = _fast_path_of(connection)
    if (<Peer?>peer).trusted:
        write(&of_path.client_ip, record, client_address(head, peer, read(&of_listener.trusts, listener)))
    date_line = server.date_line()
    tracer = read(&of_server.tracer, server)
    if tracer is not None:
        trace = tracer.begin_trace(head)
        write(&of_path.trace, record, trace)
        lines += trace.response_line
    request_id = record.begin_refusal(head, route, refusal)
    if request_id:
        lines += b"X-Request-Id: %b\r\n" % request_id
    message = b"%bContent-Length: %d\r\n%b%b\r\n%b" % (lines, PyBytes_GET_SIZE(body), date_line, last, body)
    fd, transport = read(&of_connection.fd, connection), read(&of_connection.transport, connection)
    send(fd, message, transport, read(&of_connection.write_paused, connection))
    if read(&of_server.draining, server):
        server.drained += 1
    read(&of_server.finish, server)(record)
    record.end_refusal()
    return _sent(connection, False)


def send_refusal(self, head, route, refusal):
    """Compiled `Http1ClientConnection.send_refusal`."""
    _send_refusal(
        self, _server_of(self), read(&of_connection.listener, self), read(&of_connection.peer, self), head, route, refusal
    )


cdef bytes _joined(bytes head, bytes request_id, bytes lines, bytes last, bytes body):
    """Return the message. `lines`: further headers."""
    cdef Py_ssize_t id_length = PyBytes_GET_SIZE(request_id)
    cdef bytes message = PyBytes_FromStringAndSize(
        NULL,
        PyBytes_GET_SIZE(head) + (16 + id_length if id_length else 0) + PyBytes_GET_SIZE(lines)
        + PyBytes_GET_SIZE(last) + 2 + PyBytes_GET_SIZE(body),
    )
    cdef char* out = _put(PyBytes_AS_STRING(message), head)
    if id_length:
        memcpy(out, b"X-Request-Id: ", 14)
        out = _put(out + 14, request_id)
        memcpy(out, b"\r\n", 2)
        out += 2
    out = _put(_put(out, lines), last)
    memcpy(out, b"\r\n", 2)
    _put(out + 2, body)
    return message


cdef inline char* _put(char* out, bytes text) noexcept:
    memcpy(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return out + PyBytes_GET_SIZE(text)


cdef int _sent(connection, unread) except -1:
    write(&of_connection.requests, connection, read(&of_connection.requests, connection) + 1)
    if read(&of_connection.closing, connection):
        connection._end(unread)
        return 0
    phase = read(&of_connection.phase, connection)
    if read(&of_connection.write_paused, connection):
        write(&of_connection.phase, connection, _following(_reference["RESPONSE_WAITS"], phase))
        return 0
    return _await_next(connection, phase)


cdef int _await_next(connection, phase) except -1:
    cdef Wheel wheel = read(&of_connection.wheel, connection)
    write(&of_connection.phase, connection, _following(_reference["NEXT"], phase))
    server = _server_of(connection)
    if read(&of_listener.closing, read(&of_connection.listener, connection)):
        seconds = _reference["LAST_REQUEST_S"]
    else:
        seconds = read(&of_server.keepalive, server)
    wheel.watch(connection, wheel.now + <double>seconds)
    put_last(read(&of_server.idle, server), connection)
    if read(&of_connection.paused, connection):
        connection.resume()
    if read(&of_connection.ahead, connection) and not read(&of_connection.starting, connection):
        connection._read_requests()
    return 0


def _send_ready(self, head, route, answer):
    """Compiled `Http1ClientConnection._send_ready`."""
    _send_from_memory(self, head, route, answer)


def answer_fast(self, head, exchange, dropped, added, request_id, changed=None):
    """Compiled `Http1ClientConnection.answer_fast`."""
    cdef bytes last, message
    server = _server_of(self)
    write(&of_connection.is_fast, self, False)
    last = _CLOSE if read(&of_connection.closing, self) else _NO_BYTES
    date_line = read(&of_server.date_line, server)
    message = _serializer["whole"](head, date_line, last, dropped, added, request_id, changed)
    send(
        read(&of_connection.fd, self), message, read(&of_connection.transport, self),
        read(&of_connection.write_paused, self),
    )
    if read(&of_server.draining, server):
        server.drained += 1
    if exchange is None:
        fast_path = read(&of_connection.fast_path, self)
        assert fast_path is not None
        read(&of_server.finish, server)(fast_path)
        forget_on(fast_path)
    else:
        _finish(exchange)
        read(&of_server.finish, server)(exchange)
    _sent(self, False)


cdef int _finish(exchange) except -1:
    """Do what `Exchange.finish` does."""
    chain, subrequests = (<Exchange?>exchange).chain, (<Exchange?>exchange).subrequests
    if (
        type(exchange) is Exchange
        and not (<Chain?>chain).finish_steps
        and not (<Chain?>chain).treats_bodies
        and (subrequests is None or not read(&active_of_subrequests, subrequests))
    ):
        (<Exchange?>exchange).state = ANSWER_ENDED[(<Exchange?>exchange).state]
        return 0
    exchange.finish()
    return 0


def response_sent(self, unread):
    """Compiled `Http1ClientConnection.response_sent`."""
    _sent(self, unread)


def _next(self):
    """Compiled `Http1ClientConnection._next`."""
    _await_next(self, read(&of_connection.phase, self))


# --- an answer of the gateway itself ---


cdef bint _answers_whole(stream, response, bytes payload) except -1:
    """Send a whole response: of the gateway itself, or one with a head and a body. False: it is left to the
    reference.
    """
    cdef bytes added, request_id, message, length, last, line
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    if type(response) is not Response:
        return False
    received = response.head
    if received is None:
        if response.body_length != _AS_DECLARED:
            return False
    elif type(received) is not Http1ResponseHead or not (<Http1ResponseHead>received).has_body:
        return False
    exchange, connection = read(&of_stream.exchange, stream), read(&of_stream.connection, stream)
    status = response.status
    if (
        type(exchange) is not Exchange
        or type_of(connection) is not _connection_class
        or read(&of_stream.waiting, stream) is not None
        or read(&of_stream.reader, stream) is not None
        or (<Exchange?>exchange).method == _HEAD
        or status in NO_CONTENT
    ):
        return False
    head, body = (<Exchange?>exchange).head, (<Exchange?>exchange).request_body
    if type(head) is not Http1RequestHead or not read(&of_head.ordinary, head) or not (body is None or body.ended):
        return False
    server = _server_of(connection)
    write(&of_stream.ending, stream, LENGTH)
    last = _CLOSE if read(&of_connection.closing, connection) else _NO_BYTES
    added, request_id = response.added, (<Exchange?>exchange).id_shown
    fd, transport = read(&of_connection.fd, connection), read(&of_connection.transport, connection)
    write_paused = read(&of_connection.write_paused, connection)
    date_line = read(&of_server.date_line, server)
    if received is not None:
        message = _serializer["response"](
            received, status, response.dropped, added, payload if size <= _JOINED else _NO_BYTES, size, date_line, last,
            request_id,
        )
    else:
        (<Exchange?>exchange).response_bytes = size
        if response._fields is not None:
            message = own_answer(response, payload, size, date_line, last, request_id)
        else:
            length = b"Content-Length: %d\r\n" % size
            line = _status_lines.get(status)
            if line is None:
                line = _serializer["status_line"](status)
            message = b"".join((line, added, _id_line(request_id), length, date_line(), last, b"\r\n", payload))
    if received is None or size <= _JOINED:
        send(fd, message, transport, write_paused)
    else:
        send_parts(fd, message, payload, transport, write_paused)
    write(&of_stream.exchange, stream, None)
    _finish(exchange)
    if read(&of_server.draining, server):
        server.drained += 1
    read(&of_server.finish, server)(exchange)
    _sent(connection, False)
    return True


cdef inline bytes _id_line(bytes request_id):
    return b"".join((b"X-Request-Id: ", request_id, b"\r\n")) if request_id else _NO_BYTES


def answer(self, response, payload, ended):
    """Compiled `Http1Stream.answer`."""
    if not ended or type(payload) is not bytes or not _answers_whole(self, response, payload):
        _answer(self, response, payload, ended)
