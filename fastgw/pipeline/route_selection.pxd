# The types of `route_selection.py`.

from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.route cimport Route

cpdef choose(Exchange exchange, router, match=*)
