cpdef bytes joined_parts(parts, bytes end=*)
cpdef bytes swapped_key(bytes key)
