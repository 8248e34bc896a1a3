# As `socket_send.send`.
cdef int send_message(int fd, bytes message, transport, bint waiting) except -1

# As `socket_send.send_parts`.
cdef int send_two(int fd, bytes head, bytes body, transport, bint waiting) except -1
