# cython: language_level=3
"""Compiled methods of `fast_path.FastPath`: an ordinary request, and an ordinary response to it, or one from memory.

All other cases are left to methods of the reference. Objects of other classes are used through their attributes
(`_slots.read`).
"""

from fastgw.exchange.ready_answer cimport ReadyAnswer
from fastgw.forwarded_headers cimport Peer
from fastgw.exchange.route cimport Route
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport Exchange
from fastgw._slots cimport PyTypeObject, Slot, learn, read, type_of, write
from fastgw.exchange.sent_fields cimport fields_for_request
from fastgw.http.http1.parser cimport Http1RequestHead, Http1ResponseHead, has_field
from fastgw.upstream.connections.http1_connection cimport UpstreamConnection
from fastgw.upstream.connections.pool cimport Pool

from math import inf
from time import monotonic

from fastgw.compiled import replace
from fastgw.errors import Fault
from fastgw.exchange import FastPathPlan
from fastgw.forwarded_headers import FAMILY, without_chosen
from fastgw.exchange.sent_fields import NO_SENT_FIELDS, SentFields
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.exchange.reply import NO_NAMES, Response
from fastgw.exchange.response_relay import dropped_with_body, tell_of_change
from fastgw.exchange.states import ANSWER_BEGUN
from fastgw.http.grpc.calls import GRPC_TIMEOUT, timeout_line
from fastgw.http.grpc.status import STATUS, check_trailers, outcome_of, parse_status, status_at_end
from fastgw.http.http1 import serializer
from fastgw.http.messages import AS_DECLARED
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.forwarding.attempt import JUST_USED_S
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.forwarding.gateway_urls import HEADERS
from fastgw.upstream.forwarding.request_trailers import TE_TRAILERS
from fastgw.upstream.load_balancing.round_robin import SingleTarget
from fastgw.upstream.policies.retry import IDEMPOTENT, RetryRules
from fastgw.upstream.targets.attempt_listener import AttemptKind, AttemptRecord
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream

cdef struct OfFastPath:
    Slot attempt
    Slot begun_at
    Slot cache_result
    Slot call_due_at
    Slot client
    Slot exchange
    Slot fetch
    Slot grpc_status
    Slot head
    Slot params
    Slot peer
    Slot request_bytes
    Slot request_id
    Slot response
    Slot response_bytes
    Slot route
    Slot stream
    Slot target
    Slot trace
    Slot upstream
    Slot upstream_s

cdef OfFastPath of_path

cdef struct OfForward:
    Slot own_line
    Slot grpc
    Slot joined
    Slot keeps_path
    Slot marks
    Slot rules
    Slot upstream

cdef struct OfHead:
    Slot authority
    Slot method
    Slot path_as_sent
    Slot payload
    Slot payload_length  # of a response

cdef struct OfPlan:
    Slot change_whole
    Slot checks_path
    Slot forward
    Slot full_path_headers
    Slot id_of
    Slot looks_at
    Slot meets_answers
    Slot pass_tests
    Slot response_fields
    Slot sent_fields

cdef struct OfUpstream:
    Slot active
    Slot attempt_listener
    Slot balancer
    Slot cookies
    Slot name
    Slot pool

cdef struct OfResponse:
    Slot added
    Slot body_length
    Slot dropped
    Slot fields

cdef OfResponse of_response
cdef OfForward of_forward
cdef OfHead of_head
cdef OfPlan of_plan
cdef OfUpstream of_upstream
cdef Slot fetch_of_plan
cdef Slot ordinary_of_head
cdef Slot any_method_of_rules
cdef Slot host_header_of_target
cdef Slot label_of_target
cdef Slot target_of_balancer
cdef PyTypeObject* _path_class  # the class whose methods these are; NULL until `adopt`

