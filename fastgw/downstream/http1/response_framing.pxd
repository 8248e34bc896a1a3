from fastgw.exchange.exchange cimport Exchange

from fastgw.exchange.reply cimport Response
from fastgw.http.http1.parser cimport Http1ResponseHead

cpdef tuple framing_of(Exchange exchange, Response response, bytes payload, bint ended)
