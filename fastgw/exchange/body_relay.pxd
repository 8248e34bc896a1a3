# The types of `body_relay.py`.

cdef double inf


cdef class Relay:
    cdef public object _head_bytes
    cdef public Py_ssize_t _most_head
    cdef public object _no_room
    cdef public object _stages
    cdef public Py_ssize_t _timed_bytes
    cdef public double _wait_until
    cdef public object _when_head
    cdef public object _when_whole
    cdef public long long bytes
    cdef public bint ended
    cdef public object kept
    cdef public object length
    cdef public Py_ssize_t most_kept
    cdef public bint paused
    cdef public Py_ssize_t sent_bytes
    cdef public object sink
    cdef public object source
    cdef public object trailers
    cdef object __weakref__

    cdef _begin(self, source, length)
    cdef _release_head(self)
    cdef _pass(self, bytes payload)
    cpdef double wait_until(self, double now, double idle, double rate)
    cpdef pause(self)
    cpdef resume(self)
    cpdef feed(self, bytes payload)
    cpdef last(self, bytes payload)
    cpdef end(self, tuple trailers=*)
    cpdef bytes attach(self, sink)
    cpdef keep_no_more(self)


cpdef Relay whole_body(bytes payload, length)
