# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Ordinary misses: of a shared store without slower tiers, by a key of scheme, authority, path, query and headers, and
a small response that is stored, or of which `_storing` knows that it is not.

All other cases are left to `CachedRequest`, which goes on with the lease.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, clockid_t, timespec

from fastgw.upstream.forwarding.forward_action cimport Forward
from fastgw.upstream.upstream cimport Upstream
from fastgw.forwarded_headers cimport Peer
from fastgw.exchange.route cimport Route
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport Exchange
from fastgw.cache.shared._ordinary cimport MOST_HASHES, NO_SPACE, Key, NewRecord, Ordinary
from fastgw.filters.policies.cache.ready_answers cimport ReadyAnswers
from fastgw.http.http1.sought_names cimport has_any_of
from fastgw.filters.policies.cache._storing cimport Encoded, decide_on, encode_variant
from fastgw.http.http1.parser cimport Http1RequestHead, Http1ResponseHead, all_values, has_field

from math import ceil
from time import monotonic, time

from fastgw.cache.shared.leases import TICKS, LeaseCell, Leases
from fastgw.cache.shared.lifecycle import FetchBegin, SharedLease
from fastgw.cache.shared.records import RecordStatus
from fastgw.cache.shared.segments import Queue
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.shared.space import Space
from fastgw.cache.store import LEASE_S, MOST_URL, Refusal, RefusedLease
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.filters.policies.cache.cached_request import CachedRequest
from fastgw.filters.policies.cache.forwarded_fields import ForwardedFields
from fastgw.filters.policies.cache.policy import MARK_S, CachePolicy, is_authenticated, purge_origin, route_part
from fastgw.filters.policies.cache.whole_response import ExchangeFetch
from fastgw.http.caching.cache_status import Forwarded, forwarded_status
from fastgw.http.caching.storing import RequestIdentity, Unstorable
from fastgw.http.caching.vary import normalized_value

cdef extern from "_blake2b.h" nogil:
    void fastgw_blake2b_16(uint8_t* digest, const uint8_t* text, size_t length, const uint8_t* person)

cdef enum:
    LONGEST = 1024  # bytes of the text of a key, and of a URL; longer ones are left to others
    MOST_VARYING = 4096  # bytes of the values that select a variant, likewise
    MOST_TAGS = 64  # likewise
    MOST_KEPT = 1024
    LONGEST_KEPT = 256  # bytes of a value whose normalized form is kept
    RECORDS = 16  # a record that may be divided takes more than this part of a segment
    IN_FLIGHT = -1  # results of `take_lease_of`
    NOT_ORDINARY = -2
    UNCACHEABLE = -3
    NO_SLOT = -4
    OUTGROWN = -5

cdef bytes _GET = b"GET"
cdef object _UNCHANGED_QUERY = UNCHANGED_QUERY
if LONGEST > MOST_URL:
    raise ImportError("the compiled module stores longer URLs than others")
cdef double _TICKS = TICKS
cdef uint64_t _LEASE_TICKS = ceil(LEASE_S * TICKS)
cdef uint64_t _MARK_TICKS = ceil(MARK_S * TICKS)
cdef dict _REFUSALS = {UNCACHEABLE: Refusal.UNCACHEABLE, NO_SLOT: Refusal.NO_SLOT, OUTGROWN: Refusal.OUTGROWN}
cdef bytes _PRIMARY = b"fastgw-primary\0\0"
cdef bytes _SEARCH = b"fastgw-search-of"
cdef object _monotonic = monotonic
cdef object _time = time
cdef bytes _VARIANT = b"fastgw-variant\0\0"
cdef dict _normalized = {}  # name and value of a request header -> value as of `normalized_value`, or None
cdef int _COMPLETE = RecordStatus.COMPLETE
cdef object _SMALL = Queue.SMALL
cdef object _MAIN = Queue.MAIN
cdef object _NO_SEGMENT = -1
cdef int _BY_CONSUMER = RequestIdentity.CONSUMER
cdef int _BY_AUTHORIZATION = RequestIdentity.AUTHORIZATION
cdef bytes _AUTHORIZATION = b"authorization"
cdef bytes _COOKIE = b"cookie"


