# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled ordinary cases of `fast_fetch`: a miss of a shared store without slower tiers, by a key of scheme, authority,
path and query, and a response of which `Cache-Control`, or that there is none, says that it is not stored.

All other cases are left to the reference: `StoringFetch` goes on with the lease. Objects of other classes are used
through their attributes (`_slots.read`).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastgw._slots cimport Slot, learn, read, write
from fastgw.cache.shared._ordinary cimport Key, Ordinary
from fastgw.http.http1._parser cimport Http1RequestHead, Http1ResponseHead, all_values, has_field

from math import ceil

from fastgw.cache.shared.leases import TICKS, LeaseCell
from fastgw.cache.shared.lifecycle import FetchBegin, SharedLease
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import LEASE_S, Refusal
from fastgw.exchange import Chain, Exchange, Route
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.filters.policies.cache.policy import MARK_S, CachePolicy, client_origin, client_url, is_authenticated
from fastgw.forwarded_headers import Peer
from fastgw.http.caching.cache_status import Forwarded, forwarded_status
from fastgw.http.caching.directives import TARGETS, parse_short
from fastgw.http.caching.storing import Unstorable
from fastgw.upstream.forwarding.fast_path import FastPath
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.upstream import Upstream

cdef extern from "_blake2b.h" nogil:
    void fastgw_blake2b_16(uint8_t* digest, const uint8_t* text, size_t length, const uint8_t* person)

cdef enum:
    LONGEST = 1024  # bytes of the text of a key; longer ones are left to the reference
    LONGEST_LINE = 256  # bytes of a `Cache-Control` whose meaning is kept
    MOST_KEPT = 1024
    IN_FLIGHT = -1  # results of `take_lease_of`
    NOT_ORDINARY = -2
    UNCACHEABLE = -3
    NO_SLOT = -4

cdef struct OfExchange:
    Slot cache_result
    Slot cache_status
    Slot chain
    Slot head
    Slot method
    Slot path
    Slot peer
    Slot query_sent
    Slot request_body
    Slot route

cdef struct OfPath:
    Slot head
    Slot peer
    Slot route

cdef struct OfPolicy:
    Slot clock
    Slot count
    Slot dropped
    Slot has_store
    Slot key_headers
    Slot methods
    Slot query_rule
    Slot ready
    Slot storing
    Slot store

cdef struct OfPeer:
    Slot certificate
    Slot scheme
    Slot trusted

cdef struct OfStore:
    Slot date
    Slot leases
    Slot ordinary

cdef OfExchange of_exchange
cdef OfPath of_path
cdef OfPolicy of_policy
cdef OfPeer of_peer
cdef OfStore of_store
cdef Slot allows_fetch_of_chain
cdef Slot authority_of_head
cdef Slot ordinary_of_head
cdef Slot forwarded_of_head
cdef Slot path_of_forward
cdef Slot upstream_of_forward
cdef Slot name_of_upstream
cdef Slot name_of_route
cdef Slot special_of_answers

learn(&of_exchange.cache_result, Exchange, "cache_result")
learn(&of_exchange.cache_status, Exchange, "cache_status")
learn(&of_exchange.chain, Exchange, "chain")
learn(&of_exchange.head, Exchange, "head")
learn(&of_exchange.method, Exchange, "method")
learn(&of_exchange.path, Exchange, "path")
learn(&of_exchange.peer, Exchange, "peer")
learn(&of_exchange.query_sent, Exchange, "query_sent")
learn(&of_exchange.request_body, Exchange, "request_body")
learn(&of_exchange.route, Exchange, "route")
learn(&of_path.head, FastPath, "head")
learn(&of_path.peer, FastPath, "peer")
learn(&of_path.route, FastPath, "route")
learn(&of_policy.clock, CachePolicy, "clock")
learn(&of_policy.count, CachePolicy, "count")
learn(&of_policy.dropped, CachePolicy, "dropped")
learn(&of_policy.has_store, CachePolicy, "has_store")
learn(&of_policy.key_headers, CachePolicy, "key_headers")
learn(&of_policy.methods, CachePolicy, "methods")
learn(&of_policy.query_rule, CachePolicy, "query_rule")
learn(&of_policy.ready, CachePolicy, "ready")
learn(&of_policy.storing, CachePolicy, "_storing")
learn(&of_policy.store, CachePolicy, "store")
learn(&of_peer.certificate, Peer, "certificate")
learn(&of_peer.scheme, Peer, "scheme")
learn(&of_peer.trusted, Peer, "trusted")
learn(&of_store.date, SharedStore, "date")
learn(&of_store.leases, SharedStore, "leases")
learn(&of_store.ordinary, SharedStore, "ordinary")
learn(&allows_fetch_of_chain, Chain, "allows_fetch")
learn(&ordinary_of_head, Http1RequestHead, "ordinary")
learn(&authority_of_head, Http1RequestHead, "authority")
learn(&forwarded_of_head, Http1RequestHead, "forwarded")
learn(&path_of_forward, Forward, "path_of")
learn(&upstream_of_forward, Forward, "upstream")
learn(&name_of_upstream, Upstream, "name")
learn(&name_of_route, Route, "name")

