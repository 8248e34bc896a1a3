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
    cdef object _server
    cdef Wheel _wheel
    cdef readonly object listener
    cdef readonly Peer peer
    cdef object _local
    cdef readonly object route
    cdef readonly object client_ip
    cdef readonly object head
    cdef readonly object scheme
    cdef readonly double begun_at
    cdef readonly object fault
    cdef readonly str why
    cdef readonly object response
    cdef readonly long long request_bytes
    cdef readonly long long response_bytes
    cdef public int retries
    cdef readonly str upstream
    cdef readonly str target
    cdef readonly double upstream_s
    cdef readonly bytes request_id
    cdef object _phase
    cdef double _idle
    cdef double _total_at
    cdef object _address_limit
    cdef RelayEnd _client
    cdef RelayEnd _target_end
    cdef object _greeting
    cdef long long _droppable
    cdef object _tls
    cdef object _vouched
    cdef double _unsent
    cdef Upstream _upstream
    cdef Target _target
    cdef int _attempt
    cdef object _lent
    cdef bint _has_place
    cdef SocketTransport _dialing
    cdef object _record
    cdef tuple _tried
    cdef Target _selected
    cdef int _retried
    cdef bint _retrying
    cdef object _timer
    cdef object _securing

    cdef _enter(self, RelayEnd client, limit)
    cdef _choose(self, hello)
    cpdef _connect(self, kind)
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
    cdef _tell(self)
