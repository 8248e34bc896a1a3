# The types of `subrequest.py`.

from fastgw.eventloop.timer_wheel cimport Wheel
from fastgw.exchange.body_relay cimport Relay, whole_body
from fastgw.exchange.chain cimport Chain
from fastgw.exchange.exchange cimport CallSide, ClientSide, Exchange, begin_exchange
from fastgw.exchange.reply cimport Response
from fastgw.exchange.upstream_chains cimport UpstreamChains
from fastgw.forwarded_headers cimport Peer
from fastgw.http.http1.made_request cimport framing_line
from fastgw.http.http1.parser cimport make_request
from fastgw.http.messages cimport RequestHead
from fastgw.upstream.forwarding.forward_action cimport Forward
from fastgw.upstream.upstream cimport Upstream

cdef double inf
cdef object ENDED

cdef class Subrequest


cdef class WholeListener:
    cpdef on_whole(self, head, bytes body)


cdef class Subrequests:
    cdef public set active
    cdef public int count
    cdef public int _earlier
    cdef public list _ended

    cpdef end(self, Subrequest sent, str upstream, str target, outcome, double seconds)


cdef class Subrequest(CallSide):
    cdef public Forward _action
    cdef public object _body
    cdef public double _due_at
    cdef public Relay _borrowed
    cdef public object _listener
    cdef public bint _paused
    cdef public Subrequests _siblings
    cdef public double _timeout
    cdef public object _waiting
    cdef public Exchange exchange
    cdef public object on_abandoned
    cdef public int status
    cdef public bint takes_replies
    cdef object __weakref__

    cdef _begin(self, listener, ClientSide asker)
    cpdef send(self, Exchange exchange, Forward action, double timeout, Subrequests siblings=*)
    cpdef cancel(self)
    cdef _run_outcome(self, outcome)
    cdef _end(self, outcome, status)
    cdef _fail(self, fault)
    cdef _notify(self, listen, what)
    cdef _raised(self)
    cpdef answer(self, Response response, bytes payload, bint ended)
    cpdef feed(self, bytes payload)
    cpdef end(self, tuple trailers)


cpdef send_lines(
    Exchange parent,
    Upstream upstream,
    Forward forward,
    listener,
    bytes method,
    bytes target,
    bytes lines,
    Relay body,
    double timeout,
    int most,
)