cdef object _begin_fetch  # the function of the reference
cdef type _storing_fetch_class, _exchange_fetch_class, _cached_request_class
cdef bytes _GET = b"GET"
cdef bytes _NO_BYTES = b""
cdef object _UNCHANGED_QUERY = UNCHANGED_QUERY
cdef double _TICKS = TICKS
cdef uint64_t _LEASE_TICKS = ceil(LEASE_S * TICKS)
cdef uint64_t _MARK_TICKS = ceil(MARK_S * TICKS)
cdef object _UNCACHEABLE = Refusal.UNCACHEABLE
cdef object _NO_SLOT = Refusal.NO_SLOT
cdef bytes _PRIMARY = b"fastgw-primary\0\0"
cdef bytes _SEARCH = b"fastgw-search-of"
cdef dict _tails = {}  # names of upstream and route -> end of the text of their keys
cdef dict _verdicts = {}  # value of `Cache-Control` -> `_Verdict`, or None: it does not forbid to store


@cython.final
cdef class _Verdict:
    """A reason not to store a response."""

    cdef str detail
    cdef bytes status  # value of `Cache-Status`
    cdef bytes line


cdef _Verdict _verdict(reason):
    cdef _Verdict made = _Verdict.__new__(_Verdict)
    made.detail = reason.value.decode()
    made.status = forwarded_status(Forwarded.URI_MISS, detail=reason.value)
    made.line = b"Cache-Status: %b\r\n" % made.status
    return made


cdef _Verdict _NO_STORE = _verdict(Unstorable.NO_STORE)
cdef _Verdict _PRIVATE = _verdict(Unstorable.PRIVATE)
cdef _Verdict _AUTHORIZATION = _verdict(Unstorable.AUTHORIZATION)
cdef _Verdict _SET_COOKIE = _verdict(Unstorable.SET_COOKIE)
cdef _Verdict _COOKIE = _verdict(Unstorable.COOKIE)
cdef _Verdict _NO_FRESHNESS = _verdict(Unstorable.NO_FRESHNESS)


def adopt(begin_fetch not None, type storing_fetch not None, type exchange_fetch not None, type cached_request not None,
          type answers not None):
    """Learn the function and the classes of the reference. `answers`: `ready_answers.ReadyAnswers`."""
    global _begin_fetch, _storing_fetch_class, _exchange_fetch_class, _cached_request_class
    _begin_fetch, _storing_fetch_class = begin_fetch, storing_fetch
    _exchange_fetch_class, _cached_request_class = exchange_fetch, cached_request
    learn(&special_of_answers, answers, "_special")


def digest(bytes text not None, bytes person not None):
    """Return a digest as of `hashlib.blake2b(text, digest_size=16, person=person)`, for tests. `person`: 16 bytes."""
    cdef uint8_t made[16]
    if PyBytes_GET_SIZE(person) != 16:
        raise ValueError("a personalization has 16 bytes")
    fastgw_blake2b_16(
        made, <const uint8_t*>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), <const uint8_t*>PyBytes_AS_STRING(person)
    )
    return PyBytes_FromStringAndSize(<char*>made, 16)


# --- keys, as of `http.caching.keys` ---