cdef object INF = inf
cdef object FIRST = AttemptKind.FIRST
cdef double _JUST_USED_S = JUST_USED_S
cdef object NO_HEAD, NO_ROUTE
cdef object _send_request, _send_exchange, _on_head  # methods of the reference
cdef bytes _NO_BYTES = b""
cdef bytes _ETAG = b"etag"
cdef bytes SENT_OK = b"0"
cdef bytes LOCATION, CONTENT_LOCATION, REFRESH
LOCATION, CONTENT_LOCATION, REFRESH = HEADERS
cdef str OK_NAME = parse_status(SENT_OK).name
cdef object _ZERO = 0
cdef object _NEVER = -1.0
cdef dict _serializer = serializer.__dict__

learn(&of_forward.own_line, Forward, "own_line")
learn(&of_forward.grpc, Forward, "grpc")
learn(&of_forward.joined, Forward, "_joined")
learn(&of_forward.keeps_path, Forward, "keeps_path")
learn(&of_forward.marks, Forward, "marks")
learn(&of_forward.rules, Forward, "rules")
learn(&of_forward.upstream, Forward, "upstream")
learn(&of_head.authority, Http1RequestHead, "authority")
learn(&of_head.method, Http1RequestHead, "method")
learn(&of_head.path_as_sent, Http1RequestHead, "path_as_sent")
learn(&of_head.payload, Http1RequestHead, "payload")
learn(&of_head.payload_length, Http1ResponseHead, "payload_length")
learn(&fetch_of_plan, FastPathPlan, "fetch")
learn(&of_plan.change_whole, FastPathPlan, "change_whole")
learn(&of_plan.checks_path, FastPathPlan, "checks_path")
learn(&of_plan.forward, FastPathPlan, "forward")
learn(&of_plan.full_path_headers, FastPathPlan, "full_path_headers")
learn(&of_plan.id_of, FastPathPlan, "id_of")
learn(&of_plan.looks_at, FastPathPlan, "looks_at")
learn(&of_plan.meets_answers, FastPathPlan, "meets_answers")
learn(&of_plan.pass_tests, FastPathPlan, "pass_tests")
learn(&of_plan.response_fields, FastPathPlan, "response_fields")
learn(&of_plan.sent_fields, FastPathPlan, "sent_fields")
learn(&of_response.added, <type>Response, "added")  # the cast: it has a metaclass
learn(&of_response.body_length, <type>Response, "body_length")
learn(&of_response.dropped, <type>Response, "dropped")
learn(&of_response.fields, <type>Response, "_fields")
learn(&of_upstream.active, Upstream, "active")
learn(&of_upstream.attempt_listener, Upstream, "attempt_listener")
learn(&of_upstream.balancer, Upstream, "balancer")
learn(&of_upstream.cookies, Upstream, "cookies")
learn(&of_upstream.name, Upstream, "name")
learn(&of_upstream.pool, Upstream, "pool")
learn(&ordinary_of_head, Http1RequestHead, "ordinary")
learn(&any_method_of_rules, RetryRules, "any_method")
learn(&host_header_of_target, Target, "host_header")
learn(&label_of_target, Target, "label")
learn(&target_of_balancer, SingleTarget, "_target")


def adopt(type owner not None, no_head, no_route):
    """Replace the methods of `FastPath`. `no_head`, `no_route`: its head and route when it is released."""
    global NO_HEAD, NO_ROUTE, _send_request, _send_exchange, _on_head, _path_class
    NO_HEAD, NO_ROUTE = no_head, no_route
    _send_request, _send_exchange, _on_head = owner.send_request, owner.send_exchange, owner.on_head
    learn(&of_path.attempt, owner, "_attempt")
    learn(&of_path.begun_at, owner, "begun_at")
    learn(&of_path.cache_result, owner, "cache_result")
    learn(&of_path.call_due_at, owner, "call_due_at")
    learn(&of_path.client, owner, "client")
    learn(&of_path.exchange, owner, "_exchange")
    learn(&of_path.fetch, owner, "_fetch")
    learn(&of_path.grpc_status, owner, "grpc_status")
    learn(&of_path.head, owner, "head")
    learn(&of_path.params, owner, "_params")
    learn(&of_path.peer, owner, "peer")
    learn(&of_path.request_bytes, owner, "request_bytes")
    learn(&of_path.request_id, owner, "request_id")
    learn(&of_path.response, owner, "response")
    learn(&of_path.response_bytes, owner, "response_bytes")
    learn(&of_path.route, owner, "route")
    learn(&of_path.stream, owner, "_stream")
    learn(&of_path.target, owner, "target")
    learn(&of_path.trace, owner, "trace")
    learn(&of_path.upstream, owner, "upstream")
    learn(&of_path.upstream_s, owner, "upstream_s")
    replace(owner, begin_fetch, send_request, send_exchange, begin_ready, forget, take_message, on_head)
    _path_class = of_path.head.reads


