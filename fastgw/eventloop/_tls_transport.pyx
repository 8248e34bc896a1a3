# cython: language_level=3
"""Compiled methods of `tls_transport.TlsTransport`: reading and writing of data on an open connection.

Handshakes, ends and errors are left to methods of the reference, and to the module `ssl`. Records are decrypted and
encrypted by the functions of OpenSSL directly, of the library that `ssl` uses, if its objects are as this module knows
them (`_find_openssl`); otherwise through `ssl`, as in the reference. Attributes of transports are used through their slots
(`_slots.read`), learned for each subclass by its first transport.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF

from fastgw._slots cimport PyTypeObject, Slot, learn, read, type_of, write as put
from fastgw.net._openssl cimport dlsym, library_of, session_of


cdef extern from *:
    """
    #include <sys/socket.h>
    typedef struct { PyObject_HEAD void *bio; } MemoryObject;
    typedef int (*ReadFunction)(void *, void *, size_t, size_t *);
    typedef int (*WriteFunction)(void *, const void *, size_t, size_t *);
    typedef int (*ErrorFunction)(const void *, int);
    typedef int (*PendingFunction)(const void *);
    typedef void *(*BioFunction)(const void *);
    typedef int (*BioReadFunction)(void *, void *, int);
    typedef int (*BioWriteFunction)(void *, const void *, int);
    typedef size_t (*BioPendingFunction)(void *);
    """
    ctypedef struct MemoryObject:
        void* bio
    ctypedef int (*ReadFunction)(void*, void*, size_t, size_t*) noexcept
    ctypedef int (*WriteFunction)(void*, const void*, size_t, size_t*) noexcept
    ctypedef int (*ErrorFunction)(const void*, int) noexcept
    ctypedef int (*PendingFunction)(const void*) noexcept
    ctypedef void* (*BioFunction)(const void*) noexcept
    ctypedef int (*BioReadFunction)(void*, void*, int) noexcept
    ctypedef int (*BioWriteFunction)(void*, const void*, int) noexcept
    ctypedef size_t (*BioPendingFunction)(void*) noexcept
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    ssize_t send_on "send"(int fd, const void* data, size_t length, int flags)

cdef struct Openssl:
    ReadFunction read
    WriteFunction write
    ErrorFunction error
    PendingFunction pending
    BioReadFunction bio_read
    BioWriteFunction bio_write
    BioPendingFunction bio_pending

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
    Slot paused
    Slot read_since_rest
    Slot session
    Slot stage
    Slot unread
    Slot worker_loop

cdef struct OfMemory:
    Slot buffer
    Slot incoming
    Slot outgoing
    Slot small_buffer

cdef enum:
    SUBCLASSES = 4
    ERROR_WANT_READ = 2  # of `SSL_get_error`
    ERROR_ZERO_RETURN = 6
    SEALED = 16_384 + 2_048  # the longest record with what encryption adds, and key updates before it

cdef Openssl openssl
cdef bint _direct = False
cdef PyTypeObject* _session_class
cdef PyTypeObject* _memory_class
cdef char _sealed[SEALED]

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


cdef int _find_openssl() except -1:
    """Look up the functions of the library that `ssl` uses, and verify that they find the memory of a new object.

    PERF: a request takes 4,100 to 5,100 instructions less than through `ssl` (CPython 3.11, micro/tls).
    """
    global _direct, _session_class, _memory_class
    cdef void* library
    cdef BioFunction read_bio, write_bio
    cdef void* session
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    told = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    told.check_hostname = False
    made = told.wrap_bio(incoming, outgoing)._sslobj
    library = library_of(made)
    if library is NULL:
        return 0
    openssl.read = <ReadFunction>dlsym(library, b"SSL_read_ex")
    openssl.write = <WriteFunction>dlsym(library, b"SSL_write_ex")
    openssl.error = <ErrorFunction>dlsym(library, b"SSL_get_error")
    openssl.pending = <PendingFunction>dlsym(library, b"SSL_pending")
    openssl.bio_read = <BioReadFunction>dlsym(library, b"BIO_read")
    openssl.bio_write = <BioWriteFunction>dlsym(library, b"BIO_write")
    openssl.bio_pending = <BioPendingFunction>dlsym(library, b"BIO_ctrl_pending")
    read_bio = <BioFunction>dlsym(library, b"SSL_get_rbio")
    write_bio = <BioFunction>dlsym(library, b"SSL_get_wbio")
    if (
        openssl.read is NULL or openssl.write is NULL or openssl.error is NULL or openssl.pending is NULL
        or openssl.bio_read is NULL or openssl.bio_write is NULL or openssl.bio_pending is NULL
        or read_bio is NULL or write_bio is NULL
    ):
        return 0
    session = session_of(made)
    if session is NULL or read_bio(session) != _bio_of(incoming) or write_bio(session) != _bio_of(outgoing):
        return 0
    _session_class, _memory_class = type_of(made), type_of(incoming)  # which live as long as `_ssl`
    _direct = True
    return 0


cdef inline void* _bio_of(memory) noexcept:
    return (<MemoryObject*><void*>memory).bio


_find_openssl()


def calls_openssl():
    """Whether the functions of OpenSSL are called directly."""
    return _direct


def go_through_ssl():
    """Call none of OpenSSL's functions directly, for the rest of this process; for tests."""
    global _direct
    _direct = False


