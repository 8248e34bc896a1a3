# The types of `request_pipeline.py`.

from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.route cimport Route, StepPlan
from fastgw.http.http1.parser cimport is_ordinary
from fastgw.pipeline.route_selection cimport choose

cpdef begin_request(stream, Exchange exchange, router)
cdef _find_route(stream, Exchange exchange, router, match=*)
