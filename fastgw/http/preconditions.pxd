# The types of `preconditions.py`.

cdef int _QUOTE

cpdef evaluate(request, validators, double now)
cpdef bint is_not_modified(request, validators, double now) except -1
cpdef bint matches_weakly(bytes value, bytes etag) except -1
cpdef bint is_weakly_equal(bytes one, bytes other) except -1
cpdef bytes joined(head, bytes name)
cpdef bint is_entity_tag(bytes value) except -1
