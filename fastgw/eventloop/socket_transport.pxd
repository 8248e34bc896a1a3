# The types of `socket_transport.pyx`.

from libc.stdint cimport uint32_t

from fastgw.eventloop.socket_poller cimport FdListener, SocketPoller
from fastgw.eventloop.timer_wheel cimport Timed


cpdef int pending_error(int fd) except -1
cpdef reset_on_close(int fd)
cpdef int unread_in_kernel(int fd) except -1
cpdef int unsent_in_kernel(int fd) except -1
cpdef Py_ssize_t room(int fd) except -1
cpdef Py_ssize_t send_at_once(int fd, bytes message) except -1


cdef class SocketTransport


cdef class StreamProtocol(Timed):
    cdef public object buffer

    cpdef connection_made(self, SocketTransport transport)
    cpdef buffer_updated(self, Py_ssize_t nbytes)
    cpdef bint eof_received(self) except -1
    cpdef pause_writing(self)
    cpdef resume_writing(self)


cdef class SocketTransport(FdListener):
    cdef readonly int fd
    cdef public int plain_fd
    cdef public StreamProtocol protocol
    cdef SocketPoller _poller
    cdef list _held  # what the socket has not taken: bytes
    cdef Py_ssize_t _held_at  # bytes of the first piece that were sent
    cdef Py_ssize_t _held_bytes
    cdef object _error  # that has ended the connection
    cdef bint _is_readable  # the socket may have more: no event says so
    cdef bint _is_ending  # an end or an error follows what is readable
    cdef bint _has_ended  # the peer's direction was read to its end
    cdef bint _is_stopped
    cdef bint _is_full  # `pause_writing` was called
    cdef bint _is_end_due
    cdef bint _is_closing
    cdef bint _is_over  # no event is handled any more
    cdef bint _is_due  # it is called in the next turn of the loop
    cdef bint _awaits_hangup

    cdef object _space(self)
    cdef _take(self, Py_ssize_t count)
    cdef bint _take_end(self) except -1
    cdef int _handle(self, uint32_t events) except -1
    cdef int _read(self) except -1
    cdef int _hold(self, bytes piece, Py_ssize_t at) except -1
    cdef int _send_held(self) except -1
    cdef int _lose(self, error) except -1
    cdef int _finish(self) except -1
    cdef int _close_now(self) except -1
    cdef int _not_sent(self) except -1
    cdef int _tell_hangup(self) except -1
    cdef int _call_soon(self) except -1
    cpdef write(self, data)
    cpdef write_parts(self, bytes head, bytes body)
    cpdef write_eof(self)
    cpdef close(self)
    cpdef abort(self)
    cpdef bint is_closing(self) except -1
    cpdef pause_reading(self)
    cpdef resume_reading(self)
    cpdef bint has_unread(self) except -1
    cpdef Py_ssize_t get_write_buffer_size(self) except -1
