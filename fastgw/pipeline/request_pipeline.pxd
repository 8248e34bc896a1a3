# The types of `request_pipeline.py`.

from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport ClientSide, Exchange
from fastgw.exchange.ready_answer cimport ReadyAnswer
from fastgw.exchange.route cimport Route
from fastgw.pipeline.route_selection cimport choose
from fastgw.routing.route_tree cimport Finder, match_of


cdef class RequestStream(ClientSide):
    cdef public object waiting

    cpdef send_ready(self, Exchange exchange, ReadyAnswer answer)


cpdef begin_request(RequestStream stream, Exchange exchange, Finder router)
cdef _find_route(RequestStream stream, Exchange exchange, Finder router, match=*)
