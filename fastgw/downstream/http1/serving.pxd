from fastgw.exchange.chain cimport Chain
from fastgw.http.http1.reserved_fields cimport ReservedFields


cdef class ServingWorker:
    cdef public object worker_loop
    cdef public object date_line
    cdef public object finish
    cdef public object idle
    cdef public object tracer
    cdef public bint draining
    cdef public long long drained
    cdef public double keepalive
    cdef public Py_ssize_t header_bytes
    cdef public int header_count
    cdef public double body_bytes
    cdef public double head_timeout
    cdef public double body_idle
    cdef public double body_rate


cdef class ServingListener:
    cdef public bint closing
    cdef public Chain early
    cdef public ReservedFields reserved
    cdef public object router
    cdef public object trusts
