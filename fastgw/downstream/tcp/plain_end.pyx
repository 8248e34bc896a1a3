# cython: language_level=3, boundscheck=False, wraparound=False
"""See `plain_end.pyi`."""

cimport cython
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EAGAIN, EINPROGRESS, ENOTCONN, errno
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memset

import os
import socket

from fastgw.eventloop.worker_loop import BODY_BYTES_PER_TURN as _BODY_BYTES_PER_TURN

cdef extern from "sys/socket.h" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    enum:
        AF_INET
        AF_INET6
        MSG_NOSIGNAL
        SHUT_WR
        SOCK_CLOEXEC
        SOCK_NONBLOCK
        SOCK_STREAM
    int new_socket "socket"(int family, int kind, int protocol)
    int connect_socket "connect"(int fd, const sockaddr* address, socklen_t length)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t length)
    int shutdown(int fd, int how)
    ssize_t recv(int fd, void* to, size_t room, int flags)
    ssize_t send_on "send"(int fd, const void* bytes, size_t length, int flags)

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
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLLHUP
        EPOLLERR

cdef extern from "unistd.h" nogil:
    int close_fd "close"(int fd)

cdef enum:
    MOST_READ = 32768  # bytes per read for the other end

cdef uint32_t _READABLE = EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR
cdef uint32_t _WRITABLE = EPOLLOUT | EPOLLHUP | EPOLLERR
cdef uint32_t _ENDED = EPOLLRDHUP | EPOLLHUP | EPOLLERR
cdef uint32_t _BROKEN = EPOLLHUP | EPOLLERR
cdef long long BODY_BYTES_PER_TURN = _BODY_BYTES_PER_TURN
cdef char _buffer[MOST_READ]  # between two calls nothing is in it

RELAY_BYTES = MOST_READ


cdef class EndOwner(Timed):
    cpdef dialed(self, PlainEnd end, int error):
        raise NotImplementedError

    cpdef touched(self):
        raise NotImplementedError

    cpdef ended(self, end):
        raise NotImplementedError

    cpdef lost(self, end, error):
        raise NotImplementedError

    cpdef drained(self, end):
        raise NotImplementedError


@cython.final
cdef class Drop:
    def send(self, chunk):
        return True


DROP = Drop()


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
        raise _error(errno)
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
        raise _error(error)
    return fd


def local_address(int fd):
    lent = socket.socket(fileno=fd)
    try:
        name = lent.getsockname()
    finally:
        lent.detach()
    # On a dual-stack socket, which only a service manager opens, it is an IPv4-mapped IPv6 address for an IPv4 client.
    return (name[0].removeprefix("::ffff:"), name[1]) if isinstance(name, tuple) else None


cdef object _error(int number):
    return OSError(number, os.strerror(number))


