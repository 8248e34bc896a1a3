# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled methods of `action.ComposeAction`, `run.ComposeRun` and `call.PartCall`: ordinary parts and their answers.

An ordinary part waits for nothing, and its requests differ in their paths only; an ordinary answer is received as a
whole, short, and a JSON object. Everything else is left to methods of the reference, before anything was changed.
Objects of other classes are used through their attributes (`_slots.read`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport INFINITY
from libc.string cimport memcpy

from fastgw.upstream.upstream cimport Upstream
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport Exchange
from fastgw._slots cimport Slot, learn, read, write
from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.http.http1.parser cimport Http1ResponseHead
from fastgw.upstream.client.direct_subrequest cimport send_direct

from collections import deque as _deque
from hashlib import sha256
from math import inf
from time import time

from fastgw.compiled import replace
from fastgw.composition.freshness import MOST_REMEMBERED_BYTES, cache_fields
from fastgw.composition.part import CompiledPart
from fastgw.composition.templates import TargetTemplate
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Response
from fastgw.exchange.body_relay import MAX_KEPT
from fastgw.exchange.states import ANSWER_BEGUN
from fastgw.http.json_splices import MOST_AT_ONCE, merge_objects
from fastgw.http.json_splices._splices import check_text
from fastgw.upstream.client.detached_call import DetachedCall

cdef extern from "Python.h":
    object PyType_GenericAlloc(type of, Py_ssize_t items)

cdef enum:
    MOST_REMEMBERED = 256

cdef struct OfRun:
    Slot action
    Slot body
    Slot calls
    Slot client_body
    Slot draining
    Slot due_at
    Slot exchange
    Slot heads
    Slot held
    Slot ready
    Slot states
    Slot taken
    Slot unsettled
    Slot upstream

cdef struct OfState:
    Slot answers
    Slot content
    Slot failure
    Slot in_flight
    Slot items
    Slot left
    Slot next
    Slot received
    Slot settled
    Slot values
    Slot waits

cdef struct OfCall:
    Slot head
    Slot index
    Slot part
    Slot pieces
    Slot run
    Slot sent
    Slot size

cdef struct OfPart:
    Slot after
    Slot fixed
    Slot followers
    Slot group_begin
    Slot index
    Slot is_plain
    Slot keeps_answers
    Slot plan
    Slot takes_short_json
    Slot target

cdef struct OfTarget:
    Slot constant
    Slot pieces
    Slot query_from
    Slot simple

cdef struct OfAction:
    Slot are_apart
    Slot answers_plainly
    Slot first
    Slot most_bytes
    Slot most_requests
    Slot parts
    Slot passes_through
    Slot plain_lines
    Slot takes_body
    Slot timeout

cdef OfRun of_run
cdef OfState of_state
cdef OfCall of_call
cdef OfPart of_part
cdef OfTarget of_target
cdef OfAction of_action
cdef Slot wheel_of_loop

cdef type _run_class, _state_class, _call_class
cdef object _reference_begin, _reference_start, _reference_start_part, _reference_merge, _reference_on_whole
cdef object INF = inf
cdef Py_ssize_t _MOST_AT_ONCE = MOST_AT_ONCE
cdef Py_ssize_t _FREE = MAX_KEPT
cdef bytes _GET = b"GET"
cdef bytes _HEAD = b"HEAD"
cdef Py_ssize_t _MOST_BYTES = MOST_REMEMBERED_BYTES
cdef list _NO_ANSWERS = []
cdef dict _remembered = {}  # headers of answers that decide -> lines of the whole

learn(&of_part.after, CompiledPart, "after")
learn(&of_part.fixed, CompiledPart, "fixed")
learn(&of_part.followers, CompiledPart, "followers")
learn(&of_part.group_begin, CompiledPart, "group_begin")
learn(&of_part.index, CompiledPart, "index")
learn(&of_part.is_plain, CompiledPart, "is_plain")
learn(&of_part.keeps_answers, CompiledPart, "keeps_answers")
learn(&of_part.plan, CompiledPart, "plan")
learn(&of_part.takes_short_json, CompiledPart, "takes_short_json")
learn(&of_part.target, CompiledPart, "target")
learn(&of_target.constant, TargetTemplate, "_constant")
learn(&of_target.pieces, TargetTemplate, "pieces")
learn(&of_target.query_from, TargetTemplate, "_query_from")
learn(&of_target.simple, TargetTemplate, "_simple")
learn(&wheel_of_loop, WorkerLoop, "wheel")


def adopt(type run not None, type state not None, type call not None):
    """Replace methods of `ComposeRun` and `PartCall`. `state`: class of the state of a part."""
    global _run_class, _state_class, _call_class, _reference_start, _reference_start_part, _reference_merge
    global _reference_on_whole
    _run_class, _state_class, _call_class = run, state, call
    _reference_start, _reference_start_part, _reference_merge = run.start, run._start_part, run._merge
    _reference_on_whole = call.on_whole
    learn(&of_run.action, run, "_action")
    learn(&of_run.body, run, "_body")
    learn(&of_run.calls, run, "_calls")
    learn(&of_run.client_body, run, "_client_body")
    learn(&of_run.draining, run, "_draining")
    learn(&of_run.due_at, run, "_due_at")
    learn(&of_run.exchange, run, "_exchange")
    learn(&of_run.heads, run, "_heads")
    learn(&of_run.held, run, "_held")
    learn(&of_run.ready, run, "_ready")
    learn(&of_run.states, run, "_states")
    learn(&of_run.taken, run, "_taken")
    learn(&of_run.unsettled, run, "_unsettled")
    learn(&of_run.upstream, run, "_upstream")
    learn(&of_state.answers, state, "answers")
    learn(&of_state.content, state, "content")
    learn(&of_state.failure, state, "failure")
    learn(&of_state.in_flight, state, "in_flight")
    learn(&of_state.items, state, "items")
    learn(&of_state.left, state, "left")
    learn(&of_state.next, state, "next")
    learn(&of_state.received, state, "received")
    learn(&of_state.settled, state, "settled")
    learn(&of_state.values, state, "values")
    learn(&of_state.waits, state, "waits")
    learn(&of_call.head, call, "_head")
    learn(&of_call.index, call, "index")
    learn(&of_call.part, call, "part")
    learn(&of_call.pieces, call, "_pieces")
    learn(&of_call.run, call, "_run")
    learn(&of_call.sent, call, "_sent")
    learn(&of_call.size, call, "_size")
    replace(run, start, _start_part, _merge)
    replace(call, on_whole)


def adopt_action(type action not None):
    """Replace the call of a `ComposeAction`."""
    global _reference_begin
    _reference_begin = action.begin
    learn(&of_action.are_apart, action, "_are_apart")
    learn(&of_action.answers_plainly, action, "answers_plainly")
    learn(&of_action.first, action, "first")
    learn(&of_action.most_bytes, action, "most_bytes")
    learn(&of_action.most_requests, action, "most_requests")
    learn(&of_action.parts, action, "parts")
    learn(&of_action.passes_through, action, "_passes_through")
    learn(&of_action.plain_lines, action, "plain_lines")
    learn(&of_action.takes_body, action, "takes_body")
    learn(&of_action.timeout, action, "timeout")
    replace(action, begin)


# --- sending ---


cdef bint _is_plain(bytes value) noexcept:
    """Whether a value is of letters, digits, hyphens and underscores."""
    cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(value)
    cdef Py_ssize_t index
    cdef unsigned char byte
    for index in range(PyBytes_GET_SIZE(value)):
        byte = text[index]
        if not (c"a" <= byte | 32 <= c"z" or c"0" <= byte <= c"9" or byte == c"-" or byte == c"_"):
            return False
    return True


cdef bytes _target_for(template, exchange):
    """Return the target that `TargetTemplate.expand` makes; None: it is left to that."""
    cdef Py_ssize_t index = 0, query_from
    target = read(&of_target.constant, template)
    if target is not None:
        return target
    if not read(&of_target.simple, template):
        return None
    query_from = read(&of_target.query_from, template)
    params = (<Exchange?>exchange).params
    made = []
    for piece in <tuple>read(&of_target.pieces, template):
        if type(piece) is not bytes:
            name = piece.parameter
            piece = params.get(name) if name and index < query_from else None
            if not piece or type(piece) is not bytes or not _is_plain(<bytes>piece):
                return None
        made.append(piece)
        index += 1
    return b"".join(made)


def begin(self, exchange):
    """Compiled `ComposeAction.begin`."""
    chain = (<Exchange?>exchange).chain
    if read(&of_action.passes_through, self) or (<Chain?>chain).translate_steps:
        _reference_begin(self, exchange)
        return
    run = new_run(self, exchange)
    (<Exchange?>exchange).service = run
    _start(run, self)


cdef inline Wheel _wheel_of(run):
    return <Wheel?>read(&wheel_of_loop, (<Upstream?>(read(&of_run.upstream, run))).worker_loop)


def start(self):
    """Compiled `ComposeRun.start`."""
    _start(self, read(&of_run.action, self))


cdef int _start(run, action) except -1:
    if read(&of_action.takes_body, action) or type(run) is not _run_class:
        _reference_start(run)
        return 0
    wheel = _wheel_of(run)
    due_at = wheel.now + <double>read(&of_action.timeout, action)
    write(&of_run.due_at, run, due_at)
    wheel.watch(run, due_at)
    write(&of_run.draining, run, True)
    try:
        for part in <tuple>read(&of_action.first, action):
            if read(&of_run.exchange, run) is not None:
                _start_part(run, part)
    except BaseException:
        run._report_defect()
        raise
    finally:
        write(&of_run.draining, run, False)
    if read(&of_run.ready, run):
        run._drain()
    return 0


def _start_part(self, part):
    """Compiled `ComposeRun._start_part`."""
    exchange = read(&of_run.exchange, self)
    target = None
    if read(&of_part.is_plain, part) and <double>read(&of_run.due_at, self) > _wheel_of(self).now:
        target = _target_for(read(&of_part.target, part), exchange)
    if target is None:
        _reference_start_part(self, part)
        return
    action = read(&of_run.action, self)
    call = PyType_GenericAlloc(_call_class, 0)
    write(&of_call.part, call, part)
    write(&of_call.index, call, 0)
    write(&of_call.run, call, self)
    write(&of_call.pieces, call, None)
    write(&of_call.size, call, 0)
    write(&of_call.head, call, None)
    write(&of_call.sent, call, None)
    state = read(&of_run.states, self)[<Py_ssize_t>read(&of_part.index, part)]
    write(&of_state.left, state, 1)
    write(&of_state.next, state, 1)
    write(&of_state.in_flight, state, 1)
    read(&of_run.calls, self).add(call)
    fields = read(&of_part.fixed, part)
    most = read(&of_action.most_requests, action)
    sent = send_direct(exchange, read(&of_part.plan, part), call, target, fields, b"", most)
    if sent is None:
        call.send_with_exchange(exchange, target, fields, b"", INF, most)
    elif read(&of_call.run, call) is not None:
        write(&of_call.sent, call, sent)


# --- answers ---


def on_whole(self, head, body):
    """Compiled `PartCall.on_whole`."""
    if not _note_whole(self, head, body):
        _reference_on_whole(self, head, body)


cdef bint _note_whole(call, head, bytes body) except -1:
    """Note an ordinary answer. False: it is none, and nothing has changed."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(body), held
    cdef long unsettled
    cdef int status
    run, part = read(&of_call.run, call), read(&of_call.part, call)
    if type(run) is not _run_class or type(head) is not Http1ResponseHead or read(&of_run.draining, run):
        return False
    status = (<Http1ResponseHead>head).status
    held = <Py_ssize_t>read(&of_run.held, run) + length
    if not 200 <= status < 300 or held > _FREE or length > _MOST_AT_ONCE:
        return False
    action = read(&of_run.action, run)
    state = read(&of_run.states, run)[<Py_ssize_t>read(&of_part.index, part)]
    if (
        not read(&of_part.takes_short_json, part)
        or length > <Py_ssize_t>read(&of_action.most_bytes, action)
        or read(&of_state.items, state) is not None
        or read(&of_run.exchange, run) is None
        or call not in read(&of_run.calls, run)
        or head.first(b"content-encoding") is not None
    ):
        return False
    received = check_text(body)
    if received is None:
        return False
    if read(&of_part.keeps_answers, part):
        if PyBytes_AS_STRING(<bytes>received)[0] != c"{":
            return False
        content = received
    else:
        try:
            content = part.shape(received)
        except (ValueError, RecursionError):  # what the reference says of it
            return False
    write(&of_call.run, call, None)
    write(&of_call.sent, call, None)
    write(&of_run.held, run, held)
    read(&of_run.calls, run).discard(call)
    read(&of_run.heads, run).append(head)
    write(&of_state.in_flight, state, 0)
    write(&of_state.left, state, 0)
    write(&of_state.received, state, received)
    begin = read(&of_part.group_begin, part)
    write(&of_state.content, state, content if begin is None else b"".join((begin, content, b"}")))
    write(&of_run.draining, run, True)
    try:
        if read(&of_part.followers, part):
            run._settle(part, state)
        else:
            write(&of_state.settled, state, True)
            unsettled = <long>read(&of_run.unsettled, run) - 1
            write(&of_run.unsettled, run, unsettled)
            if not unsettled:
                if read(&of_run.ready, run):
                    run._ready.append(run._merge)
                else:
                    _merge(run)
    except BaseException:
        run._report_defect()
        raise
    finally:
        write(&of_run.draining, run, False)
    if read(&of_run.ready, run):
        run._drain()
    return True


# --- the response ---


cdef bytes _joined(list contents):
    """Return an object with the members of these objects, of which none is empty, and which have none in common."""
    cdef Py_ssize_t size = 1
    cdef char* to
    for each in contents:
        size += PyBytes_GET_SIZE(<bytes>each) - 1
    made = PyBytes_FromStringAndSize(NULL, size)
    to = PyBytes_AS_STRING(<bytes>made)
    for each in contents:
        size = PyBytes_GET_SIZE(<bytes>each)
        memcpy(to, PyBytes_AS_STRING(<bytes>each), size)
        to[0] = c","
        to += size - 1
    to[0] = c"}"
    PyBytes_AS_STRING(<bytes>made)[0] = c"{"
    return made


def _merge(self):
    """Compiled `ComposeRun._merge`."""
    cdef bytes lines, tag
    exchange, action = read(&of_run.exchange, self), read(&of_run.action, self)
    if (
        exchange is None
        or not read(&of_action.answers_plainly, action)
        or <Py_ssize_t>read(&of_run.held, self) > _MOST_AT_ONCE
        or not _answers_plainly(exchange)
    ):
        _reference_merge(self)
        return
    contents = []
    for state in <list>read(&of_run.states, self):
        content = read(&of_state.content, state)
        if read(&of_state.failure, state) is not None or content is None:
            _reference_merge(self)
            return
        contents.append(content)
    body = _joined(contents) if read(&of_action.are_apart, action) else merge_objects(contents)
    tag = b'"%b"' % sha256(body).hexdigest()[:24].encode()
    if not _proceeds(exchange, tag):
        _reference_merge(self)
        return
    lines = b"".join((read(&of_action.plain_lines, action), _cache_lines(read(&of_run.heads, self)), b"ETag: ", tag, b"\r\n"))
    _cancel(self)
    (<Exchange?>exchange).service = None
    response = Response(200, None, lines)
    trace = (<Exchange?>exchange).trace
    if trace is not None:
        response.added += trace.response_line
    (<Exchange?>exchange).state = ANSWER_BEGUN[(<Exchange?>exchange).state]
    (<Exchange?>exchange).response = response
    if PyBytes_GET_SIZE(body) > _FREE:
        exchange.begin_answer(response, body, True)
    else:
        (<Exchange?>exchange).client.answer(response, body, True)


cdef int _cancel(run) except -1:
    """Do what `ComposeRun.cancel` does, for a run whose requests have all ended."""
    if (
        read(&of_run.body, run) is not None
        or read(&of_run.calls, run)
        or read(&of_run.ready, run)
        or read(&of_run.taken, run)
    ):
        run.cancel()
        return 0
    write(&of_run.exchange, run, None)
    _wheel_of(run).drop(run)
    return 0


cdef bint _answers_plainly(exchange) except -1:
    """Whether no filter sees the response, and a condition of the request is If-None-Match as received."""
    method = (<Exchange?>exchange).method
    if method != _GET and method != _HEAD:
        return False
    chain = (<Exchange?>exchange).chain
    if (<Chain?>chain).response_steps or (<Chain?>chain).reply_steps:
        return False
    if (<Chain?>chain).treats_responses or (<Exchange?>exchange).cache_status:
        return False
    if type((<Exchange?>exchange).client) is DetachedCall:
        return False
    head = (<Exchange?>exchange).head
    if head.first(b"if-match") is not None:
        return False
    if head.first(b"if-none-match") is None:
        return True
    if (<Exchange?>exchange).for_others is not None or (<Exchange?>exchange).request_dropped:
        return False
    return b"if-" not in (<bytes>(<Exchange?>exchange).request_added).lower()


cdef bint _proceeds(exchange, bytes tag) except -1:
    """Whether the condition of the request lets the response with this entity tag pass. False: it may not.

    A list of entity tags can match only if the opaque tag, with its quotes, is in it.
    """
    for value in (<Exchange?>exchange).head.values(b"if-none-match"):
        if tag in value or value == b"*":
            return False
    return True


cdef bytes _cache_lines(list heads):
    """Return the lines of `cache_fields`; without dates and ages they are remembered by what decides them."""
    cdef Py_ssize_t size = 0
    said = []
    for head in heads:
        if head.first(b"expires") is not None or head.first(b"age") is not None:
            return _lines_of(cache_fields(heads, time()))
        for name in (b"cache-control", b"vary"):
            value = head.first(name)
            if value is None:
                said.append(None)
                continue
            values = head.values(name)
            if len(values) > 1:
                return _lines_of(cache_fields(heads, time()))
            size += PyBytes_GET_SIZE(<bytes>value)
            said.append(value)
    key = tuple(said)
    lines = _remembered.get(key)
    if lines is None:
        lines = _lines_of(cache_fields(heads, 0.0))
        if size <= _MOST_BYTES:
            if len(_remembered) >= MOST_REMEMBERED:
                _remembered.clear()
            _remembered[key] = lines
    return lines


cdef bytes _lines_of(tuple fields):
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def new_run(action, exchange):
    """Create a `ComposeRun`."""
    cdef tuple parts = read(&of_action.parts, action)
    run = PyType_GenericAlloc(_run_class, 0)
    (<Timed?>run).deadline = (<Timed>run).filed_at = INFINITY
    write(&of_run.action, run, action)
    write(&of_run.exchange, run, exchange)
    write(&of_run.upstream, run, parts[0].upstream)
    states = []
    for part in parts:
        state = PyType_GenericAlloc(_state_class, 0)
        write(&of_state.waits, state, len(<tuple>read(&of_part.after, part)))
        write(&of_state.items, state, None)
        write(&of_state.next, state, 0)
        write(&of_state.left, state, 0)
        write(&of_state.in_flight, state, 0)
        write(&of_state.received, state, None)
        write(&of_state.values, state, None)
        write(&of_state.answers, state, _NO_ANSWERS)
        write(&of_state.content, state, None)
        write(&of_state.failure, state, None)
        write(&of_state.settled, state, False)
        states.append(state)
    write(&of_run.states, run, states)
    write(&of_run.unsettled, run, len(parts))
    write(&of_run.ready, run, _deque())
    write(&of_run.draining, run, False)
    write(&of_run.calls, run, set())
    write(&of_run.held, run, 0)
    write(&of_run.taken, run, 0)
    write(&of_run.heads, run, [])
    write(&of_run.body, run, None)
    write(&of_run.client_body, run, b"")
    write(&of_run.due_at, run, INF)
    return run


