# cython: language_level=3
"""Compiled methods of `http1_connection.UpstreamConnection` and of `pool.Pool`: those of an ordinary exchange.

A connection is lent, carries a request, receives a response with one read, and is given back. All other cases are left
to methods of the reference. Objects of other classes are used through their attributes (`_slots.read`).
"""

from libc.math cimport INFINITY

from fastgw._slots cimport PyTypeObject, Slot, learn, read, type_of, write
from fastgw.eventloop.socket_send cimport send_message
from fastgw.eventloop.timer_wheel cimport Timed, Wheel
from fastgw.http.http1.parser cimport Http1ResponseHead

from math import inf

from fastgw.compiled import replace
from fastgw.http.http1.parser import take_answer
from fastgw.upstream.targets.target import Target

cdef struct OfConnection:
    Slot begun
    Slot buffer
    Slot fd
    Slot full
    Slot head_timeout
    Slot listener
    Slot method
    Slot paused
    Slot phase
    Slot pool
    Slot reusable
    Slot special
    Slot target
    Slot tls
    Slot transport
    Slot unasked_body
    Slot wheel
    Slot write_paused

cdef struct OfPooled:
    Slot capacity
    Slot closed
    Slot idle_since
    Slot streams
    Slot target
    Slot uses

cdef struct OfPool:
    Slot clock
    Slot contended
    Slot idle_count
    Slot idle_timeout
    Slot leaving
    Slot max_idle
    Slot max_uses
    Slot stopped
    Slot sweeper
    Slot waiters

cdef struct OfTarget:
    Slot capacity
    Slot idle
    Slot minor
    Slot shared

cdef OfConnection of_connection
cdef OfPooled of_http1  # what the pool reads of a connection, by its class
cdef OfPooled of_http2
cdef OfPool of_pool
cdef OfTarget of_target
cdef PyTypeObject* _connection_class  # the class whose methods these are; NULL until `adopt_connection`
cdef PyTypeObject* _pool_class

cdef object INF = inf
cdef object ONE = 1
cdef object IDLE, AWAITING
cdef object _buffer_updated  # the method of the reference

learn(&of_target.capacity, Target, "capacity")
learn(&of_target.idle, Target, "idle")
learn(&of_target.minor, Target, "minor")
learn(&of_target.shared, Target, "shared")


def adopt_connection(type owner not None, idle, awaiting):
    """Replace the methods of `UpstreamConnection`. `idle`, `awaiting`: its phases of these names."""
    global IDLE, AWAITING, _buffer_updated, _connection_class
    IDLE, AWAITING, _buffer_updated = idle, awaiting, owner.buffer_updated
    learn(&of_connection.begun, owner, "_begun")
    learn(&of_connection.buffer, owner, "_buffer")
    learn(&of_connection.fd, owner, "fd")
    learn(&of_connection.full, owner, "_full")
    learn(&of_connection.head_timeout, owner, "_head_timeout")
    learn(&of_connection.listener, owner, "_listener")
    learn(&of_connection.method, owner, "_method")
    learn(&of_connection.paused, owner, "paused")
    learn(&of_connection.phase, owner, "phase")
    learn(&of_connection.pool, owner, "pool")
    learn(&of_connection.reusable, owner, "reusable")
    learn(&of_connection.special, owner, "_special")
    learn(&of_connection.target, owner, "target")
    learn(&of_connection.tls, owner, "_tls")
    learn(&of_connection.transport, owner, "transport")
    learn(&of_connection.unasked_body, owner, "_unasked_body")
    learn(&of_connection.wheel, owner, "_wheel")
    learn(&of_connection.write_paused, owner, "write_paused")
    _learn_pooled(&of_http1, owner)
    replace(owner, get_buffer, buffer_updated, send_request, release, _answered_whole)
    _connection_class = of_connection.phase.reads


cdef int _learn_pooled(OfPooled* pooled, type owner) except -1:
    learn(&pooled.capacity, owner, "capacity")
    learn(&pooled.closed, owner, "closed")
    learn(&pooled.idle_since, owner, "idle_since")
    learn(&pooled.streams, owner, "streams")
    learn(&pooled.target, owner, "target")
    learn(&pooled.uses, owner, "uses")
    return 0


cdef inline const OfPooled* _pooled(connection) noexcept:
    return &of_http2 if type_of(connection) is of_http2.closed.reads else &of_http1


