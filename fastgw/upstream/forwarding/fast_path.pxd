# The types of `fast_path.py`.

cimport cython

from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.ready_answer cimport ReadyAnswer
from fastgw.exchange.route cimport FastPathPlan, Route
from fastgw.forwarded_headers cimport Peer
from fastgw.http.grpc.status cimport check_trailers, parse_status
from fastgw.http.http1 cimport serializer
from fastgw.http.http1.parser cimport Http1RequestHead, Http1ResponseHead, has_field
from fastgw.upstream.connections.http1_connection cimport UpstreamConnection
from fastgw.upstream.forwarding.forward_action cimport Forward
from fastgw.upstream.targets.target cimport Target
from fastgw.upstream.upstream cimport Upstream

cdef double inf


@cython.final
cdef class FastPath:
    cdef public object _attempt
    cdef public Exchange _exchange
    cdef public object _fetch
    cdef public object _params
    cdef public object _stream
    cdef public object begun_at
    cdef public object cache_result
    cdef public double call_due_at
    cdef public object client
    cdef public object client_ip
    cdef public object consumer
    cdef public object fault
    cdef public object grpc_status
    cdef public object head
    cdef public object listener
    cdef public Peer peer
    cdef public object request_body
    cdef public object request_bytes
    cdef public object request_id
    cdef public object response
    cdef public object response_bytes
    cdef public object retries
    cdef public object route
    cdef public object scheme
    cdef public object shadowed
    cdef public object subrequests
    cdef public object target
    cdef public object trace
    cdef public object upstream
    cdef public object upstream_s
    cdef public object why

    cpdef send_request(self, Http1RequestHead head, Route route, params)
    cpdef send_exchange(self, Exchange exchange, Route route)
    cpdef bint begin_fetch(self, Http1RequestHead head, Route route, params, FastPathPlan plan) except -1
    cpdef bytes begin_ready(self, Http1RequestHead head, Route route, ReadyAnswer answer)
    cpdef forget(self)
    cdef bytes _begin_own(self, Http1RequestHead head, Route route, response, Py_ssize_t received, Py_ssize_t sent)
    cdef bint _lend(self, Forward forward, Upstream upstream, Target target, Http1RequestHead head) except -1
    cdef tuple _forwarding_headers(self, asked, Forward forward, Http1RequestHead head, frozenset dropped)
    cdef _send(
        self, Forward forward, Target target, asked, Http1RequestHead head, bytes query, frozenset drop, bytes added,
        bytes payload, bytes request_id
    )
    cdef _answer_client(self, Http1ResponseHead head, Forward forward, fields, bytes added)
    cdef _fields_for(self, FastPathPlan plan)
