# The types of `plan.py`.

from fastgw.exchange.exchange cimport Exchange
from fastgw.upstream.client.response_action cimport ResponseAction


cdef class CompositionPlan(ResponseAction):
    cdef public bint _are_apart
    cdef public bytes _digest
    cdef public bint passes_through
    cdef public bytes _static
    cdef public bytes completed_name
    cdef public tuple first
    cdef public object flatmap
    cdef public object form
    cdef public dict indexes
    cdef public bint is_negotiated
    cdef public Py_ssize_t most_bytes
    cdef public int most_requests
    cdef public Py_ssize_t most_xml
    cdef public tuple parts
    cdef public frozenset replaced_names
    cdef public object settings
    cdef public bint takes_body
    cdef public double timeout

    cpdef form_for(self, Exchange exchange)
    cpdef cost_of(self, form)
    cpdef bytes static_for(self, bint complete)
    cpdef write(self, contents, bytes static, form, bint complete, Py_ssize_t most)
