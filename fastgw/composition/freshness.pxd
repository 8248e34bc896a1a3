# The types of `freshness.py`.

from fastgw.http.preconditions cimport joined

cdef Py_ssize_t MOST_REMEMBERED_BYTES


cpdef tuple cache_fields(answers, double now)
