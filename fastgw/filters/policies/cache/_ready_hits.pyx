# cython: language_level=3
"""Compiled `ready_hits.ReadyHits.answer`, for heads that `_parser` has read.

Objects of other classes are used through their attributes (`_slots.read`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw.forwarded_headers cimport Peer
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport Exchange
from fastgw._slots cimport Slot, learn, read, write
from fastgw.cache.shared._ordinary cimport is_unchanged_in
from fastgw.filters.policies.cache._ready_answers cimport has_any_of
from fastgw.http.http1.parser cimport Http1RequestHead

from fastgw.compiled import replace
from fastgw.exchange import Response
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.filters.policies.cache.forwarded_fields import ForwardedFields
from fastgw.filters.policies.cache.ready_answers import values_of
from fastgw.http.http1.parser import parse_response
from fastgw.upstream.forwarding.forward_action import Forward

cdef struct OfForward:
    Slot checks_path
    Slot marks

cdef struct OfHit:
    Slot body
    Slot born_date
    Slot head
    Slot lifetime
    Slot second
    Slot stamp
    Slot status

cdef struct OfHits:
    Slot answers
    Slot by_consumer
    Slot clock
    Slot key_headers
    Slot memory
    Slot number
    Slot store

cdef OfForward of_forward
cdef OfHit of_hit
cdef OfHits of_hits
cdef Slot authority_of_head
cdef Slot forwarded_of_head
cdef Slot ordinary_of_head
cdef Slot entries_of_memory
cdef Slot names_of_selector
cdef Slot stamp_of_selector
cdef Slot special_of_answers
cdef type _hit_class, _selector_class
cdef object _answer  # the method of the reference
cdef bytes _GET = b"GET"
cdef object _UNCHANGED_QUERY = UNCHANGED_QUERY
cdef int _MOST_FIELDS = 1000

learn(&of_forward.checks_path, Forward, "checks_path")
learn(&of_forward.marks, Forward, "marks")
learn(&authority_of_head, Http1RequestHead, "authority")
learn(&forwarded_of_head, Http1RequestHead, "forwarded")
learn(&ordinary_of_head, Http1RequestHead, "ordinary")


def adopt(type owner not None, type memory not None, type hit not None, type selector not None, type answers not None):
    """Replace the method of `ReadyHits`. `memory`, `hit`, `selector`, `answers`: the classes of what it looks at."""
    global _answer, _hit_class, _selector_class
    _answer, _hit_class, _selector_class = owner.answer, hit, selector
    learn(&of_hits.answers, owner, "_answers")
    learn(&of_hits.by_consumer, owner, "_by_consumer")
    learn(&of_hits.clock, owner, "_clock")
    learn(&of_hits.key_headers, owner, "_key_headers")
    learn(&of_hits.memory, owner, "_memory")
    learn(&of_hits.number, owner, "_number")
    learn(&of_hits.store, owner, "store")
    learn(&of_hit.body, hit, "body")
    learn(&of_hit.born_date, hit, "born_date")
    learn(&of_hit.head, hit, "head")
    learn(&of_hit.lifetime, hit, "lifetime")
    learn(&of_hit.second, hit, "second")
    learn(&of_hit.stamp, hit, "stamp")
    learn(&of_hit.status, hit, "status")
    learn(&entries_of_memory, memory, "_entries")
    learn(&names_of_selector, selector, "names")
    learn(&stamp_of_selector, selector, "stamp")
    learn(&special_of_answers, answers, "_special")
    replace(owner, answer)


cdef bint _applies(self, exchange, Http1RequestHead head, peer, chain, forward) except -1:
    """Return the result of `ReadyHits._applies`."""
    if (
        (<Exchange?>exchange).method != _GET
        or not read(&ordinary_of_head, head)
        or (<Exchange?>exchange).request_body is not None
        or (<Exchange?>exchange).query_sent is not _UNCHANGED_QUERY
        or (<Exchange?>exchange).path != head._path
        or read(&of_forward.checks_path, forward)
        or (<Exchange?>exchange).sends_client_authorization
        or (<Chain?>chain).treats_responses
        or (<Chain?>chain).ready_answer is not None
        or ((<Peer?>peer).trusted and read(&forwarded_of_head, head))
    ):
        return False
    return not has_any_of(<tuple?>read(&special_of_answers, read(&of_hits.answers, self)), head)


cdef object _fields_of(exchange):
    """Return the headers as the upstream gets them."""
    if (<Exchange?>exchange).request_added or (<Exchange?>exchange).request_dropped:
        return ForwardedFields(exchange)
    return (<Exchange?>exchange).head


def answer(self, exchange, forward):
    """Compiled `ReadyHits.answer`."""
    cdef Http1RequestHead head
    cdef dict entries
    cdef tuple key
    given = (<Exchange?>exchange).head
    if type(given) is not Http1RequestHead or type(exchange) is not Exchange:
        return _answer(self, exchange, forward)
    head = <Http1RequestHead>given
    if head.source is None or head._fields is not None:
        return _answer(self, exchange, forward)
    peer, chain = (<Exchange?>exchange).peer, (<Exchange?>exchange).chain
    if not _applies(self, exchange, head, peer, chain, forward):
        return False
    target = PyBytes_FromStringAndSize(PyBytes_AS_STRING(head.source) + head.target_at.start, head.target_at.length)
    consumer = (<Exchange?>exchange).consumer if read(&of_hits.by_consumer, self) else None
    if consumer is not None:
        consumer = consumer.name
    key = (
        read(&of_hits.number, self), (<Chain?>chain).number, (<Peer?>peer).endpoint,
        read(&authority_of_head, head), target, consumer,
    )
    key_headers = read(&of_hits.key_headers, self)
    if key_headers:
        key += tuple(values_of(_fields_of(exchange), key_headers))
    memory, store = read(&of_hits.memory, self), read(&of_hits.store, self)
    entries = <dict?>read(&entries_of_memory, memory)
    hit = entries.get(key)
    if type(hit) is _selector_class:
        if not is_unchanged_in(store, read(&stamp_of_selector, hit)):
            memory.remove(key)
            return False
        names = read(&names_of_selector, hit)
        key += (names,) + tuple(values_of(_fields_of(exchange), names))
        hit = entries.get(key)
    if type(hit) is not _hit_class:
        return False
    age = int(read(&of_hits.clock, self)() - read(&of_hit.born_date, hit))
    if age >= read(&of_hit.lifetime, hit) or age < 0 or not is_unchanged_in(store, read(&of_hit.stamp, hit)):
        memory.remove(key)
        return False
    if age != read(&of_hit.second, hit):
        hit.tell_age(age)
    body = read(&of_hit.body, hit)
    (<Exchange?>exchange).cache_result = "hit"
    (<Exchange?>exchange).cache_status = read(&of_hit.status, hit)
    (<Exchange?>exchange).response_bytes = PyBytes_GET_SIZE(<bytes?>body)
    made = parse_response(read(&of_hit.head, hit), _GET, _MOST_FIELDS)
    exchange.respond(Response(made.status, made, b"", read(&of_forward.marks, forward)), body, True)
    return True
