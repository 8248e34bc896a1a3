# The types of `freshness.py`.

from fastgw.http.messages cimport first_of, values_of

cdef Py_ssize_t MOST_REMEMBERED_BYTES


cpdef tuple cache_fields(answers, double now)
