from fastgw.exchange.exchange cimport Exchange

cpdef tuple framing_of(Exchange exchange, response, bytes payload, bint ended)
