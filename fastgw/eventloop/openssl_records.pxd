cpdef tuple decrypt(session, incoming, sealed, buffer)
cpdef Py_ssize_t pending_in(memory) except -1
cpdef bytes encrypt(session, outgoing, bytes message)
