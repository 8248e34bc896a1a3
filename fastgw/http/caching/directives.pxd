# The types of `directives.py`.

cimport cython

from fastgw.http.messages cimport first_of, values_of

cdef dict _parsed


@cython.final
cdef class RequestDirectives:
    cdef readonly bint no_cache
    cdef readonly bint no_store
    cdef readonly bint only_if_cached
    cdef readonly object max_age
    cdef readonly object min_fresh
    cdef readonly object max_stale
    cdef readonly object stale_if_error


@cython.final
cdef class ResponseDirectives:
    cdef readonly object max_age
    cdef readonly object s_maxage
    cdef readonly object stale_while_revalidate
    cdef readonly object stale_if_error
    cdef readonly bint no_store
    cdef readonly bint no_cache
    cdef readonly bint private
    cdef readonly bint public
    cdef readonly bint must_revalidate
    cdef readonly bint proxy_revalidate
    cdef readonly bint must_understand
    cdef readonly tuple no_cache_fields
    cdef readonly bint targeted


cpdef RequestDirectives parse_request(head)
cpdef ResponseDirectives parse_response(head, targets=*)
