# The types of `cached_request.py`.

cimport cython

from fastgw.cache.shared.lifecycle cimport SharedLease
from fastgw.cache.shared.shared_store cimport SharedStore
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.route cimport Route
from fastgw.filters.policies.cache.forwarded_fields cimport ForwardedFields
from fastgw.filters.policies.cache.policy cimport CachePolicy, dropped_for, is_authenticated, purge_url
from fastgw.http.caching.cache_status cimport forwarded_status
from fastgw.http.caching.directives cimport RequestDirectives, parse_request
from fastgw.http.caching.freshness cimport corrected_age
from fastgw.http.caching.key_text cimport swapped_key
from fastgw.http.caching.keys cimport primary_key, search_key
from fastgw.http.caching.storing cimport Times, decide_storing, find_identity
from fastgw.http.caching.vary cimport variant_key
from fastgw.http.messages cimport ResponseHead, has_field, payload_of
from fastgw.http.http1.sought_names cimport SoughtNames
from fastgw.sync.cache_purges cimport url_tag
from fastgw.upstream.forwarding.forward_action cimport Forward

cdef SoughtNames _CONDITIONS


@cython.final
cdef class CachedRequest:
    cdef readonly bytes body
    cdef readonly RequestDirectives directives
    cdef readonly object dropped
    cdef readonly bytes exact
    cdef readonly Exchange exchange
    cdef readonly ForwardedFields fields
    cdef readonly object forward
    cdef readonly bytes key
    cdef readonly CachePolicy policy
    cdef readonly bytes primary
    cdef readonly bytes query
    cdef readonly object rule
    cdef readonly object variants
    cdef object _forwarded_why  # of the request that is forwarded as it is
    cdef bint _has_waited
    cdef bint _is_recalled_again
    cdef bint _is_recalling
    cdef SharedLease _lease
    cdef object _recalled  # keys that slower tiers were asked for
    cdef object _record  # of the stored response that was found
    cdef object _refused
    cdef double _request_date
    cdef bytes _resource
    cdef bytes _rule_key
    cdef object _timer
    cdef object _variants_stamp  # of the list of variants
    cdef object _watch
    cdef bytes _watched
    cdef object _why  # why the first look-up has not found an answer

    cpdef bint answer(self) except -1
    cdef bint _use(self, found, record) except -1
    cdef _find(self)
    cdef bytes _find_rule_key(self)
    cdef _find_equivalent(self)
    cdef bint _fetch_or_wait(self, why, found, record) except -1
    cdef _fetch(self, lease, why, found, record)
    cdef bint _is_sent_as_asked(self) except -1
    cdef bint _recall(self) except -1
    cdef _stop_waiting(self)
    cdef _store(self, SharedLease lease, ResponseHead head, bytes payload, judged)