def learn_http2(type owner not None):
    """Learn where the other class of connections in a pool keeps its attributes."""
    _learn_pooled(&of_http2, owner)


def adopt_pool(type owner not None):
    """Replace the methods of `Pool`."""
    global _pool_class
    learn(&of_pool.clock, owner, "_clock")
    learn(&of_pool.contended, owner, "_contended")
    learn(&of_pool.idle_count, owner, "idle_count")
    learn(&of_pool.idle_timeout, owner, "_idle_timeout")
    learn(&of_pool.leaving, owner, "_leaving")
    learn(&of_pool.max_idle, owner, "_max_idle")
    learn(&of_pool.max_uses, owner, "_max_uses")
    learn(&of_pool.stopped, owner, "_stopped")
    learn(&of_pool.sweeper, owner, "_sweeper")
    learn(&of_pool.waiters, owner, "_waiters")
    replace(owner, try_lend, _lend_shared, _lend_one, give_back)
    _pool_class = of_pool.waiters.reads


# --- the pool ---


cdef object _lend(pool, target, double idle_at_most):
    cdef double now, idle_for
    cdef const OfPooled* of
    if read(&of_target.shared, target):
        shared = _lend_any_shared(pool, target)
        if shared is not None:
            return shared
    idle = read(&of_target.idle, target)
    if not idle:
        return None
    now = _now_of(pool)
    while idle:
        connection = idle.popitem()[0]  # the most recently used: the others can expire
        of = _pooled(connection)
        write(&of_pool.idle_count, pool, read(&of_pool.idle_count, pool) - 1)
        idle_for = now - <double>read(&of.idle_since, connection)
        if read(&of.closed, connection) or idle_for >= <double>read(&of_pool.idle_timeout, pool):
            pool._drop(connection)
        elif idle_for > idle_at_most and read(&of.capacity, connection) == 1:  # HTTP/2 reports unprocessed requests
            idle[connection] = None  # other requests may use it, and older ones were idle for longer
            write(&of_pool.idle_count, pool, read(&of_pool.idle_count, pool) + 1)
            break
        else:
            uses = read(&of.uses, connection) + 1
            write(&of.uses, connection, uses)
            write(&of.streams, connection, ONE)
            if (
                read(&of_target.capacity, target) > 1
                and read(&of.capacity, connection) > 1
                and uses < read(&of_pool.max_uses, pool)
            ):
                read(&of_target.shared, target)[connection] = None
            if type_of(connection) is _connection_class:
                return connection
            return connection.open_stream()
    return None


cdef object _lend_any_shared(pool, target):
    while True:
        shared = read(&of_target.shared, target)
        if not shared:
            return None
        connection = next(iter(shared))
        if not read(&_pooled(connection).closed, connection):
            return _lend_one_more(pool, connection)
        del shared[connection]


cdef object _lend_one_more(pool, connection):
    cdef const OfPooled* of = _pooled(connection)
    uses, streams = read(&of.uses, connection) + 1, read(&of.streams, connection) + 1
    write(&of.uses, connection, uses)
    write(&of.streams, connection, streams)
    shared = read(&of_target.shared, read(&of.target, connection))
    if streams < read(&of.capacity, connection) and uses < read(&of_pool.max_uses, pool):
        shared[connection] = None
    else:
        shared.pop(connection, None)
    return connection.open_stream()


cdef int _give_back(pool, connection) except -1:
    cdef const OfPooled* of = _pooled(connection)
    streams = read(&of.streams, connection) - 1
    write(&of.streams, connection, streams)
    leaving = read(&of_pool.leaving, pool)
    if (
        read(&of.closed, connection)
        or read(&of.uses, connection) >= read(&of_pool.max_uses, pool)
        or read(&of_pool.stopped, pool)
        or (leaving and connection in leaving)
    ):
        pool._retire(connection)
        return 0
    if (read(&of_pool.waiters, pool) or read(&of_pool.contended, pool)) and pool._hand_on(connection):
        return 0
    target = read(&of.target, connection)
    shared = read(&of_target.shared, target)
    if streams:
        if streams < read(&of.capacity, connection):  # the target may have lowered its limit
            shared[connection] = None
        return 0
    if shared:
        shared.pop(connection, None)
    write(&of.idle_since, connection, _now_of(pool))
    read(&of_target.idle, target)[connection] = None
    count = read(&of_pool.idle_count, pool) + 1
    write(&of_pool.idle_count, pool, count)
    if count > read(&of_pool.max_idle, pool):
        pool._drop(pool._longest_idle())
    if read(&of_pool.sweeper, pool) is None and read(&of_pool.idle_count, pool):
        pool._sweep_later()
    return 0