cdef char* _put_number(char* out, Py_ssize_t number) noexcept:
    cdef char digits[20]
    cdef int place = 20
    while True:
        place -= 1
        digits[place] = <char>(c"0" + number % 10)
        number //= 10
        if not number:
            break
    memcpy(out, &digits[place], 20 - place)
    return out + 20 - place


cdef inline char* _put_part(char* out, const char* text, Py_ssize_t length) noexcept:
    out = _put_number(out, length)
    out[0] = c":"
    memcpy(out + 1, text, length)
    return out + 1 + length


cdef bytes _tail(upstream, route):
    """Return what the keys of a route end with: the names of upstream and route."""
    cdef tuple names = (upstream, route)
    tail = _tails.get(names)
    if tail is None:
        if len(_tails) >= MOST_KEPT:
            _tails.clear()
        tail = b"%d:%b%d:%b/" % (len(upstream.encode()), upstream.encode(), len(route.encode()), route.encode())
        _tails[names] = tail
    return <bytes?>tail


cdef inline void _key_of(Key* key, Ordinary ordinary, const char* text, Py_ssize_t length, bytes person) noexcept:
    cdef uint8_t made[16]
    fastgw_blake2b_16(made, <const uint8_t*>text, length, <const uint8_t*>PyBytes_AS_STRING(person))
    memcpy(&key.high, made, 8)
    memcpy(&key.low, made + 8, 8)
    key.hash = ordinary._mix(key.high, key.low)


# --- the fetch ---


cdef bint _is_plain(policy, Http1RequestHead head, peer) except -1:
    """Whether the full path has nothing to read in the request, and its key has only what all have."""
    cdef bytes name
    if (
        head._fields is not None
        or read(&of_policy.key_headers, policy)
        or not read(&of_policy.has_store, policy)
        or _GET not in read(&of_policy.methods, policy)
        or head.method_at.length != 3
        or memcmp(PyBytes_AS_STRING(head.source) + head.method_at.start, b"GET", 3)
        or (read(&of_peer.trusted, peer) and read(&forwarded_of_head, head))
        or (head.query_at.start and read(&of_policy.query_rule, policy) is not None)
    ):
        return False
    ready = read(&of_policy.ready, policy)
    if ready is None:
        return False
    for name in <tuple?>read(&special_of_answers, ready):
        if has_field(head, name):
            return False
    return True


def begin_fetch(policy, request, forward):
    """Compiled `fast_fetch.begin_fetch`."""
    found = _begun(policy, request, forward, None)
    return _begin_fetch(policy, request, forward) if found is NotImplemented else found


def begin_exchange_fetch(policy, exchange, forward):
    """Begin to fetch the response to an exchange, as `CachedRequest` would by an `ExchangeFetch`, if that is an
    ordinary case. None: `CachedRequest` has to decide.
    """
    head = read(&of_exchange.head, exchange)
    if (
        type(head) is not Http1RequestHead
        or not read(&allows_fetch_of_chain, read(&of_exchange.chain, exchange))
        or read(&of_exchange.query_sent, exchange) is not _UNCHANGED_QUERY
        or read(&of_exchange.request_body, exchange) is not None
        or not read(&ordinary_of_head, head)
        or read(&of_exchange.method, exchange) != _GET
        or read(&of_exchange.path, exchange) != (<Http1RequestHead>head)._path
    ):
        return None
    found = _begun(policy, exchange, forward, exchange)
    return None if found is NotImplemented else found


