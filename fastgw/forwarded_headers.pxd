# The types of the fields of `forwarded_headers.py`.

cimport cython

from fastgw.http.messages cimport values_of


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
cpdef client_origin(head, Peer peer)
cpdef bytes reported_value(head, bytes name)
cdef bytes _addresses_before(Peer peer, head)
cdef bytes _addresses_of(head)
cdef bytes _as_list(lines)
cdef bytes _ip(str ip)
cdef bytes _joined(bytes one, bytes other)
cdef bytes _lines(bytes for_, bytes origin_lines, bytes real_ip, bytes client_cert)
cdef bytes _list_of(head, bytes name)
