# `send`, for C.
cdef int send_message(int fd, bytes message, transport, bint waiting) except -1

# `send_parts`, for C.
cdef int send_two(int fd, bytes head, bytes body, transport, bint waiting) except -1
