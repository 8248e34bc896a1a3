from fastgw.http.messages cimport RequestHead

cpdef take_answer(buffer, Py_ssize_t length, bytes request_method, int max_fields=*)
# The beginning of the body of a head that `take_request` returned. None: all of it was received, or nothing.
cpdef bytes take_begun(RequestHead head)
cpdef RequestHead make_request(bytes method, bytes target, bytes authority, bytes lines)
cpdef take_request(buffer, Py_ssize_t length, Py_ssize_t max_bytes, int max_fields)
