# The types of `answers.py`.

cpdef use_body(rules, shape, bytes body)
cdef bytes _checked(rules, bytes body)
