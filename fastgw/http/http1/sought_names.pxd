from fastgw.http.messages cimport RequestHead

cpdef bint has_any_of(tuple names, RequestHead head) except -1
