# The types of `ready_hits.py`.

cimport cython

from fastgw.cache.shared.shared_store cimport SharedStore
from fastgw.exchange.exchange cimport Exchange
from fastgw.filters.policies.cache.ready_answers cimport ReadyAnswers, ReadyMemory, Selector
from fastgw.upstream.forwarding.forward_action cimport Forward


@cython.final
cdef class _Hit:
    cdef public bytes body
    cdef public double born_date
    cdef public bytes head
    cdef public long long lifetime
    cdef public bytes lines
    cdef public long long second
    cdef public object stamp
    cdef public bytes status
    cdef public Py_ssize_t weight


@cython.final
cdef class ReadyHits:
    cdef public SharedStore store
    cdef ReadyMemory _memory
    cdef long long _number
    cdef ReadyAnswers _answers
    cdef tuple _key_headers
    cdef bint _by_consumer
    cdef object _clock

    cpdef bint answer(self, Exchange exchange, Forward forward) except -1
    cdef bint _applies(self, Exchange exchange, Forward forward) except -1
    cdef tuple _key(self, Exchange exchange, fields)
