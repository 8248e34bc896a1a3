cpdef bint is_grpc(head) except -1
cpdef timeout_of(head)
cpdef timeout_of_call(head)
