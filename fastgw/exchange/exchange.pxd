# The types of `exchange.py`.

from fastgw.eventloop.timer_wheel cimport Timed
from fastgw.exchange.body_relay cimport Relay
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.reply cimport Response
from fastgw.exchange.request_ids cimport RequestIds
from fastgw.forwarded_headers cimport Peer
from fastgw.http.messages cimport RequestHead

cdef Py_ssize_t MAX_KEPT

cdef class Exchange


cdef class ClientSide(Timed):
    cdef public int body_goes_to

    cpdef answer(self, Response response, bytes payload, bint ended)
    cpdef feed(self, bytes payload)
    cpdef end(self, tuple trailers)


cdef class CallSide(ClientSide):
    cdef public ClientSide asker


cdef class Exchange:
    cdef public object answered_by
    cdef public object begun_at
    cdef public object cache_result
    cdef public object cache_status
    cdef public Chain chain
    cdef public object claims
    cdef public ClientSide client
    cdef public object client_ip
    cdef public object consumer
    cdef public object fault
    cdef public object for_others
    cdef public object grpc_status
    cdef public RequestHead head
    cdef public object id_shown
    cdef public bint is_authenticated
    cdef public object limits
    cdef public object listener
    cdef public object method
    cdef public object params
    cdef public object path
    cdef public Peer peer
    cdef public object query_sent
    cdef public bint renewed
    cdef public bint renewed_earlier
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
    cdef public bint sends_client_authorization
    cdef public bint sent
    cdef public object service
    cdef public object shadowed
    cdef public object shadows
    cdef public object state
    cdef public object subrequests
    cdef public object taker
    cdef public object target
    cdef public object timeline
    cdef public object trace
    cdef public object tunnel
    cdef public object upstream
    cdef public object upstream_s
    cdef public object why
    cdef object __weakref__

    cdef _begin(self, RequestHead head, ClientSide client, listener, Peer peer, Chain chain)
    cpdef respond(self, Response response, bytes payload, bint ended, bint is_fault=*)
    cdef _add_trace_line(self, Response response)
    cpdef bint pass_response_steps(self, Response response, event=*) except -1
    cpdef bint is_still_there(self) except -1
    cpdef list current_values(self, bytes name)
    cpdef finish(self)
    cpdef keep_no_body(self)
    cpdef identify(self, RequestIds ids)


cpdef Exchange begin_exchange(RequestHead head, ClientSide client, listener, Peer peer, Chain chain)