@cython.final
cdef class _Outcome:
    """Outcome of a fetch: its response was stored, or why not."""

    cdef str detail  # for metrics
    cdef bytes status  # value of `Cache-Status`


cdef _Outcome _outcome(str detail, bytes status):
    cdef _Outcome made = _Outcome.__new__(_Outcome)
    made.detail, made.status = detail, status
    return made


cdef list _refused = [
    (reason, _outcome(reason.value.decode(), forwarded_status(Forwarded.URI_MISS, detail=reason.value)))
    for reason in Unstorable
]
cdef _Outcome _stored = None  # the last one of a response that was stored
cdef int64_t _stored_ttl = 0


cdef _Outcome _refused_for(reason):
    for known, outcome in _refused:
        if known is reason:
            return <_Outcome>outcome
    raise LookupError(reason)


cdef _Outcome _stored_for(int64_t ttl):
    global _stored, _stored_ttl
    if _stored is None or ttl != _stored_ttl:
        _stored = _outcome("stored", forwarded_status(Forwarded.URI_MISS, stored=True, ttl=ttl))
        _stored_ttl = ttl
    return _stored


def digest(bytes text not None, bytes person not None):
    """Return a digest as of `hashlib.blake2b(text, digest_size=16, person=person)`, for tests. `person`: 16 bytes."""
    cdef uint8_t made[16]
    if PyBytes_GET_SIZE(person) != 16:
        raise ValueError("a personalization has 16 bytes")
    fastgw_blake2b_16(
        made, <const uint8_t*>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), <const uint8_t*>PyBytes_AS_STRING(person)
    )
    return PyBytes_FromStringAndSize(<char*>made, 16)


cdef inline double _now(clockid_t clock) noexcept:
    """Return the time as `time.time` and `time.monotonic` do."""
    cdef timespec now
    clock_gettime(clock, &now)
    return <double>(<int64_t>now.tv_sec * 1000000000 + now.tv_nsec) / 1e9


cdef inline double _date_of(clock) except? -1.0:
    """Return the time of a clock. PERF: 100 instructions less than a call, if it is `time.time` (CPython 3.11)."""
    return _now(CLOCK_REALTIME) if clock is _time else <double>clock()


cdef inline uint64_t _ticks_of(leases) except? 0:
    """Return the present instant, as ends of leases are counted."""
    clock = leases.clock
    return <uint64_t>((_now(CLOCK_MONOTONIC) if clock is _monotonic else <double>clock()) * _TICKS)


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


cdef bytes _place(policy, upstream, route):
    """Return what the text of keys has of upstream and route, of the names of the values that follow, and that the
    request is plain (`_is_plain`): the beginning of the parts of `CachePolicy.resource_of`.
    """
    kept, name = policy.place, (<Route?>route).name
    settings = (<Chain?>((<Route?>route).chain)).sent_settings
    if (
        kept is None
        or (<tuple?>kept)[0] is not upstream
        or (<tuple>kept)[1] is not name
        or (<tuple>kept)[2] is not settings
    ):
        part = route_part(route)
        text = b"%d:%b%d:%b" % (len(upstream.encode()), upstream.encode(), len(part), part)
        names = policy.key_names
        text += b"---" if names is None else b"%d:%b--" % (len(names), names)
        kept = upstream, name, settings, text
        policy.place = kept
    return <bytes>(<tuple>kept)[3]


cdef inline void _key_of(Key* key, Ordinary ordinary, const char* text, Py_ssize_t length, bytes person) noexcept:
    cdef uint8_t made[16]
    fastgw_blake2b_16(made, <const uint8_t*>text, length, <const uint8_t*>PyBytes_AS_STRING(person))
    memcpy(&key.high, made, 8)
    memcpy(&key.low, made + 8, 8)
    key.hash = ordinary._mix(key.high, key.low)


cdef inline void _complement(Key* key, Ordinary ordinary, const Key* of) noexcept:
    key.high, key.low = ~of.high, ~of.low
    key.hash = ordinary._mix(key.high, key.low)


