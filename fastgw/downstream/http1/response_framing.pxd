from fastgw.exchange.exchange cimport Exchange

from fastgw.exchange.reply cimport Response
from fastgw.http.http1.parser cimport Http1ResponseHead

# The ending, and the length.
cpdef (int, long long) framing_of(Exchange exchange, Response response, bytes payload, bint ended)
