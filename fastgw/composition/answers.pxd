# The types of `answers.py`.

cdef class PartAnswer:
    cdef public bytes body
    cdef public object fault
    cdef public object head
    cdef public int status
    cdef public str why


cpdef use_body(rules, shape, bytes body)
cdef bytes _checked(rules, bytes body)
