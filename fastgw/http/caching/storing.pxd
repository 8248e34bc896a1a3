# The types of `storing.py`.

cimport cython

from fastgw.http.caching.directives cimport RequestDirectives, ResponseDirectives, parse_response
from fastgw.http.caching.freshness cimport (
    find_heuristic_lifetime, find_lifetime, initial_age, may_have_default, parse_age
)
from fastgw.http.caching.vary cimport find_varying
from fastgw.http.dates cimport parse_date
from fastgw.http.messages cimport first_of, values_of
from fastgw.http.http1.serializer cimport end_to_end
from fastgw.http.preconditions cimport is_entity_tag


@cython.final
cdef class StorePolicy:
    cdef readonly object ttl
    cdef readonly object ttl_by_status
    cdef readonly object override_ttl
    cdef readonly long long stale_while_revalidate
    cdef readonly long long stale_if_error
    cdef readonly long long stale_when_unreachable
    cdef readonly bint store_set_cookie
    cdef readonly bint identity_in_key
    cdef readonly bint cookies_in_key
    cdef readonly object content_types
    cdef readonly object storage_ttl
    cdef readonly bint ignores_cache_control
    cdef readonly tuple targets


@cython.final
cdef class Times:
    cdef readonly double request_date
    cdef readonly double response_date


cpdef decide_storing(
    request, RequestDirectives directives, response, StorePolicy policy, Times times, bint authenticated=*, bint authorized=*, bint body_in_key=*
)
cpdef tuple find_identity(request, StorePolicy policy, bint authenticated, bint authorized)
cpdef decide_storing_for(identity, bint cookies, response, StorePolicy policy, Times times)
cpdef ResponseDirectives stated_by(response, StorePolicy policy)
cpdef stated_lifetime(response, ResponseDirectives stated, StorePolicy policy, Times times)
cpdef find_etag(response)
cpdef find_last_modified(response, double now)
cdef _find_prohibition(response, ResponseDirectives stated, identity)
cdef long long _extend(stated, long long configured, bint never, bint only_stated) except -1
cdef bytes _only(values)
