# The types of `http1_connection.py`.

from fastgw.http.http1.body cimport BodyReader
from fastgw.http.http1.parser cimport take_answer
from fastgw.http.messages cimport ResponseHead
from fastgw.upstream.connections.pooled_connection cimport HttpConnection
from fastgw.upstream.connections.stream cimport ResponseListener

cdef double inf
cdef object AWAITING, CLOSED, IDLE, RECEIVING, TUNNEL


cdef class UpstreamConnection(HttpConnection):
    cdef public BodyReader reader
    cdef public bint reusable
    cdef public Py_ssize_t _unsent
    cdef public double _accepted_at
    cdef public int _body_goes_to
    cdef public bytes _begun
    cdef public Py_ssize_t _searched
    cdef public object _repair
    cdef public bint _full

    cpdef buffer_updated(self, Py_ssize_t nbytes)
    cpdef bint eof_received(self) except -1
    cpdef pause_writing(self)
    cpdef resume_writing(self)
    cdef _read_body(self, bytes chunk)
    cdef _begin_body(self, ResponseHead head, bytes received, Py_ssize_t end)
    cdef _begin_counting(self, bytes chunk, bytes payload, long long assured)
    cdef _end_body(self)
    cpdef close(self)
    cdef _read_head(self, bytes received)
    cdef _answered_whole(self, ResponseHead head)
    cdef _finish(self)
