# The types of `policy.py`.

cimport cython

from fastgw.cache.shared.shared_store cimport SharedStore
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.route cimport Route
from fastgw.filters.policies.cache.ready_answers cimport ReadyAnswers
from fastgw.forwarded_headers cimport Peer, client_authority, client_scheme
from fastgw.http.caching.keys cimport filter_query, resource_text
from fastgw.http.caching.storing cimport StorePolicy
from fastgw.http.caching.vary cimport normalized_value
from fastgw.http.messages cimport values_of
from fastgw.upstream.forwarding.forward_action cimport Forward
from fastgw.upstream.upstream cimport Upstream


@cython.final
cdef class CachePolicy:
    cdef StorePolicy _storing
    cdef StorePolicy _storing_apart
    cdef public bint by_consumer
    cdef public object bypass_header
    cdef public object clock
    cdef public object count
    cdef public object dropped
    cdef public bint has_store
    cdef public tuple key_cookies
    cdef public tuple key_headers
    cdef public bytes key_names
    cdef public object lock_timeout
    cdef public object max_variants
    cdef public object methods
    cdef public object query_rule
    cdef public ReadyAnswers ready
    cdef public object storage_ttl
    cdef public SharedStore store
    cdef public object store_name
    cdef public tuple tag_headers
    cdef public object worker_loop

    cpdef StorePolicy storing_of(self, consumer, bint is_authenticated)
    cpdef count_miss(self, str route, detail)
    cpdef tags_of(self, head)
    cpdef bytes query_of(self, Exchange exchange)
    cpdef bytes resource_of(self, Exchange request, fields, forward)


cpdef bytes route_part(Route route)
cpdef bint is_authenticated(Exchange exchange) except -1
cpdef str name_of(forward)
cpdef dropped_for(CachePolicy policy, Exchange exchange, bint with_conditions=*, bint with_body=*)
cpdef bytes purge_url(Exchange exchange, bytes query)
cpdef bytes whole_query_of(Exchange exchange)
cdef bint _has_port(bytes authority) except -1
cdef int _COLON
