# The types of `route.py`.

cimport cython

from fastgw.exchange.action cimport Action
from fastgw.exchange.chain cimport Chain
from fastgw.http.http1.parser cimport is_path_as_sent


@cython.final
cdef class StepPlan:
    cdef public bint checks_path
    cdef public tuple step_headers
    cdef public tuple pass_tests
    cdef public object sent_fields
    cdef public object refuse

    cpdef bint lets_pass(self, head) except -1


# PERF: with 10,000 routes the next one is not in a near cache. What is read first comes first, in the cache line of the
# reference count; with that, and with equal parts shared (`StepPlan`, `Forward`), one line is fetched instead of 5.5
# (simulated for 1 MiB by valgrind, CPython 3.11, micro/routes).
@cython.final
cdef class Route:
    cdef public StepPlan plan
    cdef public object name
    cdef public Action action
    cdef public Chain chain
    cdef public object check_path
    cdef public object division
    cdef public object fallback
    cdef public object filter_timeout
    cdef public object forwards_preflight
    cdef public object preflight_chain
    cdef public object steps
    cdef public object takes_options
