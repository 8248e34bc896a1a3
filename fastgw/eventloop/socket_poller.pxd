from libc.stdint cimport uint32_t

from fastgw.eventloop.timer_wheel cimport Timed


cdef class FdListener(Timed):
    """Listener that is called in C, with a deadline."""

    cdef int on_event(self, int fd, uint32_t events) except -1


cdef struct Watched:
    void* listener  # borrowed from `_kept`
    uint32_t serial  # of the socket that has the descriptor; an event of one before it is dropped


cdef class SocketPoller:
    cdef object _loop
    cdef int _epoll
    cdef Watched* _watched  # by descriptor
    cdef int _size
    cdef uint32_t _serial
    cdef dict _kept
    cdef list _again

    cpdef watch(self, int fd, listener)
    cpdef forget(self, int fd)
    cpdef release(self, int fd)
    cpdef call_again(self, listener)
    cdef int _notify(self, int fd, uint32_t serial, uint32_t events) except -1
