from fastgw.exchange.exchange cimport Exchange

from fastgw.exchange.reply cimport Response
from fastgw.http.messages cimport ResponseHead

# The ending, and the length.
cpdef (int, long long) framing_of(Exchange exchange, Response response, bytes payload, bint ended)
