# The types of `direct_subrequest.py`.

cimport cython

from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.route cimport Route
from fastgw.forwarded_headers cimport Peer
from fastgw.http.http1 cimport serializer
from fastgw.upstream.connections.http1_connection cimport UpstreamConnection
from fastgw.upstream.connections.stream cimport ResponseListener
from fastgw.upstream.forwarding.forward_action cimport Forward
from fastgw.upstream.targets.target cimport Target
from fastgw.upstream.upstream cimport Upstream

cdef double inf


cdef class DirectSubrequest


@cython.final
cdef class RequestPlan:
    cdef public bytes _begin
    cdef public bytes _end
    cdef public bint _sized
    cdef public bytes _via
    cdef public bint allowed
    cdef public Forward forward
    cdef public bytes method

    cpdef bytes render(self, DirectSubrequest sent, Target target)


cdef class DirectSubrequest(ResponseListener):
    cdef public object _fields
    cdef public object _head
    cdef public object _listener
    cdef public object _parent
    cdef public RequestPlan _plan
    cdef public object _record
    cdef public object _sent
    cdef public object _siblings
    cdef public object _stream
    cdef public object authority
    cdef public object begun_at
    cdef public object body
    cdef public object client_ip
    cdef public object consumer
    cdef public object peer
    cdef public object sent_target
    cdef public object target
    cdef public object upstream
    cdef public object upstream_s


cpdef send_direct(Exchange parent, RequestPlan plan, listener, bytes target, fields, bytes body, int most)