cdef bytes _text_of(const Key* key):
    cdef char text[16]
    memcpy(text, &key.high, 8)
    memcpy(text + 8, &key.low, 8)
    return PyBytes_FromStringAndSize(text, 16)


cdef Py_ssize_t _put_url(char* out, bytes scheme, bytes authority, Http1RequestHead head) noexcept:
    """Write the URL, as `policy.client_url`, and return its length. Negative: it has more than `LONGEST` bytes."""
    cdef char* begin = out
    cdef bytes path = head._path
    cdef Py_ssize_t length = PyBytes_GET_SIZE(scheme) + 3 + PyBytes_GET_SIZE(authority) + PyBytes_GET_SIZE(path)
    if length + 1 + head.query_at.length > LONGEST:
        return -1
    out = _put(_put(out, PyBytes_AS_STRING(scheme), PyBytes_GET_SIZE(scheme)), b"://", 3)
    out = _put(out, PyBytes_AS_STRING(authority), PyBytes_GET_SIZE(authority))
    out = _put(out, PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path))
    if head.query_at.start:
        out[0] = c"?"
        out = _put(out + 1, PyBytes_AS_STRING(head.source) + head.query_at.start, head.query_at.length)
    return out - begin


cdef inline char* _put(char* out, const char* text, Py_ssize_t length) noexcept:
    memcpy(out, text, length)
    return out + length


cdef bytes _normalized_value(Http1RequestHead head, bytes name):
    """Return the value of a request header, as `vary.normalized_value`."""
    cdef list lines = all_values(head, name)
    cdef tuple kept
    if len(lines) != 1 or PyBytes_GET_SIZE(lines[0]) > LONGEST_KEPT:
        return normalized_value(name, lines)
    kept = (name, lines[0])
    found = _normalized.get(kept)
    if found is None:
        if len(_normalized) >= MOST_KEPT:
            _normalized.clear()
        found = _normalized[kept] = normalized_value(name, lines)
    return <bytes?>found


cdef _changed_fields(Exchange exchange):
    """Return the headers as the upstream gets them, if filters have changed them; else None."""
    if exchange.request_added or exchange.request_dropped:
        return ForwardedFields(exchange)
    return None


cdef char* _put_value(char* out, const char* end, Http1RequestHead head, fields, bytes name) except? NULL:
    """Write the value of a request header as a part of a key. `fields`: of `_changed_fields`. NULL: it is too long."""
    cdef bytes value = _normalized_value(head, name) if fields is None else normalized_value(name, fields.values(name))
    if end - out < 24 + (0 if value is None else PyBytes_GET_SIZE(value)):
        return NULL
    if value is None:
        out[0] = c"-"
        return out + 1
    return _put_part(out, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))


# --- the fetch ---


cdef bint _is_plain(policy, Http1RequestHead head, peer) except -1:
    """Whether the policy has nothing else to read in the request, and its key has but headers beside what all have."""
    if (
        head._fields is not None
        or not policy.has_store
        or not policy.fetches_get
        or head.method_length != 3
        or memcmp(PyBytes_AS_STRING(head.source), b"GET", 3)
        or ((<Peer?>peer).trusted and head.forwarded)
        or (head.query_at.start and policy.query_rule is not None)
    ):
        return False
    ready = policy.ready
    if ready is None:
        return False
    return not has_any_of((<ReadyAnswers?>ready)._special, head)


def begin_exchange_fetch(policy, exchange, forward):
    """Begin to fetch the response to an exchange, as `CachedRequest` would by an `ExchangeFetch`, if that is an
    ordinary case. None: `CachedRequest` has to decide.
    """
    head = (<Exchange?>exchange).head
    if (
        type(head) is not Http1RequestHead
        or not (<Chain?>((<Exchange?>exchange).chain)).allows_fetch
        or (<Exchange?>exchange).query_sent is not _UNCHANGED_QUERY
        or (<Exchange?>exchange).request_body is not None
        or not head.ordinary
        or (<Exchange?>exchange).method != _GET
        or (<Exchange?>exchange).path != (<Http1RequestHead>head)._path
        or (<Exchange?>exchange).sends_client_authorization
    ):
        return None
    return _begun(policy, <Exchange>exchange, forward)


