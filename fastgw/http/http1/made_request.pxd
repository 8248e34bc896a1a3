# The types of `made_request.py`.

from fastgw.http.http1.parser cimport make_request
from fastgw.http.messages cimport RequestHead

cpdef bytes field_lines(fields)
cpdef bytes framing_line(bytes method, body_length)
