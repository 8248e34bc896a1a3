cpdef parse_status(bytes value)
cpdef str status_name(bytes value)
cpdef tuple check_status(values)
cpdef tuple check_trailers(tuple trailers)
