# cython: language_level=3
"""Compiled methods of `tls_transport.TlsTransport`: reading and writing of data on an open connection.

Handshakes, ends and errors are left to methods of the reference. Attributes of transports are used through their slots
(`_slots.read`), learned for each subclass by its first transport.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from fastgw._slots cimport PyTypeObject, Slot, learn, read, type_of, write as put
from fastgw.eventloop._socket_send cimport send_message

import ssl

from fastgw.compiled import replace
from fastgw.eventloop import tls_transport as reference
from fastgw.eventloop.worker_loop import FRAMING_COST, TlsMemory
from fastgw.net.client_hello import LONGEST_RECORD

cdef struct OfTransport:
    PyTypeObject* owner
    Slot above
    Slot below
    Slot below_paused
    Slot buffer
    Slot end_due
    Slot ended
    Slot fd
    Slot framing
    Slot got
    Slot kept
    Slot memory
    Slot own_answers
    Slot paused
    Slot read
    Slot read_since_rest
    Slot stage
    Slot tls
    Slot unread
    Slot worker_loop
    Slot write

cdef struct OfMemory:
    Slot buffer
    Slot incoming
    Slot outgoing
    Slot small_buffer

cdef enum:
    SUBCLASSES = 4

cdef OfTransport _learned[SUBCLASSES]
cdef int _count = 0
cdef OfMemory of_memory

cdef dict _reference = reference.__dict__
cdef object OPEN = reference.OPEN
cdef object _buffer_updated, _write  # methods of the reference
cdef object _WANT_READ = ssl.SSLWantReadError
cdef object _ZERO_RETURN = ssl.SSLZeroReturnError
cdef object _SSL_ERROR = ssl.SSLError
cdef bytes _NO_BYTES = b""
cdef Py_ssize_t _LONGEST_RECORD = LONGEST_RECORD
cdef Py_ssize_t _FRAMING_COST = FRAMING_COST

learn(&of_memory.buffer, TlsMemory, "buffer")
learn(&of_memory.incoming, TlsMemory, "incoming")
learn(&of_memory.outgoing, TlsMemory, "outgoing")
learn(&of_memory.small_buffer, TlsMemory, "small_buffer")


def adopt(type owner not None):
    """Replace methods of `TlsTransport`."""
    global _buffer_updated, _write
    _buffer_updated, _write = owner.buffer_updated, owner.write
    replace(owner, get_buffer, buffer_updated, _decipher_counted, write)


cdef OfTransport* _of(transport) except NULL:
    """Return the slots of a transport's class."""
    cdef int number
    for number in range(_count):
        if _learned[number].owner is type_of(transport):
            return &_learned[number]
    return _learn(type(transport))


cdef OfTransport* _learn(type owner) except NULL:
    global _count
    cdef int number = min(_count, SUBCLASSES - 1)  # more classes than that take turns in the last place
    cdef OfTransport* of = &_learned[number]
    of.owner = NULL
    learn(&of.above, owner, "_above")
    learn(&of.below, owner, "_below")
    learn(&of.below_paused, owner, "_below_paused")
    learn(&of.buffer, owner, "_buffer")
    learn(&of.end_due, owner, "_end_due")
    learn(&of.ended, owner, "_ended")
    learn(&of.fd, owner, "_fd")
    learn(&of.framing, owner, "_framing")
    learn(&of.got, owner, "_got")
    learn(&of.kept, owner, "_kept")
    learn(&of.memory, owner, "memory")
    learn(&of.own_answers, owner, "_own_answers")
    learn(&of.paused, owner, "_paused")
    learn(&of.read, owner, "_read")
    learn(&of.read_since_rest, owner, "read_since_rest")
    learn(&of.stage, owner, "stage")
    learn(&of.tls, owner, "_tls")
    learn(&of.unread, owner, "_unread")
    learn(&of.worker_loop, owner, "worker_loop")
    learn(&of.write, owner, "_write")
    Py_INCREF(owner)
    of.owner = <PyTypeObject*>owner
    _count = number + 1
    return of


# --- received data ---


def get_buffer(self, sizehint):
    """Compiled `TlsTransport.get_buffer`."""
    return read(&_of(self).buffer, self)


