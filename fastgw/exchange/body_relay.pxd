# The types of `body_relay.py`.

cdef class Relay:
    cdef public object _head_bytes
    cdef public object _most_head
    cdef public object _no_room
    cdef public object _stages
    cdef public object _timed_bytes
    cdef public object _wait_until
    cdef public object _when_head
    cdef public object _when_whole
    cdef public object bytes
    cdef public object ended
    cdef public object is_collected
    cdef public object kept
    cdef public object length
    cdef public object most_kept
    cdef public object paused
    cdef public object sent_bytes
    cdef public object sink
    cdef public object source
    cdef public object trailers
    cdef object __weakref__

    cpdef bytes attach(self, sink)
    cpdef keep_no_more(self)
