# cython: language_level=3
"""Compiled functions of `direct_subrequest`: an ordinary sub-request, an ordinary response to it, and its log text.

All other cases are left to methods of the reference. Objects of other classes are used through their attributes
(`_slots.read`).
"""

from libc.stdio cimport snprintf

from fastgw.forwarded_headers cimport Peer
from fastgw.exchange.route cimport Route
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport Exchange
from fastgw._slots cimport Slot, learn, read, type_of, write
from fastgw.http.http1.parser cimport Http1ResponseHead
from fastgw.upstream.connections.http1_connection cimport UpstreamConnection
from fastgw.upstream.connections.pool cimport Pool

from collections import deque as _deque
from math import inf
from time import monotonic

from fastgw.compiled import replace
from fastgw.errors import Fault
from fastgw.exchange.states import ENDED
from fastgw.exchange.upstream_chains import UpstreamChains
from fastgw.upstream.client.subrequest import Subrequests, log_raised
from fastgw.upstream.forwarding.attempt import JUST_USED_S
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.load_balancing.round_robin import SingleTarget
from fastgw.upstream.policies.retry import IDEMPOTENT, RetryRules
from fastgw.upstream.targets.attempt_listener import AttemptKind, AttemptRecord
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream

cdef extern from "Python.h":
    object PyType_GenericAlloc(type of, Py_ssize_t items)

cdef struct OfSent:
    Slot authority
    Slot begun_at
    Slot body
    Slot client_ip
    Slot consumer
    Slot fields
    Slot head
    Slot listener
    Slot parent
    Slot peer
    Slot plan
    Slot record
    Slot sent
    Slot sent_target
    Slot siblings
    Slot stream
    Slot target
    Slot upstream
    Slot upstream_s

cdef struct OfPlan:
    Slot allowed
    Slot begin
    Slot end
    Slot forward
    Slot method
    Slot sized
    Slot via

cdef enum:
    MOST_DIGITS = 400  # of the largest double, with its decimals

cdef struct OfSiblings:
    Slot active
    Slot count
    Slot earlier
    Slot ended

cdef struct OfUpstream:
    Slot active
    Slot attempt_listener
    Slot balancer
    Slot name
    Slot pool

cdef struct OfTarget:
    Slot base_path
    Slot host_header
    Slot label

cdef struct OfChains:
    Slot own
    Slot shared

cdef OfSent of_sent
cdef OfPlan of_plan
cdef OfSiblings of_siblings
cdef OfUpstream of_upstream
cdef OfTarget of_target
cdef OfChains of_chains
cdef Slot rules_of_forward
cdef Slot upstream_of_forward
cdef Slot any_method_of_rules
cdef Slot target_of_balancer

cdef type _class  # `DirectSubrequest`
cdef object _render  # method of the reference
cdef object _on_head  # likewise
cdef object INF = inf
cdef object FIRST = AttemptKind.FIRST
cdef object _NO_TIME = -1.0
cdef double _JUST_USED_S = JUST_USED_S
cdef bytes _NO_BYTES = b""

learn(&of_siblings.active, Subrequests, "active")
learn(&of_siblings.count, Subrequests, "count")
learn(&of_siblings.earlier, Subrequests, "_earlier")
learn(&of_siblings.ended, Subrequests, "_ended")
learn(&of_upstream.active, Upstream, "active")
learn(&of_upstream.attempt_listener, Upstream, "attempt_listener")
learn(&of_upstream.balancer, Upstream, "balancer")
learn(&of_upstream.name, Upstream, "name")
learn(&of_upstream.pool, Upstream, "pool")
learn(&of_target.base_path, Target, "base_path")
learn(&of_target.host_header, Target, "host_header")
learn(&of_target.label, Target, "label")
learn(&of_chains.own, UpstreamChains, "own")
learn(&of_chains.shared, UpstreamChains, "shared")
learn(&rules_of_forward, Forward, "rules")
learn(&upstream_of_forward, Forward, "upstream")
learn(&any_method_of_rules, RetryRules, "any_method")
learn(&target_of_balancer, SingleTarget, "_target")