def call_openssl():
    """Undo `go_through_ssl`."""
    _find_openssl()


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
    learn(&of.paused, owner, "_paused")
    learn(&of.read_since_rest, owner, "read_since_rest")
    learn(&of.session, owner, "_session")
    learn(&of.stage, owner, "stage")
    learn(&of.unread, owner, "_unread")
    learn(&of.worker_loop, owner, "worker_loop")
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
    cdef Py_ssize_t size, count
    cdef bint ended, left, direct
    memory = read(&of.memory, transport)
    incoming, outgoing = read(&of_memory.incoming, memory), read(&of_memory.outgoing, memory)
    above, session = read(&of.above, transport), read(&of.session, transport)
    direct = (
        _direct and type_of(session) is _session_class and type_of(incoming) is _memory_class
        and type_of(outgoing) is _memory_class
    )
    while True:
        count, ended, error = 0, False, None
        if direct:
            _put_in(incoming, sealed)
            buffer = above.get_buffer(-1)
            size = _read_directly(session, incoming, buffer, &count, &ended)
        else:
            incoming.write(sealed)
            buffer = above.get_buffer(-1)
            size = -1
        if size < 0:  # not done, or an error, which `ssl` explains
            size = len(buffer)
            error = _read_by_ssl(session, incoming, buffer, &count, &ended)
        left = openssl.bio_pending(_bio_of(incoming)) != 0 if direct else incoming.pending
        kept = incoming.read() if left else _NO_BYTES
        put(&of.kept, transport, kept)
        put(&of.unread, transport, ended or left or (count == size and session.pending() > 0))
        put(&of.got, transport, <Py_ssize_t>read(&of.got, transport) + count)
        if error is not None:
            transport._flush()  # an alert
        elif (
            openssl.bio_pending(_bio_of(outgoing)) if direct else outgoing.pending
        ) and not transport._answer_records():
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
    if read(&of.end_due, transport) and not session.pending():
        transport._say_end()
    return 0


cdef int _put_in(incoming, sealed) except -1:
    """Put received bytes into OpenSSL's memory."""
    cdef Py_buffer view
    cdef int written
    PyObject_GetBuffer(sealed, &view, PyBUF_SIMPLE)
    written = openssl.bio_write(_bio_of(incoming), view.buf, <int>view.len) if view.len else 0
    PyBuffer_Release(&view)
    if written < 0:
        raise MemoryError
    return 0


cdef Py_ssize_t _read_directly(session, incoming, buffer, Py_ssize_t* count, bint* ended) except -2:
    """Decrypt into a buffer; return its size. -1: there was an error, which another read by `ssl` reports: OpenSSL
    keeps it.
    """
    cdef Py_buffer view
    cdef Py_ssize_t size
    cdef size_t got = 0
    cdef int error = 0
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    size = view.len
    while count[0] < size:
        if not openssl.read(session_of(session), <char*>view.buf + count[0], size - count[0], &got):
            error = openssl.error(session_of(session), 0)
            break
        count[0] += got
        if not openssl.bio_pending(_bio_of(incoming)):
            break
    PyBuffer_Release(&view)
    if error == ERROR_ZERO_RETURN:
        ended[0] = True
    elif error and error != ERROR_WANT_READ:
        return -1
    return size


cdef object _read_by_ssl(session, incoming, buffer, Py_ssize_t* count, bint* ended):
    """Decrypt into a buffer, which has some bytes already; return the error, if there was one."""
    cdef Py_ssize_t size = len(buffer), got
    try:
        while count[0] < size:
            got = session.read(size - count[0], memoryview(buffer)[count[0]:] if count[0] else buffer)
            count[0] += got
            ended[0] = not got
            if ended[0] or not incoming.pending:
                break
    except _WANT_READ:
        pass
    except _ZERO_RETURN:  # like an end after ours
        ended[0] = True
    except _SSL_ERROR as broken:
        return broken
    return None


# --- data to send ---


def write(self, message):
    """Compiled `TlsTransport.write`."""
    cdef OfTransport* of = _of(self)
    cdef bytes sealed
    cdef size_t taken = 0
    cdef int length
    cdef Py_ssize_t sent = 0
    cdef int fd
    if type(message) is not bytes or not 0 < PyBytes_GET_SIZE(message) <= _LONGEST_RECORD:
        _write(self, message)
        return
    if read(&of.stage, self) is not OPEN:
        return
    session, outgoing = read(&of.session, self), read(&of_memory.outgoing, read(&of.memory, self))
    if (
        not _direct or type_of(session) is not _session_class or type_of(outgoing) is not _memory_class
        or not openssl.write(session_of(session), PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), &taken)
    ):
        _write(self, message)  # a failed write fails again, and `ssl` says why
        return
    length = openssl.bio_read(_bio_of(outgoing), _sealed, SEALED)
    if length <= 0 or read(&of.ended, self):
        return
    fd, waiting = read(&of.fd, self), read(&of.below_paused, self)
    if not waiting and fd >= 0:
        sent = send_on(fd, _sealed, length, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent == length and not openssl.bio_pending(_bio_of(outgoing)):
            return
        sent = max(0, sent)
    sealed = PyBytes_FromStringAndSize(_sealed + sent, length - sent)
    if openssl.bio_pending(_bio_of(outgoing)):  # other output of OpenSSL was in front
        sealed += outgoing.read()
    if sealed:
        read(&of.below, self).write(sealed)
