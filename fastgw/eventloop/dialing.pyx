# cython: language_level=3, boundscheck=False, wraparound=False
"""See `dialing.pyi`."""

from libc.stdint cimport uint32_t

from fastgw.eventloop.socket_transport cimport SocketTransport, pending_error

import os
import socket
from errno import EINPROGRESS

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLERR
        EPOLLHUP
        EPOLLOUT


def dial(address):
    sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = sock.connect_ex(address.sockaddr)
        if error and error != EINPROGRESS:
            raise OSError(error, os.strerror(error))
    except BaseException:  # also for a zone that does not exist
        sock.close()
        raise
    return sock.detach()


cdef class DialedTransport(SocketTransport):
    cdef object _dialer

    def __init__(self, worker_loop, int fd, dialer not None):
        self._dialer = dialer
        SocketTransport.__init__(self, worker_loop, fd)

    cdef int on_event(self, int fd, uint32_t events) except -1:
        dialer = self._dialer
        if dialer is not None:
            if not events & (EPOLLOUT | EPOLLHUP | EPOLLERR):
                return 0
            self._dialer = None
            dialer.dialed(self, pending_error(fd))
            if self.protocol is None:
                return 0
        return SocketTransport.on_event(self, fd, events)  # it may also tell of bytes, and of their end

    cpdef close(self):
        self._dialer = None
        SocketTransport.close(self)