cdef object _begun(policy, request, forward, exchange):
    """Return the fetch; None: the full path has to handle it; `NotImplemented`: this is not an ordinary case."""
    cdef Http1RequestHead head
    cdef Ordinary ordinary
    cdef Key key, searched
    cdef char text[LONGEST]
    cdef char* out = text
    cdef Py_ssize_t length
    cdef bytes scheme, authority, path, tail
    cdef OrdinaryFetch fetch
    cdef int64_t at
    cdef uint64_t now
    if exchange is None:
        given, peer, route = read(&of_path.head, request), read(&of_path.peer, request), read(&of_path.route, request)
    else:
        given, peer = read(&of_exchange.head, exchange), read(&of_exchange.peer, exchange)
        route = read(&of_exchange.route, exchange)
    if type(given) is not Http1RequestHead or type(forward) is not Forward:
        return NotImplemented
    head = <Http1RequestHead>given
    if head.source is None or not _is_plain(policy, head, peer):
        return NotImplemented
    store = read(&of_policy.store, policy)
    if type(store) is not SharedStore or route is None:
        return NotImplemented
    made = read(&of_store.ordinary, store)
    if type(made) is not Ordinary:
        return NotImplemented
    ordinary = <Ordinary>made
    path_of = read(&path_of_forward, forward)
    scheme, authority = read(&of_peer.scheme, peer), read(&authority_of_head, head)
    if b":" in authority or read(&of_peer.trusted, peer):
        scheme, authority = client_origin(head, peer)
    path = head._path if path_of is None else path_of(request)
    tail = _tail(read(&name_of_upstream, read(&upstream_of_forward, forward)), read(&name_of_route, route))
    length = PyBytes_GET_SIZE(scheme) + PyBytes_GET_SIZE(authority) + PyBytes_GET_SIZE(path) + PyBytes_GET_SIZE(tail)
    if length + head.query_at.length + 100 > LONGEST:
        return NotImplemented
    out = _put_part(out, PyBytes_AS_STRING(scheme), PyBytes_GET_SIZE(scheme))
    out = _put_part(out, PyBytes_AS_STRING(authority), PyBytes_GET_SIZE(authority))
    out = _put_part(out, PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path))
    memcpy(out, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
    out += PyBytes_GET_SIZE(tail)
    _key_of(&searched, ordinary, text, out - text, _SEARCH)
    if head.query_at.start:
        out = _put_part(out, PyBytes_AS_STRING(head.source) + head.query_at.start, head.query_at.length)
    else:
        out[0] = c"-"
        out += 1
    _key_of(&key, ordinary, text, out - text, _PRIMARY)
    if not (ordinary.has_no_entry(&key) and ordinary.has_no_entry(&searched)):
        return None
    now = <uint64_t><double>(<double>read(&of_store.leases, store).clock() * _TICKS)
    at = ordinary.take_lease_of(&key, now, _LEASE_TICKS)
    if at == IN_FLIGHT:
        return None
    if at == NOT_ORDINARY:
        return NotImplemented
    fetch = OrdinaryFetch.__new__(OrdinaryFetch)
    fetch.policy, fetch.store, fetch.ordinary, fetch.forward = policy, store, ordinary, forward
    fetch.head, fetch.peer, fetch.route, fetch.exchange = head, peer, route, exchange
    fetch.key = key
    fetch.lease_at, fetch.lease_word = at, ordinary.lease_word
    fetch.began, fetch.date = ordinary.purge_sequence(), read(&of_store.date, store)()
    fetch.request_date = read(&of_policy.clock, policy)()
    fetch.dropped = read(&of_policy.dropped, policy)
    return fetch


@cython.final
@cython.no_gc_clear  # it ends its lease with what it has
cdef class OrdinaryFetch:
    """Implements `exchange.fast_fetch.FastFetch`; see `fast_fetch.StoringFetch`."""

    cdef object policy, store, peer, route
    cdef object exchange  # None: there is only the fast path
    cdef Ordinary ordinary
    cdef Http1RequestHead head
    cdef readonly object forward, dropped
    cdef Key key
    cdef int64_t lease_at  # negative: no lease, or it has ended here
    cdef uint64_t lease_word, began
    cdef object date, request_date
    cdef object reference  # the `StoringFetch` that has taken over; None: none has

    result = "miss"

    def __dealloc__(self):
        if self.lease_at >= 0 and self.ordinary is not None:
            self._end_lease(0)

    cdef int _end_lease(self, uint64_t mark) except -1:
        """End the lease, with a mark for so many ticks."""
        cdef int64_t at = self.lease_at
        cdef uint64_t now = 0
        self.lease_at = NO_SLOT
        if mark:
            now = <uint64_t><double>(<double>read(&of_store.leases, self.store).clock() * _TICKS)
        self.ordinary.end_lease_at(at, self.lease_word, now, mark)
        if self.ordinary.report_key(&self.key):
            self.store.report(self._key())
        return 0

    cdef bytes _key(self):
        cdef char text[16]
        memcpy(text, &self.key.high, 8)
        memcpy(text + 8, &self.key.low, 8)
        return PyBytes_FromStringAndSize(text, 16)

    cdef object _take_over(self):
        """Return the fetch of the reference that goes on."""
        if self.reference is None:
            refusal = lease = None
            if self.lease_at >= 0:
                lease = SharedLease(
                    self.store, self._key(), LeaseCell(self.lease_at, self.lease_word), FetchBegin(self.began, self.date)
                )
            else:
                refusal = _UNCACHEABLE if self.lease_at == UNCACHEABLE else _NO_SLOT
            self.lease_at = NO_SLOT
            if self.exchange is not None:
                request = _cached_request_class(self.policy, self.exchange, self.forward)
                self.reference = _exchange_fetch_class(request, lease, refusal, Forwarded.URI_MISS, self.request_date)
                return self.reference
            url = client_url(client_origin(self.head, self.peer), self.head._path, self.head.query)
            self.reference = _storing_fetch_class(
                self.policy, self.head, self.peer, self.route, self.forward, lease, refusal, url, self.request_date
            )
        return self.reference

    def take_response(self, head):
        """Compiled `StoringFetch.take_response`."""
        cdef _Verdict verdict = None
        if self.reference is None and type(head) is Http1ResponseHead and (<Http1ResponseHead>head)._fields is None:
            verdict = self._verdict_of(<Http1ResponseHead>head)
        if verdict is None:
            return self._take_over().take_response(head)
        if self.lease_at >= 0:
            self._end_lease(_MARK_TICKS)
        read(&of_policy.count, self.policy)(read(&name_of_route, self.route), verdict.detail)
        if self.exchange is None:
            return verdict.line
        write(&of_exchange.cache_result, self.exchange, self.result)
        write(&of_exchange.cache_status, self.exchange, verdict.status)  # the response step of the filter adds it
        return _NO_BYTES

    cdef _Verdict _verdict_of(self, Http1ResponseHead head):
        """Return why the response is not stored, as `storing.decide_storing`; None: it may be, or more has to be read."""
        cdef bytes name
        cdef list values
        if head.status < 200 or head.status == 206 or head.status == 304:
            return None
        for name in _TARGETED:
            if has_field(head, name):
                return None
        if not has_field(head, b"cache-control"):
            return self._verdict_unstated(head)
        values = all_values(head, b"cache-control")
        if len(values) != 1 or PyBytes_GET_SIZE(values[0]) > LONGEST_LINE:
            return None
        found = _verdicts.get(values[0], _verdicts)
        if found is _verdicts:
            return _kept_verdict(values[0])
        return None if found is None else <_Verdict?>found

    cdef _Verdict _verdict_unstated(self, Http1ResponseHead head):
        """Do so for a response without `Cache-Control`."""
        storing = read(&of_policy.storing, self.policy)
        if has_field(head, b"expires") or has_field(head, b"last-modified") or has_field(head, b"vary"):
            return None
        if (
            read(&of_peer.certificate, self.peer) is not None
            or has_field(self.head, b"authorization")
            or (self.exchange is not None and is_authenticated(self.exchange))
        ):
            return _AUTHORIZATION
        if not storing.store_set_cookie and has_field(head, b"set-cookie"):
            return _SET_COOKIE
        if storing.override_ttl is not None or storing.ttl is not None or storing.ttl_by_status:
            return None
        return _COOKIE if has_field(self.head, b"cookie") else _NO_FRESHNESS

    def leave_fast_path(self, exchange):
        """Compiled `StoringFetch.leave_fast_path`."""
        return self._take_over().leave_fast_path(exchange)


cdef tuple _TARGETED = TARGETS


cdef _Verdict _kept_verdict(bytes line):
    """Return what a `Cache-Control` says that is not kept yet, and keep it."""
    cdef _Verdict found = None
    if len(_verdicts) >= MOST_KEPT:
        _verdicts.clear()
    stated = parse_short(line)
    if not stated.must_understand:
        found = _NO_STORE if stated.no_store else _PRIVATE if stated.private else None
    _verdicts[line] = found
    return found
