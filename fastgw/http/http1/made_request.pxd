# The types of `made_request.py`.

from fastgw.http.http1.parser cimport Http1RequestHead, make_request

cpdef bytes field_lines(fields)
cpdef bytes framing_line(bytes method, body_length)
