# The types of `ready_answers.py`.

cimport cython

from fastgw.cache.shared.shared_store cimport SharedStore
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.reply cimport Response
from fastgw.exchange.ready_answer cimport ReadyAnswer
from fastgw.exchange.route cimport Route
from fastgw.forwarded_headers cimport Peer
from fastgw.exchange.sent_fields cimport fields_for_request
from fastgw.filters.policies.cache.forwarded_fields cimport ForwardedFields
from fastgw.http.messages cimport RequestHead
from fastgw.http.http1.sought_names cimport SoughtNames
from fastgw.upstream.forwarding.forward_action cimport Forward


@cython.final
cdef class _Entry:
    cdef public ReadyAnswer answer
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
cdef class Selector:
    cdef public tuple names
    cdef public object stamp
    cdef public Py_ssize_t weight


@cython.final
cdef class ReadyMemory:
    cdef public Py_ssize_t _bytes
    cdef public dict _entries
    cdef public object _numbers
    cdef public object get


@cython.final
cdef class ReadyAnswers:
    cdef public SharedStore store
    cdef bint _by_consumer
    cdef object _clock
    cdef tuple _key_headers
    cdef ReadyMemory _memory
    cdef object _number
    cdef SoughtNames _special

    cpdef bint needs_policy(self, RequestHead head, Peer peer) except -1
    cpdef find(self, RequestHead head, Peer peer, Route route)
    cpdef bint answer(self, Exchange exchange, Forward forward) except -1
    cdef _Entry _selected(self, tuple key, found, fields)
    cdef bint _applies(self, Exchange exchange, Forward forward) except -1
    cdef tuple _key(self, Exchange exchange, fields)


cdef answer_form(Chain chain, fields)
