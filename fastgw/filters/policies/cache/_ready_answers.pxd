from fastgw.http.http1.parser cimport Http1RequestHead


# Whether a request was received with a header of one of these names, which are in lower case.
cdef bint has_any_of(tuple names, Http1RequestHead head) except -1