@cython.final
cdef class PlainEnd(FdListener):
    is_truncated = False

    def __init__(self, worker_loop, int fd, EndOwner owner not None, bint is_dialing=False):
        self._worker_loop = worker_loop
        self._poller = worker_loop.sockets
        self._owner = owner
        self._held = b""
        self._peer = DROP
        self._is_dialing = is_dialing
        self._paused = True
        self._poller.watch(fd, self)
        self.fd = fd

    def __repr__(self):
        told = f"paused={self._paused} has_ended={self.has_ended} over={self._is_over} closed={self._is_closed}"
        return f"<PlainEnd {self.fd} {told} held={len(self._held)}>"

    @property
    def peer(self):
        return self._peer

    @peer.setter
    def peer(self, peer):
        self._peer = peer
        self._plain_peer = peer if type(peer) is PlainEnd else None

    @property
    def is_buffering(self):
        return bool(self._held) or self._pipe is not None

    @property
    def local(self):
        return local_address(self.fd)

    # calls of the poller

    cdef int on_event(self, int fd, uint32_t events) except -1:
        cdef EndOwner owner
        if events & _READABLE:
            self._is_readable = True
        if events & _ENDED:
            self._is_ending = True  # after the readable data follows an end or an error
        if self._is_dialing:
            if events & _WRITABLE:
                self._is_dialing = False
                owner = self._owner
                owner.dialed(self, pending_error(fd))
            return 0
        if events & _WRITABLE and (self._held or self._pipe is not None):
            self._flush()
        if events & _READABLE and not self._is_closed:
            if not self._paused and not self.resting:
                self._read()
            elif events & _BROKEN and not self._is_over:
                error = pending_error(fd)  # there may be no further read
                self._lost(_error(error) if error else None)
        return 0

    cdef int _read(self) except -1:
        cdef EndOwner owner = self._owner
        cdef PlainEnd peer
        cdef ssize_t count
        cdef bint is_taken
        while self._is_readable and not self._paused and not self.resting:
            if self._is_bulk and self._plain_peer is not None:
                self._splice(self._plain_peer)
                continue
            count = recv(self.fd, _buffer, MOST_READ, 0)
            if count < 0:
                if errno == EAGAIN:
                    self._is_readable = False
                else:
                    self._lost(_error(errno))
                return 0
            if not count:
                self._is_readable = False
                if not self.has_ended:
                    self.has_ended = True
                    owner.ended(self)
                return 0
            self.received += count
            if count < MOST_READ and not self._is_ending:
                self._is_readable = False  # everything was read; further data causes another event
            owner.touched()
            peer = self._plain_peer
            if peer is not None:
                is_taken = peer._take(_buffer, count)
            else:
                is_taken = self._peer.send(PyMemoryView_FromMemory(_buffer, count, PyBUF_READ))
            if not is_taken:
                self.pause()
            self._is_bulk = count == MOST_READ  # much data is received, so it is not copied
            self._rest_if_due(count)
        return 0

    cdef int _splice(self, PlainEnd peer) except -1:
        """Move available data to the other socket without copying (splice), because there is much of it."""
        cdef EndOwner owner = self._owner
        cdef PlainEnd failing = self
        cdef long long moved = 0
        cdef Py_ssize_t count
        pipes = self._worker_loop.pipes
        pipe = pipes.acquire()
        if pipe is None:
            self._is_bulk = False
            return 0
        try:
            while True:
                count = pipe.fill(self.fd)
                if not count:
                    self._is_bulk = False  # the next read reports the end
                    return 0
                moved += count
                self.received += count
                owner.touched()
                failing = peer
                if not pipe.drain(peer.fd):
                    peer._pipe, pipe = pipe, None
                    self.pause()
                    return 0
                failing = self
                self._rest_if_due(count)
                if self.resting:
                    return 0
        except BlockingIOError:
            self._is_bulk = moved >= MOST_READ // 2
            if not self._is_ending:
                self._is_readable = False
        except OSError as error:
            owner.lost(failing, error)  # it is reported once: the next read would find a regular end
        finally:
            if pipe is not None:
                pipes.give_back(pipe)
        return 0

    cdef int _rest_if_due(self, Py_ssize_t count) except -1:
        """Count bytes read, and rest after many of them if there are more."""
        if not self._is_readable or self._is_closed:
            self.read_since_rest = 0
            return 0
        self.read_since_rest += count
        if self.read_since_rest >= BODY_BYTES_PER_TURN:
            self._worker_loop.rests.start_rest(self, self)
        return 0

    cdef int _lost(self, error) except -1:
        cdef EndOwner owner = self._owner
        if owner is not None:
            owner.lost(self, error)
        return 0

    # calls of `Rests`

    def is_closing(self):
        return self._is_closed

    def pause_reading(self): ...  # `resting` has this effect

    def end_rest(self):
        if not self._paused and not self._is_closed:
            self._read()

    # as `End`

    cpdef pause(self):
        self._paused = True

    cpdef resume(self):
        self._paused = False
        if self._is_readable and not self.resting and not self._is_closed:
            self._read()

    cpdef bint send(self, chunk) except -1:
        cdef Py_buffer view
        PyObject_GetBuffer(chunk, &view, PyBUF_SIMPLE)
        try:
            return self._take(<const char*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef bint _take(self, const char* data, Py_ssize_t count) except -1:
        """Send bytes. False: some are held."""
        cdef ssize_t sent
        if self._held:
            self._held += data[:count]
            return False
        sent = send_on(self.fd, data, count, MSG_NOSIGNAL)
        if sent < 0:
            if errno != EAGAIN:
                self._lost(_error(errno))
                return True
            sent = 0
        if sent == count:
            return True
        self._held = data[sent:count]
        return False

    cdef int _flush(self) except -1:
        cdef ssize_t sent
        if self._pipe is not None:
            return self._flush_pipe()
        sent = send_on(self.fd, PyBytes_AS_STRING(self._held), PyBytes_GET_SIZE(self._held), MSG_NOSIGNAL)
        if sent < 0:
            return 0 if errno == EAGAIN else self._lost(_error(errno))
        self._owner.touched()
        self._held = self._held[sent:]
        return 0 if self._held else self._flushed()

    cdef int _flush_pipe(self) except -1:
        pipe = self._pipe
        held = pipe.held
        try:
            is_empty = pipe.drain(self.fd)
        except OSError as error:
            return self._lost(error)
        if pipe.held < held:
            self._owner.touched()
        if is_empty:
            self._pipe = None
            self._worker_loop.pipes.give_back(pipe)
            self._flushed()
        return 0

    cdef int _flushed(self) except -1:
        cdef EndOwner owner
        if self._end_due:
            self.end_sending()
        owner = self._owner
        if owner is not None:
            owner.drained(self)
        return 0

    cpdef end_sending(self):
        if self._held or self._pipe is not None:
            self._end_due = True
            return
        self._end_due = False
        self._is_over = True
        if shutdown(self.fd, SHUT_WR) and errno != ENOTCONN:  # it was reset, which the next read reports
            self._lost(_error(errno))

    cpdef bint has_sent_all(self) except -1:
        return self._is_over

    def unsent(self):
        return unsent_in_kernel(self.fd)

    cpdef bint is_done(self) except -1:
        return self.has_ended and self._is_over

    cpdef close(self):
        if self._is_closed:
            return
        self._is_closed = self._paused = True
        self._held = b""
        if self._pipe is not None:
            self._worker_loop.pipes.give_back(self._pipe)
            self._pipe = None
        self._poller.forget(self.fd)
        close_fd(self.fd)
        self._owner = None
        self._peer, self._plain_peer = DROP, None

    cpdef truncate(self):
        if self._held or self._pipe is not None:
            self.reset()
        else:
            self.close()

    cpdef reset(self):
        if not self._is_closed:
            reset_on_close(self.fd)
            self.close()