def adopt(type owner not None, type plan not None):
    """Replace methods of `DirectSubrequest` and of `RequestPlan`."""
    global _class, _render, _on_head
    _class, _render, _on_head = owner, plan.render, owner.on_head
    learn(&of_sent.authority, owner, "authority")
    learn(&of_sent.begun_at, owner, "begun_at")
    learn(&of_sent.body, owner, "body")
    learn(&of_sent.client_ip, owner, "client_ip")
    learn(&of_sent.consumer, owner, "consumer")
    learn(&of_sent.fields, owner, "_fields")
    learn(&of_sent.head, owner, "_head")
    learn(&of_sent.listener, owner, "_listener")
    learn(&of_sent.parent, owner, "_parent")
    learn(&of_sent.peer, owner, "peer")
    learn(&of_sent.plan, owner, "_plan")
    learn(&of_sent.record, owner, "_record")
    learn(&of_sent.sent, owner, "_sent")
    learn(&of_sent.sent_target, owner, "sent_target")
    learn(&of_sent.siblings, owner, "_siblings")
    learn(&of_sent.stream, owner, "_stream")
    learn(&of_sent.target, owner, "target")
    learn(&of_sent.upstream, owner, "upstream")
    learn(&of_sent.upstream_s, owner, "upstream_s")
    learn(&of_plan.allowed, plan, "allowed")
    learn(&of_plan.begin, plan, "_begin")
    learn(&of_plan.end, plan, "_end")
    learn(&of_plan.forward, plan, "forward")
    learn(&of_plan.method, plan, "method")
    learn(&of_plan.sized, plan, "_sized")
    learn(&of_plan.via, plan, "_via")
    replace(plan, render)
    replace(owner, on_head)
    replace(Subrequests, __str__)

cdef bytes _request(plan, sent, target):
    """Return the request of `RequestPlan.render`."""
    cdef bytes length = _NO_BYTES
    peer, end = read(&of_sent.peer, sent), read(&of_plan.end, plan)
    if end is None or (<Peer?>peer).trusted:
        return _render(plan, sent, target)
    authority, body = read(&of_sent.authority, sent), read(&of_sent.body, sent)
    if body or read(&of_plan.sized, plan):
        length = b"Content-Length: %d\r\n" % len(body)
    host = read(&of_target.host_header, target) or authority or target.authority
    lines = (<Peer?>peer)._lines if (<Peer?>peer)._authority == authority else peer.set_lines(authority)
    return b"".join(
        (read(&of_plan.begin, plan), read(&of_target.base_path, target), read(&of_sent.sent_target, sent),
         b" HTTP/1.1\r\nHost: ", host, b"\r\n", end, lines, length,
         read(&of_plan.via, plan), b"\r\n", body)
    )

def render(self, sent, target):
    """Compiled `RequestPlan.render`."""
    return _request(self, sent, target)

def send_direct(parent, plan, listener, bytes target, fields, bytes body, Py_ssize_t most):
    """Compiled `direct_subrequest.send_direct`."""
    return send_directly(parent, plan, listener, target, fields, body, most)

cdef object send_directly(parent, plan, listener, bytes target, fields, bytes body, Py_ssize_t most):
    if not read(&of_plan.allowed, plan) or type(parent) is not Exchange or (<Exchange?>parent).state is ENDED:
        return None
    if (<Exchange?>parent).trace is not None:
        return None
    upstream = read(&upstream_of_forward, read(&of_plan.forward, plan))
    chains = (<Exchange?>parent).listener.upstream_chains
    own, chain = read(&of_chains.own, chains), read(&of_chains.shared, chains)
    if own:
        chain = own.get(read(&of_upstream.name, upstream), chain)
    if (<Chain?>chain).links:
        return None
    route = (<Exchange?>parent).route
    if route is not None and (<Route?>route).filter_timeout is not None:
        return None
    siblings = (<Exchange?>parent).subrequests
    if siblings is None:
        siblings = PyType_GenericAlloc(Subrequests, 0)
        write(&of_siblings.active, siblings, set())
        write(&of_siblings.count, siblings, 0)
        write(&of_siblings.earlier, siblings, 0)
        write(&of_siblings.ended, siblings, _deque())
        (<Exchange?>parent).subrequests = siblings
    count = read(&of_siblings.count, siblings)
    if count >= most:
        return None
    write(&of_siblings.count, siblings, count + 1)
    sent = PyType_GenericAlloc(_class, 0)
    write(&of_sent.parent, sent, parent)
    write(&of_sent.plan, sent, plan)
    write(&of_sent.listener, sent, listener)
    write(&of_sent.sent_target, sent, target)
    write(&of_sent.fields, sent, fields)
    write(&of_sent.body, sent, body)
    write(&of_sent.peer, sent, (<Exchange?>parent).peer)
    write(&of_sent.client_ip, sent, (<Exchange?>parent).client_ip)
    write(&of_sent.consumer, sent, (<Exchange?>parent).consumer)
    write(&of_sent.authority, sent, (<Exchange?>parent).head.authority)
    write(&of_sent.upstream, sent, read(&of_upstream.name, upstream))
    write(&of_sent.target, sent, "")
    begun_at = monotonic()
    write(&of_sent.begun_at, sent, begun_at)
    write(&of_sent.upstream_s, sent, _NO_TIME)
    write(&of_sent.head, sent, None)
    write(&of_sent.stream, sent, None)
    write(&of_sent.record, sent, None)
    write(&of_sent.sent, sent, None)
    write(&of_sent.siblings, sent, siblings)
    read(&of_siblings.active, siblings).add(sent)
    _start(sent, plan, upstream, begun_at)
    return sent

