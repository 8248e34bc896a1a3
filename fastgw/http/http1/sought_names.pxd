cpdef bint has_any_of(tuple names, head) except -1
