# The types of `exchange.py`.

from fastgw.exchange.chain cimport Chain

cdef class Exchange:
    cdef public object answered_by
    cdef public object begun_at
    cdef public object cache_result
    cdef public object cache_status
    cdef public object chain
    cdef public object claims
    cdef public object client
    cdef public object client_ip
    cdef public object consumer
    cdef public object fault
    cdef public object for_others
    cdef public object grpc_status
    cdef public object head
    cdef public object id_shown
    cdef public object is_authenticated
    cdef public object is_fast
    cdef public object limits
    cdef public object listener
    cdef public object method
    cdef public object params
    cdef public object path
    cdef public object peer
    cdef public object query_sent
    cdef public object renewed
    cdef public object renewed_earlier
    cdef public object request_added
    cdef public object request_body
    cdef public object request_bytes
    cdef public object request_dropped
    cdef public object request_id
    cdef public object reset_code
    cdef public object response
    cdef public object response_bytes
    cdef public object response_sink
    cdef public object retries
    cdef public object route
    cdef public object scheme
    cdef public object sends_client_authorization
    cdef public object sent
    cdef public object service
    cdef public object shadowed
    cdef public object shadows
    cdef public object state
    cdef public object subrequests
    cdef public object target
    cdef public object timeline
    cdef public object trace
    cdef public object tunnel
    cdef public object upstream
    cdef public object upstream_s
    cdef public object why
    cdef object __weakref__

    cpdef respond(self, response, bytes payload, bint ended, bint is_fault=*)
    cpdef bint pass_response_steps(self, response, event=*) except -1
    cpdef finish(self)
