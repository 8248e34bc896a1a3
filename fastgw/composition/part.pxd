# The types of `part.py`.

cimport cython

from fastgw.composition.templates cimport TargetTemplate
from fastgw.exchange.exchange cimport Exchange
from fastgw.upstream.forwarding.forward_action cimport Forward
from fastgw.upstream.upstream cimport Upstream


@cython.final
cdef class CompiledPart:
    cdef public object _body
    cdef public tuple _fields
    cdef public bytes _fixed_lines
    cdef public tuple _headers
    cdef public bint _is_plain
    cdef public bytes _list_begin
    cdef public object _own_parameters
    cdef public object _query
    cdef public tuple _variables
    cdef public tuple after
    cdef public int cost
    cdef public bytes default
    cdef public bytes encoded_rules
    cdef public str error_name
    cdef public tuple followers
    cdef public Forward forward
    cdef public bytes group_begin
    cdef public int index
    cdef public tuple item_paths
    cdef public object list_at
    cdef public bytes method
    cdef public str name
    cdef public object rules
    cdef public object settings
    cdef public object shape
    cdef public tuple sources
    cdef public TargetTemplate target
    cdef public Upstream upstream

    cpdef tuple request(self, answers, bytes client_body)
    cpdef bytes grouped(self, bytes content)


@cython.final
cdef class SentRequest:
    cdef public Exchange _exchange
    cdef public bytes method

    cpdef list values(self, bytes name)
