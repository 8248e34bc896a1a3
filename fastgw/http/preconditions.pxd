# The types of `preconditions.py`.

cpdef evaluate(request, validators, double now)
cpdef bint is_not_modified(request, validators, double now) except -1
cpdef bint matches_weakly(bytes value, bytes etag) except -1
cpdef bint is_weakly_equal(bytes one, bytes other) except -1
cpdef bytes joined(head, bytes name)
