# The types of `connection.py`.

cimport cython

from fastgw.downstream.tcp.relay_end cimport EndOwner, RelayEnd
from fastgw.forwarded_headers cimport Peer
from fastgw.eventloop.socket_transport cimport SocketTransport, send_at_once
from fastgw.eventloop.timer_wheel cimport Wheel
from fastgw.upstream.targets.target cimport Target
from fastgw.upstream.upstream cimport Upstream


@cython.final
cdef class TcpConnection(EndOwner):
    cdef readonly Peer peer
    cdef object _local
    cdef object _phase
    cdef RelayEnd _client
    cdef RelayEnd _target_end
    cdef object _greeting
    cdef long long _droppable
    cdef object _tls
    cdef object _vouched
    cdef double _unsent
    cdef object _lent
    cdef bint _has_place
    cdef SocketTransport _dialing
    cdef object _securing

    cdef _enter(self, RelayEnd client, limit)
    cdef _choose(self, hello)
    cpdef _connect(self)
    cdef _borrow(self, Upstream upstream, Target target)
    cdef _dial(self, Upstream upstream, Target target)
    cdef _hang_up(self)
    cdef _open(self, RelayEnd target)
    cdef RelayEnd _end_on(self, SocketTransport transport)
    cdef _finish_if_done(self)
    cdef _leave_pool(self)
    cdef bint _release_place(self) except -1
    cdef _left(self, str why)
    cdef _watch(self, double seconds)
    cdef bint _client_reads(self) except -1
    cdef _end(self, fault, str why=*)
    cdef _give_back(self)
