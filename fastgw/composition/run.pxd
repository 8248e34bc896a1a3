# The types of `run.py`.

cimport cython

from fastgw.composition.answers cimport PartAnswer, use_body
from fastgw.composition.freshness cimport cache_fields
from fastgw.composition.part cimport CompiledPart, SentRequest
from fastgw.composition.plan cimport CompositionPlan
from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.exchange.body_relay cimport whole_body
from fastgw.exchange.exchange cimport Exchange
from fastgw.http.preconditions cimport evaluate
from fastgw.upstream.client.response_action cimport is_for_cache
from fastgw.upstream.client.subrequest cimport Subrequest, WholeListener, send_lines
from fastgw.upstream.upstream cimport Upstream

cdef double inf
cdef Py_ssize_t MAX_KEPT, MOST_AT_ONCE


cdef class _PartState:
    cdef public list answers
    cdef public bytes content
    cdef public PartAnswer failure
    cdef public int in_flight
    cdef public list items
    cdef public int left
    cdef public int next
    cdef public bytes received
    cdef public bint settled
    cdef public dict values
    cdef public int waits


cdef class ComposeRun


cdef class PartCall(WholeListener):
    cdef public object _head
    cdef public list _pieces
    cdef public ComposeRun _run
    cdef public Subrequest _sent
    cdef public Py_ssize_t _size
    cdef public Py_ssize_t index
    cdef public CompiledPart part

    cdef send(self, Exchange exchange, tuple request, double timeout, int most_requests)
    cpdef on_whole(self, head, bytes body)
    cdef _finish(self, PartAnswer answer)
    cdef bint _takes(self, Py_ssize_t size) except -1


cdef class ComposeRun(Timed):
    cdef public CompositionPlan _action
    cdef public object _body
    cdef public set _calls
    cdef public bytes _client_body
    cdef public bint _draining
    cdef public double _due_at
    cdef public Exchange _exchange
    cdef public list _heads
    cdef public Py_ssize_t _held
    cdef Py_ssize_t most_bytes
    cdef public list _ready
    cdef public list _states
    cdef public Py_ssize_t _taken
    cdef public set _tasks
    cdef public int _unsettled
    cdef public Upstream _upstream

    cpdef bint take_memory(self, Py_ssize_t size) except -1
    cpdef answered(self, PartCall call, PartAnswer answer)
    cpdef cancel(self)
    cpdef _start_part(self, CompiledPart part)
    cpdef _send_more(self, CompiledPart part)
    cdef _send(self, CompiledPart part, _PartState state, Py_ssize_t index)
    cpdef _take(self, PartCall call, PartAnswer answer)
    cdef _use(self, PartCall call, PartAnswer answer)
    cpdef _used(self, PartCall call, PartAnswer answer, used)
    cpdef _note(self, PartCall call, PartAnswer answer, used)
    cdef _settle(self, CompiledPart part, _PartState state)
    cpdef _merge(self)
    cdef dict _failures(self)
    cdef _drain(self, PartCall call=?, PartAnswer answer=?)


@cython.final
cdef class _Values:
    cdef public Exchange exchange
    cdef public object _item
    cdef public ComposeRun _run