cdef inline object _picked(balancer, asked):
    return read(&target_of_balancer, balancer) if type(balancer) is SingleTarget else balancer.pick(asked)


cdef inline bytes _set_lines(peer, bytes authority, bytes own_line):
    """Return the lines of `Peer.set_lines`, and the line of the route."""
    cdef bytes lines
    if (<Peer?>peer)._authority == authority:
        lines = (<Peer?>peer)._lines
    else:
        lines = peer.set_lines(authority)
    return lines + own_line if own_line else lines


cdef bint accepts_on(plan, head) except -1:
    cdef bytes name
    if read(&of_plan.checks_path, plan) and not read(&of_head.path_as_sent, head):
        return False
    full_path_headers = <tuple?>read(&of_plan.full_path_headers, plan)
    if full_path_headers and type(head) is not Http1RequestHead:
        return False  # one of the reference, such as with an upper-case letter in Host
    for name in full_path_headers:
        if has_field(<Http1RequestHead>head, name):
            return False
    return _all_let_pass(<tuple?>read(&of_plan.pass_tests, plan), head)


cdef bint lets_pass_by(chain, head) except -1:
    tests = <tuple>(<Chain?>chain).pass_tests
    if not tests:
        return tests is not None
    return read(&ordinary_of_head, head) and _all_let_pass(tests, head)


cdef bint _all_let_pass(tuple tests, head) except -1:
    try:
        for test in tests:
            if not test(head):
                return False
    except Exception:  # the edge of a filter: its step runs, and raises again
        return False
    return True


cdef inline object _joined(forward, drop, dropped):
    """Return the result of `Forward.joined`."""
    cdef tuple last = <tuple?>read(&of_forward.joined, forward)
    return last[2] if last[0] is drop and last[1] is dropped else forward.joined(drop, dropped)