cdef object _begun(policy, Exchange exchange, forward):
    cdef Http1RequestHead head
    cdef Ordinary ordinary
    cdef Key key, searched
    cdef char text[LONGEST]
    cdef char* out = text
    cdef Py_ssize_t length
    cdef bytes endpoint, authority, path, sent_path, place, name
    cdef tuple key_headers
    cdef OrdinaryFetch fetch
    cdef int64_t at
    cdef uint64_t now
    given, peer, route = exchange.head, exchange.peer, exchange.route
    if type(given) is not Http1RequestHead or type(forward) is not Forward:
        return None
    head = <Http1RequestHead>given
    if head.source is None or not _is_plain(policy, head, peer):
        return None
    store = policy.store
    if type(store) is not SharedStore or route is None:
        return None
    ordinary = <Ordinary?>store.ordinary
    path_of = (<Forward?>forward).path_of
    endpoint, authority = (<Peer?>peer).endpoint, head.authority
    path = head._path
    sent_path = None if path_of is None else path_of(exchange)
    if sent_path == path:
        sent_path = None
    place = _place(policy, (<Upstream?>((<Forward?>forward).upstream)).name, route)
    length = PyBytes_GET_SIZE(endpoint) + PyBytes_GET_SIZE(authority) + PyBytes_GET_SIZE(path) + PyBytes_GET_SIZE(place)
    if sent_path is not None:
        length += PyBytes_GET_SIZE(sent_path)
    if length + head.query_at.length + 100 > LONGEST:
        return None
    out = _put_part(out, PyBytes_AS_STRING(endpoint), PyBytes_GET_SIZE(endpoint))
    out = _put_part(out, PyBytes_AS_STRING(authority), PyBytes_GET_SIZE(authority))
    out = _put_part(out, PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path))
    if sent_path is None:
        out = _put(out, b"-", 1)
    else:
        out = _put_part(out, PyBytes_AS_STRING(sent_path), PyBytes_GET_SIZE(sent_path))
    out = _put(out, PyBytes_AS_STRING(place), PyBytes_GET_SIZE(place))
    key_headers = <tuple?>policy.key_headers
    if key_headers:
        fields = _changed_fields(exchange)
        for name in key_headers:
            out = _put_value(out, text + LONGEST - head.query_at.length - 24, head, fields, name)
            if out is NULL:
                return None
    out[0] = c"/"
    out += 1
    _key_of(&searched, ordinary, text, out - text, _SEARCH)
    if head.query_at.start:
        out = _put_part(out, PyBytes_AS_STRING(head.source) + head.query_at.start, head.query_at.length)
        _key_of(&key, ordinary, text, out - text, _PRIMARY)
    else:
        _complement(&key, ordinary, &searched)
    if not (ordinary.has_no_entry(&key) and ordinary.has_no_entry(&searched)):
        return None
    now = _ticks_of(store.leases)
    at = ordinary.take_lease_of(&key, now, _LEASE_TICKS)
    if at == IN_FLIGHT or at == NOT_ORDINARY:
        return None
    fetch = OrdinaryFetch.__new__(OrdinaryFetch)
    fetch.policy, fetch.store, fetch.ordinary, fetch.forward = policy, store, ordinary, forward
    fetch.head, fetch.peer, fetch.route, fetch.exchange = head, peer, route, exchange
    fetch.scheme, fetch.authority = (<Peer?>peer).scheme, authority
    if b":" in authority:
        fetch.scheme, fetch.authority = purge_origin(head, peer)
    fetch.key = key
    fetch.lease_at, fetch.lease_word = at, ordinary.lease_word
    date_of, clock = store.date, policy.clock
    fetch.began, fetch.date = ordinary.purge_sequence(), _date_of(date_of)
    fetch.request_date = fetch.date if clock is date_of else _date_of(clock)
    fetch.dropped = policy.dropped
    return fetch


