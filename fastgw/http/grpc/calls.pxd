# The types of `calls.py`.

from fastgw.http.http1.parser cimport first_of

cpdef bint is_grpc(head) except -1
cpdef timeout_of(head)
cpdef timeout_of_call(head)