cdef int _send(self, head, route, params) except -1:
    cdef Http1RequestHead ours
    cdef bytes payload, request_id, added
    if type(head) is not Http1RequestHead or read(&of_path.trace, self) is not None:
        _send_request(self, head, route, params)
        return 0
    ours = <Http1RequestHead>head
    begun_at = monotonic()
    write(&of_path.begun_at, self, begun_at)
    write(&of_path.head, self, head)
    write(&of_path.route, self, route)
    write(&of_path.params, self, params)
    fetch = read(&of_path.fetch, self)
    if fetch is None:
        plan = (<Route?>route).fast_path
    else:
        plan = (<Chain?>((<Route?>route).chain)).fetch_plan
    id_of = read(&of_plan.id_of, plan)
    request_id = _NO_BYTES if id_of is None else id_of(head)
    write(&of_path.request_id, self, request_id)
    forward = read(&of_plan.forward, plan)
    upstream = read(&of_forward.upstream, forward)
    write(&of_path.upstream, self, read(&of_upstream.name, upstream))
    target = _picked(read(&of_upstream.balancer, upstream), self)
    write(&of_upstream.active, upstream, read(&of_upstream.active, upstream) + 1)
    if target is None:
        write(&of_path.target, self, "")
        self._switch_to_forwarding(None).attempt(fresh=False, again=False)
        return 0
    label = read(&label_of_target, target)
    write(&of_path.target, self, label)
    payload = read(&of_head.payload, head)
    assert payload is not None
    write(&of_path.request_bytes, self, len(payload))
    stream = _lend(self, self, forward, upstream, target, head, begun_at)
    if stream is None:
        return 0
    try:
        peer = read(&of_path.peer, self)
        own_line = read(&of_forward.own_line, forward)
        sent_fields = read(&of_plan.sent_fields, plan)
        if own_line is not None and not (<Peer?>peer).trusted:
            drop, added = FAMILY, _set_lines(peer, read(&of_head.authority, head), own_line)
            if sent_fields is not NO_SENT_FIELDS and fetch is None:
                added = without_chosen(added, sent_fields.dropped)
        else:
            dropped = sent_fields.dropped if fetch is None else fetch.dropped
            drop, added = forward.forwarding_headers(self, peer, head, dropped)
        call_due_at = read(&of_path.call_due_at, self)
        if fetch is not None:
            drop = _joined(forward, drop, fetch.dropped)
        elif call_due_at is not INF and call_due_at != INF:
            drop = forward.joined(drop, GRPC_TIMEOUT)
            added += timeout_line(call_due_at - upstream.worker_loop.wheel.now)
        else:
            if sent_fields is not NO_SENT_FIELDS:
                drop = _joined(forward, drop, sent_fields.dropped)
                added += sent_fields.added
            elif read(&of_forward.marks, forward):
                drop = forward.joined(drop, NO_NAMES)
        if read(&of_forward.keeps_path, forward) and read(&of_head.path_as_sent, head):
            sent_target = None
        else:
            sent_target = forward.sent_target(self, target)
        _write_request(self, stream, forward, target, ours, sent_target, drop, added, payload, request_id)
    except Exception:  # the edge of this exchange: an exception is answered with a fault
        log_event(OperatorEvent.DEFECT, "a defect while sending a request to %s", label, error=True)
        self.leave_fast_path().exchange.fail(Fault.INTERNAL)
    return 0


cdef object _lend(self, asked, forward, upstream, target, head, begun_at):
    """Begin the attempt at a target, and return an idle stream to it. None: the forwarding waits for one. `asked`: the
    exchange, or this fast path. `begun_at`: None: now.
    """
    cdef double idle_at_most = INF
    if read(&of_upstream.attempt_listener, upstream) is not None:
        record = AttemptRecord(asked, upstream, target, FIRST, 1, monotonic() if begun_at is None else begun_at)
        write(&of_path.attempt, self, record.report_begun())
    if (
        read(&of_head.method, head) not in IDEMPOTENT
        and not read(&any_method_of_rules, read(&of_forward.rules, forward))
    ):
        idle_at_most = _JUST_USED_S
    pool = read(&of_upstream.pool, upstream)
    if type(pool) is Pool:
        stream = (<Pool>pool).try_lend(target, idle_at_most)
    else:
        stream = pool.try_lend(target, idle_at_most)
    write(&of_path.stream, self, stream)
    if stream is None:
        self._switch_to_forwarding(target).request_stream()
        return None
    attempt = read(&of_path.attempt, self)
    if attempt is not None:
        attempt.connect(stream.reused, attempt.begun_at)
    return stream


cdef int _write_request(
    self, stream, forward, target, Http1RequestHead head, sent_target, drop, bytes added, bytes payload,
    bytes request_id
) except -1:
    length = AS_DECLARED
    if head.http2:
        if head.accepts_trailers or read(&of_forward.grpc, forward):
            added += TE_TRAILERS
        if payload and not head.sized and stream.frames_bodies:
            length = len(payload)
    host = read(&host_header_of_target, target)
    if host is None and not head.authority_at.length:
        host = target.authority
    # PERF: 500 instructions less than the attribute of the module (CPython 3.11, micro/exchange).
    request = _serializer["request"](head, sent_target, host, drop, added, payload, request_id, length)
    if type(stream) is UpstreamConnection:
        (<UpstreamConnection>stream).send_request(self, request, read(&of_head.method, head))
    else:
        stream.send_request(self, request, read(&of_head.method, head))
    return 0