@cython.final
@cython.no_gc_clear  # it ends its lease with what it has
cdef class OrdinaryFetch:
    """Implements `exchange.response_taker.ResponseTaker`; see `whole_response.ExchangeFetch`, which takes over."""

    cdef object policy, store, peer, route
    cdef Exchange exchange
    cdef Ordinary ordinary
    cdef Http1RequestHead head
    cdef bytes scheme, authority  # of the URL for purges
    cdef object forward
    cdef readonly object dropped
    cdef Key key
    cdef int64_t lease_at  # negative: no lease, or it has ended here
    cdef uint64_t lease_word, began
    cdef double date, request_date
    cdef object other  # the `ExchangeFetch` that has taken over; None: none has

    def __dealloc__(self):
        if self.lease_at >= 0 and self.ordinary is not None:
            self._end_lease(0)

    cdef int _end_lease(self, uint64_t mark) except -1:
        """End the lease, with a mark for so many ticks."""
        cdef int64_t at = self.lease_at
        cdef uint64_t now = 0
        self.lease_at = NO_SLOT
        if mark:
            now = _ticks_of(self.store.leases)
        self.ordinary.end_lease_at(at, self.lease_word, now, mark)
        return self._report(&self.key)

    cdef int _report(self, const Key* key) except -1:
        """Report a change of a key to all that watch it."""
        if self.ordinary.report_key(key):
            self.store.report(_text_of(key))
        return 0

    cdef object _other(self):
        """Return the fetch that goes on."""
        if self.other is None:
            refused = lease = None
            begun = FetchBegin(self.began, self.date)
            if self.lease_at >= 0:
                lease = SharedLease(
                    self.store, _text_of(&self.key), LeaseCell(self.lease_at, self.lease_word), begun
                )
            else:
                refused = RefusedLease(_REFUSALS[self.lease_at], begun)
            self.lease_at = NO_SLOT
            request = CachedRequest(self.policy, self.exchange, self.forward)
            self.other = ExchangeFetch(request, lease, refused, Forwarded.URI_MISS, self.request_date)
        return self.other

    def take_response(self, head):
        cdef _Outcome outcome = None
        if self.other is None and type(head) is Http1ResponseHead:
            outcome = self._outcome_of(<Http1ResponseHead>head)
        if outcome is None:
            return self._other().take_response(head)
        self.policy.count((<Route?>self.route).name, outcome.detail)
        self.exchange.cache_result = "miss"
        self.exchange.cache_status = outcome.status  # the response step of the filter adds it
        return True

    def take_over(self, exchange):
        return self._other().take_over(exchange)

    cdef _Outcome _outcome_of(self, Http1ResponseHead head):
        """Store the response, or mark that it is not stored. None: this is not an ordinary case, and the lease goes on.
        """
        cdef Encoded encoded
        cdef int identity = 0
        cdef tuple key_headers = <tuple?>self.policy.key_headers
        cdef bint cookies = has_field(self.head, _COOKIE) and not (key_headers and _COOKIE in key_headers)
        if is_authenticated(self.exchange):
            identity = _BY_CONSUMER
        elif has_field(self.head, _AUTHORIZATION) and not (key_headers and _AUTHORIZATION in key_headers):
            identity = _BY_AUTHORIZATION
        found = decide_on(
            head, self.policy._storing, identity, cookies, self.request_date,
            _date_of(self.policy.clock), &encoded,
        )
        if type(found) is tuple:
            return _stored_for(encoded.lifetime - encoded.age) if self._store(head, <tuple>found, &encoded) else None
        if found is None:
            return None
        if self.lease_at >= 0:
            self._end_lease(_MARK_TICKS)
        return _refused_for(found)

    cdef bint _store(self, Http1ResponseHead head, tuple vary, const Encoded* encoded) except -1:
        """Store the response, as `whole_response.take_whole`. `vary`: names of `Vary`. False: it is left to that."""
        cdef NewRecord record
        cdef Key key = self.key
        cdef uint64_t hashes[MOST_HASHES]
        cdef char tag[1 + LONGEST]  # of the URL, as `url_tag`
        cdef Py_ssize_t url_length
        cdef bytes name
        cdef list tags = None
        if self.lease_at < 0 or not head.whole or encoded.has_no_vary_search:
            return False
        for name in <tuple?>self.policy.tag_headers:
            if tags is None and has_field(head, name):
                tags = self.policy.tags_of(head)
                if len(tags) > MOST_TAGS:
                    return False
        url_length = _put_url(tag + 1, self.scheme, self.authority, self.head)
        if (
            url_length < 0
            or encoded.length + url_length + head.payload_length > self.ordinary._segment // RECORDS
            or head.payload_length > <Py_ssize_t>self.store.most_bytes
        ):
            return False
        tag[0] = 0
        hashes[0] = self.ordinary._mix(key.low, key.high)
        hashes[1] = self.ordinary.tag_hash(tag, 1 + url_length)
        record.url, record.url_bytes = tag + 1, url_length
        record.began, record.date = self.began, <uint64_t>(self.date * 1e6)
        record.hashes, record.hash_count, record.status = hashes, 2, _COMPLETE
        for name in tags or ():
            hashes[record.hash_count] = self.ordinary.tag_hash(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            record.hash_count += 1
        record.head, record.head_bytes = encoded.text, encoded.length
        record.whole, record.size = head.payload_at, head.payload_length
        if vary:
            return self._store_variant(&record, hashes, vary, encoded)
        if not self._write(&key, &record):
            return False
        self._end_lease(0)
        return True

    cdef bint _store_variant(self, NewRecord* record, uint64_t* hashes, tuple vary, const Encoded* encoded) except -1:
        """Store a variant, and that it is the only one of its resource. `record`: but for the hash of its key."""
        cdef NewRecord listed = record[0]
        cdef Encoded variants
        cdef Key key
        cdef bytes head = encoded.text[: encoded.length]  # another record is encoded in its place
        if not self._select(vary, &key) or not encode_variant(vary, &key.high, &variants):
            return False
        listed.head, listed.head_bytes = variants.text, variants.length
        listed.hash_count, listed.whole, listed.size = 2, NULL, 0
        if not self._write(&self.key, &listed):
            return False
        self._report(&self.key)
        hashes[record.hash_count] = self.ordinary._mix(key.low, key.high)
        record.hash_count += 1
        record.head = PyBytes_AS_STRING(head)
        if not self._write(&key, record):
            return False
        self._end_lease(0)
        self._report(&key)
        return True

    cdef bint _select(self, tuple vary, Key* key) except -1:
        """Find the key of the variant that the request selects, as `vary.variant_key`. False: it is not ordinary."""
        cdef char text[MOST_VARYING]
        cdef char* out = text
        cdef bytes name
        fields = _changed_fields(self.exchange)
        memcpy(out, &self.key.high, 8)
        memcpy(out + 8, &self.key.low, 8)
        out += 16
        for name in vary:
            if text + MOST_VARYING - out < 64 + PyBytes_GET_SIZE(name):
                return False
            out = _put_part(out, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            out[0] = c"="
            out = _put_value(out + 1, text + MOST_VARYING, self.head, fields, name)
            if out is NULL:
                return False
        _key_of(key, self.ordinary, text, out - text, _VARIANT)
        return True

    cdef bint _write(self, const Key* key, const NewRecord* record) except -1:
        """Write a complete record. False: another process has to be considered, or space to be made."""
        cdef int64_t at
        space = self.store.space
        cdef dict opened = <dict?>space.opened
        at = self.ordinary.write_record(key, record, opened.get(_SMALL, _NO_SEGMENT), opened.get(_MAIN, _NO_SEGMENT))
        if at == NO_SPACE and space.renew(_MAIN if self.ordinary.queue == _MAIN else _SMALL, self.ordinary.total):
            # PERF: a miss that fills a segment takes 540,000 instructions otherwise, and there is one in 25 to
            # 350 (CPython 3.11, callgrind, micro/response_cache).
            at = self.ordinary.write_record(
                key, record, opened.get(_SMALL, _NO_SEGMENT), opened.get(_MAIN, _NO_SEGMENT)
            )
        return at >= 0 and self.ordinary.keep_record(key, at)
