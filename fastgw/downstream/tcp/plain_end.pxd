# The types of `plain_end.pyx`.

cimport cython
from libc.stdint cimport uint32_t

from fastgw.eventloop.socket_poller cimport FdListener, SocketPoller
from fastgw.eventloop.socket_transport cimport pending_error, reset_on_close, unsent_in_kernel
from fastgw.eventloop.timer_wheel cimport Timed


cdef class EndOwner(Timed):
    cpdef dialed(self, PlainEnd end, int error)
    cpdef touched(self)
    cpdef ended(self, end)
    cpdef lost(self, end, error)
    cpdef drained(self, end)


@cython.final
cdef class PlainEnd(FdListener):
    cdef readonly int fd
    cdef public long long received
    cdef readonly bint has_ended
    cdef public bint resting
    cdef public long long read_since_rest
    cdef EndOwner _owner
    cdef object _worker_loop
    cdef SocketPoller _poller
    cdef object _peer
    cdef PlainEnd _plain_peer
    cdef bytes _held
    cdef object _pipe
    cdef bint _is_dialing
    cdef bint _paused
    cdef bint _is_readable
    cdef bint _is_bulk
    cdef bint _is_ending
    cdef bint _end_due
    cdef bint _is_over
    cdef bint _is_closed

    cdef int _read(self) except -1
    cdef int _splice(self, PlainEnd peer) except -1
    cdef int _rest_if_due(self, Py_ssize_t count) except -1
    cdef bint _take(self, const char* data, Py_ssize_t count) except -1
    cdef int _flush(self) except -1
    cdef int _flush_pipe(self) except -1
    cdef int _flushed(self) except -1
    cdef int _lost(self, error) except -1
    cpdef pause(self)
    cpdef resume(self)
    cpdef bint send(self, chunk) except -1
    cpdef end_sending(self)
    cpdef bint has_sent_all(self) except -1
    cpdef bint is_done(self) except -1
    cpdef close(self)
    cpdef truncate(self)
    cpdef reset(self)
