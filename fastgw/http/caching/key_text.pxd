cpdef bytes joined_parts(parts, bytes end=*)
