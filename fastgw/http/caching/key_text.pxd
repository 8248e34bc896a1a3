cpdef bytes joined_parts(parts, bytes end=*)
cpdef bytes digest_of(bytes text, bytes person)
cpdef bytes complement_of(bytes digest)
