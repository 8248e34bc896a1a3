# The types of `ready_answers.py`.

cimport cython

from fastgw.cache.shared.shared_store cimport SharedStore
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.ready_answer cimport ReadyAnswer
from fastgw.exchange.route cimport Route
from fastgw.forwarded_headers cimport Peer
from fastgw.exchange.sent_fields cimport fields_for_request
from fastgw.http.messages cimport RequestHead
from fastgw.http.http1.sought_names cimport has_any_of


@cython.final
cdef class _Entry:
    cdef public ReadyAnswer answer
    cdef public bytes body
    cdef public double born_date
    cdef public bytes head
    cdef public long long lifetime
    cdef public long long second
    cdef public object stamp


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
    cdef public object _clock
    cdef public tuple _key_headers
    cdef public ReadyMemory _memory
    cdef public object _number
    cdef public tuple _special
    cdef public SharedStore store

    cpdef bint needs_policy(self, RequestHead head, Peer peer) except -1
    cpdef find(self, RequestHead head, Peer peer, Route route)


cdef answer_form(Chain chain, fields)