def send_exchange(self, exchange, route):
    """Compiled `FastPath.send_exchange`."""
    cdef Http1RequestHead head
    cdef bytes payload, added
    asked_head = (<Exchange?>exchange).head
    if type(asked_head) is not Http1RequestHead or (<Exchange?>exchange).trace is not None:
        _send_exchange(self, exchange, route)
        return
    head = <Http1RequestHead>asked_head
    write(&of_path.exchange, self, exchange)
    write(&of_path.route, self, route)
    (<Exchange?>exchange).is_fast = True
    fetch = read(&of_path.fetch, self)
    forward = read(&of_plan.forward, (<Route?>route).fast_path) if fetch is None else fetch.forward
    upstream = read(&of_forward.upstream, forward)
    (<Exchange?>exchange).upstream = read(&of_upstream.name, upstream)
    target = _picked(read(&of_upstream.balancer, upstream), exchange)
    write(&of_upstream.active, upstream, read(&of_upstream.active, upstream) + 1)
    if target is None:
        self._switch_to_forwarding(None).attempt(fresh=False, again=False)
        return
    label = read(&label_of_target, target)
    (<Exchange?>exchange).target = label
    payload = _NO_BYTES if (<Exchange?>exchange).request_body is None else read(&of_head.payload, head)
    assert payload is not None
    stream = _lend(self, exchange, forward, upstream, target, head, None)
    if stream is None:
        return
    try:
        peer, query = (<Exchange?>exchange).peer, (<Exchange?>exchange).query_sent
        dropped = (<Exchange?>exchange).request_dropped
        if fetch is not None:
            dropped = dropped | fetch.dropped if dropped else fetch.dropped
        own_line = read(&of_forward.own_line, forward)
        if own_line is not None and not (<Peer?>peer).trusted:
            drop, added = FAMILY, _set_lines(peer, read(&of_head.authority, head), own_line)
            if dropped:
                added = without_chosen(added, dropped)
        else:
            drop, added = forward.forwarding_headers(exchange, peer, head, dropped)
        if dropped or read(&of_forward.marks, forward):
            drop = _joined(forward, drop, dropped)
        added += (<Exchange?>exchange).request_added
        if read(&of_forward.keeps_path, forward) and read(&of_head.path_as_sent, head) and query is UNCHANGED_QUERY:
            sent_target = None
        else:
            sent_target = forward.sent_target(exchange, target, query)
        _write_request(self, stream, forward, target, head, sent_target, drop, added, payload, _NO_BYTES)
    except Exception:  # the edge of this exchange: an exception is answered with a fault
        log_event(OperatorEvent.DEFECT, "a defect while sending a request to %s", label, error=True)
        self.leave_fast_path().exchange.fail(Fault.INTERNAL)


cdef bytes _begin_ready(self, head, route, answer):
    cdef bytes request_id = _NO_BYTES
    write(&of_path.begun_at, self, monotonic())
    write(&of_path.head, self, head)
    write(&of_path.route, self, route)
    write(&of_path.request_bytes, self, _ZERO)
    write(&of_path.upstream, self, "")
    write(&of_path.target, self, "")
    write(&of_path.upstream_s, self, _NEVER)
    write(&of_path.response_bytes, self, (<ReadyAnswer?>answer).length)
    write(&of_path.response, self, answer)
    write(&of_path.cache_result, self, (<ReadyAnswer?>answer).cache_result)
    ids = (<Chain?>((<Route?>route).chain)).request_ids
    if ids is not None:
        request_id = ids.of(head)
    write(&of_path.request_id, self, request_id)
    return request_id


cdef int _forget(self) except -1:
    write(&of_path.response, self, None)
    write(&of_path.head, self, NO_HEAD)
    write(&of_path.route, self, NO_ROUTE)
    write(&of_path.cache_result, self, "")
    write(&of_path.grpc_status, self, "")
    write(&of_path.trace, self, None)
    write(&of_path.call_due_at, self, INF)
    return 0


