# cython: language_level=3, boundscheck=False, wraparound=False
"""See `dialing.pyi`."""

from libc.errno cimport EINPROGRESS, errno
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memset

from fastgw.eventloop.socket_transport cimport SocketTransport, pending_error

import os

cdef extern from "sys/socket.h" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    enum:
        AF_INET
        AF_INET6
        SOCK_CLOEXEC
        SOCK_NONBLOCK
        SOCK_STREAM
    int new_socket "socket"(int family, int kind, int protocol)
    int connect_socket "connect"(int fd, const sockaddr* address, socklen_t length)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t length)

cdef extern from "netinet/in.h" nogil:
    enum:
        IPPROTO_TCP
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        unsigned char s6_addr[16]
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    uint16_t htons(uint16_t number)

cdef extern from "netinet/tcp.h" nogil:
    enum:
        TCP_NODELAY

cdef extern from "arpa/inet.h" nogil:
    int inet_pton(int family, const char* text, void* address)

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLERR
        EPOLLHUP
        EPOLLOUT

cdef extern from "unistd.h" nogil:
    int close_fd "close"(int fd)


def can_dial(address):
    return address is not None and address.family in (AF_INET, AF_INET6) and "%" not in address.sockaddr[0]


def dial(address):
    cdef sockaddr_in v4
    cdef sockaddr_in6 v6
    cdef int fd, done, error
    cdef int one = 1
    cdef int family = address.family
    cdef bytes host = address.sockaddr[0].encode()
    cdef uint16_t port = htons(<uint16_t>address.sockaddr[1])
    fd = new_socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        raise _error_of(errno)
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    if family == AF_INET:
        memset(&v4, 0, sizeof(v4))
        v4.sin_family, v4.sin_port = AF_INET, port
        inet_pton(AF_INET, host, &v4.sin_addr)
        done = connect_socket(fd, <sockaddr*>&v4, sizeof(v4))
    else:
        memset(&v6, 0, sizeof(v6))
        v6.sin6_family, v6.sin6_port = AF_INET6, port
        inet_pton(AF_INET6, host, &v6.sin6_addr)
        done = connect_socket(fd, <sockaddr*>&v6, sizeof(v6))
    if done and errno != EINPROGRESS:
        error = errno
        close_fd(fd)
        raise _error_of(error)
    return fd


cdef object _error_of(int number):
    return OSError(number, os.strerror(number))


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