cdef int _start(sent, plan, upstream, begun_at) except -1:
    """Do what `DirectSubrequest.start` does."""
    cdef double idle_at_most = INF
    write(&of_upstream.active, upstream, read(&of_upstream.active, upstream) + 1)
    balancer = read(&of_upstream.balancer, upstream)
    target = read(&target_of_balancer, balancer) if type(balancer) is SingleTarget else balancer.pick(sent)
    if target is None:
        sent._become_subrequest(None).attempt(fresh=False, again=False)
        return 0
    write(&of_sent.target, sent, read(&of_target.label, target))
    record = None
    if read(&of_upstream.attempt_listener, upstream) is not None:
        record = AttemptRecord(sent, upstream, target, FIRST, 1, begun_at).report_begun()
        write(&of_sent.record, sent, record)
    method = read(&of_plan.method, plan)
    if method not in IDEMPOTENT:
        if not read(&any_method_of_rules, read(&rules_of_forward, read(&of_plan.forward, plan))):
            idle_at_most = _JUST_USED_S
    pool = read(&of_upstream.pool, upstream)
    if type(pool) is Pool:
        stream = (<Pool>pool).try_lend(target, idle_at_most)
    else:
        stream = pool.try_lend(target, idle_at_most)
    write(&of_sent.stream, sent, stream)
    if stream is None:
        sent._become_subrequest(target).request_stream()
        return 0
    if record is not None:
        record.connect(stream.reused, begun_at)
    try:
        if type(stream) is UpstreamConnection:
            (<UpstreamConnection>stream).send_request(sent, _request(plan, sent, target), method)
        else:
            stream.send_request(sent, _request(plan, sent, target), method)
    except Exception:  # the edge of this sub-request: an exception is reported as a fault
        log_raised(sent)
        sent._leave().exchange.fail(Fault.INTERNAL)
    return 0

def on_head(self, head, payload, ended):
    """Compiled `DirectSubrequest.on_head`."""
    cdef double now
    if type(head) is not Http1ResponseHead or payload is not None:
        _on_head(self, head, payload, ended)
        return
    body = head.payload
    if not body:
        _on_head(self, head, payload, ended)
        return
    now = monotonic()
    stream, listener = read(&of_sent.stream, self), read(&of_sent.listener, self)
    assert stream is not None
    assert listener is not None
    upstream = read(&upstream_of_forward, read(&of_plan.forward, read(&of_sent.plan, self)))
    write(&of_upstream.active, upstream, read(&of_upstream.active, upstream) - 1)
    status = (<Http1ResponseHead>head).status
    record = read(&of_sent.record, self)
    if record is not None:
        write(&of_sent.record, self, None)
        record.answer(status, now)
        record.end(now)
    write(&of_sent.stream, self, None)
    write(&of_sent.listener, self, None)
    if type(stream) is UpstreamConnection:
        (<UpstreamConnection>stream).release()
    else:
        stream.release()
    seconds = now - <double>read(&of_sent.begun_at, self)
    write(&of_sent.upstream_s, self, seconds)
    siblings = read(&of_sent.siblings, self)
    read(&of_siblings.active, siblings).discard(self)
    read(&of_siblings.ended, siblings).append(
        (read(&of_sent.upstream, self), read(&of_sent.target, self), status, seconds)
    )
    (<Exchange?>(read(&of_sent.parent, self))).client.counts.count_subrequest(self, status)
    try:
        listener.on_whole(head, body)
    except Exception:  # the edge of a filter: the owner of the connection could not handle its error
        log_raised(self)

def __str__(self):
    """Compiled `Subrequests.__str__`."""
    cdef char seconds[MOST_DIGITS]
    cdef int length
    earlier = read(&of_siblings.earlier, self)
    texts = [f"({earlier} earlier)"] if earlier else []
    for upstream, target, outcome, took in read(&of_siblings.ended, self):
        length = snprintf(seconds, MOST_DIGITS, "%.6f", <double>took)
        texts.append(f"{upstream} {target or '-'} {outcome} {seconds[:length].decode('ascii')}")
    return ", ".join(texts)
