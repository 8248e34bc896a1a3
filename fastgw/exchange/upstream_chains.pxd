# The types of `upstream_chains.py`.

from fastgw.exchange.chain cimport Chain


cdef class UpstreamChains:
    cdef public dict own
    cdef public Chain shared

    cpdef Chain chain_of(self, str upstream)
