from libc.stdint cimport int32_t

# Methods of `Session`, of a session that is one.
cdef list feed(session, received, Py_ssize_t length, double now)
cdef list take_events(session)
cdef int respond(session, int32_t stream, bytes message, bytes trailers) except -1
cdef bytes send_on(session, int fd)
cdef int state_of(session) except -1
