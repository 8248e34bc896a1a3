# The types of `route.py`.

cimport cython

from fastgw.exchange.action cimport Action
from fastgw.exchange.chain cimport Chain


# PERF: with 10,000 routes the next one is not in a near cache. What is read first comes first, in the cache line of the
# reference count; with that, and with equal parts shared (`Forward`), one line is fetched instead of 5.5
# (simulated for 1 MiB by valgrind, CPython 3.11, micro/routes).
@cython.final
cdef class Route:
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
    cdef object _rest_of_the_line  # so that the next one begins in a line of its own