def buffer_updated(self, nbytes):
    """Compiled `TlsTransport.buffer_updated`."""
    cdef OfTransport* of = _of(self)
    cdef Py_ssize_t size, before, got
    if read(&of.stage, self) is not OPEN:
        _buffer_updated(self, nbytes)
        return
    size, before = nbytes, read(&of.got, self)
    buffer = read(&of.buffer, self)
    _decipher_counted_on(of, self, buffer[:size], size)
    got = <Py_ssize_t>read(&of.got, self) - before
    memory = read(&of.memory, self)
    next_buffer = read(&of_memory.buffer if 2 * got >= size else &of_memory.small_buffer, memory)
    if next_buffer is not buffer:
        put(&of.buffer, self, next_buffer)


def _decipher_counted(self, sealed):
    """Compiled `TlsTransport._decipher_counted`."""
    _decipher_counted_on(_of(self), self, sealed, len(sealed))


cdef int _decipher_counted_on(OfTransport* of, transport, sealed, Py_ssize_t size) except -1:
    cdef Py_ssize_t before = read(&of.got, transport)
    cdef Py_ssize_t framing
    _decipher_on(of, transport, sealed)
    framing = <Py_ssize_t>read(&of.framing, transport) + size
    framing -= len(<bytes>read(&of.kept, transport)) + <Py_ssize_t>read(&of.got, transport) - before
    if framing > 0:
        read_since_rest = <Py_ssize_t>read(&of.read_since_rest, transport) + _FRAMING_COST * framing
        put(&of.read_since_rest, transport, read_since_rest)
        framing = 0
        if read_since_rest >= _reference["BODY_BYTES_PER_TURN"] and read(&of.stage, transport) is OPEN:
            read(&of.worker_loop, transport).rests.start_rest(transport, read(&of.below, transport))
    put(&of.framing, transport, framing)
    return 0


cdef int _decipher_on(OfTransport* of, transport, sealed) except -1:
    cdef Py_ssize_t size, count, got
    cdef bint ended
    memory = read(&of.memory, transport)
    incoming, outgoing = read(&of_memory.incoming, memory), read(&of_memory.outgoing, memory)
    above, read_into = read(&of.above, transport), read(&of.read, transport)
    while True:
        incoming.write(sealed)
        buffer = above.get_buffer(-1)
        size = len(buffer)
        count, ended, error = 0, False, None
        try:
            while count < size:
                got = read_into(size - count, memoryview(buffer)[count:] if count else buffer)
                count += got
                ended = not got
                if ended or not incoming.pending:
                    break
        except _WANT_READ:
            pass
        except _ZERO_RETURN:  # like an end after ours
            ended = True
        except _SSL_ERROR as broken:
            error = broken
        kept = incoming.read() if incoming.pending else _NO_BYTES
        put(&of.kept, transport, kept)
        unread = ended or len(<bytes>kept) != 0 or (count == size and read(&of.tls, transport).pending() > 0)
        put(&of.unread, transport, unread)
        put(&of.got, transport, <Py_ssize_t>read(&of.got, transport) + count)
        if error is not None:
            transport._flush()  # an alert
        elif outgoing.pending and not transport._answer_records():
            return 0
        if count:
            above.buffer_updated(count)
            if read(&of.stage, transport) is not OPEN:
                return 0
        if error is not None:
            transport._break(error)
            return 0
        if read(&of.paused, transport) or not read(&of.unread, transport):
            break
        sealed = kept
        put(&of.kept, transport, _NO_BYTES)
        if ended:
            put(&of.unread, transport, False)
            transport._end_of_peer(above)
            break
    if read(&of.end_due, transport) and not read(&of.tls, transport).pending():
        transport._say_end()
    return 0


# --- data to send ---


def write(self, message):
    """Compiled `TlsTransport.write`."""
    cdef OfTransport* of = _of(self)
    if type(message) is not bytes or PyBytes_GET_SIZE(message) > _LONGEST_RECORD:
        _write(self, message)
        return
    if read(&of.stage, self) is not OPEN:
        return
    memory = read(&of.memory, self)
    try:
        read(&of.write, self)(message)
    except _SSL_ERROR as error:
        read(&of_memory.outgoing, memory).read()
        read(&of.worker_loop, self).loop.call_soon(self._break, error)
        return
    sealed = read(&of_memory.outgoing, memory).read()
    if sealed and not read(&of.ended, self):
        send_message(read(&of.fd, self), sealed, read(&of.below, self), read(&of.below_paused, self))

