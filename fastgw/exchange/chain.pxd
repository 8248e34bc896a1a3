# The types of the fields of `chain.py`.

cimport cython

from fastgw.exchange.request_ids cimport RequestIds


@cython.final
cdef class Chain:
    cdef public object allows_fetch
    cdef public object body_heads
    cdef public object calls_only
    cdef public object drops_ranges
    cdef public object error_pages
    cdef public object finish_steps
    cdef public object line_steps
    cdef public object links
    cdef public object logged_at
    cdef public object maps
    cdef public object number
    cdef public object of_calls
    cdef public object of_copies
    cdef public object preflight
    cdef public object ready_answer
    cdef public object removed_codings
    cdef public object renew_steps
    cdef public object reply_steps
    cdef public object request_body_hooks
    cdef public RequestIds request_ids
    cdef public object request_steps
    cdef public object response_body_hooks
    cdef public object response_fields
    cdef public object response_steps
    cdef public object sent_settings
    cdef public object sign_steps
    cdef public object takes_literally
    cdef public object trailer_steps
    cdef public object translate_steps
    cdef public object treats_bodies
    cdef public object treats_responses
    cdef public object tunnel_steps
    cdef public object variant
    cdef public object whole_check
    cdef public object whole_hook
