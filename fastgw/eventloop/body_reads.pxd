# The types of `body_reads.py`.

cimport cython

from fastgw.eventloop.socket_transport cimport SocketTransport, StreamProtocol

cdef Py_ssize_t _READ_BYTES, _BODY_READ_BYTES, _PER_TURN, _FRAMING_COST


cdef class BodyReading(StreamProtocol):
    cdef public BodyReads reads
    cdef public SocketTransport transport
    cdef public bint resting
    cdef public Py_ssize_t read_since_rest


@cython.final
cdef class BodyReads:
    cdef readonly object rests
    cdef readonly object read_buffer
    cdef readonly object medium_buffer
    cdef object _wide_buffer
    cdef object _small_buffer
    cdef list _body_buffers

    cpdef buffer_for(self, bytes chunk, bytes payload, long long assured, int goes_to)
    cpdef count(self, BodyReading connection, Py_ssize_t payload, Py_ssize_t framing)
