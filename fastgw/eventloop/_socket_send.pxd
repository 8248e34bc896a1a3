# As `socket_send.send`.
cdef int send_message(int fd, bytes message, transport, bint waiting) except -1