cdef inline object _now_of(pool):
    clock = read(&of_pool.clock, pool)
    return (<Wheel>clock).now if isinstance(clock, Wheel) else clock.now


def try_lend(self, target, double idle_at_most=INF):
    """Compiled `Pool.try_lend`."""
    return _lend(self, target, idle_at_most)


def _lend_shared(self, target):
    """Compiled `Pool._lend_shared`."""
    return _lend_any_shared(self, target)


def _lend_one(self, connection):
    """Compiled `Pool._lend_one`."""
    return _lend_one_more(self, connection)


def give_back(self, connection):
    """Compiled `Pool.give_back`."""
    _give_back(self, connection)


cdef int give_back_to(pool, connection) except -1:
    if type_of(pool) is _pool_class:
        return _give_back(pool, connection)
    pool.give_back(connection)
    return 0


cdef object lend_from(pool, target, double idle_at_most):
    if type_of(pool) is _pool_class:
        return _lend(pool, target, idle_at_most)
    return pool.try_lend(target, idle_at_most)


# --- the connection ---


cdef int _send_request(connection, listener, bytes request, method) except -1:
    cdef Wheel wheel
    write(&of_connection.listener, connection, listener)
    write(&of_connection.phase, connection, AWAITING)
    write(&of_connection.method, connection, method)
    wheel = read(&of_connection.wheel, connection)
    wheel.watch(connection, wheel.now + <double>read(&of_connection.head_timeout, connection))
    send_message(
        read(&of_connection.fd, connection), request, read(&of_connection.transport, connection),
        read(&of_connection.write_paused, connection),
    )
    return 0


cdef int _answered(connection, head) except -1:
    listener = read(&of_connection.listener, connection)
    if type(head) is Http1ResponseHead:
        minor, close = (<Http1ResponseHead>head).minor, (<Http1ResponseHead>head).close
    else:
        minor, close = head.minor, head.close
    write(&of_target.minor, read(&of_connection.target, connection), minor)
    write(&of_connection.reusable, connection, not (close or read(&of_connection.unasked_body, connection)))
    if (
        read(&of_connection.special, connection)
        or read(&of_connection.full, connection)
        or read(&of_connection.tls, connection) is not None
        or read(&of_connection.paused, connection)
    ):
        connection._finish()
    else:
        write(&of_connection.phase, connection, IDLE)
        write(&of_connection.listener, connection, None)
        (<Timed?>connection).deadline = INFINITY
    listener.on_head(head, None, True)
    return 0


cdef int _release(connection) except -1:
    pool = read(&of_connection.pool, connection)
    if (
        read(&of_connection.phase, connection) is IDLE
        and read(&of_connection.reusable, connection)
        and not read(&of_connection.write_paused, connection)
    ):
        return give_back_to(pool, connection)
    else:
        connection.close()
        pool.discard(connection)
    return 0


def get_buffer(self, sizehint):
    """Compiled `UpstreamConnection.get_buffer`."""
    return read(&of_connection.buffer, self)


def buffer_updated(self, nbytes):
    """Compiled `UpstreamConnection.buffer_updated`."""
    if read(&of_connection.phase, self) is not AWAITING or read(&of_connection.begun, self):
        _buffer_updated(self, nbytes)
        return
    buffer = read(&of_connection.buffer, self)
    answer = take_answer(buffer, nbytes, read(&of_connection.method, self))
    if isinstance(answer, bytes):
        write(&of_connection.full, self, nbytes == len(buffer))
        self._read_head(answer)
    else:
        write(&of_connection.full, self, False)
        _answered(self, answer)


def send_request(self, listener, bytes request, method):
    """Compiled `UpstreamConnection.send_request`."""
    _send_request(self, listener, request, method)


def _answered_whole(self, head):
    """Compiled `UpstreamConnection._answered_whole`."""
    _answered(self, head)


def release(self):
    """Compiled `UpstreamConnection.release`."""
    _release(self)


cdef int send_on(stream, listener, bytes request, method) except -1:
    if type_of(stream) is _connection_class:
        return _send_request(stream, listener, request, method)
    stream.send_request(listener, request, method)
    return 0


cdef int release_stream(stream) except -1:
    if type_of(stream) is _connection_class:
        return _release(stream)
    stream.release()
    return 0
