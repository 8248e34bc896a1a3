# The types of `endings.py`.

from fastgw.downstream.http1.stream cimport Http1Stream, StreamedConnection
from fastgw.downstream.http1.serving cimport ServingListener
from fastgw.forwarded_headers cimport Peer

cdef double inf
cdef object ACTIVE, CLOSED, CLOSING, FLUSHING, HEAD, IDLE, LINGERING, TUNNEL


cdef class EndingConnection(StreamedConnection):
    cdef public object _address_limit
    cdef public bytes _ahead
    cdef public bint _asks
    cdef public Py_ssize_t _at
    cdef public bint _certificate_expired
    cdef public double _linger_end
    cdef public int _socket
    cdef public Http1Stream _stream
    cdef public object _trusts
    cdef public object _vouched
    cdef public ServingListener listener
    cdef public Peer peer
    cdef public object phase

    cpdef record(self)
    cdef _end(self, bint unread)
