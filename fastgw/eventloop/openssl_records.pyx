# cython: language_level=3
"""See `openssl_records.pyi`."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyTypeObject

from fastgw.net._openssl cimport dlsym, library_of, session_of

import ssl

cdef extern from *:
    """
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

cdef struct Openssl:
    ReadFunction read
    WriteFunction write
    ErrorFunction error
    PendingFunction pending
    BioReadFunction bio_read
    BioWriteFunction bio_write
    BioPendingFunction bio_pending

cdef enum:
    ERROR_WANT_READ = 2  # of `SSL_get_error`
    ERROR_ZERO_RETURN = 6
    SEALED = 16_384 + 2_048  # the longest record with what encryption adds, and key updates before it

cdef Openssl openssl
cdef bint _direct = False
cdef PyTypeObject* _session_class
cdef PyTypeObject* _memory_class
cdef char _sealed[SEALED]
cdef object _WANT_READ = ssl.SSLWantReadError
cdef object _ZERO_RETURN = ssl.SSLZeroReturnError
cdef object _SSL_ERROR = ssl.SSLError


cdef extern from "Python.h":
    PyTypeObject* type_of "Py_TYPE"(object instance)


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


cpdef tuple decrypt(session, incoming, sealed, buffer):
    cdef Py_ssize_t size = -1, count = 0
    cdef bint ended = False
    if _direct and type_of(session) is _session_class and type_of(incoming) is _memory_class:
        _put_in(incoming, sealed)
        size = _read_directly(session, incoming, buffer, &count, &ended)
    else:
        incoming.write(sealed)
    # Not done, or an error, which `ssl` explains.
    error = None if size >= 0 else _read_by_ssl(session, incoming, buffer, &count, &ended)
    return count, ended, error


cpdef Py_ssize_t pending_in(memory) except -1:
    if _direct and type_of(memory) is _memory_class:
        return openssl.bio_pending(_bio_of(memory))
    return memory.pending


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


cpdef bytes encrypt(session, outgoing, bytes message):
    cdef size_t taken = 0
    cdef int length
    if (
        message is None or not _direct or type_of(session) is not _session_class
        or type_of(outgoing) is not _memory_class
        or not openssl.write(session_of(session), PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), &taken)
    ):
        return None
    length = openssl.bio_read(_bio_of(outgoing), _sealed, SEALED)
    return PyBytes_FromStringAndSize(_sealed, max(0, length))
