# The types of `call.py`.

from fastgw.composition.part cimport CompiledPart
from fastgw.eventloop.timer_wheel cimport Timed
from fastgw.exchange.body_relay cimport whole_body
from fastgw.exchange.exchange cimport Exchange
from fastgw.upstream.client.subrequest cimport Subrequest, WholeListener, send_lines


cdef class PartAnswer:
    cdef public bytes body
    cdef public object fault
    cdef public object head
    cdef public int status
    cdef public str why


cdef class PartCall


cdef class PartCalls(Timed):
    cdef public Py_ssize_t most_bytes

    cpdef bint take_memory(self, Py_ssize_t size) except -1
    cpdef answered(self, PartCall call, PartAnswer answer)


cdef class PartCall(WholeListener):
    cdef public object _head
    cdef public list _pieces
    cdef public PartCalls _run
    cdef public Subrequest _sent
    cdef public Py_ssize_t _size
    cdef public Py_ssize_t index
    cdef public CompiledPart part

    cpdef send(self, Exchange exchange, tuple request, double timeout, int most_requests)
    cpdef on_whole(self, head, bytes body)
    cdef _finish(self, PartAnswer answer)
    cdef bint _takes(self, Py_ssize_t size) except -1
