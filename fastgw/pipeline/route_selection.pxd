# The types of `route_selection.py`.

from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.route cimport Route
from fastgw.http.http1.parser cimport is_plain

cpdef choose(Exchange exchange, router, match=*)
