# The types of `relay_end.py`.

cimport cython

from fastgw.downstream.tcp.relayed_session cimport RelayedSession
from fastgw.eventloop.body_reads cimport BodyReading
from fastgw.eventloop.socket_transport cimport SocketTransport, pending_error


cdef class EndOwner(RelayedSession):
    cpdef dialed(self, SocketTransport transport, int error)
    cpdef touched(self)
    cpdef ended(self, end)
    cpdef lost(self, end, error)
    cpdef drained(self, end)


@cython.final
cdef class RelayEnd(BodyReading):
    cdef public object worker_loop
    cdef public long long received
    cdef readonly bint has_ended
    cdef EndOwner _owner
    cdef object _peer
    cdef int _goes_to
    cdef bint _paused
    cdef bint _is_full
    cdef bint _is_over
    cdef bint _is_closed

    cpdef pause(self)
    cpdef resume(self)
    cpdef bint send(self, bytes chunk) except -1
    cpdef end_sending(self)
    cpdef bint has_sent_all(self) except -1
    cpdef bint is_done(self) except -1
    cpdef close(self)
    cpdef truncate(self)
    cpdef reset(self)
    cdef _forget(self, bint is_reset=*)
    cdef _see_no_hangup(self)
