from fastgw.http.http1.parser cimport Http1RequestHead

cpdef bint has_any_of(tuple names, Http1RequestHead head) except -1
