# cython: language_level=3, boundscheck=False, wraparound=False
"""See `socket_poller.pyi`."""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

import os

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLLERR
        EPOLLHUP
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int most, int timeout)

cdef extern from "unistd.h" nogil:
    int close_fd "close"(int fd)

cdef enum:
    PER_TURN = 1024

READABLE = EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR
WRITABLE = EPOLLOUT | EPOLLHUP | EPOLLERR
ENDED = EPOLLRDHUP | EPOLLHUP | EPOLLERR
cdef uint32_t _EDGES = <uint32_t>1 << 31  # EPOLLET


cdef class FdListener(Timed):
    cdef int on_event(self, int fd, uint32_t events) except -1:
        raise NotImplementedError


@cython.final
cdef class SocketPoller:
    def __init__(self, loop):
        self._loop = loop
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise OSError(errno, os.strerror(errno))
        self._kept, self._again = {}, []
        loop.add_reader(self._epoll, self._ready)

    def __cinit__(self, loop):
        self._epoll = -1

    def __dealloc__(self):
        PyMem_Free(self._watched)

    cpdef watch(self, int fd, listener):
        cdef epoll_event event
        cdef void* grown
        cdef int size
        if fd < 0:
            raise ValueError("no descriptor")
        if fd >= self._size:
            size = max(2 * self._size, fd + 64)
            grown = PyMem_Realloc(self._watched, size * sizeof(Watched))
            if grown is NULL:
                raise MemoryError
            self._watched = <Watched*>grown
            memset(&self._watched[self._size], 0, (size - self._size) * sizeof(Watched))
            self._size = size
        self._serial += 1
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | _EDGES
        event.data.u64 = <uint64_t>self._serial << 32 | <uint32_t>fd
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, fd, &event):
            raise OSError(errno, os.strerror(errno))
        self._kept[fd] = listener
        self._watched[fd].listener = <void*>listener
        self._watched[fd].serial = self._serial

    cpdef forget(self, int fd):
        if 0 <= fd < self._size and self._watched[fd].listener is not NULL:
            self._watched[fd].listener = NULL
            del self._kept[fd]

    cpdef release(self, int fd):
        self.forget(fd)
        epoll_ctl(self._epoll, EPOLL_CTL_DEL, fd, NULL)

    cpdef call_again(self, listener):
        if not self._again:
            self._loop.call_soon(self._go_on)
        self._again.append(listener)

    def report(self, defect):
        self._loop.call_exception_handler({"message": "a defect in a connection", "exception": defect})

    def _go_on(self):
        again, self._again = self._again, []
        for listener in again:
            listener.ready(0)

    def _ready(self):
        cdef epoll_event events[PER_TURN]
        cdef int place = 0
        cdef int count = epoll_wait(self._epoll, events, PER_TURN, 0)
        cdef list remaining
        try:
            while place < count:
                place += 1
                self._notify(
                    <int>(events[place - 1].data.u64 & 0xFFFFFFFFULL), events[place - 1].data.u64 >> 32,
                    events[place - 1].events,
                )
        finally:
            if place < count:  # a listener has raised: each edge is reported once
                remaining = [(events[p].data.u64 & 0xFFFFFFFFULL, events[p].data.u64 >> 32, events[p].events)
                        for p in range(place, count)]
                self._loop.call_soon(self._notify_remaining, remaining)

    def _notify_remaining(self, list remaining):
        try:
            while remaining:
                fd, serial, flags = remaining.pop(0)
                self._notify(fd, serial, flags)
        finally:
            if remaining:
                self._loop.call_soon(self._notify_remaining, remaining)

    cdef int _notify(self, int fd, uint32_t serial, uint32_t events) except -1:
        cdef object listener
        if fd >= self._size or self._watched[fd].listener is NULL or self._watched[fd].serial != serial:
            return 0
        listener = <object>self._watched[fd].listener
        if isinstance(listener, FdListener):
            return (<FdListener>listener).on_event(fd, events)
        listener.ready(events)
        return 0

    def close(self):
        if self._epoll >= 0:
            self._loop.remove_reader(self._epoll)
            close_fd(self._epoll)
            self._epoll = -1
