cpdef int send(int fd, bytes message, transport, bint waiting) except -1
cpdef int send_parts(int fd, bytes head, bytes body, transport, bint waiting) except -1
cpdef Py_ssize_t send_at_once(int fd, bytes message) except -1