def begin_fetch(self, head, route, params, plan):
    """Compiled `FastPath.begin_fetch`."""
    write(&of_path.head, self, head)
    write(&of_path.route, self, route)
    write(&of_path.params, self, params)
    fetch = read(&fetch_of_plan, plan)(self, read(&of_plan.forward, plan))
    write(&of_path.fetch, self, fetch)
    if fetch is None:
        _forget(self)
        return False
    return True


def send_request(self, head, route, params):
    """Compiled `FastPath.send_request`."""
    _send(self, head, route, params)


def begin_ready(self, head, route, answer):
    """Compiled `FastPath.begin_ready`."""
    return _begin_ready(self, head, route, answer)


def forget(self):
    """Compiled `FastPath.forget`."""
    _forget(self)


cdef int send_request_on(path, head, route, params) except -1:
    if type_of(path) is _path_class:
        return _send(path, head, route, params)
    path.send_request(head, route, params)
    return 0


cdef bytes begin_ready_on(path, head, route, answer):
    if type_of(path) is _path_class:
        return _begin_ready(path, head, route, answer)
    return path.begin_ready(head, route, answer)


cdef int forget_on(path) except -1:
    if type_of(path) is _path_class:
        return _forget(path)
    path.forget()
    return 0


cdef int _end(self, forward, status, double now) except -1:
    """End the attempt, whose response was received as a whole."""
    upstream = read(&of_forward.upstream, forward)
    stream = read(&of_path.stream, self)
    assert stream is not None
    write(&of_upstream.active, upstream, read(&of_upstream.active, upstream) - 1)
    record = read(&of_path.attempt, self)
    if record is not None:
        write(&of_path.attempt, self, None)
        record.answer(status, now)
        record.end(now)
    write(&of_path.stream, self, None)
    if type(stream) is UpstreamConnection:
        (<UpstreamConnection>stream).release()
    else:
        stream.release()
    return 0


cdef int _answer_exchange(self, exchange, Http1ResponseHead head, length, plan, fields) except -1:
    """Do what `_answer_exchange` of the reference does, and what precedes it."""
    cdef double now = monotonic()
    forward = read(&of_plan.forward, plan)
    _end(self, forward, head.status, now)
    (<Exchange?>exchange).upstream_s = now - <double>(<Exchange?>exchange).begun_at
    write(&of_path.exchange, self, None)
    write(&of_path.route, self, NO_ROUTE)
    (<Exchange?>exchange).response_bytes = length
    (<Exchange?>exchange).sent = True
    client = read(&of_path.client, self)
    response = Response(head.status, head, _NO_BYTES, read(&of_forward.marks, forward))
    if read(&of_plan.meets_answers, plan):
        if not exchange.pass_response_steps(response):
            client.leave_fast_path(exchange)
            exchange.answer_instead()
            return 0
        if response.status != head.status:
            client.leave_fast_path(exchange)
            client.stream.answer(response, head.payload, True)
            return 0
    else:
        (<Exchange?>exchange).state = ANSWER_BEGUN[(<Exchange?>exchange).state]
        (<Exchange?>exchange).response = response
        trace = (<Exchange?>exchange).trace
        if trace is not None:
            response.added = trace.response_line
        if fields is not NO_SENT_FIELDS:
            response.added += fields.added
            response.dropped = fields.dropped
    client.answer_fast(head, exchange, response.dropped, response.added, (<Exchange?>exchange).id_shown)
    return 0


cdef int _answer(self, Http1ResponseHead head, length, forward, bytes added, fields) except -1:
    """Answer with a response that was received as a whole, and with these header lines and changes of filters."""
    cdef double now = monotonic()
    _end(self, forward, head.status, now)
    write(&of_path.upstream_s, self, now - <double>read(&of_path.begun_at, self))
    write(&of_path.response_bytes, self, length)
    dropped = read(&of_forward.marks, forward)
    if fields is not NO_SENT_FIELDS:
        dropped, added = fields.dropped, fields.added + added
    trace = read(&of_path.trace, self)
    if trace is not None:
        added = trace.response_line + added
    write(&of_path.response, self, head if fields is NO_SENT_FIELDS else Response(head.status, head, added, dropped))
    client = read(&of_path.client, self)
    client.answer_fast(head, None, dropped, added, read(&of_path.request_id, self))
    return 0


