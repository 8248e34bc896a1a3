# The types of `steps.py`.

cimport cython

from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.reply cimport Response
from fastgw.filters.policies.cache.cached_request cimport CachedRequest
from fastgw.filters.policies.cache.policy cimport CachePolicy, purge_url, whole_query_of
from fastgw.filters.policies.cache.ready_answers cimport ReadyAnswers
from fastgw.http.messages cimport first_of
from fastgw.http.http1.sought_names cimport SoughtNames
from fastgw.upstream.forwarding.forward_action cimport Forward

cdef SoughtNames _FOR_ORIGIN


@cython.final
cdef class CacheSteps:
    cdef public object announce
    cdef Py_ssize_t _body_bytes
    cdef object _may_purge
    cdef CachePolicy _policy

    cdef bint _is_past(self, Exchange exchange, forward) except -1
