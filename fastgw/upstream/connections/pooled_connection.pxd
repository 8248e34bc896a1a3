# The types of the fields of `pooled_connection.py`.

from fastgw.eventloop.socket_transport cimport SocketTransport
from fastgw.upstream.connections.stream cimport UpstreamStream
from fastgw.upstream.targets.target cimport Target


cdef class PooledConnection


cdef class Lender:
    cpdef lend(self, Target target, borrower, bint fresh=*, double idle_at_most=*)
    cpdef give_back(self, PooledConnection connection)
    cpdef discard(self, PooledConnection connection)
    cpdef forget(self, PooledConnection connection)


cdef class PooledConnection(UpstreamStream):
    cdef public int capacity
    cdef public bint closed
    cdef public int streams
    cdef public long long uses
    cdef public double idle_since

    cpdef open_stream(self)


cdef class HttpConnection(PooledConnection):
    cdef public object _tls
    cdef public bint _tls_is_new
    cdef public Lender pool
    cdef public object worker_loop

    cpdef connection_made(self, SocketTransport transport)
    cdef _remember_session(self)
