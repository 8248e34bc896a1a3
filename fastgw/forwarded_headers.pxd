# The types of the fields of `forwarded_headers.py`.

cimport cython


cdef class Peer:
    cdef public bytes _authority
    cdef public bytes _lines
    cdef public object certificate
    cdef public object endpoint
    cdef public object ip
    cdef public object is_client
    cdef public object port
    cdef public object scheme
    cdef public object sender
    cdef public object server_port
    cdef public object tls
    cdef public object tlvs
    cdef public bint trusted

    cpdef bytes set_lines(self, bytes authority)


cpdef bytes client_scheme(head, Peer peer)
cpdef bytes client_authority(head, Peer peer)
