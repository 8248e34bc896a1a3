# The types of `forwarded_request.py`.

from fastgw.exchange.action cimport Action
from fastgw.exchange.body_relay cimport Relay
from fastgw.exchange.exchange cimport Exchange
from fastgw.forwarded_headers cimport Peer
from fastgw.http.http1 cimport serializer
from fastgw.http.messages cimport RequestHead
from fastgw.upstream.targets.target cimport Target
from fastgw.upstream.upstream cimport Upstream

cdef double inf


cdef class ForwardedRequest(Action):
    cdef public object _cut
    cdef public frozenset _deadline_dropped
    cdef public object _folder
    cdef public object _host_header
    cdef public tuple _joined
    cdef public object _unrewritten
    cdef public bint checks_path
    cdef public object deadline_name
    cdef public object forwarded
    cdef public bint grpc
    cdef public object how
    cdef public bint keeps_path
    cdef public frozenset marks
    cdef public bytes own_line
    cdef public object own_timeouts
    cdef public object own_urls
    cdef public object path_of
    cdef public object retries
    cdef public bint any_method
    cdef public Py_ssize_t body_bytes
    cdef public double per_try
    cdef public object retried_statuses
    cdef public object rules
    cdef public object stripped
    cdef public double timeout
    cdef public object timeouts
    cdef public double total_timeout
    cdef public object upgrade
    cdef public Upstream upstream
    cdef public bint writes_forwarded

    cpdef bytes request(
        self, Exchange exchange, Target target, left=*, bytes payload=*, double call_left=*, bytes span_id=*
    )
    cpdef joined(self, frozenset drop, frozenset dropped)
    cpdef tuple forwarding_headers(self, asked, Peer peer, RequestHead head, frozenset dropped)
    cpdef bytes sent_target(self, asked, Target target, bytes query=*)
    cpdef bytes host_header(self, Target target, RequestHead head)
    cpdef tuple asked_upgrade(self, Exchange exchange)
    cpdef bytes _special_lines(self, Exchange exchange)
