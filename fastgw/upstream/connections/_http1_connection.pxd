# Each does what the method of a pool or a stream does, whatever its class is; a call for those of the compiled methods.
cdef int give_back_to(pool, connection) except -1
cdef object lend_from(pool, target, double idle_at_most)
cdef int send_on(stream, listener, bytes request, method) except -1
cdef int release_stream(stream) except -1
