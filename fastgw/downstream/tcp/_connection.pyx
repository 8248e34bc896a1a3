# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled `connection` and `ends`: an ordinary connection is accepted, connected, passed on and closed in C.

Ordinary is one of TCP alone whose upstream has addresses and no names, gets no PROXY header, has a free place, and takes
at once what is sent. The reference takes over where that ends (`take_over`): it waits and retries, holds what a socket
does not take, and splices.
"""

cimport cython
from libc.errno cimport EAGAIN, EINPROGRESS, ENOTCONN, errno
from libc.math cimport INFINITY
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastgw.eventloop.socket_poller cimport FdListener, SocketPoller
from fastgw.eventloop.timer_wheel cimport Wheel

import os
import socket

from fastgw.downstream.tcp import connection as reference
from fastgw.downstream.tcp.ends import EndState
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import RELAY_BYTES as _RELAY_BYTES, unsent_in_kernel
from fastgw.forwarded_headers import Peer

cdef extern from "sys/socket.h" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct linger:
        int l_onoff
        int l_linger
    enum:
        AF_INET
        AF_INET6
        MSG_NOSIGNAL
        SHUT_WR
        SOCK_CLOEXEC
        SOCK_NONBLOCK
        SOCK_STREAM
        SOL_SOCKET
        SO_ERROR
        SO_LINGER
    int new_socket "socket"(int family, int kind, int protocol)
    int connect(int fd, const sockaddr* address, socklen_t length)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* length)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t length)
    int shutdown(int fd, int how)
    ssize_t recv(int fd, void* to, size_t room, int flags)
    ssize_t send(int fd, const void* bytes, size_t length, int flags)

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
        uint32_t sin6_scope_id
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
    RELAY_BYTES = 32768
    CLIENT = 0
    TARGET = 1

cdef enum Phase:
    CONNECTING
    OPEN
    CLOSED

if _RELAY_BYTES != RELAY_BYTES:
    raise ImportError("the compiled module reads other amounts")

cdef uint32_t _READABLE = EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR
cdef uint32_t _ENDED = EPOLLRDHUP | EPOLLHUP | EPOLLERR
cdef uint32_t _BROKEN = EPOLLHUP | EPOLLERR
cdef char _buffer[RELAY_BYTES]  # between two calls nothing is in it
cdef object _CONNECTED = reference.CONNECTED_OUTCOME
cdef object _NO_NAME = reference.NO_NAME
cdef object _CLIENT_LEFT = Fault.CLIENT_LEFT
cdef double _HALF_CLOSED_S = reference.HALF_CLOSED_S
cdef long long MOST_UNSENT = 1 << 62


cdef inline double _monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec / 1e9


@cython.final
cdef class Plan:
    """Facts about the connections of a listener to one upstream that its configuration decides."""

    cdef object upstream  # None: its connections are not ordinary
    cdef object targets  # that it was made for: they may be replaced in place
    cdef object pool
    cdef Wheel wheel
    cdef SocketPoller poller
    cdef double connect_timeout
    cdef double idle
    cdef dict addresses  # of targets, as the kernel has them

    def __init__(self, server, upstream):
        worker_loop = server.worker_loop
        self.targets = upstream.targets
        if upstream.settings.proxy_protocol is not None:
            return
        addresses = {}
        for target in upstream.targets:
            address = None if target.tls is not None or target.scheme != "tcp" else _address_of(target.literal)
            if address is None:
                return
            addresses[target] = address
        self.wheel, self.poller = worker_loop.wheel, worker_loop.sockets
        self.pool, self.addresses = upstream.pool, addresses
        self.connect_timeout, self.idle = upstream.settings.timeouts.connect, upstream.settings.timeouts.tunnel_idle
        self.upstream = upstream


cdef Plan _plan_of_next(server, routes):
    """Return the plan of the next connection. None: connections to some upstream of the listener are not ordinary."""
    cdef Plan plan
    cdef Py_ssize_t place
    if routes.only_route is None:
        return None
    upstreams = routes.only_route.upstreams
    if routes.plans is None:
        routes.plans = [Plan(server, each) for each in upstreams]
    cdef list plans = routes.plans
    for place in range(len(plans)):
        plan = plans[place]
        if plan.targets is not upstreams[place].targets:
            plan = plans[place] = Plan(server, upstreams[place])
        if plan.upstream is None or plan.upstream.attempt_listener is not None:
            return None
    return plan if len(plans) == 1 else plans[upstreams.index(routes.only_route.choose())]


cdef bytes _address_of(literal):
    """Return the address as `connect` takes it; None: it is none that is known here."""
    cdef sockaddr_in v4
    cdef sockaddr_in6 v6
    if literal is None or literal.family not in (AF_INET, AF_INET6) or "%" in literal.sockaddr[0]:
        return None
    host, port = literal.sockaddr[0].encode(), literal.sockaddr[1]
    if literal.family == AF_INET:
        memset(&v4, 0, sizeof(v4))
        v4.sin_family, v4.sin_port = AF_INET, htons(port)
        return (<char*>&v4)[:sizeof(v4)] if inet_pton(AF_INET, host, &v4.sin_addr) == 1 else None
    memset(&v6, 0, sizeof(v6))
    v6.sin6_family, v6.sin6_port = AF_INET6, htons(port)
    return (<char*>&v6)[:sizeof(v6)] if inet_pton(AF_INET6, host, &v6.sin6_addr) == 1 else None


def serve(server, listener, client):
    cdef PlainConnection connection
    routes = listener.tcp
    plan = _plan_of_next(server, routes) if client.port else None
    if plan is None:
        server.serve_tcp(listener, client.as_socket(), (client.ip, client.port), None)
        return
    connection = PlainConnection.__new__(PlainConnection)
    connection._begin(server, listener, routes, plan, client.as_number(), client.ip, client.port)


@cython.final
cdef class PlainConnection(FdListener):
    """Compiled `connection.TcpConnection`: for observers, balancers and the server it is the same."""

    cdef object _server
    cdef readonly object listener
    cdef readonly object route
    cdef readonly str client_ip
    cdef unsigned int _port
    cdef readonly double begun_at
    cdef double _total_at
    cdef double _idle
    cdef Plan _plan
    cdef object _target
    cdef bint _has_place  # in the pool
    cdef object _address_limit
    cdef readonly object fault
    cdef readonly object response
    cdef readonly str why
    cdef readonly str upstream
    cdef readonly str target
    cdef readonly double upstream_s
    cdef readonly long long request_bytes
    cdef readonly long long response_bytes
    cdef int _fds[2]
    cdef long long _received[2]
    cdef long long _unsent  # by the kernel to the client, when it was looked last
    cdef bint _readable[2]
    cdef bint _ending[2]  # an end or an error comes behind what can be read
    cdef bint _has_ended[2]
    cdef bint _is_over[2]  # our direction has ended
    cdef Phase _phase

    consumer = request_body = subrequests = trace = None
    request_id, shadowed, cache_result, grpc_status = b"", "", "", ""
    path = raw_path = b""
    params = {}
    head = _NO_NAME
    scheme = b"tcp"
    retries = 0

    def __repr__(self):
        phase = ("CONNECTING", "OPEN", "CLOSED")[<int>self._phase]
        return f"<PlainConnection {self.client_ip} {phase} to {self.target or '-'}>"

    cdef int _begin(self, server, listener, routes, Plan plan, int fd, str ip, unsigned int port) except -1:
        cdef bytes address
        cdef int to
        cdef int one = 1
        cdef bint is_connected
        self.deadline = self.filed_at = INFINITY
        self._server, self.listener, self.route, self._plan = server, listener, routes, plan
        self.client_ip, self._port = ip, port
        self.begun_at = _monotonic()
        self.upstream_s = -1.0
        self.why = self.upstream = self.target = ""
        self._fds[CLIENT], self._fds[TARGET] = fd, -1
        self._phase = CONNECTING
        self._idle = plan.idle
        self._unsent = MOST_UNSENT
        limit = server.address_limit_for(listener, ip)
        refused = server.admit(ip, limit)
        if refused is not None:
            return self._turn_away(refused)
        self._address_limit = limit
        upstream = plan.upstream
        upstream.active += 1
        self.upstream = upstream.name
        self._total_at = plan.wheel.now + <double>upstream.total_timeout
        server.connections.add(self)
        if not self._is_watched(CLIENT):
            return 0
        target = upstream.balancer.pick(self)
        if target is None or not plan.pool.take_place(target):
            self._become_reference().connect_to(target)
            return 0
        self._target, self.target, self._has_place = target, target.label, True
        address = plan.addresses[target]
        to = new_socket((<sockaddr*><char*>address).sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if to < 0:
            return self._not_connected(errno)
        self._fds[TARGET] = to
        setsockopt(to, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        is_connected = connect(to, <sockaddr*><char*>address, <socklen_t>len(address)) == 0
        if not is_connected and errno != EINPROGRESS:
            return self._not_connected(errno)
        if not self._is_watched(TARGET):
            return 0
        return self._open() if is_connected else self._watch(plan.connect_timeout)

    cdef bint _is_watched(self, int side) except -1:
        """Let the poller watch a side. False: epoll watches no more sockets of this user; the connection has ended."""
        try:
            self._plan.poller.watch(self._fds[side], self)
        except OSError as error:
            self.fault, self.why = Fault.CONNECTIONS_EXHAUSTED, reference.reason_of(error)
            self._finish(True)
            return False
        return True

    cdef int _turn_away(self, fault) except -1:
        close_fd(self._fds[CLIENT])
        self._phase = CLOSED
        self._new_reference().turn_away(fault)
        return 0

    # calls of the poller

    cdef int on_event(self, int fd, uint32_t events) except -1:
        cdef int side = TARGET if fd == self._fds[TARGET] else CLIENT
        if events & _READABLE:
            self._readable[side] = True
            if events & _ENDED:
                self._ending[side] = True
        if self._phase == OPEN:
            if self._readable[side]:
                self._read(side)
        elif self._phase == CONNECTING:
            if side == TARGET:
                if events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
                    self._connected()
            elif events & _BROKEN:
                self.fault = _CLIENT_LEFT
                self._finish(False)
        return 0

    cdef int _connected(self) except -1:
        cdef int error = 0
        cdef socklen_t length = sizeof(error)
        if getsockopt(self._fds[TARGET], SOL_SOCKET, SO_ERROR, &error, &length):
            error = errno
        return self._not_connected(error) if error else self._open()

    cdef int _open(self) except -1:
        self._phase = OPEN
        self.response = _CONNECTED
        self.upstream_s = _monotonic() - self.begun_at
        on_connected = self._plan.pool.on_connected
        if on_connected is not None:
            on_connected(self._target)
        self._watch(self._idle)
        if self._readable[TARGET]:
            self._read(TARGET)
        if self._phase == OPEN and self._readable[CLIENT]:
            self._read(CLIENT)
        return 0

    cdef int _read(self, int side) except -1:
        """Pass on what one side has sent."""
        cdef ssize_t count, sent
        cdef int other = 1 - side
        while self._readable[side]:
            count = recv(self._fds[side], _buffer, RELAY_BYTES, 0)
            if count < 0:
                if errno != EAGAIN:
                    return self._lost(side, errno)
                self._readable[side] = False
                return 0
            if not count:
                self._readable[side] = False
                return 0 if self._has_ended[side] else self._ended(side)
            self._received[side] += count
            if count < RELAY_BYTES and not self._ending[side]:
                self._readable[side] = False  # all was read: what comes next is another edge
            self.deadline = min(self._plan.wheel.now + self._idle, self._total_at)
            sent = send(self._fds[other], _buffer, count, MSG_NOSIGNAL)
            if sent < 0:
                if errno != EAGAIN:
                    return self._lost(other, errno)
                sent = 0
            if sent < count or count == RELAY_BYTES:
                return self._leave_to_reference(other, _buffer[sent:count])
        return 0

    cdef int _ended(self, int side) except -1:
        """One side sends no more: nor do we to the other."""
        cdef int other = 1 - side
        self._has_ended[side] = True
        if self._has_ended[other]:
            self._finish(False)  # closing says it
        elif shutdown(self._fds[other], SHUT_WR) and errno != ENOTCONN:
            self._lost(other, errno)
        else:
            self._is_over[other] = True
            if side == TARGET:
                self._leave_pool()
        return 0

    cdef int _leave_pool(self) except -1:
        """Release the place in the pool early, and wait less long: the target has ended, and all was sent on."""
        if self._idle > _HALF_CLOSED_S:
            self._idle = _HALF_CLOSED_S
            self._watch(_HALF_CLOSED_S)
        self._has_place = False
        self._plan.pool.leave_place(self._target)
        return 0

    cdef int _lost(self, int side, int error) except -1:
        if side == TARGET and self._has_ended[CLIENT] and self._is_over[TARGET] and self._received[TARGET]:
            self.why = reference.RESET_AFTER_END
        else:
            self.fault = _CLIENT_LEFT if side == CLIENT else Fault.CONNECTION_LOST
            self.why = reference.reason_of(OSError(error, ""))
        self._finish(True)
        return 0

    # continuing in the reference

    cdef object _new_reference(self):
        made = reference.TcpConnection(self._server, self.listener, Peer(self.client_ip, self._port, 0, False), None)
        made.begun_at = self.begun_at
        return made

    cdef object _become_reference(self):
        """The reference's connection, with the client's end and all that was taken; nothing is left here."""
        made = self._new_reference()
        client = socket.socket(fileno=self._fds[CLIENT])
        plan = self._plan
        self._phase = CLOSED
        plan.wheel.drop(self)
        self._server.connections.discard(self)
        made.take_over(client, self._address_limit, plan.upstream, self._total_at)
        return made

    cdef int _not_connected(self, int error) except -1:
        """The target cannot be reached; 0: not in time."""
        plan, target = self._plan, self._target
        if self._fds[TARGET] >= 0:
            plan.poller.forget(self._fds[TARGET])
            close_fd(self._fds[TARGET])
            self._fds[TARGET] = -1
        made = self._become_reference()
        if error:
            failure = OSError(error, os.strerror(error))
        else:
            failure = TimeoutError()
        fault, why = plan.pool.leave_unconnected(target, failure)
        made.connect_failed(target, fault, why)
        return 0

    cdef int _leave_to_reference(self, int to, bytes held) except -1:
        """Have the reference hold what a side does not take, and splice what is much."""
        target = socket.socket(fileno=self._fds[TARGET])
        made = self._become_reference()
        made.resume_relay(
            self._plan.pool.register(self._target) if self._has_place else None, target, self._target, self.upstream_s,
            [EndState(self._received[side], self._has_ended[side], self._is_over[side], held if side == to else b"")
             for side in range(2)],
        )
        return 0

    # time and endings

    cdef int _watch(self, double seconds) except -1:
        cdef Wheel wheel = self._plan.wheel
        wheel.watch(self, min(wheel.now + seconds, self._total_at))
        return 0

    def expire(self, double now):
        if self._phase == CONNECTING and now < self._total_at:
            self._not_connected(0)
            return
        if self._phase == OPEN and now < self._total_at and self._has_ended[TARGET] and self._client_reads():
            self._watch(self._idle)
            return
        self.fault = Fault.TUNNEL_EXPIRED if now >= self._total_at else Fault.TUNNEL_IDLE
        self._finish(False)

    cdef bint _client_reads(self) except -1:
        """Compiled `TcpConnection._client_reads`."""
        cdef long long before = self._unsent
        self._unsent = unsent_in_kernel(self._fds[CLIENT])
        return 0 < self._unsent < before

    cdef int _finish(self, bint is_reset, bint is_cut=False) except -1:
        cdef linger reset
        cdef int side
        cdef Plan plan = self._plan
        server, upstream, limit = self._server, plan.upstream, self._address_limit
        if self._phase == CLOSED:
            return 0
        self._phase = CLOSED
        plan.wheel.drop(self)
        for side in range(2):
            if self._fds[side] >= 0:
                plan.poller.forget(self._fds[side])
                if is_reset:
                    reset.l_onoff, reset.l_linger = 1, 0
                    setsockopt(self._fds[side], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset))
                close_fd(self._fds[side])
        self.request_bytes, self.response_bytes = self._received[CLIENT], self._received[TARGET]
        if self._has_place:
            plan.pool.leave_place(self._target)
        upstream.active -= 1
        server.connection_limit.give_back()
        if limit is not None:
            limit.give_back(self.client_ip)
        server.closed(self)
        if server.draining and not is_cut:
            server.drained += 1
        if self.response is None:
            self.response = reference.Outcome(self.fault.status)
        server.finish(self)
        return 0

    # calls of the server

    def leave(self): ...
    def drain(self): ...
    def end_outdated(self): ...

    def cut(self):
        if self._phase == CLOSED:
            return False
        self.fault = self.fault or Fault.GATEWAY_STOPPED
        self._finish(True, is_cut=True)
        return True

    def cut_requests(self):
        return self._phase != OPEN and self.cut()

    def cut_tunnels(self):
        return self._phase == OPEN and self.cut()