cdef int _change(self, change, Http1ResponseHead head, forward) except -1:
    """Do what `_answer_changed` does, for a request without an exchange."""
    cdef double now = monotonic()
    cdef bytes added = _NO_BYTES
    payload, trace = head.payload, read(&of_path.trace, self)
    if trace is not None:
        added = trace.response_line
    response = Response(head.status, head, added, read(&of_forward.marks, forward))
    length = response.whole_bytes = len(payload)
    try:
        changed = change(self, response, payload)
    except BaseException:
        self._respond(head, forward)
        return 0
    if changed is not None:
        if type(changed) is not bytes:
            self._respond(head, forward)
            return 0
        _describe_change(response, head)
        length = len(changed)
        write(&of_response.body_length, response, length)
    _end(self, forward, head.status, now)
    write(&of_path.upstream_s, self, now - <double>read(&of_path.begun_at, self))
    write(&of_path.response, self, response)
    write(&of_path.response_bytes, self, length)
    client = read(&of_path.client, self)
    client.answer_fast(
        head, None, read(&of_response.dropped, response), read(&of_response.added, response),
        read(&of_path.request_id, self), changed,
    )
    return 0


cdef object _dropped_before = None  # the last arguments and result of `_dropped_with_body`
cdef bint _weakened = False
cdef object _dropped_after = None


cdef object _dropped_with_body(dropped, bint weakens):
    """Do what `dropped_with_body` does; for the same arguments as last time without its cache."""
    global _dropped_before, _weakened, _dropped_after
    if dropped is not _dropped_before or weakens != _weakened:
        _dropped_before, _weakened, _dropped_after = dropped, weakens, dropped_with_body(dropped, weakens)
    return _dropped_after


cdef int _describe_change(response, Http1ResponseHead head) except -1:
    """Do what `tell_of_change` does.

    PERF: 2,500 instructions less than to call it (CPython 3.11, callgrind, micro/content_coding).
    """
    cdef bytes etag
    cdef bint weakens
    if read(&of_response.fields, response) is not None or head._fields is not None:
        tell_of_change(response)
        return 0
    dropped = read(&of_response.dropped, response)
    etag = head.first(_ETAG) if has_field(head, _ETAG) else None
    weakens = etag is not None and not etag.startswith(b"W/") and _ETAG not in dropped
    response.dropped = _dropped_with_body(dropped, weakens)
    if weakens:
        response.added = b"".join((read(&of_response.added, response), b"ETag: W/", etag, b"\r\n"))
    return 0


cdef inline object _fields_for(self, exchange, plan):
    """Do what the method of the reference does."""
    fields = read(&of_plan.response_fields, plan)
    if type(fields) is SentFields or fields is None:
        return fields
    if exchange is not None:
        head, peer = (<Exchange?>exchange).head, (<Exchange?>exchange).peer
    else:
        head, peer = read(&of_path.head, self), read(&of_path.peer, self)
    return fields_for_request(fields, head, peer)


cdef bint _has_own_url(self, fetch, Http1ResponseHead head) except -1:
    """Do what the method of the reference does."""
    if not has_field(head, LOCATION) and not has_field(head, CONTENT_LOCATION) and not has_field(head, REFRESH):
        return False
    if fetch is None:
        forward = read(&of_plan.forward, (<Route?>(read(&of_path.route, self))).fast_path)
    else:
        forward = fetch.forward
    return self._has_own_url(forward, head)


