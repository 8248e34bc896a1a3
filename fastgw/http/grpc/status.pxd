cpdef parse_status(bytes value)
cpdef tuple check_trailers(tuple trailers)
