# The types of `freshness.py`.

from fastgw.http.caching.directives cimport ResponseDirectives
from fastgw.http.dates cimport parse_date
from fastgw.http.messages cimport first_of, values_of

cpdef parse_age(head)
cpdef corrected_age(head)
cpdef find_initial_age(head, double request_date, double response_date)
cpdef initial_age(long long stated, generated, double request_date, double response_date)
cpdef find_lifetime(head, ResponseDirectives directives, double response_date)
cpdef bint may_have_default(int status, ResponseDirectives directives) except -1
cdef _find_date(head, bytes name, double now)
cpdef find_heuristic_lifetime(head, ResponseDirectives directives, double response_date)