def on_head(self, head, payload, ended):
    """Compiled `FastPath.on_head`."""
    exchange, fetch = read(&of_path.exchange, self), read(&of_path.fetch, self)
    if type(head) is not Http1ResponseHead or payload is not None or (exchange is not None and fetch is not None):
        _on_head(self, head, payload, ended)
        return
    length = read(&of_head.payload_length, head)
    if _has_own_url(self, fetch, <Http1ResponseHead>head):
        self.leave_fast_path().on_head(head, payload, ended)
        return
    if fetch is not None:
        if not length:
            _on_head(self, head, payload, ended)
            return
        plan = (<Chain?>((<Route?>(read(&of_path.route, self))).chain)).fetch_plan
        fields = _fields_for(self, None, plan)
        added = None
        if fields is not None:
            try:
                added = fetch.take_response(head)
            except Exception:
                self._fail_fetch()
                return
        if added is None:
            self.leave_fast_path().on_head(head, payload, ended)
            return
        write(&of_path.fetch, self, None)
        write(&of_path.cache_result, self, fetch.result)
        _answer(self, <Http1ResponseHead>head, length, fetch.forward, added, fields)
        return
    plan = (<Route?>(read(&of_path.route, self))).fast_path
    looks_at = read(&of_plan.looks_at, plan)
    forward = read(&of_plan.forward, plan)
    if not length:
        self.leave_fast_path().on_head(head, payload, ended)
        return
    change = read(&of_plan.change_whole, plan)
    if change is not None and read(&of_upstream.cookies, read(&of_forward.upstream, forward)) is None:
        if exchange is not None:
            _on_head(self, head, payload, ended)
        else:
            _change(self, change, <Http1ResponseHead>head, forward)
        return
    fields = _fields_for(self, exchange, plan)
    if fields is None or (looks_at is not None and looks_at(head)):
        if self._may_be_sent_again(forward):
            self.leave_fast_path().on_head(head, payload, ended)
        else:
            self._respond(head, forward)
        return
    if exchange is not None:
        _answer_exchange(self, exchange, <Http1ResponseHead>head, length, plan, fields)
    else:
        _answer(self, <Http1ResponseHead>head, length, forward, _NO_BYTES, fields)


def take_message(self, head, payload, trailers):
    """Compiled `FastPath.take_message`."""
    cdef double now
    cdef int statuses = 0
    if read(&of_path.exchange, self) is not None or read(&of_path.fetch, self) is not None:
        return False
    plan = (<Route?>(read(&of_path.route, self))).fast_path
    client, looks_at = read(&of_path.client, self), read(&of_plan.looks_at, plan)
    if (looks_at is not None and looks_at(head)) or not client.takes_trailers:
        return False
    forward = read(&of_plan.forward, plan)
    if type(head) is not Http1ResponseHead:
        if self._has_own_url(forward, head):
            return False
    elif _has_own_url(self, None, <Http1ResponseHead>head):
        return False
    if read(&of_plan.response_fields, plan) is not NO_SENT_FIELDS and not read(&of_forward.grpc, forward):
        return False
    sent = None
    if read(&of_forward.grpc, forward):
        for name, value in trailers:
            if name == STATUS or name.lower() == STATUS:
                statuses += 1
                sent = value
        if statuses > 1 or sent != SENT_OK:
            sent, _, why = check_trailers(trailers)
            if why:
                return False
    now = monotonic()
    status = head.status
    if read(&of_forward.grpc, forward):
        if sent == SENT_OK:
            write(&of_path.grpc_status, self, OK_NAME)  # and the outcome is the status
        else:
            sent = status_at_end(status, sent)
            if sent is not None:
                write(&of_path.grpc_status, self, parse_status(sent).name)
            status = outcome_of(status, sent, read(&of_path.call_due_at, self) != INF)
    _end(self, forward, status, now)
    write(&of_path.upstream_s, self, now - <double>read(&of_path.begun_at, self))
    write(&of_path.response, self, head)
    write(&of_path.response_bytes, self, len(payload))
    client.answer_with_trailers(
        head, payload, trailers, read(&of_forward.marks, forward), read(&of_path.request_id, self)
    )
    return True
