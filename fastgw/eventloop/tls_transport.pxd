# The types of `tls_transport.py`.

from fastgw.eventloop.openssl_records cimport decrypt, encrypt, pending_in
from fastgw.eventloop.socket_transport cimport SocketTransport, StreamProtocol

cdef Py_ssize_t FRAMING_COST, LONGEST_RECORD


cdef class TlsTransport(SocketTransport):
    cdef public object _buffer
    cdef public bint _end_due
    cdef public bint _ended
    cdef public Py_ssize_t _framing
    cdef public Py_ssize_t _got
    cdef public bytes _kept
    cdef public Py_ssize_t _own_answers
    cdef public bint _paused
    cdef public bint _peer_ended
    cdef public object _session
    cdef public object _tls
    cdef public bint _unread
    cdef public bint is_truncated
    cdef public object memory
    cdef public Py_ssize_t read_since_rest
    cdef public bint resting
    cdef public object stage
    cdef public object worker_loop

    cdef object _space(self)
    cdef _take(self, Py_ssize_t count)
    cdef bint _take_end(self) except -1
    cpdef write(self, data)
    cpdef write_parts(self, bytes head, bytes body)
    cpdef write_eof(self)
    cpdef close(self)
    cpdef abort(self)
    cpdef bint is_closing(self) except -1
    cpdef pause_reading(self)
    cpdef resume_reading(self)
    cpdef bint has_unread(self) except -1
    cdef _decipher_counted(self, sealed)
    cdef _decipher(self, sealed)
    cpdef _send(self, bytes sealed)
