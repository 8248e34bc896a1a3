# The types of `forward_action.py`.

from fastgw.exchange.body_relay cimport Relay
from fastgw.exchange.exchange cimport Exchange
from fastgw.http.grpc.calls cimport is_grpc, timeout_of
from fastgw.upstream.forwarding.forwarded_request cimport ForwardedRequest
from fastgw.upstream.forwarding.forwarding cimport Forwarding, new_forwarding
from fastgw.upstream.targets.target cimport Target
from fastgw.upstream.upstream cimport Upstream

cdef double inf


cdef class Forward(ForwardedRequest):
    cpdef begin(self, Exchange exchange)
    cdef _send(self, Exchange exchange)
